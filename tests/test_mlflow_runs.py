"""Writing many runs at once: the rows are those that MLflow's own client writes."""

from __future__ import annotations

import math
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swathe import mlflow_runs
from swathe.mlflow_runs import (
    LARGEST,
    DatabaseRuns,
    Metric,
    RunChange,
    ServerRuns,
    chunks,
    clean_name,
    join_tags,
    new_id,
    open_database,
    split_tags,
)

TABLES = ("runs", "tags", "params", "metrics", "latest_metrics", "datasets", "inputs", "input_tags")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database; making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    open_database(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    return folder


def changes(ids: Callable[[int], str] = lambda index: "") -> list[RunChange]:
    """A complete run, one that diverged, and one that still runs."""
    numbers = [Metric("val_loss", 1.0 / (step + 1), 1000 + step, step) for step in range(5)]
    diverged = [
        Metric("val_loss", math.inf, 1000, 0),
        Metric("val_loss", math.nan, 1001, 1),
        Metric("grad", -math.inf, 1000, 0),
        Metric("grad", 0.1 + 0.2, 1001, 1),
        # Of two at the same step the later, of two at the same time the larger is the latest.
        Metric("twice", 2.0, 1001, 7),
        Metric("twice", 1.0, 1001, 7),
        Metric("twice", 3.0, 999, 7),
    ]
    tags = {"mlflow.user": "me", "swathe.kind": "trial", "swathe.config": "{}"}
    return [
        RunChange("complete", 1000, ids(0), {"lr": "0.1"}, dict(tags), numbers, ("digits", "abc"), "FINISHED", 2000),
        RunChange("diverged", 1001, ids(1), {}, dict(tags), diverged, ("digits", "abc"), "FAILED", 2001),
        RunChange("running", 1002, ids(2), {"lr": "0.2", "m": "x"}, {"swathe.kind": "trial"}),
    ]


def rows(folder: Path, experiment_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of an experiment, every random id replaced by the name that it stands for."""
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.row_factory = sqlite3.Row
        tables = {table: [dict(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in TABLES}
    names = {row["run_uuid"]: row["name"] for row in tables["runs"] if str(row["experiment_id"]) == experiment_id}
    names |= {
        row["dataset_uuid"]: row["name"] for row in tables["datasets"] if str(row["experiment_id"]) == experiment_id
    }
    for row in tables["inputs"]:
        if row["destination_id"] in names:
            names[row["input_uuid"]] = f"{names[row['source_id']]} of {names[row['destination_id']]}"
    return {
        table: sorted(
            ({key: _anonymous(key, value, names) for key, value in row.items()} for row in found if _is_of(row, names)),
            key=repr,
        )
        for table, found in tables.items()
    }


def _is_of(row: dict[str, Any], names: dict[str, str]) -> bool:
    return not names.keys().isdisjoint(value for value in row.values() if isinstance(value, str))


def _anonymous(key: str, value: Any, names: dict[str, str]) -> Any:
    if key == "experiment_id":
        return "the experiment"
    if key == "artifact_uri":
        artifacts, _, run_id, last = value.rsplit("/", 3)
        return artifacts, names[run_id], last
    return names.get(value, value)


def both(folder: Path, name: str) -> tuple[DatabaseRuns, ServerRuns]:
    uri = f"sqlite:///{folder}/mlflow.db"
    # A server would know where artifacts go; without one the experiment must say it.
    DatabaseRuns(uri, f"{name} client", folder / "artifacts")
    return DatabaseRuns(uri, f"{name} bulk", folder / "artifacts"), ServerRuns(uri, f"{name} client")


def test_ids_are_in_the_order_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a batch of runs touches a few pages of a large database: with random ones it costs half as much again."""
    moments = iter([1_700_000_000_000_000_000, 1_700_000_000_001_000_000, 1_900_000_000_000_000_000])
    monkeypatch.setattr(mlflow_runs.time, "time_ns", lambda: next(moments))
    ids = [new_id() for _ in range(3)]
    assert ids == sorted(ids)
    assert all(uuid.UUID(one).version == 7 and uuid.UUID(one).variant == uuid.RFC_4122 for one in ids)
    assert all(one == uuid.UUID(one).hex for one in ids)
    assert ids[0].startswith(f"{1_700_000_000_000:012x}")


def test_new_runs_are_the_rows_of_mlflows_client(database: Path) -> None:
    bulk, client = both(database, "new")
    ours, theirs = changes(), changes()
    assert bulk.write(ours) == client.write(theirs) == []
    assert all(len(change.run_id) == 32 for change in (*ours, *theirs))
    found = rows(database, bulk.experiment_id)
    assert {table: len(found[table]) for table in TABLES} == {
        "runs": 3,
        "tags": 10,
        "params": 3,
        "metrics": 12,
        "latest_metrics": 4,
        "datasets": 1,
        "inputs": 2,
        "input_tags": 2,
    }
    assert found == rows(database, client.experiment_id)


def test_known_runs_go_on_as_with_mlflows_client(database: Path) -> None:
    bulk, client = both(database, "known")
    for runs in (bulk, client):
        first = changes()
        runs.write(first)
        again = changes(lambda index, first=first: first[index].run_id)  # type: ignore[misc]
        again[0].metrics = [Metric("val_loss", 9.0, 900, 3), Metric("new", 1.0, 900, 3)]
        again[1].metrics = [Metric("val_loss", 4.0, 5000, 9), Metric("val_loss", 5.0, 5000, 8)]
        again[2].metrics = [Metric("val_loss", 1.0, 3000, 0)]
        again[2].status, again[2].end = "KILLED", 3001
        for change in again:
            change.tags = {"swathe.state": "complete", "swathe.config": "new"}
        assert runs.write(again) == []
    assert rows(database, bulk.experiment_id) == rows(database, client.experiment_id)


def test_a_batch_that_comes_again_changes_nothing(database: Path) -> None:
    runs, _ = both(database, "again")
    first = changes()
    runs.write(first)
    before = rows(database, runs.experiment_id)
    runs.write(changes(lambda index: first[index].run_id))
    assert rows(database, runs.experiment_id) == before


def test_a_bad_run_does_not_keep_the_others_out(database: Path) -> None:
    runs, client = both(database, "bad")
    for writer in (runs, client):
        good, bad = RunChange("good", 1), RunChange("bad", 1, "0" * 32, tags={"a": "b"})
        ((change, reason),) = writer.write([good, bad, RunChange("also good", 1)])
        assert (change.name, bool(reason)) == ("bad", True)
        assert {row["name"] for row in rows(database, writer.experiment_id)["runs"]} == {"good", "also good"}


def test_what_is_recorded_is_found_again(database: Path) -> None:
    for runs in both(database, "found"):
        parent = RunChange("parent", 1)
        runs.write([parent])
        tags = {"mlflow.parentRunId": parent.run_id, "swathe.kind": "trial", "swathe.trial": "7"}
        metrics = [Metric("a", 1.0, 1, 0), Metric("a", 2.0, 1, 1), Metric("b", 2.0, 1, 1)]
        child = RunChange("child", 1, tags=tags, metrics=metrics)
        runs.write([child])
        assert runs.children(parent.run_id) == {7: child.run_id}
        assert runs.recorded(child.run_id) == {("a", 0), ("a", 1), ("b", 1)}


def test_many_parameters_tags_and_metrics_fit(database: Path) -> None:
    for runs in both(database, "many"):
        names = [f"n{index}" for index in range(250)]
        change = RunChange("many", 1, "", dict.fromkeys(names, "1"), dict.fromkeys(names, "2"))
        change.metrics = [Metric("loss", float(step), step, step) for step in range(2500)]
        assert runs.write([change]) == []
        again = RunChange("many", 1, change.run_id, tags=dict.fromkeys(names, "3"))
        assert runs.write([again]) == []
        found = rows(database, runs.experiment_id)
        assert (len(found["params"]), len(found["tags"]), len(found["metrics"])) == (250, 251, 2500)
        assert [row["value"] for row in found["latest_metrics"]] == [2499.0]


def test_an_infinity_is_the_largest_number(database: Path) -> None:
    runs, _ = both(database, "infinity")
    change = RunChange("x", 1, metrics=[Metric("a", -math.inf, 1, 0)])
    runs.write([change])
    assert rows(database, runs.experiment_id)["metrics"][0]["value"] == -LARGEST


@given(st.dictionaries(st.sampled_from(["a", "swathe.config", "b:x"]), st.text(max_size=30)))
def test_long_tags_are_cut_and_joined(tags: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swathe.mlflow_runs.TAG_LENGTH", 4)
        cut = split_tags(tags)
    assert all(len(value) <= 4 for value in cut.values())
    assert join_tags(cut) == tags


@given(st.text())
def test_every_name_becomes_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(clean_name(name))


def test_good_names_stay() -> None:
    for name in ("val_loss", "optim.lr", "layer/1:grad norm-x"):
        assert clean_name(name) == name
    assert clean_name("acc@1") == "acc_1"


def test_chunks() -> None:
    assert list(chunks([1, 2, 3], 2)) == [[1, 2], [3]]
    assert list(chunks([], 2)) == []
