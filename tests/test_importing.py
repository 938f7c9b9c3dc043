"""Sweeps of other tools: what they become is a sweep of Swathe's that means the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from swathe.config import compose_sweep
from swathe.errors import BadInputError
from swathe.importing import from_ray_tune, from_wandb, import_sweep
from swathe.space import Space

# The form of W&B's own examples.
WANDB = """
program: train.py
name: my sweep
method: bayes
metric: {name: validation_loss, goal: minimize, target: 0.01}
run_cap: 30
early_terminate: {type: hyperband, min_iter: 3}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 0.0001, max: 0.1}
  batch_size: {values: [16, 32, 64]}
  dropout: {min: 0.1, max: 0.5}
  layers: {min: 1, max: 4}
  width: {distribution: q_uniform, q: 8, min: 8, max: 32}
  decay: {distribution: log_uniform, min: -9.21, max: -2.3}
  optimizer: {values: [adam, sgd, "null"]}
  epochs: {value: 27}
  augment: {parameters: {flip: {values: [true, false]}, kind: {value: crop}}}
"""


def composed(text: str, folder: Path) -> tuple[Any, dict[str, BaseDistribution]]:
    """Compose an imported file as `swathe launch` does."""
    path = folder / "imported.yaml"
    path.write_text(text)
    sweep = compose_sweep(str(path), ())
    return sweep, {name: parameter.distribution for name, parameter in Space.parse(sweep).parameters.items()}


def test_a_sweep_of_wandb(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(WANDB)
    name, text = import_sweep(str(tmp_path / "sweep.yaml"), function=None, metric=None, direction=None)
    sweep, space = composed(text, tmp_path)
    assert name == sweep.name == "my-sweep"
    assert space == {
        "params.learning_rate": FloatDistribution(0.0001, 0.1, log=True),
        "params.batch_size": CategoricalDistribution([16, 32, 64]),
        "params.dropout": FloatDistribution(0.1, 0.5),
        "params.layers": IntDistribution(1, 4),
        "params.width": FloatDistribution(8, 32, step=8),
        "params.decay": FloatDistribution(math.exp(-9.21), math.exp(-2.3), log=True),
        "params.optimizer": CategoricalDistribution(["adam", "sgd", "null"]),
        "params.augment.flip": CategoricalDistribution([True, False]),
    }
    assert sweep.values["trainable"] == "train:main"
    assert sweep.values["params"]["epochs"] == 27
    assert sweep.values["params"]["augment"]["kind"] == "crop"
    assert (sweep.sweep.metric, sweep.sweep.direction, sweep.sweep.target) == ("validation_loss", "minimize", 0.01)
    assert sweep.sweep.trials == 30
    assert sweep.sampler["name"] == "tpe"
    assert (sweep.pruner["name"], sweep.pruner["min_resource"]) == ("asha", 3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "magic"}, "s.yaml: method: 'magic' is not allowed; allowed: bayes, random, grid."),
        ({"parameters": {}}, "s.yaml: parameters: {} is not allowed"),
        ({"parameters": {"x": 3}}, "s.yaml: parameters.x: 3 is not allowed; allowed: a mapping with value, values"),
        ({"parameters": {"x": {"min": 1}}}, "parameters.x: {'min': 1} is not allowed"),
        ({"parameters": {"x": {"values": []}}}, "parameters.x.values: [] is not allowed; allowed: a list of values."),
        (
            {"parameters": {"x": {"distribution": "normal", "min": 0, "max": 1}}},
            "parameters.x.distribution: 'normal' is not allowed; allowed: constant, categorical",
        ),
        ({"metric": {"name": "m", "goal": "up"}}, "s.yaml: metric.goal: 'up' is not allowed"),
        ({"early_terminate": {"type": "median"}}, "s.yaml: early_terminate.type"),
        ({"early_terminate": {"type": "hyperband"}}, "s.yaml: early_terminate: {'type': 'hyperband'} is not allowed"),
    ],
)
def test_what_wandb_has_and_swathe_has_not(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInputError) as refused:
        from_wandb({"parameters": {"x": {"value": 1}}, **changes}, "s.yaml")
    assert sentence in str(refused.value)


def test_hyperband_by_its_end() -> None:
    body = yaml.safe_load(WANDB) | {"early_terminate": {"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3}}
    assert from_wandb(body, "s.yaml").pruner == {"name": "asha", "min_resource": 3, "reduction_factor": 3}


def test_a_space_of_ray_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_space.py").write_text(
        "from ray import tune\n"
        "space = {\n"
        "    'lr': tune.loguniform(1e-5, 1e-1), 'x': tune.uniform(-1, 1), 'q': tune.quniform(0.0, 1.0, 0.1),\n"
        "    'n': tune.randint(1, 9), 'm': tune.lograndint(1, 9), 'k': tune.qrandint(2, 8, 2),\n"
        "    'kind': tune.choice(['a b', 'c', \"it's\"]), 'net': {'width': tune.grid_search([16, 32]), 'depth': 2},\n"
        "    'sizes': (1, 2), 'flag': True,\n"
        "}\n"
    )
    monkeypatch.chdir(tmp_path)
    name, text = import_sweep("my_space:space", function="train:run", metric="acc", direction="maximize")
    sweep, space = composed(text, tmp_path)
    assert name == "my_space"
    assert space == {
        "params.lr": FloatDistribution(1e-5, 1e-1, log=True),
        "params.x": FloatDistribution(-1, 1),
        "params.q": FloatDistribution(0, 1, step=0.1),
        "params.n": IntDistribution(1, 8),
        "params.m": IntDistribution(1, 8, log=True),
        "params.k": IntDistribution(2, 8, step=2),
        "params.kind": CategoricalDistribution(["a b", "c", "it's"]),
        "params.net.width": CategoricalDistribution([16, 32]),
    }
    assert sweep.values["params"]["sizes"] == [1, 2]
    assert sweep.values["params"]["net"]["depth"] == 2
    assert (sweep.sweep.metric, sweep.sweep.direction) == ("acc", "maximize")


def test_a_grid_of_ray_tune() -> None:
    assert from_ray_tune({"a": {"grid_search": [1, 2]}, "b": 3}).sampler == "grid"


def test_what_ray_tune_has_and_swathe_has_not() -> None:
    from ray import tune

    for domain in (tune.randn(0, 1), tune.sample_from(lambda spec: 1), tune.qloguniform(1e-3, 1, 1e-3), object()):
        with pytest.raises(BadInputError, match=r"^lr: "):
            from_ray_tune({"lr": domain})


@pytest.mark.parametrize("source", ["no/such.yaml", "nothing", "no_module:space", "math:pi"])
def test_a_source_that_is_none(source: str) -> None:
    with pytest.raises(BadInputError, match=r"^SOURCE: "):
        import_sweep(source, function=None, metric=None, direction=None)
