"""What can be wrong with a run or a sweep, what is known of a run before it begins, and from which numbers on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

from swathe.errors import bad_value

Metrics = Mapping[str, float]
# Before a layer's name, the metric of its gradient's norm.
LAYER_NORMS = "grad_norm/"


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
    the variance of the targets; None for ln(classes). `val_baseline_loss`: the same on the validation part, None for
    `baseline_loss`; `base_accuracy`: the share of the commonest class there, None for 1 / classes. All three are what
    `diagnose_facts.dataset_facts` returns. `steps_per_report`: optimiser steps. `objective`: the metric that the sweep
    optimises. `adversarial`: two networks against each other (GAN), whose losses need not fall: only what is not finite
    is wrong then. `loss_scaling`: fp16, whose steps with an infinite gradient are skipped. `pretrained`: it begins with
    weights that were trained, whose first loss says nothing of how it was set up: surely wrong on another task, or so
    low that ten times as much is little.
    """

    classes: int | None = None
    baseline_loss: float | None = None
    label_smoothing: float = 0.0
    steps_per_report: int | None = None
    objective: str = "val_loss"
    adversarial: bool = False
    loss_scaling: bool = False
    val_baseline_loss: float | None = None
    base_accuracy: float | None = None
    pretrained: bool = False

    def __post_init__(self) -> None:
        if self.classes is not None and not _is_count(self.classes, 2):
            raise bad_value("facts.classes", self.classes, "an integer, at least 2, or null")
        for name in ("baseline_loss", "val_baseline_loss"):
            if (loss := getattr(self, name)) is not None and not _is_above(loss, 0):
                raise bad_value(f"facts.{name}", loss, "a finite number above 0, or null")
        if self.base_accuracy is not None and not 0 <= self.base_accuracy <= 1:
            raise bad_value("facts.base_accuracy", self.base_accuracy, "a share from 0 to 1, or null")
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
    def val_guess_loss(self) -> float | None:
        """The loss of such a guess on the validation part."""
        return self.guess_loss if self.val_baseline_loss is None else self.val_baseline_loss

    @property
    def guess_accuracy(self) -> float | None:
        """How often such a guess is right there, None where nothing is classified."""
        if self.base_accuracy is None and self.classes is not None:
            return 1 / self.classes
        return self.base_accuracy

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
    # Learning one batch by heart, and how high and how still a loss is that will not come down; the untrained loss by
    # that of guessing; the share of saturated outputs at the first report; training whose validation learns nothing,
    # and a gradient of 0, for so many reports.
    broken_loss: float = 0.01
    broken_steps: int = 200
    broken_lr: float = 1e-3
    broken_stuck: float = 0.5
    broken_still: float = 0.02
    broken_start: float = 3.0
    broken_saturated: float = 0.5
    broken_fall: float = 0.03
    broken_reports: int = 3
    # The best trials, the width of an edge, how many trials there must be, and how many of the best at an edge.
    narrow_best: float = 0.05
    narrow_edge: float = 0.05
    narrow_reach: float = 0.2
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
        "broken_saturated",
        "broken_still",
        "dead_share",
        "narrow_best",
        "narrow_edge",
        "narrow_reach",
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

NO_FACTS = Facts()
DEFAULTS = Thresholds()


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


def finite(value: float | None) -> float | None:
    """Return a value that is there and finite, else None."""
    return value if value is not None and math.isfinite(value) else None


def number(value: float) -> str:
    """Write a number with three digits."""
    return f"{value:.3g}"


def percent(value: float) -> str:
    """Write a share as a percentage with three digits."""
    return f"{100 * value:.3g} %"
