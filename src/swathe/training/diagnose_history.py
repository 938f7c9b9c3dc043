"""What the detectors of `swathe.training.diagnose` know of a run: its last reports, and some numbers of all."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from swathe.training.symptoms import LAYER_NORMS, Facts, Metrics, Thresholds, finite

# E|median of |x - 2y + z|| / sigma for independent normal x, y, z: 0.6745 * sqrt(6).
_SECOND_DIFFERENCE = 1.652


@dataclass(slots=True)
class Report:
    """What a report says, None where it says nothing; losses and gradient norms may be infinite or NaN, no others."""

    number: int
    train: float | None
    val: float | None
    norm: float | None
    norm_max: float | None
    accuracy: float | None
    lr: float | None
    first: float | None
    last: float | None
    update: float | None
    dead: float | None
    saturated: float | None
    # The gradient's norm of each layer by its name, from the first to the last, where all are known.
    layers: tuple[tuple[str, float], ...]

    @property
    def first_share(self) -> float | None:
        """The first weights' gradient by the last ones', or by all parameters' where that is larger.

        Behind layers that pass nothing on, the last weights have no gradient either, and their bias has all of it.
        """
        whole = max(self.last or 0.0, finite(self.norm) or 0.0)
        return self.first / whole if self.first is not None and self.last is not None and whole > 0 else None


def _read(metrics: Metrics, number: int) -> Report:
    given = metrics.get
    return Report(
        number,
        given("train_loss"),
        given("val_loss"),
        given("grad_norm"),
        given("grad_norm_max"),
        finite(given("val_accuracy")),
        finite(given("lr")),
        finite(given("grad_norm_first")),
        finite(given("grad_norm_last")),
        finite(given("update_ratio")),
        finite(given("dead_units")),
        finite(given("saturated_units")),
        _layers(metrics),
    )


def _layers(metrics: Metrics) -> tuple[tuple[str, float], ...]:
    named = sorted((name, value) for name, value in metrics.items() if name.startswith(LAYER_NORMS))
    if not all(math.isfinite(value) for _, value in named):
        return ()
    return tuple((name.removeprefix(LAYER_NORMS), value) for name, value in named)


@dataclass(frozen=True, slots=True)
class Smooth:
    """Medians of three reports that have both losses; `count` is how many such reports there were."""

    count: int
    number: int
    val: float
    train: float
    accuracy: float | None
    lr: float | None


class Run:
    """What the detectors need of a history: the last reports, and some numbers of those before."""

    def __init__(self, facts: Facts, thresholds: Thresholds) -> None:
        window = thresholds.window
        self.facts = facts
        self.thresholds = thresholds
        self.guess = facts.guess_loss
        self.floor = facts.floor_loss
        self.report = _read({}, 0)
        # Reports with a finite training loss, and those of them with a finite validation loss too.
        self.trained: deque[tuple[Report, float]] = deque(maxlen=window)
        self.scored: deque[tuple[Report, float, float]] = deque(maxlen=window)
        self.scores = 0
        # From each training loss to the next, and whether the sign changed there.
        self.slopes: deque[float] = deque(maxlen=thresholds.lr_too_high_reports - 1)
        self.turns: deque[bool] = deque(maxlen=thresholds.lr_too_high_reports - 2)
        # The gradient norms of the reports before this one.
        self.norms: deque[float] = deque(maxlen=window)
        self.first_norm: float | None = None
        self.first_train: float | None = None
        self.first_val: float | None = None
        self.untrained: float | None = None
        # What guessing costs, or else the loss at the start; above 0, None while neither is known.
        self.unit = self.guess
        self.peak_lr: float | None = None
        self.dead_reports = 0
        self.steps_above_start = 0
        self.smooth: Smooth | None = None
        self.lowest: Smooth | None = None

    @property
    def start(self) -> float | None:
        """The loss that the run began with."""
        return self.first_train if self.untrained is None else self.untrained

    def take(self, metrics: Metrics) -> None:
        if (norm := finite(self.report.norm)) is not None:
            self.norms.append(norm)
        report = self.report = _read(metrics, self.report.number + 1)
        if report.number == 1:
            self.untrained = finite(metrics.get("first_loss"))
        if self.first_norm is None:
            self.first_norm = finite(report.norm)
        if report.lr is not None:
            self.peak_lr = report.lr if self.peak_lr is None else max(self.peak_lr, report.lr)
        if report.dead is not None:
            self.dead_reports = self.dead_reports + 1 if report.dead > self.thresholds.dead_share else 0
        train, val = finite(report.train), finite(report.val)
        if train is None:
            return
        self._take_train(report, train)
        if val is not None:
            if self.first_val is None:
                self.first_val = val
            self.scores += 1
            self.scored.append((report, train, val))
            self._smooth(report)

    def _take_train(self, report: Report, train: float) -> None:
        if self.first_train is None:
            self.first_train = train
            if self.unit is None and self.start:
                self.unit = abs(self.start)
        else:
            slope = train - self.trained[-1][1]
            if self.slopes:
                self.turns.append(slope * self.slopes[-1] < 0)
            self.slopes.append(slope)
        self.trained.append((report, train))
        # The loss of a regression's first batch is too far from the mean of all to compare with.
        if self.facts.classes is not None and self.guess is not None and self.untrained is not None:
            if train > max(self.untrained, self.guess) + self.thresholds.lr_too_high_rise * self.guess:
                self.steps_above_start += self.facts.steps_per_report or self.thresholds.lr_too_high_rise_steps
            else:
                self.steps_above_start = 0

    def _smooth(self, report: Report) -> None:
        if self.scores < 3:
            return
        (first, train1, val1), (second, train2, val2), (_, train3, val3) = (self.scored[at] for at in (-3, -2, -1))
        accuracies = [one for one in (first.accuracy, second.accuracy, report.accuracy) if one is not None]
        self.smooth = Smooth(
            self.scores,
            report.number,
            sorted((val1, val2, val3))[1],
            sorted((train1, train2, train3))[1],
            median(accuracies) if accuracies else None,
            report.lr,
        )
        if self.lowest is None or self.smooth.val < self.lowest.val:
            self.lowest = self.smooth

    def last(self, reports: int) -> list[tuple[Report, float]] | None:
        """Return the last reports that have a training loss, oldest first; None unless there are so many, up to now."""
        if len(self.trained) < reports or self.trained[-1][0] is not self.report:
            return None
        return [self.trained[at] for at in range(-reports, 0)]

    def is_dead(self) -> bool:
        return self.report.dead is not None and self.report.dead > self.thresholds.dead_share

    def is_within(self, share: float) -> bool:
        """Say whether the last training loss is at most `share` of guessing above the least that it can be."""
        return self.unit is not None and self.trained[-1][1] - self.floor <= share * self.unit


def noise(values: Sequence[float]) -> float:
    """Return the standard deviation of the noise around a smooth curve: a robust one, from second differences."""
    bends = [abs(values[at] - 2 * values[at + 1] + values[at + 2]) for at in range(len(values) - 2)]
    return median(bends) / _SECOND_DIFFERENCE if bends else 0.0
