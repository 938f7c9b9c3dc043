"""The working folder: names, cards, the driver's lock."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from swathe.errors import BadInputError
from swathe.home import Home, SweepCard, open_home, write_aside

CARD = SweepCard("s", "id", None, "sqlite:///x", "s", "val_loss", "minimize", 3, "swathe launch s", 0.0)


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = Home(tmp_path).sweep("s")
    assert folder.card() is None
    folder.write_card(CARD)
    assert folder.card() == CARD
    assert [sweep.name for sweep in Home(tmp_path).sweeps()] == ["s"]
    assert folder.card_file.stat().st_mode & 0o077 == 0, "a storage URL can hold a password"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 101])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInputError, match=r"sweep\.name"):
        Home(tmp_path).sweep(name)


def test_an_unknown_sweep_is_refused_with_those_there_are(tmp_path: Path) -> None:
    Home(tmp_path).sweep("s").write_card(CARD)
    with pytest.raises(BadInputError, match=r"no sweep 't' .* there are: s"):
        Home(tmp_path).existing("t")


def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SWATHE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(BadInputError, match="SWATHE_HOME"):
        open_home(create=True)


@pytest.mark.parametrize("name", ["what?", "100%", "a%41"])
def test_a_home_that_no_database_url_can_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("SWATHE_HOME", str(tmp_path / name / "home"))
    with pytest.raises(BadInputError, match=r"SWATHE_HOME: .* allowed: a folder whose whole path has neither"):
        open_home(create=True)
    assert list(tmp_path.iterdir()) == []


def test_a_home_with_other_characters_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWATHE_HOME", str(tmp_path / "a b#c&d;ü"))
    assert open_home(create=True).path.is_dir()


BROKEN = [
    "{}",
    "[]",
    "null",
    "{",
    "\xff",
    json.dumps({**asdict(CARD), "trials": "3"}),
    json.dumps({**asdict(CARD), "direction": "up"}),
    json.dumps({key: value for key, value in asdict(CARD).items() if key != "identity"}),
    json.dumps({**asdict(CARD), "of_tomorrow": 1}),
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_card_that_is_none_is_refused_with_its_file(tmp_path: Path, text: str) -> None:
    home = Home(tmp_path)
    home.sweep("a").write_card(CARD)
    folder = home.sweep("s")
    folder.path.mkdir(parents=True)
    folder.card_file.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInputError) as refusal:
        home.existing("s")
    assert str(folder.card_file) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert home.cards() == [CARD]


@pytest.mark.parametrize("text", ["{}", "[]", "{", "3", '{"reason": "x", "failed": false}', "\xff"])
def test_an_ending_that_is_none_reads_as_none(tmp_path: Path, text: str) -> None:
    folder = Home(tmp_path).sweep("s")
    folder.path.mkdir(parents=True)
    (folder.path / "ending.json").write_bytes(text.encode("latin-1"))
    assert folder.ending() is None


def test_a_new_session_forgets_how_the_last_one_ended(tmp_path: Path) -> None:
    folder = Home(tmp_path).sweep("s")
    ending = {"reason": "all trials are over", "failed": False, "interrupted": False}
    folder.write_ending(ending)
    assert folder.ending() == ending
    with folder.drive():
        assert folder.ending() is None
    assert folder.ending() is None


def test_the_environment_says_where_trials_and_runs_go_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    assert (home.storage, home.tracking_uri) == (None, f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("SWATHE_STORAGE", "postgresql://swathe@postgres:5432/optuna")
    monkeypatch.setenv("SWATHE_TRACKING_URI", "http://mlflow:5000")
    assert (home.storage, home.tracking_uri) == ("postgresql://swathe@postgres:5432/optuna", "http://mlflow:5000")


def test_a_second_driver_is_refused_and_a_dead_ones_lock_is_free(tmp_path: Path) -> None:
    folder = Home(tmp_path).sweep("s")
    code = (
        "import sys, pathlib; from swathe.home import Home\n"
        f"with Home(pathlib.Path({str(tmp_path)!r})).sweep('s').drive():\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    driver = folder.driver()
    assert driver is not None
    assert driver["pid"] == holder.pid
    with pytest.raises(BadInputError, match=f"is being run by process {holder.pid}"), folder.drive():
        pass
    holder.kill()
    holder.wait()
    deadline = time.monotonic() + 10
    while folder.driver() is not None and time.monotonic() < deadline:
        pass
    with folder.drive():
        assert folder.driver() is not None
    assert folder.driver() is None


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_aside(path, b"one")
    write_aside(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
