"""A run trained alone goes on from its state bit for bit, in another process' memory, whatever its recipe."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from swathe.training.alone import alone
from swathe.training.recipe import TIMING_METRICS, recipe_from_config

DATA = {"limit": 200}
GAN = {"name": "gan", "hidden": [16], "discriminator_hidden": [16], "latent": 4}
STAGES: dict[str, Any] = {"hidden": [16, 16]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
    "config",
    [
        {"optim": {"name": "adamw", "lr": 0.01}, "model": {"norm": "batch"}},
        {"optim": {"name": "adam", "lr": 0.01}, "schedule": {"name": "one_cycle"}},
        {"optim": {"name": "adagrad", "lr": 0.05}, "schedule": {"name": "cosine", "warmup_steps": 5}},
        {"optim": {"name": "rmsprop", "lr": 0.01}, "regularization": {"dropout": 0.3, "l1": 1e-4, "clip_norm": 0.5}},
        {"optim": {"name": "nesterov", "lr": 0.1}, "regularization": {"l2": 1e-3, "label_smoothing": 0.1}},
        {"optim": {"name": "sgd", "lr": 0.3}, "schedule": {"name": "plateau", "patience": 0, "threshold": 0.2}},
        {"optim": {"name": "adam", "lr": 0.1}, "regularization": {"patience": 1, "min_delta": 0.3}},
        {"optim": {"name": "momentum", "lr": 0.05}, "precision": "fp16"},
        {"optim": {"name": "adamw", "lr": 0.01}, "precision": "bf16"},
        {"model": GAN, "optim": {"name": "adam", "lr": 0.001}, "regularization": {"dropout": 0.2}},
    ],
    ids=lambda config: f"{config['optim']['name']}-{'-'.join(config)}",
)
def test_it_goes_on_bit_for_bit_after_every_epoch(cache: Path, config: dict[str, Any]) -> None:
    recipe = recipe_from_config({"epochs": 4, "data": DATA, **config})

    def kept(metrics: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in metrics.items() if name not in TIMING_METRICS}

    run = alone(recipe, "cpu", cache)
    whole: list[tuple[int, dict[str, float]]] = []
    states: list[bytes] = []
    for epoch, metrics, _ in run.reports(lambda: False):
        whole.append((epoch, kept(metrics)))
        states.append(pickle.dumps(run.cut()))
    weights = run.state_dict()
    assert run.over
    for done, state in enumerate(states[:-1], start=1):
        again = alone(recipe, "cpu", cache)
        again.resume(pickle.loads(state))
        assert not again.over
        rest = [(epoch, kept(metrics)) for epoch, metrics, _ in again.reports(lambda: False)]
        assert rest == whole[done:]
        for name, tensor in again.state_dict().items():
            assert tensor.equal(weights[name]), name
