"""GANs as lanes: each is its run alone, and its bits depend neither on its lane nor on its neighbours."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache as remembered
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from swathe.errors import BadInputError
from swathe.training.alone import alone
from swathe.training.beside import beside
from swathe.training.gan import Adversarial, Comparison
from swathe.training.lane_plan import Planner
from swathe.training.lanes import LaneBlock, geometry_of
from swathe.training.recipe import OPTIMIZERS, TIMING_METRICS, Recipe, recipe_from_config
from swathe.training.structure import can_lane, structural_key

Metrics = dict[str, float]
RATES = {"sgd": 0.05, "momentum": 0.02, "nesterov": 0.02, "rmsprop": 1e-3, "adagrad": 0.02, "adam": 2e-3, "adamw": 2e-3}
DISTANCES = ("train_loss", "val_loss", "first_loss", "generalization_gap")
# Else its first step is as large for rounding errors as for any other gradient, see test_lanes.
OPTIONS: dict[str, dict[str, Any]] = {"adagrad": {"eps": 1e-4}}
SCHEDULES: list[dict[str, Any]] = [
    {},
    {"name": "cosine", "warmup_steps": 3},
    {"name": "plateau", "factor": 0.5, "patience": 0, "threshold": 0.2},
    {"name": "one_cycle"},
]
PLAIN: list[dict[str, Any]] = [{}, {"l2": 1e-2}, {"weight_decay": 0.1}, {"label_smoothing": 0.1}]
ALTERED: list[dict[str, Any]] = [{"l1": 1e-3}, {"clip_norm": 0.5}, {"clip_value": 0.01, "label_smoothing": 0.2}]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gans") / "data"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 128 rows of which no column is constant, of which 64 or 96 are for training."""
    draw = torch.Generator().manual_seed(3)
    rows = torch.cat([torch.randn(128, 6, generator=draw), torch.randint(0, 2, (128, 1), generator=draw)], 1)
    path = tmp_path_factory.mktemp("table") / "t.csv"
    path.write_text("\n".join(["a,b,c,d,e,f,y", *(",".join(map(str, row)) for row in rows.tolist())]))
    return path


def gan(table: Path, seed: int = 0, **config: Any) -> Recipe:
    model = {"name": "gan", "latent": 4, "hidden": [12], "discriminator_hidden": [9], "activation": "tanh"}
    data = {"name": "csv", "path": str(table), "target": "y", "val_fraction": 0.25, "test_fraction": 0.0}
    given: dict[str, Any] = {"optim": {"name": "adam", "lr": 2e-3}, "batch_size": 20, "epochs": 3, **config}
    given |= {"model": {**model, **config.get("model", {})}, "data": {**data, **config.get("data", {})}, "seed": seed}
    return recipe_from_config(given)


def never(tag: int) -> bool:
    return False


def untimed(metrics: Metrics) -> Metrics:
    return {name: value for name, value in metrics.items() if name not in TIMING_METRICS}


def drained(block: LaneBlock) -> dict[int, list[Metrics]]:
    histories: dict[int, list[Metrics]] = {tag: [] for tag in block.tags}
    while block.tags:
        for report in block.epoch(never):
            histories[report.tag].append(untimed(report.metrics))
    return histories


def adversarial(recipe: Recipe, cache: Path) -> Adversarial:
    run = alone(recipe, "cpu", cache)
    assert isinstance(run, Adversarial)
    return run


def history(run: Adversarial) -> list[Metrics]:
    return [untimed(metrics) for _, metrics, _ in run.reports(lambda: False)]


def block_of(recipe: Recipe, lanes: int, cache: Path, **options: Any) -> LaneBlock:
    return beside(recipe, lanes, "cpu", cache, **{"compiled": False, **options})


@contextmanager
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def in_doubles(recipe: Recipe, cache: Path) -> Adversarial:
    run = adversarial(recipe, cache)
    run._data = replace(run._data, train_x=run._data.train_x.double(), val_x=run._data.val_x.double())
    run._comparison = Comparison(run._data)
    return run


def recipes_of(table: Path, norm: str, *, dropout: bool, altered: bool) -> list[Recipe]:
    """Return recipes of one structure: with every optimiser, for both networks and for one, each in another way."""
    found = []
    ways = itertools.cycle(itertools.product(SCHEDULES, ALTERED if altered else PLAIN))
    names = list(OPTIMIZERS)
    for seed, (name, (schedule, regularization)) in enumerate(zip([*names, *names], ways, strict=False)):
        model: dict[str, Any] = {"norm": norm, "groups": 4}
        if seed >= len(names):
            other = names[(seed + 3) % len(names)]
            model |= {"discriminator_optim": other, "discriminator_lr": RATES[other] / 2}
        regularization = {**regularization, "dropout": 0.1 + 0.02 * seed if dropout else 0.0}
        optim = {"name": name, "lr": RATES[name], **OPTIONS.get(name, {})}
        one = gan(table, seed, model=model, optim=optim, schedule=schedule, regularization=regularization)
        found.append(one)
    assert len({structural_key(one) for one in found}) == 1
    return found


def far(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other).norm() / other.norm())


def check_against_alone(recipes: list[Recipe], cache: Path, dtype: torch.dtype, tolerance: float) -> None:
    block = block_of(recipes[0], len(recipes), cache, dtype=dtype)
    for tag, recipe in enumerate(recipes):
        block.admit(recipe, tag)
    histories = drained(block)
    for tag, recipe in enumerate(recipes):
        run = in_doubles(recipe, cache) if dtype is torch.float64 else adversarial(recipe, cache)
        expected, own, theirs = history(run), block.state_dict(tag), run.state_dict()
        assert list(own) == list(theirs)
        for ours, metrics in zip(histories[tag], expected, strict=True):
            for metric, expected_value in metrics.items():
                # An example's distance to itself is the root of a rounding error.
                bound = max(tolerance, 1e-8) if metric in DISTANCES else tolerance
                assert ours[metric] == pytest.approx(expected_value, rel=bound, abs=bound), (recipe, metric)
            assert ours.keys() == metrics.keys()
        for name, value in theirs.items():
            # A bias before batch normalisation has no effect, see test_lanes.
            free = recipe.model.norm == "batch" and name in ("generator.linear1.bias", "generator.norm1.running_mean")
            assert free or far(own[name], value) < tolerance, (recipe, name)


@pytest.mark.parametrize(
    ("norm", "dropout", "altered"),
    [
        pytest.param(*structure, marks=() if structure == ("batch", True, True) else pytest.mark.slow)
        for structure in itertools.product(("none", "batch", "layer", "group"), (False, True), (False, True))
    ],
)
def test_in_doubles_a_lane_is_its_run_alone(cache: Path, table: Path, norm: str, dropout: bool, altered: bool) -> None:
    with doubles():
        recipes = recipes_of(table, norm, dropout=dropout, altered=altered)
        check_against_alone(recipes, cache, torch.float64, 1e-10)


def test_a_lane_is_its_run_alone(cache: Path, table: Path) -> None:
    check_against_alone(recipes_of(table, "layer", dropout=True, altered=False), cache, torch.float32, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "dropout", "altered"), [("batch", True, True), ("none", False, False)])
def test_compiled_it_is_too(cache: Path, table: Path, norm: str, dropout: bool, altered: bool) -> None:
    recipes = recipes_of(table, norm, dropout=dropout, altered=altered)
    block = block_of(recipes[0], len(recipes), cache, compiled=True)
    assert (block.compiled, block.note) == (True, "")
    for tag, recipe in enumerate(recipes):
        block.admit(recipe, tag)
    histories = drained(block)
    for tag, recipe in enumerate(recipes):
        for ours, metrics in zip(histories[tag], history(adversarial(recipe, cache)), strict=True):
            assert ours == pytest.approx(metrics, rel=1e-3, abs=1e-3), recipe
    check_bits(recipes, block_of(recipes[0], 3, cache, compiled=True), cache)


# With a lane to spare, and without: 96 examples of which 32 are for validation, in batches of 32.
SIZES: list[dict[str, Any]] = [
    {"batch_size": 7, "data": {"limit": 50}},
    {"batch_size": 32, "data": {"limit": 96, "val_fraction": 0.25}},
]


def trial(table: Path, size: int, index: int) -> Recipe:
    """Return one of six trials, of which the fourth overflows."""
    ways: list[dict[str, Any]] = [
        {"optim": {"name": "rmsprop"}, "epochs": 3},
        {"optim": {"name": "adam", "lr": 2e-3, "beta1": 0.5}, "epochs": 2},
        {"optim": {"name": "momentum", "lr": 0.02}, "epochs": 4, "schedule": {"name": "cosine"}},
        {"optim": {"name": "sgd", "lr": 1e38}, "epochs": 3},
        {"model": {"discriminator_optim": "sgd", "discriminator_lr": 0.1}, "epochs": 1},
        {"optim": {"name": "adagrad"}, "epochs": 5, "regularization": {"patience": 1, "min_delta": 5.0}},
    ]
    way = {**SIZES[size], **ways[index]}
    regularization = {"dropout": 0.1 * (1 + index), **way.pop("regularization", {})}
    model = {"norm": "batch", "activation": "relu", **way.pop("model", {})}
    return gan(table, index, model=model, regularization=regularization, **way)


def refilled(recipes: list[Recipe], block: LaneBlock) -> tuple[dict[int, list[Metrics]], dict[int, dict[str, Tensor]]]:
    """Train all recipes in a block, each lane refilled as soon as it is free."""
    waiting = iter(enumerate(recipes))
    histories: dict[int, list[Metrics]] = {}
    states: dict[int, dict[str, Tensor]] = {}
    while True:
        for tag, recipe in itertools.islice(waiting, block.free):
            block.admit(recipe, tag)
            histories[tag] = []
        if not block.tags:
            return histories, states
        for report in block.epoch(never):
            histories[report.tag].append(untimed(report.metrics))
            if report.finished:
                states[report.tag] = block.state_dict(report.tag)
                block.release(report.tag)


def check_bits(recipes: list[Recipe], block: LaneBlock, cache: Path) -> None:
    histories, states = refilled(recipes, block)
    for tag, recipe in enumerate(recipes):
        one_by_one = block_of(recipe, 1, cache, compiled=block.compiled)
        expected, state = refilled([recipe], one_by_one)
        assert repr(histories[tag]) == repr(expected[0])
        for name, value in state[0].items():
            assert torch.equal(value.nan_to_num(), states[tag][name].nan_to_num()), name


@pytest.mark.parametrize("size", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_trial_s_bits_are_its_own_beside_any_neighbours(cache: Path, table: Path, size: int) -> None:
    recipes = [trial(table, size, index) for index in range(6)]
    assert len({structural_key(one) for one in recipes}) == 1
    check_bits(recipes, block_of(recipes[0], 4, cache), cache)
    check_bits(recipes[::-1], block_of(recipes[0], 2, cache), cache)
    assert block_of(recipes[0], 1, cache)._spare == (size == 0)


@remembered
def overflowed(table: Path, cache: Path) -> list[Metrics]:
    return history(adversarial(trial(table, 0, 3), cache))


def test_a_loss_that_is_not_finite_ends_a_trial_where_it_ends_alone(cache: Path, table: Path) -> None:
    block = block_of(trial(table, 0, 0), 2, cache)
    block.admit(trial(table, 0, 3), 0)
    block.admit(trial(table, 0, 0), 1)
    report = block.epoch(never)[0]
    assert report.finished
    assert math.isnan(report.metrics["val_loss"])
    (alone_,) = overflowed(table, cache)
    assert untimed(report.metrics).keys() == alone_.keys()
    assert "discriminator_accuracy" not in report.metrics
    assert block.tags == [1]


def test_a_trial_goes_on_in_another_block_bit_for_bit(cache: Path, table: Path) -> None:
    recipe = replace(trial(table, 0, 2), epochs=5)
    straight = block_of(recipe, 2, cache)
    straight.admit(recipe, 0)
    expected = drained(straight)[0]
    first = block_of(recipe, 2, cache)
    first.admit(recipe, 0)
    begun = [untimed(report.metrics) for _ in range(2) for report in first.epoch(never)]
    state = pickle.loads(pickle.dumps(first.cut(0)))
    second = block_of(recipe, 2, cache)
    second.admit(trial(table, 0, 0), 8)
    second.epoch(never)
    second.admit(recipe, 9, state)
    assert begun + drained(second)[9] == expected
    assert "first_loss" not in expected[2]
    last = second.state_dict(9)
    assert all(torch.equal(value, last[name]) for name, value in straight.state_dict(0).items())


def test_reports_are_those_of_a_run_alone(cache: Path, table: Path) -> None:
    recipe = trial(table, 0, 0)
    block = block_of(recipe, 2, cache, layers=True)
    block.admit(recipe, 0)
    reports = [*block.epoch(never), *block.epoch(never)]
    for ours, (epoch, metrics, _) in zip(reports, adversarial(recipe, cache).reports(lambda: False), strict=False):
        assert (ours.epoch, ours.metrics.keys()) == (epoch, metrics.keys())
    assert {"first_loss", "dead_units", "discriminator_lr"} <= reports[0].metrics.keys()


def test_a_lane_that_is_told_to_stop_is_free_at_once(cache: Path, table: Path) -> None:
    recipe = trial(table, 0, 0)
    block = block_of(recipe, 3, cache)
    for tag in range(3):
        block.admit(replace(recipe, seed=tag), tag)
    asked: list[int] = []

    def third_time(tag: int) -> bool:
        asked.append(tag)
        return tag == 0 and asked.count(0) == 3

    reports = block.epoch(third_time)
    assert {report.tag for report in reports} == set(block.tags) == {1, 2}
    for report in reports:
        by_itself = block_of(recipe, 1, cache)
        by_itself.admit(replace(recipe, seed=report.tag), 0)
        assert untimed(report.metrics) == untimed(by_itself.epoch(never)[0].metrics)


def test_both_optimisers_are_a_lane_s_own(table: Path) -> None:
    keys = {
        structural_key(gan(table, **config))
        for config in (
            {},
            {"model": {"discriminator_optim": "sgd", "discriminator_lr": 0.1, "init": "he_normal"}},
            {"optim": {"name": "rmsprop"}, "regularization": {"label_smoothing": 0.1}},
        )
    }
    assert len(keys) == 1
    for model in ({"latent": 5}, {"discriminator_hidden": [8]}, {"norm": "layer"}):
        assert structural_key(gan(table, model=model)) not in keys


def test_it_can_be_a_lane_but_for_fp16(cache: Path, table: Path) -> None:
    assert can_lane(gan(table)) is None
    half = gan(table, precision="fp16")
    assert "precision" in (can_lane(half) or "")
    with pytest.raises(BadInputError, match="precision"):
        block_of(half, 2, cache)


@pytest.mark.slow
def test_lanes_of_gans_are_planned(cache: Path, table: Path) -> None:
    planner = Planner("cpu", cache, slots=None, compile="never", memory_fraction=0.5)
    recipe = gan(table)
    planner.trained(recipe, 10.0)
    plan = planner.plan(recipe)
    assert plan.lanes >= 1
    assert plan.program in ("eager", "solo")


def test_a_lane_s_bytes_grow_with_what_it_makes(cache: Path, table: Path) -> None:
    from swathe.training.data import load
    from swathe.training.lane_plan import lane_bytes

    small, large = (gan(table, model={"hidden": hidden}) for hidden in ([12], [512, 512]))
    sizes = [lane_bytes(geometry_of(one, load(one.data, cache), "cpu")) for one in (small, large)]
    assert sizes[0] < sizes[1] / 10
