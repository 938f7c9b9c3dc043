"""A sweep whose trials are lanes, with the real Ray, Optuna and MLflow."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.integration import swathes
from tests.integration.test_launch import client_of, runs_of, study_of, wait_for

TRIALS = 40
LANES = """
defaults: [/model: mlp, /data: digits, /optim: adamw, /sampler: random, /pruner: asha, _self_]
model: {hidden: [32]}
epochs: 9
lanes: {slots: 8, compile: never}
cluster: {workers: 2}
sweep:
  name: lanes
  trials: 40
  space:
    optim: choice(sgd, momentum, adamw)
    optim.lr: tag(log, interval(1e-3, 0.1))
    regularization.dropout: interval(0.1, 0.5)
"""


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a small sweep of lanes has run."""
    folder = tmp_path_factory.mktemp("lanes")
    (folder / "lanes.yaml").write_text(LANES)
    swathes.succeed(folder, "launch", "lanes.yaml")
    return folder


def parent_of(folder: Path) -> Any:
    client = client_of(folder)
    experiment = client.get_experiment_by_name("lanes")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`swathe.kind` = 'sweep'")
    return parent


def check_both_records(folder: Path) -> Counter[TrialState]:
    """Check that every trial is told, once, and that MLflow says of it what Optuna says; return how they ended."""
    trials = study_of(folder, "lanes").get_trials()
    runs = runs_of(folder, "lanes")
    assert sorted(runs) == [trial.number for trial in trials] == list(range(TRIALS))
    client = client_of(folder)
    for trial in trials:
        run = runs[trial.number]
        assert run.info.status == "FINISHED"
        state = run.data.tags["swathe.state"].split()[0]
        assert state in {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}[trial.state]
        recorded = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "val_loss")]
        assert sorted(recorded) == sorted(trial.intermediate_values.items())
        steps = sorted(trial.intermediate_values)
        assert steps == list(range(1, len(steps) + 1))
        assert trial.state is not TrialState.COMPLETE or len(steps) == 9
    return Counter(trial.state for trial in trials)


def test_every_trial_is_told_and_recorded(lanes: Path) -> None:
    counts = check_both_records(lanes)
    assert counts[TrialState.COMPLETE] >= 1
    assert counts[TrialState.PRUNED] >= 10


def test_the_record_says_in_what_block_and_lane(lanes: Path) -> None:
    runs = runs_of(lanes, "lanes")
    for run in runs.values():
        geometry = json.loads(run.data.tags["swathe.geometry"])
        assert geometry["engine"] == "lanes"
        assert (geometry["lanes"], geometry["slots"], geometry["program"]) == ("4", "8", "eager")
        worker, _, lane = run.data.tags["swathe.lane"].partition("/")
        assert worker == run.data.tags["swathe.worker"]
        assert 0 <= int(lane) < 8
        assert run.data.tags["swathe.dataset"] == "digits"
    # More trials than lanes: some were given a second time.
    assert len({run.data.tags["swathe.lane"] for run in runs.values()}) <= 16


def test_how_full_the_lanes_were_is_recorded_and_shown(lanes: Path) -> None:
    metrics = parent_of(lanes).data.metrics
    assert 0.0 < metrics["occupancy_mean"] <= 1.0
    assert 0.0 < metrics["occupancy_until_tail"] <= 1.0
    shown = swathes.read(lanes, "status", "lanes")["lanes"]
    assert shown["occupancy_until_tail"] == metrics["occupancy_until_tail"]
    assert "full until the last tenth of the sweep" in swathes.succeed(lanes, "status", "lanes")


def some_trials(folder: Path) -> list[str]:
    """Return the options for two complete and two pruned trials."""
    trials = study_of(folder, "lanes").get_trials()
    some = [t.number for t in trials if t.state is TrialState.COMPLETE][:2]
    some += [t.number for t in trials if t.state is TrialState.PRUNED][-2:]
    return [word for number in some for word in ("--trial", str(number))]


def test_lanes_are_reproduced_bit_for_bit_and_alone_within_a_tolerance(lanes: Path) -> None:
    words = some_trials(lanes)
    results = swathes.read(lanes, "reproduce", "lanes", *words)
    assert len(results) == len(words) // 2 >= 3
    for result in results:
        assert result["identical"]
        again = client_of(lanes).get_run(result["new_run_id"])
        assert json.loads(again.data.tags["swathe.geometry"])["engine"] == "lanes"
    alone = swathes.read(lanes, "reproduce", "lanes", *words, "--solo")
    for result in alone:
        assert result["alone"]
        assert result["good"]
        assert result["largest_relative_of_losses"] < 1e-3
        again = client_of(lanes).get_run(result["new_run_id"])
        assert json.loads(again.data.tags["swathe.geometry"])["engine"] == "solo"
        assert again.data.tags["swathe.reproduced"] in ("close", "identical")
    said = swathes.succeed(lanes, "reproduce", "lanes", words[0], words[1], "--solo")
    assert "Within the tolerance" in said or "Identical" in said


def test_the_kept_model_is_the_best_trials(lanes: Path) -> None:
    best = swathes.read(lanes, "best", "lanes")["origin"]["trial"]
    facts = json.loads((lanes / ".swathe" / "sweeps" / "lanes" / "checkpoints" / "best.json").read_text())
    assert facts == {"trial": best}


@pytest.mark.slow
def test_lanes_train_inline_too(tmp_path: Path) -> None:
    (tmp_path / "lanes.yaml").write_text(LANES)
    words = ["cluster=inline", "sweep.trials=6", "epochs=3"]
    outcome = swathes.read(tmp_path, "launch", "lanes.yaml", *words)
    assert sum(outcome["counts"].values()) == 6
    for run in runs_of(tmp_path, "lanes").values():
        assert json.loads(run.data.tags["swathe.geometry"])["engine"] == "lanes"
        assert run.data.tags["swathe.lane"].startswith("inline/")


def workers_of(driver: int) -> list[int]:
    """Return the processes of Ray's actors under a driver."""
    parents: dict[int, int] = {}
    actors = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            title = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        if title.startswith(b"ray::_Host"):
            actors.append(int(entry.name))

    def descends(pid: int) -> bool:
        while pid > 1:
            if pid == driver:
                return True
            pid = parents.get(pid, 0)
        return False

    return [pid for pid in actors if descends(pid)]


def start_and_wait_for_ends(folder: Path) -> Any:
    (folder / "lanes.yaml").write_text(LANES.replace("epochs: 9", "epochs: 9\nbatch_size: 8"))
    process = swathes.start(folder, "launch", "lanes.yaml")
    log = folder / ".swathe" / "sweeps" / "lanes" / "sweep.log"
    wait_for(lambda: process.poll() is not None or (log.exists() and log.read_text().count(" trial ") >= 3))
    assert process.poll() is None, (folder / "output.txt").read_text()
    return process


@pytest.mark.slow
def test_a_killed_workers_lanes_run_again(tmp_path: Path) -> None:
    process = start_and_wait_for_ends(tmp_path)
    victim = workers_of(process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    assert process.wait(timeout=240) == 0, (tmp_path / "output.txt").read_text()
    check_both_records(tmp_path)
    attempts = {run.data.tags["swathe.attempt"] for run in runs_of(tmp_path, "lanes").values()}
    assert attempts == {"0", "1"}


@pytest.mark.slow
def test_an_interrupted_sweep_of_lanes_goes_on(tmp_path: Path) -> None:
    process = start_and_wait_for_ends(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    before = {t.number: t for t in study_of(tmp_path, "lanes").get_trials() if t.state.is_finished()}
    assert 3 <= len(before) < TRIALS
    swathes.succeed(tmp_path, "launch", "lanes.yaml")
    check_both_records(tmp_path)
    after = study_of(tmp_path, "lanes").get_trials()
    assert all(after[number] == trial for number, trial in before.items())


@pytest.mark.slow
def test_a_killed_driver_of_lanes_loses_nothing(tmp_path: Path) -> None:
    process = start_and_wait_for_ends(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    before = {t.number: t for t in study_of(tmp_path, "lanes").get_trials() if t.state.is_finished()}
    swathes.succeed(tmp_path, "launch", "lanes.yaml")
    check_both_records(tmp_path)
    after = study_of(tmp_path, "lanes").get_trials()
    assert all(after[number] == trial for number, trial in before.items())
