"""What a sweep optimises: one reported metric or several, under constraints; and which trials nobody beats."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from swathe.errors import BadInputError, bad_value
from swathe.events import Direction

MOST_OBJECTIVES = 4
# The violation of a bound by what is no finite number: JSON has neither NaN nor infinities.
FARTHEST = 1e12
_BOUND = re.compile(r"\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*")
_BOUNDS = "a bound such as '<= 50000', '< 10', '>= 0.9' or '> 0'"

Losses = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Objective:
    """A reported metric, and which way it is better."""

    metric: str
    direction: Direction

    def loss(self, value: float) -> float:
        """Return a value so that less is better."""
        return value if self.direction is Direction.MINIMIZE else -value


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound that a reported metric has to keep at a trial's end; `sign` is <=, <, >= or >."""

    metric: str
    sign: str
    bound: float

    def violation(self, value: float) -> float:
        """Return by how much a value is beyond the bound: 0 or less where it keeps it; finite, also for NaN."""
        if math.isnan(value):
            return FARTHEST
        beyond = value - self.bound if self.sign[0] == "<" else self.bound - value
        if math.isinf(beyond):
            return math.copysign(FARTHEST, beyond)
        return math.ulp(self.bound) if beyond == 0 and len(self.sign) == 1 else beyond

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.bound:g}"


@dataclass(frozen=True)
class Goal:
    """The objectives of a sweep, the first of which draws the curves, and its constraints."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    @property
    def several(self) -> bool:
        return len(self.objectives) > 1

    @property
    def first(self) -> Objective:
        return self.objectives[0]

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The objectives' names."""
        return tuple(one.metric for one in self.objectives)

    @cached_property
    def directions(self) -> tuple[Direction, ...]:
        return tuple(one.direction for one in self.objectives)

    @cached_property
    def names(self) -> frozenset[str]:
        """Every metric that is looked at, the constrained ones among them."""
        return frozenset((*self.metrics, *(one.metric for one in self.constraints)))

    @property
    def plain(self) -> bool:
        """Whether there is one objective and no constraint."""
        return not (self.several or self.constraints)

    def losses(self, values: Sequence[float]) -> Losses:
        """Return values of the objectives so that less is better of each."""
        return tuple(one.loss(value) for one, value in zip(self.objectives, values, strict=True))

    def violations(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the violation of each constraint by its metric; without those whose metric is missing."""
        return {one.metric: one.violation(metrics[one.metric]) for one in self.constraints if one.metric in metrics}

    def unreported(self, metrics: Mapping[str, float]) -> str | None:
        """Return a constrained metric that is missing; None where all are there."""
        return next((one.metric for one in self.constraints if one.metric not in metrics), None)

    def feasible(self, metrics: Mapping[str, float]) -> bool:
        """Whether every constraint is kept; one whose metric is missing is not."""
        return kept(self.constraints, metrics)


def kept(constraints: Iterable[Constraint], metrics: Mapping[str, float]) -> bool:
    """Whether all of these constraints are kept; one whose metric is missing is not."""
    return all(one.metric in metrics and one.violation(metrics[one.metric]) <= 0 for one in constraints)


# Reading.


def goal_of(section: Mapping[str, Any]) -> Goal:
    """Read `metric`, `direction` and `constraints` of a sweep's options; raises `BadInputError`."""
    metric, direction = section["metric"], section["direction"]
    constraints = _constraints(section.get("constraints") or {})
    ways = [way.value for way in Direction]
    if isinstance(metric, list | tuple):
        names = list(metric)
        known = all(isinstance(name, str) and name for name in names)
        if not known or not 2 <= len(names) <= MOST_OBJECTIVES or len(set(names)) < len(names):
            allowed = f"a reported metric, or a list of 2 to {MOST_OBJECTIVES} different ones"
            raise bad_value("sweep.metric", names, allowed)
        given = list(direction) if isinstance(direction, list | tuple) else direction
        if not isinstance(given, list) or len(given) != len(names) or any(way not in ways for way in given):
            allowed = f"a list with minimize or maximize for each of {', '.join(names)}"
            raise bad_value("sweep.direction", given, allowed)
        objectives = (Objective(name, Direction(way)) for name, way in zip(names, given, strict=True))
        return Goal(tuple(objectives), constraints)
    if not isinstance(metric, str) or not metric:
        raise bad_value("sweep.metric", metric, "the name of a reported metric, or a list of several")
    if isinstance(direction, list | tuple):
        raise bad_value("sweep.direction", list(direction), "minimize, maximize, as sweep.metric is no list")
    if direction not in ways:
        raise bad_value("sweep.direction", direction, ", ".join(ways))
    return Goal((Objective(metric, Direction(direction)),), constraints)


def _constraints(given: Any) -> tuple[Constraint, ...]:
    if not isinstance(given, Mapping):
        raise bad_value("sweep.constraints", given, "metrics with a bound each, such as {parameters: '<= 50000'}")
    return tuple(_constraint(str(metric), bound) for metric, bound in given.items())


def _constraint(metric: str, given: Any) -> Constraint:
    found = _BOUND.fullmatch(given) if isinstance(given, str) else None
    try:
        bound = float(found[2]) if found else math.nan
    except ValueError:
        bound = math.nan
    if found is None or not math.isfinite(bound):
        raise bad_value(f"sweep.constraints.{metric}", given, _BOUNDS)
    return Constraint(metric, found[1], bound)


def check_alone(goal: Goal, values: Mapping[str, Any]) -> None:
    """Refuse what only one objective can have, in a sweep's whole config with several; raises `BadInputError`."""
    if not goal.several:
        return
    pruner = (values.get("pruner") or {}).get("name", "none")
    if pruner != "none":
        raise BadInputError(
            f"pruner: {pruner!r} is not allowed; allowed: none with several objectives, as no trial is worse than "
            "another halfway if it may be better in one of them."
        )
    sampler = (values.get("sampler") or {}).get("name")
    if sampler in ("cmaes", "bohb"):
        raise BadInputError(
            f"sampler: {sampler!r} is not allowed; allowed: nsga2, nsga3, tpe, gp, random, qmc, grid with several "
            "objectives, as this one has one."
        )
    for key in ("target", "patience"):
        given = (values.get("sweep") or {}).get(key)
        if given is not None:
            raise bad_value(f"sweep.{key}", given, "null with several objectives, as no one number ends their search")


# The front.


def dominates(left: Losses, right: Losses) -> bool:
    """Whether `left` is nowhere worse and somewhere better than `right`, of which less is better (Pareto 1896)."""
    return left != right and all(one <= other for one, other in zip(left, right, strict=True))


@dataclass(slots=True)
class Front:
    """The trials that no other dominates, by number; of equal ones all. Less is better.

    Taking one in costs a comparison with each that is there.
    """

    members: dict[int, Losses] = field(default_factory=dict)

    def add(self, number: int, losses: Losses) -> bool:
        """Take a trial in, and those out that it dominates; return whether it is on the front."""
        if any(dominates(other, losses) for other in self.members.values()):
            return False
        for dominated in [one for one, other in self.members.items() if dominates(losses, other)]:
            del self.members[dominated]
        self.members[number] = losses
        return True


def front_of(points: Iterable[tuple[int, Losses]]) -> list[int]:
    """Return the numbers of those points that no other dominates, the best in the first objective first."""
    front = Front()
    # In this order no later one dominates an earlier one, so that nothing is taken out again.
    for losses, number in sorted((losses, number) for number, losses in points):
        front.add(number, losses)
    return list(front.members)


def hypervolume(points: Iterable[Losses], reference: Losses) -> float:
    """Return the volume between points and a reference that they dominate, of which less is better.

    By slices along the last objective (While et al. 2006, "A faster algorithm for calculating hypervolume", section 2).
    """
    inside = {point for point in points if all(one < end for one, end in zip(point, reference, strict=True))}
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(point[0] for point in inside)
    if len(reference) == 2:
        return _area(inside, reference)
    ordered = sorted(inside, key=lambda point: point[-1])
    ends = [*(point[-1] for point in ordered[1:]), reference[-1]]
    total = 0.0
    for count, (point, end) in enumerate(zip(ordered, ends, strict=True), start=1):
        if end > point[-1]:
            total += (end - point[-1]) * hypervolume((one[:-1] for one in ordered[:count]), reference[:-1])
    return total


def _area(points: Iterable[Losses], reference: Losses) -> float:
    total, low = 0.0, reference[1]
    for x, y in sorted(points):
        if y < low:
            total += (reference[0] - x) * (low - y)
            low = y
    return total
