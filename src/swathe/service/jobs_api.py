"""The part of the HTTP API that makes jobs, shows and stops them, and shows the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from swathe.service.job_models import (
    ClusterState,
    Job,
    JobLog,
    JobPage,
    Kind,
    LaunchRequest,
    LrFindRequest,
    PriorityRequest,
    ReportRequest,
    ReproduceRequest,
    ResumeRequest,
    State,
    TrainRequest,
)
from swathe.service.job_records import Job as Record
from swathe.service.job_records import JobState, is_id
from swathe.service.job_views import Views, selected
from swathe.service.jobs import Jobs
from swathe.service.launching import Launcher, asked
from swathe.service.models import Page, Said
from swathe.service.problems import ProblemError, responses
from swathe.service.roles import BEARER, RUNNER, VIEWER
from swathe.service.stopping import stop, stop_sweep
from swathe.service.sweeps import Sweeps
from swathe.service.tokens import Role, Token

# Of a log at once (bytes).
MAX_LOG = 256 * 1024
# What a report may load and run: what is in it, and nothing of this server's.
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; frame-ancestors 'none'"
)

Name = Annotated[str, Path(description="A sweep of the server's working folder.")]
JobId = Annotated[str, Path(description="The id of a job.")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[ -~]+$",
        description="The same key of the same token creates no second job: the answer is the first one's job.",
    ),
]
_NOT_FOUND = responses(HTTPStatus.NOT_FOUND)
_CONFLICT = responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)


def _created(*statuses: HTTPStatus) -> dict[str, Any]:
    """Return what a creation answers: 201, or 200 where its Idempotency-Key came before."""
    schema = {"schema": {"$ref": "#/components/schemas/Job"}}
    again = {"description": "The job of an earlier request with this key.", "content": {"application/json": schema}}
    return {"status_code": HTTPStatus.CREATED, "responses": {**responses(HTTPStatus.CONFLICT, *statuses), 200: again}}


read = APIRouter(dependencies=[BEARER, VIEWER], responses=responses())
run = APIRouter(dependencies=[BEARER, RUNNER], responses=responses())


def _jobs(request: Request) -> Jobs:
    return request.app.state.jobs  # type: ignore[no-any-return]


def _views(request: Request) -> Views:
    return request.app.state.views  # type: ignore[no-any-return]


def _launcher(request: Request) -> Launcher:
    return request.app.state.launcher  # type: ignore[no-any-return]


def _found(request: Request, job: str) -> Record:
    found = _jobs(request).find(job) if is_id(job) else None
    if found is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, f"There is no job {job!r}.")
    return found


def _answer(request: Request, response: Response, made: tuple[Record, bool]) -> Job:
    job, new = made
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    response.status_code = HTTPStatus.CREATED if new else HTTPStatus.OK
    return _views(request).job(job, with_result=not new)


# Creating.


@run.post("/sweeps", **_created())
async def launch_sweep(request: Request, response: Response, body: LaunchRequest, key: Key = None) -> Job:
    """Launch a sweep: it is checked as `swathe launch` does, and waits in the queue for its devices."""
    who = asked(request.state.token, key, "/sweeps", body)
    return _answer(request, response, await _launcher(request).launch(who, body))


@run.post("/sweeps/{name}/resume", **_created(HTTPStatus.NOT_FOUND))
async def resume_sweep(
    request: Request, response: Response, name: Name, body: ResumeRequest | None = None, key: Key = None
) -> Job:
    """Go on with a sweep, as `swathe resume` does."""
    given = body or ResumeRequest()
    who = asked(request.state.token, key, f"/sweeps/{name}/resume", given)
    made = await _launcher(request).resume(who, name, given.overrides, given.priority)
    return _answer(request, response, made)


@run.post("/sweeps/{name}/reproduce", **_created(HTTPStatus.NOT_FOUND))
async def reproduce_trials(
    request: Request, response: Response, name: Name, body: ReproduceRequest | None = None, key: Key = None
) -> Job:
    """Train trials of a sweep again and compare every number, as `swathe reproduce` does."""
    given = body or ReproduceRequest()
    who = asked(request.state.token, key, f"/sweeps/{name}/reproduce", given)
    return _answer(request, response, await _launcher(request).reproduce(who, name, given))


@run.post("/sweeps/{name}/report", **_created(HTTPStatus.NOT_FOUND))
async def make_report(
    request: Request, response: Response, name: Name, body: ReportRequest | None = None, key: Key = None
) -> Job:
    """Write a sweep's report, as `swathe report` does."""
    given = body or ReportRequest()
    who = asked(request.state.token, key, f"/sweeps/{name}/report", given)
    return _answer(request, response, await _launcher(request).report(who, name, given))


@run.post("/train", **_created())
async def train(request: Request, response: Response, body: TrainRequest, key: Key = None) -> Job:
    """Train one run, without a search, as `swathe train` does."""
    who = asked(request.state.token, key, "/train", body)
    return _answer(request, response, await _launcher(request).train(who, body))


@run.post("/lr-find", **_created())
async def find_learning_rate(request: Request, response: Response, body: LrFindRequest, key: Key = None) -> Job:
    """Find the learning rate of a run, as `swathe lr-find` does."""
    who = asked(request.state.token, key, "/lr-find", body)
    return _answer(request, response, await _launcher(request).train(who, body))


# Stopping and moving.


@run.post("/sweeps/{name}/stop", responses=_CONFLICT)
def stop_a_sweep(request: Request, name: Name) -> Said:
    """Ask a running sweep to stop, as `swathe stop` does, or take it out of the queue; once more ends its process."""
    sweeps: Sweeps = request.app.state.sweeps
    if _jobs(request).unfinished_of(name) is None:
        sweeps.find(name)
    return Said(detail=stop_sweep(sweeps.home, _jobs(request), name))


@run.post("/jobs/{job}/stop", responses=_CONFLICT)
def stop_job(request: Request, job: JobId) -> Said:
    """Take a job out of the queue, or ask it to stop; once more ends its process."""
    return Said(detail=stop(request.app.state.sweeps.home, _jobs(request), _found(request, job)))


@run.put("/sweeps/{name}/priority", responses=_CONFLICT)
def set_priority(request: Request, name: Name, body: PriorityRequest) -> Job:
    """Give a sweep's waiting job another priority: one's own, or, for admins, anybody's."""
    jobs, token = _jobs(request), request.state.token
    job = jobs.unfinished_of(name)
    if job is None:
        request.app.state.sweeps.find(name)
        raise ProblemError(HTTPStatus.CONFLICT, f"No job of sweep {name!r} waits.")
    _refuse_priority(token, job, body.priority)
    changed = jobs.change(job.id, (JobState.QUEUED,), priority=body.priority)
    if changed is None:
        raise ProblemError(HTTPStatus.CONFLICT, f"No job of sweep {name!r} waits any more.")
    return _views(request).job(changed)


def _refuse_priority(token: Token, job: Record, priority: int) -> None:
    if Role(token.role) is Role.ADMIN:
        return
    if job.token != token.id:
        raise ProblemError(HTTPStatus.FORBIDDEN, f"Sweep {job.sweep!r} is {job.owner}'s; allowed: one's own, or admin.")
    if priority > 0:
        detail = f"priority: {priority} is not allowed; allowed: at most 0, and more for admins."
        raise ProblemError(HTTPStatus.FORBIDDEN, detail)


# Reading.


@read.get("/jobs")
def list_jobs(
    request: Request,
    state: State | None = None,
    kind: Kind | None = None,
    owner: Annotated[str | None, Query(max_length=100)] = None,
    sweep: Annotated[str | None, Query(max_length=100)] = None,
    limit: Page = 50,
    cursor: Annotated[str | None, Query(max_length=100, description="`next` of the page before.")] = None,
) -> JobPage:
    """List the jobs, the newest first."""
    found = selected(_jobs(request).all(), state=state, kind=kind, owner=owner, sweep=sweep)
    rest: Sequence[Record] = [job for job in found if cursor is None or job.id < cursor]
    page = rest[:limit]
    return JobPage(
        total=len(found),
        jobs=[_views(request).job(job) for job in page],
        next=page[-1].id if len(rest) > limit else None,
    )


@read.get("/jobs/{job}", responses=_NOT_FOUND)
def get_job(request: Request, job: JobId) -> Job:
    """Show a job, with what its command printed."""
    return _views(request).job(_found(request, job), with_result=True)


@read.get("/jobs/{job}/log", responses=_NOT_FOUND)
def get_log(request: Request, job: JobId, offset: Annotated[int, Query(ge=0, le=2**53)] = 0) -> JobLog:
    """Return a job's log from a byte on, at most 256 KiB of it."""
    # First of all: what is over writes no more.
    over = _found(request, job).state.over
    text, following = _jobs(request).folder(job).log(offset, MAX_LOG)
    return JobLog(text=text, next=following, complete=over and not text)


@read.get("/cluster")
async def get_cluster(request: Request) -> ClusterState:
    """Show the cluster's nodes, what runs, who is next, and what each user has and had."""
    return await _views(request).cluster()


@read.get(
    "/sweeps/{name}/report",
    response_class=FileResponse,
    responses={
        **_NOT_FOUND,
        200: {"description": "The report.", "content": {"text/html": {"schema": {"type": "string"}}}},
    },
)
async def get_report(request: Request, name: Name) -> FileResponse:
    """Return the sweep's report, an HTML page that loads nothing."""
    sweeps: Sweeps = request.app.state.sweeps
    folder, _ = await run_in_threadpool(sweeps.find, name)
    path = folder.path / f"{name}-report.html"
    if not path.is_file():
        raise ProblemError(HTTPStatus.NOT_FOUND, f"Sweep {name!r} has no report yet; POST there to have one written.")
    # For the guard, which sets this header on every answer.
    request.state.headers = {b"content-security-policy": REPORT_POLICY.encode()}
    return FileResponse(path, media_type="text/html")


routers = (run, read)
