"""Where a sweep's events come from: a journal or a database, and the form in which they are sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from swathe.plain import finite

# Attributes of trials that are of use to people; the others are notes of the driver to itself.
SHOWN = frozenset({"worker", "place", "reason", "diagnosis", "metrics"})


class Place(Protocol):
    """A place between two events of a sweep; its text is the id of the event before it."""

    def behind(self, other: Any) -> bool:
        """Whether there are events after this place and before `other`."""
        ...


class Source(Protocol):
    """A sweep's events; everything here blocks, and may be called from many threads at once.

    Raises `SwatheError` where they cannot be read (any more).
    """

    # How often it is looked at (seconds).
    look_seconds: float

    def place(self, event_id: str | None) -> Place:
        """Return the place after an event, without one the end; raises `BadInputError` for what is no event's id."""
        ...

    def read(self, start: Any, end: Any = None) -> tuple[bytes, Any]:
        """Return some of the events after a place, and the place after them: the same one where there are none.

        `end`: a place of this sweep beyond which none is wanted; None: whatever there is by now.
        """
        ...

    def said(self) -> bytes:
        """Return what is a state and no step, as an event without an id; empty where there is none."""
        ...

    def close(self) -> None:
        """Let go of what was opened."""
        ...


def numbered(event_id: object, kind: str, data: Mapping[str, Any]) -> bytes:
    """Return an event with its id."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(event_id).encode(), kind.encode(), as_json(data))


def unnumbered(kind: str, data: Mapping[str, Any]) -> bytes:
    """Return an event without an id: a state and no step."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), as_json(data))


def as_json(data: Mapping[str, Any]) -> bytes:
    """Return an event's data as JSON has it, in ASCII."""
    return json.dumps(finite(dict(data))).encode()
