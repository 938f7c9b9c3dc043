"""Tags and notes of a sweep that was launched, and of its trials: they are read from MLflow and written there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swathe.annotations import MLFLOW_NOTE, NOTE_TAG, user_tags, with_note, without_note
from swathe.errors import bad_value
from swathe.home import Home
from swathe.records import Records


def tag(home: Home, sweep: str, trial: int | None, tags: Mapping[str, str], removed: Sequence[str]) -> dict[str, str]:
    """Set and remove tags of a sweep, or of one of its trials, and return those that it has then."""
    both = next((name for name in removed if name in tags), None)
    if both is not None:
        raise bad_value("--remove", both, "a key that the same command does not set")
    records, run_id, now = _run(home, sweep, trial)
    missing = [name for name in removed if name not in user_tags(now)]
    if missing:
        raise bad_value("--remove", missing[0], f"one of {', '.join(user_tags(now)) or 'none, as there are none'}")
    records.annotate(run_id, tags, list(dict.fromkeys(removed)))
    kept = {name: value for name, value in now.items() if name not in removed}
    return user_tags({**kept, **tags})


def note(home: Home, sweep: str, trial: int | None, text: str | None) -> str:
    """Write the note of a sweep, or of one of its trials, in place of the one it has; None: only return that."""
    records, run_id, now = _run(home, sweep, trial)
    before = now.get(NOTE_TAG, "")
    if text is None:
        return before
    said = without_note(now.get(MLFLOW_NOTE, ""), before)
    records.annotate(run_id, {NOTE_TAG: text, MLFLOW_NOTE: with_note(text, said)}, [])
    return text


def _run(home: Home, sweep: str, trial: int | None) -> tuple[Records, str, Mapping[str, str]]:
    """Return the record, and the id and the tags of the run that is meant."""
    _, card = home.existing(sweep)
    records = Records(card.tracking_uri)
    if trial is None:
        return records, *records.sweep_tags(card.experiment, sweep)
    if trial < 0:
        raise bad_value("--trial", trial, "a trial's number, from 0")
    run = records.trial(card.experiment, sweep, trial)
    return records, run.run_id, run.tags
