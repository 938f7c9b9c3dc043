"""The widths of a GPU's steps, on a CPU: which are taken, and that a block in them trains what a narrow one does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from swathe.training import lane_widths, streams
from swathe.training.beside import beside
from swathe.training.lane_program import Step
from swathe.training.lanes import LaneBlock
from swathe.training.recipe import TIMING_METRICS, Recipe, recipe_from_config

Reports = list[tuple[int, int, dict[str, float]]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home") / "data"


def recipe(seed: int, epochs: int = 3, model: str = "mlp") -> Recipe:
    return recipe_from_config(
        {
            "model": {"name": model, "hidden": [16], "norm": "batch"},
            "data": {"limit": 400},
            "regularization": {"dropout": 0.2},
            "optim": {"name": "adamw", "lr": 0.01},
            "schedule": {"name": "cosine", "warmup_steps": 7},
            "epochs": epochs,
            "seed": seed,
        }
    )


def in_widths(block: LaneBlock) -> LaneBlock:
    """Have a CPU's block compute what a GPU's does, but for the graphs."""
    block._on_gpu, block._spare = True, 0
    block._resize(block.lanes)
    block._graphs = None
    block._permutations = streams.Permutations(ahead=True)
    return block


def trained(block: LaneBlock, count: int, model: str = "mlp") -> Reports:
    """Train so many trials: some end sooner, one is stopped, and others take their places."""
    found: Reports = []
    waiting = [(seed, recipe(seed, 1 + seed % 3, model)) for seed in range(count)]
    while waiting or block.tags:
        while waiting and block.free:
            seed, one = waiting.pop(0)
            block.admit(one, seed)
        for report in block.epoch(lambda tag: tag == 5):
            kept = {name: value for name, value in report.metrics.items() if name not in TIMING_METRICS}
            found.append((report.tag, report.epoch, kept))
            if report.finished:
                block.release(report.tag)
    return found


@pytest.mark.parametrize(("lanes", "expected"), [(1, []), (8, []), (9, [8]), (64, [32, 16, 8]), (100, [64, 32, 16, 8])])
def test_the_widths_worth_a_look_are_powers_of_two(lanes: int, expected: list[int]) -> None:
    assert lane_widths.candidates(lanes) == expected


def test_a_width_with_other_bits_is_left_out() -> None:
    def compute(width: int) -> Sequence[Tensor]:
        # The 16 rounds otherwise, and so does a NaN, which is equal to itself.
        return [torch.full((width, 3), 1.0 if width != 16 else 1.0 + 2**-23), torch.full((width,), torch.nan)]

    assert lane_widths.same_bits(40, compute) == [8, 32, 40]
    assert lane_widths.same_bits(5, compute) == [5]


@pytest.mark.parametrize("model", ["mlp", "gan"])
def test_a_block_in_widths_gives_what_a_narrow_one_does(cache: Path, model: str) -> None:
    narrow, wide = (beside(recipe(0, model=model), 20, "cpu", cache, compiled=False) for _ in range(2))
    assert trained(in_widths(wide), 26, model) == trained(narrow, 26, model)
    assert wide._equal_widths() == [8, 16, 20]


def test_where_no_other_width_has_the_bits_all_lanes_are_computed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = in_widths(LaneBlock(recipe(0), 20, "cpu", cache, compiled=False))
    stepper, seen = block._program.stepper, set()

    def by_width(stack: object, *rest: object) -> Step:
        step: Step = stepper(stack, *rest)  # type: ignore[arg-type]

        def noisy(rows: Tensor, table: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
            loss, norms = step(rows, table, words)
            seen.add(len(rows))
            return loss * (1 + 2**-20 * len(rows)), norms

        return noisy

    monkeypatch.setattr(block._program, "stepper", by_width)
    block.admit(recipe(0), 0)
    block.epoch(lambda tag: False)
    assert block._equal_widths() == [20]
    seen.clear()
    block.epoch(lambda tag: False)
    assert seen == {20}


def test_a_block_shrinks_only_to_widths_that_have_its_bits(cache: Path) -> None:
    block = in_widths(LaneBlock(recipe(0), 20, "cpu", cache, compiled=False))
    block.admit(recipe(0), 0)
    block.epoch(lambda tag: False)
    block.shrink(12)
    assert block.lanes == 20
    block.shrink(16)
    assert block.lanes == 16
    whole = LaneBlock(recipe(0), 1, "cpu", cache, compiled=False)
    whole.admit(recipe(0), 0)
    whole.epoch(lambda tag: False)
    ours, theirs = (one.epoch(lambda tag: False)[0].metrics["val_loss"] for one in (block, whole))
    assert ours == theirs


def test_orders_that_were_expected_are_those_that_are_drawn() -> None:
    orders = streams.Permutations(ahead=True)
    for epoch in range(1, 4):
        orders.expect(7, epoch, 50)
    for epoch in (3, 1, 2, 9):
        assert torch.equal(orders.of(7, epoch, 50), streams.permutation(7, epoch, 50))


def test_of_the_orders_that_nobody_asks_for_only_some_are_kept() -> None:
    orders = streams.Permutations(ahead=True)
    for seed in range(1000):
        orders.expect(seed, 1, 2)
    assert len(orders._drawn) == streams.MOST_AHEAD
