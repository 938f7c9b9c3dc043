"""Who copies whom, and with which values: a function of what was reported and of nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from swathe.config import compose_sweep
from swathe.errors import BadInputError
from swathe.population import (
    Dimension,
    Member,
    Options,
    Population,
    PopulationJob,
    copies,
    options_of,
    plan_tag,
    read_plan,
    values_of,
    with_values,
)
from swathe.population_sweep import check, dimensions, shared
from swathe.runtime import group_size
from swathe.space import Space

DIMENSIONS = {
    "optim.lr": Dimension(1e-4, 1.0, log=True),
    "optim.momentum": Dimension(0.0, 0.99),
    "schedule.warmup_steps": Dimension(0, 100, step=10, integer=True),
}
options = st.builds(
    Options,
    size=st.integers(4, 16),
    perturbation_interval=st.integers(1, 5),
    quantile_fraction=st.floats(0.01, 0.5),
    resample_probability=st.floats(0, 1),
    factors=st.lists(st.floats(0.1, 10), min_size=1, max_size=3).map(tuple),
)
plans = st.builds(
    lambda index, chosen, seed, minimize: Population(
        index * chosen.size, seed, "val_loss", minimize, chosen, DIMENSIONS
    ),
    st.integers(0, 50),
    options,
    st.integers(0, 2**32 - 1),
    st.booleans(),
)


def drawn(data: st.DataObject, plan: Population) -> tuple[dict[int, float], dict[int, dict[str, int | float]]]:
    """Return what some of a population's members have reached, and with which values."""
    members = data.draw(st.lists(st.sampled_from(list(plan.numbers)), unique=True))
    reached = {number: data.draw(st.floats(-10, 10)) for number in members}
    values: dict[int, dict[str, int | float]] = {
        number: {
            "optim.lr": data.draw(st.floats(1e-4, 1.0)),
            "schedule.warmup_steps": 10 * data.draw(st.integers(0, 10)),
        }
        for number in members
    }
    return reached, values


@settings(max_examples=40)
@given(plans, st.integers(1, 100), st.data())
def test_the_worst_copy_the_best_and_stay_in_the_space(plan: Population, epoch: int, data: st.DataObject) -> None:
    reached, values = drawn(data, plan)
    found = copies(plan, epoch, reached, values)
    assert len(found) == plan.options.quantile(len(reached)) <= len(reached) / 2
    sign = 1 if plan.minimize else -1
    copied, copying = {one.source for one in found}, {one.member for one in found}
    rest = reached.keys() - copying
    assert copied <= rest
    for one in found:
        assert sign * reached[one.source] <= sign * reached[one.member]
        assert all(sign * reached[one.member] >= sign * reached[number] for number in rest)
        assert one.params.keys() == values[one.source].keys()
        assert 1e-4 <= one.params["optim.lr"] <= 1.0
        assert isinstance(one.params["schedule.warmup_steps"], int)
        assert one.params["schedule.warmup_steps"] in range(0, 101, 10)


@settings(max_examples=40)
@given(plans, st.integers(1, 100), st.data())
def test_a_decision_is_a_function_of_what_was_reported(plan: Population, epoch: int, data: st.DataObject) -> None:
    reached, values = drawn(data, plan)
    backwards = dict(reversed(reached.items()))
    assert copies(plan, epoch, backwards, values) == copies(plan, epoch, reached, values)


@settings(max_examples=40)
@given(plans, st.integers(1, 100), st.data())
def test_without_resampling_each_value_is_a_factor_away(plan: Population, epoch: int, data: st.DataObject) -> None:
    plan = Population(plan.head, plan.seed, "val_loss", True, Options(resample_probability=0.0), DIMENSIONS)
    reached, values = drawn(data, plan)
    for one in copies(plan, epoch, reached, values):
        before = values[one.source]["optim.lr"]
        assert one.params["optim.lr"] in (max(1e-4, before * 0.8), min(1.0, before * 1.25))


def test_seed_population_member_and_epoch_decide_differently() -> None:
    reached = {number: float(number) for number in range(8)}
    values = {number: {"optim.lr": 0.01} for number in range(8)}

    def found(seed: int, epoch: int) -> list[float]:
        plan = Population(0, seed, "val_loss", True, Options(resample_probability=1.0), DIMENSIONS)
        return [one.params["optim.lr"] for one in copies(plan, epoch, reached, values)]

    rates = [*found(0, 2), *found(0, 4), *found(1, 2)]
    assert len(set(rates)) == len(rates) == 6


@given(st.integers(-5, 5), st.integers(1, 60), st.floats(-1e3, 1e3, allow_nan=False), st.randoms())
def test_values_are_those_that_a_distribution_has(low: int, width: int, value: float, stream: Any) -> None:
    whole = Dimension(low, low + 3 * width, step=3, integer=True)
    theirs = IntDistribution(low, low + 3 * width, step=3)
    for found in (whole.nearest(value), whole.draw(stream)):
        assert theirs._contains(theirs.to_internal_repr(found))
        assert isinstance(found, int)
    real = Dimension(low / 10, (low + width) / 10, step=0.1)
    grid = FloatDistribution(low / 10, (low + width) / 10, step=0.1)
    for found in (real.nearest(value), real.draw(stream)):
        assert grid._contains(found)
    logs = Dimension(1, 1 + width, log=True, step=1, integer=True)
    assert 1 <= logs.draw(stream) <= 1 + width


def test_a_plan_is_read_as_it_was_written() -> None:
    plan = Population(8, 3, "val_loss", False, Options(factors=(0.5, 2.0)), DIMENSIONS)
    members = tuple(Member(number, {}, ("optim.lr",) if number == 9 else ()) for number in plan.numbers)
    job = PopulationJob(plan, members)
    assert read_plan(plan_tag(job, 9)) == (plan, ("optim.lr",))
    assert read_plan(plan_tag(job, 8)) == (plan, ())


def test_values_of_a_config_and_a_config_with_values() -> None:
    config = {"optim": {"lr": 0.1, "name": "sgd"}, "seed": 1}
    changed = with_values(config, {"optim.lr": 0.2})
    assert changed == {"optim": {"lr": 0.2, "name": "sgd"}, "seed": 1}
    assert values_of(changed, ["optim.lr"]) == {"optim.lr": 0.2}
    assert config["optim"] == {"lr": 0.1, "name": "sgd"}


# Sweeps.

SWEEP = """
defaults: [/model: mlp, /data: digits, /optim: adamw, /sampler: random, _self_]
epochs: 6
sweep:
  name: pbt
  trials: 16
  population: {size: 8}
  space:
    optim: choice(sgd, momentum)
    optim.lr: tag(log, interval(1e-4, 1.0))
    schedule.warmup_steps: range(0, 40, 5)
    batch_size: choice(32, 64)
    regularization.dropout: interval(0.0, 0.5)
    regularization.l1: choice(0, 1e-5)
  when:
    optim=momentum: {optim.momentum: "interval(0.5, 0.99)"}
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("sweeps") / "pbt.yaml"
    path.write_text(SWEEP)
    return str(path)


def test_what_members_share_and_what_they_explore(sweep: str) -> None:
    composed = compose_sweep(sweep, [])
    space = Space.parse(composed)
    check(composed, space)
    assert composed.pruner["name"] == "none"
    assert group_size(composed) == 8
    # What is another program where it is off is no member's own.
    assert shared(space) == {"batch_size", "regularization.l1"}
    found = dimensions(space)
    assert sorted(found) == ["optim.lr", "optim.momentum", "regularization.dropout", "schedule.warmup_steps"]
    assert found["optim.lr"] == Dimension(1e-4, 1.0, log=True)
    assert found["schedule.warmup_steps"] == Dimension(0, 35, step=5, integer=True)


def test_a_population_is_part_of_what_a_sweep_is_and_none_is_not(sweep: str) -> None:
    same = compose_sweep(sweep, []).identity
    assert compose_sweep(sweep, ["sweep.population.perturbation_interval=2", "sweep.trials=32"]).identity == same
    off = compose_sweep(sweep, ["sweep.population=null", "pruner=none"])
    assert off.population is None
    assert off.identity != same
    # As a sweep was before there were any.
    section = {key: value for key, value in off.values["sweep"].items() if key != "population"}
    assert replace(off, values={**off.values, "sweep": section}).identity == off.identity
    assert compose_sweep(sweep, ["sweep.population.size=16"]).identity != same


def composed_and_checked(sweep: str, word: str) -> None:
    composed = compose_sweep(sweep, [word])
    check(composed, Space.parse(composed))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("sweep.population=8", "sweep.population: 8"),
        ("sweep.population.size=3", "sweep.population.size: 3"),
        ("sweep.population.perturbation_interval=0", "sweep.population.perturbation_interval: 0"),
        ("sweep.population.perturbation_interval=6", "less than the 6 epochs"),
        ("sweep.population.quantile_fraction=0.6", "at most 0.5"),
        ("sweep.population.resample_probability=2", "0 to 1"),
        ("sweep.population.factors=[0]", "sweep.population.factors"),
        ("sweep.population.interval=2", "there is no such key"),
        ("sweep.trials=20", "a multiple of sweep.population.size"),
        ("lanes.slots=1", "lanes.slots: 1"),
        ("pruner=asha", "pruner.name: 'asha'"),
        ("sampler=cmaes", "sampler.name: 'cmaes'"),
        ("sampler=grid", "sampler.name: 'grid'"),
        ("sweep.group_ask=4", "sweep.group_ask: 4"),
        ("sweep.repeats=2", "sweep.repeats: 2"),
        ("sweep.enqueue=[{optim: sgd}]", "sweep.enqueue"),
        ("sweep.warm_start_best=1", "sweep.warm_start_best: 1"),
        ("regularization.patience=3", "regularization.patience: 3"),
        ("precision=fp16", "precision: 'fp16'"),
        ("epochs=range(3,9)", "epochs"),
        ("precision=choice(fp32,fp16)", "precision: 'fp16'"),
    ],
)
def test_what_a_population_cannot_have_is_refused_in_one_sentence(sweep: str, word: str, said: str) -> None:
    with pytest.raises(BadInputError) as refused:
        composed_and_checked(sweep, word)
    assert said in str(refused.value)
    assert "allowed" in str(refused.value)


def test_several_objectives_and_functions_are_refused(sweep: str) -> None:
    with pytest.raises(BadInputError, match=r"sweep\.metric.*one metric"):
        compose_sweep(sweep, ["sweep.metric=[val_loss,train_loss]", "sweep.direction=[minimize,minimize]"])
    with pytest.raises(BadInputError, match=r"sweep\.population.*function"):
        compose_sweep(sweep, ["trainable=tests.trials:quick"])


def test_a_space_with_nothing_to_explore_is_refused(sweep: str) -> None:
    fixed = ["optim.lr=0.1", "schedule.warmup_steps=0", "regularization.dropout=0.1", "optim=sgd"]
    composed = compose_sweep(sweep, fixed)
    with pytest.raises(BadInputError, match="nothing that may change"):
        check(composed, Space.parse(composed))


def test_a_structure_under_a_condition_that_is_no_structure_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "pbt.yaml"
    path.write_text(SWEEP.replace("{optim.momentum", "{model.norm: 'choice(none, batch)', optim.momentum"))
    composed = compose_sweep(str(path), [])
    with pytest.raises(BadInputError, match=r"model\.norm.*optim=momentum"):
        check(composed, Space.parse(composed))


@pytest.mark.parametrize(
    ("members", "share", "count"), [(8, 0.25, 2), (8, 0.5, 4), (5, 0.5, 2), (4, 0.01, 1), (1, 0.5, 0)]
)
def test_a_quantile_is_ray_tunes(members: int, share: float, count: int) -> None:
    assert Options(quantile_fraction=share).quantile(members) == count


def test_options_are_off_where_nothing_is_said() -> None:
    assert options_of({}) is options_of({"population": None}) is None
    assert options_of({"population": {}}) == Options()
    assert math.isclose(sum(Options().factors), 2.05)
