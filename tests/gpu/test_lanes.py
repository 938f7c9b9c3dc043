"""Lanes on a real GPU: the numbers of a trial alone, its bits whatever is beside it, graphs, compiled programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from swathe.training.beside import beside
from swathe.training.lanes import LaneBlock
from swathe.training.recipe import TIMING_METRICS, Recipe, recipe_from_config
from swathe.training.solo import Solo

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here: lanes on a GPU are not tested"),
]

MODELS = {
    "mlp": {"model": {"hidden": [32], "norm": "batch"}, "regularization": {"dropout": 0.2}},
    "cnn": {"model": {"name": "cnn", "channels": [8, 16], "hidden": [32]}},
    "gan": {"model": {"name": "gan", "hidden": [32]}},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home") / "data"


def recipe(seed: int, name: str = "mlp", **changes: object) -> Recipe:
    config = {"data": {"name": "digits"}, "optim": {"name": "adamw", "lr": 0.003}, "epochs": 3, "seed": seed}
    return recipe_from_config({**config, **MODELS[name], **changes})


def trained(block: LaneBlock, recipes: dict[int, Recipe], epochs: int = 2) -> dict[int, list[dict[str, float]]]:
    """Train the recipes by their tags for some epochs; returns what they report."""
    found: dict[int, list[dict[str, float]]] = {tag: [] for tag in recipes}
    for tag, one in recipes.items():
        block.admit(one, tag)
    for _ in range(epochs):
        for report in block.epoch(lambda tag: False):
            kept = {key: value for key, value in report.metrics.items() if key not in TIMING_METRICS}
            found[report.tag].append(kept)
    return found


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8)) for name in left)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_lanes_have_the_numbers_of_a_trial_alone(cache: Path, compiled: bool) -> None:
    recipes = {tag: recipe(tag) for tag in range(5)}
    block = LaneBlock(recipes[0], 8, "cuda", cache, compiled=compiled)
    assert block.compiled == compiled, block.note
    reports = trained(block, recipes)
    assert block._graphs is not None
    assert not block._graphs.note
    for tag, one in recipes.items():
        solo = Solo(one, "cuda", cache)
        alone = [metrics for _, metrics, _ in solo.reports(lambda: False)][:2]
        for ours, theirs in zip(reports[tag], alone, strict=True):
            assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=2e-3)
            assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=2e-2)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_bits_of_a_trial_depend_neither_on_its_lane_nor_on_its_neighbours(
    cache: Path, name: str, precision: str, compiled: bool
) -> None:
    if compiled and precision != "fp32":
        pytest.skip("one compiled program a model is enough")
    trial = recipe(7, name, precision=precision)

    def among(neighbours: int, first: bool) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
        others = {100 + seed: recipe(100 + seed, name, precision=precision) for seed in range(neighbours)}
        recipes = {7: trial, **others} if first else {**others, 7: trial}
        block = beside(trial, 64, "cuda", cache, compiled=compiled)
        reports = trained(block, recipes)
        return reports[7], block.state_dict(7)

    alone = among(0, first=True)
    for neighbours, first in ((5, False), (20, True), (63, False)):
        reports, state = among(neighbours, first)
        assert reports == alone[0]
        assert same(state, alone[1])


def test_graphs_give_the_bits_of_steps_without_them(cache: Path) -> None:
    recipes = {tag: recipe(tag) for tag in range(3)}
    blocks = [LaneBlock(recipes[0], 8, "cuda", cache, compiled=False) for _ in range(2)]
    blocks[1]._graphs = None
    with_graphs, without = (trained(block, recipes) for block in blocks)
    assert with_graphs == without


def test_a_trial_that_was_cut_out_goes_on_with_the_same_bits(cache: Path) -> None:
    one = recipe(3)
    whole = LaneBlock(one, 16, "cuda", cache, compiled=False)
    expected = trained(whole, {0: one}, epochs=3)[0]
    first = LaneBlock(one, 16, "cuda", cache, compiled=False)
    begun = trained(first, {0: one, 1: recipe(4)}, epochs=1)[0]
    second = LaneBlock(one, 16, "cuda", cache, compiled=False)
    second.admit(recipe(5), 9)
    second.epoch(lambda tag: False)
    second.admit(one, 0, first.cut(0))
    rest = []
    for _ in range(2):
        reports = {report.tag: report.metrics for report in second.epoch(lambda tag: False)}
        rest.append({key: value for key, value in reports[0].items() if key not in TIMING_METRICS})
    assert begun + rest == expected


def test_a_lane_whose_loss_is_not_finite_does_not_touch_its_neighbours(cache: Path) -> None:
    healthy = recipe(1)
    wild = replace(recipe(2), optim=replace(recipe(2).optim, lr=1e30))
    alone = trained(LaneBlock(healthy, 8, "cuda", cache, compiled=False), {1: healthy})
    beside = trained(LaneBlock(healthy, 8, "cuda", cache, compiled=False), {2: wild, 1: healthy})
    assert beside[1] == alone[1]
