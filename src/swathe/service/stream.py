"""A sweep's events as server-sent events, straight from its journal.

An event's id is where its line ends in the journal (bytes): it means the same after a restart of the server, and
whoever comes back with the last one misses nothing and gets nothing twice. One task a sweep looks whether the journal
has grown and renders what is new once, for all who listen.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from optuna.distributions import json_to_distribution
from starlette.concurrency import run_in_threadpool

from swathe.errors import SwatheError, bad_value
from swathe.events import TrialState
from swathe.home import SweepCard, SweepFolder
from swathe.plain import finite
from swathe.service.problems import ProblemError
from swathe.study import JOURNAL

log = logging.getLogger("swathe.service")

# How often a journal is looked at, and after how long without news a comment keeps connections open (seconds).
LOOK_SECONDS, KEEP_ALIVE_SECONDS = 0.3, 15.0
# How often it is asked whether a client may still listen (seconds).
_ASK_SECONDS = 1.0
# How much of a journal is read at once, and how much of what was rendered is kept for those who lag (bytes).
_READ, _KEPT = 2**18, 4 * 2**20
MAX_LISTENERS = 1000

# Optuna's codes of operations and states in a journal (optuna/storages/journal/_storage.py, optuna/trial/_state.py).
# 4: a new trial, 5: a parameter, 6: a state, 7: an intermediate value, 8: an attribute.
_CREATE = 4
_STATES = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.WAITING)
_CREATED = re.compile(rb'^\{"op_code": ?4,', re.MULTILINE)
# Attributes that are of use to people; the others are notes of the driver to itself.
_SHOWN = frozenset({"worker", "reason", "diagnosis", "metrics"})


def rendered(content: bytes, start: int, trials: int) -> tuple[bytes, int, int]:
    """Return whole lines of a journal as events, where they end, and how many trials there are by then.

    `content` begins at byte `start`, before which `trials` trials were created. Half a line at its end waits.
    """
    end, events = start, []
    for line in content.splitlines(keepends=True):
        operation = _operation_of(line)
        if operation is None:
            break
        end += len(line)
        found = None
        # A line that lacks what its kind must have: reading the sweep says so.
        with suppress(LookupError, TypeError, ValueError):
            found = _event_of(operation, trials)
        trials += operation.get("op_code") == _CREATE
        if found is not None:
            kind, data = found
            events.append(b"id: %d\nevent: %b\ndata: %b\n\n" % (end, kind, _json(data)))
    return b"".join(events), end, trials


def _operation_of(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        operation = json.loads(line)
    except ValueError:
        return None
    return operation if isinstance(operation, dict) else None


def _event_of(operation: dict[str, Any], trials: int) -> tuple[bytes, dict[str, Any]] | None:
    """Return an operation as an event; None for those that say nothing of a trial.

    A sweep's journal has one study, in which Optuna's ids of trials are their numbers.
    """
    match operation:
        case {"op_code": 4}:
            state = _STATES[operation.get("state", 0)]
            return b"trial", {"trial": trials, "state": state.value, "params": _params(operation)}
        case {"op_code": 5, "trial_id": trial, "param_name": name, "param_value_internal": value, "distribution": text}:
            return b"param", {"trial": trial, "name": name, "value": _param(text, value)}
        case {"op_code": 6, "trial_id": trial, "state": state}:
            values = operation.get("values") or [None]
            return b"state", {"trial": trial, "state": _STATES[state].value, "value": values[0]}
        case {"op_code": 7, "trial_id": trial, "step": step, "intermediate_value": value}:
            return b"report", {"trial": trial, "step": step, "value": value}
        case {"op_code": 8, "trial_id": trial, "user_attr": dict() as attribute} if attribute.keys() <= _SHOWN:
            return b"attribute", {"trial": trial, **attribute}
    return None


def _params(operation: dict[str, Any]) -> dict[str, Any]:
    distributions = operation.get("distributions") or {}
    return {name: _param(distributions[name], value) for name, value in (operation.get("params") or {}).items()}


def _param(distribution: str, internal: float) -> Any:
    return json_to_distribution(distribution).to_external_repr(internal)


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(finite(data)).encode()


def _read(path: Path, start: int, end: int) -> bytes:
    """Return whole lines between two places, at least one where one is whole there."""
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(min(_READ, end - start))
        if b"\n" not in content:
            content += file.readline(end - start - len(content))
    return content[: content.rfind(b"\n") + 1]


def _trials_before(path: Path, place: int) -> int:
    """Return how many trials were created before a place in a journal."""
    found, start = 0, 0
    while start < place:
        content = _read(path, start, place)
        if not content:
            break
        found += len(_CREATED.findall(content))
        start += len(content)
    return found


def place_of(path: Path, event_id: str | None) -> int:
    """Return where in a journal the events after this one begin, without one those that are to come.

    Raises `BadInputError` for what is no event's id in it.
    """
    size = path.stat().st_size if path.exists() else 0
    if event_id is None:
        return last_place(path, size)
    if not re.fullmatch(r"[0-9]{1,15}", event_id, re.ASCII) or not _is_place(path, int(event_id), size):
        raise bad_value("Last-Event-ID", event_id[:100], "the id of an event of this sweep, or 0 for all of them")
    return int(event_id)


def _is_place(path: Path, place: int, size: int) -> bool:
    if place == 0:
        return True
    if place > size:
        return False
    with path.open("rb") as file:
        file.seek(place - 1)
        return file.read(1) == b"\n"


def last_place(path: Path, size: int) -> int:
    """Return where the last whole line of a journal's first `size` bytes ends."""
    start = size
    while start > 0:
        start = max(0, start - _READ)
        with path.open("rb") as file:
            file.seek(start)
            found = file.read(min(_READ, size - start)).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0


class Feed:
    """What is new of one sweep, for all who listen to it."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._path = folder.path / JOURNAL
        self._trials = 0
        # Start -> (what to send, where it ends, trials by then), the newest last; and the bytes of them all.
        self._chunks: OrderedDict[int, tuple[bytes, int, int]] = OrderedDict()
        self._kept = 0
        self.position = 0
        self.status = b""
        self.ended = False
        self.news = asyncio.Event()
        self.listeners = 0

    async def begin(self) -> None:
        """Find the journal's end; raises `BadInputError` for a folder that is none."""
        self.position = await run_in_threadpool(place_of, self._path, None)
        self._trials = await run_in_threadpool(_trials_before, self._path, self.position)
        self.status = await run_in_threadpool(self._status)

    async def watch(self, stopping: Callable[[], bool]) -> None:
        """Look whether the journal has grown, until the server stops or the journal is another one."""
        try:
            while not stopping():
                grown, status = await run_in_threadpool(self._look)
                changed = status != self.status
                self.status = status
                if grown is not None:
                    self._keep(*grown)
                if changed or grown is not None:
                    self._tell()
                if grown is None:
                    await asyncio.sleep(LOOK_SECONDS)
        except (SwatheError, OSError) as error:
            log.warning("%s", error)
        finally:
            # Also where the journal is gone: its listeners come back and are told why.
            self.ended = True
            self._tell()

    async def after(self, position: int, trials: int | None) -> tuple[bytes, int, int]:
        """Return what comes after a place, where that ends, and how many trials there are by then.

        `trials`: how many there were at the place, if that is known.
        """
        if position in self._chunks:
            return self._chunks[position]
        return await run_in_threadpool(self._caught_up, position, self.position, trials)

    def _tell(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()

    def _keep(self, content: bytes, end: int, trials: int) -> None:
        self._chunks[self.position] = content, end, trials
        self._kept += len(content)
        self.position, self._trials = end, trials
        while self._kept > _KEPT:
            _, (dropped, _, _) = self._chunks.popitem(last=False)
            self._kept -= len(dropped)

    def _look(self) -> tuple[tuple[bytes, int, int] | None, bytes]:
        size = self._path.stat().st_size if self._path.exists() else 0
        if size < self.position:
            raise SwatheError(f"{self._path} is another file than it was.")
        status = self._status()
        if size == self.position:
            return None, status
        found = rendered(_read(self._path, self.position, size), self.position, self._trials)
        return (found if found[1] > self.position else None), status

    def _caught_up(self, position: int, end: int, trials: int | None) -> tuple[bytes, int, int]:
        before = _trials_before(self._path, position) if trials is None else trials
        return rendered(_read(self._path, position, end), position, before)

    def _status(self) -> bytes:
        """Return whether the sweep runs and how it ended, as an event without an id: it is a state and no step."""
        alive, ending = self._folder.driver() is not None, self._folder.ending()
        said = {"alive": alive, "ended": None if ending is None or alive else ending["reason"]}
        return b"event: status\ndata: %b\n\n" % json.dumps(said).encode()


class Streams:
    """The feeds of all sweeps that somebody listens to."""

    def __init__(self) -> None:
        self._feeds: dict[str, tuple[Feed, asyncio.Task[None]]] = {}
        self._listeners = 0
        self.stopping: Callable[[], bool] = lambda: False

    async def place(self, folder: SweepFolder, card: SweepCard, event_id: str | None) -> int:
        """Return where to begin for a client with this Last-Event-ID; raises `BadInputError`."""
        if card.storage is not None:
            raise ProblemError(
                HTTPStatus.CONFLICT,
                f"The trials of sweep {card.name!r} are in a database, which has no events; "
                "allowed: sweeps with a journal.",
            )
        if self._listeners >= MAX_LISTENERS:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, f"There are {MAX_LISTENERS} listeners; allowed: fewer.")
        return await run_in_threadpool(place_of, folder.path / JOURNAL, event_id)

    async def events(
        self, folder: SweepFolder, start: int, *, fresh: bool, may: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """Yield a sweep's events after a place, as long as the client `may` listen and the server runs.

        `fresh`: this client has no id yet, and gets one with its first event.
        """
        async with self._feed(folder) as feed:
            position, trials, status = start, None, b""
            if fresh:
                yield b"id: %d\nevent: open\ndata: %b\n\n" % (position, _json({"sweep": folder.name}))
            quiet = time.monotonic()
            while may():
                news, said = feed.news, b""
                if feed.status != status:
                    said = status = feed.status
                if position < feed.position:
                    content, end, trials = await feed.after(position, trials)
                    if end == position:
                        return
                    said, position = said + content, end
                elif feed.ended:
                    return
                elif time.monotonic() >= quiet + KEEP_ALIVE_SECONDS:
                    said += b": nothing new\n\n"
                elif not said:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_ASK_SECONDS):
                            await news.wait()
                if said:
                    quiet = time.monotonic()
                    yield said

    @asynccontextmanager
    async def _feed(self, folder: SweepFolder) -> AsyncIterator[Feed]:
        feed, name = await self._joined(folder), folder.name
        self._listeners += 1
        try:
            yield feed
        finally:
            self._listeners -= 1
            feed.listeners -= 1
            if feed.listeners == 0:
                _, task = self._feeds.pop(name) if self._feeds.get(name, (None,))[0] is feed else (None, None)
                if task is not None:
                    task.cancel()

    async def _joined(self, folder: SweepFolder) -> Feed:
        """Return the sweep's feed, a new one where nobody listens yet."""
        name = folder.name
        if name not in self._feeds or self._feeds[name][0].ended:
            feed = Feed(folder)
            await feed.begin()
            # Somebody else may have begun meanwhile.
            if name not in self._feeds or self._feeds[name][0].ended:
                self._feeds[name] = feed, asyncio.create_task(feed.watch(self.stopping))
        feed = self._feeds[name][0]
        feed.listeners += 1
        return feed
