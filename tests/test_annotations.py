"""Tags and notes: what is allowed, and that MLflow has them over a session's end and a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swathe.annotations import LONGEST, checked_note, checked_tags, parsed_tags, user_tags, with_note
from swathe.config import compose_sweep
from swathe.errors import BadInputError
from swathe.home import Home
from swathe.records import Records
from tests.integration import swathes


def test_values_become_text() -> None:
    assert checked_tags({"a": 1, "b/c d": True, "e": 0.5, "f": "x=y"}) == {
        "a": "1",
        "b/c d": "true",
        "e": "0.5",
        "f": "x=y",
    }
    assert parsed_tags(["a=b=c", "d="]) == {"a": "b=c", "d": ""}


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"swathe.kind": "x"}, "sweep.tags.swathe.kind: 'swathe.kind' is not allowed"),
        ({"mlflow.user": "x"}, "begins with neither"),
        ({"": "x"}, "is not allowed"),
        ({"a": [1]}, r"sweep.tags.a: \[1\] is not allowed; allowed: a text or a number"),
        ({"a": "x" * (LONGEST + 1)}, "at most 5000 characters"),
    ],
)
def test_what_mlflow_would_not_take_is_refused(tags: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        checked_tags(tags)


def test_words_without_a_value_and_long_notes_are_refused() -> None:
    with pytest.raises(BadInputError, match="TAG: 'team' is not allowed; allowed: KEY=VALUE"):
        parsed_tags(["team"])
    with pytest.raises(BadInputError, match=r"sweep.note: 'xxx.*\.\.\.' is not allowed"):
        checked_note("x" * (LONGEST + 1))


def test_tags_and_notes_make_no_other_sweep() -> None:
    plain = compose_sweep("quickstart", ())
    noted = compose_sweep("quickstart", ("sweep.tags.team=vision", "sweep.note=why"))
    assert noted.sweep.tags == {"team": "vision"}
    assert noted.identity == plain.identity
    with pytest.raises(BadInputError, match=r"sweep\.tags\.mlflow"):
        compose_sweep("quickstart", ("sweep.tags={mlflow.x: 1}",))


def test_a_note_is_above_what_swathe_says() -> None:
    assert with_note("mine", "theirs") == "mine\n\ntheirs"
    assert with_note("", "theirs") == "theirs"
    assert user_tags({"b": "1", "swathe.kind": "sweep", "a": "2"}) == {"a": "2", "b": "1"}


@pytest.mark.slow
def test_mlflow_has_them_over_a_resume(tmp_path: Path) -> None:
    swathes.write_function_sweep(tmp_path, "quick", trials=2)
    words = ("cluster=inline", "pruner=none", "sweep.tags.team=vision", "sweep.note=First look.", "-q")
    swathes.succeed(tmp_path, "launch", "f.yaml", *words)
    records = Records(Home(tmp_path / ".swathe").tracking_uri)
    _, tags = records.sweep_tags("f", "f")
    assert tags["mlflow.note.content"].startswith("First look.\n\n# Sweep f")
    assert user_tags(tags) == {"team": "vision"}
    assert user_tags(records.trial("f", "f", 1).tags) == {"team": "vision"}

    swathes.succeed(tmp_path, "note", "f", "Second thoughts.")
    swathes.succeed(tmp_path, "tag", "f", "stage=done", "--remove", "team")
    swathes.succeed(tmp_path, "note", "f", "--trial", "1", "An outlier.")
    assert records.trial("f", "f", 1).tags["mlflow.note.content"] == "An outlier."
    shown = swathes.run(tmp_path, "tag", "f", "--trial", "1", "keep=yes", "--json")
    assert json.loads(shown.stdout) == {"keep": "yes", "team": "vision"}
    # What the config says is said anew; the rest of the record stays.
    swathes.succeed(tmp_path, "launch", "f.yaml", "cluster=inline", "pruner=none", "sweep.trials=3", "-q")
    _, tags = records.sweep_tags("f", "f")
    assert tags["mlflow.note.content"].startswith("Second thoughts.\n\n# Sweep f\n\n3 trials")
    assert user_tags(tags) == {"stage": "done"}
    assert swathes.run(tmp_path, "note", "f").stdout == "Second thoughts.\n"

    for asked, said in (
        (("tag", "f", "--remove", "nope"), "--remove: 'nope' is not allowed; allowed: one of stage"),
        (("tag", "f", "swathe.kind=x"), "TAG: 'swathe.kind' is not allowed"),
        (("tag", "f", "a=b", "--trial", "99"), "Sweep 'f' has no trial 99"),
        (("note", "nope"), "There is no sweep 'nope'"),
    ):
        refused = swathes.run(tmp_path, *asked)
        assert refused.returncode == 2
        assert said in refused.stderr
