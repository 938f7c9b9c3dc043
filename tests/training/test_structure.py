"""Which trials can share a block."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from torch import nn

from swathe.training import models
from swathe.training.recipe import ACTIVATIONS, MLP, NORMS, Recipe, recipe_from_config
from swathe.training.structure import _why_not, can_lane, structural_key


def key(**config: Any) -> str:
    return structural_key(recipe_from_config(config))


@pytest.mark.parametrize(
    "config",
    [
        {"optim": {"name": "sgd", "lr": 0.5}},
        {"schedule": {"name": "cosine", "warmup_steps": 5}},
        {"regularization": {"l2": 0.1, "weight_decay": 0.1, "label_smoothing": 0.1, "patience": 3}},
        {"model": {"init": "he_normal"}},
        {"seed": 7},
        {"epochs": 3},
    ],
)
def test_what_a_lane_owns_is_no_structure(config: dict[str, Any]) -> None:
    assert key(**config) == key()


def test_dropout_is_structure_and_its_probability_is_not() -> None:
    some, more = (key(regularization={"dropout": p}) for p in (0.1, 0.5))
    assert key() != some == more


def test_a_pass_over_the_gradient_is_structure_and_what_it_does_is_not() -> None:
    changes: list[dict[str, Any]] = [{"l1": 0.1}, {"l1": 0.2}, {"clip_norm": 1.0}, {"clip_value": 0.1}]
    assert {key(regularization=change) for change in changes} == {key(regularization={"l1": 0.3, "clip_norm": 2.0})}
    assert key(regularization={"l1": 0.1}) != key()


def test_every_structure_has_a_key_of_its_own() -> None:
    configs: list[dict[str, Any]] = [
        {},
        {"batch_size": 32},
        {"batch_size": "full"},
        {"precision": "bf16"},
        {"model": {"hidden": [64]}},
        {"model": {"hidden": [128, 128]}},
        {"model": {"norm": "batch"}},
        {"model": {"activation": "tanh"}},
        {"model": {"name": "cnn"}},
        {"data": {"limit": 100}},
        {"data": {"split_seed": 1}},
        {"data": {"name": "fashion_mnist"}},
    ]
    assert len({key(**config) for config in configs}) == len(configs)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_models_of_recipes_can_be_lanes(name: str, norm: str, dropout: float) -> None:
    config = {"model": {"name": name, "norm": norm}, "regularization": {"dropout": dropout}}
    assert can_lane(recipe_from_config(config)) is None


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_can_be_in_a_lane(activation: str) -> None:
    assert can_lane(recipe_from_config({"model": {"activation": activation}})) is None


def test_a_table_can_be_a_lane_s_data_before_it_is_read() -> None:
    data = {"name": "csv", "path": "nowhere.csv", "target": "y"}
    assert can_lane(recipe_from_config({"data": data})) is None


def test_a_layer_that_cannot_be_a_lane_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # One that a recipe cannot have, in the place of one that it can.
    monkeypatch.setitem(models._ACTIVATIONS, "tanh", nn.RReLU)
    recipe = recipe_from_config({"model": {"hidden": [7], "activation": "tanh"}})
    assert can_lane(recipe) == "activation1: draws random numbers of its own, so the trial is trained alone."
    _why_not.cache_clear()


def test_recipes_of_one_structure_are_tried_once() -> None:
    before = _why_not.cache_info().misses
    for seed in range(3):
        assert can_lane(recipe_from_config({"model": {"hidden": [11]}, "seed": seed})) is None
    assert _why_not.cache_info().misses == before + 1


def test_keys_need_no_torch() -> None:
    code = "import sys, swathe.training.structure; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_model_of_another_kind_is_trained_alone() -> None:
    @dataclass
    class Own(MLP):
        name: str = "own"

    assert can_lane(Recipe(model=Own())) == "model.name: 'own' has no form for lanes, so the trial is trained alone."
