"""The report's arithmetic, pure: bins of a parameter, intervals, best-of-n, roles of parameters, what pruning saved."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from statistics import fmean, median, stdev

import numpy as np
from scipy.special import stdtrit

from swathe.events import Value

# A range of numbers is looked at in so many equal parts, in logarithms where it is searched so.
BINS = 8
CONFIDENCE = 0.95
# Best-of-n curves end at so many trials.
LONGEST = 500
# The normal distribution's quantile at (1 + CONFIDENCE) / 2.
_Z = 1.959963984540054
# Groups of the config whose values decide what is trained, not how.
_SCIENTIFIC_GROUPS = ("model", "data", "batch_size")


class Fate(Enum):
    """How a trial ended; `PRUNED` by the pruner, `STOPPED` as the sweep's budget ended or for another reason."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SweptTrial:
    """A trial that is over.

    `first` and `value`: its first and last reported metric, None where not finite. `step`: its last report, 0 without
    one. `planned`: the steps of a whole training, None where nobody knows. `seconds`: what it took of a device.
    `objectives`: all of a complete trial, where there are several. `feasible`: whether it keeps the constraints.
    """

    number: int
    params: Mapping[str, Value]
    fate: Fate
    first: float | None
    value: float | None
    step: int
    planned: int | None
    seconds: float
    objectives: tuple[float, ...] = ()
    feasible: bool = True


@dataclass(frozen=True, slots=True)
class Bin:
    """A part of an axis: one value, or all from `low` to `high`."""

    label: str
    low: float | None = None
    high: float | None = None


def short(value: float, digits: int = 2) -> str:
    """Return a number with few digits, whole from 100 to a million: 0.042, 240, 1e+06."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 and digits < 3 else f"{value:.{digits}g}"


@dataclass(frozen=True, slots=True)
class Axis:
    """A parameter of the space: a choice of `choices`, or a range with both ends included; `step` on a grid."""

    name: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    step: float | None = None

    @property
    def is_choice(self) -> bool:
        return bool(self.choices)

    def bins(self) -> tuple[Bin, ...]:
        """Return the parts in order: one for each choice, and each number where they are few, else `BINS`."""
        if self.is_choice:
            return tuple(Bin(str(choice)) for choice in self.choices)
        if (count := self._few()) is not None:
            values = [self.low + index * (self.step or 0.0) for index in range(count)]
            return tuple(Bin(short(value, 4), value, value) for value in values)
        edges = [self._at(index / BINS) for index in range(BINS + 1)]
        return tuple(Bin(f"{short(low)} to {short(high)}", low, high) for low, high in pairwise(edges))

    def bin_of(self, value: Value) -> int | None:
        """Return the index of the part in which a value lies; None for one that is not on the axis."""
        if self.is_choice:
            return self.choices.index(value) if value in self.choices else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        if (count := self._few()) is not None:
            return max(0, min(count - 1, round((value - self.low) / (self.step or 1.0))))
        return max(0, min(BINS - 1, int(self._place(value) * BINS)))

    def _few(self) -> int | None:
        """Return how many values a grid has, if each can be a part of its own; None else. One value is a part, too."""
        if self.low >= self.high:
            return 1
        if self.step is None:
            return None
        count = round((self.high - self.low) / self.step) + 1
        return count if count <= BINS else None

    def _place(self, value: float) -> float:
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def _at(self, place: float) -> float:
        if self.log:
            return self.low * float((self.high / self.low) ** place)
        return self.low + place * (self.high - self.low)


def by_bin(axis: Axis, trials: Iterable[SweptTrial]) -> list[list[SweptTrial]]:
    """Sort trials into the axis' bins; those without the parameter are left out."""
    found: list[list[SweptTrial]] = [[] for _ in axis.bins()]
    for trial in trials:
        if axis.name in trial.params and (index := axis.bin_of(trial.params[axis.name])) is not None:
            found[index].append(trial)
    return found


def best_of(trials: Iterable[SweptTrial], *, maximize: bool) -> SweptTrial | None:
    """Return the best complete trial that keeps the constraints, the first of equals; None without one."""
    sign = -1.0 if maximize else 1.0
    whole = [
        (sign * trial.value, trial.number, trial)
        for trial in trials
        if trial.fate is Fate.COMPLETE and trial.value is not None and trial.feasible
    ]
    return min(whole)[2] if whole else None


# Intervals.


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends at `CONFIDENCE`."""

    low: float
    high: float


def mean_interval(values: Sequence[float]) -> tuple[float, Interval]:
    """Return the mean of two or more finite numbers and Student's interval for it (Student 1908)."""
    mean = fmean(values)
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / math.sqrt(len(values))
    return mean, Interval(mean - half, mean + half)


def share_interval(hits: int, draws: int) -> Interval:
    """Return the interval for a share of which `draws` trials have shown `hits`, Wilson's where there are both.

    Without a hit, 0 to the share that would show none in `draws` with a chance of 5 %, which is about 3 / draws: the
    rule of three (Hanley & Lippman-Hand 1983), in its exact form as `draws` is small. With hits alone, its mirror.
    """
    if draws == 0:
        return Interval(0.0, 1.0)
    if hits == 0:
        return Interval(0.0, 1 - (1 - CONFIDENCE) ** (1 / draws))
    if hits == draws:
        return Interval((1 - CONFIDENCE) ** (1 / draws), 1.0)
    return wilson_interval(hits, draws)


def wilson_interval(hits: int, draws: int) -> Interval:
    """Return the interval for a share of one draw or more (Wilson 1927), no point where all or none are hits."""
    share, spread = hits / draws, _Z**2 / draws
    centre = share + spread / 2
    half = _Z * math.sqrt(share * (1 - share) / draws + spread / (4 * draws))
    return Interval(max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread)))


# Best of n.


def expected_best(values: Sequence[float], *, maximize: bool) -> list[float]:
    """Return the expected best of n trials for n = 1, 2 ..., where each is drawn from `values` with replacement.

    As many as there are values, `LONGEST` at most. Dodge et al. 2019, "Show Your Work", equation 3: the sum of
    v * (P(best <= v) - P(best < v)), with the chances by the values.
    """
    # From the worst to the best: the best of n draws is at or before place i with the chance (i / N) ** n.
    ordered = np.sort(np.asarray(values, dtype=np.float64))[:: 1 if maximize else -1]
    places = np.arange(len(ordered) + 1) / len(ordered)
    return [float(ordered @ np.diff(places**n)) for n in range(1, min(len(ordered), LONGEST) + 1)]


def bound_for_bad(trials: Sequence[SweptTrial], *, maximize: bool) -> float | None:
    """Return what a useless trial counts as: what the median trial has at its first report; None without a report.

    Or at its end, where that is worse: a metric need not improve.
    """
    first = [trial.first for trial in trials if trial.first is not None]
    last = [trial.value for trial in trials if trial.value is not None and trial.fate is Fate.COMPLETE]
    medians = [median(values) for values in (first, last) if values]
    if not medians:
        return None
    return min(medians) if maximize else max(medians)


def scores(trials: Iterable[SweptTrial], bad: float, *, maximize: bool) -> list[float]:
    """Return the last value of each trial; `bad` for those that diverged, failed or ended worse than that."""
    cut = max if maximize else min
    return [
        bad if trial.value is None or trial.fate in (Fate.DIVERGED, Fate.FAILED) else cut(trial.value, bad)
        for trial in trials
    ]


# Roles.


@dataclass(frozen=True, slots=True)
class Roles:
    """Parameters by their role (Godbole et al. 2023, Deep Learning Tuning Playbook)."""

    scientific: tuple[str, ...]
    nuisance: tuple[str, ...]


def roles(axes: Mapping[str, Axis], groups: Collection[str], named: Sequence[str], *, function: bool) -> Roles:
    """Tell scientific from nuisance parameters: those that are `named`, else by the rule.

    The rule: what swaps a whole group of the config (`groups`), or says what is trained (`model.*`, `data.*`,
    `batch_size`), is scientific, for a function each choice; all others are nuisance.
    """

    def is_scientific(name: str) -> bool:
        if named:
            return name in named
        if function:
            return axes[name].is_choice
        return name in groups or name.split(".")[0] in _SCIENTIFIC_GROUPS

    scientific = tuple(name for name in axes if is_scientific(name))
    return Roles(scientific, tuple(name for name in axes if name not in scientific))


# Pruning.


@dataclass(frozen=True, slots=True)
class Saved:
    """What pruning left out: steps of `trials` trials, the steps that all trials trained, and device seconds.

    `seconds` supposes that a trial's later steps would have cost what its first ones did.
    """

    trials: int
    steps: int
    trained: int
    seconds: float

    @property
    def share(self) -> float:
        """The steps that were left out, as a share of all that there would have been."""
        return self.steps / max(1, self.steps + self.trained)


def saved(trials: Sequence[SweptTrial]) -> Saved:
    """Add up what pruned trials did not train."""
    pruned = [trial for trial in trials if trial.fate is Fate.PRUNED and trial.planned is not None and trial.step > 0]
    left = {trial.number: max(0, (trial.planned or 0) - trial.step) for trial in pruned}
    return Saved(
        trials=len(pruned),
        steps=sum(left.values()),
        trained=sum(trial.step for trial in trials),
        seconds=sum(trial.seconds / trial.step * left[trial.number] for trial in pruned),
    )
