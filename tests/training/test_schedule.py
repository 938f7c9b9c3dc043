"""Learning rates against torch's schedulers, and early stopping."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from swathe.training.recipe import (
    ANNEALS,
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
from swathe.training.schedule import WARMUP_FROM, EarlyStopping, LearningRate

LR = 0.3
STEPS, EPOCHS = 7, 12


def rate(schedule: Schedule, epochs: int = EPOCHS) -> LearningRate:
    return LearningRate(schedule, LR, STEPS, epochs)


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


@pytest.mark.parametrize("epochs", [1, EPOCHS])
def test_exponential_is_torch_s_an_epoch(epochs: int) -> None:
    sgd = optimizer()
    oracle = torchs(sgd, lr_scheduler.ExponentialLR(sgd, 0.8), epochs)
    mine = rate(ExponentialSchedule(gamma=0.8), epochs)
    each = [value for value in oracle for _ in range(STEPS)]
    assert [mine.at(step) for step in range(STEPS * epochs)] == pytest.approx(each, rel=1e-12)


def test_schedules_by_the_epoch_count_from_the_start_of_the_run() -> None:
    warmup = 2 * STEPS + 1
    assert rate(ExponentialSchedule(gamma=0.5, warmup_steps=warmup)).at(warmup) == LR / 4
    assert rate(StepSchedule(every_epochs=1, gamma=0.5, warmup_steps=warmup)).at(warmup) == LR / 4


@pytest.mark.parametrize("epochs", [1, EPOCHS])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("warmup", [0, 5])
def test_linear_after_a_warmup_is_torch_s(warmup: int, final: float, epochs: int) -> None:
    sgd, left = optimizer(), STEPS * epochs - warmup
    line = lr_scheduler.LinearLR(sgd, start_factor=1.0, end_factor=final, total_iters=left)
    mine = rate(LinearSchedule(final_fraction=final, warmup_steps=warmup), epochs)
    # Beyond the end torch keeps the last rate too.
    assert [mine.at(warmup + step) for step in range(left + 3)] == pytest.approx(torchs(sgd, line, left + 3), rel=1e-12)


@pytest.mark.parametrize("epochs", [1, EPOCHS])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.7])
@pytest.mark.parametrize("warmup", [0, 5])
def test_polynomial_after_a_warmup_is_torch_s(warmup: int, power: float, epochs: int) -> None:
    sgd, left = optimizer(), STEPS * epochs - warmup
    oracle = torchs(sgd, lr_scheduler.PolynomialLR(sgd, total_iters=left, power=power), left + 3)
    for final in (0.0, 0.1, 1.0):
        mine = rate(PolynomialSchedule(power=power, final_fraction=final, warmup_steps=warmup), epochs)
        # torch's ends at 0: a final fraction raises what is below the rate.
        expected = [final * LR + (1 - final) * value for value in oracle]
        assert [mine.at(warmup + step) for step in range(left + 3)] == pytest.approx(expected, rel=1e-12)


def test_a_polynomial_of_power_1_is_a_line() -> None:
    line, polynomial = rate(LinearSchedule(final_fraction=0.2)), rate(PolynomialSchedule(power=1.0, final_fraction=0.2))
    assert [line.at(step) for step in range(100)] == [polynomial.at(step) for step in range(100)]


def one_cycle_of_torch(steps: int, cycle: OneCycleSchedule) -> list[float]:
    sgd = optimizer()
    scheduler = lr_scheduler.OneCycleLR(
        sgd,
        LR,
        total_steps=steps,
        pct_start=cycle.pct_start,
        anneal_strategy="cos" if cycle.anneal == "cosine" else "linear",
        cycle_momentum=False,
        div_factor=cycle.div_factor,
        final_div_factor=cycle.final_div_factor,
    )
    return torchs(sgd, scheduler, steps)


@pytest.mark.parametrize("epochs", [1, EPOCHS])
@pytest.mark.parametrize("anneal", ["cosine", "linear"])
@pytest.mark.parametrize(("pct_start", "div", "final_div"), [(0.3, 25.0, 10.0), (0.5, 4.0, 1.0), (0.9, 1.0, 100.0)])
@pytest.mark.parametrize("warmup", [0, 3])
def test_one_cycle_after_a_warmup_is_torch_s(
    warmup: int, pct_start: float, div: float, final_div: float, anneal: str, epochs: int
) -> None:
    cycle = OneCycleSchedule("one_cycle", warmup, pct_start, div, final_div, anneal)
    left, mine = STEPS * epochs - warmup, rate(cycle, epochs)
    oracle = one_cycle_of_torch(left, cycle)
    assert [mine.at(warmup + step) for step in range(left)] == pytest.approx(oracle, rel=1e-12)


def test_one_cycle_s_defaults_are_torch_s() -> None:
    sgd, mine = optimizer(), rate(OneCycleSchedule())
    oracle = torchs(sgd, lr_scheduler.OneCycleLR(sgd, LR, total_steps=STEPS * EPOCHS, cycle_momentum=False), 84)
    assert [mine.at(step) for step in range(84)] == pytest.approx(oracle, rel=1e-12)


@given(st.integers(1, 9), st.floats(0.01, 0.99), st.sampled_from(["cosine", "linear"]))
def test_short_cycles_are_torch_s(steps: int, pct_start: float, anneal: str) -> None:
    cycle = OneCycleSchedule(pct_start=pct_start, div_factor=10.0, final_div_factor=10.0, anneal=anneal)
    # torch divides 0 by 0 when the peak is at the first step.
    assume(pct_start * steps - 1 != 0)
    mine = LearningRate(cycle, LR, steps, 1)
    assert [mine.at(step) for step in range(steps)] == pytest.approx(one_cycle_of_torch(steps, cycle), rel=1e-12)


@pytest.mark.parametrize("anneal", ["cosine", "linear"])
def test_one_cycle_s_ends_and_peak(anneal: str) -> None:
    cycle = rate(OneCycleSchedule(pct_start=0.25, div_factor=10.0, final_div_factor=1e30, anneal=anneal))
    last = STEPS * EPOCHS - 1
    assert cycle.at(0) == LR / 10
    # 0.25 of 84 steps, counted from 0.
    assert cycle.at(20) == LR
    assert cycle.at(last) == pytest.approx(LR / 10 / 1e30, rel=1e-12)
    assert cycle.at(last + 1) == cycle.at(10 * last) == cycle.at(last)
    assert LearningRate(OneCycleSchedule(pct_start=0.25, anneal=anneal), LR, 4, 1).at(0) == LR


@pytest.mark.parametrize("schedule", [kind for kind in SCHEDULES.values() if kind is not OneCycleSchedule])
def test_warmup_is_torch_s_line_from_1e_7(schedule: type[Schedule]) -> None:
    check_warmup(schedule(warmup_steps=20), LR)


def test_one_cycle_s_warmup_leads_to_where_the_cycle_begins() -> None:
    check_warmup(OneCycleSchedule(warmup_steps=20, div_factor=8.0), LR / 8)


def check_warmup(schedule: Schedule, top: float) -> None:
    sgd = optimizer()
    sgd.param_groups[0]["lr"] = top
    line = lr_scheduler.LinearLR(sgd, start_factor=WARMUP_FROM / top, end_factor=1.0, total_iters=20)
    # Epochs of 50 steps: the step and exponential schedules are still in their first one.
    mine = LearningRate(schedule, LR, 50, 2)
    assert mine.at(0) == WARMUP_FROM
    assert [mine.at(step) for step in range(21)] == pytest.approx(torchs(sgd, line, 21), rel=1e-12)


@pytest.mark.parametrize("kind", SCHEDULES.values())
def test_a_warmup_to_less_than_1e_7_never_falls(kind: type[Schedule]) -> None:
    mine = LearningRate(kind(warmup_steps=10), 1e-9, 50, 2)
    assert [mine.at(step) for step in range(11)] == pytest.approx([mine.at(10)] * 11, rel=1e-12)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any schedule, with options between which no power or quotient leaves the range of floats."""
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    options: dict[str, st.SearchStrategy[Any]] = {
        "warmup_steps": st.just(0) | st.integers(0, 200),
        "every_epochs": st.integers(1, 5),
        "gamma": st.floats(0.01, 1.0),
        "final_fraction": st.floats(0.0, 1.0),
        "power": st.floats(0.01, 20.0),
        "pct_start": st.floats(0.0, 1.0, exclude_min=True, exclude_max=True),
        "div_factor": st.floats(1.0, 1e30),
        "final_div_factor": st.floats(1.0, 1e30),
        "anneal": st.sampled_from(ANNEALS),
        "factor": st.floats(0.01, 0.99),
    }
    kind = SCHEDULES[name]
    return kind(name=name, **{one.name: draw(options[one.name]) for one in fields(kind) if one.name in options})


@given(schedules(), st.floats(1e-10, 10.0), st.integers(1, 30), st.integers(1, 30))
def test_a_rate_is_positive_and_never_above_the_recipe_s(
    schedule: Schedule, lr: float, steps_per_epoch: int, epochs: int
) -> None:
    mine = LearningRate(schedule, lr, steps_per_epoch, epochs)
    rates = [mine.at(step) for step in range(steps_per_epoch * epochs)]
    assert all(0 < value <= lr for value in rates)
    # A rate is a function of its step alone.
    assert [mine.at(step) for step in reversed(range(len(rates)))] == rates[::-1]


@given(schedules(), st.integers(1, 5), st.integers(1, 5))
def test_after_the_run_a_rate_stays_where_it_was_led_to(schedule: Schedule, steps_per_epoch: int, epochs: int) -> None:
    mine = LearningRate(schedule, LR, steps_per_epoch, epochs)
    end = max(steps_per_epoch * epochs, schedule.warmup_steps + 1)
    match schedule:
        case LinearSchedule() | PolynomialSchedule() | CosineSchedule():
            led_to = schedule.final_fraction
        case OneCycleSchedule():
            led_to = 1 / schedule.div_factor / schedule.final_div_factor
        case _:
            return
    for step in (end, end + 1, 1000 * end):
        assert mine.at(step) == pytest.approx(LR * led_to, rel=1e-12)


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


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(0, 30), st.integers(1, EPOCHS), st.floats(1e-6, 10))
def test_the_rates_of_an_epoch_are_those_of_its_steps(name: str, warmup: int, epoch: int, lr: float) -> None:
    of = LearningRate(SCHEDULES[name](warmup_steps=warmup), lr, STEPS, EPOCHS, _scale=0.3)
    first = (epoch - 1) * STEPS
    assert of.of_epoch(epoch).tolist() == [of.at(step) for step in range(first, first + STEPS)]
