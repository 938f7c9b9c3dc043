"""Several objectives and constraints: the front, what the controller and the study make of them, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard._serializer import serialize_frozen_trial

import swathe
from swathe import analysis, exporting, pruners
from swathe.config import compose_sweep
from swathe.controller import Budget, Controller
from swathe.errors import BadInputError
from swathe.events import (
    Ask,
    Command,
    Direction,
    Done,
    Finished,
    Keep,
    Proposal,
    Proposed,
    Report,
    Reported,
    Tell,
    TrialState,
    WorkerReady,
)
from swathe.home import Home, SweepCard
from swathe.objectives import Constraint, Front, Goal, Objective, dominates, front_of, goal_of, hypervolume
from swathe.overview import Overview
from swathe.samplers import build
from swathe.single_objective import by_first
from swathe.study import JOURNAL, Study
from swathe.tables import front as front_table
from tests.test_study import FLAT, Parameter, Space, hash_free

DOWN, UP = Direction.MINIMIZE, Direction.MAXIMIZE
GOAL = Goal((Objective("loss", DOWN), Objective("accuracy", UP)), (Constraint("size", "<=", 50.0),))
VALUES = st.integers(0, 4).map(float)


def points(most: int = 4) -> st.SearchStrategy[list[tuple[float, ...]]]:
    """Return points on a small grid, so that many are equal in a part or as a whole."""
    return st.integers(2, most).flatmap(lambda size: st.lists(st.tuples(*[VALUES] * size), max_size=25))


@given(points())
def test_the_front_is_what_no_point_dominates(found: list[tuple[float, ...]]) -> None:
    brute = {number for number, point in enumerate(found) if not any(dominates(other, point) for other in found)}
    ordered = front_of(enumerate(found))
    assert set(ordered) == brute
    assert all(found[one][0] <= found[other][0] for one, other in pairwise(ordered))
    grown = Front()
    for number, point in enumerate(found):
        grown.add(number, point)
    assert set(grown.members) == brute


@given(points())
def test_of_equal_points_all_are_on_the_front(found: list[tuple[float, ...]]) -> None:
    once = {found[number] for number in front_of(enumerate(found))}
    twice = found + found
    assert len(front_of(enumerate(twice))) == 2 * sum(point in once for point in found)


@given(points())
def test_the_volume_is_optunas(found: list[tuple[float, ...]]) -> None:
    size = len(found[0]) if found else 2
    reference = (3.5,) * size
    losses = np.array(found).reshape(-1, size)
    inside = losses[(losses <= 3.5).all(axis=1)]
    expected = compute_hypervolume(inside, np.array(reference)) if len(inside) else 0.0
    assert hypervolume(found, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("bound", "value", "kept"),
    [
        ("<= 5", 5, True),
        ("<5", 5, False),
        ("< 5", 4.999, True),
        (">= 0.9", 0.9, True),
        ("> 0", 0, False),
        ("> -1e3", -999, True),
        ("<= 5", math.nan, False),
        (">= 5", math.inf, True),
    ],
)
def test_a_constraint_keeps_its_bound(bound: str, value: float, kept: bool) -> None:
    goal = goal_of({"metric": "loss", "direction": "minimize", "constraints": {"m": bound}})
    assert goal.feasible({"m": value}) is kept
    assert not goal.feasible({"loss": 1.0})
    (violation,) = goal.violations({"m": value}).values()
    assert (violation <= 0) is kept
    assert not math.isnan(violation)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sweep.metric=[val_loss]"], "sweep.metric: ['val_loss'] is not allowed"),
        (["sweep.metric=[a,a]", "sweep.direction=[minimize,minimize]"], "2 to 4 different ones"),
        (
            ["sweep.metric=[a,b]"],
            "sweep.direction: 'minimize' is not allowed; allowed: a list with minimize or maximize",
        ),
        (["sweep.metric=[a,b]", "sweep.direction=[minimize,up]"], "for each of a, b."),
        (["sweep.direction=[minimize,minimize]"], "as sweep.metric is no list"),
        (["sweep.constraints.parameters=50"], "allowed: a bound such as '<= 50000'"),
        (["sweep.constraints.parameters='< x'"], "sweep.constraints.parameters: '< x' is not allowed"),
        (["sweep.constraints={size: 5}"], "sweep.constraints.size: 5 is not allowed"),
        (["TWO", "pruner=asha"], "pruner: 'asha' is not allowed; allowed: none with several objectives"),
        (["TWO", "sampler=cmaes"], "sampler: 'cmaes' is not allowed; allowed: nsga2"),
        (["TWO", "sweep.target=0.1"], "sweep.target: 0.1 is not allowed; allowed: null with several objectives"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, overrides: list[str], sentence: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("defaults: [/model: mlp, _self_]\nsweep: {space: {optim.lr: 'interval(0.1, 1)'}}\n")
    two = ["sweep.metric=[val_loss,parameters]", "sweep.direction=[minimize,minimize]"]
    words = [word for given in overrides for word in (two if given == "TWO" else [given])]
    with pytest.raises(BadInputError) as refused:
        compose_sweep(str(path), words)
    assert sentence in str(refused.value)


def test_a_sweep_with_several_objectives_has_no_pruner_unless_it_names_one(tmp_path: Path) -> None:
    base = tmp_path / "s.yaml"
    base.write_text("defaults: [/model: mlp, _self_]\nsweep: {space: {optim.lr: 'interval(0.1, 1)'}}\n")
    two = ("sweep.metric=[val_loss,parameters]", "sweep.direction=[minimize,maximize]")
    one, several = compose_sweep(str(base), ()), compose_sweep(str(base), two)
    assert (one.pruner["name"], several.pruner["name"]) == ("asha", "none")
    assert one.goal == Goal((Objective("val_loss", DOWN),))
    assert several.goal.metrics == ("val_loss", "parameters")
    assert several.goal.directions == (DOWN, UP)
    assert one.identity != several.identity
    bounded = compose_sweep(str(base), ("sweep.constraints.parameters='<= 5000'",))
    assert bounded.identity != one.identity
    assert bounded.pruner["name"] == "asha"
    ready = compose_sweep("accuracy_and_size", ())
    assert ready.pruner["name"] == "none"


# The controller.


def make(**options: Any) -> Controller:
    given: dict[str, Any] = {
        "others": GOAL.objectives[1:],
        "constraints": GOAL.constraints,
        "budget": Budget(3),
        "ask_ahead": 3,
    }
    pruner = pruners.build({"name": "none"}, DOWN, "s")
    return Controller(metric="loss", direction=DOWN, pruner=pruner, **(given | options))


def started(controller: Controller) -> Controller:
    (ask,) = (command for command in controller.handle(WorkerReady("w")) if isinstance(command, Ask))
    controller.handle(Proposed(tuple(Proposal(number, {}) for number in range(ask.count))))
    return controller


def told(commands: Sequence[Command]) -> Tell:
    (tell,) = (command for command in commands if isinstance(command, Tell))
    return tell


def played(
    controller: Controller, trial: int, *reports: Mapping[str, float], model: bytes | None = None
) -> list[Command]:
    """Let a trial make its reports and end; return all that follows."""
    commands: list[Command] = []
    for step, metrics in enumerate(reports, start=1):
        commands += controller.handle(Reported("w", (Report(trial, step, metrics),)))
    return commands + controller.handle(Finished("w", trial, model=model))


def test_a_trial_has_the_values_of_its_last_report() -> None:
    controller = started(make())
    tell = told(
        played(controller, 0, {"loss": 1.0, "accuracy": 0.9, "size": 9}, {"loss": 2.0, "accuracy": 0.1, "size": 9})
    )
    assert (tell.value, tell.objectives, tell.constraints) == (2.0, (2.0, 0.1), {"size": -41.0})
    assert tell.metrics == {"loss": 2.0, "accuracy": 0.1, "size": 9}


def test_the_front_has_feasible_trials_and_no_model_is_kept() -> None:
    controller = started(make())
    commands = played(controller, 0, {"loss": 1.0, "accuracy": 0.5, "size": 9}, model=b"m")
    commands += played(controller, 1, {"loss": 0.1, "accuracy": 0.9, "size": 51}, model=b"m")
    commands += played(controller, 2, {"loss": 2.0, "accuracy": 0.6, "size": 50}, model=b"m")
    assert not [command for command in commands if isinstance(command, Keep)]
    assert set(controller.front.members) == {0, 2}
    assert controller.best == (0, 1.0)
    assert isinstance(commands[-1], Done)


def test_a_report_that_lacks_an_objective_fails_its_trial() -> None:
    controller = started(make())
    tell = told(controller.handle(Reported("w", (Report(0, 1, {"loss": 1.0, "size": 1}),))))
    assert tell.state is TrialState.FAILED
    assert tell.reason == "step 1 reports no 'accuracy'; it reports: loss, size"


def test_a_trial_that_never_reported_what_is_constrained_fails() -> None:
    controller = started(make())
    tell = told(played(controller, 0, {"loss": 1.0, "accuracy": 0.5}))
    assert tell.state is TrialState.FAILED
    assert tell.reason == "ended without a report of 'size', which sweep.constraints names"
    assert tell.constraints == {}


def test_an_objective_that_is_not_finite_ends_its_trial() -> None:
    controller = started(make())
    tell = told(controller.handle(Reported("w", (Report(0, 1, {"loss": 1.0, "accuracy": math.nan, "size": 1}),))))
    assert (tell.state, tell.objectives) == (TrialState.PRUNED, ())
    assert tell.reason == "diverged: accuracy is nan at step 1"


def test_with_one_objective_the_best_is_the_best_feasible_one() -> None:
    controller = started(make(others=(), budget=Budget(3, target=0.5)))
    commands = played(controller, 0, {"loss": 0.1, "size": 51}, model=b"0")
    assert told(commands).state is TrialState.COMPLETE
    assert controller.best is None
    commands = played(controller, 1, {"loss": 0.9, "size": 50}, model=b"1")
    assert [command.trial for command in commands if isinstance(command, Keep)] == [1]
    assert controller.best == (1, 0.9)
    # The target is reached by a trial that keeps the constraints alone.
    tell = told(controller.handle(Reported("w", (Report(2, 1, {"loss": 0.4, "size": 1}),))))
    assert (tell.state, tell.reason) == (TrialState.COMPLETE, "reached the target at step 1")


# The study.


def launch(folder: Path, *, storage: str | None = None, sampler: Mapping[str, Any] | None = None) -> Study:
    return Study.open(
        "s",
        folder=folder,
        storage=storage,
        direction=DOWN,
        sampler=sampler or {"name": "random"},
        space=FLAT,
        seed=1,
        others=(UP,),
    )


@pytest.mark.parametrize("database", [False, True])
def test_optunas_own_tools_see_values_and_constraints(tmp_path: Path, database: bool) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}" if database else None
    study = launch(tmp_path, storage=storage)
    study.ask(4)
    study.record(0, 1, 0.5)
    study.tell(0, TrialState.COMPLETE, 0.5, {}, objectives=(0.5, 0.9), constraints={"size": -1.0, "gap": 0.0})
    study.tell(1, TrialState.COMPLETE, 0.1, {}, objectives=(0.1, 0.95), constraints={"size": 2.0, "gap": 1e12})
    study.tell(2, TrialState.PRUNED, 0.3, {}, constraints={"size": 3.0})
    with pytest.raises(ValueError, match="cannot be complete"):
        study.tell(3, TrialState.COMPLETE, 0.3, {})
    before = study.history()
    study.close()
    plain = optuna.load_study(
        study_name="s", storage=storage or JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    )
    assert [one.name for one in plain.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert [trial.values for trial in plain.trials] == [[0.5, 0.9], [0.1, 0.95], None, None]
    assert [list(trial.constraints.values()) for trial in plain.trials] == [[-1.0, 0.0], [2.0, 1e12], [3.0], []]
    assert serialize_frozen_trial(0, plain.trials[0], {})["constraints"] == [-1.0, 0.0]
    assert [trial.number for trial in plain.best_trials] == [0]
    again = launch(tmp_path, storage=storage)
    assert again.history() == before
    assert [past.objectives for past in before] == [(0.5, 0.9), (0.1, 0.95), (), ()]
    assert [past.feasible for past in before] == [True, False, False, True]
    again.close()
    # A sweep that goes on knows its front.
    controller = make(history=before)
    assert (set(controller.front.members), controller.best) == ({0}, (0, 0.5))


GENETIC = {"name": "nsga2", "population_size": 5}


def drawn(study: Study, count: int) -> list[Proposal]:
    found = []
    for _ in range(count):
        (proposal,) = study.ask(1).proposals
        first = sum(hash_free(value) for value in proposal.params.values())
        values = (first, hash_free(proposal.params["depth"]))
        violation = {"lr": hash_free(proposal.params["lr"]) - 0.5}
        study.tell(proposal.trial, TrialState.COMPLETE, first, {}, objectives=values, constraints=violation)
        found.append(proposal)
    return found


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_a_genetic_search_is_the_same_in_every_storage_and_over_a_resume(tmp_path: Path, name: str) -> None:
    sampler = {**GENETIC, "name": name}
    whole = drawn(launch(tmp_path, sampler=sampler), 24)
    # The second generation learns from the first: it is not drawn at random.
    assert whole[:5] == drawn(launch(_made(tmp_path / "r")), 5)
    assert whole[5:] != drawn(launch(_made(tmp_path / "s")), 24)[5:]
    for folder, storage in (("a", None), ("b", f"sqlite:///{tmp_path / 'study.db'}")):
        parts = []
        for count in (3, 4, 9, 8):
            study = launch(_made(tmp_path / folder), storage=storage, sampler=sampler)
            parts += drawn(study, count)
            study.close()
        assert parts == whole


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("name", ["random", "tpe", "gp", "qmc", "grid", "nsga2", "nsga3"])
def test_every_sampler_but_one_takes_several_objectives(tmp_path: Path, name: str) -> None:
    options = {"tpe": {"n_startup_trials": 3}, "gp": {"n_startup_trials": 4}}.get(name, {})
    space = Space({"lr": Parameter(FloatDistribution(0.0, 1.0, step=0.25)), "depth": Parameter(IntDistribution(1, 4))})
    study = Study.open(
        "s",
        folder=tmp_path,
        storage=None,
        direction=DOWN,
        sampler={"name": name, **options},
        space=space,
        seed=0,
        others=(UP,),
    )
    assert len(drawn(study, 7)) == 7
    study.close()


def test_tpe_keeps_away_from_what_breaks_a_constraint(tmp_path: Path) -> None:
    """The least x is looked for: where it must be above a half, fewer trials are below."""
    space = Space({"x": Parameter(FloatDistribution(0.0, 1.0))})
    kept = {}
    for name in ("free", "bound"):
        folder = _made(tmp_path / name)
        options: dict[str, Any] = {"storage": None, "direction": DOWN, "sampler": {"name": "tpe"}, "seed": 0}
        study = Study.open("s", folder=folder, space=space, **options)
        found = []
        for _ in range(40):
            (proposal,) = study.ask(1).proposals
            x = hash_free(proposal.params["x"])
            violation = {"x": 0.5 - x} if name == "bound" else {}
            study.tell(proposal.trial, TrialState.COMPLETE, x, {}, constraints=violation)
            found.append(x)
        study.close()
        kept[name] = sum(x >= 0.5 for x in found[10:])
    assert kept["bound"] >= 3 * max(1, kept["free"])


def test_options_of_a_genetic_search_are_checked() -> None:
    for key, value in (("population_size", 1), ("mutation_prob", 2), ("crossover_prob", None), ("sigma0", 1.0)):
        with pytest.raises(BadInputError, match=f"sampler.{key}"):
            build({"name": "nsga2", key: value}, FLAT, 0)


def test_what_is_about_one_number_is_about_the_first_objective() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    params, distributions = {"x": "a"}, {"x": CategoricalDistribution(["a", "b"])}
    for values in ([1.0, 2.0], [3.0, 1.0]):
        study.add_trial(optuna.trial.create_trial(values=values, params=params, distributions=distributions))
    alone = by_first(study)
    assert alone.direction.name == "MAXIMIZE"
    assert [trial.value for trial in alone.trials] == [1.0, 3.0]
    assert by_first(alone) is alone


# What is read.


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    folder = home.sweep("s")
    goal = ("loss", "accuracy"), ("minimize", "maximize"), {"size": "<= 50"}
    folder.write_card(
        SweepCard("s", "id", None, "sqlite:///n.db", "s", "loss", "minimize", 4, "swathe launch", 0.0, *goal)
    )
    study = launch(folder.path)
    study.ask(5)
    ends = [((0.5, 0.9), 1.0), ((0.4, 0.95), 60.0), ((0.6, 0.95), 50.0), ((0.7, 0.5), 2.0)]
    for number, (values, size) in enumerate(ends):
        metrics = json.dumps({"loss": values[0], "accuracy": values[1], "size": size})
        study.record(number, 1, values[0])
        violations = GOAL.violations({"size": size})
        study.tell(
            number, TrialState.COMPLETE, values[0], {"metrics": metrics}, objectives=values, constraints=violations
        )
    study.tell(4, TrialState.FAILED, None, {"reason": "no"})
    study.close()
    return home


def test_the_front_is_shown_and_exported(home: Home) -> None:
    overview, rows = analysis.leaders(home, "s", top=9)
    assert [one.trial for one in overview.front] == [0, 2]
    assert (overview.best, overview.feasible) == ((0, 0.5), 3)
    assert (overview.metrics, overview.directions) == (("loss", "accuracy"), ("minimize", "maximize"))
    assert Overview.from_dict(json.loads(json.dumps(overview.as_dict()))).front[1].values == [0.6, 0.95]
    assert [(row.trial, row.front, row.feasible) for row in rows] == [
        (0, True, True),
        (2, True, True),
        (1, False, False),
        (3, False, True),
    ]
    assert analysis.best_numbers(home, "s") == [0, 2]
    assert len(front_table(overview).rows) == 2
    frame = exporting.trials(home, "s")
    assert list(frame["objectives.accuracy"][:4]) == [0.9, 0.95, 0.95, 0.5]
    assert list(frame["on_front"]) == [True, False, True, False, False]
    assert list(frame["feasible"][:4]) == [True, False, True, True]


def test_a_card_without_a_front_of_its_own_is_read(home: Home) -> None:
    path = home.sweep("s").card_file
    values = json.loads(path.read_text())
    assert home.existing("s")[1].goal == GOAL
    for key in ("metrics", "directions", "constraints"):
        del values[key]
    path.write_text(json.dumps(values))
    assert home.existing("s")[1].goal == Goal((Objective("loss", DOWN),))


def test_reports_in_whose_place_another_is_made_say_nothing() -> None:
    said: list[tuple[int, Mapping[str, float]]] = []

    class Session:
        metric = "loss"

        def report(self, step: int, metrics: Mapping[str, float]) -> bool:
            said.append((step, metrics))
            return False

    swathe.function.install(Session())  # type: ignore[arg-type]
    try:
        with swathe.function.muted():
            assert not swathe.report(0.5)
        swathe.report({"a": 1.0, "b": 2.0}, 0)
        assert said == [(0, {"a": 1.0, "b": 2.0})]
    finally:
        swathe.function.install(None)
