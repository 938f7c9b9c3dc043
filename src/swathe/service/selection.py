"""Which of a sweep's trials a request asks for: filters, an order, and pages that begin after the last one."""

from __future__ import annotations

import base64
import heapq
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from swathe.analysis import last_value
from swathe.errors import BadInputError, bad_value
from swathe.events import TrialState, Value
from swathe.study import PastTrial

MAX_PAGE = 200
MAX_FILTERS = 16
_CONDITION = re.compile(r"([^<>=!]{1,200})(<=|>=|!=|=)(.{0,200})")
_SORTS = ("number", "value")

# What orders trials: those without a number last, then by it, then by the trial's own.
Rank = tuple[bool, float, int]


@dataclass(frozen=True, slots=True)
class Selection:
    """The trials of a page: those that hold all `conditions`, in an order, after the rank `after`."""

    states: frozenset[TrialState]
    conditions: tuple[Callable[[PastTrial], bool], ...]
    rank: Callable[[PastTrial], Rank]
    after: Rank | None
    limit: int

    def of(self, history: Sequence[PastTrial]) -> tuple[int, list[PastTrial], str | None]:
        """Return how many trials there are on all pages, this page, and the cursor of the next one."""
        chosen = [one for one in history if self._holds(one)]
        ranked = ((self.rank(one), one) for one in chosen)
        rest = (pair for pair in ranked if self.after is None or pair[0] > self.after)
        # The number is part of the rank, so that two trials never have the same.
        page = heapq.nsmallest(self.limit + 1, rest, key=lambda pair: pair[0])
        more = len(page) > self.limit
        page = page[: self.limit]
        return len(chosen), [one for _, one in page], _cursor(page[-1][0]) if more else None

    def _holds(self, trial: PastTrial) -> bool:
        return (not self.states or trial.state in self.states) and all(holds(trial) for holds in self.conditions)


def selection(
    *, states: Sequence[str], params: Sequence[str], sort: str, cursor: str | None, limit: int, minimize: bool
) -> Selection:
    """Return the selection that a request's words mean; raises `BadInputError`.

    `params`: conditions such as `optim=adam` and `optim.lr<=0.01`. `sort`: `number` or `value` (best first), or a
    parameter; with a minus before it the other way round.
    """
    if len(params) > MAX_FILTERS:
        raise bad_value("param", len(params), f"at most {MAX_FILTERS} conditions")
    return Selection(
        states=frozenset(_state(state) for state in states),
        conditions=tuple(_condition(text) for text in params),
        rank=_rank(sort, minimize=minimize),
        after=None if cursor is None else _after(cursor),
        limit=limit,
    )


def _state(name: str) -> TrialState:
    try:
        return TrialState(name)
    except ValueError as error:
        raise bad_value("state", name, ", ".join(state.value for state in TrialState)) from error


def _condition(text: str) -> Callable[[PastTrial], bool]:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise bad_value("param", text, "KEY=VALUE, KEY!=VALUE, KEY<=NUMBER or KEY>=NUMBER")
    key, sign, wanted = found.groups()
    match sign:
        case "=":
            return lambda trial: key in trial.params and _same(trial.params[key], wanted)
        case "!=":
            return lambda trial: key in trial.params and not _same(trial.params[key], wanted)
    bound = number_of(wanted)
    if bound is None:
        raise bad_value("param", text, f"a number after {sign}")
    if sign == "<=":
        return lambda trial: (value := number_of(trial.params.get(key))) is not None and value <= bound
    return lambda trial: (value := number_of(trial.params.get(key))) is not None and value >= bound


def _same(value: Value, wanted: str) -> bool:
    if isinstance(value, bool) or value is None:
        return json.dumps(value) == wanted.lower()
    return str(value) == wanted or (not isinstance(value, str) and value == number_of(wanted))


def number_of(value: object) -> float | None:
    """Return a finite number as such, also from a text; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _rank(sort: str, *, minimize: bool) -> Callable[[PastTrial], Rank]:
    name = sort.removeprefix("-")
    sign = -1.0 if sort.startswith("-") else 1.0
    if not name:
        raise bad_value("sort", sort, f"{', '.join(_SORTS)}, or a parameter, each also with a minus before it")
    if name == "value":
        sign = sign if minimize else -sign

    def read(trial: PastTrial) -> object:
        match name:
            case "number":
                return trial.number
            case "value":
                return last_value(trial)
        return trial.params.get(name)

    def rank(trial: PastTrial) -> Rank:
        value = number_of(read(trial))
        return value is None, 0.0 if value is None else sign * value, trial.number

    return rank


def _cursor(rank: Rank) -> str:
    return base64.urlsafe_b64encode(json.dumps(rank).encode()).decode().rstrip("=")


def _after(cursor: str) -> Rank:
    values = _decoded(cursor)
    if not isinstance(values, list) or [type(value) for value in values] != [bool, float, int]:
        raise _no_cursor(cursor)
    missing, value, number = values
    return missing, value, number


def _decoded(cursor: str) -> Any:
    if len(cursor) > 200:
        raise _no_cursor(cursor[:200])
    try:
        return json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError) as error:
        raise _no_cursor(cursor) from error


def _no_cursor(cursor: str) -> BadInputError:
    return bad_value("cursor", cursor, "the `next` of a page before")
