"""Tags and notes: what is allowed, and that MLflow has them over a session's end and a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_tag_name

from swathe import annotating
from swathe.annotations import (
    LONGEST,
    checked_note,
    checked_tags,
    parsed_tags,
    user_tags,
    with_note,
    without_note,
)
from swathe.config import compose_sweep
from swathe.errors import BadInputError
from swathe.home import Home, SweepCard
from swathe.mlflow_runs import RunChange, open_runs
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
        ({"a": "x" * (LONGEST + 1)}, r"sweep.tags.a: 'x{40}\.\.\.' is not allowed; .* at most 5000 characters"),
        ({"a//b": 1}, r"sweep.tags.a//b: 'a//b' is not allowed; allowed: .* parts between '/' are not empty"),
        ({"a\udcff": 1}, r"sweep.tags.a\\udcff: 'a\\udcff' is not allowed; allowed: a key of at most 250 letters"),
        ({"a": "b\udcff"}, r"sweep.tags.a: 'b\\udcff' is not allowed; allowed: a text .* that UTF-8 can write"),
        ({"a": "b\0c"}, r"sweep.tags.a: 'b\\x00c' is not allowed"),
        ({"a\n": 1}, "is not allowed"),
    ],
)
def test_what_mlflow_would_not_take_is_refused(tags: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        checked_tags(tags)


@given(st.text("a1._-:/ é\n#", min_size=1, max_size=6))
@example("..")
@example("..a")
@example("a/..")
@example("./a")
@example("//a")
@example("a/")
def test_a_key_that_is_allowed_is_one_that_mlflow_takes(key: str) -> None:
    try:
        checked_tags({key: "x"})
    except BadInputError:
        # What it would take besides are keys that begin with a space or are but a line's end.
        assert key[0] == " " or "\n" in key or not _taken(key)
    else:
        assert _taken(key)


def _taken(key: str) -> bool:
    try:
        _validate_tag_name(key)
    except MlflowException:
        return False
    return True


@pytest.mark.parametrize("word", ["a//b=1", "..=1", "/x=1", "a\udcff=1", "a=\udcff", "a/./b=1", "a/=1"])
def test_words_that_mlflow_would_not_take_are_refused(word: str) -> None:
    with pytest.raises(BadInputError, match=r"^TAG(\.a)?: '.*' is not allowed; allowed: "):
        parsed_tags([word])


def test_a_key_that_is_given_twice_is_refused() -> None:
    with pytest.raises(BadInputError, match="TAG: 'a=2' is not allowed; allowed: each key once"):
        parsed_tags(["a=1", "a=2"])


@pytest.mark.parametrize("note", ["a\udcff", "a\0"])
def test_a_note_that_cannot_be_kept_is_refused(note: str) -> None:
    with pytest.raises(BadInputError, match=r"^sweep.note: 'a.*' is not allowed; allowed: a text"):
        checked_note(note)
    with pytest.raises(BadInputError, match=r"sweep\.tags\.a//b"):
        compose_sweep("quickstart", ("sweep.tags={a//b: 1}",))


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


@pytest.mark.parametrize("note", ["mine", "mine\n", "\n  mine\n\n", "\n", "", "one\n\ntwo\n"])
@pytest.mark.parametrize("said", ["", "theirs", "# Sweep s\n\n3 trials"])
def test_a_note_is_taken_away_whatever_is_around_it(note: str, said: str) -> None:
    assert without_note(with_note(note, said), note) == said
    # A run that has only begun has the note as it was written.
    assert without_note(note, note) == ""


def test_what_a_note_only_begins_like_stays() -> None:
    assert without_note("mineral\n\ntheirs", "mine") == "mineral\n\ntheirs"
    assert without_note("mine, edited in MLflow", "mine") == "mine, edited in MLflow"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home whose sweep `s` has trial 0 and is recorded in MLflow on SQLite."""
    home = Home(tmp_path / ".swathe")
    home.sweep("s").write_card(
        SweepCard("s", "id", None, home.tracking_uri, "s", "loss", "minimize", 1, "swathe launch s", 0.0)
    )
    runs = open_runs(home.tracking_uri, "s", home.artifacts)
    parent = RunChange("s", 0, tags={"swathe.kind": "sweep", "swathe.sweep": "s", "mlflow.note.content": "# Sweep s"})
    runs.write([parent])
    tags = {"swathe.kind": "trial", "swathe.sweep": "s", "swathe.trial": "0", "mlflow.parentRunId": parent.run_id}
    runs.write([RunChange("0", 0, tags=tags)])
    return home


@pytest.mark.parametrize(("trial", "said"), [(None, "\n\n# Sweep s"), (0, "")])
def test_a_note_replaces_one_that_ends_in_a_new_line(home: Home, trial: int | None, said: str) -> None:
    for text in ("t1\n", "  t2\n\n", "t3"):
        annotating.note(home, "s", trial, text)
        assert annotating.note(home, "s", trial, None) == text, "as it was written"
        assert annotating._run(home, "s", trial)[2]["mlflow.note.content"] == text.strip() + said


def test_a_key_that_is_set_and_removed_at_once_is_refused(home: Home) -> None:
    annotating.tag(home, "s", None, {"k": "v", "l": "w"}, [])
    with pytest.raises(BadInputError, match=r"^--remove: 'k' is not allowed; allowed: a key that .* does not set"):
        annotating.tag(home, "s", None, {"k": "x"}, ["l", "k"])
    assert annotating.tag(home, "s", None, {}, []) == {"k": "v", "l": "w"}
    assert annotating.tag(home, "s", None, {}, ["l", "l"]) == {"k": "v"}, "said twice is said once"


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
        (("tag", "f", "a//b=1"), "TAG: 'a//b' is not allowed"),
        (("tag", "f", "..=1"), "TAG: '..' is not allowed"),
        (("tag", "f", "a=\udcff"), r"TAG.a: '\udcff' is not allowed"),
        (("note", "f", "a\udcff"), r"TEXT: 'a\udcff' is not allowed"),
        (("tag", "f", "a=b", "--remove", "a"), "--remove: 'a' is not allowed"),
        (("tag", "f", "a=b", "--trial", "99"), "Sweep 'f' has no trial 99"),
        (("note", "nope"), "There is no sweep 'nope'"),
    ):
        refused = swathes.run(tmp_path, *asked)
        assert refused.returncode == 2
        assert said in refused.stderr
