"""The jobs of a home: kept in memory, written through to their files. May be used from many threads at once."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from swathe.errors import SwatheError
from swathe.home import Home
from swathe.service import queue
from swathe.service.job_records import Job, JobFolder, JobState, job_folder, jobs_folder, make_private, new_id
from swathe.service.queue import Waiting

# Jobs that may wait, of all users and of one.
MAX_WAITING, MAX_WAITING_OF_ONE = 1000, 200


class NameInUseError(SwatheError):
    """A sweep of this name is waiting, runs or was launched before."""


class OtherBodyError(SwatheError):
    """An Idempotency-Key came before, with another body."""


class QueueFullError(SwatheError):
    """There are too many jobs that wait."""


class Jobs:
    """All jobs of a home. One process at a time may have them: see `dispatcher.only_server`."""

    def __init__(self, home: Home) -> None:
        self._home = home
        # Of those who write: a reader must not wait for the disk, and copies of a dict are whole.
        self._lock = threading.Lock()
        self._changed: list[Callable[[], None]] = []
        self._jobs: dict[str, Job] = {}
        # Only those that are not over, so that what is asked every second does not grow with the past.
        self._open: dict[str, Job] = {}
        self._by_key: dict[tuple[str, str], str] = {}
        self._first: dict[str, str] = {}
        self._latest: dict[str, str] = {}
        self._last_id = ""
        self.version = 0
        self._line: tuple[int, float, dict[str, int]] = (-1, 0.0, {})
        # The job that waits for more devices than are free, see `queue.next_starts`.
        self.reserved: str | None = None
        self._load()

    def _load(self) -> None:
        root = jobs_folder(self._home)
        if not root.is_dir():
            return
        for path in sorted(root.iterdir()):
            job = JobFolder(path).read()
            if job is not None:
                self._take(job)
            elif not JobFolder(path).record_file.exists():
                # A creation that was cut short before it was acknowledged.
                shutil.rmtree(path, ignore_errors=True)

    def _take(self, job: Job) -> None:
        self._jobs[job.id] = job
        if job.state.over:
            self._open.pop(job.id, None)
        else:
            self._open[job.id] = job
        if job.key is not None:
            self._by_key[job.token, job.key] = job.id
        if job.sweep is not None:
            self._first[job.sweep] = min(job.id, self._first.get(job.sweep, job.id))
            self._latest[job.sweep] = max(job.id, self._latest.get(job.sweep, job.id))
        self.version += 1

    def on_change(self, call: Callable[[], None]) -> None:
        """Have something called, from any thread, when a job was created or changed."""
        self._changed.append(call)

    # Reading.

    def folder(self, job: str) -> JobFolder:
        """Return a job's folder."""
        return job_folder(self._home, job)

    def find(self, job: str) -> Job | None:
        """Return a job; None where there is none."""
        return self._jobs.get(job)

    def all(self) -> list[Job]:
        """Return all jobs, the newest first."""
        return sorted(self._jobs.values(), key=lambda job: job.id, reverse=True)

    def waiting(self) -> list[Job]:
        """Return the jobs that wait, in the order of their creation."""
        return [job for job in self._unfinished() if job.state is JobState.QUEUED]

    def active(self) -> list[Job]:
        """Return the jobs that have devices."""
        return [job for job in self._unfinished() if job.state.active]

    def _unfinished(self) -> list[Job]:
        return sorted(self._open.values(), key=lambda job: job.id)

    def of_key(self, token: str, key: str, digest: str) -> Job | None:
        """Return the job of an earlier request with this key; raises `OtherBodyError` where that had another body."""
        known = self._by_key.get((token, key))
        if known is None:
            return None
        job = self._jobs[known]
        if job.digest != digest:
            raise OtherBodyError(
                f"Idempotency-Key: {key!r} is not allowed with this body, as job {job.id} came of it with another; "
                "allowed: a new key."
            )
        return job

    def latest_of(self, sweep: str) -> Job | None:
        """Return the latest job of a sweep; None where it never had one."""
        return self._jobs.get(self._latest.get(sweep, ""))

    def first_of(self, sweep: str) -> Job | None:
        """Return the first job of a sweep; None where it never had one."""
        return self._jobs.get(self._first.get(sweep, ""))

    def unfinished_of(self, sweep: str) -> Job | None:
        """Return the job that waits to drive a sweep, or drives it; None where there is none."""
        return next((job for job in self._unfinished() if job.sweep == sweep and job.kind.runs_sweep), None)

    def driving(self) -> dict[str, Job]:
        """Return the jobs that wait to drive a sweep, or drive one, by its name."""
        return {job.sweep: job for job in self._unfinished() if job.sweep is not None and job.kind.runs_sweep}

    # The queue.

    def held(self) -> dict[str, float]:
        """Return how many devices each user's jobs have now."""
        found: dict[str, float] = {}
        for job in self.active():
            if job.has is not None:
                found[job.owner] = found.get(job.owner, 0.0) + job.has.count
        return found

    def shares(self, now: float | None = None) -> dict[str, float]:
        """Return what each user had lately, see `queue.had`."""
        moment = time.time() if now is None else now
        intervals: dict[str, list[tuple[float, float, float]]] = {}
        for job in self.all():
            since = moment if job.ended is None else job.ended
            if job.started is not None and job.has is not None and moment - since < 20 * queue.HALF_LIFE:
                intervals.setdefault(job.owner, []).append(job.interval(moment))
        return {owner: queue.had(found, moment) for owner, found in intervals.items()}

    def line(self) -> Collection[Waiting]:
        """Return the jobs that wait as the queue sees them."""
        return [job.waiting for job in self.waiting()]

    def position(self, job: Job) -> int | None:
        """Return a job's place in the line, 1 for the next one; None where it does not wait."""
        if job.state is not JobState.QUEUED:
            return None
        return self._positions().get(job.id)

    def _positions(self) -> dict[str, int]:
        version, made, places = self._line
        now = time.monotonic()
        if version != self.version or now - made > 1.0:
            version = self.version
            order = queue.in_line(self.line(), self.held(), self.shares(), self.reserved)
            places = {name: place for place, name in enumerate(order, start=1)}
            self._line = (version, now, places)
        return places

    # Changing.

    def create(self, job: Job, text: str | None = None, *, name_taken: Callable[[str], bool] | None = None) -> Job:
        """Keep a new job, with the YAML of its request.

        Returns the job of an earlier request with the same key and body. Raises `NameInUseError` where another job
        drives the sweep or is to, or where `name_taken` says so, `OtherBodyError` and `QueueFullError`.
        """
        with self._lock:
            if job.key is not None and (known := self.of_key(job.token, job.key, job.digest)) is not None:
                return known
            self._refuse(job, name_taken)
            folder = self.folder(job.id)
            make_private(folder.path)
            if text is not None:
                folder.request_file.write_text(text)
                folder.request_file.chmod(0o600)
            # The last: with it, the job is there.
            folder.write(job)
            self._take(job)
        self._tell()
        return job

    def next_id(self) -> str:
        """Return the id of a new job, after all those before it."""
        with self._lock:
            now = time.time()
            made = new_id(now)
            while made <= self._last_id:
                now += 0.001
                made = new_id(now)
            self._last_id = made
            return made

    def _refuse(self, job: Job, name_taken: Callable[[str], bool] | None) -> None:
        if job.sweep is not None and job.kind.runs_sweep:
            other = self.unfinished_of(job.sweep)
            if other is not None:
                raise driven_already(other)
            if name_taken is not None and name_taken(job.sweep):
                raise name_in_use(job.sweep)
        waiting = [one.owner for one in self._open.values() if one.state is JobState.QUEUED]
        if len(waiting) >= MAX_WAITING or waiting.count(job.owner) >= MAX_WAITING_OF_ONE:
            raise QueueFullError(
                f"There are {len(waiting)} jobs in the queue, {waiting.count(job.owner)} of them of {job.owner}; "
                f"allowed: {MAX_WAITING}, and {MAX_WAITING_OF_ONE} of one user."
            )

    def change(self, job: str, of: Collection[JobState], **changes: Any) -> Job | None:
        """Change a job that is in one of these states, and return it; None where it is in another by now."""
        with self._lock:
            known = self._jobs.get(job)
            if known is None or known.state not in of:
                return None
            changed = replace(known, **changes)
            self.folder(job).write(changed)
            self._take(changed)
        self._tell()
        return changed

    def _tell(self) -> None:
        for call in self._changed:
            call()


def name_in_use(name: str) -> NameInUseError:
    """Build the refusal of a launch under the name of a sweep that was launched before."""
    return NameInUseError(
        f"sweep.name: {name!r} is not allowed; allowed: a name that is not taken, with sweep.name=..., or "
        f"POST /sweeps/{name}/resume to go on with the sweep that has it."
    )


def driven_already(job: Job) -> NameInUseError:
    """Build the refusal of a second job that drives a sweep beside this one."""
    state = "in the queue" if job.state is JobState.QUEUED else "running"
    return NameInUseError(f"Sweep {job.sweep!r} is {state} as job {job.id}.")
