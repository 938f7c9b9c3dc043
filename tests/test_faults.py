"""What is known of a process that has crashed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swathe import faults

DIES = """
import ctypes, os, sys
from pathlib import Path
from swathe import faults
def dies():
    {deed}
faults.write_to(Path(sys.argv[1]), "w")
faults.begins(123456)
faults.begins(7)
dies()
"""


def die(folder: Path, deed: str) -> None:
    code = DIES.format(deed=deed)
    done = subprocess.run([sys.executable, "-c", code, str(folder)], env={"PYTHONPATH": "src"}, capture_output=True)
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("deed", "kind"), [("ctypes.string_at(0)", "Segmentation fault at "), ("os.abort()", "Aborted")]
)
def test_a_crash_says_where_it_was(tmp_path: Path, deed: str, kind: str) -> None:
    die(tmp_path, deed)
    fault = faults.read(tmp_path, "w")
    assert fault is not None
    assert fault.reason.startswith(kind)
    assert "in dies" in fault.traceback
    assert faults.last_trial(tmp_path, "w") == 7


def test_an_exit_says_nothing_but_which_trial_it_was(tmp_path: Path) -> None:
    die(tmp_path, "os._exit(3)")
    assert faults.read(tmp_path, "w") is None
    assert faults.last_trial(tmp_path, "w") == 7


def test_where_there_is_no_folder_nothing_is_known(tmp_path: Path) -> None:
    die(tmp_path / "elsewhere", "os._exit(3)")
    assert not (tmp_path / "elsewhere").exists()
    assert faults.read(tmp_path / "elsewhere", "w") is None
    assert faults.last_trial(tmp_path / "elsewhere", "w") is None
