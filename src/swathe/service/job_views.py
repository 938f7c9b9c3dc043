"""Jobs, the cluster and sweeps that wait, as the API shows them."""

from __future__ import annotations

import asyncio
import math
import shlex
import time
from typing import Any

from swathe.errors import SwatheError
from swathe.service import job_models as models
from swathe.service.clusters import Cluster
from swathe.service.dispatcher import Dispatcher
from swathe.service.job_records import Job, JobState
from swathe.service.jobs import Jobs

# What is younger (seconds) is not asked of Ray again.
FRESH_SECONDS = 2.0


class Views:
    """What there is to see of the jobs; `dispatcher` and `cluster` None: a server that starts none."""

    def __init__(self, jobs: Jobs, dispatcher: Dispatcher | None, cluster: Cluster | None) -> None:
        self._jobs = jobs
        self._dispatcher = dispatcher
        self._cluster = cluster
        self._asking = asyncio.Lock()
        self._asked = -FRESH_SECONDS
        self._known: list[models.Node] = []

    def job(self, job: Job, *, with_result: bool = False) -> models.Job:
        """Return a job, with its result if that is wanted, which is read from its file."""
        position = self._jobs.position(job)
        return models.Job(
            id=job.id,
            kind=job.kind.value,
            sweep=job.sweep,
            owner=job.owner,
            priority=job.priority,
            state=job.state.value,
            position=position,
            created=job.created,
            started=job.started,
            ended=job.ended,
            devices=None if job.has is None else math.ceil(job.has.count),
            detail=job.detail if position is None else self._why(job, position),
            exit_code=job.exit_code,
            result=self._jobs.folder(job.id).result() if with_result else None,
        )

    def _why(self, job: Job, position: int) -> str:
        """Say why a job waits."""
        before = "It waits for free devices." if position == 1 else f"{position - 1} others are before it."
        if self._dispatcher is not None:
            before = self._dispatcher.too_large.get(job.id) or self._dispatcher.problem or before
        return before if job.detail is None else f"{job.detail} {before}"

    def latest_of(self, sweep: str) -> models.Job | None:
        """Return a sweep's latest job."""
        job = self._jobs.latest_of(sweep)
        return None if job is None else self.job(job)

    def owner_of(self, sweep: str) -> str | None:
        """Return who had a sweep launched; None where nobody had, over HTTP."""
        job = self._jobs.first_of(sweep)
        return None if job is None else job.owner

    def about(self, sweep: str) -> dict[str, Any]:
        """Return what every answer about a sweep has of its jobs."""
        return {"job": self.latest_of(sweep), "owner": self.owner_of(sweep)}

    def waiting_sweep(self, sweep: str) -> dict[str, Any] | None:
        """Return a sweep that has no trials yet as it is shown; None where no job is to launch one of this name."""
        job = self._jobs.latest_of(sweep)
        if job is None or not job.kind.runs_sweep:
            return None
        said = f"{job.state.value}: {job.detail}" if job.state.over and job.detail else job.state.value
        return {
            "metric": "",
            "direction": "minimize",
            "trials": 0,
            "metrics": [],
            "directions": [],
            "constraints": {},
            "front": [],
            "feasible": None,
            **job.about,
            "name": sweep,
            "status": said.rstrip("."),
            "alive": False,
            "counts": {},
            "best": None,
            "best_params": {},
            "failures": [],
            "diagnosis": {},
            "latest": [],
            "session": None,
            "command": self.command(job),
            "created": job.created,
            **self.about(sweep),
        }

    def command(self, job: Job) -> str:
        """Return a job's command as people would type it."""
        return shlex.join(["swathe", *(word for word in job.arguments if word != "--")])

    async def cluster(self) -> models.ClusterState:
        """Return the cluster as Ray has it, what runs, and who is next."""
        running = [self.job(job) for job in self._jobs.active()]
        queued = sorted(map(self.job, self._jobs.waiting()), key=lambda job: (job.position or 0, job.id))
        return models.ClusterState(nodes=await self._nodes(), running=running, queued=queued, users=self._users())

    async def _nodes(self) -> list[models.Node]:
        """Return the nodes, as they were at most `FRESH_SECONDS` ago: many may ask, and Ray is not quick."""
        async with self._asking:
            if time.monotonic() >= self._asked + FRESH_SECONDS:
                self._known = await self._ask_for_nodes()
                self._asked = time.monotonic()
            return self._known

    async def _ask_for_nodes(self) -> list[models.Node]:
        if self._cluster is None:
            return []
        try:
            client = await self._cluster.known()
            nodes = [] if client is None else await client.nodes()
        except SwatheError:
            # Away, or not ready yet: the queue is there all the same.
            return []
        return [
            models.Node(
                id=node.id,
                alive=node.alive,
                cpus=node.has.cpus,
                gpus=node.has.gpus,
                cpus_used=node.used.cpus,
                gpus_used=node.used.gpus,
            )
            for node in nodes
        ]

    def _users(self) -> list[models.User]:
        held, shares = self._jobs.held(), self._jobs.shares(time.time())
        waiting = {job.owner for job in self._jobs.waiting()}
        names = sorted({*held, *shares, *waiting})
        return [
            models.User(name=name, devices=held.get(name, 0.0), device_seconds=round(shares.get(name, 0.0), 3))
            for name in names
        ]


def selected(
    jobs: list[Job], *, state: str | None, kind: str | None, owner: str | None, sweep: str | None
) -> list[Job]:
    """Return the jobs for which all that is given holds."""
    return [
        job
        for job in jobs
        if (state is None or job.state is JobState(state))
        and (kind is None or job.kind.value == kind)
        and (owner is None or job.owner == owner)
        and (sweep is None or job.sweep == sweep)
    ]
