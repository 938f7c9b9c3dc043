"""Starts the jobs whose turn it is, watches those that run and notes how they end.

It decides from the jobs' records, from what their processes wrote and from what Ray says, all of which outlive this
process: killed at any instant and started again, it goes on where it was. What it does to Ray has an id that was
written down before, so that doing it twice is doing it once.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from swathe.errors import BadInputError, SwatheError
from swathe.home import Home
from swathe.service import queue
from swathe.service.clusters import Cluster
from swathe.service.job_records import Job, JobEnd, JobState
from swathe.service.jobs import Jobs
from swathe.service.queue import Devices, Needs, Start, Waiting
from swathe.service.ray_jobs import RayAwayError, RayJobs, RayNode, RayRefusedError
from swathe.service.sweeps import Sweeps

log = logging.getLogger("swathe.service")

# How often the ends of running jobs are looked for, and how often Ray is asked for them (seconds).
LOOK_SECONDS, ASK_SECONDS = 1.0, 3.0
# After how long (seconds) a cluster that could not be had is tried again.
AGAIN_SECONDS = 5.0
# A job that was lost so many times in a row without a trial that finished has failed.
MAX_FRUITLESS = 3
# What an end may be that is the command's own word; others may be Ray's.
_OWN_ENDS = (0, 2, 3, 130)
# Above this, a signal has ended it, as a shell says it.
_KILLED = 130
_ACTIVE = (JobState.STARTING, JobState.RUNNING, JobState.STOPPING)


@contextmanager
def only_server(home: Home) -> Iterator[None]:
    """Hold the lock of the one server that a home may have; the system frees it when the process dies.

    Raises `BadInputError` where another has it.
    """
    home.path.mkdir(parents=True, exist_ok=True)
    with (home.path / "server.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BadInputError(
                f"SWATHE_HOME: {str(home.path)!r} is served by process {file.read() or 'unknown'} already; allowed: a "
                "home that no other server has."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


class Dispatcher:
    """The one task that moves jobs from the queue to Ray and on."""

    def __init__(self, home: Home, jobs: Jobs, sweeps: Sweeps, cluster: Cluster) -> None:
        self._home = home
        self._jobs = jobs
        self._sweeps = sweeps
        self._cluster = cluster
        self._asked: dict[str, float] = {}
        self._stopped: set[str] = set()
        self._changed = asyncio.Event()
        self._decided, self._decided_at = -1, 0.0
        # Why no job can start now, and why some never can in this cluster, in sentences; these by job.
        self.problem: str | None = None
        self.too_large: dict[str, str] = {}

    async def run(self) -> None:
        """Go on until this task is cancelled."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._changed.set)

        self._jobs.on_change(wake)
        while True:
            self._changed.clear()
            wait = LOOK_SECONDS
            try:
                await self._look()
            except SwatheError as error:
                if self.problem != str(error):
                    log.error("%s", error)
                self.problem = str(error)
                wait = AGAIN_SECONDS
            except Exception:
                log.exception("The dispatcher failed; it goes on.")
                wait = AGAIN_SECONDS
            idle = not self._jobs.active() and not self._jobs.waiting()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if idle else wait):
                    await self._changed.wait()

    async def _look(self) -> None:
        for error in await asyncio.gather(*map(self._watch, self._jobs.active()), return_exceptions=True):
            # One job's trouble must not end the others.
            if isinstance(error, Exception):
                log.error("A job cannot be watched; it is tried again.", exc_info=error)
        if self._jobs.waiting():
            await self._start_next()

    # What runs.

    async def _watch(self, job: Job) -> None:
        """See whether a job has ended, was lost, or is to be told something."""
        end = await asyncio.to_thread(self._jobs.folder(job.id).end_of, job.attempt)
        if end is not None and end.exit_code in _OWN_ENDS:
            await self._finish(job, end)
            return
        now = time.monotonic()
        if end is None and job.state is JobState.RUNNING and now - self._asked.get(job.id, 0.0) < ASK_SECONDS:
            return
        self._asked[job.id] = now
        client = await self._cluster.known()
        if client is None:
            await self._lost(job, "its Ray was gone")
            return
        try:
            await self._ask(job, client)
        except (RayAwayError, RayRefusedError) as error:
            # It may come back; and what ends meanwhile says so itself.
            self.problem = str(error)

    async def _ask(self, job: Job, client: RayJobs) -> None:
        status = await client.status(job.submission)
        # Once more: it may have been written since.
        end = await asyncio.to_thread(self._jobs.folder(job.id).end_of, job.attempt)
        if end is not None and status is not None and end.exit_code > _KILLED:
            await self._lost(job, "its process was killed")
        elif end is not None and status is not None:
            await self._finish(job, end)
        elif status is None and job.state is JobState.STARTING:
            # This was written down, and then somebody died: it was never submitted.
            await self._submit(job, client)
        elif status is None:
            await self._lost(job, "Ray was started anew")
        elif status.over:
            await self._lost(job, f"its process ended ({_first_line(status.message)})")
        elif job.state is JobState.STOPPING:
            await self._tell_to_stop(job, client)
        elif status.status == "RUNNING" and job.state is JobState.STARTING:
            await self._change(job, of=(JobState.STARTING,), state=JobState.RUNNING)

    async def _finish(self, job: Job, end: JobEnd) -> None:
        now = self._jobs.find(job.id) or job
        stopped = end.exit_code == 130 or (now.state is JobState.STOPPING and end.exit_code != 0)
        state = JobState.STOPPED if stopped else JobState.DONE if end.exit_code == 0 else JobState.FAILED
        detail = end.detail if state is JobState.FAILED else None
        if state is JobState.FAILED and end.exit_code == 3:
            detail = "Not every number is the same; the result says which are not."
        await self._change(job, state=state, ended=end.ended, exit_code=end.exit_code, detail=detail)
        self._forget(job)

    async def _lost(self, job: Job, why: str) -> None:
        """Put a job back whose process has gone without a word, unless that happens again and again."""
        self._forget(job)
        stopped = {"state": JobState.STOPPED, "ended": time.time(), "detail": f"While it was to stop, {why}."}
        if await self._change(job, of=(JobState.STOPPING,), **stopped) is not None:
            return
        # Somebody may ask it to stop from here on; the next look finds that.
        running = (JobState.STARTING, JobState.RUNNING)
        finished = await asyncio.to_thread(self._finished, job)
        fruitless = 1 if finished > job.finished else job.fruitless + 1
        if fruitless >= MAX_FRUITLESS:
            detail = f"It was lost {fruitless} times in a row without a trial that finished; the last time {why}."
            await self._change(job, of=running, state=JobState.FAILED, ended=time.time(), detail=detail)
            return
        await self._change(
            job,
            of=running,
            state=JobState.QUEUED,
            started=None,
            has=None,
            given=None,
            fruitless=fruitless,
            finished=finished,
            detail=f"It was put back into the queue, as {why}; it goes on with what is there.",
        )

    def _finished(self, job: Job) -> int:
        """Return how many trials of a job's sweep are over; 0 where there is none (yet)."""
        if job.sweep is None or not job.kind.runs_sweep:
            return 0
        try:
            counts = self._sweeps.overview(job.sweep)[1].counts
        except SwatheError:
            return 0
        return sum(count for state, count in counts.items() if state.final)

    async def _tell_to_stop(self, job: Job, client: RayJobs) -> None:
        """Tell a job's process to stop: a sweep as `swathe stop` does, unless it is to stop now; others by ending it.

        A driver that has just begun overlooks what came before, so that a sweep is told at each look.
        """
        if job.kind.runs_sweep and not job.stop_now and job.sweep is not None:
            with suppress(BadInputError):
                await asyncio.to_thread(self._home.sweep(job.sweep).ask_to_stop)
        elif job.id not in self._stopped:
            self._stopped.add(job.id)
            await client.stop(job.submission)

    def _forget(self, job: Job) -> None:
        self._asked.pop(job.id, None)
        self._stopped.discard(job.id)

    # What starts.

    async def _start_next(self) -> None:
        # What is free changes with the jobs, but for nodes that come and go.
        now = time.monotonic()
        if self._decided == self._jobs.version and now - self._decided_at < ASK_SECONDS:
            return
        client = await self._cluster.ready()
        nodes = await client.nodes()
        self.problem = None
        self._decided, self._decided_at = self._jobs.version, now
        have = total(nodes)
        for start in await asyncio.to_thread(self._decide, have):
            await self._start(start, have, client)

    def _decide(self, have: Devices) -> tuple[Start, ...]:
        free = have
        for job in self._jobs.active():
            free -= job.has or Devices()
        line = [placed(job, have) for job in self._jobs.waiting()]
        # Nothing is let past the first in line, so that what never fits must not be in it.
        self.too_large = {job.id: _too_large(job.needs, have) for job in line if not _fits(job.needs, have)}
        fitting = [job for job in line if job.id not in self.too_large]
        found = queue.next_starts(fitting, self._jobs.held(), free, self._jobs.shares(), self._jobs.reserved)
        self._jobs.reserved = found.reserved
        return found.starts

    async def _start(self, start: Start, have: Devices, client: RayJobs) -> None:
        job = self._jobs.find(start.id)
        if job is None:
            return
        started = await self._change(
            job,
            of=(JobState.QUEUED,),
            state=JobState.STARTING,
            started=time.time(),
            attempt=job.attempt + 1,
            given=start.workers,
            has=placed(job, have).needs.each.times(start.workers),
            detail=None,
        )
        # Somebody may have taken it out of the queue meanwhile.
        if started is not None:
            await self._submit(started, client)

    async def _submit(self, job: Job, client: RayJobs) -> None:
        folder = self._jobs.folder(job.id).path
        words = [sys.executable, "-P", "-m", "swathe.service.entrypoint", str(folder), str(job.attempt)]
        assert job.has is not None
        # A sweep's workers take the devices; of the others, the process itself.
        here = Devices() if job.kind.runs_sweep and not job.inline else job.has
        try:
            await client.submit(job.submission, f"exec {shlex.join(words)}", here)
        except RayAwayError as error:
            # Whether it was submitted, Ray says when it is asked for it.
            self.problem = str(error)
        except RayRefusedError as error:
            await self._change(job, state=JobState.FAILED, ended=time.time(), detail=str(error))

    async def _change(self, job: Job, *, of: tuple[JobState, ...] = _ACTIVE, **changes: object) -> Job | None:
        return await asyncio.to_thread(lambda: self._jobs.change(job.id, of, **changes))


def total(nodes: list[RayNode]) -> Devices:
    """Return what the nodes that are alive have together."""
    found = Devices()
    for node in nodes:
        if node.alive:
            found += node.has
    return found


def placed(job: Job, have: Devices) -> Waiting:
    """Return a job as the queue sees it in a cluster that has these devices, as `RayPool` would spread its workers."""
    each = job.each if have.gpus > 0 else Devices(job.each.cpus)
    return replace(job.waiting, needs=Needs(job.workers, each))


def _fits(needs: Needs, have: Devices) -> bool:
    return needs.fitting(have) >= (needs.workers or 1)


def _too_large(needs: Needs, have: Devices) -> str:
    return (
        f"It waits for a larger cluster: {needs.workers or 1} workers of {needs.each.cpus:g} CPUs and "
        f"{needs.each.gpus:g} GPUs each do not fit into {have.cpus:g} CPUs and {have.gpus:g} GPUs."
    )


def _first_line(message: str) -> str:
    return (message.strip().splitlines() or ["without a word"])[0].rstrip(".")[:300]


class Dispatching:
    """A dispatcher's task, from the server's start to its end."""

    def __init__(self, dispatcher: Dispatcher, cluster: Cluster, jobs: Jobs, say: Callable[[str], None]) -> None:
        self._dispatcher = dispatcher
        self._cluster = cluster
        self._jobs = jobs
        self._say = say
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin; there must be a running loop."""
        self._task = asyncio.create_task(self._dispatcher.run())

    async def end(self) -> None:
        """End the task, and the Ray of its own unless jobs run in it."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        running = [job.sweep or job.kind.value for job in self._jobs.active()]
        if running:
            self._say(f"What runs goes on without the server: {', '.join(running)}. End it with: swathe serve --stop")
            await self._cluster.close()
        else:
            await self._cluster.end()
