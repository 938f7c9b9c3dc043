"""Sweeps of other tools: what they become is a sweep of Swathe's that means the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hydra.core.override_parser.types import ChoiceSweep
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from swathe import cli
from swathe.config import compose_sweep, parse_overrides
from swathe.errors import BadInputError
from swathe.home import Home
from swathe.importing import Imported, choice, from_ray_tune, from_wandb, import_sweep
from swathe.space import Space
from swathe.tables import distribution_text

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
    text, _ = import_sweep(str(tmp_path / "sweep.yaml"), function=None, metric=None, direction=None)
    sweep, space = composed(text, tmp_path)
    assert sweep.name == "my-sweep"
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


def hyperband(**options: Any) -> dict[str, Any]:
    return {"early_terminate": {"type": "hyperband", **options}}


def ends(distribution: Any, low: Any, high: Any, **more: Any) -> dict[str, Any]:
    return {"parameters": {"x": {"distribution": distribution, "min": low, "max": high, **more}}}


def values(given: list[Any], **more: Any) -> dict[str, Any]:
    return {"parameters": {"x": {"values": given, **more}}}


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
        ({"method": ["a"]}, "s.yaml: method: ['a'] is not allowed; allowed: bayes, random, grid."),
        ({"metric": "loss"}, "s.yaml: metric: 'loss' is not allowed; allowed: a mapping with a name and a goal."),
        ({"metric": {"name": "a", "goal": ["up"]}}, "s.yaml: metric.goal: ['up'] is not allowed"),
        ({"metric": {"name": ["a"]}}, "s.yaml: metric.name: ['a'] is not allowed; allowed: text."),
        ({"metric": {"target": "low"}}, "s.yaml: metric.target: 'low' is not allowed; allowed: a finite number."),
        ({"run_cap": 0}, "s.yaml: run_cap: 0 is not allowed; allowed: whole numbers from 1."),
        (hyperband(min_iter=2, eta="abc"), "s.yaml: early_terminate.eta: 'abc' is not allowed"),
        (hyperband(max_iter=9, eta=0), "s.yaml: early_terminate.eta: 0 is not allowed; allowed: whole numbers from 2."),
        (hyperband(max_iter=9, s=-1), "s.yaml: early_terminate.s: -1 is not allowed; allowed: whole numbers from 1."),
        (hyperband(min_iter=[2]), "s.yaml: early_terminate.min_iter: [2] is not allowed"),
        (ends("log_uniform", 1, 1000), "parameters.x.max: 1000 is not allowed; allowed: an exponent to the base e"),
        (ends("log_uniform", -1000, 1), "parameters.x.min: -1000 is not allowed; allowed: an exponent to the base e"),
        (ends("log_uniform_values", 0, 1), "parameters.x: '0 to 1' is not allowed; allowed: a lower end below"),
        (ends("uniform", 1, 1), "parameters.x: '1 to 1' is not allowed; allowed: a lower end below the upper one."),
        (ends("int_uniform", 1, math.inf), "allowed: value, values, or finite numbers min and max."),
        (ends("uniform", 1, 10**400), "allowed: value, values, or finite numbers min and max."),
        (ends("int_uniform", 1.7, 9.9), "s.yaml: parameters.x.min: 1.7 is not allowed; allowed: whole numbers."),
        (ends("int_uniform", 5, 1), "s.yaml: parameters.x: '5 to 1' is not allowed; allowed: a range that holds"),
        (ends("q_uniform", 0, 1, q="abc"), "s.yaml: parameters.x.q: 'abc' is not allowed; allowed: a finite number."),
        (ends("q_uniform", 0, 1, q=0), "allowed: a q above 0, with a min and a max that are multiples of it."),
        (ends("q_uniform", 1, 10, q=4), "allowed: a q above 0, with a min and a max that are multiples of it."),
        (ends("q_uniform", 1, 10**300, q=1), "steps of 1' is not allowed; allowed: a lower end"),
        (ends(["uniform"], 0, 1), "s.yaml: parameters.x.distribution: ['uniform'] is not allowed"),
        ({"parameters": {"x": {"distribution": "constant"}}}, "allowed: value, values, or finite numbers"),
        (values([1, 2], probabilities=[0.2, 0.8]), "s.yaml: parameters.x.probabilities: [0.2, 0.8] is not allowed"),
        (values([1, 2], probabilities=[]), "s.yaml: parameters.x.probabilities: [] is not allowed"),
        (values([1, 1.0]), "s.yaml: parameters.x.values: [1, 1.0] is not allowed; allowed: each value once"),
        (values([1, math.inf]), "s.yaml: parameters.x.values: inf is not allowed; allowed: a choice of text, finite"),
        (values([{"a": 1}]), "s.yaml: parameters.x.values: {'a': 1} is not allowed; allowed: a choice of text"),
        (values(["a", "${x}"]), "s.yaml: parameters.x.values: '${x}' is not allowed; allowed: text without '${'"),
        (values(["a", "???"]), "s.yaml: parameters.x.values: '???' is not allowed"),
        ({"parameters": {"x": {"value": ["${oc.env:HOME}"]}}}, "s.yaml: parameters.x: '${oc.env:HOME}' is not allowed"),
        ({"parameters": {"x": {"value": {"y": "${z}"}}}}, "s.yaml: parameters.x.y: '${z}' is not allowed"),
        ({"parameters": {"x": {"value": 10**400}}}, "is not allowed; allowed: numbers from -1.8e+308 to 1.8e+308."),
        ({"parameters": {"x": {"parameters": {}}}}, "s.yaml: parameters.x: {} is not allowed"),
        ({"parameters": {True: {"value": 1}}}, "s.yaml: parameters: True is not allowed; allowed: names of letters"),
        ({"parameters": {"x.": {"value": 1}}}, "s.yaml: parameters: 'x.' is not allowed; allowed: names of letters"),
        (
            {"parameters": {"o.lr": {"value": 1}, "o": {"value": 2}}},
            "s.yaml: parameters.o: 'o' is not allowed; allowed: each name once, and none that is a value",
        ),
        (
            {"parameters": {"o": {"value": 2}, "o.lr": {"value": 1}}},
            "s.yaml: parameters.o.lr: 'o.lr' is not allowed; allowed: each name once, and none that is a value",
        ),
    ],
)
def test_what_wandb_has_and_swathe_has_not(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInputError) as refused:
        from_wandb({"parameters": {"x": {"value": 1}}, **changes}, "s.yaml")
    assert sentence in str(refused.value)


def test_hyperband_by_its_end() -> None:
    body = yaml.safe_load(WANDB) | {"early_terminate": {"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3}}
    assert from_wandb(body, "s.yaml").pruner == {"name": "asha", "min_resource": 3, "reduction_factor": 3}


def test_equal_probabilities_are_a_choice() -> None:
    assert from_wandb(values([1, 2], probabilities=[0.5, 0.5]), "s.yaml").space == {"x": "choice(1, 2)"}


def test_names_with_points_are_nested(tmp_path: Path) -> None:
    parameters = {"optimizer.lr": {"min": 0.1, "max": 0.5}, "optimizer.name": {"value": "sgd"}, "a-b": {"values": [1]}}
    sweep, space = composed(written(from_wandb({"parameters": parameters}, "s.yaml")), tmp_path)
    assert space == {"params.optimizer.lr": FloatDistribution(0.1, 0.5), "params.a-b": CategoricalDistribution([1])}
    assert sweep.values["params"]["optimizer"] == {"lr": 0.1, "name": "sgd"}


def test_names_that_are_no_keys_are_refused() -> None:
    for name in ("a b", "é", "a@b", "a/b"):
        with pytest.raises(BadInputError, match=f"^params.{name}: .* allowed: names of letters"):
            written(from_wandb({"parameters": {name: {"values": [1]}}}, "s.yaml"))


def written(found: Imported) -> str:
    return found.as_yaml(function="f:train", name="s", said="of\na test")


TEXTS = [
    "C:\\",
    "\\\\",
    "it's",
    "\\'",
    "a\\'b\\\\'",
    "1e5",
    "-inf",
    "Null",
    "x\ny",
    "é",
    "a,b",
    "",
    " a ",
    "-",
    "a/b",
    "$y",
    "{",
]


def test_text_stays_as_it_is(tmp_path: Path) -> None:
    lists = [["C:\\", 1], ["it's\\"]]
    body = {"parameters": {"x": {"values": TEXTS}, "y": {"value": TEXTS}, "z": {"values": lists}}}
    sweep, space = composed(written(from_wandb(body, "s.yaml")), tmp_path)
    assert space["params.x"] == CategoricalDistribution(TEXTS)
    assert space["params.z"] == CategoricalDistribution(list(map(json.dumps, lists)))
    assert sweep.values["params"]["y"] == TEXTS


@given(st.text() | st.text("\\'\"a ,$(){}[]=:1e.-#&*!|>%@`~\n", max_size=8))
def test_text_is_refused_or_stays_as_it_is(text: str) -> None:
    try:
        _, search = choice("x", [text])
    except BadInputError:
        assert "${" in text or text == "???"
        return
    file: Any = OmegaConf.to_container(OmegaConf.create(written(Imported({"y": text}, {"x": search}))))
    assert file["params"] == {"y": text}
    (override,) = parse_overrides([f"x={file['sweep']['space']['params.x']}"])
    (found,) = cast("ChoiceSweep", override.value()).list
    assert getattr(found, "text", found) == text


@pytest.mark.parametrize(
    ("said", "out", "name"),
    [
        ({"name": "***"}, None, "sweep"),
        ({"name": "name:é"}, None, "name"),
        ({"name": "n" * 200}, None, "n" * 100),
        ({"name": "mine"}, "out.yaml", "mine"),
        ({}, "sweeps/a b.yaml", "a-b"),
        ({}, "***.yaml", "imported"),
        ({}, None, "sweep"),
    ],
)
def test_the_name_is_one_that_swathe_allows(tmp_path: Path, said: dict[str, Any], out: str | None, name: str) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**values([1, 2]), **said}))
    path = None if out is None else Path(out)
    text, _ = import_sweep(str(tmp_path / "sweep.yaml"), function=None, metric=None, direction=None, out=path)
    assert composed(text, tmp_path)[0].name == name
    assert Home(tmp_path).sweep(name)


@pytest.mark.parametrize(
    ("metric", "direction", "goes", "said"),
    [
        ({}, None, "minimize", "It minimizes val_loss; --direction maximize for the other way."),
        ({"name": "acc"}, None, "minimize", "It minimizes acc; --direction maximize for the other way."),
        ({"name": "acc"}, "maximize", "maximize", ""),
        ({"name": "acc", "goal": "maximize"}, None, "maximize", ""),
    ],
)
def test_the_direction_is_written_and_said_where_it_was_not(
    tmp_path: Path, metric: dict[str, Any], direction: str | None, goes: str, said: str
) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**values([1, 2]), "metric": metric}))
    source = str(tmp_path / "sweep.yaml")
    text, assumed = import_sweep(source, function=None, metric=None, direction=direction)
    assert yaml.safe_load(text)["sweep"]["direction"] == goes
    assert assumed == said
    assert said in text.splitlines()[0]


def test_the_line_after_the_import_says_the_direction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain_space.py").write_text("space = {'x': {'grid_search': [1, 2]}}\n")
    assert cli.run(["import", "plain_space:space", "--metric", "val_accuracy", "--out", "mine.yaml"]) == 0
    assert capsys.readouterr().out == (
        "Wrote mine.yaml. It minimizes val_accuracy; --direction maximize for the other way. "
        "Check it with: swathe config mine.yaml\n"
    )
    assert compose_sweep("mine.yaml", ()).name == "mine"


def test_a_direction_that_is_none() -> None:
    with pytest.raises(BadInputError, match=r"^--direction: 'up' is not allowed; allowed: minimize, maximize.$"):
        import_sweep("s.yaml", function=None, metric=None, direction="up")


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
    text, _ = import_sweep("my_space:space", function="train:run", metric="acc", direction="maximize")
    sweep, space = composed(text, tmp_path)
    assert sweep.name == "my_space"
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


def test_values_of_numpy_are_those_of_python(tmp_path: Path) -> None:
    import numpy as np
    from ray import tune

    # Ray Tune's own types allow none of these, and Ray Tune does.
    choose, integers = cast("Any", tune.choice), cast("Any", tune.randint)
    space = {
        "lr": choose(np.logspace(-4, -1, 4)),
        "n": {"grid_search": np.arange(1, 3)},
        "k": integers(np.int64(1), np.int64(9)),
        "decay": np.float64(0.1),
        "sizes": np.array([1, 2]),
        "net": {},
    }
    sweep, found = composed(written(from_ray_tune(space)), tmp_path)
    assert found == {
        "params.lr": CategoricalDistribution(np.logspace(-4, -1, 4).tolist()),
        "params.n": CategoricalDistribution([1, 2]),
        "params.k": IntDistribution(1, 8),
    }
    params = sweep.values["params"]
    assert (params["decay"], params["sizes"], params["net"]) == (0.1, [1, 2], {})


def test_integers_in_steps_are_the_multiples_within_the_bounds() -> None:
    from ray import tune

    space = {"a": tune.qrandint(1, 9, 2), "b": tune.qrandint(1, 9, 1)}
    assert from_ray_tune(space).space == {"a": "range(2, 9, 2)", "b": "range(1, 9)"}


def test_what_no_config_can_hold_is_refused_with_its_key() -> None:
    from ray import tune

    refused: list[tuple[Any, str]] = [
        ([tune.uniform(0, 1), 3], "text, numbers, true, false, null"),
        ([{"a": tune.uniform(0, 1)}], "text, numbers, true, false, null"),
        (tune.choice([tune.uniform(0, 1)]), "text, numbers, true, false, null"),
        (tune.choice([]), "a list of values"),
        (tune.grid_search([]), "a list of values"),
        ({"grid_search": "abc"}, "a list of values"),
        (tune.randint(0, 10**400), "numbers from -1.8e\\+308 to 1.8e\\+308"),
        (tune.randint(0, 10**5000), "numbers from -1.8e\\+308 to 1.8e\\+308"),
        (cast("Any", tune.randint)(0.5, 3), "whole numbers"),
        (tune.randint(3, 3), "a range that holds an integer"),
        (tune.uniform(1, 0), "a lower end below the upper one"),
        ("${x}", "text without"),
        (Path("x"), "text, numbers"),
    ]
    for value, allowed in refused:
        with pytest.raises(BadInputError, match=rf"^net\.layers.* is not allowed; allowed: {allowed}"):
            from_ray_tune({"net": {"layers": value}})


def test_a_space_of_integers_beyond_all_floats_is_shown() -> None:
    assert distribution_text(IntDistribution(1, 10**400)) == f"int 1 .. {10**400}"
    assert distribution_text(IntDistribution(1, 10**6)) == "int 1 .. 1e+06"


@pytest.mark.parametrize("source", ["no/such.yaml", "nothing", "no_module:space", "math:pi", f"{'n' * 300}.yaml"])
def test_a_source_that_is_none(source: str) -> None:
    with pytest.raises(BadInputError, match=r"^SOURCE: "):
        import_sweep(source, function=None, metric=None, direction=None)
