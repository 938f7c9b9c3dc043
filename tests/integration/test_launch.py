"""Whole sweeps with the real Ray, Optuna and MLflow, launched from the command line in a folder of their own."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.integration import swathes

DIGITS = """
defaults: [/model: mlp, /data: digits, /optim: adamw, /sampler: random, /pruner: asha, _self_]
model: {hidden: [32]}
epochs: 6
pruner: {reduction_factor: 2}
sweep:
  name: digits
  trials: 14
  space:
    optim: choice(sgd, momentum, adamw)
    optim.lr: tag(log, interval(1e-4, 1.0))
    batch_size: choice(64, 128)
    model.norm: choice(none, batch)
    regularization.dropout: interval(0.0, 0.5)
  when:
    optim=momentum: {optim.momentum: "interval(0.5, 0.99)"}
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a small sweep on digits has run."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "digits.yaml").write_text(DIGITS)
    said = swathes.succeed(folder, "launch", "digits.yaml")
    assert "swathe ui digits" in said
    assert "swathe reproduce digits" in said
    assert "Best config" in said
    return folder


def study_of(folder: Path, name: str) -> optuna.Study:
    """Open the journal as any user of Optuna does."""
    backend = JournalFileBackend(str(folder / ".swathe" / "sweeps" / name / "journal.log"))
    return optuna.load_study(study_name=name, storage=JournalStorage(backend))


def client_of(folder: Path) -> MlflowClient:
    uri = f"sqlite:///{folder / '.swathe' / 'mlflow.db'}"
    # Else the registry is the one that another test of this process has set.
    return MlflowClient(uri, uri)


def runs_of(folder: Path, name: str) -> dict[int, Any]:
    """Return the MLflow runs of a sweep's trials by trial number; each must be there once."""
    client = client_of(folder)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`swathe.kind` = 'trial'", max_results=1000)
    by_number = {int(run.data.tags["swathe.trial"]): run for run in found}
    assert len(by_number) == len(found), "a trial has two runs"
    return by_number


def wait_for(condition: Callable[[], object], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)


def test_mlflow_says_of_every_trial_what_optuna_says(digits: Path) -> None:
    trials = study_of(digits, "digits").get_trials()
    runs = runs_of(digits, "digits")
    assert sorted(runs) == [trial.number for trial in trials] == list(range(14))
    assert Counter(trial.state for trial in trials)[TrialState.PRUNED] >= 3
    client = client_of(digits)
    for trial in trials:
        run = runs[trial.number]
        state = run.data.tags["swathe.state"]
        assert run.info.status == "FINISHED"
        assert state.split()[0] in {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned diverged:"}[trial.state]
        for name, value in trial.params.items():
            assert run.data.params[name] == str(value)
        recorded = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "val_loss")}
        assert recorded == trial.intermediate_values
        assert set(run.data.metrics) >= {"train_loss", "val_loss", "val_accuracy", "lr", "grad_norm", "seconds"}
        assert json.loads(run.data.tags["swathe.config"])["optim"]["name"] == trial.params["optim"]


def test_the_parent_run_tells_the_story(digits: Path, tmp_path: Path) -> None:
    client = client_of(digits)
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`swathe.kind` = 'sweep'")
    assert parent.info.status == "FINISHED"
    assert "swathe reproduce digits" in parent.data.tags["mlflow.note.content"]
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"config.yaml", "versions.txt", "trials.csv", "trials.json"} <= names
    page = Path(client.download_artifacts(parent.info.run_id, "plots/plots.html", str(tmp_path))).read_text()
    for title in ("History", "Importance", "Parallel coordinates", "Slices", "Intermediate values"):
        assert f"<h2>{title}</h2>" in page
    champion = client.get_model_version_by_alias("digits", "champion")
    best = swathes.read(digits, "best", "digits")
    assert champion.run_id in {parent.info.run_id, best["origin"]["run_id"]}


def test_the_reading_commands_agree(digits: Path) -> None:
    (item,) = swathes.read(digits, "list")
    status = swathes.read(digits, "status", "digits")
    assert item == status
    assert sum(status["counts"].values()) == 14
    rows = swathes.read(digits, "compare", "digits", "--top", "3")
    assert next(row["state"] for row in rows) == "complete"
    assert rows[0]["trial"] == status["best"]["trial"]
    best = swathes.read(digits, "best", "digits")
    assert best["origin"]["trial"] == status["best"]["trial"]
    by_accuracy = swathes.read(digits, "compare", "digits", "--sort", "val_accuracy")
    accuracies = [row["metrics"]["val_accuracy"] for row in by_accuracy]
    assert accuracies == sorted(accuracies, reverse=True)
    for words in (["status", "digits"], ["list"], ["compare", "digits"], ["best", "digits"], ["config", "digits.yaml"]):
        assert max(map(len, swathes.succeed(digits, *words).splitlines())) <= 100


def test_trials_are_reproduced_bit_for_bit(digits: Path) -> None:
    trials = study_of(digits, "digits").get_trials()
    some = [t.number for t in trials if t.state is TrialState.COMPLETE][:2]
    some += [t.number for t in trials if t.state is TrialState.PRUNED][:2]
    words = [word for number in some for word in ("--trial", str(number))]
    results = swathes.read(digits, "reproduce", "digits", *words)
    assert [result["trial"] for result in results] == some
    for result in results:
        assert result["identical"]
        assert result["rows"]
        again = client_of(digits).get_run(result["new_run_id"])
        assert again.data.tags["swathe.reproduces"] == result["run_id"]
    assert swathes.read(digits, "reproduce", results[0]["run_id"])[0]["identical"]


@pytest.mark.slow
def test_a_trial_that_is_not_the_same_is_told_apart(digits: Path) -> None:
    run = runs_of(digits, "digits")[0]
    config = json.loads(run.data.tags["swathe.config"])
    client = client_of(digits)
    client.set_tag(run.info.run_id, "swathe.config", json.dumps({**config, "seed": config["seed"] + 1}))
    try:
        done = swathes.run(digits, "reproduce", "digits", "--trial", "0")
    finally:
        client.set_tag(run.info.run_id, "swathe.config", json.dumps(config))
    assert done.returncode == 3
    assert "Different: trial 0" in done.stdout


@pytest.mark.slow
def test_the_best_config_written_out_gives_the_same_numbers(digits: Path) -> None:
    swathes.succeed(digits, "best", "digits", "--out", "best.yaml")
    best = yaml.safe_load((digits / "best.yaml").read_text())
    again = swathes.read(digits, "train", "--from", "best.yaml")
    history = client_of(digits).get_metric_history(best["origin"]["run_id"], "val_loss")
    recorded = [metric.value for metric in sorted(history, key=lambda metric: metric.step)]
    # Trained alone, and not as a lane: up to rounding.
    assert [report["val_loss"] for report in again["reports"]] == pytest.approx(recorded, rel=1e-3)


@pytest.mark.slow
def test_a_finished_sweep_is_only_shown_again_and_a_larger_budget_goes_on(digits: Path) -> None:
    before = study_of(digits, "digits").get_trials()
    assert swathes.read(digits, "launch", "digits.yaml")["reason"] == "all 14 trials are done"
    assert study_of(digits, "digits").get_trials() == before
    swathes.succeed(digits, "launch", "digits.yaml", "sweep.trials=16")
    after = study_of(digits, "digits").get_trials()
    assert after[:14] == before
    assert len(after) == 16
    assert sorted(runs_of(digits, "digits")) == list(range(16))


def test_another_config_under_the_same_name_is_refused(digits: Path) -> None:
    done = swathes.run(digits, "launch", "digits.yaml", "epochs=7")
    assert done.returncode == 2
    assert done.stderr.startswith("swathe: sweep.name: 'digits' is not allowed")


def test_inline_trials_run_in_the_process(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "quick", trials=6, pruner="median")
    outcome = swathes.read(tmp_path, "launch", sweep, "cluster=inline")
    assert sum(outcome["counts"].values()) == 6
    assert {run.data.tags["swathe.worker"] for run in runs_of(tmp_path, "f").values()} == {"inline"}


def test_a_function_that_raises_fails_alone_with_its_traceback(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "fails_above_a_half", trials=12)
    outcome = swathes.read(tmp_path, "launch", sweep)
    assert not outcome["failed"]
    trials = study_of(tmp_path, "f").get_trials()
    runs = runs_of(tmp_path, "f")
    for trial in trials:
        failed = trial.params["params.x"] > 0.5
        assert trial.state is (TrialState.FAIL if failed else TrialState.COMPLETE)
        assert runs[trial.number].info.status == ("FAILED" if failed else "FINISHED")
    number = next(trial.number for trial in trials if trial.state is TrialState.FAIL)
    assert runs[number].data.tags["swathe.state"] == "failed: ValueError: x is too large"
    client = client_of(tmp_path)
    where = client.download_artifacts(runs[number].info.run_id, "traceback.txt", str(tmp_path))
    assert "and here is more" in Path(where).read_text()
    assert "ValueError: x is too large" in swathes.succeed(tmp_path, "status", "f")
    # The same command again has nothing to do, and says the same.
    assert "failed: ValueError: x is too large" in swathes.succeed(tmp_path, "launch", sweep)


@pytest.mark.slow
def test_a_trial_that_diverges_is_stopped_and_says_so(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "diverges", trials=10)
    swathes.read(tmp_path, "launch", sweep)
    states = {run.data.tags["swathe.state"] for run in runs_of(tmp_path, "f").values()}
    assert states == {"complete", "diverged: val_loss is nan at step 3"}


def test_a_killed_workers_trial_runs_again(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "dies_once", trials=4)
    done = swathes.run(tmp_path, "launch", sweep, "cluster.workers=1")
    assert "A worker died" not in done.stdout + done.stderr
    assert swathes.read(tmp_path, "status", "f")["counts"] == {"complete": 4}
    runs = runs_of(tmp_path, "f")
    assert sorted(run.data.tags["swathe.attempt"] for run in runs.values()) == ["0", "0", "0", "1"]
    client = client_of(tmp_path)
    for run in runs.values():
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "val_loss")]
        assert sorted(steps) == [1, 2, 3, 4, 5]


def test_a_trial_that_hangs_is_ended_and_the_others_go_on(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "hangs_above_a_half", trials=6)
    outcome = swathes.read(tmp_path, "launch", sweep, "sweep.trial_timeout=3", "sweep.retries=0", "cluster.workers=2")
    assert not outcome["failed"]
    for trial in study_of(tmp_path, "f").get_trials():
        hangs = trial.params["params.x"] > 0.5
        assert trial.state is (TrialState.FAIL if hangs else TrialState.COMPLETE)
        assert not hangs or "nothing was heard of its trials for 3 s" in trial.user_attrs["reason"]
    assert {run.info.status for run in runs_of(tmp_path, "f").values()} == {"FAILED", "FINISHED"}


def launch_and_wait_for_trials(folder: Path, sweep: str) -> Any:
    process = swathes.start(folder, "launch", sweep)
    journal = folder / ".swathe" / "sweeps" / "f" / "sweep.log"

    def ended() -> bool:
        # Which of the two workers is the first to be ready decides in which order these end.
        said = journal.read_text() if journal.exists() else ""
        return all(f"trial {number} complete" in said for number in range(3))

    wait_for(lambda: process.poll() is not None or ended())
    assert process.poll() is None, (folder / "output.txt").read_text()
    return process


def check_continues(folder: Path, *command: str) -> None:
    before = {t.number: t for t in study_of(folder, "f").get_trials() if t.state.is_finished()}
    assert list(before) == [0, 1, 2]
    (folder / "marker").touch()
    swathes.succeed(folder, *command)
    after = study_of(folder, "f").get_trials()
    assert [trial.state for trial in after] == [TrialState.COMPLETE] * 8
    assert all(after[number] == trial for number, trial in before.items())
    runs = runs_of(folder, "f")
    assert sorted(runs) == list(range(8))
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_an_interrupt_stops_gently_and_the_launch_goes_on(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "waits", trials=8)
    process = launch_and_wait_for_trials(tmp_path, sweep)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    said = (tmp_path / "output.txt").read_text()
    assert "Go on with it:" in said
    assert f"swathe launch {sweep}" in said
    assert "stopped with" in swathes.succeed(tmp_path, "status", "f")
    check_continues(tmp_path, "launch", sweep)


@pytest.mark.slow
def test_two_interrupts_stop_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "waits", trials=8)
    process = launch_and_wait_for_trials(tmp_path, sweep)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    check_continues(tmp_path, "launch", sweep)


@pytest.mark.slow
def test_stop_from_another_terminal_and_a_second_driver_is_refused(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "waits", trials=8)
    process = launch_and_wait_for_trials(tmp_path, sweep)
    second = swathes.run(tmp_path, "launch", sweep)
    assert second.returncode == 2
    assert f"is being run by process {process.pid}" in second.stderr
    assert "running" in swathes.read(tmp_path, "status", "f")["status"]
    assert "Asked sweep 'f' to stop" in swathes.succeed(tmp_path, "stop", "f")
    assert process.wait(timeout=120) == 130
    assert swathes.run(tmp_path, "stop", "f").returncode == 2
    check_continues(tmp_path, "launch", sweep)


@pytest.mark.slow
def test_a_killed_driver_loses_nothing(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "waits", trials=8)
    process = launch_and_wait_for_trials(tmp_path, sweep)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    check_continues(tmp_path, "resume", "f")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("sweep.epochs=12", "the budget of 12 epochs is used up"),
        ("sweep.target=0.05", "the target of 0.05 is reached"),
        ("sweep.device_seconds=1.0", "the budget of 1 device-seconds is used up"),
        ("sweep.wall_time=2.0", "the wall time of 2 s is used up"),
    ],
)
def test_a_budget_ends_the_sweep(tmp_path: Path, override: str, reason: str) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "slow", trials=200)
    outcome = swathes.read(tmp_path, "launch", sweep, "cluster=inline", override)
    assert outcome["reason"] == reason
    assert sum(outcome["counts"].values()) < 200


@pytest.mark.slow
def test_sigterm_stops_gently_as_an_interrupt_does(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "waits", trials=8)
    process = launch_and_wait_for_trials(tmp_path, sweep)
    process.terminate()
    assert process.wait(timeout=120) == 130
    assert "SIGTERM" not in (tmp_path / "output.txt").read_text()
    check_continues(tmp_path, "launch", sweep)


@pytest.mark.slow
def test_a_hanging_inline_trial_can_be_interrupted(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "hangs", trials=2)
    process = swathes.start(tmp_path, "launch", sweep, "cluster=inline")
    marker = tmp_path / "marker"
    wait_for(lambda: process.poll() is not None or marker.exists())
    process.send_signal(signal.SIGINT)
    # The system may make one signal of two that come together: the trial must have run on between them.
    for _ in range(2):
        marker.unlink()
        wait_for(lambda: process.poll() is not None or marker.exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "Traceback" not in (tmp_path / "output.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_the_winner_that_reaches_the_target_is_the_champion_and_is_reproduced(tmp_path: Path, cluster: str) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "returns_its_model", trials=9)
    words = ["sweep.metric=gain", "sweep.direction=maximize", "sweep.target=6"]
    outcome = swathes.read(tmp_path, "launch", sweep, f"cluster={cluster}", *words)
    assert outcome["reason"] == "the target of 6 is reached"
    best = outcome["best"]["trial"]
    client = client_of(tmp_path)
    version = client.get_model_version_by_alias("f", "champion")
    assert version.tags["swathe.trial"] == str(best)
    kept = torch.load(tmp_path / ".swathe" / "sweeps" / "f" / "checkpoints" / "best.pt")
    assert kept == {"number": best}
    assert swathes.read(tmp_path, "reproduce", "f")[0]["identical"]
    rows = swathes.read(tmp_path, "compare", "f", "--sort", "gain")
    gains = [row["metrics"]["gain"] for row in rows if "gain" in row["metrics"]]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] >= 6


@pytest.mark.slow
def test_rays_noise_does_not_reach_the_terminal(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "quick", trials=3)
    done = swathes.run(tmp_path, "launch", sweep)
    assert done.returncode == 0
    assert done.stderr == ""
    for word in ("ray", "INFO", "WARNING", "pid=", "alembic"):
        assert word not in done.stdout
