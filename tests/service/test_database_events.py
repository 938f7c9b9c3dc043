"""Events of sweeps in databases: each row of Optuna's tables is told once, in order, whoever comes back when."""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from swathe.errors import BadInputError, SwatheError
from swathe.events import Direction, TrialState
from swathe.home import Home, SweepCard
from swathe.service import database_events
from swathe.service.database_events import Cursor, DatabaseSource, cursor_of, ended, in_ranges, with_next, without
from swathe.service.stream import Streams
from swathe.study import Study
from tests import postgres
from tests.test_study import Parameter, Space

SPACE = Space(
    {"lr": Parameter(FloatDistribution(0.0, 1.0)), "optim": Parameter(CategoricalDistribution(("sgd", "adam")))}
)
Event = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.server() as made:
        yield made


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'trials.db'}"
    made: postgres.Server = request.getfixturevalue("server")
    return made.create_database(f"events_{random.randrange(10**9)}")


def card_of(storage: str, name: str = "s") -> SweepCard:
    return SweepCard(name, "id", storage, "sqlite:///m.db", name, "val_loss", "minimize", 4, "swathe launch s", 0.0)


def opened(home: Home, storage: str, name: str = "s", sampler: str = "random") -> Study:
    folder = home.sweep(name)
    folder.write_card(card_of(storage, name))
    options = {"folder": folder.path, "storage": storage, "sampler": {"name": sampler}, "space": SPACE, "seed": 0}
    return Study.open(name, direction=Direction.MINIMIZE, **options)  # type: ignore[arg-type]


def parsed(content: bytes) -> list[Event]:
    events = []
    for block in content.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        events.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return events


def read_all(source: DatabaseSource, start: Cursor, end: Cursor | None = None) -> tuple[list[Event], Cursor]:
    """Read until nothing is new."""
    events: list[Event] = []
    while True:
        content, place = source.read(start, end)
        events += parsed(content)
        if place == start:
            return events, place
        start = place


def drive(study: Study, rng: random.Random, trials: int, reports: int) -> None:
    """Play a driver: trials side by side, which report and end in any order."""
    running: dict[int, int] = {}
    left = trials
    while left or running:
        if left and (not running or rng.random() < 0.4):
            for proposal in study.ask(min(left, rng.randrange(1, 4))).proposals:
                left -= 1
                running[proposal.trial] = 0
            continue
        number = rng.choice(list(running))
        running[number] += 1
        study.record(number, running[number], rng.choice([rng.random(), float("nan"), float("inf")]))
        if running[number] == reports or rng.random() < 0.1:
            del running[number]
            state = rng.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED])
            attrs = {"foretold": "not for people", "reason": "so"} if state is TrialState.FAILED else {}
            study.tell(number, state, 0.5 if state is TrialState.COMPLETE else None, {"worker": "w", **attrs})


def check(events: list[Event], study: Study) -> None:
    """Whether the events are what the study has, each once, and of each trial in order."""
    found = Counter((kind, data["trial"], data.get("name", data.get("step"))) for _, kind, data in events)
    assert (
        max(found.values()) == 1 or [key for key, count in found.items() if count > 1 and key[0] != "attribute"] == []
    )
    history = study.history()
    assert [data["trial"] for _, kind, data in events if kind == "trial"] == [past.number for past in history]
    for past in history:
        own = [(kind, data) for _, kind, data in events if data["trial"] == past.number]
        assert own[0][0] == "trial"
        assert {data["name"]: data["value"] for kind, data in own if kind == "param"} == past.params
        reported = {data["step"]: data["value"] for kind, data in own if kind == "report"}
        assert list(reported) == sorted(past.values)
        wanted = {step: value if abs(value) < 2 else None for step, value in past.values.items()}
        assert reported == wanted
        assert [data for kind, data in own if kind == "attribute" and "worker" in data] == (
            [{"trial": past.number, "worker": "w"}] if past.state.final else []
        )
        states = [data for kind, data in own if kind == "state"]
        if past.state.final:
            assert own[-1][0] == "state"
            assert states == [
                {"trial": past.number, "state": past.state.value, "value": past.value, "ended": states[0]["ended"]}
            ]
            assert states[0]["ended"] == pytest.approx(past.ended, abs=1e-3)
        else:
            assert states == []


def test_a_study_is_told_from_every_place_once(storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_events, "PAGE", 7)
    home, rng = Home(tmp_path / "home"), random.Random(1)
    source = DatabaseSource(card_of(storage))
    try:
        other = opened(home, storage, "other")
        other.ask(3)
        study = opened(home, storage)
        drive(study, rng, 5, 3)
        drive(other, rng, 2, 2)
        study.ask(3)
        study.record(6, 1, 0.25)
        events, end = read_all(source, Cursor())
        check(events, study)
        assert source.read(end) == (b"", end)
        assert source.end() == end
        ids = [number for number, _, _ in events]
        assert len(set(ids)) == len(ids)
        for place in range(0, len(ids) + 1, 9):
            number = ["0", *ids][place]
            known = cursor_of(number)
            assert known is not None
            assert source.place(number) == known
            assert known.behind(end) is (place < len(ids))
            rest, last = read_all(source, known)
            assert sorted(map(str, [(kind, data) for _, kind, data in rest])) == sorted(
                map(str, [(kind, data) for _, kind, data in events[place:]])
            )
            assert last == end
            bounded, last = read_all(source, known, end)
            assert ([event[1:] for event in bounded], last) == ([event[1:] for event in rest], end)
        # A driver that goes on after a kill takes its trials over; what is told goes on, too.
        study.close()
        study = opened(home, storage)
        for number in (5, 6, 7):
            study.tell(number, TrialState.PRUNED, None, {"worker": "w"})
        more, _ = read_all(source, end)
        check([*events, *more], study)
        study.close()
        other.close()
    finally:
        source.close()


def test_listeners_who_come_and_go_while_a_driver_writes_are_told_all_of_it_once(storage: str, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    study = opened(home, storage)
    done = threading.Event()

    def write() -> None:
        drive(study, random.Random(2), 16, 3)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    rng = random.Random(3)
    feed, client = DatabaseSource(card_of(storage)), DatabaseSource(card_of(storage))
    # One who follows from the beginning, and one who is away now and then and takes what was read for others.
    first, second = Cursor(), Cursor()
    told: list[Event] = []
    taken: list[Event] = []
    over = False
    while not over:
        over = done.is_set()
        events, first = read_all(feed, first)
        told += events
        if over or rng.random() < 0.3:
            events, second = read_all(client, second, first if over or rng.random() < 0.7 else None)
            # The last id that it saw is all that it keeps.
            last = cursor_of(events[-1][0]) if events else second
            assert last is not None
            taken, second = [*taken, *events], last
    writer.join()
    events, _ = read_all(client, second, first)
    check(told, study)
    check([*taken, *events], study)
    study.close()
    feed.close()
    client.close()


def test_a_stream_begins_goes_on_and_says_what_the_driver_says(tmp_path: Path) -> None:
    home, storage = Home(tmp_path / "home"), f"sqlite:///{tmp_path / 'trials.db'}"
    study = opened(home, storage)
    study.ask(2)
    study.say({"cost": "1.00 EUR"})

    async def listen(after: str | None, until: bytes) -> bytes:
        streams, sweep = Streams(), home.existing("s")
        start = await streams.place(*sweep, after)
        got = b""
        async for content in streams.events(*sweep, start, fresh=after is None, may=lambda: True):
            got += content
            if until in got:
                break
        return got

    text = asyncio.run(listen("0", b"event: progress"))
    assert b'event: status\ndata: {"alive": false, "ended": null}\n\n' in text
    assert b'event: progress\ndata: {"cost": "1.00 EUR"}\n\n' in text
    last = re.findall(rb"^id: (.*)$", text, re.MULTILINE)[-1].decode()
    study.tell(0, TrialState.FAILED, None, {"worker": "w"})
    study.close()
    rest = asyncio.run(listen(last, b"event: state"))
    kinds = [
        kind.decode()
        for kind in re.findall(rb"^event: (trial|param|report|attribute|state)$", text + rest, re.MULTILINE)
    ]
    assert kinds == [*["trial"] * 2, *["param"] * 4, "attribute", "state"]
    assert b"event: open\n" in asyncio.run(listen(None, b"event: open"))


def test_what_is_no_place_in_the_study_is_refused(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'trials.db'}"
    source = DatabaseSource(card_of(storage))
    # No driver has made the database yet, and looking does not either.
    with pytest.raises(SwatheError) as away:
        source.end()
    assert str(away.value) == "The database of sweep 's' does not answer (OperationalError)."
    assert not (tmp_path / "trials.db").exists()
    opened(Home(tmp_path / "home"), storage, "other").close()
    assert source.end() == Cursor()
    study = opened(Home(tmp_path / "home"), storage)
    assert source.read(Cursor()) == (b"", Cursor(study=2))
    study.ask(2)
    study.say({"seconds": 1.0, "cost": ""})
    events, place = read_all(source, Cursor())
    assert source.said() == b'event: progress\ndata: {"seconds": 1.0, "cost": ""}\n\n'
    assert str(place) == "2.2.4.0.0.0-1"
    for wrong in (
        "",
        "x",
        "1",
        "2.2.4.0.0",
        "1.2.4.0.0.0-1",
        "2.3.4.0.0.0-1",
        "2.2.4.0.0.0-2",
        "2.2.4.0.0.1,0",
        "2.2.4.0.0.1-0",
    ):
        with pytest.raises(BadInputError, match="Last-Event-ID"):
            source.place(wrong)
    study.discard()
    study.close()
    with pytest.raises(SwatheError, match="is another one than it was"):
        source.read(place)
    assert events
    source.close()


@given(st.lists(st.integers(0, 30), unique=True), st.integers(0, 5))
def test_ranges_hold_what_was_put_in(numbers: list[int], more: int) -> None:
    ranges: database_events.Ranges = ()
    for number in sorted(numbers):
        ranges = with_next(ranges, number)
    assert [number for number in range(31) if in_ranges(ranges, number)] == sorted(numbers)
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(ranges))
    before = Cursor(1, 31, open=ranges)
    assert cursor_of(str(before)) == before
    after = replace(before, trials=31 + more)
    left = ranges
    gone = sorted(numbers)[::2]
    for number in gone:
        left = without(left, number)
    after = replace(after, open=left)
    over = [number for low, high in ended(before, after) for number in range(low, high + 1)]
    assert over == [*gone, *range(31, 31 + more)]
    assert before.behind(after) is bool(over)
