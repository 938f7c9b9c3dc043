"""Points that the user wants tried: those of a sweep's config, and those that `swathe enqueue` leaves for its driver.

A trial that takes one carries the point's id, from the moment that the trial exists: so each point is tried once,
whoever is killed when.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from swathe.errors import BadInputError, bad_value
from swathe.events import Value
from swathe.home import write_aside

if TYPE_CHECKING:
    from swathe.space import Space

# The attribute of a trial that has the id of the point which it takes.
ENQUEUED = "enqueued"
# What a float can hold; an integer may be larger, and neither NaN nor an infinity is within it.
LARGEST = sys.float_info.max
_ALLOWED = "a mapping of parameters of the space to values, such as {optim.lr: 0.001}"


@dataclass(frozen=True, slots=True)
class Point:
    """Values for some parameters of a space, each in its distribution; the sampler draws the others."""

    id: str
    values: Mapping[str, Value]


def points_of(given: Sequence[Any], space: Space, key: str = "sweep.enqueue") -> tuple[Point, ...]:
    """Return the points that a config lists; raises `BadInputError` with the entry, the key and what is allowed."""
    return tuple(
        Point(f"{key}[{index}]", checked(values, space, f"{key}[{index}]")) for index, values in enumerate(given)
    )


def checked(given: object, space: Space, where: str) -> dict[str, Value]:
    """Return a point's values as their distributions have them; raises `BadInputError` for what the space refuses."""
    if not isinstance(given, Mapping) or not given:
        raise bad_value(where, given, _ALLOWED)
    values: dict[str, Value] = {}
    for name, value in given.items():
        parameter = space.parameters.get(str(name))
        if parameter is None:
            known = ", ".join(space.parameters) or "none, as nothing is searched"
            raise BadInputError(f"{where}: {name}: there is no such parameter in the space; allowed: {known}.")
        try:
            values[parameter.name] = member(parameter.distribution, value)
        except ValueError:
            allowed = allowed_text(parameter.distribution)
            raise bad_value(f"{where}: {name}", value, allowed) from None
    for name in values:
        for condition in space.parameters[name].conditions:
            if not condition.holds(values):
                raise BadInputError(
                    f"{where}: {name} exists only with {condition}; allowed: that in the same entry, or no {name}."
                )
    return values


def member(distribution: BaseDistribution, value: object) -> Value:
    """Return a value as the distribution itself would draw it; raises `ValueError` for one that it never draws."""
    if isinstance(distribution, CategoricalDistribution):
        return _choice(distribution, value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ValueError(f"{value!r} is no number")
    if not distribution._contains(float(value)):
        raise ValueError(f"{value!r} is out of range")
    if isinstance(distribution, IntDistribution):
        return int(value)
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        return float(value)
    # Decimal, so that 0.1 * 3 is 0.3.
    low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
    return float(low + round((Decimal(str(value)) - low) / step) * step)


def _choice(distribution: CategoricalDistribution, value: object) -> Value:
    # A space has lists as text.
    plain = json.dumps(value) if isinstance(value, list | tuple | dict) else value
    for choice in distribution.choices:
        # true and 1 are equal in Python, and not the same to who writes them.
        if choice == plain and isinstance(choice, bool) == isinstance(plain, bool):
            return choice
    raise ValueError(f"{value!r} is no choice")


def allowed_text(distribution: BaseDistribution) -> str:
    """Say which values a distribution has, for a refusal."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return ", ".join(map(str, choices))
        case IntDistribution(low=low, high=high, step=step):
            return f"an integer from {low} to {high}" + (f" in steps of {step}" if step != 1 else "")
        case FloatDistribution(low=low, high=high, step=step):
            return f"a number from {low:g} to {high:g}" + (f" in steps of {step:g}" if step is not None else "")
    raise TypeError(f"unknown distribution: {distribution}")


# From `swathe enqueue` to the driver.


def hand_over(folder: Path, values: Mapping[str, Value]) -> str:
    """Leave a point, checked already, in a sweep's folder for its driver, now or at the next launch; return its id."""
    identity = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    write_aside(_inbox(folder) / f"{identity}.json", json.dumps(dict(values)).encode())
    return identity


def _inbox(folder: Path) -> Path:
    return folder / "enqueued"


class Inbox:
    """The points left in a sweep's folder: each in a file of its own, until a trial that lasts has taken it."""

    def __init__(self, folder: Path, space: Space) -> None:
        self._folder = _inbox(folder)
        self._space = space
        self._seen: set[str] = set()

    def new(self, say: Callable[[str], None]) -> list[Point]:
        """Return the points that have come since the last look, in their order; what is no point is said and left."""
        points = []
        # Looked at after every event: where nobody enqueues there is no folder.
        if not self._folder.is_dir():
            return []
        for path in sorted(self._folder.glob("*.json")):
            if path.stem in self._seen:
                continue
            self._seen.add(path.stem)
            try:
                values = checked(json.loads(path.read_text()), self._space, path.name)
            except (OSError, ValueError, BadInputError) as error:
                say(f"{path.name} holds no point to try: {error}")
                continue
            points.append(Point(path.stem, values))
        return points

    def remove(self, taken: Iterable[str]) -> None:
        """Remove the files of points whose trials last."""
        for identity in self._seen.intersection(taken):
            (self._folder / f"{identity}.json").unlink(missing_ok=True)
            self._seen.discard(identity)
