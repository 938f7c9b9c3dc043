"""What is known of a worker's process that died in the middle of a trial: which one, and Python's account of a crash.

A segmentation fault raises nothing: the process is gone, and so are the ends of trials before it that were still under
way to the driver. But the worker has noted in a file which trial it began, and Python's `faulthandler` can still write
where a crash was. The driver reads both when it misses the worker; workers that do not see its home leave none.
"""

from __future__ import annotations

import faulthandler
import os
import re
from dataclasses import dataclass
from pathlib import Path

_KIND = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


# Where this process notes which trial it begins; None where it does not.
_note: int | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """A crash of a process: one line, which is the same for the same crash, and the whole account."""

    reason: str
    traceback: str


def write_to(folder: Path, worker: str) -> None:
    """From now on this process leaves word of its trials, and of its crash, in this folder, if that exists."""
    global _note
    if folder.is_dir():
        # Both are kept open for the life of the process: after a crash nothing can be opened any more.
        faulthandler.enable((folder / f"{worker}.fault").open("w"), all_threads=False)
        _note = os.open(folder / f"{worker}.trial", os.O_WRONLY | os.O_CREAT)


def begins(trial: int) -> None:
    """Leave word that a trial begins; some microseconds."""
    if _note is not None:
        os.pwrite(_note, f"{trial:<20}".encode(), 0)


def last_trial(folder: Path, worker: str) -> int | None:
    """Return which trial a worker began last; None where it left no word."""
    try:
        return int((folder / f"{worker}.trial").read_text())
    except (OSError, ValueError):
        return None


def read(folder: Path, worker: str) -> Fault | None:
    """Return the account of a worker's crash; None where there is none."""
    try:
        text = (folder / f"{worker}.fault").read_text(errors="backslashreplace")
    except OSError:
        return None
    kind, frame = _KIND.search(text), _FRAME.search(text)
    if kind is None:
        return None
    where = "" if frame is None else f" at {Path(frame[1]).name}:{frame[2]}"
    return Fault(f"{kind[1]}{where}", text)
