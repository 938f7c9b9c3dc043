"""Training a recorded trial again: to its last recorded step, and compared under the names that MLflow has."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

import swathe
from swathe.diagnosis import Rule
from swathe.errors import BadInputError
from swathe.events import Direction, Report, Reported
from swathe.home import Home
from swathe.lane_worker import LaneEngine
from swathe.mlflow_runs import RunChange, open_runs
from swathe.records import Records
from swathe.reproduce import (
    RELATIVE_TOLERANCE,
    Row,
    as_recorded,
    available,
    compare,
    is_close,
    reproduce,
    with_rounding,
)
from swathe.single import nudged_history
from swathe.training.recipe import Recipe
from swathe.worker import Emitted, InlineChannel, Job, Note, WorkerSetup


def train(params: Any) -> None:
    """Report five steps under names that MLflow cannot take."""
    for step in range(1, 6):
        if swathe.report({"val_loss": params.x / step, "loss @ 5 (%)": params.x * step}, step=step):
            return


def recorded(home: Home, steps: Sequence[int], *, x: float = 0.3, state: str = "complete") -> str:
    config = {"trainable": "tests.test_reproduce:train", "params": {"x": 0.3}, "seed": 0}
    reports = [
        Report(0, step, {"val_loss": x / step, "loss @ 5 (%)": x * step, "seconds": 7.0}, 0.5, 100.0 + step)
        for step in steps
    ]
    tags = {"swathe.config": json.dumps(config), "swathe.geometry": "{}", "swathe.state": state}
    records = Records(home.tracking_uri)
    return records.log_run("train", "n", reports, tags, artifacts=home.artifacts, params={})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("state", ["complete", "pruned at step 3"])
def test_a_trial_is_trained_to_its_last_recorded_step(home: Home, state: str) -> None:
    # A trial that reached the sweep's target is complete, though it was stopped before its end.
    records = Records(home.tracking_uri)
    result = reproduce(records, records.run(recorded(home, [1, 2, 3], state=state)), home)
    assert [(row.step, row.metric) for row in result.rows] == [
        (step, metric) for step in (1, 2, 3) for metric in ("loss _ 5 ___", "val_loss")
    ]
    assert result.identical
    assert records.run(result.new_run_id).tags["swathe.reproduced"] == "identical"


def test_a_number_that_differs_is_found(home: Home) -> None:
    records = Records(home.tracking_uri)
    result = reproduce(records, records.run(recorded(home, [1, 2], x=0.3 + 1e-16)), home)
    assert not result.identical
    assert 0.0 < result.distance < 1e-15


def test_a_run_without_reports_or_of_others_is_refused(home: Home) -> None:
    records = Records(home.tracking_uri)
    with pytest.raises(BadInputError, match="reported nothing"):
        reproduce(records, records.run(recorded(home, [])), home)
    foreign = RunChange("theirs", 0)
    open_runs(home.tracking_uri, "train", home.artifacts).write([foreign])
    with pytest.raises(BadInputError, match=r"no tag swathe\.config"):
        reproduce(records, records.run(foreign.run_id), home)


def test_names_that_become_one_keep_the_first_number() -> None:
    history = {("a@b", 1): 1.0, ("a_b", 1): 2.0, ("c", 1): 3.0}
    assert as_recorded(history) == {("a_b", 1): 1.0, ("c", 1): 3.0}


def test_timings_are_left_out_and_missing_numbers_are_not() -> None:
    rows = compare({("loss", 1): math.nan, ("seconds", 1): 1.0}, {("loss", 1): math.nan, ("loss", 2): 1.0})
    assert [(row.step, row.identical, row.distance) for row in rows] == [(1, True, 0.0), (2, False, math.inf)]


def test_a_gpu_that_is_not_here_becomes_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (available("cpu"), available("cuda")) == ("cpu", "cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (available("cpu"), available("cuda")) == ("cpu", "cuda")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a table that a network of one lane learns in an instant."""
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    rows = [f"{i % 7},{(3 * i) % 11},{int(i % 7 > 3)}" for i in range(120)]
    path.write_text("\n".join(["a,b,target", *rows]) + "\n")
    return str(path)


def recorded_lane(
    home: Home, table: str, *, lr: float = 0.01, diagnosis: Rule | None = None, **changes: str
) -> tuple[Records, Any]:
    """Train a trial beside others in a block of three lanes, record it, and return its run."""
    config: dict[str, Any] = {
        "model": {"name": "mlp", "hidden": [6]},
        "data": {"name": "csv", "path": table, "target": "target"},
        "optim": {"name": "adam", "lr": lr},
        "batch_size": 16,
        "epochs": 4,
        "seed": 5,
    }
    setup = WorkerSetup(None, "val_loss", Direction.MINIMIZE, str(home.path), (), "cpu", 1, diagnosis=diagnosis)
    reports: list[Report] = []
    tags: dict[str, str] = {}

    def take(events: Sequence[Emitted]) -> None:
        for event in events:
            if isinstance(event, Reported):
                reports.extend(report for report in event.reports if report.trial == 1)
            if isinstance(event, Note) and event.trial == 1:
                tags.update(event.tags)

    channel = InlineChannel("w", take)
    channel.put(tuple(Job(number, {**config, "seed": 4 + number}) for number in range(3)))
    engine = LaneEngine(setup, channel, "w", Lanes())
    engine.turn(wait=False)
    while engine.busy:
        engine.turn(wait=False)
    geometry = {**json.loads(tags["swathe.geometry"]), **changes}
    tags |= {"swathe.config": json.dumps(config), "swathe.geometry": json.dumps(geometry)}
    tags["swathe.state"] = "complete"
    records = Records(home.tracking_uri)
    return records, records.run(records.log_run("train", "lane", reports, tags, artifacts=home.artifacts, params={}))


class Lanes:
    """Plans three lanes."""

    lanes, program, note = 3, "eager", ""

    def plan(self, recipe: Recipe) -> Lanes:
        return self

    def trained(self, recipe: Recipe, seconds: float) -> None:
        """Nothing is compiled."""

    def out_of_memory(self, recipe: Recipe, lanes: int) -> Lanes:
        raise AssertionError

    def close(self) -> None:
        """Nothing to end."""


def test_a_lane_is_trained_again_as_a_lane_of_such_a_block(home: Home, table: str) -> None:
    records, run = recorded_lane(home, table)
    result = reproduce(records, run, home)
    assert result.identical
    assert not result.alone
    assert not result.differences
    again = json.loads(records.run(result.new_run_id).tags["swathe.geometry"])
    assert {key: again[key] for key in ("engine", "lanes", "program")} == {
        "engine": "lanes",
        "lanes": "3",
        "program": "eager",
    }


def test_a_trial_that_its_diagnosis_stopped_has_as_many_reports_again(home: Home, table: str) -> None:
    records, run = recorded_lane(home, table, lr=30.0, diagnosis=Rule())
    steps = {step for _, step in records.history(run.run_id)}
    assert max(steps) < 4
    result = reproduce(records, run, home)
    assert result.identical
    assert {row.step for row in result.rows} == steps
    assert {step for _, step in records.history(result.new_run_id)} == steps


def test_a_lane_that_is_trained_alone_is_nearly_the_same(home: Home, table: str) -> None:
    records, run = recorded_lane(home, table)
    result = reproduce(records, run, home, solo=True)
    assert result.alone
    assert result.good
    assert result.outside_from is None
    assert result.largest_of_losses <= RELATIVE_TOLERANCE
    again = records.run(result.new_run_id)
    assert json.loads(again.tags["swathe.geometry"])["engine"] == "solo"
    assert again.tags["swathe.reproduced"] in ("close", "identical")


def test_a_geometry_that_says_too_little_is_refused(home: Home, table: str) -> None:
    records, run = recorded_lane(home, table, lanes="many")
    with pytest.raises(BadInputError, match="with which lanes"):
        reproduce(records, run, home)


@pytest.mark.parametrize(
    ("recorded", "reproduced", "close"),
    [
        (1.0, 1.0009, True),
        (1.0, 1.002, False),
        (1e-7, 1e-6, True),
        (math.nan, math.nan, True),
        (1.0, math.nan, False),
        (math.inf, math.inf, True),
        (math.inf, 1.0, False),
        (1.0, None, False),
    ],
)
def test_what_is_close(recorded: float, reproduced: float | None, close: bool) -> None:
    assert Row(1, "val_loss", recorded, reproduced).close is close


def test_only_losses_are_judged_but_all_must_be_there() -> None:
    loss, accuracy = Row(1, "val_loss", 1.0, 1.0001), Row(1, "val_accuracy", 0.9, 0.8)
    assert is_close((loss, accuracy))
    assert not is_close((loss, Row(2, "val_accuracy", 0.9, None)))
    assert not is_close((accuracy,))
    assert loss.relative == pytest.approx(1e-4, rel=1e-3)
    assert Row(1, "val_loss", 0.0, 0.0).relative == 0.0


def test_a_trial_in_which_rounding_grows_may_be_further_apart() -> None:
    rows = (Row(1, "val_loss", 1.0, 1.0), Row(2, "val_loss", 1.0, 1.05), Row(3, "val_loss", 1.0, 1.4))
    assert not is_close(rows)
    measured = with_rounding(rows, {("val_loss", 1): 1.0, ("val_loss", 2): 1.06, ("val_loss", 3): 1.4})
    # What has grown by a step does not shrink again.
    assert [row.rounding for row in measured] == [0.0, pytest.approx(0.01), pytest.approx(0.01)]
    assert [row.close for row in measured] == [True, True, False]
    ended = with_rounding(rows, {("val_loss", 1): 1.0, ("val_loss", 2): math.nan})
    assert [row.rounding for row in ended] == [0.0, math.inf, math.inf]


def test_a_run_alone_from_one_rounding_apart(home: Home, table: str) -> None:
    records, run = recorded_lane(home, table)
    nudged = nudged_history(json.loads(run.tags["swathe.config"]), home, {"device": "cpu"})
    recorded = records.history(run.run_id)
    assert recorded["val_loss", 4] != nudged["val_loss", 4] == pytest.approx(recorded["val_loss", 4], rel=1e-3)


def test_a_function_is_compared_bit_for_bit_with_solo_too(home: Home) -> None:
    records = Records(home.tracking_uri)
    result = reproduce(records, records.run(recorded(home, [1, 2], x=0.3 + 1e-16)), home, solo=True)
    assert not result.alone
    assert not result.good
