"""What went wrong in a training run, said from its reports alone: symptom, evidence, advice and what to do about it.

Pure: no clock, no input or output, no torch. `diagnose` reads a whole history, `Diagnosis` the same report by report,
`diagnose_one_batch` the pre-flight's attempt to learn one batch by heart, and `diagnose_sweep` what only shows among
many trials.

What a report may hold
----------------------
A report is a mapping of these names to numbers. All are optional: a detector whose evidence is missing, or not finite,
says nothing; only losses and gradient norms that are not finite say something themselves.

* `train_loss`, `val_loss`: means over the report's steps and over the validation part, nats for classification.
* `val_accuracy`: share, 0 to 1.
* `lr`: the learning rate of the report's last step.
* `grad_norm`, `grad_norm_max`: mean and maximum over the report's steps of the gradient's global L2 norm, unclipped.
* `grad_norm_first`, `grad_norm_last`: mean over the steps, or some of them, of the L2 norm of the gradient of the
  first and of the last weight matrix that is trained, unclipped.
* `update_ratio`: mean over the steps, or some of them, of an update's L2 norm by that of the parameters before it, over
  all trained parameters; no unit. About 1e-3 in good health.
* `dead_units`: share, 0 to 1, of the units behind ReLU-like activations that are 0 for every example of a batch. Of a
  batch of at least 128, as a healthy unit is silent for half of the examples.
* `saturated_units`: share, 0 to 1, of the outputs of sigmoid and tanh layers within 1 % of their range of an end of it.
* `first_loss`: the training loss of the first step, before any update; only that of the first report counts. After a
  few updates at a rate that is too high it would no longer be what the run began with.

What the symptoms mean
----------------------
Each has a plain definition, whose numbers are the defaults of `Thresholds`, and what must hold besides, because healthy
runs meet the plain definition too. A loss is measured by what guessing costs: ln(classes), or `Facts.baseline_loss`,
or the loss at the start where neither is known. A change below `flat` (1 %) of that is none, so that ratios of losses
near zero mean nothing; a loss below `good` (10 %) of it, above the least that it can be, is good.

* diverged: a loss or a gradient is not finite, or the training loss is above 10 times its first value, or a gradient
  norm above 1000 times its running median (of the last `window` reports). The last only if it is also above that of the
  first report and a loss jumps by `diverged_jump` (10 %) of guessing at once: a run that leaves a plateau has such a
  gradient while its loss falls, a clipped one survives it, and a converged one has a median near 0.
* broken set-up: one batch cannot be learned by heart (loss below 0.01 in 200 steps at rate 1e-3). In training too, as a
  tag: the untrained loss is above `broken_start` (3) times ln(classes), so that inputs or initialisation are out of
  scale; or the training loss is below guessing by `broken_fall` (3 %), while validation never was and has not improved
  for `broken_reports` (3), nor is its accuracy better than guessing's by 5 points, as with shuffled labels.
* vanishing: the first layer's gradient is below 1e-4 of the last one's while the loss moves by less than `flat`. For
  `vanishing_reports` (3) in a row, as loss and gradient of a deep network may be so for a moment; silent where the loss
  is good (then being flat is natural) and where dead units explain it.
* dead relu: more than half of the units are 0 for a whole batch, in `dead_reports` (2) reports in a row.
* lr too high: the loss turns in more than 60 % of `lr_too_high_reports` (10, at least 6) with an amplitude above 10 %
  of its mean. Mere noise turns in two of three, so that all hangs on the amplitude, the median step between reports: it
  says nothing where the mean is good. The validation loss, where there is one, must swing as widely: it does not where
  few steps a report make the training loss noisy. Silent while the rate rises. And a rate that is far too high shows no
  swing, as the loss shoots up, units die and all is quiet; so it is also too high when the training loss, over
  `lr_too_high_rise_steps` (10), is above both its start and guessing by `lr_too_high_rise` (10 %).
* lr too low: updates are below 1e-5 of the weights and the loss's slope is nearly constant. Silent when the rate was
  twice as high before (a schedule's end), rises (a warm-up), the loss is good, the gradient is below a tenth of the
  first (converged) or vanishes, or units are dead. Adam's updates are above 1e-5 at any rate in use, so a ratio below
  `lr_too_low_slow` (5e-4, half of what is healthy) counts too if the loss has fallen in a straight line from the start
  and is still above half of guessing.
* overfitting: the validation loss is 5 % above its minimum while the training loss fell. Both are medians of three
  reports, `overfitting_reports` (3) or more after the minimum. The rise and the fall must exceed what the noise of that
  loss makes likely in so many reports: `overfitting_noise` (1.5) * sigma * sqrt(2 ln n), sigma from second differences,
  which a trend does not enter. Silent at a higher rate than at the minimum (one-cycle, restarts). Where the objective
  is the accuracy and it is better than at the minimum, or is neither of the two, it is only a tag.
* underfitting: a training loss has its plateau more than 20 % above the sweep's best. The trial's best validation loss
  must be as far above the sweep's, or every well-regularised trial would underfit beside one that knows its data by
  heart; and a trial that has findings of its own is explained.
* space too narrow: the best 5 % of trials, of 20 or more, are within 5 % of an edge of a range. At least
  `narrow_trials` (3) of them, as the single best of 20 is at an edge of a parameter without influence in one case of
  ten; `narrow_share` (75 %) suffices, and must be less likely than `narrow_chance` (1 %) for such a parameter, which
  is what counts where a range has few values. Silent where the range cannot be widened.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import pairwise
from statistics import median

from swathe.errors import BadInputError, bad_value

Metrics = Mapping[str, float]

# E|median of |x - 2y + z|| / sigma for independent normal x, y, z: 0.6745 * sqrt(6).
_SECOND_DIFFERENCE = 1.652
# The smallest number above 0.
_TINY = 5e-324
# A rate counts as higher than another from this factor on.
_SAME_RATE = 1.01


class Symptom(StrEnum):
    """What can be wrong, in the order in which one report's findings come."""

    DIVERGED = "diverged"
    BROKEN_SETUP = "broken_setup"
    VANISHING = "vanishing"
    DEAD_RELU = "dead_relu"
    LR_TOO_HIGH = "lr_too_high"
    LR_TOO_LOW = "lr_too_low"
    OVERFITTING = "overfitting"
    UNDERFITTING = "underfitting"
    SPACE_TOO_NARROW = "space_too_narrow"


class Action(StrEnum):
    """What the sweep does: end the trial now with the worst value, end it as it stands, only tag, or not begin."""

    STOP = "stop"
    EARLY_STOP = "early_stop"
    TAG = "tag"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: `evidence` and `advice` are a sentence each, reports counted from 1."""

    symptom: Symptom
    evidence: str
    advice: str
    action: Action


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_above(value: object, bound: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bound < value < math.inf


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a run before it begins; raises `BadInputError` for a value that is not allowed.

    `classes`: None where nothing is classified. `baseline_loss`: the loss of the best constant answer, for regression
    the variance of the targets; None for ln(classes). `steps_per_report`: optimiser steps. `objective`: the metric
    that the sweep optimises. `adversarial`: two networks against each other (GAN), whose losses need not fall: only
    what is not finite is wrong then. `loss_scaling`: fp16, whose steps with an infinite gradient are skipped.
    """

    classes: int | None = None
    baseline_loss: float | None = None
    label_smoothing: float = 0.0
    steps_per_report: int | None = None
    objective: str = "val_loss"
    adversarial: bool = False
    loss_scaling: bool = False

    def __post_init__(self) -> None:
        if self.classes is not None and not _is_count(self.classes, 2):
            raise bad_value("facts.classes", self.classes, "an integer, at least 2, or null")
        if self.baseline_loss is not None and not _is_above(self.baseline_loss, 0):
            raise bad_value("facts.baseline_loss", self.baseline_loss, "a finite number above 0, or null")
        if not 0 <= self.label_smoothing < 1:
            raise bad_value("facts.label_smoothing", self.label_smoothing, "a number from 0 to below 1")
        if self.steps_per_report is not None and not _is_count(self.steps_per_report, 1):
            raise bad_value("facts.steps_per_report", self.steps_per_report, "an integer, at least 1, or null")

    @property
    def guess_loss(self) -> float | None:
        """The loss of a guess that knows nothing of the inputs, None when unknown."""
        if self.baseline_loss is None and self.classes is not None:
            return math.log(self.classes)
        return self.baseline_loss

    @property
    def floor_loss(self) -> float:
        """The least training loss there can be: the entropy of smoothed labels (Szegedy et al. 2016, section 7)."""
        if self.classes is None or self.label_smoothing == 0:
            return 0.0
        other = self.label_smoothing / self.classes
        right = 1 - self.label_smoothing + other
        # Too small a share has a logarithm no more, and no weight either.
        return -right * math.log(right) - ((self.classes - 1) * other * math.log(other) if other > 0 else 0.0)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a symptom is one, by symptom; raises `BadInputError` for a value that is not allowed.

    Names that end in `_reports`, `_trials` or `_steps` count. Losses are compared in shares of what guessing costs.
    """

    # For all: reports kept for medians and noise; the change of a loss that is none; the loss that is good enough.
    window: int = 50
    flat: float = 0.01
    good: float = 0.1
    # What the advice says.
    clip_norm: float = 5.0
    lr_factor: float = 10.0
    # Gradient norm by its running median, with which jump of the loss; loss by its first value.
    diverged_gradient: float = 1e3
    diverged_jump: float = 0.1
    diverged_loss: float = 10.0
    # The first layer's gradient norm by the last one's.
    vanishing_ratio: float = 1e-4
    vanishing_reports: int = 3
    # Share of slopes that change their sign, by which amplitude in shares of the mean loss; the rise above the start.
    lr_too_high_changes: float = 0.6
    lr_too_high_amplitude: float = 0.1
    lr_too_high_reports: int = 10
    lr_too_high_rise: float = 0.1
    lr_too_high_rise_steps: int = 10
    # Update-to-weight ratio: too low in any case, and too low for a loss that falls in a straight line.
    lr_too_low_ratio: float = 1e-5
    lr_too_low_slow: float = 5e-4
    lr_too_low_reports: int = 6
    # The part of a slope that may change where it is "nearly constant".
    lr_too_low_bend: float = 0.5
    overfitting_rise: float = 0.05
    overfitting_noise: float = 1.5
    overfitting_reports: int = 3
    underfitting_excess: float = 0.2
    underfitting_reports: int = 6
    dead_share: float = 0.5
    dead_reports: int = 2
    # Learning one batch by heart; the untrained loss by ln(classes); training whose validation learns nothing.
    broken_loss: float = 0.01
    broken_steps: int = 200
    broken_lr: float = 1e-3
    broken_start: float = 3.0
    broken_fall: float = 0.03
    broken_reports: int = 3
    # The best trials, the width of an edge, how many trials there must be, and how many of the best at an edge.
    narrow_best: float = 0.05
    narrow_edge: float = 0.05
    narrow_finished_trials: int = 20
    narrow_trials: int = 3
    narrow_share: float = 0.75
    narrow_chance: float = 0.01

    def __post_init__(self) -> None:
        for item in fields(self):
            name, value = item.name, getattr(self, item.name)
            key = f"diagnosis.{name}"
            if name.endswith(("_reports", "_trials", "_steps")) or name == "window":
                least = _LEAST.get(name, 1)
                if not _is_count(value, least):
                    raise bad_value(key, value, f"an integer, at least {least}")
            elif not _is_above(value, 0):
                raise bad_value(key, value, "a finite number above 0")
            elif name in _SHARES and value > 1:
                raise bad_value(key, value, "a share above 0, at most 1")
        longest = max(getattr(self, name) for name in _IN_WINDOW)
        if self.window < longest:
            raise bad_value("diagnosis.window", self.window, f"at least {longest}, as many reports are looked at")


_SHARES = frozenset(
    {
        "lr_too_high_changes",
        "lr_too_low_bend",
        "dead_share",
        "narrow_best",
        "narrow_edge",
        "narrow_share",
        "narrow_chance",
    }
)
_IN_WINDOW = ("vanishing_reports", "lr_too_high_reports", "lr_too_low_reports", "underfitting_reports")
# Counts that mean nothing below some number: two slopes, two halves with a slope each, a minimum and a present.
_LEAST = {
    "window": 6,
    "vanishing_reports": 2,
    "lr_too_high_reports": 6,
    "lr_too_low_reports": 4,
    "overfitting_reports": 2,
    "underfitting_reports": 4,
}

_NO_FACTS = Facts()
_DEFAULTS = Thresholds()


# A run.


@dataclass(slots=True)
class _Report:
    """What a report says, None where it says nothing; losses and gradient norms may be infinite or NaN, no others."""

    number: int
    train: float | None
    val: float | None
    norm: float | None
    norm_max: float | None
    accuracy: float | None
    lr: float | None
    first_by_last: float | None
    update: float | None
    dead: float | None
    saturated: float | None


def _read(metrics: Metrics, number: int) -> _Report:
    given = metrics.get
    first, last = _finite(given("grad_norm_first")), _finite(given("grad_norm_last"))
    return _Report(
        number,
        given("train_loss"),
        given("val_loss"),
        given("grad_norm"),
        given("grad_norm_max"),
        _finite(given("val_accuracy")),
        _finite(given("lr")),
        first / last if first is not None and last is not None and last > 0 else None,
        _finite(given("update_ratio")),
        _finite(given("dead_units")),
        _finite(given("saturated_units")),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class _Smooth:
    """Medians of three reports that have both losses; `count` is how many such reports there were."""

    count: int
    number: int
    val: float
    train: float
    accuracy: float | None
    lr: float | None


class _Run:
    """What the detectors need of a history: the last reports, and some numbers of those before."""

    def __init__(self, facts: Facts, thresholds: Thresholds) -> None:
        window = thresholds.window
        self.facts = facts
        self.thresholds = thresholds
        self.guess = facts.guess_loss
        self.floor = facts.floor_loss
        self.report = _read({}, 0)
        # Reports with a finite training loss, and those of them with a finite validation loss too.
        self.trained: deque[tuple[_Report, float]] = deque(maxlen=window)
        self.scored: deque[tuple[_Report, float, float]] = deque(maxlen=window)
        self.scores = 0
        # From each training loss to the next, and whether the sign changed there.
        self.slopes: deque[float] = deque(maxlen=thresholds.lr_too_high_reports - 1)
        self.turns: deque[bool] = deque(maxlen=thresholds.lr_too_high_reports - 2)
        # The gradient norms of the reports before this one.
        self.norms: deque[float] = deque(maxlen=window)
        self.first_norm: float | None = None
        self.first_train: float | None = None
        self.untrained: float | None = None
        # What guessing costs, or else the loss at the start; above 0, None while neither is known.
        self.unit = self.guess
        self.peak_lr: float | None = None
        self.dead_reports = 0
        self.steps_above_start = 0
        self.smooth: _Smooth | None = None
        self.lowest: _Smooth | None = None

    @property
    def start(self) -> float | None:
        """The loss that the run began with."""
        return self.first_train if self.untrained is None else self.untrained

    def take(self, metrics: Metrics) -> None:
        if (norm := _finite(self.report.norm)) is not None:
            self.norms.append(norm)
        report = self.report = _read(metrics, self.report.number + 1)
        if report.number == 1:
            self.untrained = _finite(metrics.get("first_loss"))
        if self.first_norm is None:
            self.first_norm = _finite(report.norm)
        if report.lr is not None:
            self.peak_lr = report.lr if self.peak_lr is None else max(self.peak_lr, report.lr)
        if report.dead is not None:
            self.dead_reports = self.dead_reports + 1 if report.dead > self.thresholds.dead_share else 0
        train, val = _finite(report.train), _finite(report.val)
        if train is None:
            return
        self._take_train(report, train)
        if val is not None:
            self.scores += 1
            self.scored.append((report, train, val))
            self._smooth(report)

    def _take_train(self, report: _Report, train: float) -> None:
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

    def _smooth(self, report: _Report) -> None:
        if self.scores < 3:
            return
        (first, train1, val1), (second, train2, val2), (_, train3, val3) = (self.scored[at] for at in (-3, -2, -1))
        accuracies = [one for one in (first.accuracy, second.accuracy, report.accuracy) if one is not None]
        self.smooth = _Smooth(
            self.scores,
            report.number,
            sorted((val1, val2, val3))[1],
            sorted((train1, train2, train3))[1],
            median(accuracies) if accuracies else None,
            report.lr,
        )
        if self.lowest is None or self.smooth.val < self.lowest.val:
            self.lowest = self.smooth

    def last(self, reports: int) -> list[tuple[_Report, float]] | None:
        """Return the last reports that have a training loss, oldest first; None unless there are so many, up to now."""
        if len(self.trained) < reports or self.trained[-1][0] is not self.report:
            return None
        return [self.trained[at] for at in range(-reports, 0)]

    def is_dead(self) -> bool:
        return self.report.dead is not None and self.report.dead > self.thresholds.dead_share

    def is_within(self, share: float) -> bool:
        """Say whether the last training loss is at most `share` of guessing above the least that it can be."""
        return self.unit is not None and self.trained[-1][1] - self.floor <= share * self.unit


def _noise(values: Sequence[float]) -> float:
    """Return the standard deviation of the noise around a smooth curve: a robust one, from second differences."""
    bends = [abs(values[at] - 2 * values[at + 1] + values[at + 2]) for at in range(len(values) - 2)]
    return median(bends) / _SECOND_DIFFERENCE if bends else 0.0


def _number(value: float) -> str:
    return f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


# The detectors of a run: a finding, or None.


def _diverged(run: _Run) -> Finding | None:
    evidence = _not_finite(run)
    if evidence is None and not run.facts.adversarial:
        evidence = _grown(run) or _gradient_jumped(run)
    if evidence is None:
        return None
    advice = (
        f"{_other_rate(run, 'Lower')}, clip the gradient norm at {_number(run.thresholds.clip_norm)}, "
        "normalise inputs and layers, or choose an initialisation that suits the activation."
    )
    return Finding(Symptom.DIVERGED, evidence, advice, Action.STOP)


def _not_finite(run: _Run) -> str | None:
    report = run.report
    values = [("training loss", report.train), ("validation loss", report.val)]
    if not run.facts.loss_scaling:
        values += [("gradient norm", report.norm), ("gradient's largest norm", report.norm_max)]
    for name, value in values:
        if value is not None and not math.isfinite(value):
            return f"The {name} is {value} at report {report.number}."
    return None


def _grown(run: _Run) -> str | None:
    train, start, unit = run.report.train, run.start, run.unit
    if train is None or start is None or unit is None or start <= 0:
        return None
    factor = run.thresholds.diverged_loss
    if train <= factor * max(start, run.thresholds.flat * unit):
        return None
    return (
        f"The training loss is {_number(train)} at report {run.report.number}, "
        f"more than {_number(factor)} times the {_number(start)} that it began with."
    )


def _gradient_jumped(run: _Run) -> str | None:
    report, thresholds = run.report, run.thresholds
    jump = _jump(run)
    if jump is None or run.unit is None or jump <= thresholds.diverged_jump * run.unit:
        return None
    norms = [norm for value in (report.norm, report.norm_max) if (norm := _finite(value)) is not None]
    if not norms or not run.norms or run.first_norm is None:
        return None
    usual = median(run.norms)
    if max(norms) <= max(thresholds.diverged_gradient * usual, run.first_norm):
        return None
    return (
        f"The gradient norm is {_number(max(norms))} at report {report.number}, where its running median is "
        f"{_number(usual)}, and the loss has risen by {_number(jump)}."
    )


def _jump(run: _Run) -> float | None:
    """Return how much a loss has risen since the report before, the validation or the training loss."""
    if len(run.trained) < 2 or run.trained[-1][0] is not run.report:
        return None
    (before, train_before), (now, train) = run.trained[-2], run.trained[-1]
    if before.val is None or now.val is None:
        return train - train_before
    return max(train - train_before, now.val - before.val)


def _other_rate(run: _Run, verb: str) -> str:
    factor, lr = run.thresholds.lr_factor, run.peak_lr
    if lr is None or lr <= 0:
        return f"{verb} the learning rate by a factor of {_number(factor)}"
    return f"{verb} the learning rate from {_number(lr)} to {_number(lr / factor if verb == 'Lower' else lr * factor)}"


def _broken(run: _Run) -> Finding | None:
    evidence = _starts_too_high(run)
    if evidence is not None:
        advice = "Normalise the inputs and check the scale of the initial weights, of the last layer above all."
        return Finding(Symptom.BROKEN_SETUP, evidence, advice, Action.TAG)
    evidence = _validation_learns_nothing(run)
    if evidence is not None:
        advice = "Check that labels belong to their inputs, and that training and validation are prepared alike."
        return Finding(Symptom.BROKEN_SETUP, evidence, advice, Action.TAG)
    return None


def _starts_too_high(run: _Run) -> str | None:
    classes, untrained = run.facts.classes, run.untrained
    if classes is None or untrained is None:
        return None
    guess = math.log(classes)
    if untrained <= run.thresholds.broken_start * guess:
        return None
    return (
        f"The untrained network's loss is {_number(untrained)}, {_number(untrained / guess)} times the "
        f"{_number(guess)} of guessing among {classes} classes."
    )


def _validation_learns_nothing(run: _Run) -> str | None:
    guess, smooth, lowest, thresholds = run.guess, run.smooth, run.lowest, run.thresholds
    if guess is None or smooth is None or lowest is None or smooth.number != run.report.number:
        return None
    # Both losses of a slow start are worse than guessing for long, and fall together.
    if smooth.count - lowest.count < thresholds.broken_reports:
        return None
    if not smooth.train < (1 - thresholds.broken_fall) * guess <= lowest.val:
        return None
    # Labels that are right now and then, but surely wrong otherwise, cost more than guessing too.
    classes = run.facts.classes
    if classes is not None and (smooth.accuracy is None or smooth.accuracy > 1 / classes + 0.05):
        return None
    return (
        f"The training loss has come down to {_number(smooth.train)}, but the validation loss has never been below "
        f"{_number(lowest.val)}, and guessing costs {_number(guess)}."
    )


def _vanishing(run: _Run) -> Finding | None:
    report, thresholds, unit = run.report, run.thresholds, run.unit
    if report.first_by_last is None or report.first_by_last >= thresholds.vanishing_ratio or run.is_dead():
        return None
    last = run.last(thresholds.vanishing_reports)
    if last is None or unit is None or run.is_within(thresholds.good):
        return None
    if any(one.first_by_last is None or one.first_by_last >= thresholds.vanishing_ratio for one, _ in last):
        return None
    losses = [train for _, train in last]
    moved = max(losses) - min(losses)
    if moved >= thresholds.flat * unit:
        return None
    evidence = (
        f"The first layer's gradient is {_number(report.first_by_last)} times the last one's, while the training loss "
        f"has moved by {_number(moved)} in {len(last)} reports, at {_number(losses[-1])}"
    )
    if report.saturated:
        evidence += f"; {_percent(report.saturated)} of the sigmoid and tanh outputs are saturated"
    advice = "Use ReLU, batch normalisation, residual connections, or the He or Xavier initialisation."
    return Finding(Symptom.VANISHING, f"{evidence}.", advice, Action.TAG)


def _dead_relu(run: _Run) -> Finding | None:
    report = run.report
    if report.dead is None or run.dead_reports < run.thresholds.dead_reports:
        return None
    evidence = (
        f"{_percent(report.dead)} of the ReLU units are 0 for every example of a batch at report {report.number}, "
        f"the last of {run.dead_reports} such reports."
    )
    advice = f"{_other_rate(run, 'Lower')}, use the He initialisation, or leaky ReLU."
    return Finding(Symptom.DEAD_RELU, evidence, advice, Action.TAG)


def _lr_too_high(run: _Run) -> Finding | None:
    evidence = _above_start(run) or _oscillates(run)
    if evidence is None:
        return None
    return Finding(Symptom.LR_TOO_HIGH, evidence, f"{_other_rate(run, 'Lower')}.", Action.TAG)


def _above_start(run: _Run) -> str | None:
    train = run.report.train
    if train is None or run.untrained is None or run.steps_above_start < run.thresholds.lr_too_high_rise_steps:
        return None
    return (
        f"The training loss is {_number(train)} at report {run.report.number}: above the {_number(run.untrained)} "
        f"of the untrained network, and above guessing, by more than {_percent(run.thresholds.lr_too_high_rise)}."
    )


def _oscillates(run: _Run) -> str | None:
    thresholds, unit = run.thresholds, run.unit
    # Of fewer than four pairs of slopes all may turn by chance.
    if len(run.turns) < 4 or sum(run.turns) <= thresholds.lr_too_high_changes * len(run.turns) or unit is None:
        return None
    last = run.last(len(run.slopes) + 1)
    if last is None or _rises(last):
        return None
    amplitude = median(map(abs, run.slopes))
    mean = sum(train for _, train in last) / len(last) - run.floor
    if mean <= thresholds.good * unit or amplitude <= thresholds.lr_too_high_amplitude * mean:
        return None
    vals = [report.val for report, _ in last if report.val is not None]
    if len(vals) == len(last):
        swing = median(abs(after - before) for before, after in pairwise(vals))
        if swing <= max(thresholds.flat * unit, thresholds.lr_too_high_amplitude * sum(vals) / len(vals)):
            return None
    return (
        f"The training loss turned at {sum(run.turns)} of the last {len(run.turns)} reports, "
        f"by {_number(amplitude)} each time, {_percent(amplitude / mean)} of its mean."
    )


def _rises(last: Sequence[tuple[_Report, float]]) -> bool:
    """Say whether the learning rate rises over some reports."""
    before, after = last[0][0].lr, last[-1][0].lr
    return before is not None and after is not None and after > _SAME_RATE * before


def _lr_too_low(run: _Run) -> Finding | None:
    report, thresholds, unit = run.report, run.thresholds, run.unit
    low, slow = thresholds.lr_too_low_ratio, max(thresholds.lr_too_low_ratio, thresholds.lr_too_low_slow)
    if report.update is None or report.update >= slow or not _moves_freely(run):
        return None
    last = run.last(thresholds.lr_too_low_reports)
    if last is None or unit is None or run.is_within(thresholds.good) or _rises(last):
        return None
    updates = [one.update for one, _ in last if one.update is not None]
    if len(updates) < len(last) or max(updates) >= slow:
        return None
    losses = [train for _, train in last]
    early, late = _slopes(losses)
    tolerance = 0.1 * thresholds.flat * unit
    if abs(late - early) > max(thresholds.lr_too_low_bend * max(abs(early), abs(late)), tolerance):
        return None
    if max(early, late) > tolerance or (max(updates) >= low and not _is_straight(run, losses)):
        return None
    evidence = (
        f"An update is {_number(report.update)} of the weights' size, and the training loss changes by "
        f"{_number((losses[-1] - losses[0]) / (len(losses) - 1))} a report without bending, "
        f"at {_number(losses[-1])} at report {report.number}."
    )
    return Finding(Symptom.LR_TOO_LOW, evidence, f"{_other_rate(run, 'Raise')}.", Action.TAG)


def _moves_freely(run: _Run) -> bool:
    """Say whether nothing but the learning rate can be why updates are small."""
    report = run.report
    if run.is_dead() or (report.first_by_last is not None and report.first_by_last < run.thresholds.vanishing_ratio):
        return False
    if report.lr is not None and run.peak_lr is not None and report.lr < 0.5 * run.peak_lr:
        return False
    norm = _finite(report.norm)
    return norm is None or run.first_norm is None or norm >= 0.1 * run.first_norm


def _slopes(losses: Sequence[float]) -> tuple[float, float]:
    """Return the mean slopes, a report, of the two halves."""
    half = len(losses) // 2
    return (losses[half - 1] - losses[0]) / max(1, half - 1), (losses[-1] - losses[half]) / max(1, half - 1)


def _is_straight(run: _Run, losses: Sequence[float]) -> bool:
    """Say whether the loss falls at the end as fast as it did on the whole, and has come down less than half way."""
    first = run.first_train
    if first is None or run.is_within(0.5):
        return False
    fall = (losses[0] - losses[-1]) / (len(losses) - 1)
    overall = (first - losses[-1]) / max(1, run.report.number - 1)
    if fall * (len(losses) - 1) <= 4 * _noise(losses):
        return False
    bend = run.thresholds.lr_too_low_bend
    return bend * overall <= fall <= overall / bend


def _overfitting(run: _Run) -> Finding | None:
    smooth, lowest, thresholds, unit = run.smooth, run.lowest, run.thresholds, run.unit
    if smooth is None or lowest is None or unit is None or smooth.number != run.report.number:
        return None
    since = smooth.count - lowest.count
    rise = smooth.val - lowest.val
    if since < thresholds.overfitting_reports or lowest.val <= 0:
        return None
    if rise <= max(thresholds.overfitting_rise * lowest.val, thresholds.flat * unit):
        return None
    fall = lowest.train - smooth.train
    if fall <= thresholds.flat * abs(lowest.train):
        return None
    if smooth.lr is not None and lowest.lr is not None and smooth.lr > _SAME_RATE * lowest.lr:
        return None
    # The extremes of n normal draws are some sqrt(2 ln n) standard deviations from their mean.
    chance = thresholds.overfitting_noise * math.sqrt(2 * math.log(smooth.count))
    if rise <= chance * _noise([val for _, _, val in run.scored]):
        return None
    if fall <= chance * _noise([train for _, train, _ in run.scored]):
        return None
    evidence = (
        f"The validation loss has risen by {_percent(rise / lowest.val)} to {_number(smooth.val)} from its minimum "
        f"{_number(lowest.val)} at report {lowest.number}, while the training loss fell from {_number(lowest.train)} "
        f"to {_number(smooth.train)}."
    )
    advice = "Regularise, augment the data, stop early, or use a smaller network."
    action = Action.EARLY_STOP if _is_past_its_best(run, smooth, lowest) else Action.TAG
    return Finding(Symptom.OVERFITTING, evidence, advice, action)


def _is_past_its_best(run: _Run, smooth: _Smooth, lowest: _Smooth) -> bool:
    """Say whether the objective is no better than where the validation loss was least."""
    match run.facts.objective:
        case "val_loss":
            return True
        case "val_accuracy" if smooth.accuracy is not None and lowest.accuracy is not None:
            return smooth.accuracy <= lowest.accuracy
        case _:
            return False


_DETECTORS: tuple[tuple[Symptom, Callable[[_Run], Finding | None]], ...] = (
    (Symptom.BROKEN_SETUP, _broken),
    (Symptom.VANISHING, _vanishing),
    (Symptom.DEAD_RELU, _dead_relu),
    (Symptom.LR_TOO_HIGH, _lr_too_high),
    (Symptom.LR_TOO_LOW, _lr_too_low),
    (Symptom.OVERFITTING, _overfitting),
)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a sweep must know of a run: smoothed losses above the least that they can be, None where there are none.

    `train_loss` is the last one, `val_loss` the least; `plateaued`: the training loss no longer falls; `unit`: what
    guessing costs; `findings` are the run's own.
    """

    train_loss: float | None
    val_loss: float | None
    plateaued: bool
    unit: float | None
    findings: tuple[Finding, ...]


class Diagnosis:
    """The findings on one run, report by report: each symptom once, when it first shows.

    A report costs a constant, whatever came before: only the last `Thresholds.window` are kept. After a divergence
    nothing counts any more.
    """

    def __init__(self, facts: Facts = _NO_FACTS, thresholds: Thresholds = _DEFAULTS) -> None:
        self._run = _Run(facts, thresholds)
        self._findings: dict[Symptom, Finding] = {}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings so far, in the order in which they came."""
        return tuple(self._findings.values())

    def add(self, report: Metrics) -> tuple[Finding, ...]:
        """Take in the next report and return what is new."""
        if Symptom.DIVERGED in self._findings:
            return ()
        self._run.take(report)
        new = tuple(self._new())
        self._findings.update((finding.symptom, finding) for finding in new)
        return new

    def _new(self) -> Iterator[Finding]:
        detectors = _DETECTORS
        if (diverged := _diverged(self._run)) is not None:
            yield diverged
            # All that can still be said is that it could not have gone well.
            detectors = ((Symptom.BROKEN_SETUP, _broken),)
        if self._run.facts.adversarial:
            return
        for symptom, detect in detectors:
            if symptom not in self._findings and (finding := detect(self._run)) is not None:
                yield finding

    def summary(self) -> Summary:
        """Return what `diagnose_sweep` must know of the run."""
        run = self._run
        last = [train for _, train in run.trained][-3:]
        return Summary(
            train_loss=median(last) - run.floor if last else None,
            val_loss=None if run.lowest is None else run.lowest.val,
            plateaued=self._has_plateaued(),
            unit=run.unit,
            findings=self.findings,
        )

    def _has_plateaued(self) -> bool:
        run = self._run
        reports = run.thresholds.underfitting_reports
        losses = [train for _, train in run.trained][-reports:]
        if len(losses) < reports or run.unit is None:
            return False
        half = len(losses) // 2
        return median(losses[:half]) - median(losses[half:]) < run.thresholds.flat * run.unit


def diagnose(
    history: Iterable[Metrics], facts: Facts = _NO_FACTS, thresholds: Thresholds = _DEFAULTS
) -> tuple[Finding, ...]:
    """Return the findings on a whole run, in the order in which they showed."""
    diagnosis = Diagnosis(facts, thresholds)
    for report in history:
        diagnosis.add(report)
    return diagnosis.findings


def diagnose_one_batch(
    losses: Sequence[float], facts: Facts = _NO_FACTS, thresholds: Thresholds = _DEFAULTS
) -> Finding | None:
    """Judge an attempt to learn one batch by heart, by the loss before each step, with Adam at `broken_lr`.

    Unable means that no loss of the first `broken_steps` came within `broken_loss` of the least that it can be; for
    regression that is a share of `Facts.baseline_loss`. With fewer losses, all finite, the attempt proves nothing.
    """
    seen = losses[: thresholds.broken_steps]
    scale = 1.0 if facts.classes is not None or facts.baseline_loss is None else facts.baseline_loss
    bad = next((step for step, loss in enumerate(seen, start=1) if not math.isfinite(loss)), None)
    if bad is not None:
        evidence = f"The loss on one batch is {seen[bad - 1]} at step {bad} at learning rate {thresholds.broken_lr:g}."
        advice = "Check the data for NaN and infinite values, their scale, and the model."
        return Finding(Symptom.BROKEN_SETUP, evidence, advice, Action.REFUSE)
    if len(seen) < thresholds.broken_steps or min(seen) - facts.floor_loss < thresholds.broken_loss * scale:
        return None
    evidence = (
        f"The loss on one batch is still {_number(min(seen))} after {len(seen)} steps at learning rate "
        f"{thresholds.broken_lr:g}, where {_number(facts.floor_loss + thresholds.broken_loss * scale)} can be expected."
    )
    advice = "Check the data, the labels, the loss and the model: equal inputs with different labels, a frozen layer."
    return Finding(Symptom.BROKEN_SETUP, evidence, advice, Action.REFUSE)


# A sweep.


@dataclass(frozen=True, slots=True)
class Range:
    """The range of a parameter, both ends included; `step` for values on a grid, as integers are (1).

    `least` and `most` are as far as it can be widened, None without a limit; 0 is one for a linear range from 0 or
    above. Raises `BadInputError` for a range that is empty or not finite.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    least: float | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        if not (self.low < self.high and math.isfinite(self.high - self.low)):
            ends = f"{self.low!r} to {self.high!r}"
            raise BadInputError(f"range: {ends} is not allowed; allowed: low < high, both finite.")
        if self.log and not (self.low > 0 and math.isfinite(self.high / self.low)):
            raise bad_value("range.low", self.low, "a number above 0, as the range is logarithmic")
        if self.step is not None and not 0 < self.step <= self.high - self.low < 1e15 * self.step:
            raise bad_value("range.step", self.step, "a number above 0, at most high - low, or null")

    def place(self, value: float) -> float:
        """Return where a value is, from 0 (low) to 1 (high), by logarithms in a logarithmic range."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def _scaled(self, value: float) -> float:
        return math.log(max(value, _TINY)) if self.log else value

    def chance(self, edge: float, *, low: bool) -> float:
        """Return the chance that a random value is within `edge` (a share of the width) of one end."""
        if self.step is None:
            return edge
        # On a grid a value stands for all that is nearer to it than to its neighbours.
        half = self.step / 2
        begin, end = self._scaled(self.low - half), self._scaled(self.high + half)
        if self.log:
            width = self.low * ((self.high / self.low) ** edge - 1)
            width = width if low else self.high * (1 - (self.low / self.high) ** edge)
        else:
            width = edge * (self.high - self.low)
        inside = math.floor(width / self.step + 1e-9) * self.step + half
        inner = self._scaled(self.low + inside) - begin if low else end - self._scaled(self.high - inside)
        return inner / (end - begin)

    def wider(self, *, low: bool) -> float | None:
        """Return a new end half the width farther out, by logarithms in a logarithmic range; None where none is."""
        start, sign = (self.low, -1) if low else (self.high, 1)
        if self.log:
            end = start * math.sqrt(self.high / self.low) ** sign
        else:
            end = start + sign * (self.high - self.low) / 2
        if self.step is None:
            end = _rounded(end, start)
        elif math.isfinite(end):
            end = start + sign * self.step * max(1, round(abs(end - start) / self.step))
        least = 0.0 if self.least is None and self.low >= 0 else self.least
        if low and least is not None:
            end = max(end, least)
        elif not low and self.most is not None:
            end = min(end, self.most)
        within = math.isfinite(end) and not (self.log and end <= 0)
        return end if within and sign * (end - start) > 0 else None


def _rounded(end: float, start: float) -> float:
    """Return a number with few digits that is as good a new end as `end`: off by an eighth of the way at most."""
    for digits in range(1, 17):
        rounded = float(f"{end:.{digits}g}")
        if abs(rounded - end) <= abs(end - start) / 8:
            return rounded
    return end


@dataclass(frozen=True, slots=True)
class SweepTrial:
    """A trial that is over, neither failed nor suspended.

    `value` is its objective, None or not finite for the worst; `complete`: it was neither pruned nor stopped, so that
    its value can be compared.
    """

    trial: int
    params: Mapping[str, object]
    value: float | None
    complete: bool = True
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class NarrowSide:
    """One end of a parameter's range where the best trials are; `bound` is a new end, farther out."""

    parameter: str
    low: bool
    bound: float
    finding: Finding


@dataclass(frozen=True, slots=True)
class SweepDiagnosis:
    """Trials that underfit, by number, and sides of the space to widen, in the order of the ranges."""

    underfitting: Mapping[int, Finding]
    narrow: tuple[NarrowSide, ...]


def diagnose_sweep(
    trials: Iterable[SweepTrial],
    ranges: Mapping[str, Range],
    *,
    maximize: bool = False,
    thresholds: Thresholds = _DEFAULTS,
) -> SweepDiagnosis:
    """Return what shows only among many trials; parameters without a range (choices) have no edges."""
    known = list(trials)
    narrow = (side for name, span in ranges.items() for side in _narrow(name, span, known, maximize, thresholds))
    return SweepDiagnosis(_underfitting(known, thresholds), tuple(narrow))


def _underfitting(trials: Sequence[SweepTrial], thresholds: Thresholds) -> dict[int, Finding]:
    runs = {one.trial: one.summary for one in trials if one.summary is not None}
    train = [value for run in runs.values() if (value := _finite(run.train_loss)) is not None]
    val = [value for run in runs.values() if (value := _finite(run.val_loss)) is not None]
    if not train:
        return {}
    best_train, best_val = min(train), min(val, default=None)
    found = {}
    for trial, run in runs.items():
        if run.findings or not run.plateaued or run.train_loss is None:
            continue
        if not _exceeds(run.train_loss, best_train, run.unit, thresholds):
            continue
        if best_val is not None and (
            run.val_loss is None or not _exceeds(run.val_loss, best_val, run.unit, thresholds)
        ):
            continue
        evidence = (
            f"The training loss stays at {_number(run.train_loss)}, where the sweep's best is {_number(best_train)}"
        )
        if best_val is not None and run.val_loss is not None:
            evidence += f"; the validation loss has come to {_number(run.val_loss)}, the sweep's to {_number(best_val)}"
        advice = "Use a larger network, train longer, or raise the learning rate."
        found[trial] = Finding(Symptom.UNDERFITTING, f"{evidence}.", advice, Action.TAG)
    return found


def _exceeds(loss: float, best: float, unit: float | None, thresholds: Thresholds) -> bool:
    margin = max(thresholds.underfitting_excess * abs(best), thresholds.flat * (unit or 0.0))
    return math.isfinite(loss) and loss - best > margin


def _narrow(
    name: str, span: Range, trials: Sequence[SweepTrial], maximize: bool, thresholds: Thresholds
) -> Iterator[NarrowSide]:
    having = [(one, value) for one in trials if (value := _numeric(one.params.get(name))) is not None]
    sign = -1.0 if maximize else 1.0
    ranked = sorted(
        (sign * one.value, one.trial, value)
        for one, value in having
        if one.complete and one.value is not None and math.isfinite(one.value)
    )
    wanted = max(thresholds.narrow_trials, math.ceil(thresholds.narrow_best * len(having)))
    best = [value for _, _, value in ranked[:wanted]]
    if len(having) < thresholds.narrow_finished_trials or len(best) < thresholds.narrow_trials:
        return
    edge = thresholds.narrow_edge
    for low in (True, False):
        places = [span.place(value) for value in best]
        at_edge = sum(place <= edge if low else place >= 1 - edge for place in places)
        chance = _at_least(at_edge, len(best), span.chance(edge, low=low))
        bound = span.wider(low=low)
        if at_edge < thresholds.narrow_share * len(best) or chance >= thresholds.narrow_chance or bound is None:
            continue
        end, word = (span.low, "lower") if low else (span.high, "upper")
        evidence = (
            f"{at_edge} of the {len(best)} best of {len(having)} trials have {name} within {_percent(edge)} of the "
            f"{word} end, {_number(end)}, of its range."
        )
        advice = f"Widen the range of {name}: a {word} end of {_number(bound)}."
        yield NarrowSide(name, low, bound, Finding(Symptom.SPACE_TOO_NARROW, evidence, advice, Action.TAG))


def _numeric(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return _finite(float(value))


def _at_least(hits: int, draws: int, chance: float) -> float:
    """Return the chance of at least `hits` in `draws`: the binomial distribution's tail."""
    if hits <= 0 or chance >= 1:
        return 1.0
    yes, no, ways = math.log(chance), math.log1p(-chance), math.lgamma(draws + 1)
    return sum(
        math.exp(ways - math.lgamma(k + 1) - math.lgamma(draws - k + 1) + k * yes + (draws - k) * no)
        for k in range(hits, draws + 1)
    )
