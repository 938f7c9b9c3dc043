"""A sweep that runs on a server, as its events tell it: the same live view as of a launch on this machine."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from swathe.client import Event, NotFoundError, Server
from swathe.diagnosis import symptoms_of
from swathe.events import Direction, TrialState, Value
from swathe.overview import LATEST, Overview, Progress, Session
from swathe.remote import sweep_path

# How often a job that waits is asked for, and the view is drawn anew (seconds).
ASK_SECONDS, SHOW_SECONDS = 1.0, 0.25
WAITS, OVER = ("queued", "starting"), ("done", "failed", "stopped")


class View(Protocol):
    """Shows a sweep while it runs, as `view.open_view` gives it."""

    def show(self, progress: Progress) -> None: ...
    def say(self, message: str) -> None: ...


class Watched:
    """A sweep as it was when it was read, and what its events have told since."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._counts = Counter({state: count for state, count in overview.counts.items() if state.final})
        self._diagnosis = Counter(overview.diagnosis)
        self._latest = deque(overview.latest, maxlen=LATEST)
        self._best, self._best_params = overview.best, overview.best_params
        self._session = overview.session
        # Parameters of trials that have not ended, as far as they were told.
        self._params: dict[int, dict[str, Value]] = {}
        # The trial whose parameters must be asked for, since it began before this was read.
        self.unknown: int | None = None

    def take(self, event: Event) -> None:
        """Take what an event tells."""
        match event.kind, event.data:
            case "trial", {"trial": int(number), "params": dict(params)}:
                self._params[number] = params
            case "param", {"trial": int(number), "name": str(name), "value": value}:
                if number in self._params:
                    self._params[number][name] = value
            case "attribute", {"trial": int(number), "diagnosis": str(listed)}:
                symptoms = symptoms_of(listed)
                self._diagnosis.update(map(str, symptoms))
                self._latest.appendleft((number, symptoms))
            case "state", {"trial": int(number), "state": str(state), "value": value}:
                self._end(number, TrialState(state), value)
            case "progress", session:
                self._session = Session.from_dict(session) or self._session

    def tell(self, number: int, params: Mapping[str, Value]) -> None:
        """Take the parameters of a trial that was asked for."""
        self.unknown = None
        if self._best is not None and self._best[0] == number:
            self._best_params = params

    def progress(self) -> Progress:
        """Return what a view shows."""
        changed = {
            "counts": self._counts,
            "best": self._best,
            "best_params": self._best_params,
            "diagnosis": self._diagnosis,
            "latest": tuple(self._latest),
            "session": self._session,
        }
        plain = {name: getattr(self._overview, name) for name in Overview.__dataclass_fields__}
        return Overview(**{**plain, **changed}).progress(time.time())

    def _end(self, number: int, state: TrialState, value: float | None) -> None:
        if not state.final:
            return
        self._counts[state] += 1
        params = self._params.pop(number, None)
        if state is not TrialState.COMPLETE or value is None or not self._better(number, value):
            return
        self._best, self._best_params = (number, value), params or {}
        self.unknown = number if params is None else None

    def _better(self, number: int, value: float) -> bool:
        if self._best is None:
            return True
        sign = 1.0 if self._overview.direction == Direction.MINIMIZE.value else -1.0
        return (sign * value, number) < (sign * self._best[1], self._best[0])


def follow(server: Server, job: Mapping[str, Any], view: View) -> Mapping[str, Any]:
    """Show the sweep of a job until the job is over; return how the job then is."""
    said = ""
    while True:
        job = server.patient(f"/jobs/{job['id']}")
        if job["state"] in OVER:
            return job
        if job["state"] in WAITS:
            line = waiting_line(job)
            if line != said:
                view.say(line)
            said = line
        else:
            _show_session(server, str(job["sweep"]), view)
        time.sleep(ASK_SECONDS)


def waiting_line(job: Mapping[str, Any]) -> str:
    """Say where a job is that has not begun."""
    if job["state"] == "starting":
        return "It is being started."
    place = "" if job["position"] is None else f", number {job['position']} in the queue"
    return f"It waits as job {job['id']}{place}{'' if not job['detail'] else ': ' + str(job['detail'])}"


def _show_session(server: Server, name: str, view: View) -> None:
    """Show a sweep until its driver ends; return at once where it has none (yet)."""
    try:
        plain = server.patient(sweep_path(name))
        if plain["last_event_id"] is None:
            return
        watched, shown = Watched(Overview.from_dict(plain)), 0.0
        for event in server.events(name, plain["last_event_id"]):
            watched.take(event)
            if watched.unknown is not None:
                watched.tell(watched.unknown, server.patient(sweep_path(name, "trials", watched.unknown))["params"])
            over = event.kind == "status" and not event.data["alive"]
            if over or time.monotonic() >= shown + SHOW_SECONDS:
                shown = time.monotonic()
                view.show(watched.progress())
            if over:
                return
    except NotFoundError:
        return


def log_lines(server: Server, job: str, offset: int) -> tuple[Sequence[str], int]:
    """Return what is new in a job's log after a byte, as whole lines, and the byte after them."""
    found = server.patient(f"/jobs/{job}/log", offset=offset)
    return found["text"].splitlines(), found["next"]
