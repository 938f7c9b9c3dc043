"""Lanes against plain loops of torch.optim, against `Solo`, and against themselves beside other neighbours."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache as remembered
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import lr_scheduler

from swathe.errors import BadInputError
from swathe.training import lane_compiler, streams
from swathe.training.lanes import LaneBlock, LaneReport
from swathe.training.models import BatchNorm, build
from swathe.training.recipe import OPTIMIZERS, TIMING_METRICS, Recipe, recipe_from_config
from swathe.training.solo import Solo
from swathe.training.streams import Stream

Metrics = dict[str, float]
Histories = dict[int, list[Metrics]]

INPUTS, BATCH, HIDDEN, EPOCHS, STEPS = 8, 20, 12, 10, 10
# The rates at which the optimisers learn this task.
RATES = {"sgd": 0.1, "momentum": 0.02, "nesterov": 0.02, "rmsprop": 1e-3, "adagrad": 0.02, "adam": 2e-3, "adamw": 2e-3}
# With an eps of 1e-10, Adagrad makes as large a first step for a gradient of rounding errors as for any other: that of
# a bias before batch normalisation, which the running mean follows.
OPTIONS: dict[str, dict[str, Any]] = {"adagrad": {"eps": 1e-4}}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "cosine": {"name": "cosine"},
    # So choosy that the rate does fall.
    "plateau": {"name": "plateau", "factor": 0.5, "patience": 0, "threshold": 0.2},
    "warm-up": {"warmup_steps": 30},
}
# Each with every optimiser, and not with every regularisation: a lane sees of a schedule only its rates, which the
# schedules above vary in every way.
MORE_SCHEDULES: list[dict[str, Any]] = [
    {"name": "exponential", "gamma": 0.8},
    {"name": "linear"},
    {"name": "polynomial", "power": 2.0},
    {"name": "one_cycle"},
]
REGULARIZATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "dropout": {"dropout": 0.3},
    "l1": {"l1": 1e-3},
    "l2": {"l2": 1e-2},
    "decoupled": {"weight_decay": 0.1},
    "clipping": {"clip_norm": 0.5},
    "clipping by value": {"clip_value": 0.01},
    "smoothing": {"label_smoothing": 0.1},
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lanes") / "data"


def never(tag: int) -> bool:
    return False


def untimed(metrics: Metrics) -> Metrics:
    return {name: value for name, value in metrics.items() if name not in TIMING_METRICS}


def drain(block: LaneBlock) -> Histories:
    """Train all lanes to their ends."""
    histories: Histories = {tag: [] for tag in block.tags}
    while block.tags:
        for report in block.epoch(never):
            histories[report.tag].append(untimed(report.metrics))
    return histories


def assert_close(ours: list[Metrics], theirs: list[Metrics], tolerance: float = 1e-4) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance, nan_ok=True)


def solo_history(recipe: Recipe, cache: Path) -> list[Metrics]:
    return [untimed(metrics) for _, metrics, _ in Solo(recipe, "cpu", cache).reports(lambda: False)]


def combinations(norm: str, table: Path) -> list[Recipe]:
    """Return a recipe for each combination, on a table that is written first.

    No feature is constant within a batch, as pixels of the digits are: batch normalisation takes all effect from the
    weights of such a feature, and Adam and RMSprop would scale up the rounding errors that are left of their gradients.
    """
    draw = torch.Generator().manual_seed(3)
    examples = torch.cat([torch.randn(250, INPUTS, generator=draw), torch.randint(0, 3, (250, 1), generator=draw)], 1)
    lines = [",".join(map(str, [*row[:-1], int(row[-1])])) for row in examples.tolist()]
    table.write_text("\n".join([",".join([*"abcdefgh", "y"]), *lines]))
    every = [
        *itertools.product(OPTIMIZERS, SCHEDULES.values(), REGULARIZATIONS.values()),
        *itertools.product(OPTIMIZERS, MORE_SCHEDULES, (REGULARIZATIONS["none"], REGULARIZATIONS["dropout"])),
    ]
    return [
        recipe_from_config(
            {
                "model": {"hidden": [HIDDEN], "norm": norm, "activation": "tanh"},
                "data": {"name": "csv", "path": str(table), "target": "y"},
                "optim": {"name": optim, "lr": RATES[optim], **OPTIONS.get(optim, {})},
                "schedule": schedule,
                "regularization": regularization,
                "batch_size": BATCH,
                "epochs": EPOCHS,
                "seed": seed,
            }
        )
        for seed, (optim, schedule, regularization) in enumerate(every)
    ]


def torch_optimizer(optim: Any, parameters: list[nn.Parameter], l2: float) -> torch.optim.Optimizer:
    match optim.name:
        case "sgd":
            return torch.optim.SGD(parameters, optim.lr, weight_decay=l2, foreach=False)
        case "momentum" | "nesterov":
            nesterov = optim.name == "nesterov"
            return torch.optim.SGD(
                parameters, optim.lr, optim.momentum, weight_decay=l2, nesterov=nesterov, foreach=False
            )
        case "rmsprop":
            return torch.optim.RMSprop(parameters, optim.lr, weight_decay=l2, foreach=False)
        case "adagrad":
            return torch.optim.Adagrad(parameters, optim.lr, eps=optim.eps, weight_decay=l2, foreach=False)
        case "adam":
            return torch.optim.Adam(parameters, optim.lr, weight_decay=l2, foreach=False)
        case _:
            return torch.optim.AdamW(parameters, optim.lr, weight_decay=0.01, foreach=False)


def torch_schedulers(
    name: str, optimizer: torch.optim.Optimizer, peak: float
) -> tuple[lr_scheduler.LRScheduler | None, lr_scheduler.LRScheduler | None]:
    """Return torch's scheduler of the steps, and of the epochs, of one of `MORE_SCHEDULES`."""
    steps = EPOCHS * STEPS
    match name:
        case "exponential":
            return None, lr_scheduler.ExponentialLR(optimizer, 0.8)
        case "linear":
            return lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps), None
        case "polynomial":
            return lr_scheduler.PolynomialLR(optimizer, steps, 2.0), None
        case "one_cycle":
            return lr_scheduler.OneCycleLR(optimizer, peak, steps, cycle_momentum=False), None
        case _:
            return None, None


def plain_loop(recipe: Recipe, block: LaneBlock, dtype: torch.dtype) -> tuple[dict[str, Tensor], list[float]]:
    """Train by torch alone, with the same start, order and masks; returns the state and the validation losses."""
    data, regularization, peak = block.dataset, recipe.regularization, recipe.optim.lr
    start = build(recipe.model, INPUTS, 3, None, 0.0, streams.generator(recipe.seed, Stream.INIT)).state_dict()
    norms: dict[str, Callable[[], nn.Module]] = {
        "none": nn.Identity,
        "batch": lambda: BatchNorm(HIDDEN),
        "layer": lambda: nn.LayerNorm(HIDDEN),
    }
    network = nn.ModuleDict(
        {"linear1": nn.Linear(INPUTS, HIDDEN), "norm1": norms[recipe.model.norm](), "output": nn.Linear(HIDDEN, 3)}
    ).to(dtype)
    network.load_state_dict(start)
    parameters = list(network.parameters())
    decay = regularization.weight_decay if recipe.optim.name != "adamw" else None
    optimizer = torch_optimizer(recipe.optim, parameters, regularization.l2)
    group = optimizer.param_groups[0]
    if recipe.optim.name == "adamw":
        # torch's AdamW has decoupled decay as its weight_decay and no coupled one, which is added to the gradient.
        group["weight_decay"] = 0.01 if regularization.weight_decay is None else regularization.weight_decay
    plateau = None
    if recipe.schedule.name == "plateau":
        plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.2, eps=0)
    by_step, by_epoch = torch_schedulers(recipe.schedule.name, optimizer, peak)

    def outputs(x: Tensor, mask: Tensor | float) -> Tensor:
        hidden = torch.tanh(network["norm1"](network["linear1"](x)))
        result: Tensor = network["output"](hidden * mask)
        return result

    train_x, val_x, validation = data.train_x.to(dtype), data.val_x.to(dtype), []
    for epoch in range(1, EPOCHS + 1):
        network.train()
        order = torch.randperm(BATCH * STEPS, generator=streams.generator(recipe.seed, Stream.ORDER, epoch))
        for step, rows in enumerate(order.split(BATCH)):
            done = (epoch - 1) * STEPS + step
            if recipe.schedule.name == "cosine":
                group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * done / (EPOCHS * STEPS)))
            elif recipe.schedule.warmup_steps:
                group["lr"] = min(peak, 1e-7 + (peak - 1e-7) * done / 30)
            mask: Tensor | float = 1.0
            if regularization.dropout:
                words = torch.from_numpy(streams.dropout_words(recipe.seed, epoch, STEPS, 1)[step, 0])
                mask = streams.keeps(words, streams.dropout_threshold(0.3), (BATCH, HIDDEN)).to(dtype) / 0.7
            optimizer.zero_grad()
            smoothing = regularization.label_smoothing
            loss = F.cross_entropy(outputs(train_x[rows], mask), data.train_y[rows], label_smoothing=smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for parameter in parameters:
                    assert parameter.grad is not None
                    if regularization.l1:
                        parameter.grad += regularization.l1 * parameter.sign()
                if regularization.clip_norm:
                    nn.utils.clip_grad_norm_(parameters, regularization.clip_norm)
                if regularization.clip_value:
                    nn.utils.clip_grad_value_(parameters, regularization.clip_value)
                if recipe.optim.name == "adamw" and regularization.l2:
                    for parameter in parameters:
                        assert parameter.grad is not None
                        parameter.grad += regularization.l2 * parameter * (1 - group["lr"] * 0.01)
                if decay:
                    for parameter in parameters:
                        parameter.mul_(1 - group["lr"] * decay)
            optimizer.step()
            if by_step is not None:
                by_step.step()
        if by_epoch is not None:
            by_epoch.step()
        with torch.no_grad():
            validation.append(F.cross_entropy(outputs_in_evaluation(network, outputs, val_x), data.val_y).item())
        if plateau is not None:
            plateau.step(validation[-1])
    return network.state_dict(), validation


def outputs_in_evaluation(network: nn.Module, outputs: Callable[[Tensor, float], Tensor], x: Tensor) -> Tensor:
    network.eval()
    return outputs(x, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["plain", "dropout", "alters_gradient"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_every_combination_is_what_a_plain_loop_gives(cache: Path, tmp_path: Path, norm: str, structure: str) -> None:
    every = combinations(norm, tmp_path / "t.csv")
    recipes = [recipe for recipe in every if structure_of(recipe) == structure]
    doubles, singles = (
        LaneBlock(recipes[0], len(recipes), "cpu", cache, compiled=False, dtype=dtype)
        for dtype in (torch.float64, torch.float32)
    )
    for tag, recipe in enumerate(recipes):
        doubles.admit(recipe, tag)
        singles.admit(recipe, tag)
    double_histories, single_histories = drain(doubles), drain(singles)
    for tag, recipe in enumerate(recipes):
        # In double precision the loop is the truth that both are held against.
        state, validation = plain_loop(recipe, doubles, torch.float64)
        double, single = doubles.state_dict(tag), singles.state_dict(tag)
        for name, value in state.items():
            # A bias before batch normalisation has no effect and a gradient of rounding errors, which Adam and
            # RMSprop scale up; the running mean follows that bias.
            free = norm == "batch" and name in ("linear1.bias", "norm1.running_mean")
            assert free or distance(double[name], value) < 1e-10, (recipe, name)
            assert free or distance(single[name], value) < 1e-4, (recipe, name)
        rel = 1e-3 if norm == "batch" else 1e-4
        assert [metrics["val_loss"] for metrics in double_histories[tag]] == pytest.approx(validation, rel=1e-9)
        assert [metrics["val_loss"] for metrics in single_histories[tag]] == pytest.approx(validation, rel=rel)


def structure_of(recipe: Recipe) -> str:
    regularization = recipe.regularization
    return "dropout" if regularization.dropout else "alters_gradient" if regularization.alters_gradient else "plain"


def distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other).norm() / other.norm())


SMALL: dict[str, Any] = {"data": {"limit": 90}, "batch_size": 7, "model": {"hidden": [5], "activation": "sigmoid"}}
# Each of these is tried in every `Structure`.
TRIALS: list[dict[str, Any]] = [
    {"epochs": 3},
    {"epochs": 2, "optim": {"name": "momentum", "lr": 0.05}},
    {"epochs": 4, "optim": {"name": "nesterov", "lr": 0.05}, "regularization": {"label_smoothing": 0.1}},
    {"epochs": 5, "optim": {"name": "rmsprop"}, "regularization": {"patience": 2, "min_delta": 1.0}},
    {"epochs": 3, "optim": {"name": "sgd", "lr": 1e38}},
    {"epochs": 3, "optim": {"name": "adamw"}, "schedule": {"name": "cosine", "warmup_steps": 20}},
    {"epochs": 1, "regularization": {"l2": 1e-2, "label_smoothing": 0.2}},
    {"epochs": 3, "optim": {"name": "adagrad"}, "regularization": {"weight_decay": 0.1}},
    {"epochs": 2, "optim": {"name": "sgd"}, "schedule": {"name": "one_cycle", "warmup_steps": 5}},
]


# What has a pass over the gradient of its own.
ALTERATIONS: list[dict[str, Any]] = [
    # This for the trial that overflows, which no clipping may bring to the very edge of it.
    {"l1": 1e-3},
    {"l1": 1e-3, "clip_norm": 0.5},
    {"clip_norm": 0.5},
    {"clip_value": 0.01},
]


class Structure(NamedTuple):
    """Of a trial's regularisation, what is part of its structural key."""

    dropout: bool
    alters_gradient: bool


STRUCTURES_OF_TRIALS = [Structure(*choice) for choice in itertools.product((False, True), repeat=2)]


def small(config: dict[str, Any], seed: int = 0, **regularization: Any) -> Recipe:
    regularization = {**config.get("regularization", {}), **regularization}
    return recipe_from_config({**SMALL, **config, "seed": seed, "regularization": regularization})


def trial(index: int, seed: int, structure: Structure) -> Recipe:
    """Return one of `TRIALS`, each with another probability of dropout and another penalty or clipping, or without."""
    altered = ALTERATIONS[index % len(ALTERATIONS)] if structure.alters_gradient else {}
    return small(TRIALS[index], seed, dropout=(0.1 + 0.05 * index) if structure.dropout else 0.0, **altered)


def block_of(recipe: Recipe, lanes: int, cache: Path, *, compiled: bool = False) -> LaneBlock:
    return LaneBlock(recipe, lanes, "cpu", cache, compiled=compiled)


@st.composite
def sweeps(draw: st.DrawFn) -> list[tuple[int, int, int | None]]:
    """Trials as (index of TRIALS, seed, the report after which it is pruned or None), admitted in this order."""
    trial = st.tuples(st.sampled_from(range(len(TRIALS))), st.integers(0, 3), st.sampled_from([None, None, 1, 2]))
    return draw(st.lists(trial, min_size=1, max_size=8))


def run_sweep(
    sweep: list[tuple[int, int, int | None]], block: LaneBlock, structure: Structure
) -> tuple[Histories, dict[int, Any]]:
    """Run trials through a block, each lane refilled as soon as it is free; returns histories and final states."""
    waiting: Iterator[int] = iter(range(len(sweep)))
    histories: Histories = {}
    states: dict[int, Any] = {}
    while True:
        for tag in itertools.islice(waiting, block.free):
            index, seed, _ = sweep[tag]
            block.admit(trial(index, seed, structure), tag)
            histories[tag] = []
        if not block.tags:
            return histories, states
        for report in block.epoch(never):
            histories[report.tag].append(untimed(report.metrics))
            if report.finished or report.epoch == sweep[report.tag][2]:
                states[report.tag] = block.state_dict(report.tag)
                block.release(report.tag)


@given(sweep=sweeps(), lanes=st.integers(1, 5), structure=st.sampled_from(STRUCTURES_OF_TRIALS))
@settings(max_examples=25)
def test_a_trial_is_its_solo_run_and_its_bits_are_its_own(
    cache: Path, sweep: list[tuple[int, int, int | None]], lanes: int, structure: Structure
) -> None:
    check_sweep(cache, sweep, lanes, structure, compiled=False)


def check_sweep(
    cache: Path, sweep: list[tuple[int, int, int | None]], lanes: int, structure: Structure, *, compiled: bool
) -> None:
    block = block_of(trial(0, 0, structure), lanes, cache, compiled=compiled)
    histories, states = run_sweep(sweep, block, structure)
    for tag, (index, seed, pruned) in enumerate(sweep):
        alone, solo, state = references(index, seed, pruned, cache, structure, compiled)
        assert repr(histories[tag]) == repr(alone)
        assert all(torch.equal(value.nan_to_num(), state[name].nan_to_num()) for name, value in states[tag].items())
        assert_close(alone, solo[:pruned])


@remembered
def references(
    index: int, seed: int, pruned: int | None, cache: Path, structure: Structure, compiled: bool
) -> tuple[list[Metrics], list[Metrics], dict[str, Tensor]]:
    """Return what a trial gives in a block of its own, what it gives solo, and its state in its own block."""
    recipe = trial(index, seed, structure)
    block = block_of(recipe, 1, cache, compiled=compiled)
    histories, states = run_sweep([(index, seed, pruned)], block, structure)
    return histories[0], solo_history(recipe, cache), states[0]


STRUCTURES: list[dict[str, Any]] = [
    {"hidden": [5, 3], "norm": "batch", "activation": "gelu"},
    {"hidden": [5], "norm": "layer", "activation": "silu"},
    {"hidden": [], "activation": "relu"},
    {"name": "cnn", "channels": [3], "hidden": [5], "norm": "batch"},
    {"name": "cnn", "channels": [3, 5], "hidden": [], "norm": "layer", "activation": "tanh"},
]


def structured(model: dict[str, Any], seed: int, **config: Any) -> Recipe:
    config = {"optim": {"name": "momentum", "lr": 0.05}, "regularization": {"dropout": 0.3}, "epochs": 2, **config}
    return recipe_from_config({**SMALL, "model": model, "seed": seed, **config})


@pytest.mark.parametrize("model", STRUCTURES)
def test_every_structure_is_its_solo_run_in_any_lane(cache: Path, model: dict[str, Any]) -> None:
    check_structure(cache, model, compiled=False)


def check_structure(cache: Path, model: dict[str, Any], *, compiled: bool) -> None:
    block = block_of(structured(model, 0), 3, cache, compiled=compiled)
    # The same trial in the first lane and in the last one, beside one that overflows.
    for tag, seed in enumerate((0, 1, 0)):
        block.admit(structured(model, seed, **({"optim": {"name": "sgd", "lr": 1e38}} if tag == 1 else {})), tag)
    histories = drain(block)
    assert histories[0] == histories[2]
    first, last = block.state_dict(0), block.state_dict(2)
    assert all(torch.equal(value, last[name]) for name, value in first.items())
    solo = Solo(structured(model, 0), "cpu", cache)
    assert_close(histories[0], [untimed(metrics) for _, metrics, _ in solo.reports(lambda: False)])
    assert list(first) == list(solo.state_dict())
    assert {name: value.shape for name, value in first.items()} == {
        name: value.shape for name, value in solo.state_dict().items()
    }


def test_metrics_and_shares_are_solo_s(cache: Path) -> None:
    block = block_of(small({}), 2, cache)
    for tag in range(2):
        block.admit(small({"epochs": 2}, tag), tag)
    reports = [*block.epoch(never), *block.epoch(never)]
    assert [(report.tag, report.epoch, report.finished) for report in reports] == [
        (0, 1, False), (1, 1, False), (0, 2, True), (1, 2, True),
    ]  # fmt: skip
    assert set(reports[0].metrics) - set(reports[2].metrics) == {"first_loss"}
    assert set(reports[2].metrics) == {
        "train_loss", "val_loss", "val_accuracy", "lr", "grad_norm", "grad_norm_max", "examples_per_second", "seconds",
        "peak_memory",
        "grad_norm_first", "grad_norm_last", "update_ratio", "saturated_units", "generalization_gap",
    }  # fmt: skip
    assert reports[2].metrics["seconds"] == pytest.approx(reports[0].seconds + reports[2].seconds)
    assert reports[0].seconds == reports[1].seconds > 0


def test_a_regression_is_its_solo_run(cache: Path, tmp_path: Path) -> None:
    rows = [(x / 50 - 1, (x * 7 % 100) / 50 - 1) for x in range(100)]
    (tmp_path / "t.csv").write_text("a,b,y\n" + "".join(f"{a},{b},{2 * a - b + 3}\n" for a, b in rows))
    data = {"name": "csv", "path": str(tmp_path / "t.csv"), "target": "y", "task": "regression"}
    recipe = recipe_from_config({"data": data, "model": {"hidden": [4]}, "batch_size": "full", "epochs": 5})
    block = block_of(recipe, 2, cache)
    block.admit(recipe, 0)
    ours = drain(block)[0]
    assert "val_accuracy" not in ours[0]
    assert_close(ours, solo_history(recipe, cache))


def test_a_trial_that_is_left_alone_keeps_its_bits_where_a_layer_has_one_unit(cache: Path, tmp_path: Path) -> None:
    rows = [(x / 50 - 1, (x * 7 % 100) / 50 - 1) for x in range(400)]
    (tmp_path / "t.csv").write_text("a,b,y\n" + "".join(f"{a},{b},{2 * a - b + 3}\n" for a, b in rows))
    data = {"name": "csv", "path": str(tmp_path / "t.csv"), "target": "y", "task": "regression"}
    recipe = recipe_from_config({"data": data, "model": {"hidden": [64]}, "batch_size": 64, "epochs": 3})
    histories = []
    for lanes in (1, 3):
        block = block_of(recipe, lanes, cache)
        for tag in range(lanes):
            # The others of the block are over before it.
            block.admit(recipe if tag == 0 else replace(recipe, epochs=tag, seed=tag), tag)
        histories.append(drain(block)[0])
    assert histories[0] == histories[1]


def test_validation_in_several_parts_counts_each_example_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swathe.training.solo.EVALUATION_ROWS", 100)
    recipe = small({"epochs": 1})
    block = block_of(recipe, 1, cache)
    block.admit(recipe, 0)
    assert_close(drain(block)[0], solo_history(recipe, cache))


def test_a_trial_goes_on_in_another_block_bit_for_bit(cache: Path) -> None:
    schedule = {"name": "plateau", "patience": 0, "threshold": 0.5, "factor": 0.5}
    recipe = small({"epochs": 5, "schedule": schedule, "regularization": {"dropout": 0.3, "patience": 9}})
    straight = block_of(recipe, 3, cache)
    straight.admit(recipe, 0)
    expected = drain(straight)[0]
    first = block_of(recipe, 3, cache)
    first.admit(recipe, 0)
    histories = [untimed(report.metrics) for _ in range(2) for report in first.epoch(never)]
    state = pickle.loads(pickle.dumps(first.cut(0)))
    first.epoch(never)
    second = block_of(recipe, 3, cache)
    second.admit(small({}, 5, dropout=0.1), 8)
    second.epoch(never)
    second.admit(recipe, 9, state)
    assert histories + drain(second)[9] == expected
    assert all(torch.equal(value, second.state_dict(9)[name]) for name, value in straight.state_dict(0).items())


def test_shrinking_keeps_every_trial(cache: Path) -> None:
    recipes = [small({"epochs": 4}, seed) for seed in range(2)]
    block = block_of(recipes[0], 8, cache)
    for tag, recipe in enumerate(recipes):
        block.admit(recipe, tag)
    begun = {report.tag: [untimed(report.metrics)] for report in block.epoch(never)}
    assert (block.lanes, block.free, block.occupancy) == (8, 6, 0.25)
    block.shrink(2)
    assert (block.lanes, block.free, block.occupancy) == (2, 0, 1.0)
    rest = drain(block)
    for tag, recipe in enumerate(recipes):
        assert_close(begun[tag] + rest[tag], solo_history(recipe, cache))
    with pytest.raises(BadInputError, match="at least 2"):
        block.shrink(1)


def test_a_lane_that_is_told_to_stop_in_mid_epoch_is_free_at_once(cache: Path) -> None:
    block = block_of(small({}), 2, cache)
    for tag in range(2):
        block.admit(small({}, tag), tag)
    asked: list[int] = []

    def third_time(tag: int) -> bool:
        asked.append(tag)
        return tag == 0 and asked.count(0) == 3

    reports = block.epoch(third_time)
    # 12 steps: the other one is asked at each of them.
    assert asked == [0, 1, 0, 1, 0, *[1] * 10]
    assert [report.tag for report in reports] == block.tags == [1]
    assert block.free == 1
    assert_close([untimed(reports[0].metrics)], solo_history(small({}, 1), cache)[:1])


def test_all_told_to_stop_nothing_is_left(cache: Path) -> None:
    block = block_of(small({}), 2, cache)
    block.admit(small({}), 0)
    assert block.epoch(lambda tag: True) == []
    assert block.free == 2
    assert block.epoch(never) == []


def test_a_loss_that_is_not_finite_ends_the_epoch_where_it_ends_solo(cache: Path) -> None:
    config = {"optim": {"name": "sgd", "lr": 1e38}, "data": {"limit": 300}, "batch_size": 2, "epochs": 3}
    recipe = small(config)
    block = block_of(recipe, 2, cache)
    block.admit(recipe, 0)
    block.admit(recipe_from_config({**SMALL, **config, "optim": {}, "seed": 1}), 1)
    first: LaneReport = block.epoch(never)[0]
    assert first.finished
    assert math.isnan(first.metrics["val_loss"])
    assert_close([untimed(first.metrics)], solo_history(recipe, cache))
    assert block.tags == [1]


def test_a_finished_trial_keeps_its_state_until_its_release(cache: Path) -> None:
    block = block_of(small({}), 2, cache)
    block.admit(small({"epochs": 1}), 0)
    block.admit(small({"epochs": 3}), 1)
    block.epoch(never)
    state = block.state_dict(0)
    assert (block.tags, block.free, block.occupancy) == ([1], 0, 0.5)
    block.epoch(never)
    assert all(torch.equal(value, block.state_dict(0)[name]) for name, value in state.items())
    block.release(0)
    assert block.free == 1


def test_what_cannot_be_admitted_is_refused(cache: Path) -> None:
    block = block_of(small({}), 1, cache)
    with pytest.raises(BadInputError, match="another structural key"):
        block.admit(small({"model": {"hidden": [6]}}), 0)
    block.admit(small({}), 0)
    with pytest.raises(BadInputError, match="is in the block already"):
        block.admit(small({}), 0)
    with pytest.raises(BadInputError, match="no free lane of 1"):
        block.admit(small({}), 1)
    with pytest.raises(BadInputError, match="trial 5 is not in the block"):
        block.release(5)
    with pytest.raises(BadInputError, match="lanes"):
        block_of(small({}), 0, cache)


def test_the_global_stream_is_not_touched(cache: Path) -> None:
    before = torch.random.get_rng_state()
    block = block_of(small({}), 2, cache)
    block.admit(small(TRIALS[1]), 0)
    drain(block)
    assert torch.equal(before, torch.random.get_rng_state())


def test_without_a_compiler_lanes_run_and_say_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    lane_compiler.no_compiler.cache_clear()
    block = block_of(small({}), 2, cache, compiled=True)
    assert "no C++ compiler" in block.note
    assert not block.compiled
    block.admit(small({}), 0)
    assert len(drain(block)[0]) == 20
    assert block_of(small({}), 2, cache).note == ""
    monkeypatch.undo()
    lane_compiler.no_compiler.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("model", STRUCTURES[::3])
def test_compiled_structures_too(cache: Path, model: dict[str, Any]) -> None:
    check_structure(cache, model, compiled=True)


@pytest.mark.slow
@pytest.mark.parametrize("structure", STRUCTURES_OF_TRIALS)
def test_compiled_a_trial_is_its_solo_run_and_its_bits_are_its_own(cache: Path, structure: Structure) -> None:
    every = range(len(TRIALS))
    for lanes in (3, 5):
        check_sweep(cache, [(index, 0, None) for index in every], lanes, structure, compiled=True)
    check_sweep(cache, [(index, 0, None) for index in (4, 4, 1, 3, 0, 2, 6, 5, 7)], 4, structure, compiled=True)
    block = block_of(trial(0, 0, structure), 3, cache, compiled=True)
    assert (block.compiled, block.note) == (True, "")
