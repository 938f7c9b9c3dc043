"""Points to try: each is checked, and taken by one trial, whatever draws the rest and whoever is killed."""

from __future__ import annotations

import contextlib
import json
import math
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from swathe.enqueued import ENQUEUED, Inbox, Point, checked, hand_over, member, points_of
from swathe.errors import BadInputError
from swathe.events import Direction, TrialState
from swathe.space import Condition, Parameter, Space
from swathe.study import JOURNAL, Study
from tests.integration import swathes

SPACE = Space(
    {
        "optim": Parameter("optim", CategoricalDistribution(["sgd", "momentum", "adam"])),
        "lr": Parameter("lr", FloatDistribution(1e-5, 1.0, log=True)),
        "momentum": Parameter("momentum", FloatDistribution(0.5, 0.99), (Condition("optim", ("momentum",)),)),
        "depth": Parameter("depth", IntDistribution(2, 8, step=2)),
    }
)
FINITE = Space(
    {
        "optim": Parameter("optim", CategoricalDistribution(["sgd", "adam"])),
        "width": Parameter("width", FloatDistribution(0.0, 0.3, step=0.1)),
    }
)
POINTS: tuple[dict[str, Any], ...] = ({"lr": 0.5, "depth": 6}, {"optim": "momentum", "momentum": 0.9}, {"lr": 0.25})
SAMPLERS: list[Any] = ["random", "tpe", "cmaes", "qmc", "gp"]


def launch(folder: Path, sampler: str, *, points: tuple[Any, ...] = POINTS, space: Space = SPACE, **more: Any) -> Study:
    return Study.open(
        "s",
        folder=folder,
        direction=Direction.MINIMIZE,
        sampler={"name": sampler},
        space=space,
        seed=1,
        points=points_of(points, space),
        **{"storage": None, **more},
    )


def take_part(study: Study, count: int) -> None:
    for proposal in study.ask(count).proposals:
        study.tell(proposal.trial, TrialState.COMPLETE, float(proposal.trial % 7), {})


@pytest.mark.parametrize(
    ("sampler", "database"), [*((name, False) for name in SAMPLERS), ("random", True), ("tpe", True)]
)
def test_the_first_trials_take_the_points_and_the_rest_is_drawn(tmp_path: Path, sampler: str, database: bool) -> None:
    storage = f"sqlite:///{tmp_path / 's.db'}" if database else None
    study = launch(tmp_path, sampler, storage=storage)
    take_part(study, 2)
    study.close()
    # The third one's turn comes in another session.
    study = launch(tmp_path, sampler, storage=storage)
    take_part(study, 3)
    history = study.history()
    for point, past in zip(POINTS, history, strict=False):
        assert point.items() <= past.params.items()
        assert {"optim", "lr", "depth"} <= past.params.keys()
    assert [past.attrs.get(ENQUEUED) for past in history] == [f"sweep.enqueue[{i}]" for i in range(3)] + [None, None]
    study.close()


@pytest.mark.parametrize("sampler", [*SAMPLERS[:-1], pytest.param("gp", marks=pytest.mark.slow)])
def test_what_is_drawn_is_a_function_of_the_seed_and_the_trials_before(tmp_path: Path, sampler: str) -> None:
    drawn = []
    for again in (False, True):
        folder = tmp_path / str(again)
        folder.mkdir()
        study = launch(folder, sampler)
        for _ in range(13):
            take_part(study, 1)
            if again:
                study.close()
                study = launch(folder, sampler)
        drawn.append([past.params for past in study.history()])
        study.close()
    assert drawn[0] == drawn[1]


@given(seed=st.integers(0, 10**6), sampler=st.sampled_from(["random", "tpe"]))
@settings(max_examples=25, deadline=None)
def test_each_point_is_tried_once_over_any_kills(seed: int, sampler: str) -> None:
    draw = random.Random(seed)
    points = tuple({"lr": 0.1 + index / 100} for index in range(draw.randint(1, 6)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        handed: list[str] = []
        for _ in range(6):
            study = launch(folder, sampler, points=points)
            inbox = Inbox(folder, SPACE)
            for _ in range(draw.randint(0, 3)):
                if draw.random() < 0.4:
                    handed.append(hand_over(folder, {"lr": 0.9}))
                for point in inbox.new(pytest.fail):
                    study.enqueue(point)
                take_part(study, draw.randint(0, 3))
                if draw.random() < 0.5:
                    study.commit()
                    inbox.remove(study.taken)
            # A kill: what was not committed is gone, but for a part of it that a torn write has left.
            journal = study._store.journal
            assert journal is not None
            lines = b"".join(journal._lines)
            with (folder / JOURNAL).open("ab") as file:
                file.write(lines[: draw.randrange(len(lines) + 1)])
            journal._lines.clear()
            journal.close()
        study = launch(folder, sampler, points=points)
        for point in Inbox(folder, SPACE).new(pytest.fail):
            study.enqueue(point)
        take_part(study, 20)
        history = study.history()
        study.close()
    tried = [past.attrs[ENQUEUED] for past in history if ENQUEUED in past.attrs]
    assert sorted(map(str, tried)) == sorted([*(f"sweep.enqueue[{index}]" for index in range(len(points))), *handed])
    for past in history:
        if str(past.attrs.get(ENQUEUED, "")).startswith("sweep"):
            index = int(str(past.attrs[ENQUEUED])[len("sweep.enqueue[") : -1])
            assert past.params["lr"] == points[index]["lr"]


def test_a_grid_tries_its_points_first_and_none_twice(tmp_path: Path) -> None:
    points = ({"optim": "adam", "width": 0.3}, {"width": 0.1}, {"optim": "adam", "width": 0.3})
    study = launch(tmp_path, "grid", points=points, space=FINITE)
    take_part(study, 4)
    study.close()
    study = launch(tmp_path, "grid", points=points, space=FINITE)
    proposed = study.ask(20)
    drawn = [tuple(past.params.items()) for past in study.history()]
    assert proposed.exhausted
    # The third is the first once more, as it was asked for.
    assert drawn[0] == drawn[2] == (("optim", "adam"), ("width", 0.3))
    assert drawn[1][1] == ("width", 0.1)
    assert len(drawn) == 9
    assert len(set(drawn)) == 8


def test_a_grid_of_which_all_was_tried_still_takes_a_point(tmp_path: Path) -> None:
    study = launch(tmp_path, "grid", points=(), space=FINITE)
    take_part(study, 8)
    study.enqueue(Point("again", {"width": 0.2}))
    proposed = study.ask(5)
    assert proposed.exhausted
    assert [proposal.params["width"] for proposal in proposed.proposals] == [0.2]


def test_optuna_sees_a_point_as_its_own_enqueued_trial(tmp_path: Path) -> None:
    study = launch(tmp_path, "tpe", storage=f"sqlite:///{tmp_path / 's.db'}")
    take_part(study, 1)
    study.close()
    (trial,) = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 's.db'}").trials
    assert trial.system_attrs["fixed_params"] == {"lr": 0.5, "depth": 6}
    assert trial.params["lr"] == 0.5


def test_a_group_does_not_share_what_a_point_says(tmp_path: Path) -> None:
    points = ({"optim": "sgd"},)
    drawn: list[Any] = []
    for count in range(12):
        folder = tmp_path / str(count)
        folder.mkdir()
        study = Study.open(
            "s",
            folder=folder,
            storage=None,
            direction=Direction.MINIMIZE,
            sampler={"name": "tpe"},
            space=SPACE,
            seed=count,
            group=4,
            structural=lambda name: name == "optim",
            points=points_of(points, SPACE),
        )
        drawn += [proposal.params["optim"] for proposal in study.ask(2).proposals]
        study.close()
    assert set(drawn[::2]) == {"sgd"}
    assert set(drawn[1::2]) == {"sgd", "momentum", "adam"}


# Checking.


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"lr": 5}, "P: lr: 5 is not allowed; allowed: a number from 1e-05 to 1."),
        ({"lr": "0.1"}, "P: lr: '0.1' is not allowed; allowed: a number from 1e-05 to 1."),
        ({"lr": True}, "P: lr: True is not allowed; allowed: a number from 1e-05 to 1."),
        ({"lr": float("nan")}, "P: lr: nan is not allowed; allowed: a number from 1e-05 to 1."),
        ({"depth": 3}, "P: depth: 3 is not allowed; allowed: an integer from 2 to 8 in steps of 2."),
        ({"optim": "rmsprop"}, "P: optim: 'rmsprop' is not allowed; allowed: sgd, momentum, adam."),
        ({"lr": 10**400}, f"P: lr: {10**400} is not allowed; allowed: a number from 1e-05 to 1."),
        ({"depth": -(10**400)}, f"P: depth: -{10**400} is not allowed; allowed: an integer from 2 to 8"),
        ({"lr": math.nan}, "P: lr: nan is not allowed; allowed: a number from 1e-05 to 1."),
        ({"width": 1}, "P: width: there is no such parameter in the space; allowed: optim, lr, momentum, depth."),
        ({"optim": "sgd", "momentum": 0.9}, "P: momentum exists only with optim=momentum"),
        ({"momentum": 0.9}, "P: momentum exists only with optim=momentum"),
        ({}, "P: {} is not allowed; allowed: a mapping of parameters"),
        ("lr=1", "P: 'lr=1' is not allowed; allowed: a mapping of parameters"),
    ],
)
def test_a_point_that_the_space_does_not_have_is_refused(point: Any, said: str) -> None:
    with pytest.raises(BadInputError) as refusal:
        checked(point, SPACE, "P")
    assert str(refusal.value).startswith(said)


@given(data=st.data())
def test_what_a_distribution_draws_is_its_member_and_stays_as_it_is(data: st.DataObject) -> None:
    distribution: BaseDistribution = data.draw(
        st.sampled_from(
            [
                FloatDistribution(0.0, 0.3, step=0.1),
                FloatDistribution(1e-5, 1.0, log=True),
                IntDistribution(1, 64, log=True),
                IntDistribution(2, 8, step=2),
                CategoricalDistribution([1.0, 2.0, "a", None, "[1, 2]"]),
            ]
        )
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=data.draw(st.integers(0, 999))))
    value = study.ask({"x": distribution}).params["x"]
    assert member(distribution, value) == value
    assert type(member(distribution, value)) is type(value)
    assert member(CategoricalDistribution(["[1, 2]"]), [1, 2]) == "[1, 2]"


def test_a_file_that_is_no_point_is_said_once_and_left(tmp_path: Path) -> None:
    hand_over(tmp_path, {"lr": 0.5})
    (tmp_path / "enqueued" / "0.json").write_text("{")
    (tmp_path / "enqueued" / "1.json").write_text(json.dumps({"lr": 7}))
    said: list[str] = []
    inbox = Inbox(tmp_path, SPACE)
    (point,) = inbox.new(said.append)
    assert point.values == {"lr": 0.5}
    assert [words.split()[0] for words in said] == ["0.json", "1.json"]
    assert inbox.new(said.append) == []
    inbox.remove([point.id])
    assert sorted(path.name for path in (tmp_path / "enqueued").iterdir()) == ["0.json", "1.json"]


@pytest.mark.slow
def test_a_running_sweep_tries_a_point_once_also_when_its_driver_is_killed(tmp_path: Path) -> None:
    swathes.write_function_sweep(tmp_path, "slow", trials=8)
    launch_words = ("launch", "f.yaml", "cluster=inline", "sweep.ask_ahead=0", "--quiet")
    process = swathes.start(tmp_path, *launch_words)
    home = tmp_path / ".swathe" / "sweeps" / "f"
    wait_for(lambda: (home / "sweep.log").exists() and "complete" in (home / "sweep.log").read_text())
    said = swathes.succeed(tmp_path, "enqueue", "f", "params.x=0.123")
    assert "tries params.x=0.123 next" in said
    # Its file goes once its trial lasts.
    wait_for(lambda: not any((home / "enqueued").iterdir()))
    process.kill()
    process.wait()
    assert "when it goes on: swathe resume f" in swathes.succeed(tmp_path, "enqueue", "f", "params.x=0.321")
    refused = swathes.run(tmp_path, "enqueue", "f", "params.x=2")
    assert (refused.returncode, refused.stderr) == (
        2,
        "swathe: POINT: params.x: 2 is not allowed; allowed: a number from 0 to 1.\n",
    )
    swathes.succeed(tmp_path, *launch_words)
    with contextlib.closing(Study.load("f", folder=home, storage=None)) as study:
        history = study.history()
    assert [past.state for past in history] == [TrialState.COMPLETE] * 8
    assert [past.params["params.x"] for past in history if ENQUEUED in past.attrs] == [0.123, 0.321]
    assert not any((home / "enqueued").iterdir())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
