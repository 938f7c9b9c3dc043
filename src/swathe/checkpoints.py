"""Where trials that are not over keep what they have come to, so that a worker's or a driver's death costs minutes.

Of each trial two files: the last checkpoint and the one before it. A file is written aside, forced to the disk and
renamed; its first line says what is in it and has the rest's checksum. A trial whose checkpoint cannot be read, or was
made by another program, begins anew, which gives the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swathe.events import Report
from swathe.home import write_aside

# Checkpoints may take this share of a worker's time, whatever they cost and however often they are due.
SHARE = 0.01
# A driver that lives has taken reports in long before so many more were made.
KEPT_REPORTS = 1000
# And of a trial's end within so many seconds.
DRIVER_SECONDS = 60.0
# The tag of a sentence on checkpoints, which is worth saying once.
NOTE = "swathe.checkpoint_note"
# The tag that says from which step on a trial has gone on last.
RESUMED = "swathe.resumed_from"
_FORMAT = "swathe checkpoint 1"
_NAME = re.compile(r"trial-(\d+)(\.before)?\.ckpt")

Facts = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trial after its last report: its reports, its diagnosis and the state of its engine.

    With the reports it does not matter how many of them had reached the study when a driver died: they are made again,
    and those that count already are passed over. `dropped`: the last step whose report is not there any more.
    """

    reports: tuple[Report, ...]
    dropped: int | None
    diagnosis: Any
    state: Any

    def again(self, counted: int | None) -> tuple[Report, ...]:
        """Return the reports as they are to be made again: what counts up to step `counted` takes no more time."""
        return tuple(
            replace(report, seconds=0.0) if counted is not None and report.step <= counted else report
            for report in self.reports
        )

    def reaches(self, counted: int | None) -> bool:
        """Whether no report is missing of which step `counted` is the last one that counts."""
        return self.dropped is None or (counted is not None and counted >= self.dropped)


class History:
    """The reports of a trial that its checkpoints keep: at least the last `KEPT_REPORTS`, and all with findings."""

    def __init__(self, checkpoint: Checkpoint | None = None) -> None:
        self._found: list[Report] = []
        self._last = [] if checkpoint is None else list(checkpoint.reports)
        self._dropped = None if checkpoint is None else checkpoint.dropped

    def add(self, report: Report) -> None:
        """Take the next report in."""
        self._last.append(report)
        if len(self._last) >= 2 * KEPT_REPORTS:
            before, self._last = self._last[:-KEPT_REPORTS], self._last[-KEPT_REPORTS:]
            self._found += (report for report in before if report.findings)
            self._dropped = before[-1].step

    @property
    def last_step(self) -> int | None:
        """The step of the last report, None while there is none."""
        return self._last[-1].step if self._last else None

    def checkpoint(self, diagnosis: object, state: object) -> Checkpoint:
        """Return what to keep of the trial now."""
        return Checkpoint((*self._found, *self._last), self._dropped, diagnosis, state)


class Checkpoints:
    """The checkpoints of one worker's trials in `folder`, at most every `seconds` for one trial (None: none at all).

    `clock` counts seconds.
    """

    def __init__(self, folder: Path, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._seconds = seconds
        self._clock = clock
        self._began = clock()
        self._spent = 0.0
        # When each trial here was begun or last kept, and those that have a file.
        self._since: dict[int, float] = {}
        self._filed: set[int] = set()
        # When those with a file ended by themselves.
        self._over: dict[int, float] = {}

    @property
    def enabled(self) -> bool:
        """Whether there are checkpoints at all."""
        return self._seconds is not None

    def begin(self, trial: int) -> None:
        """Count a trial's time from now."""
        self._clear()
        self._over.pop(trial, None)
        self._since[trial] = self._clock()

    def due(self, trial: int) -> bool:
        """Whether a trial should be kept now: its time has come, and all together have not taken too much of it."""
        if self._seconds is None or trial not in self._since:
            return False
        now = self._clock()
        return now - self._since[trial] >= self._seconds and self._spent <= SHARE * (now - self._began)

    def save(self, trial: int, facts: Facts, checkpoint: Callable[[], Checkpoint]) -> str:
        """Keep a trial; return one sentence where it cannot be written, else "". Raises what `pickle` raises.

        `facts` are what its numbers depend on, see `load`.
        """
        began = self._clock()
        # Whatever comes of it, the next one is not tried before its time.
        self._since[trial] = began
        try:
            payload = pickle.dumps(checkpoint(), protocol=pickle.HIGHEST_PROTOCOL)
            self._write(trial, _header(facts, payload) + payload)
        except OSError as error:
            return f"Checkpoints cannot be written: {error.strerror or error}."
        finally:
            self._spent += self._clock() - began
        return ""

    def _write(self, trial: int, content: bytes) -> None:
        path = self._path(trial)
        aside = path.with_suffix(".new.ckpt")
        write_aside(aside, content)
        self._filed.add(trial)
        # At each moment one of the two is whole.
        with suppress(FileNotFoundError):
            path.replace(path.with_suffix(".before.ckpt"))
        aside.replace(path)

    def load(self, trial: int, fits: Callable[[Facts], bool], counted: int | None) -> tuple[Facts, Checkpoint] | None:
        """Return a trial's last checkpoint that is whole, whose facts fit and that reaches back to step `counted`.

        `counted`: the last step whose report counts, None where none does.
        """
        if not self.enabled:
            return None
        path = self._path(trial)
        for candidate in (path, path.with_suffix(".before.ckpt")):
            found = _read(candidate, fits)
            if found is not None and found[1].reaches(counted):
                self._filed.add(trial)
                return found
        return None

    def end(self, trial: int, *, stopped: bool = False, suspended: bool = False) -> None:
        """Forget a trial that has left this worker; its files stay if it is `suspended`, and go if it is `stopped`.

        Those of one that ended by itself are its driver's to remove, once it knows: if it has died, the trial goes on
        from them. They go from here, which may be another machine, when a driver that lives must have known for long.
        """
        self._since.pop(trial, None)
        if trial in self._filed and not suspended:
            if stopped:
                discard(self._folder, trial)
            else:
                self._over[trial] = self._clock()
        self._filed.discard(trial)

    def _clear(self) -> None:
        """Remove what is left of trials that ended long ago."""
        for trial in [trial for trial, since in self._over.items() if self._clock() - since >= DRIVER_SECONDS]:
            del self._over[trial]
            if trial not in self._filed:
                discard(self._folder, trial)

    def _path(self, trial: int) -> Path:
        return _path(self._folder, trial)


def discard(folder: Path, trial: int) -> None:
    """Remove what is kept of a trial, if anything is."""
    path = _path(folder, trial)
    for candidate in (path, path.with_suffix(".before.ckpt")):
        with suppress(OSError):
            candidate.unlink()


def discard_others(folder: Path, trials: Iterable[int]) -> None:
    """Remove everything but the checkpoints of these trials: of others, and what was left half written."""
    kept = set(trials)
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None or int(match[1]) not in kept:
            with suppress(OSError):
                path.unlink()
    if not kept:
        with suppress(OSError):
            folder.rmdir()


def digest(config: Mapping[str, Any]) -> str:
    """Return what stands for a trial's whole config among the facts."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def _path(folder: Path, trial: int) -> Path:
    return folder / f"trial-{trial}.ckpt"


def _header(facts: Facts, payload: bytes) -> bytes:
    said = {"format": _FORMAT, "facts": dict(facts), "sha256": hashlib.sha256(payload).hexdigest()}
    return json.dumps(said).encode() + b"\n"


def _read(path: Path, fits: Callable[[Facts], bool]) -> tuple[Facts, Checkpoint] | None:
    try:
        header, _, payload = path.read_bytes().partition(b"\n")
        said = json.loads(header)
        if said["format"] != _FORMAT or said["sha256"] != hashlib.sha256(payload).hexdigest():
            return None
        facts: Facts = said["facts"]
        if not fits(facts):
            return None
        # Only what has its own checksum is unpickled; of a user's state, its classes may be gone.
        checkpoint = pickle.loads(payload)
    except Exception:
        return None
    return (facts, checkpoint) if isinstance(checkpoint, Checkpoint) else None
