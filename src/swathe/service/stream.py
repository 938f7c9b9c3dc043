"""A sweep's events as server-sent events, straight from its journal, or its database (see `database_events`).

In a journal, an event's id is where its line ends (bytes): it means the same after a restart of the server, and whoever
comes back with the last one misses nothing and gets nothing twice. One task a sweep looks whether something is new and
renders it once, for all who listen.
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
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from optuna.distributions import json_to_distribution
from starlette.concurrency import run_in_threadpool

from swathe.errors import SwatheError, bad_value
from swathe.events import TrialState
from swathe.home import SweepCard, SweepFolder
from swathe.service.database_events import DatabaseSource
from swathe.service.event_source import SHOWN, Place, Source, numbered, unnumbered
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
# 2: an attribute of the study, 4: a new trial, 5: a parameter, 6: a state, 7: an intermediate value, 8: an attribute.
_CREATE = 4
_STATES = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.WAITING)
_CREATED = re.compile(rb'^\{"op_code": ?4,', re.MULTILINE)


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
            events.append(numbered(end, kind, data))
    return b"".join(events), end, trials


def _operation_of(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        operation = json.loads(line)
    except ValueError:
        return None
    return operation if isinstance(operation, dict) else None


def _event_of(operation: dict[str, Any], trials: int) -> tuple[str, dict[str, Any]] | None:
    """Return an operation as an event; None for those that are of no use to people.

    A sweep's journal has one study, in which Optuna's ids of trials are their numbers.
    """
    match operation:
        case {"op_code": 2, "user_attr": {"session": dict() as session}}:
            return "progress", session
        case {"op_code": 4}:
            state = _STATES[operation.get("state", 0)]
            return "trial", {"trial": trials, "state": state.value, "params": _params(operation)}
        case {"op_code": 5, "trial_id": trial, "param_name": name, "param_value_internal": value, "distribution": text}:
            return "param", {"trial": trial, "name": name, "value": _param(text, value)}
        case {"op_code": 6, "trial_id": trial, "state": state}:
            values = operation.get("values") or [None]
            said = {"trial": trial, "state": _STATES[state].value, "value": values[0]}
            return "state", {**said, "ended": _seconds(operation.get("datetime_complete"))}
        case {"op_code": 7, "trial_id": trial, "step": step, "intermediate_value": value}:
            return "report", {"trial": trial, "step": step, "value": value}
        case {"op_code": 8, "trial_id": trial, "user_attr": dict() as attribute} if attribute.keys() <= SHOWN:
            return "attribute", {"trial": trial, **attribute}
    return None


def _seconds(moment: str | None) -> float | None:
    """Return the unix time of a moment as a journal has it."""
    return None if moment is None else datetime.fromisoformat(moment).timestamp()


def _params(operation: dict[str, Any]) -> dict[str, Any]:
    distributions = operation.get("distributions") or {}
    return {name: _param(distributions[name], value) for name, value in (operation.get("params") or {}).items()}


def _param(distribution: str, internal: float) -> Any:
    return json_to_distribution(distribution).to_external_repr(internal)


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


@dataclass(frozen=True, slots=True)
class JournalPlace:
    """A place in a journal: the bytes before it, and how many trials were created there, if that is known."""

    byte: int
    trials: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return str(self.byte)

    def behind(self, other: JournalPlace) -> bool:
        return self.byte < other.byte


class JournalSource:
    """The events of a sweep with a journal."""

    look_seconds = LOOK_SECONDS

    def __init__(self, folder: SweepFolder) -> None:
        self._path = folder.path / JOURNAL

    def place(self, event_id: str | None) -> JournalPlace:
        return JournalPlace(place_of(self._path, event_id))

    def read(self, start: JournalPlace, end: JournalPlace | None = None) -> tuple[bytes, JournalPlace]:
        size = self._size() if end is None else end.byte
        if size < start.byte:
            raise SwatheError(f"{self._path} is another file than it was.")
        if size == start.byte:
            return b"", start
        trials = _trials_before(self._path, start.byte) if start.trials is None else start.trials
        content, byte, trials = rendered(_read(self._path, start.byte, size), start.byte, trials)
        return content, JournalPlace(byte, trials)

    def said(self) -> bytes:
        """Return nothing: a journal has an event of everything."""
        return b""

    def close(self) -> None:
        """Nothing is open."""

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0


def source_of(folder: SweepFolder, card: SweepCard) -> Source:
    """Return where a sweep's events come from."""
    return JournalSource(folder) if card.storage is None else DatabaseSource(card)


class Feed:
    """What is new of one sweep, for all who listen to it."""

    def __init__(self, folder: SweepFolder, source: Source) -> None:
        self._folder = folder
        self._source = source
        # Start -> (what to send, where it ends), the newest last; and the bytes of them all.
        self._chunks: OrderedDict[Place, tuple[bytes, Place]] = OrderedDict()
        self._kept = 0
        self.position: Place = JournalPlace(0)
        # What is a state and no step: how the sweep stands, and what its driver said last.
        self.states: tuple[bytes, ...] = ()
        self.ended = False
        self.news = asyncio.Event()
        self.listeners = 0

    async def begin(self) -> None:
        """Find the end of what there is; raises `SwatheError` where it cannot be read."""
        self.position = await run_in_threadpool(self._source.place, None)
        self.states = await run_in_threadpool(self._said)

    async def watch(self, stopping: Callable[[], bool]) -> None:
        """Look whether something is new, until the server stops or it cannot be read (any more)."""
        try:
            while not stopping():
                (content, end), states = await run_in_threadpool(self._look)
                changed, grown = states != self.states, end != self.position
                self.states = states
                if grown:
                    self._keep(content, end)
                if changed or grown:
                    self._tell()
                if not grown:
                    await asyncio.sleep(self._source.look_seconds)
        except (SwatheError, OSError) as error:
            log.warning("%s", error)
        finally:
            # Also where the journal is gone: its listeners come back and are told why.
            self.ended = True
            self._tell()
            self._source.close()

    async def after(self, position: Place) -> tuple[bytes, Place]:
        """Return what comes after a place, and where that ends."""
        if position in self._chunks:
            return self._chunks[position]
        return await run_in_threadpool(self._source.read, position, self.position)

    def _tell(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()

    def _keep(self, content: bytes, end: Place) -> None:
        self._chunks[self.position] = content, end
        self._kept += len(content)
        self.position = end
        while self._kept > _KEPT:
            _, (dropped, _) = self._chunks.popitem(last=False)
            self._kept -= len(dropped)

    def _look(self) -> tuple[tuple[bytes, Place], tuple[bytes, ...]]:
        # How it stands first: where it has ended, all that happened is read by then.
        status = self._status()
        found = self._source.read(self.position)
        return found, (status, self._source.said())

    def _said(self) -> tuple[bytes, ...]:
        return self._status(), self._source.said()

    def _status(self) -> bytes:
        """Return whether the sweep runs and how it ended."""
        alive, ending = self._folder.driver() is not None, self._folder.ending()
        return unnumbered("status", {"alive": alive, "ended": None if ending is None or alive else ending["reason"]})


def _place_of(folder: SweepFolder, card: SweepCard, event_id: str | None) -> Place:
    source = source_of(folder, card)
    try:
        return source.place(event_id)
    finally:
        source.close()


class Streams:
    """The feeds of all sweeps that somebody listens to."""

    def __init__(self) -> None:
        self._feeds: dict[str, tuple[Feed, asyncio.Task[None]]] = {}
        self._listeners = 0
        self.stopping: Callable[[], bool] = lambda: False

    async def place(self, folder: SweepFolder, card: SweepCard, event_id: str | None) -> Place:
        """Return where to begin for a client with this Last-Event-ID; raises `BadInputError`."""
        if self._listeners >= MAX_LISTENERS:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, f"There are {MAX_LISTENERS} listeners; allowed: fewer.")
        return await run_in_threadpool(_place_of, folder, card, event_id)

    async def events(
        self, folder: SweepFolder, card: SweepCard, start: Place, *, fresh: bool, may: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """Yield a sweep's events after a place, as long as the client `may` listen and the server runs.

        `fresh`: this client has no id yet, and gets one with its first event.
        """
        async with self._feed(folder, card) as feed:
            position: Place = start
            states: tuple[bytes, ...] = ()
            if fresh:
                yield numbered(position, "open", {"sweep": folder.name})
            quiet = time.monotonic()
            while may():
                news, said = feed.news, b""
                if feed.states != states:
                    said = b"".join(one for one in feed.states if one not in states)
                    states = feed.states
                if position.behind(feed.position):
                    try:
                        content, end = await feed.after(position)
                    except SwatheError as error:
                        # The client comes back with its last id, and is told why.
                        log.warning("%s", error)
                        return
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
    async def _feed(self, folder: SweepFolder, card: SweepCard) -> AsyncIterator[Feed]:
        feed, name = await self._joined(folder, card), folder.name
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

    async def _joined(self, folder: SweepFolder, card: SweepCard) -> Feed:
        """Return the sweep's feed, a new one where nobody listens yet."""
        name = folder.name
        if name not in self._feeds or self._feeds[name][0].ended:
            feed = Feed(folder, source_of(folder, card))
            await feed.begin()
            # Somebody else may have begun meanwhile.
            if name not in self._feeds or self._feeds[name][0].ended:
                self._feeds[name] = feed, asyncio.create_task(feed.watch(self.stopping))
        feed = self._feeds[name][0]
        feed.listeners += 1
        return feed
