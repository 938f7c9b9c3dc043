"""Training functions that the integration tests sweep over."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import swathe

STEPS = 5


def quick(params: Any) -> None:
    for step in range(1, STEPS + 1):
        if swathe.report(val_loss=params.x / step, step=step):
            return


def slow(params: Any) -> None:
    """Take half a second, so that a test can act while trials run."""
    for step in range(1, STEPS + 1):
        time.sleep(0.1)
        if swathe.report(val_loss=params.x / step, step=step):
            return


def waits(params: Any) -> None:
    """The first three trials end; the others report on until the marker is there, so that a test can act meanwhile."""
    info = swathe.trial()
    assert info is not None
    step = 0
    while step < STEPS or not (info.number < 3 or Path(params.marker).exists()):
        step += 1
        time.sleep(0.02)
        if swathe.report(val_loss=params.x / step, step=step):
            return


def fails_above_a_half(params: Any) -> None:
    if params.x > 0.5:
        raise ValueError("x is too large\nand here is more")
    quick(params)


def dies_once(params: Any) -> None:
    """Report twice, then kill the whole process, but only the first time that this happens anywhere."""
    for step in (1, 2):
        swathe.report(val_loss=params.x / step, step=step)
    try:
        Path(params.marker).touch(exist_ok=False)
    except FileExistsError:
        quick_from(params, 3)
        return
    os.kill(os.getpid(), signal.SIGKILL)


def quick_from(params: Any, first: int) -> None:
    for step in range(first, STEPS + 1):
        if swathe.report(val_loss=params.x / step, step=step):
            return


class Kept:
    """A model as far as Swathe can see: it has a state."""

    def __init__(self, number: int) -> None:
        self.number = number

    def state_dict(self) -> dict[str, int]:
        return {"number": self.number}


def returns_its_model(params: Any) -> Kept:
    """Print, report values that the trial's number decides, and return a model that says whose it is."""
    print("a trial speaks")
    info = swathe.trial()
    assert info is not None
    for step in range(1, STEPS + 1):
        if swathe.report({"gain": float(info.number * step), "acc@1 (%)": 1.0}):
            break
    return Kept(info.number)


def hangs(params: Any) -> None:
    """Never report; the marker comes back as often as a test removes it, as long as this lives."""
    while True:
        Path(params.marker).touch()
        time.sleep(0.02)


def hangs_above_a_half(params: Any) -> None:
    swathe.report(val_loss=params.x, step=1)
    while params.x > 0.5:
        time.sleep(60)


def diverges(params: Any) -> None:
    for step in range(1, STEPS + 1):
        value = params.x / step if params.x < 0.5 or step < 3 else float("nan")
        if swathe.report(val_loss=value, step=step):
            return


def keeps(params: Any) -> None:
    """Keep each step, and wait at the fifth until there is a file MARKER.go."""
    state = swathe.restore() or {"step": 0, "sum": 0.0}
    for step in range(state["step"] + 1, 9):
        state = {"step": step, "sum": state["sum"] + 1 / step}
        with Path(params.marker).open("a") as marker:
            marker.write(f"{step}\n")
        while step == 5 and not Path(f"{params.marker}.go").exists():
            time.sleep(0.05)
        if swathe.report(val_loss=state["sum"]):
            return
        swathe.checkpoint(state)


def fails_until_marked(params: Any) -> None:
    """Raise the same error with other words in each trial, as long as there is no marker."""
    if not Path(params.marker).exists():
        raise ValueError(f"no marker for {params.x}")
    quick(params)
