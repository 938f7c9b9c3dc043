"""Which space an app's overrides mean: what hydra-optuna-sweeper 1.3 makes of the same words."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hydra_plugins.swathe_sweeper._space import AppSpace, read
from swathe.errors import BadInputError


@pytest.mark.parametrize(
    ("word", "distribution"),
    [
        ("key=choice(1,2)", CategoricalDistribution([1, 2])),
        ("key=1,2", CategoricalDistribution([1, 2])),
        ("key=choice(true, false)", CategoricalDistribution([True, False])),
        ("key=choice('hello', 'world')", CategoricalDistribution(["hello", "world"])),
        ("key=choice([1, 2], {a: 1})", CategoricalDistribution(["[1,2]", "{a:1}"])),
        ("key=range(1,3)", IntDistribution(1, 3)),
        ("key=range(1, 9, 2)", IntDistribution(1, 9, step=2)),
        ("key=range(0.5, 5.5, step=1)", FloatDistribution(0.5, 5.5, step=1)),
        ("key=shuffle(range(1,3))", CategoricalDistribution([1, 2])),
        ("key=interval(1.0, 5)", FloatDistribution(1, 5)),
        ("key=int(interval(1, 5))", IntDistribution(1, 5)),
        ("key=tag(log, interval(1e-5, 1))", FloatDistribution(1e-5, 1, log=True)),
        ("key=tag(log, int(interval(1, 5)))", IntDistribution(1, 5, log=True)),
    ],
)
def test_a_search_in_hydra_s_grammar(word: str, distribution: BaseDistribution) -> None:
    found = read({}, None, [word]).parameters["key"].distribution
    if "shuffle" in word:
        assert isinstance(found, CategoricalDistribution)
        assert isinstance(distribution, CategoricalDistribution)
        assert set(found.choices) == set(distribution.choices)
    else:
        assert found == distribution


@pytest.mark.parametrize(
    ("description", "distribution"),
    [
        ({"type": "categorical", "choices": [1, 2, 3]}, CategoricalDistribution([1, 2, 3])),
        ({"type": "int", "low": 0, "high": 10, "step": 2}, IntDistribution(0, 10, step=2)),
        ({"type": "int", "low": 1, "high": 100, "log": True}, IntDistribution(1, 100, log=True)),
        ({"type": "float", "low": 0, "high": 10, "step": 2}, FloatDistribution(0, 10, step=2)),
        ({"type": "float", "low": 1, "high": 100, "log": True}, FloatDistribution(1, 100, log=True)),
    ],
)
def test_the_deprecated_search_space(description: dict[str, Any], distribution: BaseDistribution) -> None:
    assert read(None, {"key": description}, []).parameters["key"].distribution == distribution


def test_the_command_line_wins() -> None:
    search = read(
        {"x": "interval(0.0, 1.0)", "y": "choice(1, 2)", "z": "3"}, None, ["y=7", "z=4", "x=choice(a,b)", "~q"]
    )
    assert list(search.parameters) == ["x"]
    assert search.overrides({"x": "a"}) == ["y=7", "z=4", "~q", "x=a"]


def test_overrides_say_what_was_written() -> None:
    search = read({"+a": "choice('x y', true, 1.5)", "opt@b": "choice(adam, sgd)"}, None, [])
    (spaced,) = [value for value in search.parameters["+a"].distribution.choices if isinstance(value, str)]
    assert search.overrides({"+a": spaced, "opt@b": "adam"}) == ["+a=x\\ y", "opt@b=adam"]
    assert search.overrides({"+a": 1.5, "opt@b": "sgd", "drawn": None}) == ["+a=1.5", "opt@b=sgd", "drawn=null"]
    assert search.overrides({"+a": True, "opt@b": "sgd"}) == ["+a=true", "opt@b=sgd"]


@pytest.mark.parametrize(
    ("params", "deprecated", "words", "sentence"),
    [
        (
            {"x": "interval(1.0, 0.5)"},
            None,
            [],
            "x: 'interval(1.0, 0.5)' is not allowed; allowed: a search that Optuna",
        ),
        ({"x": "choice(1, 1.0)"}, None, [], "x: 'choice(1, 1.0)' is not allowed; allowed: each choice once"),
        ({"x": "choice(null, 1)"}, None, [], "Override 'x=choice(null, 1)' is not allowed"),
        ({"x": "tag(log, interval(0.0, 1.0))"}, None, [], "x: 'tag(log, interval(0.0, 1.0))' is not allowed"),
        ({}, None, ["x=choice("], "Override 'x=choice(' is not allowed"),
        (None, {"x": 3}, [], "hydra.sweeper.search_space.x: 3 is not allowed; allowed: a mapping with a type"),
        (
            None,
            {"x": {"type": "real"}},
            [],
            "search_space.x.type: 'real' is not allowed; allowed: categorical, int, float",
        ),
        (None, {"x": {"type": "int", "low": 1}}, [], "hydra.sweeper.search_space.x"),
    ],
)
def test_what_is_refused(params: Any, deprecated: Any, words: list[str], sentence: str) -> None:
    with pytest.raises(BadInputError) as refused:
        read(params, deprecated, words)
    assert sentence in str(refused.value)


def test_an_app_s_own_function_draws_more() -> None:
    def extend(config: Any, trial: Any) -> None:
        trial.suggest_float("z", trial.params["x"], trial.params["x"] + config["width"])
        trial.suggest_int("+n", 1, 8, log=True)
        assert trial.suggest_categorical("kind", ["a", "b"]) == trial.params["kind"]
        assert trial.suggest_float("x", 5.0, 6.0) == trial.params["x"], "it was drawn before"

    space = AppSpace.of(read({"x": "interval(0.0, 1.0)"}, None, []), extend, {"width": 0.5})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(1))
    trial = study.ask()
    params = space.sample(trial._suggest)
    assert params == trial.params
    assert list(params) == ["x", "z", "+n", "kind"]
    assert params["x"] <= params["z"] <= params["x"] + 0.5
