"""A home on a disk that is full, is read-only, or gives back something else: one sentence, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swathe import cli
from swathe.errors import SwatheError
from swathe.events import TrialState
from swathe.journal import Journal
from swathe.study import JOURNAL, Study
from tests.integration import swathes
from tests.test_study import launch

Mount = Callable[[str], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Mount]]:
    """Return a folder that is a file system of its own, and what mounts it again with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "swathe-test", folder], check=True)

    try:
        mount("size=256k")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only the superuser can mount a file system")
    try:
        yield folder, mount
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Leave no room; return the file that takes it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass
    return ballast


def test_a_journal_on_a_full_disk_loses_nothing_and_goes_on_with_room(small_disk: tuple[Path, Mount]) -> None:
    folder, _ = small_disk
    study = launch(folder)
    study.ask(2)
    study.record(0, 1, 0.5)
    study.commit()
    before = (folder / JOURNAL).read_bytes()
    ballast = fill(folder)
    for _ in range(3):
        study.ask(20)
        with pytest.raises(SwatheError, match=r"The study cannot be written \(.*\); when it can be"):
            study.commit()
        assert (folder / JOURNAL).read_bytes() == before
    assert len(Study.load("s", folder=folder, storage=None).history()) == 2
    ballast.unlink()
    study.tell(0, TrialState.COMPLETE, 0.5, {})
    study.close()
    # All of it is there, and each operation once.
    history = launch(folder).history()
    assert [past.number for past in history] == list(range(62))
    assert history[0].value == 0.5


def test_a_file_that_may_grow_no_more_is_a_full_disk(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from swathe.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); list(journal.read_logs(0))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "journal.append_logs([{'op_code': 1}]); journal.commit()\n"
        "journal.append_logs([{'op_code': 2, 'long': 'x' * 500}])\n"
        "try:\n    journal.commit()\nexcept OSError as error:\n    print(error)\n"
    )
    path = tmp_path / "journal.log"
    words = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(words, env=swathes.environment(), capture_output=True, text=True, check=True)
    assert "no space is left for" in done.stdout
    assert path.read_text() == '{"op_code":1,"crc":"14ce8ae6"}\n'


def test_an_fsync_that_fails_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal.log")
    assert list(journal.read_logs(0)) == []
    journal.append_logs([{"op_code": 1}])

    def fails(number: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="Input/output"):
            journal.commit()
    journal.commit()
    journal.close()
    assert (tmp_path / "journal.log").read_text() == '{"op_code":1,"crc":"14ce8ae6"}\n'


@pytest.mark.parametrize(
    "command", ["train", pytest.param("launch", marks=pytest.mark.slow), pytest.param("check", marks=pytest.mark.slow)]
)
def test_a_home_that_is_read_only_is_refused(
    small_disk: tuple[Path, Mount],
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, mount = small_disk
    mount("remount,ro")
    monkeypatch.setenv("SWATHE_HOME", str(folder))
    assert cli.run([command, *(["quickstart"] if command != "train" else [])]) == cli.EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert "SWATHE_HOME" in said
    assert "Read-only file system" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_sweep_in_a_home_that_is_read_only_can_be_looked_at(small_disk: tuple[Path, Mount], tmp_path: Path) -> None:
    folder, mount = small_disk
    mount("remount,size=64m")
    sweep = swathes.write_function_sweep(folder, "quick", trials=4)
    swathes.succeed(folder, "launch", sweep, "cluster=inline")
    status = swathes.read(folder, "status", "f")
    mount("remount,ro")
    assert swathes.read(folder, "status", "f") == status
    assert swathes.read(folder, "list") == [status]
    # MLflow's database is in WAL mode, and so cannot be opened where nothing can be written.
    reading = (["compare", "f"], ["best", "f"], ["diagnose", "f"], ["report", "f", "--no-seeds"], ["reproduce", "f"])
    for words in (["launch", sweep, "sweep.trials=8"], ["resume", "f"], ["stop", "f"], *reading):
        done = swathes.run(folder, *words)
        assert done.returncode in (1, 2), words
        assert "Traceback" not in done.stderr, words
        assert done.stderr.strip().count("\n") == 0, (words, done.stderr)


@pytest.mark.slow
def test_a_launch_without_room_says_so_and_goes_on_with_room(small_disk: tuple[Path, Mount]) -> None:
    folder, mount = small_disk
    mount("remount,size=64m")
    sweep = swathes.write_function_sweep(folder, "quick", trials=6)
    ballast = fill(folder)
    done = swathes.run(folder, "launch", sweep, "cluster=inline")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr
    assert "No space left" in done.stderr
    ballast.unlink()
    outcome = swathes.read(folder, "launch", sweep, "cluster=inline")
    assert outcome["counts"] == {"complete": 6}


# A journal that holds something else.


def whole_journal(folder: Path) -> Path:
    study = launch(folder)
    study.ask(3)
    study.close()
    return folder / JOURNAL


def test_half_a_line_at_the_end_is_cut_off_and_said(tmp_path: Path) -> None:
    path = whole_journal(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"tri')
    study = launch(tmp_path)
    lines = whole.count(b"\n")
    assert study.warning == (
        f"A crash has left half a line at the end of {JOURNAL} (line {lines + 1}, 17 bytes): it is cut off."
    )
    assert path.read_bytes() == whole
    assert launch(tmp_path).warning is None


@pytest.mark.parametrize("damage", [b"garbage\n", b'{"op_code": 4\n', b"\xff\xfe\n", b"\0" * 40 + b"\n"])
def test_damage_in_the_middle_is_refused_with_its_line_by_those_who_read_and_by_those_who_write(
    tmp_path: Path, damage: bytes
) -> None:
    path = whole_journal(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:2], damage, *lines[2:]])
    path.write_bytes(damaged)
    for opened in (lambda: launch(tmp_path), lambda: Study.load("s", folder=tmp_path, storage=None)):
        with pytest.raises(SwatheError, match="is damaged in line 3, and not only at its end"):
            opened()
    assert path.read_bytes() == damaged


def test_a_line_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    path = whole_journal(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b'{"op_code": 99}\n', *lines[3:]]))
    for opened in (lambda: launch(tmp_path), lambda: Study.load("s", folder=tmp_path, storage=None)):
        with pytest.raises(SwatheError, match="is damaged in line 4"):
            opened()


def test_who_reads_while_a_line_is_being_written_sees_what_is_whole(tmp_path: Path) -> None:
    path = whole_journal(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    study = Study.load("s", folder=tmp_path, storage=None)
    assert len(study.history()) == 2
    path.write_bytes(whole)
    assert len(study.history()) == 3


@pytest.mark.slow
def test_a_launch_says_what_it_has_cut_off(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "quick", trials=4)
    swathes.succeed(tmp_path, "launch", sweep, "cluster=inline")
    with (tmp_path / ".swathe" / "sweeps" / "f" / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":4,')
    said = swathes.succeed(tmp_path, "launch", sweep, "cluster=inline", "sweep.trials=5")
    assert "A crash has left half a line" in said
