"""Writing many MLflow runs at once: in one transaction of its database, or through its client to a tracking server.

MLflow's own calls cost some 20 ms a trial on SQLite: a session, its checks and its commits for each call. Here the rows
of MLflow's own tables (its SQLAlchemy models) are inserted for a whole batch of runs in one transaction; a test
compares every row with what MLflow's client writes for the same run. A database whose schema is not the one of the
installed MLflow is refused by MLflow itself when it is opened.
"""

from __future__ import annotations

import atexit
import getpass
import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakSet

# Before MLflow is imported: nothing of it may reach the user's terminal, and it must not wait minutes for a server.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"
os.environ["GIT_PYTHON_REFRESH"] = "quiet"
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

import mlflow
import sqlalchemy
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag
from mlflow.entities import Metric as MlflowMetric
from mlflow.exceptions import MlflowException
from sqlalchemy.dialects import postgresql, sqlite

from swathe.tracking import with_driver

# MLflow's limits (characters, entries a request).
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
NAME_LENGTH = 250
DIGEST_LENGTH = 36
METRICS_A_REQUEST = 800
ENTRIES_A_REQUEST = 100
# Runs that a database is asked for at once.
RUNS_A_QUERY = 500
# Requests to a tracking server at the same time.
REQUESTS = 4
# What MLflow stores in place of an infinity: the largest float64.
LARGEST = 1.7976931348623157e308

_NOT_A_NAME = re.compile(r"[^\w.\-/: ]", re.ASCII)
_REFUSALS = {"BAD_REQUEST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST"}
T = TypeVar("T")
# The databases that this process has spoken with.
_engines: WeakSet[sqlalchemy.Engine] = WeakSet()


class Metric(NamedTuple):
    """One number of a run; `timestamp` in milliseconds of unix time."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(slots=True)
class RunChange:
    """What is new of one run; without a `run_id` the run is new itself. Times in milliseconds of unix time."""

    name: str
    start: int
    run_id: str = ""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    dataset: tuple[str, str] | None = None
    status: str | None = None
    end: int | None = None


class Refused(NamedTuple):
    """A change that MLflow will never take, and why."""

    change: RunChange
    reason: str


class Runs(Protocol):
    """The runs of one experiment."""

    experiment_id: str
    client: mlflow.MlflowClient

    def children(self, parent: str) -> dict[int, str]:
        """Return the parent's trials: number -> run id."""

    def recorded(self, run_id: str) -> set[tuple[str, int]]:
        """Return the (metric, step) that a run has."""

    def write(self, changes: Sequence[RunChange]) -> list[Refused]:
        """Write all changes and fill in the ids of new runs; raises when MLflow cannot be reached."""


@cache
def clean_name(name: str) -> str:
    """Return a name that MLflow takes for a metric or parameter: other characters become underscores."""
    return _NOT_A_NAME.sub("_", name).strip("/")[:NAME_LENGTH] or "_"


def split_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Cut values that are longer than MLflow's limit: the rest goes to `key:2`, `key:3` ...; `join_tags` reads them."""
    cut: dict[str, str] = {}
    for key, value in tags.items():
        cut[key] = value[:TAG_LENGTH]
        for part, start in enumerate(range(TAG_LENGTH, len(value), TAG_LENGTH), start=2):
            cut[f"{key}:{part}"] = value[start : start + TAG_LENGTH]
    return cut


def join_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Undo `split_tags`."""
    joined = {}
    for key, value in tags.items():
        base, _, part = key.rpartition(":")
        if part.isdigit() and base in tags:
            continue
        number = 2
        while (more := tags.get(f"{key}:{number}")) is not None:
            value, number = value + more, number + 1
        joined[key] = value
    return joined


@cache
def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user need not have a name.
        return str(os.getuid())


def source_tags() -> dict[str, str]:
    """Return the tags from which MLflow's UI shows who made a run and with what."""
    return {"mlflow.user": _user(), "mlflow.source.name": "swathe", "mlflow.source.type": "LOCAL"}


def open_runs(uri: str, experiment: str, artifact_folder: Path) -> Runs:
    """Open MLflow and its experiment, and create them where they are not there yet; raises what MLflow raises."""
    if uri.startswith(("http://", "https://")):
        return ServerRuns(uri, experiment)
    return DatabaseRuns(with_driver(uri), experiment, artifact_folder)


def connect(uri: str) -> mlflow.MlflowClient:
    """Return MLflow's client for runs and models at `uri`."""
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def open_database(uri: str, artifact_folder: Path) -> Any:
    """Return MLflow's store on a database, its tables created if need be. Two processes may do it at once."""
    from mlflow.store.db.utils import _safe_initialize_tables
    from mlflow.store.tracking import sqlalchemy_store

    store: Any = sqlalchemy_store.SqlAlchemyStore
    engine = store._get_or_create_engine(uri)
    if engine.dialect.name == "sqlite" and not sqlalchemy.event.contains(engine, "connect", _tune):
        sqlalchemy.event.listen(engine, "connect", _tune)
        engine.dispose()
    _safe_initialize_tables(engine)
    return store(uri, str(artifact_folder))


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "engine_connect")
def _remember(connection: sqlalchemy.Connection) -> None:
    _engines.add(connection.engine)


@atexit.register
def _let_go() -> None:
    """Close all databases, as a process that ends at once does not (see `leaving`).

    Only when its last connection is closed does SQLite put all of a database into the one file.
    """
    for engine in list(_engines):
        engine.dispose()


def _tune(connection: Any, record: object) -> None:
    # Readers (the UI) and the recorder do not wait for each other, and a commit costs no fsync: a kill of any process
    # loses nothing, a loss of power at most what the spool gives again.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA busy_timeout = 20000")
    connection.execute("PRAGMA foreign_keys = ON")


def new_id() -> str:
    """Return a new id as MLflow has them, 32 hexadecimal digits: a UUID of version 7 (RFC 9562).

    It begins with the time, in ms. Rows that are written together are thus beside each other in the indexes of all
    tables, and a batch of runs touches few pages of a large database, where those of random ids would be all over it.
    """
    return f"{time.time_ns() // 1_000_000:012x}7{uuid.uuid4().hex[13:]}"


def is_refusal(error: Exception) -> bool:
    """Whether MLflow will say the same next time; everything else is worth another try."""
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS
    return isinstance(error, sqlalchemy.exc.IntegrityError | sqlalchemy.exc.DataError)


class DatabaseRuns:
    """Runs in MLflow's tables, on SQLite or PostgreSQL."""

    def __init__(self, uri: str, experiment: str, artifact_folder: Path) -> None:
        from mlflow.store.tracking.dbmodels import models

        store = open_database(uri, artifact_folder)
        self.client = connect(uri)
        # The store knows where artifacts go; the client would put them into the working folder.
        self.experiment_id, self._artifacts = _experiment(store, experiment)
        self._engine = store.engine
        inserts: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
        self._insert = inserts[self._engine.dialect.name]
        self._runs = models.SqlRun.__table__
        self._tags = models.SqlTag.__table__
        self._params = models.SqlParam.__table__
        self._metrics = models.SqlMetric.__table__
        self._latest = models.SqlLatestMetric.__table__
        self._datasets = models.SqlDataset.__table__
        self._inputs = models.SqlInput.__table__
        self._input_tags = models.SqlInputTag.__table__
        self._dataset_ids: dict[tuple[str, str], str] = {}

    def children(self, parent: str) -> dict[int, str]:
        numbers, parents, runs = self._tags.alias(), self._tags.alias(), self._runs
        query = (
            sqlalchemy.select(numbers.c.value, runs.c.run_uuid)
            .join(numbers, (numbers.c.run_uuid == runs.c.run_uuid) & (numbers.c.key == "swathe.trial"))
            .join(parents, (parents.c.run_uuid == runs.c.run_uuid) & (parents.c.key == "mlflow.parentRunId"))
            .where(
                runs.c.experiment_id == int(self.experiment_id),
                runs.c.lifecycle_stage == "active",
                parents.c.value == parent,
            )
        )
        with self._engine.connect() as connection:
            return {int(number): run_id for number, run_id in connection.execute(query)}

    def recorded(self, run_id: str) -> set[tuple[str, int]]:
        query = sqlalchemy.select(self._metrics.c.key, self._metrics.c.step).where(self._metrics.c.run_uuid == run_id)
        with self._engine.connect() as connection:
            return {(key, step) for key, step in connection.execute(query)}

    def write(self, changes: Sequence[RunChange]) -> list[Refused]:
        try:
            self._write(changes)
        except Exception as error:
            if not is_refusal(error):
                raise
            if len(changes) == 1:
                return [Refused(changes[0], str(error))]
            # One bad run must not keep the others out.
            return [refused for change in changes for refused in self.write([change])]
        return []

    def _write(self, changes: Sequence[RunChange]) -> None:
        ids = [change.run_id or new_id() for change in changes]
        pairs = list(zip(ids, changes, strict=True))
        datasets = dict(self._dataset_ids)
        with self._engine.begin() as connection:
            _execute(connection, self._runs.insert(), [self._run_row(i, c) for i, c in pairs if not c.run_id])
            self._update_runs(connection, [(i, c) for i, c in pairs if c.run_id and c.status])
            tags = [
                {"key": key, "value": value, "run_uuid": i}
                for i, c in pairs
                for key, value in (c.tags if c.run_id else {"mlflow.runName": c.name, **c.tags}).items()
            ]
            insert = self._insert(self._tags)
            _execute(
                connection,
                insert.on_conflict_do_update(index_elements=["key", "run_uuid"], set_={"value": insert.excluded.value}),
                tags,
            )
            params = [{"key": key, "value": value, "run_uuid": i} for i, c in pairs for key, value in c.params.items()]
            _execute(connection, self._insert(self._params).on_conflict_do_nothing(), params)
            self._insert_metrics(connection, pairs)
            self._insert_datasets(connection, pairs, datasets)
        for run_id, change in pairs:
            change.run_id = run_id
        self._dataset_ids = datasets

    def _run_row(self, run_id: str, change: RunChange) -> dict[str, Any]:
        return {
            "run_uuid": run_id,
            "name": change.name,
            "source_type": "UNKNOWN",
            "source_name": "",
            "entry_point_name": "",
            "user_id": change.tags.get("mlflow.user", "unknown"),
            "status": change.status or "RUNNING",
            "start_time": change.start,
            "end_time": change.end,
            "deleted_time": None,
            "source_version": "",
            "lifecycle_stage": "active",
            "artifact_uri": f"{self._artifacts}/{run_id}/artifacts",
            "experiment_id": int(self.experiment_id),
        }

    def _update_runs(self, connection: Any, pairs: Sequence[tuple[str, RunChange]]) -> None:
        bound = sqlalchemy.bindparam
        update = (
            self._runs.update()
            .where(self._runs.c.run_uuid == bound("id"))
            .values(status=bound("new_status"), end_time=bound("new_end"))
        )
        _execute(connection, update, [{"id": i, "new_status": c.status, "new_end": c.end} for i, c in pairs])

    def _insert_metrics(self, connection: Any, pairs: Sequence[tuple[str, RunChange]]) -> None:
        rows: list[dict[str, Any]] = []
        latest: dict[tuple[str, str], dict[str, Any]] = {}
        for run_id, change in pairs:
            for metric in change.metrics:
                row = _metric_row(run_id, metric)
                rows.append(row)
                before = latest.get((run_id, metric.key))
                if before is None or _age(before) < _age(row):
                    latest[run_id, metric.key] = row
        _execute(connection, self._insert(self._metrics).on_conflict_do_nothing(), rows)
        insert, table = self._insert(self._latest), self._latest.c
        new = insert.excluded
        update = insert.on_conflict_do_update(
            index_elements=["key", "run_uuid"],
            set_={name: new[name] for name in ("value", "timestamp", "step", "is_nan")},
            where=sqlalchemy.tuple_(new.step, new.timestamp, new.value)
            > sqlalchemy.tuple_(table.step, table.timestamp, table.value),
        )
        _execute(connection, update, list(latest.values()))

    def _insert_datasets(
        self, connection: Any, pairs: Sequence[tuple[str, RunChange]], known: dict[tuple[str, str], str]
    ) -> None:
        for dataset in {c.dataset for _, c in pairs if c.dataset is not None} - known.keys():
            known[dataset] = self._dataset_id(connection, *dataset)
        rows = [
            {
                "input_uuid": new_id(),
                "source_type": "DATASET",
                "source_id": known[c.dataset],
                "destination_type": "RUN",
                "destination_id": i,
                "step": 0,
            }
            for i, c in pairs
            if c.dataset is not None
        ]
        if not rows:
            return
        there = self._inputs.c
        query = sqlalchemy.select(there.source_id, there.destination_id).where(
            there.destination_type == "RUN",
            there.source_type == "DATASET",
            there.destination_id.in_([i for i, c in pairs if c.run_id and c.dataset is not None]),
        )
        before = {(source, run_id) for source, run_id in connection.execute(query)}
        rows = [row for row in rows if (row["source_id"], row["destination_id"]) not in before]
        _execute(connection, self._inputs.insert(), rows)
        context = {"name": "mlflow.data.context", "value": "training"}
        _execute(connection, self._input_tags.insert(), [{"input_uuid": row["input_uuid"], **context} for row in rows])

    def _dataset_id(self, connection: Any, name: str, digest: str) -> str:
        row = {
            "dataset_uuid": uuid.uuid4().hex,
            "experiment_id": int(self.experiment_id),
            "name": name,
            "digest": digest,
            "dataset_source_type": "local",
            "dataset_source": _dataset_source(name),
            "dataset_schema": None,
            "dataset_profile": None,
        }
        connection.execute(self._insert(self._datasets).on_conflict_do_nothing(), [row])
        table = self._datasets.c
        where = (table.experiment_id == row["experiment_id"], table.name == name, table.digest == digest)
        return str(connection.execute(sqlalchemy.select(table.dataset_uuid).where(*where)).scalar_one())


def _execute(connection: Any, statement: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(statement, rows)


def _metric_row(run_id: str, metric: Metric) -> dict[str, Any]:
    value, nan = metric.value, math.isnan(metric.value)
    return {
        "key": metric.key,
        "value": 0.0 if nan else max(-LARGEST, min(LARGEST, value)),
        "timestamp": metric.timestamp,
        "step": metric.step,
        "is_nan": nan,
        "run_uuid": run_id,
    }


def _age(row: Mapping[str, Any]) -> tuple[int, int, float]:
    return row["step"], row["timestamp"], row["value"]


def _dataset_source(name: str) -> str:
    return json.dumps({"uri": name})


def _experiment(store: Any, name: str) -> tuple[str, str]:
    """Return the experiment's id and artifact location; it is created where it is not there yet."""
    found = store.get_experiment_by_name(name)
    if found is None:
        try:
            found = store.get_experiment(store.create_experiment(name))
        except MlflowException as error:
            # Another process was faster.
            found = store.get_experiment_by_name(name)
            if found is None:
                raise error
    if found.lifecycle_stage != "active":
        store.restore_experiment(found.experiment_id)
    return found.experiment_id, found.artifact_location


def read_metric(store: Any, run_ids: Sequence[str], key: str) -> Iterator[tuple[str, int, float]]:
    """Yield run id, step and value of one metric of many runs from MLflow's database."""
    from mlflow.store.tracking.dbmodels import models

    table = models.SqlMetric.__table__.c
    wanted = sqlalchemy.select(table.run_uuid, table.step, table.value, table.is_nan).where(table.key == key)
    with store.engine.connect() as connection:
        for some in chunks(run_ids, RUNS_A_QUERY):
            for run_id, step, value, nan in connection.execute(wanted.where(table.run_uuid.in_(some))):
                yield run_id, step, math.nan if nan else value


class ServerRuns:
    """Runs behind a tracking server: one request creates a run, one carries its numbers, one ends it."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.client = connect(uri)
        self.experiment_id, _ = _experiment(self.client, experiment)
        self._pool = ThreadPoolExecutor(REQUESTS)
        self._one_at_a_time = Lock()

    def children(self, parent: str) -> dict[int, str]:
        # Of two runs of a trial, one was made by a request whose answer was lost, and nothing was written to it.
        runs = sorted(search(self.client, self.experiment_id, of_parent(parent)), key=_fullness)
        return {int(run.data.tags["swathe.trial"]): run.info.run_id for run in runs}

    def recorded(self, run_id: str) -> set[tuple[str, int]]:
        keys = self.client.get_run(run_id).data.metrics
        return {(key, metric.step) for key in keys for metric in self.client.get_metric_history(run_id, key)}

    def write(self, changes: Sequence[RunChange]) -> list[Refused]:
        return [refused for refused in self._pool.map(self._write, changes) if refused is not None]

    def _write(self, change: RunChange) -> Refused | None:
        try:
            self._send(change)
        except MlflowException as error:
            if not is_refusal(error):
                raise
            return Refused(change, str(error))
        return None

    def _send(self, change: RunChange) -> None:
        tags = change.tags
        if not change.run_id:
            run = self.client.create_run(self.experiment_id, change.start, tags, change.name)
            change.run_id, tags = run.info.run_id, {}
        metrics = [MlflowMetric(*metric) for metric in change.metrics]
        params = [Param(key, value) for key, value in change.params.items()]
        for some_metrics, some_params, some_tags in zip_longest(
            chunks(metrics, METRICS_A_REQUEST),
            chunks(params, ENTRIES_A_REQUEST),
            chunks([RunTag(key, value) for key, value in tags.items()], ENTRIES_A_REQUEST),
            fillvalue=(),
        ):
            self.client.log_batch(change.run_id, some_metrics, some_params, some_tags)
        if change.dataset is not None:
            name, digest = change.dataset
            dataset = Dataset(name, digest, "local", _dataset_source(name))
            self._log_inputs(change.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        if change.end is not None:
            self.client.set_terminated(change.run_id, change.status, change.end)
        elif change.status is not None:
            self.client.update_run(change.run_id, change.status)

    def _log_inputs(self, run_id: str, inputs: list[DatasetInput]) -> None:
        # MLflow answers with an error to the later one of two requests that bring the same new dataset.
        with self._one_at_a_time:
            try:
                self.client.log_inputs(run_id, inputs)
            except MlflowException as error:
                if not is_refusal(error):
                    raise
                # Another process brought it: now it is there.
                self.client.log_inputs(run_id, inputs)


def of_parent(parent: str) -> str:
    """Return MLflow's filter for the trials of a sweep's run."""
    return f"tags.`mlflow.parentRunId` = '{parent}' and tags.`swathe.kind` = 'trial'"


def _fullness(run: Any) -> tuple[int, int]:
    return len(run.data.metrics), len(run.data.params)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield `items` in pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def search(client: mlflow.MlflowClient, experiment_id: str, query: str, order: Sequence[str] = ()) -> Iterable[Any]:
    """Yield all active runs that `query` finds, in pages."""
    token = None
    while True:
        page = client.search_runs([experiment_id], query, max_results=1000, order_by=list(order), page_token=token)
        yield from page
        token = page.token
        if not token:
            return
