"""Several trials a point: what it is worth, how it ends, what a sampler sees, what is drawn, shown and refused."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from swathe import analysis, exporting, held_models, pruners, runtime, samplers, tables
from swathe.config import compose_sweep
from swathe.controller import Budget, Controller
from swathe.errors import BadInputError, SwatheError
from swathe.events import (
    Assign,
    Command,
    Decide,
    Direction,
    Done,
    Finished,
    Hold,
    Keep,
    Proposal,
    Proposed,
    Report,
    Reported,
    Settle,
    Tell,
    TrialState,
    WorkerReady,
    WorkersStart,
)
from swathe.home import Home, SweepCard, SweepFolder, open_home
from swathe.overview import Best, Overview, Row
from swathe.points import by_points, points, points_of, seen_points
from swathe.repetition import KINDS, NOT_NEEDED, OpenPoints, Repetition, past_points, spread
from swathe.service.app import create_app
from swathe.service.tokens import create_token
from swathe.space import Space as ParsedSpace
from swathe.study import PastTrial, Study
from swathe.versus import stand
from tests.service.client import TestClient
from tests.service.conftest import PLENTY
from tests.test_analysis import record
from tests.test_study import CONDITIONAL, FINITE, FLAT, Parameter, Space

DOWN, UP = Direction.MINIMIZE, Direction.MAXIMIZE
COMPLETE, PRUNED, FAILED, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.RUNNING
THREE = Repetition(3)
finite = st.floats(allow_nan=False, allow_infinity=False)
directions = st.sampled_from([DOWN, UP])
repetitions = st.builds(Repetition, st.integers(1, 4), st.sampled_from(KINDS))


# What a point is worth.


@given(values=st.lists(finite, min_size=1, max_size=6), of=st.sampled_from(KINDS), direction=directions)
def test_a_value_lies_between_the_worst_and_the_best(values: list[float], of: str, direction: Direction) -> None:
    repetition = Repetition(len(values), of)
    found = repetition.value(values, direction)
    assert min(values) <= found <= max(values)
    assert found == repetition.value(values[::-1], direction), "whatever the order"
    best = repetition.best(dict(enumerate(values)), direction)
    # So that the model of the best repeat is there, wherever the point is better than the best one before.
    assert values[best] <= found if direction is DOWN else values[best] >= found


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6))
def test_values_are_those_of_the_standard_library(values: list[float]) -> None:
    assert Repetition(len(values)).value(values, DOWN) == pytest.approx(fmean(values))
    assert Repetition(len(values), "median").value(values, DOWN) == pytest.approx(median(values))
    assert Repetition(len(values), "worst").value(values, DOWN) == max(values)
    assert Repetition(len(values), "worst").value(values, UP) == min(values)
    assert spread(values) == pytest.approx(stdev(values), abs=1e-9)


def test_what_is_not_finite_makes_no_number() -> None:
    for of in KINDS:
        assert math.isnan(Repetition(2, of).value([1.0, math.nan], DOWN))
        assert Repetition(2, of).value([1.0, math.inf], DOWN) == math.inf
        assert math.isnan(Repetition(2, of).value([-math.inf, math.inf], DOWN))


# How a point ends.

ends = st.tuples(st.sampled_from([COMPLETE, COMPLETE, COMPLETE, PRUNED, FAILED]), st.integers(0, 3).map(float))


@given(repetition=repetitions, direction=directions, told=st.lists(ends, max_size=20), order=st.randoms())
def test_each_point_ends_once_and_as_its_trials_say(
    repetition: Repetition, direction: Direction, told: list[tuple[TrialState, float]], order: random.Random
) -> None:
    found: dict[int, Any] = {}
    open_points = OpenPoints(repetition, direction)
    numbers = list(range(len(told)))
    order.shuffle(numbers)
    for number in numbers:
        state, value = told[number]
        end = open_points.end(number, state, value, feasible=True)
        if end is not None:
            assert found.setdefault(repetition.head(number), end) is end, "told twice"
            assert (end.state is COMPLETE) == (end.value is not None)
    history = [
        PastTrial(number, {}, state, value if state is COMPLETE else None, {}, {}, float(numbers.index(number)))
        for number, (state, value) in enumerate(told)
    ]
    whole = points(history, repetition, direction)
    assert {point.repeats[0].number for point in whole if point.as_trial.state.final} == found.keys()
    for point in whole:
        trials = [past for past in point.repeats if past.state is COMPLETE]
        if len(trials) == repetition.count:
            end = found[point.repeats[0].number]
            assert (end.number, end.value) == (point.as_trial.number, point.as_trial.value)
            assert point.as_trial.value == repetition.value([past.value or 0.0 for past in trials], direction)
    ended = past_points(history, repetition, direction)
    assert [(one.number, one.state, one.value) for one in ended] == [
        (end.number, end.state, end.value) for end in found.values()
    ]
    assert open_points.complete == sum(end.state is COMPLETE for end in found.values())


def test_a_single_trial_is_its_own_point() -> None:
    history = [PastTrial(0, {}, COMPLETE, 1.0, {1: 1.0}, {})]
    assert points_of(history, Repetition(), DOWN) is history


def test_a_point_that_is_out_is_as_the_trial_that_put_it_out() -> None:
    unneeded = {"reason": f"{NOT_NEEDED}: trial 1 of the same point was stopped"}
    history = [
        PastTrial(0, {"x": 1}, PRUNED, 0.4, {1: 0.5, 2: 0.4}, unneeded, 9.0),
        PastTrial(1, {"x": 1}, PRUNED, 0.9, {1: 0.7}, {"reason": "pruned at step 1"}, 8.0),
        PastTrial(2, {"x": 1}, COMPLETE, 0.1, {1: 0.3, 2: 0.2, 3: 0.1}, {}, 7.0),
    ]
    (point,) = points_of(history, THREE, DOWN)
    assert (point.number, point.state, point.value, point.ended) == (1, PRUNED, None, 8.0)
    assert point.attrs["reason"] == "pruned at step 1"
    # The steps that all of them have.
    assert point.values == {1: pytest.approx(0.5)}


# The controller.


def make(count: int = 3, *, trials: int = 6, of: str = "mean", **options: Any) -> Controller:
    budget = Budget(trials, **options.pop("budget", {}))
    pruner = pruners.build(options.pop("pruner", {"name": "none"}), DOWN, "s")
    return Controller(
        metric="loss", direction=DOWN, pruner=pruner, budget=budget, repetition=Repetition(count, of), **options
    )


def of_kind(commands: list[Command], kind: type) -> list[Any]:
    return [command for command in commands if isinstance(command, kind)]


def begin(controller: Controller, trials: int, *workers: str) -> list[Command]:
    commands = controller.handle(WorkersStart(len(workers)))
    for worker in workers:
        commands += controller.handle(WorkerReady(worker))
    return commands + controller.handle(Proposed(tuple(Proposal(number, {"x": 0.5}) for number in range(trials))))


def finish(controller: Controller, worker: str, trial: int, loss: float, model: bytes | None = None) -> list[Command]:
    commands = controller.handle(Reported(worker, (Report(trial, 1, {"loss": loss}, 1.0),)))
    return commands + controller.handle(Finished(worker, trial, model=model))


def test_the_best_point_is_that_of_the_best_mean() -> None:
    controller = make(2, trials=4)
    begin(controller, 4, "a", "b")
    for trial, (worker, loss) in enumerate([("a", 0.1), ("b", 0.9), ("a", 0.4), ("b", 0.3)]):
        assert controller.best == (None if trial < 2 else (0, 0.5) if trial < 3 else controller.best)
        finish(controller, worker, trial, loss)
    assert controller.best is not None
    assert controller.best[0] == 3
    assert controller.best[1] == pytest.approx(0.35)


def test_the_model_is_that_of_the_best_repeat_of_the_best_point() -> None:
    controller = make(2, trials=4)
    begin(controller, 4, "a", "b")
    said = finish(controller, "a", 0, 0.5, b"0") + finish(controller, "b", 1, 0.7, b"1")
    assert of_kind(said, Hold) == [Hold(0, b"0")]
    assert of_kind(said, Settle) == [Settle(0, best=True)]
    # One better value makes no better point.
    said = finish(controller, "a", 2, 0.1, b"2") + finish(controller, "b", 3, 2.0)
    assert of_kind(said, Hold) == [Hold(2, b"2")]
    assert of_kind(said, Settle) == [Settle(2, best=False)]
    assert not of_kind(said, Keep)
    assert controller.best == (0, 0.6)


def test_the_rest_of_a_point_that_is_out_runs_no_more() -> None:
    controller = make(3, trials=6)
    begin(controller, 6, "a", "b")
    # 0 and 1 run, 2 waits.
    commands = controller.handle(Reported("a", (Report(0, 1, {"loss": math.nan}, 1.0),)))
    tells = of_kind(commands, Tell)
    assert [(tell.trial, tell.state) for tell in tells] == [(0, PRUNED), (1, PRUNED), (2, PRUNED)]
    assert [tell.reason for tell in tells[1:]] == ["dropped: trial 0 of the same point was stopped"] * 2
    assert [(one.trial, one.stop) for decide in of_kind(commands, Decide) for one in decide.decisions] == [
        (0, True),
        (1, True),
    ]
    given = controller.handle(Finished("a", 0)) + controller.handle(Finished("b", 1))
    assert [one.trial for assign in of_kind(given, Assign) for one in assign.assignments] == [3, 4]


def test_the_pruner_looks_at_the_first_repeat_of_a_point() -> None:
    threshold = {"name": "threshold", "lower": None, "upper": 1.0, "n_warmup_steps": 0, "interval_steps": 1}
    controller = make(2, trials=4, pruner=threshold)
    given = begin(controller, 4, "a", "b")
    assert [one.decide_from for assign in of_kind(given, Assign) for one in assign.assignments] == [0, None]
    assert not of_kind(controller.handle(Reported("b", (Report(1, 1, {"loss": 2.0}, 1.0),))), Tell)
    tells = of_kind(controller.handle(Reported("a", (Report(0, 1, {"loss": 2.0}, 1.0),))), Tell)
    assert [(tell.trial, tell.state, tell.reason) for tell in tells] == [
        (0, PRUNED, "pruned at step 1"),
        (1, PRUNED, "dropped: trial 0 of the same point was stopped"),
    ]


def test_repeats_that_are_drawn_when_their_point_is_out_already_are_told_at_once() -> None:
    controller = make(3, trials=3, ask_ahead=0)
    begin(controller, 1, "a")
    controller.handle(Reported("a", (Report(0, 1, {"loss": math.inf}, 1.0),)))
    commands = controller.handle(Proposed((Proposal(1, {"x": 0.5}), Proposal(2, {"x": 0.5}))))
    assert [(tell.trial, tell.state) for tell in of_kind(commands, Tell)] == [(1, PRUNED), (2, PRUNED)]
    (done,) = of_kind(controller.handle(Finished("a", 0)), Done)
    assert done.failed
    assert done.reason == "all 3 trials are done, and no point completed"


def test_after_a_break_what_is_left_of_a_point_that_is_out_is_told() -> None:
    history = [
        PastTrial(0, {}, COMPLETE, 0.5, {1: 0.5}, {}),
        PastTrial(1, {}, FAILED, None, {}, {"reason": "ValueError: no"}),
        PastTrial(2, {}, RUNNING, None, {1: 0.4}, {}),
    ]
    controller = make(3, trials=3, history=history)
    commands = controller.handle(WorkersStart(1))
    (tell,) = of_kind(commands, Tell)
    assert (tell.trial, tell.state) == (2, PRUNED)
    assert tell.reason == "dropped: trial 1 of the same point failed"
    assert controller.best is None
    assert of_kind(commands, Done)


def test_the_target_is_for_a_point() -> None:
    controller = make(2, trials=4, budget={"target": 0.3})
    begin(controller, 4, "a", "b")
    assert not of_kind(finish(controller, "a", 0, 0.1), Decide)
    commands = finish(controller, "b", 1, 0.4)
    assert controller.best == (0, 0.25)
    assert controller.ending
    assert of_kind(commands, Settle) == [Settle(0, best=True)]


def test_patience_counts_points() -> None:
    controller = make(2, trials=20, budget={"patience": 2})
    begin(controller, 20, "a", "b")
    for trial, loss in enumerate([0.1, 0.1, 0.2, 0.2, 0.3, 0.3]):
        assert not controller.ending
        finish(controller, "ab"[trial % 2], trial, loss)
    assert controller.ending


# What is drawn.

SAMPLERS: list[Mapping[str, Any]] = [
    {"name": "random"},
    {"name": "tpe", "n_startup_trials": 2},
    {"name": "cmaes"},
    {"name": "gp", "n_startup_trials": 2},
    {"name": "qmc"},
]


def launch(
    folder: Path,
    sampler: Mapping[str, Any],
    *,
    storage: str | None = None,
    space: Any = FLAT,
    repetition: Repetition = THREE,
    group: int = 1,
) -> Study:
    return Study.open(
        "s",
        folder=folder,
        storage=storage,
        direction=DOWN,
        sampler=sampler,
        space=space,
        seed=1,
        repetition=repetition,
        group=group,
        structural=lambda name: name == "optim",
    )


def play(study: Study, count: int) -> list[Proposal]:
    """Run trials one after the other, whose values differ within a point."""
    done = []
    for _ in range(count):
        (proposal,) = study.ask(1).proposals
        value = float(str(proposal.params.get("lr", proposal.params.get("depth")))) + proposal.trial % 3
        study.record(proposal.trial, 1, value)
        study.tell(proposal.trial, COMPLETE, value, {})
        done.append(proposal)
    return done


@pytest.mark.parametrize(
    ("sampler", "database"),
    [*((sampler, False) for sampler in SAMPLERS), (SAMPLERS[1], True)],
    ids=[*(str(sampler["name"]) for sampler in SAMPLERS), "tpe in SQLite"],
)
def test_the_repeats_of_a_point_have_its_parameters_also_over_a_resume(
    tmp_path: Path, sampler: Mapping[str, Any], database: bool
) -> None:
    def opened(name: str) -> Study:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return launch(folder, sampler, storage=f"sqlite:///{folder}/study.db" if database else None)

    study = opened("whole")
    whole = play(study, 11)
    study.close()
    for proposal in whole:
        assert proposal.params == whole[proposal.trial - proposal.trial % 3].params
    assert len({json.dumps(dict(one.params)) for one in whole}) == 4
    parts = []
    for count in (4, 1, 6):
        # Twice in the midst of a point.
        study = opened("parts")
        parts += play(study, count)
        study.close()
    assert parts == whole


@pytest.mark.parametrize("size", [1, 6])
def test_a_grid_has_each_point_as_often_as_it_is_repeated(tmp_path: Path, size: int) -> None:
    first = launch(tmp_path, {"name": "grid"}, space=FINITE, group=size)
    drawn = play(first, 10)
    first.close()
    study = launch(tmp_path, {"name": "grid"}, space=FINITE, group=size)
    rest = study.ask(1000)
    assert rest.exhausted
    texts = [json.dumps(dict(one.params)) for one in (*drawn, *rest.proposals)]
    assert len(texts) == 3 * len(set(texts)) == 3 * 21
    assert [len(list(same)) for _, same in itertools.groupby(texts)] == [3] * 21
    study.close()


def test_a_group_shares_its_structure_over_points(tmp_path: Path) -> None:
    study = launch(tmp_path, {"name": "random"}, space=CONDITIONAL, group=6)
    drawn = study.ask(60).proposals
    study.close()
    for start in range(0, 60, 6):
        group = [drawn[start + place].params for place in (0, 3)]
        assert group[0]["optim"] == group[1]["optim"]
        assert group[0] != group[1]
    assert len({str(one.params["optim"]) for one in drawn}) > 1


def test_a_trial_from_outside_in_the_place_of_a_repeat_puts_its_point_out(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    study = launch(tmp_path, {"name": "random"}, storage=storage)
    play(study, 4)
    optuna.load_study(study_name="s", storage=storage).enqueue_trial({"lr": 0.5, "depth": 1})
    with pytest.raises(SwatheError, match=r"^Trial 4 of the study was added from outside"):
        study.ask(1)
    study.close()
    again = launch(tmp_path, {"name": "random"}, storage=storage)
    history = again.history()
    assert [past.state for past in history[3:]] == [COMPLETE, FAILED, RUNNING]
    assert "in the place of a repeat" in str(history[4].attrs["reason"])
    assert again.ask(1).proposals[0].trial == 6
    again.close()


# What a sampler sees.


def optuna_study(values: Sequence[tuple[float, float]], count: int, spread_by: float) -> optuna.Study:
    """Return a study with a trial for each of these (x, value), or with `count` whose mean it is."""
    study = optuna.create_study()
    space = {"x": FloatDistribution(0, 1), "c": CategoricalDistribution(["a", "b"])}
    for index, (x, value) in enumerate(values):
        offsets = [spread_by * (place - (count - 1) / 2) for place in range(count)]
        for offset in offsets:
            study.add_trial(
                optuna.trial.create_trial(
                    params={"x": x, "c": "ab"[index % 2]},
                    distributions=space,
                    value=value + offset,
                    intermediate_values={1: value + offset},
                )
            )
    return study


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes"])
def test_a_sampler_draws_as_if_each_point_was_one_trial(name: str) -> None:
    draw = random.Random(3)
    # Multiples of 1/8, so that means are exact.
    values = [(draw.random(), draw.randrange(64) / 8) for _ in range(12)]
    space = Space({"x": Parameter(FloatDistribution(0, 1)), "c": Parameter(CategoricalDistribution(["a", "b"]))})
    drawn = []
    for count, number in ((1, 12), (3, 12)):
        study = optuna_study(values, count, 0.25)
        options = {"name": name, **({} if name == "cmaes" else {"n_startup_trials": 4})}
        known = samplers.Known(repetition=Repetition(count))
        guided = samplers.build(options, space, 7, known=known)
        assert isinstance(guided, samplers.Guided)
        study.sampler = guided.sampler(number, {})
        trial = study.ask()
        drawn.append((trial.suggest_float("x", 0, 1), trial.suggest_categorical("c", ["a", "b"])))
    if name == "cmaes":
        # Optuna's draws with the trial's number as part of its seed.
        assert all(0 <= x <= 1 for x, _ in drawn)
    else:
        assert drawn[0] == drawn[1]


def test_a_point_is_seen_as_its_trials_are_together() -> None:
    study = optuna.create_study()
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1)}
    states = [
        (optuna.trial.TrialState.COMPLETE, 1.0, {1: 2.0, 2: 1.0}),
        (optuna.trial.TrialState.COMPLETE, 3.0, {1: 4.0, 2: 3.0, 3: 3.0}),
        (optuna.trial.TrialState.PRUNED, 5.0, {1: 5.0}),
        (optuna.trial.TrialState.COMPLETE, 1.0, {1: 1.0}),
        (optuna.trial.TrialState.FAIL, None, {}),
        (optuna.trial.TrialState.COMPLETE, 1.0, {1: 1.0}),
    ]
    for state, value, reports in states:
        study.add_trial(
            optuna.trial.create_trial(
                state=state, value=value, params={"x": 0.5}, distributions=space, intermediate_values=reports
            )
        )
    study.ask(space)
    seen = seen_points(Repetition(2), DOWN)(study.get_trials())
    assert [(one.number, one.state.name, one.value) for one in seen] == [
        (0, "COMPLETE", 2.0),
        (2, "PRUNED", None),
        (4, "FAIL", None),
        (6, "RUNNING", None),
    ]
    assert seen[0].intermediate_values == {1: 3.0, 2: 2.0}
    assert seen[1].intermediate_values == {1: 3.0}
    whole = by_points(study, Repetition(2))
    assert [(one.state.name, one.value) for one in whole.trials] == [
        ("COMPLETE", 2.0),
        ("PRUNED", None),
        ("FAIL", None),
    ]
    assert by_points(study, Repetition()) is study


# What is shown.


VALUES = [0.5, 0.25, 0.75, 0.375, 0.5, 0.25, 0.125, 0.25]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A sweep of two points with three trials each that are complete, and one of which two are."""
    home = Home(tmp_path / ".swathe")
    folder = home.sweep("s")
    card = SweepCard(
        "s", "id", None, home.tracking_uri, "s", "val_loss", "minimize", 9, "swathe launch s", 0.0, repeats=3
    )
    folder.write_card(card)
    assert folder.card() == card
    study = launch(folder.path, {"name": "random"})
    study.ask(9)
    for number, value in enumerate(VALUES):
        study.record(number, 1, value)
        metrics = {"val_loss": value, "val_accuracy": 1 - value}
        study.tell(number, COMPLETE, value, {"metrics": json.dumps(metrics)})
    study.commit()
    study.close()
    return home


def test_status_and_the_end_of_a_launch_show_points(home: Home) -> None:
    overview, rows = analysis.leaders(home, "s", top=5)
    assert overview.best == (5, 0.375)
    assert overview.repeats is not None
    assert overview.repeats.values == {3: 0.375, 4: 0.5, 5: 0.25}
    assert overview.repeats.std == 0.125
    assert overview.repeats.words == "mean of trials 3, 4, 5, standard deviation 0.12"
    assert [(row.trial, row.state, row.metrics["val_loss"]) for row in rows[:2]] == [
        (5, "complete", 0.375),
        (1, "complete", 0.5),
    ]
    # Better so far, and not over.
    assert (rows[2].trial, rows[2].state) == (6, "running")
    assert rows[0].metrics["val_accuracy"] == 0.625
    assert Overview.from_dict(json.loads(json.dumps(overview.as_dict()))).repeats == overview.repeats
    text = "".join(str(line) for line in tables.overview(overview).renderables)
    assert "best: trial 5, val_loss 0.375 (mean of trials 3, 4, 5, standard deviation 0.12)" in text


def test_compare_shows_points_with_their_deviation(home: Home) -> None:
    record(home, [{"val_loss": value, "val_accuracy": 1 - value} for value in VALUES])
    rows = analysis.compare(home, "s", top=10)
    assert [(row.trial, row.metrics["val_loss"]) for row in rows[:2]] == [(5, 0.375), (1, 0.5)]
    assert [None if row.repeats is None else row.repeats.std for row in rows] == [0.125, 0.25, None]
    assert Row.from_dict(json.loads(json.dumps(rows[0].as_dict()))) == rows[0]
    by_accuracy = analysis.compare(home, "s", top=1, sort="val_accuracy")
    assert by_accuracy[0].metrics["val_accuracy"] == pytest.approx(1 - (0.125 + 0.25) / 2)


def test_the_best_is_a_point_and_all_of_it_is_reproduced(home: Home) -> None:
    card = home.existing("s")[1]
    study = analysis.open_study(home, "s")
    history = study.history()
    study.close()
    winner = analysis.winner(card, history)
    assert winner is not None
    assert (winner.number, winner.value) == (5, 0.375)
    assert analysis.best_numbers(home, "s") == [3, 4, 5]
    best = Best("s", 5, "val_loss", 0.375, "run", {}, {}, repeats=analysis.repeats_of(card, history)[5])
    assert "val_loss 0.375 (mean of trials 3, 4, 5, standard deviation 0.12)" in best.as_yaml()
    with pytest.raises(BadInputError, match="no complete point of 3 trials yet"):
        analysis.best_of(card, history[:2], lambda number: pytest.fail("nothing is best"))


def test_a_table_says_which_trials_are_one_point(home: Home) -> None:
    frame = exporting.trials(home, "s")
    assert list(frame.columns[7:10]) == ["point", "point_value", "point_std"]
    assert frame["point"].tolist() == [0, 0, 0, 3, 3, 3, 6, 6, 6]
    assert frame["point_value"].tolist()[:6] == [0.5] * 3 + [0.375] * 3
    assert frame["point_value"].isna().tolist() == [False] * 6 + [True] * 3
    assert frame["value"].tolist()[:2] == [0.5, 0.25]


def test_sweeps_side_by_side_have_the_best_point_after_equal_work(home: Home) -> None:
    def trial(number: int, value: float, ended: float) -> PastTrial:
        return PastTrial(number, {}, COMPLETE, value, {1: value}, {}, ended)

    card = home.existing("s")[1]
    history = [trial(0, 0.5, 1.0), trial(1, 0.25, 5.0), trial(2, 0.75, 2.0), trial(3, 0.125, 3.0)]
    found = stand([card], [history], [{}])
    assert found.epochs == [1, 2, 4]
    assert found.sweeps[0].after == [None, None, 0.5]
    assert found.sweeps[0].best == (1, 0.5)


# Models.


@pytest.mark.parametrize("dies", [False, True])
def test_a_held_model_is_the_best_one_s_or_gone(tmp_path: Path, dies: bool) -> None:
    folder = SweepFolder(tmp_path / "s")
    held_models.hold(folder, THREE, 4, b"four")
    held_models.hold(folder, THREE, 3, b"three")
    held_models.hold(folder, THREE, 6, b"six")
    assert held_models.held(folder) == [3, 6]
    if dies:
        # Between the copy and its facts: what is held is still there.
        folder.best_model.write_bytes(b"three")
    held_models.settle(folder, THREE, 3, best=True)
    held_models.settle(folder, THREE, 6, best=False)
    assert held_models.held(folder) == []
    assert folder.best_model.read_bytes() == b"three"
    assert json.loads(folder.best_model.with_suffix(".json").read_text()) == {"trial": 3}


# What a sweep's config says.


def prepared(*words: str) -> runtime.Plan:
    composed = compose_sweep("quickstart", words)
    return runtime.prepare(composed, ParsedSpace.parse(composed), open_home(), "swathe launch quickstart")


def test_one_trial_a_point_is_the_sweep_that_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    same = compose_sweep("quickstart", ["sweep.repeats=1", "sweep.repeats_of=worst"])
    assert same.identity == compose_sweep("quickstart", []).identity
    three = compose_sweep("quickstart", ["sweep.repeats=3", "sweep.trials=30"])
    worst = compose_sweep("quickstart", ["sweep.repeats=3", "sweep.trials=30", "sweep.repeats_of=worst"])
    assert len({same.identity, three.identity, worst.identity}) == 3


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["sweep.repeats=3", "sweep.trials=99"], 3),
        (["sweep.repeats=3", "sweep.trials=999"], 15),
        (["sweep.repeats=2", "sweep.trials=10", "sweep.group_ask=5"], 4),
        (["sweep.repeats=5", "sweep.trials=10", "sweep.group_ask=2"], 5),
    ],
)
def test_a_group_has_whole_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], size: int) -> None:
    monkeypatch.chdir(tmp_path)
    assert runtime.group_size(compose_sweep("quickstart", words)) == size


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["sweep.trials=100"],
            "sweep.trials: 100 is not allowed; allowed: a multiple of sweep.repeats=3, such as 99",
        ),
        (["sweep.trials=2"], "sweep.trials: 2 is not allowed; allowed: a multiple of sweep.repeats=3, such as 3, as"),
        (["sweep.repeats=0"], "sweep.repeats: 0 is not allowed; allowed: 1 or more trials a point"),
        (["sweep.repeats_of=best"], "sweep.repeats_of: 'best' is not allowed; allowed: mean, median, worst"),
        (["sampler=nsga2"], "sampler: 'nsga2' is not allowed; allowed: tpe, random, qmc, cmaes, gp, grid with"),
        (["sampler=bohb", "pruner=hyperband"], "sampler: 'bohb' is not allowed"),
        (
            ["sweep.warm_start=[other]"],
            "sweep.warm_start: ['other'] is not allowed; allowed: none with sweep.repeats=3",
        ),
        (
            ["sweep.metric=[val_loss,size]", "sweep.direction=[minimize,minimize]", "pruner=none"],
            "sweep.repeats: 3 is not allowed; allowed: 1 with several objectives",
        ),
        (["seed=range(0,9)"], "sweep.space: 'seed' is not allowed"),
    ],
)
def test_what_does_not_go_with_repeats_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWATHE_HOME", raising=False)
    with pytest.raises(BadInputError) as refusal:
        prepared("sweep.repeats=3", "sweep.trials=30", *words)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_service_says_what_the_best_point_is_of(home: Home) -> None:
    record(home, [{"val_loss": value} for value in VALUES])
    headers = {"Authorization": f"Bearer {create_token(home, 'reader', 'viewer')}"}
    of_best = {"of": "mean", "trials": [3, 4, 5], "values": [0.375, 0.5, 0.25], "std": 0.125}
    with TestClient(create_app(home, requests=PLENTY)) as client:
        sweep = client.get("/api/v1/sweeps/s", headers=headers).json()
        assert (sweep["best"], sweep["repeats"]) == ({"trial": 5, "value": 0.375}, of_best)
        rows = client.get("/api/v1/sweeps/s/compare", headers=headers).json()["trials"]
        assert (rows[0]["trial"], rows[0]["metrics"]["val_loss"], rows[0]["repeats"]) == (5, 0.375, of_best)
        assert client.get("/api/v1/sweeps/s/trials/3", headers=headers).json()["value"] == 0.375
