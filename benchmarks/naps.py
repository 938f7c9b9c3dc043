"""A trial that sleeps, reports at even distances, and notes in NAPS_FILE from when to when it ran, and where."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

NOTES = "NAPS_FILE"


def nap(params: Mapping[str, Any], report: Callable[[float], object]) -> None:
    """Sleep as long as the parameters say, in as many parts as there are reports."""
    began = time.time()
    for step in range(1, params["reports"] + 1):
        time.sleep(params["seconds"] / params["reports"])
        report(params["x"] / step)
    # One short write at the end of a file is whole, whoever else writes.
    with open(os.environ[NOTES], "a") as notes:
        notes.write(f"{os.getpid()} {began} {time.time()}\n")


def sleep(params: Mapping[str, Any]) -> None:
    """Run the trial under Swathe."""
    import swathe

    nap(params, lambda loss: swathe.report(val_loss=loss))


def sleep_in_ray_tune(config: dict[str, Any]) -> None:
    """Run the trial under Ray Tune."""
    from ray import tune

    nap(config, lambda loss: tune.report({"val_loss": loss}))
