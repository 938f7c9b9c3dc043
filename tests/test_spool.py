"""The spool: nothing that was flushed is lost, nothing comes twice, whoever is killed."""

from __future__ import annotations

import math
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swathe.spool import SpoolReader, SpoolWriter, read_position, sweep_id


def drain(reader: SpoolReader) -> list[Any]:
    """Carry everything, as the recorder does."""
    records: list[Any] = []
    while (batch := reader.read()) is not None:
        records += batch.records
        reader.done(batch)
    return records


def test_records_come_in_order_and_once(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, {"name": "s"})
    writer.add(["a", 1])
    reader = SpoolReader(tmp_path, writer.session)
    assert reader.read() is None, "not flushed"
    writer.add(["b", 2])
    assert writer.flush()
    assert not writer.flush(), "nothing new"
    assert drain(reader) == [["a", 1], ["b", 2]]
    writer.add(["c", 3])
    writer.flush()
    assert drain(reader) == [["c", 3]]


@given(st.floats())
def test_numbers_keep_their_bits(tmp_path_factory: Any, value: float) -> None:
    folder = tmp_path_factory.mktemp("spool")
    writer = SpoolWriter(folder, {})
    writer.add([value])
    writer.close()
    ((read,),) = drain(SpoolReader(folder, writer.session))
    assert read == value or (math.isnan(read) and math.isnan(value))


def test_a_batch_that_was_not_done_comes_again(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, {})
    writer.add(["a"])
    writer.flush()
    first = SpoolReader(tmp_path, writer.session)
    assert first.read() is not None
    assert drain(SpoolReader(tmp_path, writer.session)) == [["a"]], "the first reader died before it was done"
    assert drain(SpoolReader(tmp_path, writer.session)) == []


def test_half_a_line_of_a_dead_driver_is_left_out(tmp_path: Path) -> None:
    first = SpoolWriter(tmp_path, {"session": 1})
    first.add(["whole"])
    first.close()
    path = next(tmp_path.glob("spool-*.jsonl"))
    path.write_bytes(path.read_bytes() + b'["ha')
    second = SpoolWriter(tmp_path, {"session": 2})
    second.add(["next"])
    second.flush()
    reader = SpoolReader(tmp_path, second.session)
    batch = reader.read()
    assert batch is not None
    assert (batch.header, batch.records) == ({"session": 1}, [["whole"]])
    reader.done(batch)
    batch = reader.read()
    assert batch is not None
    assert (batch.header, batch.records) == ({"session": 2}, [["next"]])
    assert not path.exists(), "it is carried whole"


def test_a_later_session_supersedes_a_reader(tmp_path: Path) -> None:
    first = SpoolWriter(tmp_path, {})
    reader = SpoolReader(tmp_path, first.session)
    assert not reader.superseded()
    SpoolWriter(tmp_path, {}).add(["not for the first"])
    assert reader.superseded()
    assert reader.read() is None


def test_a_carried_session_leaves_no_file_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, {})
    writer.add(["a"])
    writer.close()
    writer.close()
    reader = SpoolReader(tmp_path, writer.session)
    drain(reader)
    reader.remove()
    assert list(tmp_path.glob("spool-*")) == []
    assert read_position(tmp_path).session == writer.session
    again = SpoolWriter(tmp_path, {})
    assert again.session == writer.session + 1
    again.add(["b"])
    again.flush()
    assert drain(SpoolReader(tmp_path, again.session)) == [["b"]]


def test_a_line_longer_than_a_batch_comes_whole(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("swathe.spool.BATCH_BYTES", 10)
    writer = SpoolWriter(tmp_path, {})
    texts = ["x" * 50, "y", "z" * 30]
    for text in texts:
        writer.add([text])
    writer.flush()
    assert drain(SpoolReader(tmp_path, writer.session)) == [[text] for text in texts]


def test_others_cannot_read_the_spool(tmp_path: Path) -> None:
    SpoolWriter(tmp_path, {"uri": "postgresql://me:secret@host/db"})
    (path,) = tmp_path.glob("spool-*.jsonl")
    assert path.stat().st_mode & 0o077 == 0, "a URL can hold a password"


def test_a_sweep_keeps_its_id(tmp_path: Path) -> None:
    assert sweep_id(tmp_path) == sweep_id(tmp_path)


def test_what_is_staged_is_carried_once_the_study_is_said_to_have_it(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, {})
    writer.add(["a"])
    writer.stage()
    reader = SpoolReader(tmp_path, writer.session)
    assert reader.read() is None
    writer.add(["b"])
    assert writer.flush()
    assert drain(reader) == [["a"], ["b"]]


def test_what_a_dead_driver_had_staged_is_asked_about(tmp_path: Path) -> None:
    first = SpoolWriter(tmp_path, {"session": 1})
    first.add(["known"])
    first.flush()
    first.add(["staged", 1])
    first.add(["staged", 2])
    first.stage()
    reader = SpoolReader(tmp_path, first.session)
    assert drain(reader) == [["known"]]
    reader.remove()
    # The second dies before it has asked anybody, the third finds both in the study, and the fourth knows nothing.
    SpoolWriter(tmp_path, {"session": 2})
    third = SpoolWriter(tmp_path, {"session": 3})
    assert third.unsure == [["staged", 1], ["staged", 2]]
    third.add(["staged", 2])
    third.flush()
    fourth = SpoolWriter(tmp_path, {"session": 4})
    assert fourth.unsure == []
    assert drain(SpoolReader(tmp_path, fourth.session)) == [["staged", 2]]


def test_a_file_that_ends_with_staged_records_is_left_to_the_next_session(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, {})
    writer.add(["staged"])
    writer.stage()
    reader = SpoolReader(tmp_path, writer.session)
    assert reader.read() is None
    reader.remove()
    assert len(list(tmp_path.glob("spool-*"))) == 1


def test_a_full_disk_leaves_no_half_line_and_loses_nothing_that_waits(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, {})
    writer.add(["before"])
    writer.flush()
    (file,) = tmp_path.glob("spool-*")
    size = file.stat().st_size
    writer.add(["x" * 100])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # The system takes some bytes of the line and then no more, as a full disk does.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
        with pytest.raises(OSError, match="too large"):
            writer.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.stat().st_size == size
    writer.flush()
    assert drain(SpoolReader(tmp_path, writer.session)) == [["before"], ["x" * 100]]
