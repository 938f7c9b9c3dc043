"""Real sweeps that die or are stopped go on from their trials' checkpoints, with real Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from swathe.training.recipe import TIMING_METRICS
from tests.integration import swathes
from tests.integration.test_lanes import workers_of
from tests.integration.test_launch import client_of, runs_of, wait_for

EVERY = "checkpoints.seconds=1e-6"
LANES = """
defaults: [/model: mlp, /data: digits, /optim: adam, /sampler: random, /pruner: none, _self_]
model: {hidden: [32]}
epochs: 400
sweep: {name: long, trials: 4, space: {optim.lr: "tag(log, interval(1e-4, 1e-2))"}}
"""


def steps_run(folder: Path) -> Counter[int]:
    """Return how often the function has computed each step."""
    return Counter(int(line) for line in (folder / "marker").read_text().split())


def start_and_wait_for_step(folder: Path, step: int) -> subprocess.Popen[str]:
    sweep = swathes.write_function_sweep(folder, "keeps", trials=1)
    process = swathes.start(folder, "launch", sweep, "cluster.workers=1", EVERY)
    marker = folder / "marker"
    wait_for(lambda: process.poll() is not None or (marker.exists() and step in steps_run(folder)))
    # And until the study has the reports before it: a trial that was not written yet is drawn anew.
    journal = folder / ".swathe" / "sweeps" / "f" / "journal.log"
    wait_for(lambda: process.poll() is not None or f'"step":{step - 1},' in journal.read_text())
    assert process.poll() is None, (folder / "output.txt").read_text()
    return process


def check_function(folder: Path, *, before: int) -> None:
    """Check that the one trial is whole, and that its first steps were not computed again."""
    (run,) = runs_of(folder, "f").values()
    assert run.info.status == "FINISHED"
    assert int(run.data.tags["swathe.resumed_from"]) >= before
    metrics = client_of(folder).get_metric_history(run.info.run_id, "val_loss")
    assert [(metric.step, metric.value) for metric in metrics] == [
        (step, sum(1 / k for k in range(1, step + 1))) for step in range(1, 9)
    ]
    times = steps_run(folder)
    assert [times[step] for step in range(1, before + 1)] == [1] * before
    assert not (folder / ".swathe" / "sweeps" / "f" / "checkpoints" / "trials").exists()


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["worker", "driver"])
def test_a_function_goes_on_from_its_checkpoint(tmp_path: Path, killed: str) -> None:
    process = start_and_wait_for_step(tmp_path, 5)
    if killed == "worker":
        (worker,) = workers_of(process.pid)
        os.kill(worker, signal.SIGKILL)
        (tmp_path / "marker.go").touch()
        assert process.wait(timeout=120) == 0, (tmp_path / "output.txt").read_text()
    else:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        (tmp_path / "marker.go").touch()
        swathes.succeed(tmp_path, "resume", "f")
    check_function(tmp_path, before=1)


@pytest.mark.slow
def test_a_stopped_sweep_loses_no_step_of_a_function(tmp_path: Path) -> None:
    process = start_and_wait_for_step(tmp_path, 5)
    process.send_signal(signal.SIGINT)
    output = tmp_path / "output.txt"
    wait_for(lambda: process.poll() is not None or "Stopping" in output.read_text())
    (tmp_path / "marker.go").touch()
    assert process.wait(timeout=120) == 130, output.read_text()
    assert max(steps_run(tmp_path)) == 5
    swathes.succeed(tmp_path, "resume", "f")
    check_function(tmp_path, before=5)


@pytest.mark.slow
@pytest.mark.parametrize("slots", ["lanes.slots=2", "lanes.slots=1"])
def test_lanes_and_trials_alone_go_on_bit_for_bit(tmp_path: Path, slots: str) -> None:
    (tmp_path / "long.yaml").write_text(LANES)
    words = ["launch", "long.yaml", "lanes.compile=never", "diagnosis.stop=false", EVERY, slots]
    process = swathes.start(tmp_path, *words)
    folder = tmp_path / ".swathe" / "sweeps" / "long" / "checkpoints" / "trials"
    wait_for(lambda: process.poll() is not None or len(list(folder.glob("trial-*.before.ckpt"))) >= 2)
    assert process.poll() is None, (tmp_path / "output.txt").read_text()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    swathes.succeed(tmp_path, "resume", "long")
    swathes.succeed(tmp_path, *words, "sweep.name=whole")
    disturbed, whole = runs_of(tmp_path, "long"), runs_of(tmp_path, "whole")
    assert disturbed.keys() == whole.keys() == set(range(4))
    resumed = [run.data.tags.get("swathe.resumed_from") for run in disturbed.values()]
    assert sum(one is not None for one in resumed) >= 2
    for number, run in whole.items():
        assert json.loads(run.data.tags["swathe.geometry"])["engine"] == ("lanes" if "2" in slots else "solo")
        assert histories(tmp_path, disturbed[number]) == histories(tmp_path, run)
    assert not folder.exists()


def histories(folder: Path, run: Any) -> dict[str, list[tuple[int, float]]]:
    client = client_of(folder)
    return {
        key: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
        if key not in TIMING_METRICS
    }
