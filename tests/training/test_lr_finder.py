"""The range test: lanes against the plain loop, what is made of curves, and whether the advice holds on real data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swathe.training import lr_finder
from swathe.training.lanes import LaneBlock
from swathe.training.lr_finder import Finding, Method, RangeTest, find, of_lanes, of_ramp
from swathe.training.recipe import Recipe, recipe_from_config
from swathe.training.solo import Solo

# 5 steps an epoch.
SMALL: dict[str, Any] = {"data": {"name": "digits", "limit": 160}, "batch_size": 32}
STEPS = 13


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("lr") / "data"


def recipe(optim: str = "adamw", **config: Any) -> Recipe:
    """Return a recipe of the one structure that is traced here."""
    fixed = {**SMALL, "model": {"hidden": [16]}, "regularization": {"dropout": 0.3}}
    return recipe_from_config({**fixed, "optim": {"name": optim}, **config})


def constant(recipe: Recipe, lr: float, steps: int, cache: Path) -> list[float]:
    return list(Solo(recipe, "cpu", cache).train_steps([lr] * steps))


@pytest.mark.parametrize("optim", ["sgd", "nesterov", "rmsprop", "adamw"])
def test_a_lane_is_what_the_plain_loop_gives_at_its_rate(optim: str, cache: Path) -> None:
    # The schedule has no part in it, and neither have early stopping and the number of epochs.
    schedule = {"name": "cosine", "warmup_steps": 4}
    tested = recipe(optim, schedule=schedule, regularization={"dropout": 0.3, "patience": 1}, epochs=1)
    rates = [1e-4, 1e-3, 1e-2]
    losses = lr_finder.try_as_lanes(tested, rates, STEPS, "cpu", cache)
    assert losses.shape == (STEPS, len(rates))
    for index, lr in enumerate(rates):
        assert losses[:, index].tolist() == pytest.approx(constant(tested, lr, STEPS, cache), rel=1e-4)


def test_steps_go_through_the_epochs_as_a_training_does(cache: Path) -> None:
    tested = replace(recipe(), epochs=3)
    losses = list(Solo(tested, "cpu", cache).train_steps([tested.optim.lr] * 15))
    reports = list(Solo(tested, "cpu", cache).reports(lambda: False))
    means = np.reshape(losses, (3, 5)).mean(axis=1).tolist()
    assert means == pytest.approx([metrics["train_loss"] for _, metrics, _ in reports], rel=1e-12)


def test_all_begin_with_the_same_loss_and_one_stands_still(cache: Path) -> None:
    losses = lr_finder.try_as_lanes(recipe("sgd"), [lr_finder.STILL, 0.1, 1.0], STEPS, "cpu", cache)
    assert len(set(losses[0].tolist())) == 1
    # One epoch later the examples are the same in another order.
    assert losses[:5, 0].mean() == pytest.approx(losses[5:10, 0].mean(), rel=0.02)
    assert losses[-1, 1] < losses[-1, 0]


def test_blocks_that_follow_one_another_give_the_same_bits(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = np.geomspace(1e-4, 1, 5).tolist()
    together = lr_finder.try_as_lanes(recipe(), rates, STEPS, "cpu", cache)
    monkeypatch.setitem(lr_finder._BLOCK_BYTES, "cpu", 1)
    assert np.array_equal(lr_finder.try_as_lanes(recipe(), rates, STEPS, "cpu", cache), together)


def test_a_lane_that_breaks_down_goes_on_and_leaves_its_neighbours_alone(cache: Path) -> None:
    alone = lr_finder.try_as_lanes(recipe("sgd"), [0.1], STEPS, "cpu", cache)
    beside = lr_finder.try_as_lanes(recipe("sgd"), [1e38, 0.1], STEPS, "cpu", cache)
    assert np.array_equal(beside[:, 1:], alone)
    assert not np.isfinite(beside[-1, 0])


def test_lanes_stay_in_their_block_and_train_on(cache: Path) -> None:
    tested = recipe()
    block = LaneBlock(tested, 2, "cpu", cache, compiled=False)
    block.admit(tested, 7)
    first, second = block.train_steps(5), block.train_steps(5)
    assert block.tags == [7]
    assert torch.cat([first, second])[:, 0].tolist() == pytest.approx(
        constant(tested, tested.optim.lr, 10, cache), rel=1e-4
    )


def test_a_ramp_ends_where_it_diverges(cache: Path) -> None:
    rates = np.geomspace(1e-5, 1e9, 40).tolist()
    losses = lr_finder.try_as_ramp(recipe("sgd"), rates, "cpu", cache)
    whole = np.isfinite(losses)
    assert 10 < whole.sum() < 40
    assert whole[: whole.sum()].all()
    assert losses[whole].max() <= 4 * losses[0]
    found = find(of_ramp(rates, losses))
    assert found.diverged[-1]
    assert found.lr is not None
    assert 1e-3 < found.lr < 1


def test_why_a_recipe_is_tried_by_a_ramp(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lr_finder.why_ramp(recipe(), "cpu", cache) is None
    resnet = recipe_from_config({**SMALL, "model": {"name": "resnet_cifar", "depth": 8}})
    assert "a minute to trace" in str(lr_finder.why_ramp(resnet, "cpu", cache))
    wide = recipe_from_config({**SMALL, "model": {"hidden": [8192, 2048]}})
    assert "MB" in str(lr_finder.why_ramp(wide, "cpu", cache))


# What is made of curves.


def lanes(losses: Sequence[float], untrained: float = 2.0) -> RangeTest:
    """Return a test of rates that are powers of ten from 1e-6."""
    rates = np.array([10.0 ** (index - 6) for index in range(len(losses))])
    return RangeTest(Method.LANES, rates, np.array(losses), untrained)


def test_a_curve_as_they_are() -> None:
    #     1e-6  1e-5  1e-4 1e-3 1e-2 1e-1  1e0  1e1       1e2
    curve = [2.0, 1.99, 1.7, 0.9, 0.1, 0.3, 1.9, 2.5, math.inf]
    assert find(lanes(curve)) == Finding(
        diverged=(False,) * 7 + (True, True), lowest=2, best=4, highest=5, lr=0.0033, low=0.00032, high=0.32
    )


def test_where_no_rate_learns_nothing_is_suggested() -> None:
    assert find(lanes([2.0, 1.99, 1.98, 2.1, 9.0])) == Finding((False, False, False, False, True))
    assert find(lanes([math.inf, math.inf])) == Finding((True, True))


def test_one_good_rate_is_no_range() -> None:
    found = find(lanes([2.0, 2.0, 0.5, math.inf]))
    assert (found.low, found.lr, found.high) == (3.2e-5, 3.3e-5, 3.2e-4)
    found = find(lanes([2.0, 0.5]))
    assert (found.low, found.high) == (3.2e-6, 1e-5)


def test_a_ramp_is_late() -> None:
    test = replace(lanes([2.0, 2.0, 1.9, 1.5, 0.5, 3.0]), method=Method.RAMP)
    found = find(test)
    assert (found.low, found.lr, found.high) == (1e-4, 1e-3, 1e-2)


def test_the_end_of_a_training_is_its_last_quarter() -> None:
    losses = np.array([[2.0, 2.0]] * 6 + [[1.0, 1.5], [0.5, math.nan]])
    test = of_lanes([0.1, 1.0], losses, np.array([2.0] * 6 + [3.0, 2.0]))
    assert test.losses.tolist() == [0.75, math.inf]
    assert test.untrained == 2.5


def test_a_ramps_losses_are_averaged_over_a_window() -> None:
    losses = np.array([2.0] * 10 + [1.0] * 9 + [math.nan])
    test = of_ramp(np.geomspace(1e-6, 1, 20).tolist(), losses)
    assert test.untrained == 2.0
    assert test.losses[8:12].tolist() == pytest.approx([2, 5 / 3, 4 / 3, 1])
    assert test.losses[-1] == math.inf


Losses = st.lists(st.floats(0, 10, width=32, allow_subnormal=False) | st.just(math.inf), min_size=2, max_size=40)


@given(Losses, st.floats(0.1, 5))
def test_what_is_found_is_in_order(losses: list[float], untrained: float) -> None:
    found = find(lanes(losses, untrained))
    if found.best is None:
        assert min(losses) >= untrained * 0.97
        return
    assert found.lowest is not None
    assert found.highest is not None
    assert found.lowest <= found.best <= found.highest
    assert losses[found.best] == min(losses)
    assert not any(found.diverged[found.lowest : found.highest + 1])
    assert found.low is not None
    assert found.lr is not None
    assert found.high is not None
    assert 0 < found.low <= found.lr <= found.high
    assert found.low < found.high


@given(Losses, st.floats(0.1, 5), st.sampled_from([0.125, 4.0, 1024.0]))
def test_the_unit_of_the_loss_makes_no_difference(losses: list[float], untrained: float, unit: float) -> None:
    scaled = [loss * unit for loss in losses]
    assert find(lanes(scaled, untrained * unit)) == find(lanes(losses, untrained))


@given(st.integers(3, 20), st.integers(2, 8), st.integers(2, 8))
def test_a_valleys_floor_is_in_the_range(best: int, left: int, right: int) -> None:
    """A valley that falls in `left` and rises in `right` rates, on a grid of four to a decade."""
    rates = np.geomspace(1e-7, 10, 33)
    away = np.arange(33) - best
    losses = 2.0 - 1.9 * np.clip(1 - np.where(away < 0, -away / left, away / right), 0, None)
    found = find(RangeTest(Method.LANES, rates, losses, 2.0))
    assert found.best == best
    assert found.low is not None
    assert found.high is not None
    assert found.low <= rates[best] * 1.01
    assert found.high >= rates[best] * 0.99


# Whether the advice holds.


@pytest.mark.parametrize("optim", ["sgd", "adam"])
def test_the_range_has_the_rate_that_validates_best(optim: str, cache: Path) -> None:
    tested = recipe_from_config({"model": {"hidden": [32]}, "data": {"name": "digits"}, "optim": {"name": optim}})
    rates = np.geomspace(1e-6, 10, 22).tolist()
    losses = lr_finder.try_as_lanes(tested, [*rates, lr_finder.STILL], 100, "cpu", cache)
    found = find(of_lanes(rates, losses[:, :-1], losses[:, -1]))
    validated = validation_losses(replace(tested, epochs=8), [*rates, found.lr or 0.0], cache)
    best = min(range(len(rates)), key=validated.__getitem__)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= rates[best] <= found.high
    assert found.high < 10 ** (np.log10(found.low) + 4), "not the half of all rates"
    assert validated[-1] < 2 * validated[best]


def validation_losses(recipe: Recipe, rates: Sequence[float], cache: Path) -> list[float]:
    """Return the validation loss at the end of a training at each rate, infinite where it is not finite."""
    block = LaneBlock(recipe, len(rates), "cpu", cache, compiled=False)
    for tag, lr in enumerate(rates):
        block.admit(replace(recipe, optim=replace(recipe.optim, lr=lr)), tag)
    last = [math.inf] * len(rates)
    while block.tags:
        for report in block.epoch(lambda tag: False):
            loss = report.metrics["val_loss"]
            last[report.tag] = loss if math.isfinite(loss) else math.inf
    return last
