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
* `grad_norm/NAME`: the same of every weight matrix, by names whose alphabetical order is that of the layers: they make
  the evidence of a vanishing gradient more precise.
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
runs meet the plain definition too. A loss is measured by what guessing costs: `Facts.baseline_loss`, or ln(classes),
or the loss at the start where neither is known. A change below `flat` (1 %) of that is none, so that ratios of losses
near zero mean nothing; a loss below `good` (10 %) of it, above the least that it can be, is good.

* diverged: a loss or a gradient is not finite, or the training loss is above 10 times its first value, or a gradient
  norm above 1000 times its running median (of the last `window` reports). The last only if it is also above that of the
  first report and a loss jumps by `diverged_jump` (10 %) of guessing at once: a run that leaves a plateau has such a
  gradient while its loss falls, a clipped one survives it, and a converged one has a median near 0.
* broken set-up: one batch cannot be learned by heart: its loss is not below `broken_loss` (0.01) in 200 steps at rate
  1e-3, nor below `broken_stuck` (half) of guessing, and no longer falls. That loss alone is too strict: of 60 healthy
  networks 47, most with sigmoids or few units, need more steps, or have no room for a batch. In training too, as a tag:
  - the untrained loss is above `broken_start` (3) times ln(classes), or that of a regression, a square, above 3 * 3
    times guessing over the first report as well; or bounded activations are saturated there by more than
    `broken_saturated` (half): inputs, targets or initialisation are out of scale;
  - the training loss is below guessing by `broken_fall` (3 %), or below the validation loss by as much of guessing,
    while validation never was below and has not improved for `broken_reports` (3), nor is its accuracy better than
    guessing's by 5 points, as with shuffled labels. Guessing is that of each part, see `dataset_facts`: classes of
    different sizes and a small validation part look learned otherwise;
  - the gradient of the first or the last weights is exactly 0 for as many reports, as of frozen layers. Silent where
    dead or saturated units may be why, unless the loss falls.
  Of loaded weights (`Facts.pretrained`) neither the first loss nor the first saturation is judged: on another task they
  are surely wrong at first. Where they are right already, ten times guessing is diverged. What a transfer freezes is
  not trained, so that `grad_norm_first` is that of the first weights which are.
* vanishing: the first layer's gradient is below 1e-4 of the last one's, or of the whole, as the last layer's bias alone
  has one where small weights let nothing through, while the loss moves by less than `flat`. For `vanishing_reports`
  (3) in a row, as loss and gradient of a deep network may be so for a moment; silent where the loss is good (then being
  flat is natural) and where dead units explain it.
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
  and is still above half of guessing. Slopes are those of the validation loss where it is the less noisy one.
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
  is what counts where a range has few values. Where fewer than `narrow_trials` of all trials are within 5 %, the edge
  reaches as far as that many are, at most `narrow_reach` (20 %), and the best trial must be the last before the end: of
  24 random trials one is within 5 %. Silent where the range cannot be widened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import median

from swathe.training.diagnose_history import Report, Run, Smooth, noise
from swathe.training.diagnose_sweep import NarrowSide, Range, SweepDiagnosis, SweepTrial, diagnose_sweep
from swathe.training.symptoms import (
    DEFAULTS,
    NO_FACTS,
    Action,
    Facts,
    Finding,
    Metrics,
    Summary,
    Symptom,
    Thresholds,
    finite,
    number,
    percent,
)

__all__ = [
    "Action",
    "Diagnosis",
    "Facts",
    "Finding",
    "Metrics",
    "NarrowSide",
    "Range",
    "Summary",
    "SweepDiagnosis",
    "SweepTrial",
    "Symptom",
    "Thresholds",
    "diagnose",
    "diagnose_one_batch",
    "diagnose_sweep",
]

# A rate counts as higher than another from this factor on.
_SAME_RATE = 1.01

# The detectors of a run: a finding, or None.


def _diverged(run: Run) -> Finding | None:
    evidence = _not_finite(run)
    if evidence is None and not run.facts.adversarial:
        evidence = _grown(run) or _gradient_jumped(run)
    if evidence is None:
        return None
    advice = (
        f"{_other_rate(run, 'Lower')}, clip the gradient norm at {number(run.thresholds.clip_norm)}, "
        "normalise inputs and layers, or choose an initialisation that suits the activation."
    )
    return Finding(Symptom.DIVERGED, evidence, advice, Action.STOP)


def _not_finite(run: Run) -> str | None:
    report = run.report
    values = [("training loss", report.train), ("validation loss", report.val)]
    if not run.facts.loss_scaling:
        values += [("gradient norm", report.norm), ("gradient's largest norm", report.norm_max)]
    for name, value in values:
        if value is not None and not math.isfinite(value):
            return f"The {name} is {value} at report {report.number}."
    return None


def _grown(run: Run) -> str | None:
    train, start, unit = run.report.train, run.start, run.unit
    if train is None or start is None or unit is None or start <= 0:
        return None
    factor = run.thresholds.diverged_loss
    if train <= factor * max(start, unit if run.facts.pretrained else run.thresholds.flat * unit):
        return None
    return (
        f"The training loss is {number(train)} at report {run.report.number}, "
        f"more than {number(factor)} times the {number(start)} that it began with."
    )


def _gradient_jumped(run: Run) -> str | None:
    report, thresholds = run.report, run.thresholds
    jump = _jump(run)
    if jump is None or run.unit is None or jump <= thresholds.diverged_jump * run.unit:
        return None
    norms = [norm for value in (report.norm, report.norm_max) if (norm := finite(value)) is not None]
    if not norms or not run.norms or run.first_norm is None:
        return None
    usual = median(run.norms)
    if max(norms) <= max(thresholds.diverged_gradient * usual, run.first_norm):
        return None
    return (
        f"The gradient norm is {number(max(norms))} at report {report.number}, where its running median is "
        f"{number(usual)}, and the loss has risen by {number(jump)}."
    )


def _jump(run: Run) -> float | None:
    """Return how much a loss has risen since the report before, the validation or the training loss."""
    if len(run.trained) < 2 or run.trained[-1][0] is not run.report:
        return None
    (before, train_before), (now, train) = run.trained[-2], run.trained[-1]
    if before.val is None or now.val is None:
        return train - train_before
    return max(train - train_before, now.val - before.val)


def _other_rate(run: Run, verb: str) -> str:
    factor, lr = run.thresholds.lr_factor, run.peak_lr
    if lr is None or lr <= 0:
        return f"{verb} the learning rate by a factor of {number(factor)}"
    return f"{verb} the learning rate from {number(lr)} to {number(lr / factor if verb == 'Lower' else lr * factor)}"


def _broken(run: Run) -> Finding | None:
    evidence = None if run.facts.pretrained else _starts_too_high(run) or _starts_saturated(run)
    if evidence is not None:
        what = "inputs" if run.facts.classes is not None else "inputs and targets"
        advice = f"Normalise the {what} and check the scale of the initial weights, of the last layer above all."
        return Finding(Symptom.BROKEN_SETUP, evidence, advice, Action.TAG)
    evidence = _validation_learns_nothing(run)
    if evidence is not None:
        advice = "Check that labels belong to their inputs, and that training and validation are prepared alike."
        return Finding(Symptom.BROKEN_SETUP, evidence, advice, Action.TAG)
    evidence = _has_no_gradient(run)
    if evidence is not None:
        advice = "Look for layers that are frozen or detached, and for inputs that are 0 or all alike."
        return Finding(Symptom.BROKEN_SETUP, evidence, advice, Action.TAG)
    return None


def _starts_too_high(run: Run) -> str | None:
    classes, guess, untrained, factor = run.facts.classes, run.guess, run.untrained, run.thresholds.broken_start
    if untrained is None:
        return None
    if classes is not None:
        uniform = math.log(classes)
        if untrained <= factor * uniform:
            return None
        return (
            f"The untrained network's loss is {number(untrained)}, {number(untrained / uniform)} times the "
            f"{number(uniform)} of guessing among {classes} classes."
        )
    # A loss of squares is by the square too high. Those of one batch are too few to judge by.
    train = run.first_train
    if train is None or guess is None or run.report.number > 1 or min(untrained, train) <= factor**2 * guess:
        return None
    return (
        f"The untrained network's loss is {number(untrained)}, and {number(train)} over the first report: "
        f"{number(train / guess)} times the {number(guess)} of guessing the mean."
    )


def _starts_saturated(run: Run) -> str | None:
    """Look for bounded activations at their ends from the start, which hide inputs and weights out of scale."""
    report, start, unit = run.report, run.start, run.unit
    if report.number > 1 or report.saturated is None or report.saturated <= run.thresholds.broken_saturated:
        return None
    # A rate that is too high drives them there too, and the loss up.
    if report.train is None or start is None or unit is None:
        return None
    if not report.train <= run.thresholds.broken_start * max(start, unit):
        return None
    return f"{percent(report.saturated)} of the sigmoid and tanh outputs are saturated at the first report."


def _validation_learns_nothing(run: Run) -> str | None:
    guess, smooth, lowest, thresholds = run.guess, run.smooth, run.lowest, run.thresholds
    val_guess = run.facts.val_guess_loss
    if guess is None or val_guess is None or smooth is None or lowest is None or smooth.number != run.report.number:
        return None
    # Both losses of a slow start are worse than guessing for long, and fall together.
    if smooth.count - lowest.count < thresholds.broken_reports:
        return None
    least = 1 - thresholds.broken_fall
    if lowest.val < least * val_guess:
        return None
    # Many examples that have nothing in common are slow to learn by heart: only the gap shows.
    gap = smooth.val / val_guess - smooth.train / guess
    if smooth.train >= least * guess and (gap <= thresholds.broken_fall or _has_vanished(run.report, thresholds)):
        return None
    # Labels that are right now and then, but surely wrong otherwise, cost more than guessing too.
    chance = run.facts.guess_accuracy
    if chance is not None and (smooth.accuracy is None or smooth.accuracy > chance + 0.05):
        return None
    return (
        f"The training loss has come down to {number(smooth.train)}, where guessing costs {number(guess)}, but the "
        f"validation loss has never been below {number(lowest.val)}, where guessing costs {number(val_guess)}."
    )


def _has_no_gradient(run: Run) -> str | None:
    """Look for weights whose gradient is exactly 0, for which there is no other reason."""
    last = run.last(run.thresholds.broken_reports)
    # What is dead or saturated passes exactly nothing on as well; a loss that moves tells that this is not why.
    if last is None or any(report.first is None or report.last is None for report, _ in last):
        return None
    losses = [train for _, train in last]
    passive = any((report.dead or 0.0) + (report.saturated or 0.0) > 0.1 for report, _ in last)
    if passive and (run.unit is None or losses[0] - losses[-1] < run.thresholds.flat * run.unit):
        return None
    ends = {
        "first layer": all(report.first == 0 for report, _ in last),
        "last layer": all(report.last == 0 for report, _ in last),
    }
    still = [name for name, is_still in ends.items() if is_still]
    # A loss of 0 has no gradient.
    if not still or min(losses) - run.floor <= 0:
        return None
    return f"The gradient of the {' and the '.join(still)} has been exactly 0 for {len(last)} reports."


def _vanishing(run: Run) -> Finding | None:
    report, thresholds, unit = run.report, run.thresholds, run.unit
    if not _has_vanished(report, thresholds) or run.is_dead():
        return None
    last = run.last(thresholds.vanishing_reports)
    if last is None or unit is None or run.is_within(thresholds.good):
        return None
    if not all(_has_vanished(one, thresholds) for one, _ in last):
        return None
    losses = [train for _, train in last]
    moved = max(losses) - min(losses)
    if moved >= thresholds.flat * unit:
        return None
    evidence = (
        f"The first layer's gradient is {number(report.first_share or 0.0)} times the others', while the training loss "
        f"has moved by {number(moved)} in {len(last)} reports, at {number(losses[-1])}"
    )
    if report.saturated:
        evidence += f"; {percent(report.saturated)} of the sigmoid and tanh outputs are saturated"
    evidence += _layer_by_layer(report)
    advice = "Use ReLU, batch normalisation, residual connections, or the He or Xavier initialisation."
    return Finding(Symptom.VANISHING, f"{evidence}.", advice, Action.TAG)


def _layer_by_layer(report: Report) -> str:
    """Say by how much the gradient shrinks from a layer to the one before it, where it is known of every layer."""
    shares = [
        (before / after, name)
        for (name, before), (_, after) in pairwise(report.layers)
        if after > 0 and math.isfinite(before / after)
    ]
    if len(shares) < 2:
        return ""
    least, name = min(shares)
    usual = number(median(share for share, _ in shares))
    return f"; in each layer it is {usual} times that of the next one (median), least in {name} ({number(least)})"


def _has_vanished(report: Report, thresholds: Thresholds) -> bool:
    return report.first_share is not None and report.first_share < thresholds.vanishing_ratio


def _dead_relu(run: Run) -> Finding | None:
    report = run.report
    if report.dead is None or run.dead_reports < run.thresholds.dead_reports:
        return None
    evidence = (
        f"{percent(report.dead)} of the ReLU units are 0 for every example of a batch at report {report.number}, "
        f"the last of {run.dead_reports} such reports."
    )
    advice = f"{_other_rate(run, 'Lower')}, use the He initialisation, or leaky ReLU."
    return Finding(Symptom.DEAD_RELU, evidence, advice, Action.TAG)


def _lr_too_high(run: Run) -> Finding | None:
    evidence = _above_start(run) or _oscillates(run)
    if evidence is None:
        return None
    return Finding(Symptom.LR_TOO_HIGH, evidence, f"{_other_rate(run, 'Lower')}.", Action.TAG)


def _above_start(run: Run) -> str | None:
    train = run.report.train
    if train is None or run.untrained is None or run.steps_above_start < run.thresholds.lr_too_high_rise_steps:
        return None
    return (
        f"The training loss is {number(train)} at report {run.report.number}: above the {number(run.untrained)} "
        f"of the untrained network, and above guessing, by more than {percent(run.thresholds.lr_too_high_rise)}."
    )


def _oscillates(run: Run) -> str | None:
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
        f"by {number(amplitude)} each time, {percent(amplitude / mean)} of its mean."
    )


def _rises(last: Sequence[tuple[Report, float]]) -> bool:
    """Say whether the learning rate rises over some reports."""
    before, after = last[0][0].lr, last[-1][0].lr
    return before is not None and after is not None and after > _SAME_RATE * before


def _lr_too_low(run: Run) -> Finding | None:
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
    losses, first = _steadiest(run, last)
    early, late = _slopes(losses)
    tolerance = 0.1 * thresholds.flat * unit
    if abs(late - early) > max(thresholds.lr_too_low_bend * max(abs(early), abs(late)), tolerance):
        return None
    if max(early, late) > tolerance or (max(updates) >= low and not _is_straight(run, losses, first)):
        return None
    evidence = (
        f"An update is {number(report.update)} of the weights' size, and the loss changes by "
        f"{number((losses[-1] - losses[0]) / (len(losses) - 1))} a report without bending, "
        f"at {number(losses[-1])} at report {report.number}."
    )
    return Finding(Symptom.LR_TOO_LOW, evidence, f"{_other_rate(run, 'Raise')}.", Action.TAG)


def _steadiest(run: Run, last: Sequence[tuple[Report, float]]) -> tuple[list[float], float | None]:
    """Return the losses that a slope is read from, and their first: those of validation where these are less noisy.

    Of a few steps with a few examples each, the training losses of two reports differ by more than what was learned.
    """
    losses = [train for _, train in last]
    vals = [val for report, _ in last if (val := finite(report.val)) is not None]
    if len(vals) == len(losses) and vals[-1] < vals[0] and noise(vals) < noise(losses):
        return vals, run.first_val
    return losses, run.first_train


def _moves_freely(run: Run) -> bool:
    """Say whether nothing but the learning rate can be why updates are small."""
    report = run.report
    if run.is_dead() or _has_vanished(report, run.thresholds):
        return False
    if report.lr is not None and run.peak_lr is not None and report.lr < 0.5 * run.peak_lr:
        return False
    norm = finite(report.norm)
    return norm is None or run.first_norm is None or norm >= 0.1 * run.first_norm


def _slopes(losses: Sequence[float]) -> tuple[float, float]:
    """Return the mean slopes, a report, of the two halves."""
    half = len(losses) // 2
    return (losses[half - 1] - losses[0]) / max(1, half - 1), (losses[-1] - losses[half]) / max(1, half - 1)


def _is_straight(run: Run, losses: Sequence[float], first: float | None) -> bool:
    """Say whether the loss falls at the end as fast as it did on the whole, and has come down less than half way."""
    if first is None or run.is_within(0.5):
        return False
    fall = (losses[0] - losses[-1]) / (len(losses) - 1)
    overall = (first - losses[-1]) / max(1, run.report.number - 1)
    if fall * (len(losses) - 1) <= 4 * noise(losses):
        return False
    bend = run.thresholds.lr_too_low_bend
    return bend * overall <= fall <= overall / bend


def _overfitting(run: Run) -> Finding | None:
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
    if rise <= chance * noise([val for _, _, val in run.scored]):
        return None
    if fall <= chance * noise([train for _, train, _ in run.scored]):
        return None
    evidence = (
        f"The validation loss has risen by {percent(rise / lowest.val)} to {number(smooth.val)} from its minimum "
        f"{number(lowest.val)} at report {lowest.number}, while the training loss fell from {number(lowest.train)} "
        f"to {number(smooth.train)}."
    )
    advice = "Regularise, augment the data, stop early, or use a smaller network."
    action = Action.EARLY_STOP if _is_past_its_best(run, smooth, lowest) else Action.TAG
    return Finding(Symptom.OVERFITTING, evidence, advice, action)


def _is_past_its_best(run: Run, smooth: Smooth, lowest: Smooth) -> bool:
    """Say whether the objective is no better than where the validation loss was least."""
    match run.facts.objective:
        case "val_loss":
            return True
        case "val_accuracy" if smooth.accuracy is not None and lowest.accuracy is not None:
            return smooth.accuracy <= lowest.accuracy
        case _:
            return False


_DETECTORS: tuple[tuple[Symptom, Callable[[Run], Finding | None]], ...] = (
    (Symptom.BROKEN_SETUP, _broken),
    (Symptom.VANISHING, _vanishing),
    (Symptom.DEAD_RELU, _dead_relu),
    (Symptom.LR_TOO_HIGH, _lr_too_high),
    (Symptom.LR_TOO_LOW, _lr_too_low),
    (Symptom.OVERFITTING, _overfitting),
)


class Diagnosis:
    """The findings on one run, report by report: each symptom once, when it first shows.

    A report costs a constant, whatever came before: only the last `Thresholds.window` are kept. After a divergence
    nothing counts any more.
    """

    def __init__(self, facts: Facts = NO_FACTS, thresholds: Thresholds = DEFAULTS) -> None:
        self._run = Run(facts, thresholds)
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
    history: Iterable[Metrics], facts: Facts = NO_FACTS, thresholds: Thresholds = DEFAULTS
) -> tuple[Finding, ...]:
    """Return the findings on a whole run, in the order in which they showed."""
    diagnosis = Diagnosis(facts, thresholds)
    for report in history:
        diagnosis.add(report)
    return diagnosis.findings


def diagnose_one_batch(
    losses: Sequence[float], facts: Facts = NO_FACTS, thresholds: Thresholds = DEFAULTS
) -> Finding | None:
    """Judge an attempt to learn one batch by heart, by the loss before each step, with Adam at `broken_lr`.

    Unable means that no loss of the first `broken_steps` came within `broken_loss` of the least that it can be (for
    regression that is a share of `Facts.baseline_loss`), nor below `broken_stuck` of guessing, and that the loss no
    longer falls: by less than `broken_still` from the third quarter of the steps to the last. With fewer losses, all
    finite, the attempt proves nothing.
    """
    seen = losses[: thresholds.broken_steps]
    bad = next((step for step, loss in enumerate(seen, start=1) if not math.isfinite(loss)), None)
    if bad is not None:
        evidence = f"The loss on one batch is {seen[bad - 1]} at step {bad} at learning rate {thresholds.broken_lr:g}."
        advice = "Check the data for NaN and infinite values, their scale, and the model."
        return Finding(Symptom.BROKEN_SETUP, evidence, advice, Action.REFUSE)
    expected = facts.floor_loss + _learned_loss(facts, thresholds)
    if len(seen) < thresholds.broken_steps or min(seen) < expected or _still_falls(seen, facts, thresholds):
        return None
    evidence = (
        f"The loss on one batch is still {number(min(seen))} after {len(seen)} steps at learning rate "
        f"{thresholds.broken_lr:g} and no longer falls, where {number(expected)} can be expected."
    )
    advice = "Check the data, the labels, the loss and the model: equal inputs with different labels, a frozen layer."
    return Finding(Symptom.BROKEN_SETUP, evidence, advice, Action.REFUSE)


def _learned_loss(facts: Facts, thresholds: Thresholds) -> float:
    """Return how far above the least that it can be a loss counts as learned, at least."""
    if facts.classes is None and facts.baseline_loss is not None:
        return thresholds.broken_loss * facts.baseline_loss
    return thresholds.broken_loss


def _still_falls(losses: Sequence[float], facts: Facts, thresholds: Thresholds) -> bool:
    """Say whether a loss is on its way down: small networks and bounded activations are slower than the definition."""
    above = [loss - facts.floor_loss for loss in losses]
    if facts.guess_loss is not None and min(above) < thresholds.broken_stuck * facts.guess_loss:
        return True
    quarter = max(1, len(above) // 4)
    # Dropout makes a single loss a bad witness.
    before, now = median(above[-2 * quarter : -quarter] or above), median(above[-quarter:])
    return now < (1 - thresholds.broken_still) * before
