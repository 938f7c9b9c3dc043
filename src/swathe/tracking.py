"""The driver's side of the record: what happens goes to a spool on disk, and a process of its own carries it to MLflow.

Importing MLflow takes seconds and writing to it milliseconds; neither is ever in the way of the driver or a worker.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from swathe.errors import bad_value
from swathe.events import TrialState, Value
from swathe.spool import SpoolWriter, spool_folder, sweep_id

# A recorder that dies is started again so many times in a session; what it had not carried is in the spool.
RESTARTS = 3
# The tag of a sweep's run that lists the trials of its front, and of each of their runs, which says "true".
FRONT_TAG = "swathe.front"
# MLflow keeps a shared view of an experiment's runs under this name, a dot and the view's own.
VIEW_TAG = "mlflow.sharedViewState"
_ALLOWED = "sqlite:///PATH, postgresql://USER:PASSWORD@HOST/DATABASE or the http(s)://HOST of an MLflow server"


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """What identifies a sweep in MLflow: the parent run's name, tags and artifacts.

    `artifact_folder`: where artifacts go when MLflow is a database; a tracking server decides itself.
    `workdir`: the folder whose git commit and diff are recorded. `space`: the names of what is searched. `metric` and
    `direction` are those of the first objective, `others` the metrics of further ones. `repeats` trials are one point,
    whose value is the mean, the median or the worst (`repeats_of`) of theirs.
    """

    name: str
    uri: str
    experiment: str
    artifact_folder: str
    metric: str
    direction: str
    config_yaml: str
    tags: Mapping[str, str]
    workdir: str
    space: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    repeats: int = 1
    repeats_of: str = "mean"


@dataclass(frozen=True, slots=True)
class Summary:
    """What the parent run says at the end; `state` is MLflow's word: FINISHED, FAILED or KILLED.

    `metrics`: numbers of the whole session, beside the best trial's. Of several objectives no trial is the best: the
    numbers of those that no other dominates are `front`, and `best_values` the best of each objective by its metric.
    Where a point is several trials: those of the best one, their standard deviation, and the tags that the trials of
    complete points get.
    """

    state: str
    reason: str
    study_name: str
    study_storage: str | None
    counts: Mapping[str, int]
    best_trial: int | None
    best_value: float | None
    best_params: Mapping[str, Value]
    note_markdown: str
    model_path: str | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    front: tuple[int, ...] = ()
    best_values: Mapping[str, float] = field(default_factory=dict)
    best_repeats: tuple[int, ...] = ()
    best_std: float | None = None
    points: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


def check_uri(uri: str) -> None:
    """Refuse a tracking URI that MLflow could never be reached at; raises `BadInputError`. Nothing is contacted."""
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise bad_value("tracking.uri", uri, _ALLOWED) from error
    match parts.scheme:
        case "sqlite":
            # Three slashes and a path; a folder cannot be opened as a database.
            path = uri.removeprefix("sqlite:///")
            good = uri.startswith("sqlite:///") and path not in ("", ":memory:") and not Path(path).is_dir()
        case "postgresql" | "postgresql+psycopg":
            good = parts.path.strip("/") != ""
        case "http" | "https":
            good = bool(host)
        case _:
            good = False
    if not good:
        raise bad_value("tracking.uri", shown(uri), _ALLOWED)


def with_driver(uri: str) -> str:
    """Return the URI as SQLAlchemy must get it: PostgreSQL is spoken to through psycopg, which Swathe depends on."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", uri)


def shown(uri: str) -> str:
    """Return a URI, or a text with URIs in it, without passwords."""
    return re.sub(r"//([^/@:\s]*):[^@\s]*@", r"//\1:***@", uri)


class PastTrial(Protocol):
    """What the study knows of a trial."""

    @property
    def state(self) -> TrialState: ...
    @property
    def values(self) -> Mapping[int, float]: ...


def is_known(record: Sequence[Any], history: Mapping[int, PastTrial]) -> bool:
    """Whether the study, `history` by number, has what a record is of that a driver had staged when it died."""
    kind, *rest = record
    match kind:
        case "sweep":
            return True
        case "finish":
            # Whoever goes on with the sweep finishes it.
            return False
    trial = history.get(rest[0])
    if trial is None:
        return False
    match kind:
        case "metrics":
            return int(rest[1]) in trial.values
        case "end" if rest[1] is not None:
            return trial.state is TrialState(rest[1])
        case "text":
            return trial.state.final
    return True


class Recorder:
    """Takes what happens in a sweep; after `flush` it is on disk, and soon in MLflow."""

    def __init__(self, folder: Path, record: SweepRecord) -> None:
        self._folder = folder
        spool = spool_folder(folder)
        spool.mkdir(parents=True, exist_ok=True)
        self._spool = SpoolWriter(spool, {**asdict(record), "id": sweep_id(spool), "started": time.time()})
        self._restarts = 0
        self._problems: list[str] = []
        self._received = b""
        self._process = self._spawn()

    @classmethod
    def start(cls, folder: Path, record: SweepRecord) -> Recorder:
        """Start a session's recorder in its own process, and return at once; `folder` is the sweep's."""
        return cls(folder, record)

    def trial(self, number: int, name: str, params: Mapping[str, object], tags: Mapping[str, str], time: float) -> None:
        """A trial begins, or begins again: then its MLflow run goes on. `time`: unix time (seconds), as everywhere."""
        self._spool.add(("trial", number, name, dict(params), dict(tags), time))

    def metrics(self, trial: int, step: int, metrics: Mapping[str, float], time: float) -> None:
        """One report. A (metric, step) that the trial's run has already is left as it is."""
        self._spool.add(("metrics", trial, step, dict(metrics), time))

    def sweep(self, metrics: Mapping[str, float], time: float) -> None:
        """Numbers of the sweep itself, at whole seconds since it began."""
        self._spool.add(("sweep", dict(metrics), time))

    def text(self, trial: int, file: str, text: str) -> None:
        """Keep a text as an artifact of the trial's run."""
        self._spool.add(("text", trial, file, text))

    def end(self, trial: int, state: TrialState | None, tags: Mapping[str, str], time: float) -> None:
        """A trial is over; `state` None: it was interrupted and will go on."""
        self._spool.add(("end", trial, None if state is None else state.value, dict(tags), time))

    def stage(self) -> None:
        """Put everything on disk, before the study gets what it is of: MLflow has it after the next `flush`."""
        self._spool.stage()

    def recall(self, known: Callable[[Sequence[Any]], bool]) -> None:
        """Take up what an earlier session had staged when it died: that which the study knows of."""
        for record in self._spool.unsure:
            if known(record):
                self._spool.add(record)

    def flush(self) -> None:
        """Put everything on disk, now that the study has what it is of, and wake the recorder."""
        if self._spool.flush():
            self._wake()

    def finish(self, summary: Summary) -> None:
        """The session is over: the parent run gets its note, plots, table and best model, from now on.

        Nothing may be said after it; `close` waits for the recorder.
        """
        self._spool.add(("finish", asdict(summary), time.time()))
        self.flush()
        # The last batch is not to gather for what never comes, while the driver does something else.
        self._close_stdin()

    def problem(self) -> str | None:
        """Return one sentence for the user, each once: MLflow fails, MLflow is back; None when there is nothing new."""
        self._receive()
        return self._problems.pop(0) if self._problems else None

    def close(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the recorder to end; return whether MLflow has everything.

        What it has not stays in the spool: the recorder's process goes on for a while, then the next session's.
        """
        deadline = time.monotonic() + timeout
        self._spool.close()
        while True:
            self._close_stdin()
            try:
                code = self._process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._receive()
                return False
            self._receive()
            if code >= 0 or not self._may_restart():
                return code == 0

    # The process.

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "swathe.recorder", str(self._folder), str(self._spool.session)]
        with (self._folder / "recorder.log").open("ab") as log:
            # A session of its own: ^C in the terminal is for the driver alone.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        self._received = b""
        return process

    def _wake(self) -> None:
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            return
        try:
            os.write(self._process.stdin.fileno(), b".")
        except (BlockingIOError, BrokenPipeError):
            # It has enough to read, or it is dead, which the next `problem` finds.
            return

    def _close_stdin(self) -> None:
        # The end of its input tells the recorder that the spool grows no more, as the driver's death does.
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _receive(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.closed:
            return
        while True:
            try:
                data = os.read(self._process.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return
            if not data:
                break
            *lines, self._received = (self._received + data).split(b"\n")
            self._problems += [json.loads(line) for line in lines]
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            self._process.stdout.close()
            return
        self._process.wait()
        if self._may_restart():
            return
        self._process.stdout.close()
        log = self._folder / "recorder.log"
        self._problems.append(f"The recorder died ({log} says why); what MLflow lacks follows at the next launch.")

    def _may_restart(self) -> bool:
        if self._restarts == RESTARTS:
            return False
        self._restarts += 1
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = self._spawn()
        return True
