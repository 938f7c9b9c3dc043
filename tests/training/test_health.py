"""Health of a network: gradients by depth, how far a step moves, dead and saturated units; alone and as lanes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from swathe.training.health import Units, first_and_last_weights, layer_metrics, peak_memory, sampled, update_ratios
from swathe.training.lanes import LaneBlock
from swathe.training.models import build
from swathe.training.optim import Update
from swathe.training.recipe import Recipe, recipe_from_config
from swathe.training.solo import Solo, evaluation_parts
from swathe.training.symptoms import LAYER_NORMS

DEPTH = ("grad_norm_first", "grad_norm_last", "update_ratio")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def recipe(**config: Any) -> Recipe:
    given = {"data": {"limit": 320}, "batch_size": 32, "epochs": 2, "seed": 3, **config}
    given["model"] = {"hidden": [12, 9], **config.get("model", {})}
    return recipe_from_config(given)


def alone(one: Recipe, cache: Path) -> list[dict[str, float]]:
    return [metrics for _, metrics, _ in Solo(one, "cpu", cache, layers=True).reports(lambda: False)]


def as_lanes(recipes: list[Recipe], cache: Path) -> dict[int, list[dict[str, float]]]:
    block = LaneBlock(recipes[0], len(recipes), "cpu", cache, compiled=False, layers=True)
    for tag, one in enumerate(recipes):
        block.admit(one, tag)
    found: dict[int, list[dict[str, float]]] = {tag: [] for tag in range(len(recipes))}
    while reports := block.epoch(lambda tag: False):
        for report in reports:
            found[report.tag].append(report.metrics)
            if report.finished:
                block.release(report.tag)
    return found


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"activation": "relu"}},
        {"model": {"activation": "sigmoid", "init": "xavier_uniform"}},
        {"model": {"activation": "tanh", "norm": "batch"}, "regularization": {"l1": 1e-3, "dropout": 0.2}},
        {"model": {"activation": "gelu"}, "regularization": {"clip_norm": 0.1}},
        {"model": {"name": "cnn", "channels": [3], "hidden": [8]}, "regularization": {"clip_value": 0.01}},
    ],
    ids=["relu", "sigmoid", "tanh", "gelu", "cnn"],
)
def test_lanes_report_what_a_trial_alone_does(config: dict[str, Any], cache: Path) -> None:
    recipes = [recipe(**config, optim={"name": "adam", "lr": rate}) for rate in (1e-3, 3e-2)]
    for tag, laned in as_lanes(recipes, cache).items():
        for ours, theirs in zip(alone(recipes[tag], cache), laned, strict=True):
            assert ours.keys() == theirs.keys()
            layers = [name for name in ours if name.startswith(LAYER_NORMS)]
            assert len(layers) == 3
            for name in (*DEPTH, *layers, "dead_units", "saturated_units"):
                assert ours.get(name, 0.0) == pytest.approx(theirs.get(name, 0.0), rel=1e-3, abs=1e-6), name


def test_a_report_says_how_many_units_can_be_counted(cache: Path) -> None:
    assert {"dead_units"} == alone(recipe(), cache)[0].keys() & {"dead_units", "saturated_units"}
    bounded = alone(recipe(model={"activation": "tanh"}), cache)[0]
    assert {"saturated_units"} == bounded.keys() & {"dead_units", "saturated_units"}
    neither = alone(recipe(model={"activation": "silu"}), cache)[0]
    assert not neither.keys() & {"dead_units", "saturated_units"}


def test_the_first_report_has_the_loss_that_a_run_began_with(cache: Path) -> None:
    # One step an epoch: it is the whole first epoch's loss, before any update.
    one = recipe(batch_size="full")
    for reports in (alone(one, cache), as_lanes([one], cache)[0]):
        assert reports[0]["first_loss"] == reports[0]["train_loss"]
        assert reports[0]["first_loss"] == pytest.approx(math.log(10), abs=0.3)
        assert "first_loss" not in reports[1]


def test_an_epoch_that_is_cut_short_has_no_last_step(cache: Path) -> None:
    wild = recipe(optim={"name": "sgd", "lr": 1e30}, data={"limit": None}, batch_size=8, epochs=1)
    (metrics,) = alone(wild, cache)
    assert math.isnan(metrics["val_loss"])
    assert not metrics.keys() & set(DEPTH)
    (laned,) = as_lanes([wild], cache)[0]
    assert not laned.keys() & set(DEPTH)


def network() -> nn.Sequential:
    return build(recipe().model, 64, 10, None, 0.0, torch.Generator().manual_seed(0))


def test_a_layer_that_never_fires_is_dead() -> None:
    model = network()
    with torch.no_grad():
        model[0].bias.fill_(-1e6)  # type: ignore[operator, union-attr]
        model[2].bias.fill_(1e6)  # type: ignore[operator, union-attr]
    units = Units(model)
    units.begin()
    model(torch.randn(128, 64))
    # 12 of 21 units.
    assert float(units.take()["dead_units"]) == pytest.approx(12 / 21)


def test_what_is_not_a_number_is_not_dead() -> None:
    model = nn.Sequential(nn.ReLU())
    units = Units(model)
    units.begin()
    model(torch.tensor([[math.nan, -1.0], [-1.0, -1.0]]))
    assert float(units.take()["dead_units"]) == 0.5


@pytest.mark.parametrize(("layer", "inputs", "share"), [(nn.Sigmoid(), 6.0, 1.0), (nn.Tanh(), 2.0, 0.0)])
def test_an_end_of_the_range_is_within_a_hundredth_of_it(layer: nn.Module, inputs: float, share: float) -> None:
    # sigmoid(6) = 0.9975; tanh(2) = 0.964, where 0.98 would be near the end.
    units = Units(nn.Sequential(layer))
    units.begin()
    layer(torch.tensor([[inputs, -inputs]]))
    assert float(units.take()["saturated_units"]) == share


def test_nothing_is_counted_while_it_trains() -> None:
    model = network()
    units = Units(model)
    model(torch.randn(4, 64))
    units.begin()
    model(torch.zeros(4, 64))
    first = units.take()
    model(torch.randn(4, 64))
    units.begin()
    model(torch.zeros(4, 64))
    assert units.take() == first


def test_the_norms_by_depth_are_those_of_the_weights_before_clipping() -> None:
    one = recipe(regularization={"clip_norm": 1e-3})
    model = network()
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))
    loss = nn.functional.cross_entropy(model(x), y)
    gradients = dict(
        zip(
            (name for name, _ in model.named_parameters()),
            torch.autograd.grad(loss, list(model.parameters()), retain_graph=True),
            strict=True,
        )
    )
    norms = Update(model, one.optim, one.regularization, layers=True).step_by_depth(loss, 1e-3)
    first, between, last = [gradient.norm() for name, gradient in gradients.items() if name.endswith("weight")]
    torch.testing.assert_close(norms[1:], torch.stack([first, last, between]))


def test_a_report_has_every_layer_in_the_network_s_order(cache: Path) -> None:
    one = recipe(model={"hidden": [80, 70, 12, 9]})
    for report in (alone(one, cache)[0], as_lanes([one], cache)[0][0]):
        layers = {name: value for name, value in report.items() if name.startswith(LAYER_NORMS)}
        layered = [f"grad_norm/0{at}.linear{at}" for at in range(1, 5)]
        assert list(layers) == [*layered, "grad_norm/05.output"]
        assert list(layers) == sorted(layers)
        norms = list(layers.values())
        assert (norms[0], norms[-1]) == (report["grad_norm_first"], report["grad_norm_last"])
        assert len(set(norms)) == 5


@pytest.mark.parametrize("hidden", [[], [5]])
def test_a_network_may_have_hardly_any_layers(hidden: list[int], cache: Path) -> None:
    one = recipe(model={"hidden": hidden})
    for report in (alone(one, cache)[0], as_lanes([one], cache)[0][0]):
        layers = [value for name, value in report.items() if name.startswith(LAYER_NORMS)]
        assert layers == [report["grad_norm_first"], report["grad_norm_last"]][: len(hidden) + 1]


def test_what_is_no_matrix_is_no_layer() -> None:
    names = ["0.weight", "0.bias", "1.weight", "embedding.weight"]
    shapes = [torch.Size(shape) for shape in [(4, 3), (4,), (4,), (9, 2)]]
    assert layer_metrics(names, shapes) == ["grad_norm/01.0", "grad_norm/02.embedding"]
    assert layer_metrics(names[1:3], shapes[1:3]) == []


def test_the_first_and_the_last_weights_are_matrices() -> None:
    shapes = [torch.Size(shape) for shape in [(3,), (4, 3), (4,), (2, 4, 3, 3), (2,)]]
    assert first_and_last_weights(shapes) == (1, 3)
    assert first_and_last_weights(shapes[:1]) == (0, 0)


def test_the_ratio_of_an_update_is_relative_to_what_was_there() -> None:
    before = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, math.nan]])
    after = before + torch.tensor([[0.0, 0.5], [1.0, 1.0], [1.0, 1.0]])
    first, second, third = update_ratios(before, after)
    assert (first, second) == (pytest.approx(0.1), 0.0)
    assert math.isnan(third)


@pytest.mark.parametrize("examples", [1, 31, 359, 1024, 1025, 10_000])
def test_every_example_of_validation_counts_once(examples: int) -> None:
    parts = list(evaluation_parts(examples, "cpu"))
    assert len({len(rows) for rows, _ in parts}) == 1
    assert all(len(rows) % 32 == 0 for rows, _ in parts)
    counted = torch.cat([rows[:count] for rows, count in parts])
    assert counted.tolist() == list(range(examples))


def test_the_peak_of_memory_never_falls() -> None:
    before = peak_memory("cpu")
    assert before > 1e6
    # Written to, as untouched pages are no memory yet.
    taken = torch.ones(int(before) // 4 + 1)
    assert peak_memory("cpu") > before
    del taken
    assert peak_memory("cpu") > before


@pytest.mark.parametrize("parameters", [1, 650, 1024, 1025, 9610, 101_770, 11_173_962])
def test_what_an_update_is_measured_by_is_spread_over_all_parameters(parameters: int) -> None:
    chosen = sampled(parameters)
    assert len(chosen) == len(set(chosen)) == min(parameters, 1024)
    assert chosen == sorted(chosen)
    assert 0 <= chosen[0] <= chosen[-1] < parameters
    # No part of 1 % is left out, nor a column of a matrix of 64.
    assert {place * 100 // parameters for place in chosen} == {place * 100 // parameters for place in range(parameters)}
    if parameters > 64:
        assert {place % 64 for place in chosen} == set(range(64))


@pytest.mark.parametrize("config", [{"optim": {"name": "adamw", "lr": 0.003}}, {"optim": {"name": "sgd", "lr": 0.1}}])
def test_the_ratio_of_a_sample_is_near_that_of_all(cache: Path, config: dict[str, Any]) -> None:
    recipe = recipe_from_config({"model": {"hidden": [128]}, "data": {}, "epochs": 8, **config})
    run = Solo(recipe, "cpu", cache)
    update = run._update
    every: list[float] = []
    step = update.step_by_depth

    def watched(loss: torch.Tensor, lr: float) -> torch.Tensor:
        before = update._flat.detach().clone()
        norms = step(loss, lr)
        every.append(float((update._flat.detach() - before).norm() / before.norm()))
        return norms

    update.step_by_depth = watched  # type: ignore[method-assign]
    found = [metrics["update_ratio"] for _, metrics, _ in run.reports(lambda: False)]
    assert len(every) == len(found) == 8
    assert found == pytest.approx(every, rel=0.2)
