"""The HTTP API: what each path answers. It only parses, asks and shapes; what is slow runs in a thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from swathe import __version__
from swathe.analysis import last_value
from swathe.diagnosis import TAG, symptoms_of
from swathe.errors import BadInputError, SwatheError, bad_value
from swathe.home import Home, SweepCard
from swathe.overview import Overview
from swathe.plain import finite
from swathe.service import jobs_api, pages, problems, proxy, signing
from swathe.service.admission import FAILURES, REQUESTS, Admission, Rate
from swathe.service.catalog import catalog
from swathe.service.clusters import Cluster
from swathe.service.dispatcher import Dispatcher, Dispatching
from swathe.service.guard import HEALTH, PREFIX, Audit, Guard
from swathe.service.job_views import Views
from swathe.service.jobs import Jobs
from swathe.service.launching import Checks, Launcher
from swathe.service.models import (
    BestConfig,
    Catalog,
    ComparedTrial,
    Comparison,
    Curve,
    Health,
    Importance,
    Page,
    Point,
    PointRepeats,
    Sweep,
    SweepDetail,
    SweepPage,
    Trial,
    TrialDetail,
    TrialPage,
    UnreadableSweep,
    Validated,
    ValidateRequest,
    VersusSweeps,
)
from swathe.service.problems import ProblemError, responses, without_folders
from swathe.service.roles import BEARER, RUNNER, VIEWER
from swathe.service.selection import MAX_PAGE, selection
from swathe.service.sessions import Session, Sessions
from swathe.service.spaces import space_of
from swathe.service.stream import Streams, last_place
from swathe.service.sweeps import NoSuchSweepError, Snapshot, Sweeps
from swathe.service.tokens import Authority, Token
from swathe.study import JOURNAL, PastTrial
from swathe.tracking import shown
from swathe.versus import MOST


def create_app(
    home: Home,
    *,
    allowed_modules: Sequence[str] = (),
    requests: Rate = REQUESTS,
    failures: Rate = FAILURES,
    tls: bool = False,
    behind_proxy: bool = False,
    stopping: Callable[[], bool] = lambda: False,
    cluster: Cluster | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ASGIApp:
    """Return the service of a home.

    `allowed_modules`: those whose functions a sweep that is checked may name. `stopping`: whether the server is about
    to end, so that its streams do. `cluster`: where jobs run (None: they wait); what becomes of it at the end is told
    to `say`.
    """
    authority = Authority(home)
    app = FastAPI(
        title="Swathe",
        version=__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    problems.install(app)
    app.state.sweeps, app.state.streams, app.state.authority = Sweeps(home), Streams(), authority
    app.state.streams.stopping = stopping
    app.state.checks = Checks(home, allowed_modules)
    jobs = app.state.jobs = Jobs(home)
    app.state.launcher = Launcher(home, jobs, app.state.sweeps, app.state.checks)
    app.state.views, app.state.dispatching = Views(jobs, None, None), None
    if cluster is not None:
        dispatcher = Dispatcher(home, jobs, app.state.sweeps, cluster)
        app.state.views = Views(jobs, dispatcher, cluster)
        app.state.dispatching = Dispatching(dispatcher, cluster, jobs, say)
    app.include_router(router)
    pages.install(app)
    app.state.proxies = proxy.install(app, home, app.state.sweeps)
    secure = tls or behind_proxy
    app.state.sessions = Sessions(home, authority, secure=secure)
    admission = Admission(authority, app.state.sessions, failures=failures, behind_proxy=behind_proxy)
    app.state.admission = admission
    return Guard(app, admission, Audit(home.path), requests=requests, secure=secure)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Its import takes a second, which no request should wait for.
    warming = asyncio.create_task(run_in_threadpool(_import_mlflow))
    dispatching: Dispatching | None = app.state.dispatching
    if dispatching is not None:
        dispatching.begin()
    yield
    if dispatching is not None:
        await dispatching.end()
    await warming
    for one in app.state.proxies:
        await one.close()


def _import_mlflow() -> None:
    import swathe.mlflow_runs  # noqa: F401


def _sweeps(request: Request) -> Sweeps:
    return request.app.state.sweeps  # type: ignore[no-any-return]


Readable = Annotated[Sweeps, Depends(_sweeps)]
Name = Annotated[str, Path(description="A sweep that was launched in the server's working folder.")]
Number = Annotated[int, Path(ge=0, le=2**31 - 1)]
NOT_FOUND = responses(HTTPStatus.NOT_FOUND)

health = APIRouter()
router = APIRouter(prefix=PREFIX)
read = APIRouter(dependencies=[BEARER, VIEWER], responses=responses())
run = APIRouter(dependencies=[BEARER, RUNNER], responses=responses())


@health.get(HEALTH.removeprefix(PREFIX))
def get_health() -> Health:
    """Say that the server answers; takes no token."""
    return Health(version=__version__)


@read.get("/sweeps")
def list_sweeps(
    request: Request, sweeps: Readable, limit: Page = 50, cursor: Annotated[str | None, Query(max_length=100)] = None
) -> SweepPage:
    """List the sweeps by name."""
    state = request.app.state
    names = sorted({*sweeps.names(), *state.jobs.driving()})
    rest = [name for name in names if cursor is None or name > cursor]
    page = rest[:limit]
    return SweepPage(
        total=len(names),
        sweeps=[_sweep_or_reason(sweeps, state.views, name) for name in page],
        next=page[-1] if len(rest) > limit else None,
    )


def _sweep_or_reason(sweeps: Sweeps, views: Views, name: str) -> Sweep | UnreadableSweep:
    try:
        return Sweep(**_sweep(*sweeps.overview(name)), **views.about(name))
    except NoSuchSweepError:
        waiting = views.waiting_sweep(name)
        return UnreadableSweep(name=name, status="gone") if waiting is None else Sweep(**waiting)
    except SwatheError as error:
        return UnreadableSweep(name=name, status=f"cannot be read: {shown(str(error)).rstrip('.')}")


def _sweep(card: SweepCard, found: Overview, alive: bool) -> dict[str, Any]:
    return {**found.as_dict(), "alive": alive, "command": shown(found.command), "created": card.created}


@read.get("/sweeps/{name}", responses=NOT_FOUND)
def get_sweep(request: Request, sweeps: Readable, name: Name) -> SweepDetail:
    """Say how a sweep stands."""
    views: Views = request.app.state.views
    # First of all: what happens meanwhile is told by the events after this place.
    try:
        now = sweeps.snapshot(name)
    except NoSuchSweepError:
        if (waiting := views.waiting_sweep(name)) is not None:
            return SweepDetail(**waiting, space={}, lanes={}, last_event_id=None)
        raise
    card, found, alive = sweeps.overview(name)
    return SweepDetail(
        **_sweep(card, replace(found, lanes=sweeps.lanes(name, alive=alive)), alive),
        **views.about(name),
        space=space_of(now.folder),
        last_event_id=now.place or str(_place_of(now)),
    )


def _place_of(now: Snapshot) -> int:
    return last_place(now.folder.path / JOURNAL, now.signature[1]) if now.signature else 0


@read.get("/sweeps/{name}/trials", responses=NOT_FOUND)
def list_trials(
    sweeps: Readable,
    name: Name,
    state: Annotated[list[str] | None, Query(description="Only trials in these states.")] = None,
    param: Annotated[
        list[str] | None, Query(description="Conditions: KEY=VALUE, KEY!=VALUE, KEY<=NUMBER, KEY>=NUMBER.")
    ] = None,
    sort: Annotated[
        str, Query(max_length=200, description="number, value (best first) or a parameter; -... the other way round.")
    ] = "number",
    limit: Page = 50,
    cursor: Annotated[str | None, Query(description="`next` of the page before.")] = None,
) -> TrialPage:
    """List a sweep's trials; pages hold still while trials arrive, since each begins after the last trial before."""
    now = sweeps.snapshot(name)
    chosen = selection(
        states=state or (),
        params=param or (),
        sort=sort,
        cursor=cursor,
        limit=limit,
        minimize=now.card.direction == "minimize",
    )
    total, page, following = chosen.of(now.history)
    return TrialPage(sweep=name, total=total, trials=[Trial(**_trial(one)) for one in page], next=following)


def _trial(past: PastTrial) -> dict[str, Any]:
    last = max(past.values, default=None)
    return {
        "number": past.number,
        "state": past.state.value,
        "value": past.value,
        "values": list(past.objectives) or None,
        "feasible": past.feasible,
        "last": None if last is None else {"step": last, "value": last_value(past)},
        "params": dict(past.params),
        "reason": str(past.attrs["reason"]) if past.attrs.get("reason") else None,
        "diagnosis": list(symptoms_of(past.attrs.get("diagnosis"))),
        **_place_and_times(past),
    }


def _place_and_times(past: PastTrial) -> dict[str, Any]:
    place = json.loads(str(past.attrs.get("place", "{}")))
    worker = place.get("worker", past.attrs.get("worker"))
    return {"worker": worker, "lane": place.get("lane"), "began": place.get("began"), "ended": past.ended}


@read.get("/sweeps/{name}/trials/{number}", responses=NOT_FOUND)
def get_trial(sweeps: Readable, name: Name, number: Number) -> TrialDetail:
    """Show a trial with its config and its record in MLflow."""
    now = sweeps.snapshot(name)
    past = now.trial(number)
    return TrialDetail(**_trial(past), **_recorded(sweeps, now, past))


def _recorded(sweeps: Sweeps, now: Snapshot, past: PastTrial) -> dict[str, Any]:
    nothing = {"run_id": None, "experiment_id": None, "config": None, "metrics": None, "findings": None}
    try:
        found = sweeps.run_of(now.card, past.number)
    except SwatheError as error:
        # How the trial stands is known all the same.
        return {**nothing, "record": without_folders(shown(str(error)), sweeps.home.path)}
    symptoms = symptoms_of(found.tags.get(TAG))
    return {
        "run_id": found.run_id,
        "experiment_id": found.experiment_id,
        "config": json.loads(found.tags.get("swathe.config", "null")),
        "metrics": dict(found.metrics),
        "findings": {symptom.value: found.tags.get(f"{TAG}.{symptom}", "") for symptom in symptoms},
        "record": None,
    }


@read.get("/sweeps/{name}/trials/{number}/curves", responses=NOT_FOUND)
def get_curve(
    sweeps: Readable,
    name: Name,
    number: Number,
    metric: Annotated[str | None, Query(max_length=250, description="Without it, the sweep's own.")] = None,
) -> Curve:
    """Return one metric of a trial by step."""
    chosen, values = sweeps.curve(name, number, metric)
    if not values and metric is not None:
        card = sweeps.find(name)[1]
        known = sorted({card.metric, *sweeps.run_of(card, number).metrics})
        if metric not in known:
            raise bad_value("metric", metric, ", ".join(known))
    points = [Point(step=step, value=value) for step, value in sorted(values.items())]
    return Curve(sweep=name, trial=number, metric=chosen, points=points)


@read.get("/sweeps/{name}/diagnosis", responses=NOT_FOUND)
def get_diagnosis(sweeps: Readable, name: Name) -> dict[str, Any]:
    """Say what is wrong in a sweep, as `swathe diagnose SWEEP --json` does."""
    return dict(finite(sweeps.diagnosis(name)))


@read.get("/sweeps/{name}/trials/{number}/diagnosis", responses=NOT_FOUND)
def get_trial_diagnosis(sweeps: Readable, name: Name, number: Number) -> dict[str, Any]:
    """Say what is wrong with a trial, as `swathe diagnose SWEEP --trial N --json` does."""
    return dict(finite(sweeps.trial_diagnosis(name, number)))


@read.get("/runs/{run_id}/diagnosis", responses=NOT_FOUND)
def get_run_diagnosis(
    sweeps: Readable, run_id: Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="A run in MLflow.")]
) -> dict[str, Any]:
    """Say what is wrong with a run, as `swathe diagnose RUN_ID --json` does."""
    return dict(finite(sweeps.run_diagnosis(run_id)))


@read.get("/sweeps/{name}/compare", responses=NOT_FOUND)
def get_comparison(
    sweeps: Readable,
    name: Name,
    top: Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many trials.")] = 10,
    sort: Annotated[
        str | None,
        Query(max_length=250, description="A recorded metric: accuracies downwards, losses upwards, its own its way."),
    ] = None,
) -> Comparison:
    """Return the best trials with all that MLflow has of them, as `swathe compare SWEEP --json` does."""
    metric, rows = sweeps.compared(name, top=top, sort=sort)
    metrics, trials = sweeps.find(name)[1].goal.metrics, [ComparedTrial(**row.as_dict()) for row in rows]
    return Comparison(sweep=name, metric=metric, metrics=list(metrics), trials=trials)


@read.get("/compare", responses=NOT_FOUND)
def get_versus(
    sweeps: Readable,
    sweep: Annotated[list[Name], Query(min_length=2, max_length=MOST, description="Their names.")],
) -> VersusSweeps:
    """Set several sweeps side by side, as `swathe compare SWEEP SWEEP --json` does."""
    return VersusSweeps(**finite(sweeps.versus(sweep).as_dict()))


@read.get("/sweeps/{name}/importance", responses=NOT_FOUND)
def get_importance(sweeps: Readable, name: Name) -> Importance:
    """Say how much each parameter matters to the metric (PED-ANOVA); empty until four trials are complete."""
    card, shares = sweeps.importance(name)
    return Importance(sweep=name, metric=card.metric, importance=shares)


@read.get("/catalog")
def get_catalog() -> Catalog:
    """List what a new sweep can be made of: the ready sweeps, and each config group's options with their keys."""
    return Catalog(**catalog())


@read.get("/sweeps/{name}/best", responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT))
def get_best(
    sweeps: Readable,
    name: Name,
    trial: Annotated[
        int | None,
        Query(ge=0, le=2**31 - 1, description="This complete trial; of several objectives, one of the front."),
    ] = None,
) -> BestConfig:
    """Return the best trial's config, of several objectives by the first, and the command that reproduces it."""
    sweeps.find(name)
    try:
        best = sweeps.best(name, trial)
    except BadInputError as error:
        if trial is not None:
            raise
        # Nothing is wrong with the request: there is no best trial yet.
        raise ProblemError(HTTPStatus.CONFLICT, str(error)) from error
    return BestConfig(
        sweep=name,
        trial=best.trial,
        metric=best.metric,
        value=best.value,
        values=best.values,
        run_id=best.run_id,
        config=best.config,
        geometry=dict(best.geometry),
        lineage=[dict(step) for step in best.lineage],
        reproduce=f"swathe reproduce {name} --trial {best.trial}",
        repeats=None if best.repeats is None else PointRepeats(**best.repeats.as_dict()),
    )


@read.get(
    "/sweeps/{name}/events",
    response_class=StreamingResponse,
    responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
    | {200: {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def get_events(
    request: Request,
    name: Name,
    last_event_id: Annotated[
        str | None, Header(description="Go on after this event; 0: from the first one on.", alias="Last-Event-ID")
    ] = None,
    after: Annotated[str | None, Query(description="The same, for clients that cannot set headers.")] = None,
) -> StreamingResponse:
    """Follow a sweep: server-sent events trial, param, report, state, attribute, each with an id, and status."""
    sweeps: Sweeps = request.app.state.sweeps
    streams: Streams = request.app.state.streams
    folder, card = await run_in_threadpool(sweeps.find, name)
    # A client that comes back sets the header, and asks for the address that it asked for at first.
    known = last_event_id if last_event_id is not None else after
    start = await streams.place(folder, card, known)
    events = streams.events(folder, card, start, fresh=known is None, may=_still_in(request))
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _still_in(request: Request) -> Callable[[], bool]:
    """Return what says whether the token, or the session, that a request came with is still good."""
    authority: Authority = request.app.state.authority
    sessions: Sessions = request.app.state.sessions
    token: Token = request.state.token
    session: Session | None = request.state.session
    return lambda: authority.holds(token) if session is None else sessions.holds(session)


@run.post("/validate")
async def validate_sweep(request: Request, sweep: ValidateRequest) -> Validated:
    """Check a sweep as `swathe launch` does before it starts anything; what it would refuse is refused with 422."""
    if (sweep.sweep is None) == (sweep.yaml is None):
        raise bad_value("sweep", sweep.sweep, "either the name of a sweep or its yaml, and not both")
    checks: Checks = request.app.state.checks
    found = await checks.examine({"kind": "launch", **sweep.model_dump()})
    return Validated(**found)


for part in (health, signing.router, read, run, *jobs_api.routers):
    router.include_router(part)
