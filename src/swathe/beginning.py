"""What a sweep begins with: the points that are tried first, and what its sampler knows before its first trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from swathe import pruners, warm_start
from swathe.enqueued import Point, points_of
from swathe.events import Direction
from swathe.home import Home, SweepFolder
from swathe.repetition import check_space
from swathe.samplers import Known

if TYPE_CHECKING:
    from swathe.config import ComposedSweep
    from swathe.space import Space


@dataclass(frozen=True, slots=True)
class Beginning:
    """`points` are tried in their order, `known` is for the sampler, `said` for the user (empty: nothing)."""

    points: tuple[Point, ...]
    known: Known
    said: str = ""


def check(composed: ComposedSweep, space: Space, home: Home, folder: SweepFolder) -> None:
    """Refuse points that the space does not have, a warm start that cannot be, and a seed that is drawn for repeats.

    Raises `BadInputError`.
    """
    points_of(composed.sweep.enqueue, space)
    check_space(space.parameters, composed.repetition)
    warm_start.check(composed, home, folder)


def beginning(composed: ComposedSweep, space: Space, home: Home, folder: SweepFolder) -> Beginning:
    """Return what a sweep begins with, whose lock is held: the same at each of its launches."""
    objective = composed.goal.first
    points = points_of(composed.sweep.enqueue, space)
    earlier = warm_start.recorded(composed, home, folder)
    trials = warm_start.fitting(earlier, space)
    best = warm_start.best_points(earlier, space, composed.sweep.warm_start_best, objective)
    rungs = pruners.rungs(composed.pruner)
    known = Known(tuple(trials), rungs, minimize=objective.direction is Direction.MINIMIZE)
    said = warm_start.described(earlier, trials, space) if earlier else ""
    return Beginning((*points, *best), known, said)
