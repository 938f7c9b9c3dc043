"""Models of repeats whose point is not over: a file each, until it is the sweep's best model or nobody needs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from swathe.home import SweepFolder, write_aside
from swathe.repetition import Repetition


def keep(folder: SweepFolder, trial: int, model: bytes) -> None:
    """Make a model, which is a trial's, the sweep's best one."""
    write_aside(folder.best_model, model)
    write_aside(folder.best_model.with_suffix(".json"), json.dumps({"trial": trial}).encode())


def hold(folder: SweepFolder, repetition: Repetition, trial: int, model: bytes) -> None:
    """Keep a trial's model, the best of its point so far, in the place of another of that point."""
    write_aside(_root(folder) / f"{trial}.pt", model)
    for path in _of_point(folder, repetition, trial):
        if path.stem != str(trial):
            path.unlink()


def settle(folder: SweepFolder, repetition: Repetition, trial: int, *, best: bool) -> None:
    """Make a trial's model the sweep's best one, if it is and is held, and hold none of its point any more.

    Its point is over. After a crash halfway it can be done again.
    """
    path = _root(folder) / f"{trial}.pt"
    if best and path.exists():
        keep(folder, trial, path.read_bytes())
    for path in _of_point(folder, repetition, trial):
        path.unlink()


def held(folder: SweepFolder) -> list[int]:
    """Return the trials whose models are held."""
    return sorted(int(path.stem) for path in _root(folder).glob("*.pt") if path.stem.isdecimal())


def _root(folder: SweepFolder) -> Path:
    return folder.best_model.parent / "points"


def _of_point(folder: SweepFolder, repetition: Repetition, trial: int) -> Iterator[Path]:
    members = repetition.members(trial)
    return (_root(folder) / f"{number}.pt" for number in held(folder) if number in members)
