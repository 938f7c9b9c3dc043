"""What is kept of a job: a JSON file in a folder of its own, `.swathe/jobs/ID/`, that no crash leaves half written."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from swathe.home import Home, write_aside
from swathe.service.queue import Devices, Needs, Waiting

_ID = re.compile(r"[0-9a-f]{20}")
# What a job printed may be of this size (bytes) to be its result.
MAX_RESULT = 2**20


class JobKind(Enum):
    """What a job does: the command of the same name."""

    LAUNCH = "launch"
    RESUME = "resume"
    REPRODUCE = "reproduce"
    REPORT = "report"
    TRAIN = "train"
    LR_FIND = "lr-find"

    @property
    def runs_sweep(self) -> bool:
        """Whether it drives a sweep, whose workers are Ray actors; the others train in the job's own process."""
        return self in (JobKind.LAUNCH, JobKind.RESUME)


class JobState(Enum):
    """Where a job is between its creation and its end."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def active(self) -> bool:
        """Whether it has devices."""
        return self in (JobState.STARTING, JobState.RUNNING, JobState.STOPPING)

    @property
    def over(self) -> bool:
        """Whether it will never change again."""
        return self in (JobState.DONE, JobState.FAILED, JobState.STOPPED)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is kept. Times in seconds of unix time; `arguments` are those of the command line.

    `token`, `key` and `digest`: whose request it was, its Idempotency-Key and a digest of its body. `workers`: how many
    it asks for (None: its share), of `each`; `inline`: its own process trains. `about`: what its sweep is to be.
    `given`: how many workers it has since it starts, which `has` so many devices together. `stop_now`: its process is
    to be ended, and not only asked to end. `attempt` counts its submissions to Ray, `fruitless` those that were lost in
    a row without a trial that finished, and `finished` is how many trials there were then.
    """

    id: str
    kind: JobKind
    sweep: str | None
    owner: str
    token: str
    priority: int
    created: float
    folder: str
    arguments: tuple[str, ...]
    workers: int | None
    each: Devices
    inline: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    digest: str = ""
    state: JobState = JobState.QUEUED
    has: Devices | None = None
    given: int | None = None
    started: float | None = None
    ended: float | None = None
    detail: str | None = None
    exit_code: int | None = None
    stop_now: bool = False
    attempt: int = 0
    fruitless: int = 0
    finished: int = 0

    @property
    def submission(self) -> str:
        """The id under which Ray has its last attempt."""
        return f"swathe-{self.id}-{self.attempt}"

    @property
    def waiting(self) -> Waiting:
        """The job as the queue sees it."""
        return Waiting(self.id, self.owner, self.priority, self.created, Needs(self.workers, self.each))

    def interval(self, now: float) -> tuple[float, float, float]:
        """Return its devices, and from when until when it had them."""
        assert self.has is not None
        assert self.started is not None
        return self.has.count, self.started, now if self.ended is None else self.ended


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How an attempt of a job ended, as its process wrote it."""

    attempt: int
    exit_code: int
    ended: float
    detail: str | None


@dataclass(frozen=True, slots=True)
class JobFolder:
    """`.swathe/jobs/ID/`."""

    path: Path

    @property
    def record_file(self) -> Path:
        return self.path / "job.json"

    @property
    def request_file(self) -> Path:
        """The YAML of the request, where it had any."""
        return self.path / "sweep.yaml"

    @property
    def log_file(self) -> Path:
        return self.path / "job.log"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def end_file(self) -> Path:
        return self.path / "end.json"

    def read(self) -> Job | None:
        """Return the record; None where there is none that can be read."""
        try:
            return _job(json.loads(self.record_file.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, job: Job) -> None:
        """Write the record."""
        values = asdict(job) | {"kind": job.kind.value, "state": job.state.value}
        write_aside(self.record_file, json.dumps(values, indent=2).encode(), mode=0o600)

    def end_of(self, attempt: int) -> JobEnd | None:
        """Return how an attempt ended; None while it has not."""
        try:
            end = JobEnd(**json.loads(self.end_file.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return end if end.attempt == attempt else None

    def write_end(self, end: JobEnd) -> None:
        """Write how an attempt ended."""
        write_aside(self.end_file, json.dumps(asdict(end)).encode(), mode=0o600)

    def result(self) -> Any:
        """Return what the command printed with `--json`; None where it printed nothing, or too much."""
        try:
            if self.result_file.stat().st_size > MAX_RESULT:
                return None
            return json.loads(self.result_file.read_bytes())
        except (OSError, ValueError):
            return None

    def log(self, offset: int, limit: int) -> tuple[str, int]:
        """Return the log from a byte on, at most `limit` bytes, and the byte after that."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(offset)
                found = file.read(limit)
        except OSError:
            found = b""
        whole = found[: len(found) - _half_character(found)]
        return whole.decode(errors="replace"), offset + len(whole)


def _half_character(text: bytes) -> int:
    """Return how many bytes at the end are the beginning of a character of UTF-8 whose rest is not there yet."""
    for back in range(1, min(4, len(text) + 1)):
        lead = text[-back]
        if lead & 0xC0 != 0x80:
            length = 1 if lead >= 0xF8 else 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
            return back if length > back else 0
    return 0


def _job(values: dict[str, Any]) -> Job:
    if values.keys() != {item.name for item in fields(Job)}:
        raise ValueError("not a job's keys")
    return Job(
        **{
            **values,
            "kind": JobKind(values["kind"]),
            "state": JobState(values["state"]),
            "arguments": tuple(values["arguments"]),
            "each": Devices(**values["each"]),
            "has": None if values["has"] is None else Devices(**values["has"]),
        }
    )


def new_id(now: float | None = None) -> str:
    """Return an id that sorts by time (milliseconds), and that nobody else has drawn."""
    return f"{int((time.time() if now is None else now) * 1000):012x}{secrets.token_hex(4)}"


def is_id(text: str) -> bool:
    """Whether this can be the id of a job."""
    return _ID.fullmatch(text) is not None


def jobs_folder(home: Home) -> Path:
    """Where the jobs of a home are."""
    return home.path / "jobs"


def job_folder(home: Home, job: str) -> JobFolder:
    """Return the folder of a job, which need not exist."""
    return JobFolder(jobs_folder(home) / job)


def from_working_folder(path: Path) -> str:
    """Return a path as a command in the working folder would name it."""
    folder = Path.cwd()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def make_private(path: Path) -> None:
    """Make a folder that is the owner's alone."""
    path.mkdir(parents=True, exist_ok=True)
    os.chmod(path, 0o700)
