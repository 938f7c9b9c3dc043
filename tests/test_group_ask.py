"""Groups of trials under one structural choice: what is shared, what is not, and that no distribution changes."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import chisquare, kstest

from swathe import runtime, samplers
from swathe.config import compose_sweep
from swathe.events import Direction, Proposal, TrialState, Value
from swathe.home import Home
from swathe.plain import put
from swathe.samplers import Groups, RandomDraw
from swathe.space import Space as ParsedSpace
from swathe.study import Study
from swathe.training.recipe import recipe_from_config
from swathe.training.structure import is_structural, structural_key
from tests.test_study import Parameter, Space, plain, run

SPACE = Space(
    {
        "batch_size": Parameter(CategoricalDistribution([32, 64, 128])),
        "optim": Parameter(CategoricalDistribution(["sgd", "momentum"])),
        "optim.momentum": Parameter(FloatDistribution(0.5, 0.99), (("optim", "momentum"),)),
        "model": Parameter(CategoricalDistribution(["mlp", "cnn"])),
        "model.channels": Parameter(IntDistribution(1, 2), (("model", "cnn"),)),
        "optim.lr": Parameter(FloatDistribution(1e-5, 1.0, log=True)),
        # A structural parameter under a free one, and a free one under a structural one.
        "data.limit": Parameter(CategoricalDistribution([100, 200]), (("optim", "momentum"),)),
        "schedule.gamma": Parameter(FloatDistribution(0.0, 1.0), (("batch_size", 32),)),
    }
)
SHARED = frozenset(name for name in SPACE.parameters if is_structural(name))
FINITE = Space(
    {
        "batch_size": Parameter(CategoricalDistribution([32, 64, 128])),
        "model": Parameter(CategoricalDistribution(["mlp", "cnn"])),
        "model.channels": Parameter(IntDistribution(1, 2), (("model", "cnn"),)),
        "optim.lr": Parameter(FloatDistribution(0.1, 0.5, step=0.1)),
    }
)
TPE = {"name": "tpe", "n_startup_trials": 4}
INDEPENDENT_TPE = {"name": "tpe", "n_startup_trials": 4, "multivariate": False, "constant_liar": False}
GP = {"name": "gp", "n_startup_trials": 4}


def launch(folder: Path, sampler: Mapping[str, Any], *, group: int = 4, space: Space = SPACE) -> Study:
    return Study.open(
        "s",
        folder=folder,
        storage=None,
        direction=Direction.MINIMIZE,
        sampler=sampler,
        space=space,
        seed=1,
        group=group,
        structural=is_structural,
    )


def structure(params: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in params.items() if is_structural(name)}


def assert_groups(proposals: list[Proposal], size: int) -> None:
    by_number = {proposal.trial: proposal.params for proposal in proposals}
    for number, params in by_number.items():
        head = structure(by_number[number - number % size])
        both = head.keys() & params.keys()
        assert {"batch_size", "model"} <= both
        assert {name: params[name] for name in both} == {name: head[name] for name in both}
        # Each point is one of the space: what exists follows from the trial's own choices.
        assert list(params) == list(SPACE.sample(lambda name, _, params=params: params[name]))  # type: ignore[misc]


# Which parameters are structural.

VALUES: Mapping[str, tuple[Any, ...]] = {
    "batch_size": (16, 64, "full"),
    "precision": ("fp32", "bf16"),
    "model.hidden": ([64], [32, 32]),
    "model.activation": ("relu", "tanh"),
    "model.norm": ("none", "batch", "layer"),
    "model.init": ("default", "orthogonal"),
    "data.val_fraction": (0.2, 0.25),
    "data.split_seed": (0, 1),
    "data.limit": (None, 500),
    "optim": ({"name": "adam", "lr": 0.01}, {"name": "sgd", "lr": 0.1}, {"name": "momentum", "momentum": 0.8}),
    "schedule": ({"name": "constant"}, {"name": "cosine"}),
    "regularization.l2": (0.0, 0.1),
    "regularization.weight_decay": (0.0, 0.1),
    "regularization.dropout": (0.1, 0.5),
    "regularization.l1": (0.1, 0.2),
    "regularization.clip_norm": (0.5, 1.0),
    "regularization.label_smoothing": (0.0, 0.1),
    "epochs": (1, 5),
    "seed": (0, 1),
}
points = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()})


def key_of(values: Mapping[str, Any]) -> str:
    config: dict[str, Any] = {"model": {"name": "mlp"}, "data": {"name": "digits"}, "regularization": {}}
    for name, value in values.items():
        put(config, name, copy.deepcopy(value))
    return structural_key(recipe_from_config(config))


@given(one=points, other=points, dropout=st.booleans())
def test_configs_that_differ_in_no_structural_parameter_have_one_key(
    one: dict[str, Any], other: dict[str, Any], dropout: bool
) -> None:
    # Only whether there is dropout is structural, not how much: that is no reason to draw it once for a group.
    if not dropout:
        one["regularization.dropout"] = other["regularization.dropout"] = 0.0
    assert key_of(one) == key_of(other | structure(one))


@pytest.mark.parametrize("name", [name for name in VALUES if is_structural(name)])
def test_a_structural_parameter_changes_the_key(name: str) -> None:
    base = {key: values[0] for key, values in VALUES.items()}
    assert len({key_of(base | {name: value}) for value in VALUES[name]}) == len(VALUES[name])


def test_groups_are_structural_and_initialisation_is_not() -> None:
    names = ["batch_size", "model", "model.hidden", "data", "data.limit", "model.init", "optim", "optim.lr", "modelled"]
    assert [is_structural(name) for name in names] == [True] * 5 + [False] * 4


# Random draws.


def drawn(number: int, groups: Groups, drawing: RandomDraw | None = None) -> dict[str, Value]:
    drawing = drawing or RandomDraw(3, SPACE, groups)
    return SPACE.sample(drawing.suggest(number, None))  # type: ignore[arg-type]


@given(size=st.integers(1, 20), number=st.integers(0, 1000))
def test_a_random_trial_has_its_heads_structure_and_is_a_function_of_numbers(size: int, number: int) -> None:
    groups = Groups(size, SHARED)
    head, params = drawn(groups.head(number), groups), drawn(number, groups)
    assert groups.head(number) == number // size * size
    both = structure(head).keys() & params.keys()
    assert {name: params[name] for name in both} == {name: head[name] for name in both}
    # A head is what it would be without groups.
    assert head == drawn(groups.head(number), Groups())


# The probability of each of a trial's choices under independent drawing.
CELLS = {
    (batch, optim, model, channels, limit): (1 / 3)
    * (1 / 2)
    * (1 / 2 if model == "mlp" else 1 / 4)
    * (1 if optim == "sgd" else 1 / 2)
    for batch, optim, (model, channels), limit in product(
        [32, 64, 128], ["sgd", "momentum"], [("mlp", None), ("cnn", 1), ("cnn", 2)], [None, 100, 200]
    )
    if (limit is None) == (optim == "sgd")
}


def test_over_groups_the_joint_distribution_is_that_of_independent_drawing() -> None:
    groups = Groups(4, SHARED)
    drawing = RandomDraw(11, SPACE, groups)
    trials = [drawn(4 * group + 1 + group % 3, groups, drawing) for group in range(4_000)]
    names = ("batch_size", "optim", "model", "model.channels", "data.limit")
    counts = Counter(tuple(params.get(name) for name in names) for params in trials)
    assert counts.keys() <= CELLS.keys()
    expected = {cell: 4_000 * share for cell, share in CELLS.items()}
    assert sum(expected.values()) == pytest.approx(4_000)
    assert chisquare([counts[cell] for cell in CELLS], list(expected.values())).pvalue > 0.001
    # What is continuous is independent of each choice, and uniform (the rate in its logarithm).
    for batch, model in product([32, 64, 128], ["mlp", "cnn"]):
        rates = [params["optim.lr"] for params in trials if (params["batch_size"], params["model"]) == (batch, model)]
        assert kstest(rates, "loguniform", args=(1e-5, 1.0)).pvalue > 0.001
    for name, low, width in (("optim.momentum", 0.5, 0.49), ("schedule.gamma", 0.0, 1.0)):
        values = [params[name] for params in trials if name in params]
        assert kstest(values, "uniform", args=(low, width)).pvalue > 0.001


# Samplers that look at the trials so far, and all of them over a resume.


@pytest.mark.parametrize("sampler", [{"name": "random"}, TPE, INDEPENDENT_TPE], ids=str)
def test_a_group_shares_its_structure_also_over_a_resume(sampler: Mapping[str, Any], tmp_path: Path) -> None:
    whole = run(launch(tmp_path / "a", sampler), 14)
    assert_groups(whole, 4)
    assert len({json.dumps(proposal.params) for proposal in whole}) == 14
    resumed: list[Proposal] = []
    for count in (3, 4, 7):
        study = launch(tmp_path / "b", sampler)
        resumed += run(study, count)
        study.close()
    assert resumed == whole


def test_a_group_is_drawn_ahead_while_others_run(tmp_path: Path) -> None:
    study = launch(tmp_path, TPE, group=8)
    done = run(study, 8)
    proposals = list(study.ask(16).proposals)
    assert_groups(done + proposals, 8)
    # With what runs taken into account no two of them are the same.
    assert len({json.dumps(proposal.params) for proposal in proposals}) == 16


@pytest.mark.parametrize("sampler", [{"name": "cmaes"}, {"name": "qmc"}, GP], ids=str)
def test_points_that_are_drawn_together_are_not_cut(sampler: Mapping[str, Any], tmp_path: Path) -> None:
    assert run(launch(tmp_path / "a", sampler), 7) == run(launch(tmp_path / "b", sampler, group=1), 7)


@pytest.mark.parametrize("sampler", [{"name": "random"}, TPE], ids=str)
def test_without_a_structural_choice_nothing_changes(sampler: Mapping[str, Any], tmp_path: Path) -> None:
    space = Space(
        {"batch_size": Parameter(CategoricalDistribution([32])), "optim.lr": Parameter(FloatDistribution(0.0, 1.0))}
    )
    grouped = run(launch(tmp_path / "a", sampler, space=space), 12)
    assert grouped == run(launch(tmp_path / "b", sampler, space=space, group=1), 12)


def test_an_enqueued_head_is_what_its_group_follows(tmp_path: Path) -> None:
    launch(tmp_path, TPE).close()
    wanted = {"batch_size": 128, "model": "cnn", "model.channels": 2}
    plain(tmp_path).enqueue_trial(wanted)
    study = launch(tmp_path, TPE)
    (past,) = study.history()
    assert structure(past.params).items() >= wanted.items()
    study.tell(0, TrialState.COMPLETE, 0.5, {})
    for proposal in study.ask(3).proposals:
        assert structure(proposal.params).items() >= wanted.items()


def test_an_enqueued_trial_keeps_its_values_within_a_group(tmp_path: Path) -> None:
    study = launch(tmp_path, {"name": "random"})
    (head,) = study.ask(1).proposals
    study.close()
    other = 32 if head.params["batch_size"] != 32 else 64
    plain(tmp_path).enqueue_trial({"batch_size": other})
    study = launch(tmp_path, {"name": "random"})
    assert study.history()[1].params["batch_size"] == other
    assert study.ask(1).proposals[0].params["batch_size"] == head.params["batch_size"]


def test_a_trial_that_a_crash_has_left_half_drawn_has_what_its_group_shares(tmp_path: Path) -> None:
    study = launch(tmp_path, TPE)
    (*_, head) = study.ask(5).proposals
    # Optuna's `ask` makes the trial before it draws any of its values.
    study._storage.create_new_trial(study._study_id)
    study.close()
    again = launch(tmp_path, TPE)
    found = again.params(5)
    both = structure(found).keys() & head.params.keys()
    assert {"batch_size", "model"} <= both
    assert {name: found[name] for name in both} == {name: head.params[name] for name in both}
    assert "optim.lr" in found
    again.close()


def test_a_head_outside_the_space_is_followed_no_further(tmp_path: Path) -> None:
    space = Space(
        {
            "data.val_fraction": Parameter(FloatDistribution(0.1, 0.3)),
            "optim.lr": Parameter(FloatDistribution(0.0, 1.0)),
        }
    )
    launch(tmp_path, TPE, space=space).close()
    wider = {"data.val_fraction": FloatDistribution(0.0, 1.0)}
    added = optuna.trial.create_trial(params={"data.val_fraction": 0.9}, distributions=wider, value=0.5)
    plain(tmp_path).add_trial(added)
    study = launch(tmp_path, TPE, space=space)
    for proposal in study.ask(3).proposals:
        assert 0.1 <= float(proposal.params["data.val_fraction"] or 0.0) <= 0.3


# The grid.


@settings(max_examples=30)
@given(size=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_a_grid_has_each_point_once_and_runs_of_one_structure(size: int, seed: int) -> None:
    grid = samplers.Grid(FINITE, seed, Groups(size, frozenset(filter(is_structural, FINITE.parameters))))
    points: list[dict[str, Value]] = []
    while not grid.exhausted:
        points.append(FINITE.sample(grid.suggest(len(points), None)))  # type: ignore[arg-type]
    expected = [
        {"batch_size": batch, **model, "optim.lr": lr}
        for batch, model, lr in product(
            [32, 64, 128],
            [{"model": "mlp"}, {"model": "cnn", "model.channels": 1}, {"model": "cnn", "model.channels": 2}],
            [0.1, 0.2, 0.3, 0.4, 0.5],
        )
    ]
    assert sorted(map(str, points)) == sorted(map(str, expected))
    # 5 points have one structure: a run of `size` is cut only where they end.
    changes = sum(structure(one) != structure(other) for one, other in pairwise(points))
    if size > 1:
        assert changes < 9 * -(-5 // size)


def test_a_grid_goes_on_over_a_resume(tmp_path: Path) -> None:
    whole = run(launch(tmp_path / "a", {"name": "grid"}, space=FINITE), 20)
    study = launch(tmp_path / "b", {"name": "grid"}, space=FINITE)
    first = run(study, 7)
    study.close()
    assert first + run(launch(tmp_path / "b", {"name": "grid"}, space=FINITE), 13) == whole


# What a sweep's config says.


def plan(folder: Path, *overrides: str, space: Mapping[str, str] | None = None, **body: Any) -> runtime.Plan:
    space = space or {"batch_size": "choice(32, 64)", "optim.lr": "interval(0.01, 1.0)"}
    (folder / "s.yaml").write_text(yaml.safe_dump({"sweep": {"space": dict(space)}, **body}))
    composed = compose_sweep(str(folder / "s.yaml"), overrides)
    return runtime.prepare(composed, ParsedSpace.parse(composed), Home(folder / "home"), "swathe launch s.yaml")


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        (("sweep.trials=1",), 1),
        (("sweep.trials=100",), 5),
        (("sweep.trials=1000",), 16),
        (("sweep.trials=1000", "sweep.group_ask=1"), 1),
        (("sweep.trials=10", "sweep.group_ask=32"), 32),
        (("sweep.trials=1000", "lanes.slots=1"), 1),
        (("sweep.trials=1000", "lanes.slots=4"), 16),
    ],
)
def test_the_size_of_a_group(overrides: tuple[str, ...], size: int, tmp_path: Path) -> None:
    assert runtime.group_size(plan(tmp_path, *overrides).composed) == size


def test_functions_are_trained_alone_and_drawn_one_by_one(tmp_path: Path) -> None:
    of_function = plan(
        tmp_path, space={"params.x": "interval(0.0, 1.0)"}, trainable="tests.trials:quadratic", params={"x": 0.5}
    )
    assert runtime.group_size(of_function.composed) == 1
    assert runtime.structure_of(of_function)({"params.x": 0.5}) == ""


def test_trials_of_one_structure_have_one_key(tmp_path: Path) -> None:
    key = runtime.structure_of(plan(tmp_path))
    assert key({"batch_size": 32, "optim.lr": 0.1}) is key({"batch_size": 32, "optim.lr": 0.2})
    assert key({"batch_size": 32, "optim.lr": 0.1}) != key({"batch_size": 64, "optim.lr": 0.1})


def test_where_lanes_are_switched_off_all_trials_are_alone(tmp_path: Path) -> None:
    assert runtime.structure_of(plan(tmp_path, "lanes.slots=1"))({"batch_size": 32, "optim.lr": 0.1}) == ""


def test_values_that_are_refused_together_make_a_trial_alone(tmp_path: Path) -> None:
    fractions = {"data.val_fraction": "interval(0.1, 0.9)", "data.test_fraction": "choice(0.0, 0.2)"}
    key = runtime.structure_of(plan(tmp_path, space=fractions))
    assert key({"data.val_fraction": 0.3, "data.test_fraction": 0.2})
    assert key({"data.val_fraction": 0.85, "data.test_fraction": 0.2}) == ""


def test_the_structural_parameters_of_a_space(tmp_path: Path) -> None:
    space = {"model": "choice(mlp, cnn)", "optim": "choice(sgd, adam)", "data.limit": "choice(500, 600)"}
    parsed = plan(tmp_path, "data=mnist", space=space).space
    assert runtime.structural_parameters(parsed) == {"model", "data.limit"}
    tied = ParsedSpace(parsed.parameters, parsed.variants, separable=False)
    assert runtime.structural_parameters(tied) == {"model", "optim", "data.limit"}
