"""Optuna's journal file with group commit: the default storage of a sweep's trials."""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages.journal import BaseJournalBackend

from swathe.errors import SwatheError


class DamagedError(SwatheError):
    """A journal holds what no crash explains: a line that is none, with whole lines after it."""


class _Lines:
    """Goes through a journal's lines. `count` and `size` (bytes): of the whole ones that were read by now.

    `torn`: which line, at the end of what was there to read, is none; None where all were whole. A crash tears lines
    that were never committed, and a write that is under way looks the same.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.count = 0
        self.size = 0
        self.torn: int | None = None

    def read(self, file: BinaryIO) -> Iterator[dict[str, Any]]:
        """Yield the whole lines that come next; raises `DamagedError` where there is something else between them."""
        self.torn = None
        number = self.count
        file.seek(self.size)
        # What is appended meanwhile is for the next time: half a line that was read must not be gone on with.
        left = os.fstat(file.fileno()).st_size - self.size
        while left > 0 and (line := file.readline(left)):
            left -= len(line)
            number += 1
            log = _parse_line(line)
            if log is None:
                self.torn = self.torn or number
                continue
            if self.torn is not None:
                raise DamagedError(
                    f"{self._path} is damaged in line {self.torn}, and not only at its end, where a crash leaves half "
                    "a line; allowed: the file as it was, from a backup, or a launch under another sweep.name."
                )
            self.count, self.size = number, self.size + len(line)
            yield log


class JournalReader(BaseJournalBackend):
    """Optuna's journal file for those who only read it, while its driver may be writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = _Lines(path)

    @property
    def line(self) -> int:
        """The line that was read last."""
        return self._lines.count

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        with self._path.open("rb") as file:
            yield from self._lines.read(file)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise SwatheError(f"{self._path} was opened to be read.")


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
        # What a crash has torn and was cut off: the first such line, and the bytes.
        self.cut: tuple[int, int] | None = None

    @property
    def line(self) -> int:
        """The line that was read last."""
        return self._applied

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        if self._end is None:
            yield from self._replay()
            return
        del self._news[: log_number_from - self._applied]
        self._applied = log_number_from
        yield from tuple(self._news)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        for log in logs:
            self._lines.append(_line_of(log))
            self._news.append(log)

    def commit(self) -> None:
        """Write what was appended; raises `OSError` when the disk does not take it, and then the file is as before."""
        if not self._lines:
            return
        content = b"".join(self._lines)
        file = self._file.fileno()
        written = os.write(file, content)
        end = os.lseek(file, 0, os.SEEK_CUR)
        try:
            if written < len(content):
                raise OSError(errno.ENOSPC, f"no space is left for {self._path}")
            os.fsync(file)
        except OSError:
            # All of it is written again at the next commit, which must not find a part of it there.
            os.ftruncate(file, end - written)
            raise
        self._lines.clear()
        self._take_in_others(end - written)
        self._end = end

    def close(self) -> None:
        self._file.close()

    def _replay(self) -> Iterator[dict[str, Any]]:
        """Yield what the file holds, and cut off what a crash has torn: lines at its end that were never committed."""
        lines = _Lines(self._path)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for log in lines.read(file):
                self._applied += 1
                yield log
        if lines.torn is not None:
            self.cut = lines.torn, os.fstat(self._file.fileno()).st_size - lines.size
            os.ftruncate(self._file.fileno(), lines.size)
        self._end = lines.size

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
_SEALED = re.compile(rb'(.*),"crc":"(.{8})"}\n', re.DOTALL)


def _line_of(log: dict[str, Any]) -> bytes:
    """Return an operation's line, which ends in a checksum: a key that Optuna passes over."""
    text = json.dumps(log, separators=(",", ":")).encode()
    return b'%b,"crc":"%b"}\n' % (text[:-1], _seal(text))


def _seal(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Return a line's operation; None for what is none, and where the line is not what its checksum is of."""
    if not line.endswith(b"\n"):
        return None
    # Other programs write lines without one, as earlier versions did.
    if (sealed := _SEALED.fullmatch(line)) is not None and _seal(sealed[1] + b"}") != sealed[2]:
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
