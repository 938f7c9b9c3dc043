"""The events of a sweep whose trials are in a database: what is new in Optuna's tables, and after what.

A journal is a sequence already; tables are five: trials, parameters, reports, attributes and final states. A place says
of each how far it was told: how many trials, the last id of parameters, reports and attributes (a study has one writer,
so that these grow), and of the trials told which have not ended. So an event's id means the same to every server, and
whoever comes back with it misses nothing and gets nothing twice, whatever the clocks of the drivers said.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import sqlalchemy
from optuna.distributions import json_to_distribution
from sqlalchemy import Connection, TextClause, text

from swathe.errors import SwatheError, bad_value
from swathe.home import SweepCard
from swathe.service.event_source import SHOWN, numbered, unnumbered
from swathe.study import SESSION, engine_of

# How often a database is looked at (seconds): one query, and six more where something is new.
LOOK_SECONDS = 0.5
# Rows of each table at a time.
PAGE = 1000
# Ranges of trials that are asked for by name; where there are more, what lies between is asked for too.
_RANGES = 50
_ID = re.compile(
    r"[0-9]{1,15}(?:\.[0-9]{1,15}){4}\.(?:[0-9]{1,15}(?:-[0-9]{1,15})?(?:,[0-9]{1,15}(?:-[0-9]{1,15})?)*)?"
)
_LONGEST_ID = 50_000

# Optuna's names of states (optuna/trial/_state.py), as its tables have them.
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place: of study `study`, `trials` trials were told, and the rows up to these ids.

    `open`: which of these trials have not ended, as ranges of their numbers, both ends included.
    """

    study: int = 0
    trials: int = 0
    param: int = 0
    report: int = 0
    attribute: int = 0
    open: Ranges = ()

    def __str__(self) -> str:
        ranges = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self.open)
        return f"{self.study}.{self.trials}.{self.param}.{self.report}.{self.attribute}.{ranges}"

    def behind(self, other: Cursor) -> bool:
        counts = (self.study, self.trials, self.param, self.report, self.attribute)
        others = (other.study, other.trials, other.param, other.report, other.attribute)
        return any(mine < theirs for mine, theirs in zip(counts, others, strict=True)) or bool(ended(self, other))


def cursor_of(event_id: str) -> Cursor | None:
    """Read an id; None for what is none."""
    if event_id == "0":
        return Cursor()
    if len(event_id) > _LONGEST_ID or not _ID.fullmatch(event_id):
        return None
    *counts, ranges = event_id.split(".")
    pairs = [part.partition("-") for part in ranges.split(",") if part]
    read = tuple((int(low), int(high or low)) for low, _, high in pairs)
    study, trials, param, report, attribute = map(int, counts)
    in_order = all(low <= high for low, high in read) and all(a[1] < b[0] for a, b in pairwise(read))
    if not in_order or (read and read[-1][1] >= trials):
        return None
    return Cursor(study, trials, param, report, attribute, read)


def ended(before: Cursor, after: Cursor) -> list[tuple[int, int]]:
    """Return the ranges of trials that had not ended at one place (or were not told) and have at another."""
    then = [*before.open, *([(before.trials, after.trials - 1)] if before.trials < after.trials else [])]
    found = []
    for low, high in then:
        start = low
        for still_low, still_high in after.open:
            if still_high < start or still_low > high:
                continue
            if start < still_low:
                found.append((start, still_low - 1))
            start = still_high + 1
        last = min(high, after.trials - 1)
        if start <= last:
            found.append((start, last))
    return found


def without(ranges: Ranges, number: int) -> Ranges:
    """Return ranges without one number that is in them."""
    place = bisect_right(ranges, (number, _END)) - 1
    low, high = ranges[place]
    left = ((low, number - 1),) if low < number else ()
    right = ((number + 1, high),) if number < high else ()
    return (*ranges[:place], *left, *right, *ranges[place + 1 :])


def with_next(ranges: Ranges, number: int) -> Ranges:
    """Return ranges with one more number, which is greater than all in them."""
    if ranges and ranges[-1][1] == number - 1:
        return (*ranges[:-1], (ranges[-1][0], number))
    return (*ranges, (number, number))


def in_ranges(ranges: Sequence[tuple[int, int]], number: int) -> bool:
    """Whether a number is in one of the ranges, which are in order."""
    place = bisect_right(ranges, (number, _END)) - 1
    return place >= 0 and number <= ranges[place][1]


class DatabaseSource:
    """The events of one sweep in a database."""

    look_seconds = LOOK_SECONDS

    def __init__(self, card: SweepCard) -> None:
        assert card.storage is not None
        self._name = card.name
        self._engine = engine_of(card.storage)
        self._lock = threading.Lock()
        # What the database said when it was read last to its end, and the place after that.
        self._seen: tuple[Any, Cursor] | None = None
        self._session: Any = None

    def place(self, event_id: str | None) -> Cursor:
        if event_id is None:
            return self.end()
        found = cursor_of(event_id)
        allowed = "the id of an event of this sweep, or 0 for all of them"
        if found is None:
            raise bad_value("Last-Event-ID", event_id[:100], allowed)
        with self._reading() as connection:
            study = _study(connection, self._name)
            if found.study not in (0, study):
                raise bad_value("Last-Event-ID", event_id[:100], allowed)
            if found.study and found.trials > _count(connection, study):
                raise bad_value("Last-Event-ID", event_id[:100], allowed)
        return found

    def end(self) -> Cursor:
        """Return the place after all that is there: whoever reads the trials now knows what was told before it."""
        with self._reading() as connection:
            study = _study(connection, self._name)
            if study == 0:
                return Cursor()
            # In this order: what is told of a trial is told after the trial.
            param = _last_id(connection, study, _LAST_PARAM)
            report = _last_id(connection, study, _LAST_REPORT)
            attribute = _last_id(connection, study, _LAST_ATTRIBUTE)
            count = _count(connection, study)
            numbers = connection.execute(_UNFINISHED, {"study": study}).scalars().all()
        unfinished: Ranges = ()
        for number in numbers:
            if number < count:
                unfinished = with_next(unfinished, number)
        return Cursor(study, count, param, report, attribute, unfinished)

    def read(self, start: Cursor, end: Cursor | None = None) -> tuple[bytes, Cursor]:
        with self._reading() as connection:
            if end is not None:
                return _between(connection, start, end)
            study = start.study or _study(connection, self._name)
            if study == 0:
                return b"", start
            facts = tuple(connection.execute(_FACTS, {"study": study, "key": SESSION}).one())
            if facts[0] < start.trials:
                raise SwatheError(f"The study of sweep {self._name!r} is another one than it was.")
            with self._lock:
                self._session = facts[-1]
                if self._seen == (facts, start):
                    return b"", start
            content, place = _after(connection, replace(start, study=study))
            if place == start:
                with self._lock:
                    self._seen = facts, start
            return content, place

    def said(self) -> bytes:
        with self._lock:
            plain = self._session
        try:
            session = json.loads(plain) if plain else None
        except ValueError:
            return b""
        return unnumbered("progress", session) if isinstance(session, dict) else b""

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Read from the database; what goes wrong is said without what the database says, which may name it."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except (sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise SwatheError(
                f"The database of sweep {self._name!r} does not answer ({type(error).__name__})."
            ) from error


# Tables.

_STUDY = text("SELECT study_id FROM studies WHERE study_name = :name")
_COUNT = text("SELECT count(*) FROM trials WHERE study_id = :study")
_UNFINISHED = text(
    "SELECT number FROM trials WHERE study_id = :study AND state NOT IN ('COMPLETE', 'PRUNED', 'FAIL') ORDER BY number"
)
# One row that changes with everything that is told. The ids are those of all studies, which costs no walk through them.
_FACTS = text(
    "SELECT (SELECT count(*) FROM trials WHERE study_id = :study), "
    "(SELECT count(*) FROM trials WHERE study_id = :study AND state IN ('COMPLETE', 'PRUNED', 'FAIL')), "
    "(SELECT max(param_id) FROM trial_params), "
    "(SELECT max(trial_intermediate_value_id) FROM trial_intermediate_values), "
    "(SELECT max(trial_user_attribute_id) FROM trial_user_attributes), "
    '(SELECT value_json FROM study_user_attributes WHERE study_id = :study AND "key" = :key)'
)
# The plus keeps a database from walking through all trials of the study: the new rows are few, and the last ones.
_JOINED = "FROM {table} r JOIN trials t ON t.trial_id = r.trial_id WHERE +t.study_id = :study"


def _rows(columns: str, table: str, key: str) -> TextClause:
    joined = _JOINED.format(table=table)
    return text(
        f"SELECT r.{key}, t.number, {columns} {joined} AND r.{key} > :after AND r.{key} <= :until "
        f"ORDER BY r.{key} LIMIT :page"
    )


def _last(table: str, key: str) -> TextClause:
    return text(f"SELECT r.{key} {_JOINED.format(table=table)} ORDER BY r.{key} DESC LIMIT 1")


_PARAMS = _rows("r.param_name, r.param_value, r.distribution_json", "trial_params", "param_id")
_REPORTS = _rows(
    "r.step, r.intermediate_value, r.intermediate_value_type",
    "trial_intermediate_values",
    "trial_intermediate_value_id",
)
_ATTRIBUTES = _rows('r."key", r.value_json', "trial_user_attributes", "trial_user_attribute_id")
_LAST_PARAM = _last("trial_params", "param_id")
_LAST_REPORT = _last("trial_intermediate_values", "trial_intermediate_value_id")
_LAST_ATTRIBUTE = _last("trial_user_attributes", "trial_user_attribute_id")
_TRIALS = text(
    "SELECT number, state FROM trials WHERE study_id = :study AND number >= :first AND number < :until "
    "ORDER BY number LIMIT :page"
)
# Optuna's ids are integers of 32 bits.
_END = 2**31 - 1


def _study(connection: Connection, name: str) -> int:
    """Return Optuna's id of the study; 0 where its driver has not created it yet."""
    if not sqlalchemy.inspect(connection).has_table("trial_intermediate_values"):
        return 0
    return int(connection.execute(_STUDY, {"name": name}).scalar() or 0)


def _count(connection: Connection, study: int) -> int:
    return int(connection.execute(_COUNT, {"study": study}).scalar_one())


def _last_id(connection: Connection, study: int, query: TextClause) -> int:
    return int(connection.execute(query, {"study": study}).scalar() or 0)


def _after(connection: Connection, start: Cursor) -> tuple[bytes, Cursor]:
    """Return what is there after a place, a page of it at most.

    What is written last, a trial's end, is read first and told last: then all that came before it is there.
    """
    over = _final(connection, start.study, start.open)
    return _told(start, over, *_new(connection, start, Cursor(start.study, _END, _END, _END, _END)))


def _between(connection: Connection, start: Cursor, end: Cursor) -> tuple[bytes, Cursor]:
    """Return what is between two places, a page of it at most."""
    start = replace(start, study=end.study)
    new = _new(connection, start, end)
    # Those of trials that are told only now can be told at once: all of it was there at the end's place.
    wanted = ended(start, end)
    last = start.trials + len(new[0])
    over = _final(connection, start.study, [(low, min(high, last - 1)) for low, high in wanted if low < last])
    return _told(start, over, *new)


Rows = Sequence[Any]


def _new(connection: Connection, start: Cursor, end: Cursor) -> tuple[Rows, Rows, Rows, Rows]:
    """Return new trials, parameters, reports and attributes; the trials are read last, so that none is missing."""

    def rows(query: TextClause, after: int, until: int) -> Rows:
        values = {"study": start.study, "after": after, "until": until, "page": PAGE}
        return connection.execute(query, values).all()

    attributes = rows(_ATTRIBUTES, start.attribute, end.attribute)
    reports = rows(_REPORTS, start.report, end.report)
    params = rows(_PARAMS, start.param, end.param)
    values = {"study": start.study, "first": start.trials, "until": end.trials, "page": PAGE}
    return connection.execute(_TRIALS, values).all(), params, reports, attributes


def _final(connection: Connection, study: int, ranges: Sequence[tuple[int, int]]) -> Rows:
    """Return which trials of these ranges have ended, each with its state, value and end, by number; a page of them."""
    if not ranges:
        return ()
    asked = ranges if len(ranges) <= _RANGES else [(ranges[0][0], ranges[-1][1])]
    among = " OR ".join(f"(t.number BETWEEN {int(low)} AND {int(high)})" for low, high in asked)
    query = text(
        "SELECT t.number, t.state, v.value, v.value_type, t.datetime_complete FROM trials t LEFT JOIN trial_values v "
        "ON v.trial_id = t.trial_id AND v.objective = 0 WHERE t.study_id = :study AND t.state IN "
        f"('COMPLETE', 'PRUNED', 'FAIL') AND ({among}) ORDER BY t.number LIMIT :page"
    ).columns(datetime_complete=sqlalchemy.DateTime)
    page = PAGE if asked is ranges else _END
    found = connection.execute(query, {"study": study, "page": page}).all()
    return [row for row in found if in_ranges(ranges, row[0])][:PAGE]


def _told(
    start: Cursor, over: Rows, trials: Rows, params: Rows, reports: Rows, attributes: Rows
) -> tuple[bytes, Cursor]:
    """Return rows as events, each with the place after it; what comes after a page that is full waits for the next."""
    events: list[bytes] = []
    now = start

    def tell(kind: str, data: Mapping[str, Any]) -> None:
        events.append(numbered(now, kind, data))

    for number, state in trials:
        now = replace(now, trials=number + 1, open=with_next(now.open, number))
        # What it is by now is told as its end is.
        tell("trial", {"trial": number, "state": "waiting" if state == "WAITING" else "running", "params": {}})
    if len(trials) == PAGE:
        return b"".join(events), now
    for key, number, name, internal, distribution in params:
        now = replace(now, param=key)
        value = json_to_distribution(distribution).to_external_repr(internal)
        tell("param", {"trial": number, "name": name, "value": value})
    if len(params) == PAGE:
        return b"".join(events), now
    for key, number, step, value, kind in reports:
        now = replace(now, report=key)
        tell("report", {"trial": number, "step": step, "value": value if kind == "FINITE" else None})
    if len(reports) == PAGE:
        return b"".join(events), now
    for key, number, name, plain in attributes:
        now = replace(now, attribute=key)
        if name in SHOWN:
            tell("attribute", {"trial": number, name: json.loads(plain)})
    if len(attributes) == PAGE:
        return b"".join(events), now
    for number, state, value, kind, moment in over:
        now = replace(now, open=without(now.open, number))
        finite = value if kind == "FINITE" else None
        tell("state", {"trial": number, "state": _STATES[state], "value": finite, "ended": _seconds(moment)})
    return b"".join(events), now


def _seconds(moment: datetime | None) -> float | None:
    """Return the unix time of a moment, which Optuna keeps in UTC."""
    return None if moment is None else moment.replace(tzinfo=UTC).timestamp()
