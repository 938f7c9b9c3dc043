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
_KEYS = (
    "a key of at most 250 letters, digits, spaces, '_', '-', '.', ':' and '/' that begins with neither a space, '..', "
    "'swathe.' nor 'mlflow.', and whose parts between '/' are not empty, '.' or '..'"
)
_KEPT = f"of at most {LONGEST} characters that UTF-8 can write, NUL not among them"
# Of a text that is refused so much is shown.
_SHOWN = 40


def checked_tags(tags: Mapping[str, Any], key: str = "sweep.tags") -> dict[str, str]:
    """Return tags with their values as text; raises `BadInputError` for one that MLflow would not take."""
    found = {}
    for name, value in tags.items():
        if not _is_key(str(name)):
            # What UTF-8 cannot write could not be printed.
            label = f"{key}.{name}".encode("utf-8", "backslashreplace").decode()
            raise bad_value(label if key == "sweep.tags" else key, name, _KEYS)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if value is None or isinstance(value, Mapping | list | tuple) or not _can_be_kept(text):
            raise bad_value(f"{key}.{name}", _beginning(value), f"a text or a number, {_KEPT}")
        found[str(name)] = text
    return found


def _is_key(name: str) -> bool:
    """Say whether MLflow takes a key; it may make a file's path of one, so none must mean what another does."""
    parts = name.split("/")
    is_path = not name.startswith("..") and not any(part in ("", ".", "..") for part in parts)
    return is_path and _KEY.fullmatch(name) is not None and not name.startswith(_RESERVED)


def _can_be_kept(text: str) -> bool:
    """Say whether MLflow's databases take a text; PostgreSQL has no NUL in one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return len(text) <= LONGEST and "\0" not in text


def _beginning(value: Any) -> Any:
    return f"{value[:_SHOWN]}..." if isinstance(value, str) and len(value) > _SHOWN else value


def checked_note(note: Any, key: str = "sweep.note") -> str:
    """Return a note; raises `BadInputError` for one that MLflow cannot keep."""
    if not isinstance(note, str) or not _can_be_kept(note):
        raise bad_value(key, _beginning(note), f"a text, {_KEPT}")
    return note


def parsed_tags(words: Sequence[str]) -> dict[str, str]:
    """Return tags from `KEY=VALUE` words; raises `BadInputError`."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise bad_value("TAG", word, "KEY=VALUE")
        if name in pairs:
            raise bad_value("TAG", word, "each key once")
        pairs[name] = value
    return checked_tags(pairs, "TAG")


def with_note(note: str, said: str) -> str:
    """Return what MLflow shows of a sweep: the user's note above what Swathe says."""
    return f"{note.strip()}\n\n{said}".strip() if note else said


def without_note(shown: str, note: str) -> str:
    """Return what Swathe says below a note in what MLflow shows; what does not begin with the note stays."""
    text, above = shown.strip(), note.strip()
    if text == above:
        return ""
    return text.removeprefix(f"{above}\n\n").lstrip("\n")


def user_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return those of a run's tags that people gave it."""
    return {name: value for name, value in sorted(tags.items()) if not name.startswith(_RESERVED)}
