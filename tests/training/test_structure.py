"""Which trials can share a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from swathe.training.recipe import MLP, Recipe, recipe_from_config
from swathe.training.structure import can_lane, structural_key


def key(**config: Any) -> str:
    return structural_key(recipe_from_config(config))


@pytest.mark.parametrize(
    "config",
    [
        {"optim": {"name": "sgd", "lr": 0.5}},
        {"schedule": {"name": "cosine", "warmup_steps": 5}},
        {"regularization": {"dropout": 0.5, "l1": 0.1, "l2": 0.1, "clip_norm": 1.0, "patience": 3}},
        {"model": {"init": "he_normal"}},
        {"seed": 7},
        {"epochs": 3},
    ],
)
def test_what_a_lane_owns_is_no_structure(config: dict[str, Any]) -> None:
    assert key(**config) == key()


def test_every_structure_has_a_key_of_its_own() -> None:
    configs: list[dict[str, Any]] = [
        {},
        {"batch_size": 32},
        {"batch_size": "full"},
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


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_models_of_recipes_can_be_lanes(name: str) -> None:
    assert can_lane(recipe_from_config({"model": {"name": name}})) is None


def test_a_model_of_another_kind_is_trained_alone() -> None:
    @dataclass
    class Own(MLP):
        name: str = "own"

    assert can_lane(Recipe(model=Own())) == "model.name: 'own' has no form for lanes, so the trial is trained alone."
