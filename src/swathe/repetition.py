"""Several trials a point, each with a seed of its own: which belong together, and what they are worth together.

Trials with consecutive numbers are the repeats of one point, whose first one is its head. A point is complete when all
of its repeats are. As soon as one is pruned, diverges or fails, the point is out as that one is: what the others have
would be the mean of those that were lucky.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swathe.errors import BadInputError, bad_value
from swathe.events import Direction, TrialState, Value
from swathe.stagnation import Ended

KINDS = ("mean", "median", "worst")
# The tag of a trial's run in MLflow that says of which point it is, by that point's first trial.
POINT_TAG = "swathe.point"
# What draws from the values that trials have, and can be shown those of points in their place, or from none at all.
SAMPLERS = ("tpe", "random", "qmc", "cmaes", "gp", "grid")
# How the reason of a repeat begins that was told because its point was out already.
NOT_NEEDED = "dropped"


@dataclass(frozen=True, slots=True)
class Repetition:
    """`count` trials a point; its value is the mean, the median or the worst `of` theirs."""

    count: int = 1
    of: str = "mean"

    @property
    def several(self) -> bool:
        """Whether a point has more than one trial."""
        return self.count > 1

    def head(self, number: int) -> int:
        """Return the number of the first trial of a trial's point."""
        return number - number % self.count

    def members(self, number: int) -> range:
        """Return the numbers of all trials of a trial's point."""
        head = self.head(number)
        return range(head, head + self.count)

    def value(self, values: Sequence[float], direction: Direction) -> float:
        """Return what a point is worth whose repeats have these values; not finite where one is not."""
        if not all(map(math.isfinite, values)):
            # Of infinities with both signs it is NaN.
            return sum(values)
        match self.of:
            case "median":
                found = _median(sorted(values))
            case "worst":
                found = max(values) if direction is Direction.MINIMIZE else min(values)
            case _:
                found = _mean(values)
        # Rounding does not take it beyond the best one, whose model is the point's.
        return min(max(found, min(values)), max(values))

    def state(self, states: Collection[TrialState]) -> TrialState:
        """Return the state of a point whose trials, as far as they are drawn, have these states."""
        for out in (TrialState.FAILED, TrialState.PRUNED):
            if out in states:
                return out
        if len(states) == self.count and all(state is TrialState.COMPLETE for state in states):
            return TrialState.COMPLETE
        begun = any(state is not TrialState.WAITING for state in states)
        return TrialState.RUNNING if begun else TrialState.WAITING

    def best(self, values: Mapping[int, float], direction: Direction) -> int:
        """Return which of these trials, by number, is the best one: the model of a point is that one's."""
        sign = 1.0 if direction is Direction.MINIMIZE else -1.0
        return min(values, key=lambda number: (sign * values[number], number))


def _mean(values: Sequence[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return math.fsum(value / len(values) for value in values)


def _median(ordered: Sequence[float]) -> float:
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else low / 2 + high / 2


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of the repeats' values, for a sample (n - 1); 0 of one alone."""
    if len(values) < 2:
        return 0.0
    mean = _mean(values)
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)


@dataclass(frozen=True, slots=True)
class PointEnd:
    """How a point ends: by its best repeat's `number` and its own `value` if it is complete, else by which it is out.

    `feasible`: whether all of its repeats keep the constraints.
    """

    number: int
    state: TrialState
    value: float | None
    feasible: bool


@dataclass(slots=True)
class _Open:
    over: int = 0
    values: dict[int, float] = field(default_factory=dict)
    feasible: bool = True
    # The repeat by which the point is out, if it is, and how that ended.
    out: tuple[int, TrialState] | None = None


class OpenPoints:
    """The points of which not all trials are over; those of which all are take no memory."""

    def __init__(self, repetition: Repetition, direction: Direction) -> None:
        self._repetition = repetition
        self._direction = direction
        self._open: dict[int, _Open] = {}
        # How many points are complete.
        self.complete = 0

    def end(self, number: int, state: TrialState, value: float | None, *, feasible: bool) -> PointEnd | None:
        """Take in that a trial is over; return how its point ends if this decides it, which only one trial does."""
        head = self._repetition.head(number)
        point = self._open.setdefault(head, _Open())
        point.over += 1
        if point.over == self._repetition.count:
            del self._open[head]
        if state is not TrialState.COMPLETE or value is None:
            if point.out is not None:
                return None
            point.out = number, state
            return PointEnd(number, state, None, feasible=False)
        point.values[number] = value
        point.feasible = point.feasible and feasible
        if point.out is not None or len(point.values) < self._repetition.count:
            return None
        self.complete += 1
        best = self._repetition.best(point.values, self._direction)
        values = [point.values[one] for one in sorted(point.values)]
        whole = self._repetition.value(values, self._direction)
        return PointEnd(best, TrialState.COMPLETE, whole, feasible=point.feasible)

    def out(self, number: int) -> tuple[int, TrialState] | None:
        """Return by which repeat the point of a trial that is not over is out, and how; None where it is not."""
        point = self._open.get(self._repetition.head(number))
        return None if point is None else point.out

    def leads(self, number: int, value: float) -> bool:
        """Whether a trial that is about to be complete is the best of its point's so far, whose model is kept."""
        point = self._open.get(self._repetition.head(number))
        if point is None:
            return True
        return point.out is None and self._repetition.best({**point.values, number: value}, self._direction) == number


def why_not_needed(number: int, state: TrialState) -> str:
    """Say why a repeat is told as pruned whose point is out."""
    how = "failed" if state is TrialState.FAILED else "was stopped"
    return f"{NOT_NEEDED}: trial {number} of the same point {how}"


@dataclass(frozen=True, slots=True)
class PastPoint:
    """A point of an earlier session: as the trial by which it ended, but for its state and value."""

    number: int
    state: TrialState
    value: float | None
    feasible: bool
    ended: float | None
    attrs: Mapping[str, Value]


def past_points(history: Iterable[Ended], repetition: Repetition, direction: Direction) -> list[PastPoint]:
    """Return the points of earlier sessions that are over, in the order in which they ended."""
    # One that was not needed any more decides nothing: another one has.
    over = [past for past in history if past.state.final and not is_not_needed(past.attrs)]
    points, found = OpenPoints(repetition, direction), []
    for past in sorted(over, key=lambda past: (past.ended or 0.0, past.number)):
        end = points.end(past.number, past.state, past.value, feasible=past.feasible)
        if end is not None:
            found.append(PastPoint(end.number, end.state, end.value, end.feasible, past.ended, past.attrs))
    return found


def is_not_needed(attrs: Mapping[str, Value]) -> bool:
    """Whether a trial with these attributes was told only because its point was out."""
    return str(attrs.get("reason", "")).startswith(NOT_NEEDED)


# Refusing.


def check(values: Mapping[str, Any]) -> None:
    """Refuse what a sweep's whole config cannot have with several repeats; raises `BadInputError`."""
    section = values.get("sweep") or {}
    count = section.get("repeats", 1)
    if count == 1:
        return
    trials = section["trials"]
    if trials % count:
        near = [str(one) for one in (trials - trials % count, trials - trials % count + count) if one]
        multiple = f"a multiple of sweep.repeats={count}, such as {' or '.join(near)}"
        raise bad_value("sweep.trials", trials, f"{multiple}, as each repeat of a point is a trial")
    for key in ("warm_start", "warm_start_best"):
        if section.get(key):
            allowed = f"none with sweep.repeats={count}, as earlier trials are no points of several"
            raise bad_value(f"sweep.{key}", section[key], allowed)
    if isinstance(section.get("metric"), list | tuple):
        raise bad_value("sweep.repeats", count, "1 with several objectives")
    sampler = (values.get("sampler") or {}).get("name")
    if sampler not in SAMPLERS:
        raise BadInputError(
            f"sampler: {sampler!r} is not allowed; allowed: {', '.join(SAMPLERS)} with sweep.repeats={count}, as this "
            "one looks at single trials."
        )


def check_space(names: Iterable[str], repetition: Repetition) -> None:
    """Refuse a space that draws the seed, which the repeats of a point would have in common; raises `BadInputError`."""
    if repetition.several and "seed" in names:
        raise BadInputError(
            f"sweep.space: 'seed' is not allowed; allowed: a space without it with sweep.repeats={repetition.count}, "
            "as each repeat has a seed of its own."
        )
