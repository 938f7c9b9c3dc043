"""Recipes from plain configs: what is built, and what is refused in which words."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swathe.errors import BadInputError
from swathe.training import recipe
from swathe.training.recipe import CNN, CSV, Adam, Momentum, PlateauSchedule, Recipe, RMSprop, recipe_from_config

CSV_FILE = {"name": "csv", "path": "table.csv", "target": "y"}


def test_an_empty_config_is_the_default_recipe() -> None:
    assert recipe_from_config({}) == Recipe()


def test_classes_are_chosen_by_name() -> None:
    built = recipe_from_config(
        {
            "trainable": None,
            "params": {},
            "model": {"name": "cnn", "channels": (8,), "hidden": []},
            "data": {"name": "mnist", "limit": 100},
            "optim": {"name": "nesterov", "lr": 1},
            "schedule": {"name": "plateau"},
            "batch_size": "full",
        }
    )
    assert built.model == CNN(channels=[8], hidden=[])
    assert built.optim == Momentum(name="nesterov", lr=1.0)
    assert type(built.optim.lr) is float
    assert built.schedule == PlateauSchedule()
    assert built.batch_size == "full"
    assert isinstance(recipe_from_config({"data": CSV_FILE}).data, CSV)
    assert isinstance(recipe_from_config({"optim": {"name": "rmsprop"}}).optim, RMSprop)
    assert isinstance(recipe_from_config({"optim": {"name": "adamw"}}).optim, Adam)


@pytest.mark.parametrize("name", recipe.MODELS)
def test_a_model_survives_the_way_through_a_dictionary(name: str) -> None:
    # A GPT reads texts alone.
    data = {"name": "stdlib_text" if name == "gpt" else "digits"}
    built = recipe_from_config({"model": {"name": name}, "data": data})
    assert built.model.name == name
    assert recipe_from_config(dataclasses.asdict(built)) == built


@given(st.lists(st.integers(1, 48), min_size=1, max_size=3), st.integers(1, 16), st.sampled_from(["mlp", "cnn"]))
def test_groups_divide_what_they_normalise_or_are_refused(sizes: list[int], groups: int, name: str) -> None:
    sized = {"hidden": sizes} if name == "mlp" else {"hidden": [], "channels": sizes}
    fits = all(size % groups == 0 and (name == "cnn" or size > groups) for size in sizes)
    with contextlib.nullcontext() if fits else pytest.raises(BadInputError, match=r"^model\.groups: "):
        recipe_from_config({"model": {"name": name, "norm": "group", "groups": groups, **sized}})


@pytest.mark.parametrize("optim", recipe.OPTIMIZERS)
@pytest.mark.parametrize("schedule", recipe.SCHEDULES)
def test_a_recipe_survives_the_way_through_a_dictionary(optim: str, schedule: str) -> None:
    built = recipe_from_config({"optim": {"name": optim}, "schedule": {"name": schedule}})
    assert recipe_from_config(dataclasses.asdict(built)) == built


LANGUAGE = {"name": "stdlib_text"}
TEXTS = {"name": "text", "path": "texts"}
SERIES = {"name": "series", "path": "s.csv", "target": "y"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"data": TEXTS}, "model.name: 'mlp' is not allowed; allowed: lstm, transformer with data.name text"),
    ({"data": LANGUAGE, "model": {"name": "transformer"}}, "allowed: lstm, gpt with data.name stdlib_text"),
    ({"data": TEXTS, "model": {"name": "gpt"}}, "lstm, transformer with data.name text and data.task classification"),
    ({"data": SERIES, "model": {"name": "cnn"}}, "'cnn' is not allowed; allowed: mlp, deep_mlp, lstm, transformer"),
    ({"model": {"name": "gpt"}}, "model.name: 'gpt'"),
    ({"model": {"name": "lstm"}, "data": {"name": "iris"}}, "'lstm' is not allowed; allowed: mlp, deep_mlp"),
    ({"model": {"name": "transformer", "heads": 5}}, "model.heads: 5 is not allowed; allowed: 1, 2, 4, 8, 16, 32 with"),
    ({"model": {"name": "transformer", "norm": "batch"}}, "model.norm: 'batch' is not allowed; allowed: none, layer"),
    (
        {"model": {"name": "transformer", "depth": 51}},
        "model.depth: 51 is not allowed; allowed: an integer from 1 to 50",
    ),
    ({"model": {"name": "transformer", "positions": "none"}}, "allowed: learned, sinusoidal"),
    ({"model": {"name": "transformer", "norm_first": 1}}, "model.norm_first: 1 is not allowed; allowed: true, false"),
    ({"model": {"name": "lstm", "activation": "relu"}}, "model.activation: 'relu' is not allowed; allowed: tanh"),
    ({"model": {"name": "lstm", "norm": "layer"}}, "model.norm: 'layer' is not allowed; allowed: none"),
    ({"model": {"name": "lstm", "layers": 0}}, "model.layers: 0"),
    ({"data": {**TEXTS, "path": ""}}, "data.path: '' is not allowed; allowed: the path of a file or a folder"),
    ({"data": {**TEXTS, "task": "regression"}}, "allowed: classification, language_model"),
    (
        {"data": {**LANGUAGE, "task": "classification"}},
        "data.task: 'classification' is not allowed; allowed: language_model",
    ),
    ({"data": {**LANGUAGE, "tokens": "words"}}, "data.tokens: 'words' is not allowed; allowed: characters"),
    ({"data": {**TEXTS, "vocabulary": 2}}, "data.vocabulary: 2 is not allowed; allowed: an integer, at least 3"),
    ({"data": {**TEXTS, "length": 0}}, "data.length: 0"),
    ({"data": {**TEXTS, "classes": [0, 1]}}, "data.classes: [0, 1] is not allowed; allowed: null with data.name text"),
    ({"data": {**SERIES, "task": "classification"}}, "data.id: None is not allowed; allowed: the name of a column"),
    ({"data": {**SERIES, "id": "y"}}, "data.id: 'y' is not allowed; allowed: another column than data.target"),
    (
        {"data": {**SERIES, "task": "classification", "id": "i", "classes": [0, 1]}},
        "data.classes: [0, 1] is not allowed; allowed: null with data.name series",
    ),
    (
        {"data": SERIES, "regularization": {"label_smoothing": 0.1}},
        "regularization.label_smoothing: 0.1 is not allowed; allowed: 0 with data.task regression",
    ),
    ({"lr": 0.1}, "lr: 0.1 is not allowed; allowed: one of the keys model, data, optim"),
    ({"model": "mlp"}, "model: 'mlp' is not allowed; allowed: a group"),
    ({"model": {"name": "mpl"}}, "model.name: 'mpl' is not allowed; allowed: mlp, cnn"),
    ({"model": {"name": ["mlp"]}}, "model.name: ['mlp']"),
    ({"model": {"width": 3}}, "model.width: 3 is not allowed; allowed: one of the keys model.name"),
    ({"model": {"activation": "rleu"}}, "model.activation: 'rleu' is not allowed; allowed: sigmoid, tanh, relu"),
    ({"model": {"norm": "instance"}}, "model.norm: 'instance' is not allowed; allowed: none, batch, layer, group"),
    ({"model": {"groups": 0}}, "model.groups: 0 is not allowed; allowed: an integer, at least 1"),
    (
        {"model": {"norm": "group", "hidden": [12, 18]}},
        "model.groups: 8 is not allowed; allowed: 1, 2, 3, 6 with model.hidden [12, 18], with at least 2 units",
    ),
    ({"model": {"norm": "group", "hidden": [8]}}, "model.groups: 8 is not allowed; allowed: 1, 2, 4 with model.hidden"),
    ({"model": {"norm": "group", "hidden": [1]}}, "model.groups: 8 is not allowed; allowed: none with model.hidden"),
    (
        {"model": {"name": "cnn", "norm": "group", "channels": [4], "hidden": [64]}},
        "model.groups: 8 is not allowed; allowed: 1, 2, 4 with model.channels [4] and model.hidden [64]",
    ),
    ({"model": {"name": "resnet18", "norm": "group", "width": 6}}, "allowed: 1, 2, 3, 6 with model.width 6."),
    ({"model": {"residual": 1}}, "model.residual: 1 is not allowed; allowed: true, false"),
    ({"model": {"name": "deep_mlp", "residual": "yes"}}, "model.residual: 'yes'"),
    ({"model": {"name": "deep_mlp", "depth": 51}}, "model.depth: 51 is not allowed; allowed: an integer from 1 to 50"),
    ({"model": {"name": "deep_mlp", "depth": 0}}, "model.depth: 0"),
    ({"model": {"name": "deep_mlp", "depth": 3.0}}, "model.depth: 3.0"),
    ({"model": {"name": "deep_mlp", "width": 0}}, "model.width: 0"),
    ({"model": {"name": "resnet50", "width": 0}}, "model.width: 0"),
    (
        {"model": {"name": "resnet18", "depth": 18}},
        "model.depth: 18 is not allowed; allowed: one of the keys",
    ),
    (
        {"model": {"name": "resnet_cifar", "depth": 18}},
        "model.depth: 18 is not allowed; allowed: 8, 14, 20, 32, 44, 56, 110",
    ),
    ({"model": {"name": "resnet_cifar", "depth": True}}, "model.depth: True"),
    (
        {"model": {"name": "resnet18"}, "data": CSV_FILE},
        "model.name: 'resnet18' is not allowed; allowed: mlp, deep_mlp, gan with data.name csv",
    ),
    ({"model": {"init": "zeros"}}, "model.init: 'zeros' is not allowed; allowed: default, xavier_uniform"),
    ({"model": {"hidden": 128}}, "model.hidden: 128 is not allowed; allowed: a list of integers"),
    ({"model": {"hidden": [0]}}, "model.hidden: [0]"),
    ({"model": {"hidden": [True]}}, "model.hidden: [True]"),
    ({"model": {"name": "cnn", "channels": []}}, "model.channels: []"),
    ({"model": {"name": "cnn", "channels": [4, 4, 4, 4]}}, "at most 3 entries with data.name digits"),
    (
        {"model": {"name": "cnn"}, "data": CSV_FILE},
        "model.name: 'cnn' is not allowed; allowed: mlp, deep_mlp, gan with",
    ),
    (
        {"data": {"name": "cifar"}},
        "data.name: 'cifar' is not allowed; allowed: digits, fashion_mnist, mnist, cifar10, cifar100, breast_cancer, ",
    ),
    ({"data": {"val_fraction": 0.0}}, "data.val_fraction: 0.0"),
    ({"data": {"val_fraction": 0.5, "test_fraction": 0.5}}, "data.test_fraction: 0.5"),
    ({"data": {"name": "mnist", "test_fraction": 0.1}}, "data.test_fraction: 0.1"),
    ({"data": {"split_seed": -1}}, "data.split_seed: -1"),
    ({"data": {"limit": 0}}, "data.limit: 0 is not allowed; allowed: an integer, at least 1, or null"),
    ({"data": {"standardize": "yes"}}, "data.standardize: 'yes'"),
    ({"data": {"folder": ""}}, "data.folder: ''"),
    ({"data": {"path": "x.csv"}}, "data.path: 'x.csv'"),
    ({"data": {"name": "csv"}}, "data.path: ''"),
    ({"data": {**CSV_FILE, "target": ""}}, "data.target: ''"),
    ({"data": {**CSV_FILE, "task": "ranking"}}, "data.task: 'ranking' is not allowed; allowed: classification, reg"),
    ({"optim": {"name": "lion"}}, "optim.name: 'lion' is not allowed; allowed: sgd, momentum, nesterov"),
    ({"optim": {"lr": 0}}, "optim.lr: 0.0"),
    ({"optim": {"lr": "0.1"}}, "optim.lr: '0.1'"),
    ({"optim": {"lr": True}}, "optim.lr: True"),
    ({"optim": {"lr": float("nan")}}, "optim.lr: nan"),
    ({"optim": {"lr": float("inf")}}, "optim.lr: inf"),
    ({"optim": {"lr": 10**400}}, "optim.lr"),
    ({"optim": {"name": "sgd", "momentum": 0.9}}, "allowed: one of the keys optim.name, optim.lr."),
    ({"optim": {"name": "momentum", "momentum": 1.0}}, "optim.momentum: 1.0"),
    ({"optim": {"name": "nesterov", "momentum": 0}}, "optim.momentum: 0.0"),
    ({"optim": {"name": "rmsprop", "alpha": -0.1}}, "optim.alpha: -0.1"),
    ({"optim": {"name": "adam", "beta2": 1}}, "optim.beta2: 1.0"),
    ({"optim": {"name": "adam", "eps": 0}}, "optim.eps: 0.0"),
    ({"schedule": {"name": "triangle"}}, "schedule.name: 'triangle' is not allowed; allowed: constant, step"),
    ({"schedule": {"warmup_steps": 1.5}}, "schedule.warmup_steps: 1.5"),
    ({"schedule": {"name": "step", "every_epochs": 0}}, "schedule.every_epochs: 0"),
    ({"schedule": {"name": "step", "gamma": 2}}, "schedule.gamma: 2.0"),
    ({"schedule": {"name": "cosine", "final_fraction": -1}}, "schedule.final_fraction: -1.0"),
    ({"schedule": {"name": "exponential", "gamma": 0}}, "schedule.gamma: 0.0"),
    ({"schedule": {"name": "linear", "final_fraction": 1.1}}, "schedule.final_fraction: 1.1"),
    ({"schedule": {"name": "polynomial", "power": 0}}, "schedule.power: 0.0"),
    ({"schedule": {"name": "polynomial", "final_fraction": -1}}, "schedule.final_fraction: -1.0"),
    ({"schedule": {"name": "one_cycle", "pct_start": 1}}, "schedule.pct_start: 1.0"),
    ({"schedule": {"name": "one_cycle", "pct_start": 0}}, "schedule.pct_start: 0.0"),
    ({"schedule": {"name": "one_cycle", "div_factor": 0.5}}, "schedule.div_factor: 0.5 is not allowed"),
    ({"schedule": {"name": "one_cycle", "final_div_factor": 0}}, "schedule.final_div_factor: 0.0"),
    ({"schedule": {"name": "one_cycle", "anneal": "cos"}}, "schedule.anneal: 'cos' is not allowed; allowed: cosine"),
    ({"schedule": {"name": "plateau", "factor": 1}}, "schedule.factor: 1.0"),
    ({"regularization": {"dropout": 1}}, "regularization.dropout: 1.0"),
    ({"regularization": {"label_smoothing": 1}}, "regularization.label_smoothing: 1.0"),
    (
        {
            "data": {"name": "csv", "path": "t.csv", "target": "y", "task": "regression"},
            "regularization": {"label_smoothing": 0.1},
        },
        "regularization.label_smoothing: 0.1",
    ),
    ({"optim": {"name": "adagrad", "eps": 0}}, "optim.eps: 0.0"),
    ({"regularization": {"l1": -1e-3}}, "regularization.l1: -0.001"),
    ({"regularization": {"weight_decay": -1}}, "regularization.weight_decay: -1.0"),
    ({"regularization": {"clip_norm": 0}}, "regularization.clip_norm: 0.0"),
    ({"regularization": {"clip_value": -1.0}}, "regularization.clip_value: -1.0"),
    ({"regularization": {"clip_norm": 1.0, "clip_value": 0.1}}, "regularization.clip_value: 0.1"),
    ({"regularization": {"patience": 0}}, "regularization.patience: 0"),
    ({"regularization": None}, "regularization: None"),
    ({"batch_size": 0}, "batch_size: 0 is not allowed; allowed: an integer, at least 1, or full"),
    ({"batch_size": "half"}, "batch_size: 'half'"),
    ({"precision": "half"}, "precision: 'half' is not allowed; allowed: fp32, tf32, bf16, fp16"),
    (
        {"batch_size": 1, "model": {"norm": "batch"}},
        "batch_size: 1 is not allowed; allowed: at least 2 with model.norm",
    ),
    ({"data": {"limit": 1}, "model": {"norm": "batch"}}, "data.limit: 1 is not allowed; allowed: at least 2"),
    ({"epochs": 2.0}, "epochs: 2.0"),
    ({"epochs": True}, "epochs: True"),
    ({"seed": -1}, "seed: -1"),
    ({"seed": 0.5}, "seed: 0.5"),
]


@pytest.mark.parametrize(("config", "words"), REFUSED, ids=[words[:40] for _, words in REFUSED])
def test_what_is_not_allowed_is_refused_in_one_sentence(config: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError) as refused:
        recipe_from_config(config)
    assert words in str(refused.value)
    assert str(refused.value).count("\n") == 0


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
)
KEYS = [
    *(f"{group}.{one.name}" for group in ("model", "data", "optim", "schedule", "regularization")
      for kind in (type(getattr(Recipe(), group)),) for one in dataclasses.fields(kind)),
    "batch_size",
    "precision",
    "epochs",
    "seed",
]  # fmt: skip


@given(st.sampled_from(KEYS), ANYTHING)
def test_any_value_is_taken_or_refused(key: str, value: Any) -> None:
    group, _, name = key.rpartition(".")
    config = {group: {name: value}} if group else {name: value}
    try:
        built = recipe_from_config(config)
    except BadInputError as error:
        refusal = str(error)
    else:
        found = getattr(getattr(built, group), name) if group else getattr(built, name)
        assert found == (float(value) if isinstance(found, float) else value)
        return
    assert key in refusal


def test_a_recipe_is_checked_without_torch() -> None:
    code = "import sys, swathe.training.recipe as r; r.recipe_from_config({}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
