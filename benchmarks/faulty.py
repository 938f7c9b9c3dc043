"""The trial of benchmarks/faults.py: ten reports with checkpoints, and a fault if it is the one to have it.

Each trial is known by its `x`. What happens is written to files in the folder that `FAULTS_FOLDER` names: a line for
each start (x, process, the step that it goes on from) and for each report.
"""

from __future__ import annotations

import ctypes
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPORTS = 10
STEP_SECONDS = 0.2


def train(params: Mapping[str, Any]) -> None:
    """Run the trial under Swathe."""
    import swathe

    state = swathe.restore()
    begin = _begin(params["x"], 0 if state is None else int(state["step"]))
    for step in range(begin + 1, REPORTS + 1):
        _step(params["x"], step)
        swathe.checkpoint({"step": step})
        if swathe.report(step=step, val_loss=_loss(params["x"], step)):
            return


def train_in_ray_tune(config: dict[str, Any]) -> None:
    """Run the trial under Ray Tune, which ends the function itself when its scheduler says so."""
    from ray import tune

    checkpoint = tune.get_checkpoint()
    done = 0
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            done = int(json.loads((Path(folder) / "state.json").read_text())["step"])
    begin = _begin(config["x"], done)
    for step in range(begin + 1, REPORTS + 1):
        _step(config["x"], step)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "state.json").write_text(json.dumps({"step": step}))
            tune.report({"val_loss": _loss(config["x"], step)}, checkpoint=tune.Checkpoint.from_directory(folder))


def _loss(x: float, step: int) -> float:
    return x / step


def _begin(x: float, done: int) -> int:
    _note("starts", [x, os.getpid(), done])
    return done


def _step(x: float, step: int) -> None:
    """Take the time of a step, or have the fault that is this trial's at its third."""
    time.sleep(STEP_SECONDS)
    fault = os.environ.get("FAULTS_TRIAL")
    if fault and step == 3 and _is_victim(x):
        if fault == "segfault":
            ctypes.string_at(0)
        elif fault == "hang":
            time.sleep(100_000)
    _note("steps", [x, step, time.time()])


def _is_victim(x: float) -> bool:
    """Whether it is this trial that has the fault: the first that asks, in each of its attempts."""
    file = Path(os.environ["FAULTS_FOLDER"]) / "victim"
    try:
        with file.open("x") as mine:
            mine.write(repr(x))
        return True
    except FileExistsError:
        return file.read_text() == repr(x)


def _note(name: str, what: object) -> None:
    with (Path(os.environ["FAULTS_FOLDER"]) / name).open("a") as file:
        file.write(json.dumps(what) + "\n")
