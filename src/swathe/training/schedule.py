"""The learning rate of each step, and when a run has stopped improving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swathe.training.recipe import (
    SCHEDULES,
    CosineSchedule,
    ExponentialSchedule,
    LinearSchedule,
    OneCycleSchedule,
    PlateauSchedule,
    PolynomialSchedule,
    Schedule,
    StepSchedule,
)

# Where every warm-up starts, unless it leads to less.
WARMUP_FROM = 1e-7


@dataclass(slots=True)
class LearningRate:
    """The rate at each step of a run, steps counted from 0 over all epochs; only `plateau` has a state."""

    schedule: Schedule
    lr: float
    steps_per_epoch: int
    epochs: int
    _scale: float = 1.0
    _best: float = math.inf
    _bad_epochs: int = 0

    def at(self, step: int) -> float:
        """Return the rate at `step`: a straight line from 1e-7 during the warm-up, then the schedule's shape.

        Schedules by the epoch (step, exponential) count from the start of the run. The others are spread over the
        steps that the warm-up leaves, and keep their last rate after the run. The line leads to `lr`, or to where one
        cycle begins.
        """
        schedule, warmup = self.schedule, self.schedule.warmup_steps
        if step < warmup:
            top = self.lr / schedule.div_factor if isinstance(schedule, OneCycleSchedule) else self.lr
            start = min(WARMUP_FROM, top)
            return (start + (top - start) * step / warmup) * self._scale
        return self.lr * _shape(schedule, self.steps_per_epoch, self.epochs, step) * self._scale

    def of_epoch(self, epoch: int) -> NDArray[np.float64]:
        """Return the rates `[steps]` of an epoch, the first epoch being 1: what `at` says of each, bit for bit."""
        first = (epoch - 1) * self.steps_per_epoch
        last = first + self.steps_per_epoch
        warm = [self.at(step) for step in range(first, min(max(self.schedule.warmup_steps, first), last))]
        values = tuple(vars(self.schedule).values())
        shapes = _shapes(self.schedule.name, values, self.steps_per_epoch, self.epochs, first + len(warm), last)
        rates = self.lr * shapes * self._scale
        return np.concatenate([warm, rates]) if warm else rates

    def end_epoch(self, val_loss: float) -> None:
        """Take in an epoch's validation loss: a plateau lowers the rate after more than `patience` bad epochs.

        As torch's `ReduceLROnPlateau` in mode min with a relative threshold.
        """
        if not isinstance(self.schedule, PlateauSchedule):
            return
        if val_loss < self._best * (1 - self.schedule.threshold):
            self._best, self._bad_epochs = val_loss, 0
        else:
            self._bad_epochs += 1
        if self._bad_epochs > self.schedule.patience:
            self._scale *= self.schedule.factor
            self._bad_epochs = 0


@lru_cache(maxsize=256)
def _shapes(
    name: str, values: tuple[Any, ...], steps_per_epoch: int, epochs: int, first: int, end: int
) -> NDArray[np.float64]:
    """Return the shape at each step of a range: the trials of a block mostly have one schedule, and differ in lr."""
    schedule = SCHEDULES[name](*values)
    return np.array([_shape(schedule, steps_per_epoch, epochs, step) for step in range(first, end)], dtype=np.float64)


def _shape(schedule: Schedule, steps_per_epoch: int, epochs: int, step: int) -> float:
    """Return the share of `lr` that a schedule has at a step after its warm-up."""
    warmup = schedule.warmup_steps
    steps = max(1, steps_per_epoch * epochs - warmup)
    done = min(1.0, (step - warmup) / steps)
    match schedule:
        case StepSchedule(every_epochs=every, gamma=gamma):
            shape = gamma ** (step // steps_per_epoch // every)
        case ExponentialSchedule(gamma=gamma):
            shape = gamma ** (step // steps_per_epoch)
        case LinearSchedule(final_fraction=final):
            shape = final + (1 - final) * (1 - done)
        case PolynomialSchedule(power=power, final_fraction=final):
            shape = final + (1 - final) * (1 - done) ** power
        case CosineSchedule(final_fraction=final):
            # Loshchilov & Hutter 2017, equation 5, with one period.
            shape = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))
        case OneCycleSchedule():
            shape = _one_cycle(schedule, min(step - warmup, steps - 1), steps)
        case _:
            shape = 1.0
    return shape


def _one_cycle(schedule: OneCycleSchedule, step: int, steps: int) -> float:
    """Return the share of the peak rate at `step` of a cycle of `steps`, as torch's `OneCycleLR`.

    The peak is at step `pct_start * steps - 1`, which need not be whole. Of a cycle so short that the peak would come
    before its first step, only the fall is left.
    """
    peak, initial = schedule.pct_start * steps - 1, 1 / schedule.div_factor
    if step <= peak:
        begin, end, done = initial, 1.0, step / peak if peak else 1.0
    else:
        begin, end, done = 1.0, initial / schedule.final_div_factor, (step - peak) / (steps - 1 - peak)
    rest = 1 - done if schedule.anneal == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return begin * rest + end * (1 - rest)


@dataclass(slots=True)
class EarlyStopping:
    """Ends a run after `patience` epochs without an improvement by more than `min_delta`; never when it is None."""

    patience: int | None
    min_delta: float
    _best: float = math.inf
    _bad_epochs: int = 0

    def is_over(self, val_loss: float) -> bool:
        """Take in an epoch's validation loss and say whether the run should end."""
        if val_loss < self._best - self.min_delta:
            self._best, self._bad_epochs = val_loss, 0
        else:
            self._bad_epochs += 1
        return self.patience is not None and self._bad_epochs >= self.patience
