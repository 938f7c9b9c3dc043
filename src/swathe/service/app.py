"""The HTTP API: what each path answers. It only parses, asks and shapes; what is slow runs in a thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Security
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from swathe import __version__
from swathe.analysis import Overview, last_value
from swathe.diagnosis import TAG, symptoms_of
from swathe.errors import BadInputError, SwatheError, bad_value
from swathe.home import Home, SweepCard
from swathe.plain import finite
from swathe.service import problems
from swathe.service.guard import FAILURES, HEALTH, PREFIX, REQUESTS, Audit, Guard, Rate
from swathe.service.models import (
    BestConfig,
    Curve,
    Health,
    Page,
    Point,
    Said,
    Sweep,
    SweepDetail,
    SweepPage,
    Trial,
    TrialDetail,
    TrialPage,
    UnreadableSweep,
    Validated,
    ValidateRequest,
)
from swathe.service.problems import ProblemError, responses
from swathe.service.selection import selection
from swathe.service.stream import Streams, last_place
from swathe.service.sweeps import Snapshot, Sweeps
from swathe.service.tokens import Authority, Role, Token
from swathe.service.validation import validate
from swathe.study import JOURNAL, PastTrial
from swathe.tracking import shown

# Checks of a sweep at once, each of which is a process that may import PyTorch; and how many may wait for their turn.
VALIDATIONS, WAITING = 2, 16


def create_app(
    home: Home,
    *,
    allowed_modules: Sequence[str] = (),
    requests: Rate = REQUESTS,
    failures: Rate = FAILURES,
    tls: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """Return the service of a home.

    `allowed_modules`: those whose functions a sweep that is checked may name. `stopping`: whether the server is about
    to end, so that its streams do.
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
    app.state.allowed_modules = tuple(allowed_modules)
    app.state.checks = 0
    app.state.validating = asyncio.Semaphore(VALIDATIONS)
    app.include_router(router)
    return Guard(app, authority, Audit(home.path / "audit.log"), requests=requests, failures=failures, tls=tls)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Its import takes a second, which no request should wait for.
    warming = asyncio.create_task(run_in_threadpool(_import_mlflow))
    yield
    await warming


def _import_mlflow() -> None:
    import swathe.mlflow_runs  # noqa: F401


def allow(role: Role) -> Callable[[Request], Token]:
    """Return what gives an operation the token of its request, if that has the role at least."""

    def allowed(request: Request) -> Token:
        token: Token = request.state.token
        if not Role(token.role).includes(role):
            raise ProblemError(
                HTTPStatus.FORBIDDEN, f"role: {token.role!r} is not allowed; allowed: {role.value} or above."
            )
        return token

    return allowed


def _sweeps(request: Request) -> Sweeps:
    return request.app.state.sweeps  # type: ignore[no-any-return]


Readable = Annotated[Sweeps, Depends(_sweeps)]
Viewer = Depends(allow(Role.VIEWER))
Runner = Depends(allow(Role.RUNNER))
Name = Annotated[str, Path(description="A sweep that was launched in the server's working folder.")]
Number = Annotated[int, Path(ge=0, le=2**31 - 1)]
NOT_FOUND = responses(HTTPStatus.NOT_FOUND)

health = APIRouter()
router = APIRouter(prefix=PREFIX)
read = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False)), Viewer], responses=responses())
run = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False)), Runner], responses=responses())


@health.get(HEALTH.removeprefix(PREFIX))
def get_health() -> Health:
    """Say that the server answers; takes no token."""
    return Health(version=__version__)


@read.get("/sweeps")
def list_sweeps(
    sweeps: Readable, limit: Page = 50, cursor: Annotated[str | None, Query(max_length=100)] = None
) -> SweepPage:
    """List the sweeps by name."""
    names = sweeps.names()
    rest = [name for name in names if cursor is None or name > cursor]
    page = rest[:limit]
    return SweepPage(
        total=len(names),
        sweeps=[_sweep_or_reason(sweeps, name) for name in page],
        next=page[-1] if len(rest) > limit else None,
    )


def _sweep_or_reason(sweeps: Sweeps, name: str) -> Sweep | UnreadableSweep:
    try:
        return Sweep(**_sweep(*sweeps.overview(name)))
    except SwatheError as error:
        return UnreadableSweep(name=name, status=f"cannot be read: {shown(str(error)).rstrip('.')}")


def _sweep(card: SweepCard, found: Overview, alive: bool) -> dict[str, Any]:
    return {**found.as_dict(), "alive": alive, "command": shown(found.command), "created": card.created}


@read.get("/sweeps/{name}", responses=NOT_FOUND)
def get_sweep(sweeps: Readable, name: Name) -> SweepDetail:
    """Say how a sweep stands."""
    # First of all: what happens meanwhile is told by the events after this place.
    now = sweeps.snapshot(name)
    card, found, alive = sweeps.overview(name)
    return SweepDetail(
        **_sweep(card, found, alive),
        last_event_id=None if card.storage is not None else str(_place_of(now)),
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
        "last": None if last is None else {"step": last, "value": last_value(past)},
        "params": dict(past.params),
        "reason": str(past.attrs["reason"]) if past.attrs.get("reason") else None,
        "diagnosis": list(symptoms_of(past.attrs.get("diagnosis"))),
    }


@read.get("/sweeps/{name}/trials/{number}", responses=NOT_FOUND)
def get_trial(sweeps: Readable, name: Name, number: Number) -> TrialDetail:
    """Show a trial with its config and its record in MLflow."""
    now = sweeps.snapshot(name)
    past = now.trial(number)
    return TrialDetail(**_trial(past), **_recorded(sweeps, now, past))


def _recorded(sweeps: Sweeps, now: Snapshot, past: PastTrial) -> dict[str, Any]:
    nothing = {"run_id": None, "config": None, "metrics": None, "findings": None}
    try:
        found = sweeps.run_of(now.card, past.number)
    except SwatheError as error:
        # How the trial stands is known all the same.
        return {**nothing, "record": shown(str(error))}
    symptoms = symptoms_of(found.tags.get(TAG))
    return {
        "run_id": found.run_id,
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


@read.get("/sweeps/{name}/best", responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT))
def get_best(sweeps: Readable, name: Name) -> BestConfig:
    """Return the best trial's config, and the command that reproduces it."""
    sweeps.find(name)
    try:
        best = sweeps.best(name)
    except BadInputError as error:
        # Nothing is wrong with the request: there is no best trial yet.
        raise ProblemError(HTTPStatus.CONFLICT, str(error)) from error
    return BestConfig(
        sweep=name,
        trial=best.trial,
        metric=best.metric,
        value=best.value,
        run_id=best.run_id,
        config=best.config,
        reproduce=f"swathe reproduce {name} --trial {best.trial}",
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
    authority: Authority = request.app.state.authority
    token: Token = request.state.token
    folder, card = await run_in_threadpool(sweeps.find, name)
    # A client that comes back sets the header, and asks for the address that it asked for at first.
    known = last_event_id if last_event_id is not None else after
    start = await streams.place(folder, card, known)
    events = streams.events(folder, start, fresh=known is None, may=lambda: authority.holds(token))
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@run.post("/sweeps/{name}/stop", responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT))
def stop_sweep(sweeps: Readable, name: Name) -> Said:
    """Ask a running sweep to stop, as `swathe stop` does."""
    folder, _ = sweeps.find(name)
    try:
        return Said(detail=folder.ask_to_stop())
    except BadInputError as error:
        raise ProblemError(HTTPStatus.CONFLICT, str(error)) from error


@run.post("/validate")
async def validate_sweep(request: Request, sweep: ValidateRequest) -> Validated:
    """Check a sweep as `swathe launch` does before it starts anything; what it would refuse is refused with 422."""
    state = request.app.state
    if state.checks >= VALIDATIONS + WAITING:
        detail = f"There are {state.checks} sweeps to check already; allowed: one more in 5 s."
        raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": "5"})
    with _counted(state):
        async with state.validating:
            found = await validate(
                state.sweeps.home.path, sweep.sweep, sweep.yaml, sweep.overrides, state.allowed_modules
            )
    return Validated(**found)


@contextmanager
def _counted(state: Any) -> Iterator[None]:
    state.checks += 1
    try:
        yield
    finally:
        state.checks -= 1


for part in (health, read, run):
    router.include_router(part)
