"""Intervals over seeds, and the verdicts that they give. Pure: no file, no record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from swathe.reporting.stats import mean_interval, wilson_interval

Setting = TypeVar("Setting")


class Verdict(StrEnum):
    """What a record says of a claim; `not shown` is neither of the others: the seeds do not tell."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    NOT_SHOWN = "not shown"


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, or a share, of `count` numbers with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    count: int

    def shown(self, digits: int = 3) -> str:
        """Return it as `mean [low, high]` with so many digits after the point."""
        mean, low, high = ("none" if math.isnan(x) else f"{x:,.{digits}f}" for x in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"


def interval(values: Iterable[float]) -> Interval:
    """Return the mean of independent numbers with Student's interval; of a single one it has no bounds.

    Numbers that are not finite leave no mean: it is NaN, and so are the bounds.
    """
    numbers = list(values)
    count = len(numbers)
    if not numbers or not all(map(math.isfinite, numbers)):
        return Interval(math.nan, math.nan, math.nan, count)
    if count == 1:
        return Interval(numbers[0], -math.inf, math.inf, count)
    mean, ends = mean_interval(numbers)
    return Interval(mean, ends.low, ends.high, count)


def share(hits: int, count: int) -> Interval:
    """Return a share with Wilson's interval (1927), which is no point where all or none are hits."""
    ends = wilson_interval(hits, count)
    return Interval(hits / count, ends.low, ends.high, count)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Interval:
    """Return the mean over seeds of `first` less `second`: a seed begins both with the same weights and order."""
    return interval(first[seed] - second[seed] for seed in sorted(first.keys() & second.keys()))


def above(found: Interval, bound: float) -> Verdict:
    """Confirm that the mean is above the bound where the whole interval is; refute it where the whole is below."""
    if found.low > bound:
        return Verdict.CONFIRMED
    return Verdict.REFUTED if found.high < bound else Verdict.NOT_SHOWN


def below(found: Interval, bound: float) -> Verdict:
    """Confirm that the mean is below the bound where the whole interval is; refute it where the whole is above."""
    if found.high < bound:
        return Verdict.CONFIRMED
    return Verdict.REFUTED if found.low > bound else Verdict.NOT_SHOWN


def within(found: Interval, low: float, high: float) -> Verdict:
    """Confirm that the mean lies between two bounds where the whole interval does; refute it where none of it does."""
    if low <= found.low and found.high <= high:
        return Verdict.CONFIRMED
    return Verdict.REFUTED if found.high < low or found.low > high else Verdict.NOT_SHOWN


def sooner(first: Mapping[int, float], second: Mapping[int, float]) -> Verdict:
    """Confirm that `first` takes less than `second`, by seed; what never gets there takes for ever (infinity).

    Where all seeds of one get there and none of the other's, that decides; where some do not, nothing is shown.
    """
    arrived = [[math.isfinite(value) for value in values.values()] for values in (first, second)]
    match [all(part) for part in arrived], [any(part) for part in arrived]:
        case [True, True], _:
            return below(paired(first, second), 0.0)
        case [True, _], [_, False]:
            return Verdict.CONFIRMED
        case [_, True], [False, _]:
            return Verdict.REFUTED
    return Verdict.NOT_SHOWN


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Return what parts say of a claim that is all of them: one that is refuted refutes it, all must be confirmed."""
    if Verdict.REFUTED in verdicts:
        return Verdict.REFUTED
    return Verdict.CONFIRMED if verdicts and set(verdicts) == {Verdict.CONFIRMED} else Verdict.NOT_SHOWN


def highest(settings: Mapping[Setting, Mapping[int, float]]) -> Setting:
    """Return the setting with the highest mean over its seeds; of equal ones the first."""
    return max(settings, key=lambda setting: math.fsum(settings[setting].values()) / len(settings[setting]))


def earliest(settings: Mapping[Setting, Mapping[int, float]]) -> Setting:
    """Return the setting that the most seeds get there with, of these the one with the lowest mean, or the first."""

    def rank(setting: Setting) -> tuple[int, float]:
        arrived = [value for value in settings[setting].values() if math.isfinite(value)]
        return -len(arrived), math.fsum(arrived) / len(arrived) if arrived else 0.0

    return min(settings, key=rank)
