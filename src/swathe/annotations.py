"""What people say of a sweep or of a trial: tags and a note, which MLflow keeps and its UI shows and filters by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from swathe.errors import bad_value

# The tag that has a sweep's or a trial's note as it was written; MLflow's own has it with what Swathe says below.
NOTE_TAG = "swathe.note"
MLFLOW_NOTE = "mlflow.note.content"
LONGEST = 5000
_KEY = re.compile(r"[\w.:/-][\w.:/ -]{0,249}")
_RESERVED = ("mlflow.", "swathe.")
_KEYS = "a key of letters, digits, '_', '-', '.', ':' and '/' that begins with neither 'swathe.' nor 'mlflow.'"


def checked_tags(tags: Mapping[str, Any], key: str = "sweep.tags") -> dict[str, str]:
    """Return tags with their values as text; raises `BadInputError` for one that MLflow would not take."""
    found = {}
    for name, value in tags.items():
        if not _KEY.fullmatch(str(name)) or str(name).startswith(_RESERVED):
            raise bad_value(f"{key}.{name}" if key == "sweep.tags" else key, name, _KEYS)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if value is None or isinstance(value, Mapping | list | tuple) or len(text) > LONGEST:
            raise bad_value(f"{key}.{name}", value, f"a text or a number, of at most {LONGEST} characters")
        found[str(name)] = text
    return found


def checked_note(note: Any, key: str = "sweep.note") -> str:
    """Return a note; raises `BadInputError` for one that is too long."""
    if not isinstance(note, str) or len(note) > LONGEST:
        shown = f"{note[:40]}..." if isinstance(note, str) else note
        raise bad_value(key, shown, f"a text of at most {LONGEST} characters")
    return note


def parsed_tags(words: Sequence[str]) -> dict[str, str]:
    """Return tags from `KEY=VALUE` words; raises `BadInputError`."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise bad_value("TAG", word, "KEY=VALUE")
        pairs[name] = value
    return checked_tags(pairs, "TAG")


def with_note(note: str, said: str) -> str:
    """Return what MLflow shows of a sweep: the user's note above what Swathe says."""
    return f"{note}\n\n{said}".strip() if note else said


def user_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return those of a run's tags that people gave it."""
    return {name: value for name, value in sorted(tags.items()) if not name.startswith(_RESERVED)}
