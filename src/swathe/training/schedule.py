"""The learning rate of each step, and when a run has stopped improving."""

from __future__ import annotations

import math
from dataclasses import dataclass

from swathe.training.recipe import CosineSchedule, PlateauSchedule, Schedule, StepSchedule

# Where every warm-up starts.
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

        The step schedule counts its epochs from the start of the run; the cosine begins where the warm-up ends.
        """
        warmup = self.schedule.warmup_steps
        if step < warmup:
            return (WARMUP_FROM + (self.lr - WARMUP_FROM) * step / warmup) * self._scale
        match self.schedule:
            case StepSchedule(every_epochs=every, gamma=gamma):
                shape = gamma ** (step // self.steps_per_epoch // every)
            case CosineSchedule(final_fraction=final):
                # Loshchilov & Hutter 2017, equation 5, with one period.
                done = min(1.0, (step - warmup) / max(1, self.steps_per_epoch * self.epochs - warmup))
                shape = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))
            case _:
                shape = 1.0
        return self.lr * shape * self._scale

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
