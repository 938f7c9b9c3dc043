"""The search space: the grammar, the conditions, and that sampler, config and record agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from swathe.config import compose_sweep
from swathe.errors import BadInputError
from swathe.events import Value
from swathe.space import Space, TrialComposer
from swathe.training.recipe import recipe_from_config


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def parse(space: Mapping[str, str], when: Mapping[str, Any] | None = None, overrides: tuple[str, ...] = ()) -> Space:
    return both(space, when, overrides)[0]


def both(
    space: Mapping[str, str], when: Mapping[str, Any] | None = None, overrides: tuple[str, ...] = ()
) -> tuple[Space, TrialComposer]:
    Path("s.yaml").write_text(yaml.safe_dump({"sweep": {"space": dict(space), "when": when or {}}}))
    composed = compose_sweep("s.yaml", overrides)
    parsed = Space.parse(composed)
    return parsed, TrialComposer(composed, parsed)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("optim.lr", "interval(0.001, 1)", FloatDistribution(0.001, 1.0)),
        ("optim.lr", "tag(log, interval(1e-5, 1))", FloatDistribution(1e-5, 1.0, log=True)),
        ("optim.lr", "range(0.1, 0.5, 0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("optim.lr", "choice(1, 0.5)", CategoricalDistribution((1.0, 0.5))),
        ("regularization.l2", "range(0, 3)", FloatDistribution(0.0, 2.0, step=1.0)),
        ("epochs", "int(interval(1, 8))", IntDistribution(1, 8)),
        ("epochs", "tag(log, int(interval(1, 64)))", IntDistribution(1, 64, log=True)),
        ("epochs", "range(1, 9)", IntDistribution(1, 8)),
        ("epochs", "range(1, 9, 3)", IntDistribution(1, 7, step=3)),
        ("epochs", "tag(log, range(1, 9))", IntDistribution(1, 8, log=True)),
        ("batch_size", "choice(32, full)", CategoricalDistribution((32, "full"))),
        ("batch_size", "32, 64", CategoricalDistribution((32, 64))),
        ("model.norm", "choice(none, 'batch')", CategoricalDistribution(("none", "batch"))),
        ("data.standardize", "choice(true, false)", CategoricalDistribution((True, False))),
        ("regularization.clip_norm", "5.0, null", CategoricalDistribution((5.0, None))),
        ("model.hidden", "choice([64], [128, 64])", CategoricalDistribution(("[64]", "[128, 64]"))),
        ("optim", "choice(sgd, adam)", CategoricalDistribution(("sgd", "adam"))),
        ("optim", "glob(adam*)", CategoricalDistribution(("adam", "adamw"))),
    ],
)
def test_the_grammar_becomes_distributions(key: str, text: str, expected: BaseDistribution) -> None:
    assert parse({key: text}).parameters[key].distribution == expected


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("optim.lr", "interval(1, 0)", ["optim.lr", "'interval(1, 0)'", "start below end"]),
        ("optim.lr", "interval(1, 1)", ["start below end"]),
        ("optim.lr", "tag(log, interval(0, 1))", ["above 0"]),
        ("optim.lr", "tag(q, interval(0.1, 1))", ["the tag log"]),
        ("optim.lr", "interval(0", ["s.yaml", "optim.lr"]),
        ("optim.lr", "interval(0.1, inf)", ["finite"]),
        ("optim.lr", "0.1", ["a search", "choice(a, b)"]),
        ("optim.lr", "choice(low, 0.1)", ["'low'", "a number"]),
        ("optim.lr", "choice(0.1, 0.1)", ["each choice once"]),
        ("optim.lr", "choice(1, 1.0)", ["each choice once"]),
        ("seed", "choice(1, true)", ["each choice once"]),
        ("optim.lr", "range(0.1, 0.5, -0.1)", ["step above 0"]),
        ("optim.lr", "interval(0, 1)", ["optim.lr", "0.0", "above 0"]),
        ("epochs", "interval(1, 8)", ["epochs", "an integer", "int(interval"]),
        ("epochs", "tag(log, range(0, 8))", ["from 1 or more"]),
        ("epochs", "range(0, 8)", ["epochs", "0", "1"]),
        ("model.nrm", "choice(none, batch)", ["model.nrm", "no such key", "norm"]),
        ("model.norm", "choice(none, instance)", ["model.norm", "'instance'", "none, batch, layer"]),
        ("model.hidden", "interval(1, 3)", ["model.hidden", "a list"]),
        ("regularization.dropout", "interval(0, 1.5)", ["regularization.dropout", "1.5"]),
        ("regularization.l2", "tag(log, range(1, 9))", ["regularization.l2", "real numbers"]),
        ("optim", "choice(sgd, lion)", ["optim", "'lion'", "sgd"]),
        ("optim", "interval(0, 1)", ["optim", "a choice of"]),
        ("sweep.trials", "range(1, 9)", ["sweep.trials", "what a trial depends on"]),
        ("device", "choice(cpu, cuda)", ["device"]),
        ("model", "choice(mlp, cnn)", ["model.channels", "no such key under model=mlp", "sweep.when"]),
    ],
)
def test_a_bad_search_is_refused_in_one_sentence(key: str, text: str, words: list[str]) -> None:
    with pytest.raises(BadInputError) as refused:
        parse({key: text, "model.channels": "choice([8], [16])"} if key == "model" else {key: text})
    message = str(refused.value)
    assert "\n" not in message
    for word in ["s.yaml", *words]:
        assert word in message


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ({"schedule=step": {"optim.lr": "interval(0.1, 1)"}}, ["sweep.when", "'schedule=step'", "optim"]),
        ({"optim=rmsprop": {"optim.alpha": "interval(0.1, 0.9)"}}, ["optim", "'rmsprop'", "sgd, adam"]),
        ({"optim": {"optim.beta1": "interval(0.1, 0.9)"}}, ["'optim'", "optim=momentum"]),
        ({"optim=adam": "interval(0, 1)"}, ["sweep.when.optim=adam", "a mapping"]),
        ({"optim=adam": {"optim.beta1": 0.5}}, ["optim.beta1", "a search"]),
        ({"optim=sgd": {"optim.beta1": "interval(0.1, 0.9)"}}, ["optim.beta1", "no such key under optim=sgd"]),
        ({"optim=adam": {"batch_size": "32, 64"}, "optim=sgd": {"batch_size": "32, 64"}}, ["batch_size", "twice"]),
        ({"optim=interval(0,1)": {"batch_size": "32, 64"}}, ["a condition on values"]),
        ([1], ["sweep.when"]),
    ],
)
def test_a_bad_condition_is_refused(when: Any, words: list[str]) -> None:
    with pytest.raises(BadInputError) as refused:
        parse({"optim": "choice(sgd, adam)"}, when)
    for word in words:
        assert word in str(refused.value)


NESTED = {
    "optim=momentum,nesterov": {"optim.momentum": "interval(0.5, 0.99)"},
    "schedule=step": {
        "schedule.gamma": "interval(0.1, 0.9)",
        "regularization.patience": "2, 4",
        "when": {"regularization.patience=4": {"regularization.min_delta": "interval(0.0, 0.1)"}},
    },
}
SPACE = {
    "optim": "choice(sgd, momentum, nesterov, adamw)",
    "schedule": "choice(constant, step)",
    "optim.lr": "tag(log, interval(1e-4, 1))",
    "batch_size": "choice(16, 32, full)",
    "model.hidden": "choice([16], [16, 8])",
    "regularization.dropout": "interval(0, 0.5)",
}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_sampler_config_and_record_agree(data: st.DataObject, nested: tuple[Space, TrialComposer]) -> None:
    space, composer = nested

    def suggest(name: str, distribution: BaseDistribution) -> Value:
        if isinstance(distribution, CategoricalDistribution):
            return data.draw(st.sampled_from(distribution.choices))  # type: ignore[no-any-return]
        assert isinstance(distribution, FloatDistribution)
        return data.draw(st.floats(distribution.low, distribution.high))

    params = space.sample(suggest)
    assert ("optim.momentum" in params) == (params["optim"] in ("momentum", "nesterov"))
    assert ("schedule.gamma" in params) == (params["schedule"] == "step")
    assert ("regularization.min_delta" in params) == (params.get("regularization.patience") == 4)
    config = composer.trial_config(params)
    logged = composer.logged_params(params)
    for name, value in params.items():
        assert logged[name] == value
        found: Any = config
        for part in name.split("."):
            found = found[part]
        if name in ("optim", "schedule"):
            assert found["name"] == value
        elif name == "model.hidden":
            assert json.dumps(found) == value
        else:
            assert found == value
            assert type(found) is type(value)
    assert logged["data.name"] == config["data"]["name"]
    assert recipe_from_config(config).optim.lr == params["optim.lr"]


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Space, TrialComposer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("nested"))
        return both(SPACE, NESTED)


def test_groups_that_do_not_touch_each_other_are_composed_once(nested: tuple[Space, TrialComposer]) -> None:
    assert nested[0].separable


def test_a_trials_config_is_its_own(nested: tuple[Space, TrialComposer]) -> None:
    space, composer = nested
    params = space.sample(lambda name, distribution: getattr(distribution, "choices", (0.1,))[0])
    composer.trial_config(params)["optim"]["lr"] = -1
    assert composer.trial_config(params)["optim"]["lr"] == 0.1


def test_what_the_command_line_fixes_settles_conditions() -> None:
    space = parse(SPACE, NESTED, ("optim=momentum", "schedule=constant"))
    assert "optim" not in space.parameters
    assert space.parameters["optim.momentum"].conditions == ()
    assert "schedule.gamma" not in space.parameters


def test_fewer_choices_on_the_command_line_drop_conditions_on_the_others() -> None:
    space = parse(SPACE, NESTED, ("optim=sgd,nesterov",))
    assert [str(condition) for condition in space.parameters["optim.momentum"].conditions] == ["optim=nesterov"]
    assert "optim.momentum" not in parse(SPACE, NESTED, ("optim=sgd,adamw",)).parameters


def test_an_option_that_reaches_outside_of_its_group_is_composed_with_the_others() -> None:
    Path("conf/optim").mkdir(parents=True)
    Path("conf/optim/long.yaml").write_text("# @package _global_\ndefaults: [sgd_schema@optim, _self_]\nepochs: 99\n")
    space, composer = both({"optim": "choice(adam, long)", "schedule": "choice(constant, step)"})
    assert not space.separable
    config = composer.trial_config({"optim": "long", "schedule": "step"})
    assert (config["epochs"], config["optim"]["name"], config["schedule"]["name"]) == (99, "sgd", "step")
    assert composer.trial_config({"optim": "adam", "schedule": "step"})["epochs"] == 20


def test_conditions_hold_in_the_type_of_their_key() -> None:
    space = parse({"data.standardize": "choice(yes, no)"}, {"data.standardize=yes": {"epochs": "range(1, 9)"}})
    assert space.parameters["data.standardize"].distribution == CategoricalDistribution((True, False))
    params = space.sample(lambda name, distribution: getattr(distribution, "choices", (3,))[0])
    assert params == {"data.standardize": True, "epochs": 3}


def test_a_shuffled_choice_has_one_order() -> None:
    orders = {parse({"seed": "shuffle(1, 2, 3, 4, 5)"}).parameters["seed"].distribution for _ in range(5)}
    assert orders == {CategoricalDistribution((1, 2, 3, 4, 5))}


def test_an_error_of_the_command_line_says_so() -> None:
    with pytest.raises(BadInputError, match=r"^the command line: optim\.lr: 'interval\(1,0\)'"):
        parse({}, None, ("optim.lr=interval(1,0)",))
