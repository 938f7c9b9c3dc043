"""Steps that are replayed: from the same memory with other values, and only if they give the same bits.

Where there is a GPU its own graphs are put to test. Elsewhere a stand-in keeps the rules of one: capturing does
nothing, a replay reads and writes the places that were captured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from swathe.training.cuda_graph import KEPT, Capture, CudaGraphs, Outputs, captured
from swathe.training.lanes import LaneBlock
from swathe.training.recipe import TIMING_METRICS, Recipe, recipe_from_config

Reports = list[tuple[int, int, dict[str, float]]]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def recipe(seed: int, epochs: int = 3) -> Recipe:
    norm = {"hidden": [16], "norm": "batch"}
    return recipe_from_config(
        {
            "model": norm,
            "data": {"limit": 400},
            "regularization": {"dropout": 0.2},
            "optim": {"name": "adamw", "lr": 0.01},
            "epochs": epochs,
            "seed": seed,
        }
    )


def stand_in(block: LaneBlock, count: list[int], spoil: float = 0.0) -> Capture:
    def capture(function: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
        before = [tensor.clone() for tensor in block._stack.saved()]
        outputs = function()
        for place, value in zip(block._stack.saved(), before, strict=True):
            place.copy_(value)

        def replay() -> None:
            count[0] += 1
            for place, value in zip(outputs, function(), strict=True):
                place.copy_(value)
            block._stack.parameters.add_(spoil)

        return replay, outputs

    return capture


def trained(block: LaneBlock) -> Reports:
    """Train five trials in three lanes: some end sooner, and others take their places."""
    found: Reports = []
    waiting = [(seed, recipe(seed, epochs=1 + seed % 3)) for seed in range(5)]
    while waiting or block.tags:
        while waiting and block.free:
            seed, one = waiting.pop(0)
            block.admit(one, seed)
        for report in block.epoch(lambda tag: False):
            kept = {name: value for name, value in report.metrics.items() if name not in TIMING_METRICS}
            found.append((report.tag, report.epoch, kept))
            if report.finished:
                block.release(report.tag)
    return found


def block_of(cache: Path) -> LaneBlock:
    return LaneBlock(recipe(0), 3, DEVICE, cache, compiled=False)


def plain(cache: Path) -> Reports:
    block = block_of(cache)
    block._graphs = None
    return trained(block)


def test_replayed_steps_give_the_same_bits(cache: Path) -> None:
    block, count = block_of(cache), [0]
    block._graphs = CudaGraphs(captured if DEVICE == "cuda" else stand_in(block, count))
    assert trained(block) == plain(cache)
    assert block._graphs.note == ""
    assert DEVICE == "cuda" or count[0] > block.steps


def test_a_step_that_cannot_be_captured_is_run_as_it_is(cache: Path) -> None:
    def capture(function: Callable[[], Outputs]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    block = block_of(cache)
    block._graphs = CudaGraphs(capture)
    assert trained(block) == plain(cache)
    assert block._graphs.note == (
        "Steps are launched kernel by kernel: operation not permitted when stream is capturing."
    )


def test_a_graph_that_gives_other_numbers_is_not_used(cache: Path) -> None:
    block, count = block_of(cache), [0]
    block._graphs = CudaGraphs(stand_in(block, count, spoil=1e-6))
    assert trained(block) == plain(cache)
    assert block._graphs.note == "Steps are launched kernel by kernel: a replayed step gives other numbers."
    # Once for each number of lanes.
    assert count[0] <= 3


def test_only_the_graphs_that_were_used_last_are_kept() -> None:
    graphs = CudaGraphs()

    def step(rows: torch.Tensor, table: torch.Tensor, words: torch.Tensor) -> Outputs:
        return rows, table

    first = graphs.stepper(1, step, [])
    for lanes in range(2, KEPT + 1):
        graphs.stepper(lanes, step, [])
    assert graphs.stepper(1, step, []) is first
    graphs.stepper(KEPT + 1, step, [])
    assert graphs.stepper(1, step, []) is first
    assert len(graphs._steps) == KEPT
