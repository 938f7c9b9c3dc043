"""How a request becomes a job: checked as `swathe launch` would, then kept once, however often it comes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from swathe.errors import BadInputError
from swathe.home import Home
from swathe.objectives import goal_of
from swathe.service.job_models import LaunchRequest, LrFindRequest, ReportRequest, ReproduceRequest, TrainRequest
from swathe.service.job_records import Job, JobKind, from_working_folder
from swathe.service.jobs import (
    Jobs,
    NameInUseError,
    OtherBodyError,
    QueueFullError,
    driven_already,
    name_in_use,
)
from swathe.service.problems import ProblemError
from swathe.service.queue import Devices
from swathe.service.sweeps import Sweeps
from swathe.service.tokens import Role, Token
from swathe.service.validation import examine

# Checks at once, each of which is a process that may import PyTorch; and how many may wait for their turn.
CHECKS, WAITING = 2, 16
# How often, and how many times, it is looked whether the end of a sweep has been noted (seconds).
_LOOK_SECONDS, _LOOKS = 0.25, 24
# What trains in one process, where there are GPUs.
_ONE = Devices(1.0, 1.0)


class Checks:
    """The checks of requests in processes of their own, a few at once."""

    def __init__(self, home: Home, allowed_modules: Sequence[str]) -> None:
        self._home = home
        self._allowed_modules = tuple(allowed_modules)
        self._turns = asyncio.Semaphore(CHECKS)
        self._asked = 0

    async def examine(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Check a request, see `validation.examine`; one too many is refused with 429."""
        if self._asked >= CHECKS + WAITING:
            detail = f"There are {self._asked} sweeps to check already; allowed: one more in 5 s."
            raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": "5"})
        self._asked += 1
        try:
            async with self._turns:
                return await examine(self._home.path, request, self._allowed_modules)
        finally:
            self._asked -= 1


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks for a job, and how: the Idempotency-Key and a digest of the request, of which the key is for one."""

    token: Token
    key: str | None
    digest: str


def asked(token: Token, key: str | None, path: str, body: BaseModel | None) -> Asked:
    """Return who asks for what."""
    text = json.dumps([path, None if body is None else body.model_dump(mode="json")], sort_keys=True)
    return Asked(token, key, hashlib.sha256(text.encode()).hexdigest())


class Launcher:
    """Makes jobs of requests."""

    def __init__(self, home: Home, jobs: Jobs, sweeps: Sweeps, checks: Checks) -> None:
        self._home = home
        self._jobs = jobs
        self._sweeps = sweeps
        self._checks = checks
        # By token and key: a request that comes while the same one is being checked waits for it.
        self._under_way: dict[tuple[str, str], asyncio.Lock] = {}

    async def launch(self, who: Asked, body: LaunchRequest) -> tuple[Job, bool]:
        """Keep the launch of a sweep; return its job, and whether it is new."""
        if (body.sweep is None) == (body.yaml is None):
            raise BadInputError("sweep: either the name of a sweep or its yaml is allowed, and not both or neither.")

        async def make() -> tuple[Job, str | None]:
            request = {"kind": "launch", "sweep": body.sweep, "yaml": body.yaml, "overrides": body.overrides}
            found = await self._checks.examine({**request, "new": True})
            if "taken" in found:
                raise name_in_use(found["taken"])
            job = self._sweep_job(who, JobKind.LAUNCH, found, body.priority)
            sweep = body.sweep or self._request_file(job)
            return self._with(job, "launch", "--", sweep, *body.overrides), body.yaml

        return await self._once(who, body.priority, make, name_taken=lambda name: bool(self._home.sweep(name).card()))

    async def resume(self, who: Asked, name: str, overrides: Sequence[str], priority: int) -> tuple[Job, bool]:
        """Keep that a sweep is to go on."""
        if self._jobs.unfinished_of(name) is None:
            await asyncio.to_thread(self._sweeps.find, name)

        async def make() -> tuple[Job, str | None]:
            if (other := await self._driving(name)) is not None:
                raise driven_already(other)
            if self._home.sweep(name).driver() is not None:
                raise ProblemError(HTTPStatus.CONFLICT, f"Sweep {name!r} is running.")
            found = await self._checks.examine({"kind": "resume", "name": name, "overrides": list(overrides)})
            job = self._sweep_job(who, JobKind.RESUME, found, priority)
            return self._with(job, "resume", "--", name, *overrides), None

        return await self._once(who, priority, make)

    async def _driving(self, name: str) -> Job | None:
        """Return the job that drives a sweep; of one whose driver has just ended, only if that is not noted soon."""
        folder = self._home.sweep(name)
        for _ in range(_LOOKS):
            job = self._jobs.unfinished_of(name)
            if job is None or not job.state.active or folder.ending() is None or folder.driver() is not None:
                return job
            await asyncio.sleep(_LOOK_SECONDS)
        return job

    async def reproduce(self, who: Asked, name: str, body: ReproduceRequest) -> tuple[Job, bool]:
        """Keep that trials of a sweep are to be trained again; of the best one where none is named."""
        now = await asyncio.to_thread(self._sweeps.snapshot, name)

        async def make() -> tuple[Job, str | None]:
            for number in body.trials:
                now.trial(number)
            if not body.trials:
                await self._must_have_best(name)
            words = [word for number in body.trials for word in ("--trial", str(number))]
            return self._with(
                self._run_job(who, JobKind.REPRODUCE, name, body.priority), "reproduce", *words, name
            ), None

        return await self._once(who, body.priority, make)

    async def _must_have_best(self, name: str) -> None:
        try:
            await asyncio.to_thread(self._sweeps.best, name)
        except BadInputError as error:
            raise ProblemError(HTTPStatus.CONFLICT, str(error)) from error

    async def report(self, who: Asked, name: str, body: ReportRequest) -> tuple[Job, bool]:
        """Keep that a sweep's report is to be written."""
        await asyncio.to_thread(self._sweeps.find, name)

        async def make() -> tuple[Job, str | None]:
            words = ["--seeds" if body.seeds else "--no-seeds", "--pruned", str(body.pruned)]
            return self._with(self._run_job(who, JobKind.REPORT, name, body.priority), "report", *words, name), None

        return await self._once(who, body.priority, make)

    async def train(self, who: Asked, body: TrainRequest) -> tuple[Job, bool]:
        """Keep a run without a search, or a search for its learning rate."""

        async def make() -> tuple[Job, str | None]:
            kind = JobKind.LR_FIND if isinstance(body, LrFindRequest) else JobKind.TRAIN
            request: dict[str, Any] = {"kind": kind.value, "yaml": body.config, "overrides": body.overrides}
            words: list[str] = []
            if isinstance(body, LrFindRequest):
                options = {key: getattr(body, key) for key in ("from_lr", "to_lr", "rates", "steps")}
                request["options"] = options
                words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
            found = await self._checks.examine(request)
            each = Devices(float(found["threads"]), 0.0 if found["device"] == "cpu" else 1.0)
            job = self._run_job(who, kind, None, body.priority, each)
            if body.config is not None:
                words += ["--from", self._request_file(job)]
            return self._with(job, kind.value, *words, "--", *body.overrides), body.config

        return await self._once(who, body.priority, make)

    # A job from its parts.

    def _sweep_job(self, who: Asked, kind: JobKind, found: Mapping[str, Any], priority: int) -> Job:
        config = found["config"]
        cluster, section = config["cluster"], config["sweep"]
        inline = cluster["kind"] == "inline"
        share = cluster["gpus_per_worker"]
        gpus = 0.0 if config.get("device") == "cpu" else 1.0 if share is None else float(share)
        goal = goal_of(section)
        about = {
            "metric": goal.first.metric,
            "direction": goal.first.direction.value,
            "trials": found["trials"],
            "metrics": list(goal.metrics),
            "directions": [direction.value for direction in goal.directions],
        }
        # Workers that hold nothing, as their trials start processes of their own, count as a CPU each.
        each = Devices(1.0 if inline else float(cluster["cpus_per_worker"]) or 1.0, gpus)
        job = self._new(who, kind, found["name"], priority)
        return replace(job, workers=1 if inline else cluster["workers"], each=each, inline=inline, about=about)

    def _run_job(self, who: Asked, kind: JobKind, sweep: str | None, priority: int, each: Devices = _ONE) -> Job:
        return replace(self._new(who, kind, sweep, priority), each=each)

    def _new(self, who: Asked, kind: JobKind, sweep: str | None, priority: int) -> Job:
        return Job(
            id=self._jobs.next_id(),
            kind=kind,
            sweep=sweep,
            owner=who.token.name,
            token=who.token.id,
            priority=priority,
            created=time.time(),
            folder=str(Path.cwd()),
            arguments=(),
            workers=1,
            each=_ONE,
            key=who.key,
            digest=who.digest,
        )

    def _with(self, job: Job, *arguments: str) -> Job:
        return replace(job, arguments=arguments)

    def _request_file(self, job: Job) -> str:
        return from_working_folder(self._jobs.folder(job.id).request_file)

    # Once.

    async def _once(
        self,
        who: Asked,
        priority: int,
        make: Callable[[], Any],
        name_taken: Callable[[str], bool] | None = None,
    ) -> tuple[Job, bool]:
        if priority > 0 and Role(who.token.role) is not Role.ADMIN:
            raise ProblemError(
                HTTPStatus.FORBIDDEN, f"priority: {priority} is not allowed; allowed: at most 0, and more for admins."
            )
        try:
            async with self._turn_of(who):
                if who.key is not None and (known := self._jobs.of_key(who.token.id, who.key, who.digest)) is not None:
                    return known, False
                job, text = await make()
                kept = await asyncio.to_thread(lambda: self._jobs.create(job, text, name_taken=name_taken))
                return kept, kept.id == job.id
        except (NameInUseError, OtherBodyError) as error:
            raise ProblemError(HTTPStatus.CONFLICT, str(error)) from error
        except QueueFullError as error:
            raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, str(error), {"Retry-After": "60"}) from error
        except OSError as error:
            detail = f"The job cannot be kept on the server's disk ({error.strerror})."
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail) from error

    @asynccontextmanager
    async def _turn_of(self, who: Asked) -> AsyncIterator[None]:
        if who.key is None:
            yield
            return
        name = (who.token.id, who.key)
        lock = self._under_way.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._under_way.pop(name, None)
