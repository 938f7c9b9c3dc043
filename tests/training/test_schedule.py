"""Learning rates against torch's schedulers, and early stopping."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from swathe.training.recipe import CosineSchedule, PlateauSchedule, Schedule, StepSchedule
from swathe.training.schedule import WARMUP_FROM, EarlyStopping, LearningRate

LR = 0.3
STEPS, EPOCHS = 7, 12


def rate(schedule: Schedule) -> LearningRate:
    return LearningRate(schedule, LR, STEPS, EPOCHS)


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)


def torchs(optimizer: torch.optim.Optimizer, scheduler: lr_scheduler.LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_step_is_torch_s() -> None:
    sgd = optimizer()
    oracle = torchs(sgd, lr_scheduler.StepLR(sgd, 3 * STEPS, 0.5), STEPS * EPOCHS)
    mine = rate(StepSchedule(every_epochs=3, gamma=0.5))
    assert [mine.at(step) for step in range(STEPS * EPOCHS)] == pytest.approx(oracle, rel=1e-12)


@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize("warmup", [0, 10])
def test_cosine_after_a_warmup_is_torch_s(final: float, warmup: int) -> None:
    sgd = optimizer()
    cosine = lr_scheduler.CosineAnnealingLR(sgd, STEPS * EPOCHS - warmup, eta_min=final * LR)
    oracle = torchs(sgd, cosine, STEPS * EPOCHS - warmup)
    mine = rate(CosineSchedule(final_fraction=final, warmup_steps=warmup))
    assert [mine.at(step) for step in range(warmup, STEPS * EPOCHS)] == pytest.approx(oracle, rel=1e-9)
    assert mine.at(STEPS * EPOCHS) == pytest.approx(final * LR, abs=1e-15)


@pytest.mark.parametrize("schedule", [Schedule, StepSchedule, CosineSchedule, PlateauSchedule])
def test_warmup_is_torch_s_line_from_1e_7(schedule: type[Schedule]) -> None:
    sgd = optimizer()
    line = lr_scheduler.LinearLR(sgd, start_factor=WARMUP_FROM / LR, end_factor=1.0, total_iters=20)
    oracle = torchs(sgd, line, 21)
    mine = rate(schedule(warmup_steps=20))
    assert mine.at(0) == WARMUP_FROM
    assert [mine.at(step) for step in range(21)] == pytest.approx(oracle, rel=1e-9)


def test_a_warmup_longer_than_the_run_is_only_a_line() -> None:
    mine = rate(CosineSchedule(warmup_steps=1000))
    assert mine.at(STEPS * EPOCHS - 1) == pytest.approx(LR * (STEPS * EPOCHS - 1) / 1000, rel=1e-4)


LOSSES = st.lists(st.floats(0.0, 10.0) | st.just(math.nan) | st.sampled_from([1.0, 0.9999, 0.99]), max_size=40)


@given(LOSSES, st.integers(0, 4), st.sampled_from([0.0, 1e-4, 0.1]))
def test_plateau_is_torch_s(losses: list[float], patience: int, threshold: float) -> None:
    sgd = optimizer()
    # torch has a floor for changes of the rate that ours does not need.
    oracle = lr_scheduler.ReduceLROnPlateau(sgd, factor=0.1, patience=patience, threshold=threshold, eps=0.0)
    mine = rate(PlateauSchedule(factor=0.1, patience=patience, threshold=threshold))
    for loss in losses:
        oracle.step(loss)
        mine.end_epoch(loss)
        assert mine.at(0) == pytest.approx(sgd.param_groups[0]["lr"], rel=1e-9)


def test_other_schedules_do_not_look_at_the_loss() -> None:
    mine = rate(Schedule())
    for _ in range(50):
        mine.end_epoch(1.0)
    assert mine.at(0) == LR


def over_at(stopping: EarlyStopping, losses: list[float]) -> int | None:
    return next((epoch for epoch, loss in enumerate(losses, 1) if stopping.is_over(loss)), None)


def test_early_stopping_counts_epochs_without_improvement() -> None:
    assert over_at(EarlyStopping(2, 0.0), [1.0, 0.9, 0.9, 0.8, 0.85, 0.8]) == 6
    assert over_at(EarlyStopping(2, 0.1), [1.0, 0.95, 0.91]) == 3
    assert over_at(EarlyStopping(2, 0.1), [1.0, 0.95, 0.85, 0.80, 0.76]) == 5
    assert over_at(EarlyStopping(None, 0.0), [1.0] * 100) is None
