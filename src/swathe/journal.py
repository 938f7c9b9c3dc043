"""Optuna's journal file with group commit: the default storage of a sweep's trials."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from swathe.errors import SwatheError


class Journal(BaseJournalBackend):
    """Optuna's journal file (one JSON object a line) with group commit, for one writer and one `JournalStorage`.

    Operations take effect in memory at once and reach the file, all together, at `commit`: one write, one fsync. An
    append of one write(2) is not torn by another's on a local file system, so that no lock file is needed, and none can
    be left behind by a crash. What others append (optuna-dashboard's notes) is taken in at the next commit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        self._file = path.open("a+b", buffering=0)
        if is_new:
            _sync_folder(path.parent)
        self._lines: list[bytes] = []
        # Operations that the storage has not applied; the first of them has the number `_applied`.
        self._news: list[dict[str, Any]] = []
        self._applied = 0
        self._end: int | None = None

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        if self._end is None:
            yield from self._replay()
            return
        del self._news[: log_number_from - self._applied]
        self._applied = log_number_from
        yield from tuple(self._news)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        for log in logs:
            self._lines.append(json.dumps(log, separators=(",", ":")).encode() + b"\n")
            self._news.append(log)

    def commit(self) -> None:
        """Write what was appended; raises `OSError` when the disk does not take it."""
        if not self._lines:
            return
        content = b"".join(self._lines)
        file = self._file.fileno()
        written = os.write(file, content)
        end = os.lseek(file, 0, os.SEEK_CUR)
        if written < len(content):
            os.ftruncate(file, end - written)
            raise OSError(f"no space is left for {self._path}")
        os.fsync(file)
        self._lines.clear()
        self._take_in_others(end - written)
        self._end = end

    def close(self) -> None:
        self._file.close()

    def _replay(self) -> Iterator[dict[str, Any]]:
        """Yield what the file holds, and cut off what a crash has torn: lines at its end that were never committed."""
        good = 0
        torn: int | None = None
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for number, line in enumerate(file, start=1):
                log = _parse_line(line)
                if log is None:
                    torn = torn or number
                    continue
                if torn is not None:
                    raise SwatheError(f"{self._path} is damaged in line {torn}, and not only at its end.")
                good += len(line)
                self._applied += 1
                yield log
        if torn is not None:
            os.ftruncate(self._file.fileno(), good)
        self._end = good

    def _take_in_others(self, until: int) -> None:
        """Read what other programs have appended since our last commit."""
        assert self._end is not None
        if until <= self._end:
            return
        for line in os.pread(self._file.fileno(), until - self._end, self._end).splitlines(keepends=True):
            log = _parse_line(line)
            # Trials are numbered by their order in the file: ours would get others' reports.
            if log is None or log["op_code"] == _CREATE_TRIAL:
                raise SwatheError(f"Another program has written trials to {self._path} while this sweep was running.")
            self._news.append(log)


# Optuna's code for a new trial in a journal (optuna/storages/journal/_storage.py).
_CREATE_TRIAL = 4


def _parse_line(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        log = json.loads(line)
    except ValueError:
        return None
    return log if isinstance(log, dict) else None


def _sync_folder(path: Path) -> None:
    """Make a new file's name last."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
