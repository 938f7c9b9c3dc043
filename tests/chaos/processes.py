"""Which processes there are, from /proc, and how they are killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

# How long anything that must happen may take (seconds), and how often it is looked for.
DEADLINE = 120.0
INTERVAL = 0.02


def wait_until(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Wait for a condition; raises `TimeoutError` that says what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(INTERVAL)


def title(pid: int) -> str:
    """Return a process's command line; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def descendants(roots: Collection[int]) -> list[int]:
    """Return the processes under some, by id; zombies are none."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found, waiting = [], list(roots)
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return sorted(found)


def actors(roots: Collection[int]) -> list[int]:
    """Return Swathe's workers, which are Ray's actors, under some processes."""
    return [pid for pid in descendants(roots) if title(pid).startswith("ray::_Host")]


def kill(*pids: int) -> None:
    """Kill processes at once (SIGKILL) and wait until they are gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in pids), f"the end of {pids}")


def is_alive(pid: int) -> bool:
    state, _ = _stat(pid)
    return state not in ("", "Z", "X")


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            state, parent = _stat(int(entry.name))
            if state not in ("", "Z", "X"):
                yield int(entry.name), parent


def _stat(pid: int) -> tuple[str, int]:
    """Return a process's state (a letter) and its parent."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "", 0
    return state, int(parent)
