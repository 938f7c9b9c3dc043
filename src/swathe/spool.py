"""The spool: what happened in a sweep, on disk before MLflow has it.

Each session of the driver appends to a file of its own, one JSON value a line; the first line describes the sweep. The
recorder remembers how far it is, and removes a file that it has carried to MLflow whole. A kill of either process at
any instant loses no line that was flushed: half a line at the end of a dead session's file was never flushed.

MLflow must know what the study knows, no less and no more, and no kill of the driver can fall between two files. So
records are staged here before the study is written, and carried once a line after them says that it was. What a dead
driver has staged and not yet said so of is left to the next one, which asks the study: see `SpoolWriter.unsure`.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from swathe.home import write_aside

# How much of the spool is carried at once (bytes): bounds the recorder's memory when it has to catch up.
BATCH_BYTES = 4 << 20

# The line that says that the study has what the lines before it are of.
_WRITTEN = "written"
_MARK = f'["{_WRITTEN}"]'
_MARK_LINE = f"{_MARK}\n".encode()
# The kind of a record that a dead driver had staged, for as long as nobody has asked the study.
_UNSURE = "unsure"

_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


def spool_folder(sweep_folder: Path) -> Path:
    """Return where the spool of a sweep lies."""
    return sweep_folder / "record"


def _file(folder: Path, session: int) -> Path:
    return folder / f"spool-{session:06d}.jsonl"


def _sessions(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("spool-")) for path in folder.glob("spool-*.jsonl"))


class Position(NamedTuple):
    """How far MLflow has it: a session and the bytes of its file that are done."""

    session: int
    offset: int


def read_position(folder: Path) -> Position:
    """Return what is done by now; nothing when there is no such file."""
    try:
        return Position(*json.loads((folder / "position.json").read_text()))
    except FileNotFoundError:
        return Position(0, 0)


def sweep_id(folder: Path) -> str:
    """Return what tells this sweep from others of its name in MLflow; drawn once, then kept beside the spool."""
    path = folder / "sweep-id"
    if not path.exists():
        write_aside(path, uuid.uuid4().hex.encode())
    return path.read_text()


class SpoolWriter:
    """The driver's end: records gather in memory and go to disk in one write, at `stage` or `flush`.

    `unsure` are the records that earlier sessions have staged when they died: whoever opens the spool adds those again
    that are true. They are in this session's file, too, until its first `flush`, in case that it dies before.
    """

    def __init__(self, folder: Path, header: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Of the latest session alone: it has taken over what was staged before it.
        self.unsure = [record for session in _sessions(folder)[-1:] for record in _staged(_file(folder, session))]
        self.session = 1 + max([read_position(folder).session, *_sessions(folder)])
        # A storage URL in it can hold a password.
        self._file = os.open(_file(folder, self.session), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._waiting: list[str] = []
        self._marked = True
        self._write([_encode(header), *(_encode([_UNSURE, record]) for record in self.unsure)])

    def add(self, record: object) -> None:
        self._waiting.append(_encode(record))

    def stage(self) -> None:
        """Write what has gathered, before the study is written."""
        if self._waiting:
            # What a full disk does not take waits on: the study must not have it without the record.
            self._write(self._waiting)
            self._waiting, self._marked = [], False

    def flush(self) -> bool:
        """Write what has gathered and let it be carried, now that the study has it; return whether there is any."""
        self.stage()
        if self._marked:
            return False
        self._write([_MARK])
        self._marked = True
        return True

    def _write(self, lines: Sequence[str]) -> None:
        """Append lines, all or none of them; raises `OSError` when the disk does not take them."""
        begin = os.lseek(self._file, 0, os.SEEK_END)
        data = memoryview(("\n".join(lines) + "\n").encode())
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            # Half a line must not stand before the next one.
            os.ftruncate(self._file, begin)
            raise

    def close(self) -> None:
        if self._file >= 0:
            self.flush()
            os.close(self._file)
            self._file = -1


def _staged(path: Path) -> list[Any]:
    """Return the records of a dead session's file of which it does not say that the study has them."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return []
    mark = whole.rfind(_MARK_LINE)
    # The first line is the header; half a line at the end was never staged.
    begin = whole.find(b"\n") + 1 if mark < 0 else mark + len(_MARK_LINE)
    records = map(json.loads, whole[begin : whole.rfind(b"\n") + 1].splitlines())
    return [record[1] if record[0] == _UNSURE else record for record in records]


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that belong to one header, and where the spool stands when they are done."""

    header: Any
    records: Sequence[Any]
    after: Position


class SpoolReader:
    """The recorder's end: batches from where the last recorder got to, up to the session it was started for."""

    def __init__(self, folder: Path, session: int) -> None:
        self._folder = folder
        self._session = session
        self._at = read_position(folder)

    def read(self) -> Batch | None:
        """Return the next lines; None when nothing is there by now."""
        while True:
            batch = self._read_session()
            if batch is not None:
                return batch
            later = [session for session in _sessions(self._folder) if self._at.session < session <= self._session]
            if not later:
                return None
            # Nobody writes to a session's file once there is a later one.
            _file(self._folder, self._at.session).unlink(missing_ok=True)
            self._at = Position(later[0], 0)

    def _read_session(self) -> Batch | None:
        try:
            file = _file(self._folder, self._at.session).open("rb")
        except FileNotFoundError:
            return None
        with file:
            header = file.readline()
            if not header.endswith(b"\n"):
                return None
            start = max(self._at.offset, len(header))
            file.seek(start)
            data = b""
            while part := file.read(BATCH_BYTES):
                # A line more, so that a mark is never cut in two.
                data += part + file.readline()
                if (end := data.rfind(_MARK_LINE)) >= 0:
                    break
            else:
                return None
        data = data[: end + len(_MARK_LINE)]
        records = [json.loads(line) for line in data.splitlines()]
        records = [record for record in records if record[0] not in (_WRITTEN, _UNSURE)]
        return Batch(json.loads(header), records, Position(self._at.session, start + len(data)))

    def header(self) -> Any:
        """Return the header of the session for which this reader was made."""
        with _file(self._folder, self._session).open("rb") as file:
            return json.loads(file.readline())

    def done(self, batch: Batch) -> None:
        """Remember durably that MLflow has the batch."""
        write_aside(self._folder / "position.json", json.dumps(batch.after).encode())
        self._at = batch.after

    def superseded(self) -> bool:
        """Whether a later session has begun, whose recorder goes on from here."""
        return any(session > self._session for session in _sessions(self._folder))

    def remove(self) -> None:
        """Remove this session's file, as its driver writes no more, unless the next one must ask about its end."""
        if _staged(_file(self._folder, self._session)):
            return
        write_aside(self._folder / "position.json", json.dumps(Position(self._session, 0)).encode())
        _file(self._folder, self._session).unlink(missing_ok=True)
