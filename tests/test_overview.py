"""What `swathe status` shows of a sweep while it runs and after, as data and as lines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from swathe import analysis, tables
from swathe.events import TrialState
from swathe.home import SINCE
from swathe.overview import Best, Overview, Row, Session

SESSION = Session(
    at=1000.0,
    seconds=10.0,
    begun=4,
    running=2,
    workers=2,
    epochs=100,
    lanes=(6.0, 8.0),
    device_seconds=18.2,
    cost="0.02 EUR",
)
OVERVIEW = Overview(
    name="s",
    status="running, by process 1 on h since 2026-11-26 10:00:00",
    metric="val_loss",
    direction="minimize",
    trials=20,
    counts={TrialState.COMPLETE: 6, TrialState.PRUNED: 3, TrialState.RUNNING: 4},
    best=(4, 0.25),
    best_params={"optim.lr": 0.01},
    failures=[("ValueError: no", 1)],
    command="swathe launch s",
    diagnosis={"diverged": 2},
    latest=[(7, ("diverged", "lr_too_high")), (5, ("diverged",))],
    session=SESSION,
)


def lines(item: Any) -> list[str]:
    console = Console(width=80)
    with console.capture() as printed:
        console.print(item)
    return [line.rstrip() for line in printed.get().splitlines()]


def test_json_holds_all_of_it() -> None:
    plain = json.loads(json.dumps(OVERVIEW.as_dict()))
    assert Overview.from_dict(plain).as_dict() == OVERVIEW.as_dict()
    assert Overview.from_dict({"name": "s", "status": "cannot be read"}).as_dict()["session"] is None
    for wrong in (None, {}, {"at": "x"}, []):
        assert Session.from_dict(wrong) is None
    row = Row(1, "r", "complete", {"val_loss": 0.5}, {"x": 1}, ("diverged",))
    assert Row.from_dict(json.loads(json.dumps(row.as_dict()))) == row
    best = Best("s", 1, "val_loss", 0.5, "r", {"epochs": 2}, {"threads": 1})
    assert best.as_yaml().splitlines()[0] == "# Trial 1 of sweep s: val_loss 0.5"


def test_a_running_sweep_shows_its_pace_and_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1010.0)
    shown = lines(tables.overview(OVERVIEW))
    assert shown[1] == "9 of 20 trials: 4 running, 6 complete, 3 pruned"
    assert shown[2] == "0.25 trials a second   18 device-seconds   cost 0.02 EUR   about 44 s to go"
    assert shown[3] == "lanes 6/8 (75%)"
    assert "latest: trial 7 diverged lr_too_high, trial 5 diverged" in shown
    over = lines(tables.overview(replace(OVERVIEW, status="finished: all 20 trials are done")))
    assert over[2] == "18 device-seconds   cost 0.02 EUR"
    assert not [line for line in over if line.startswith("latest")]


def test_watching_ends_with_the_sweep(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "WATCH_SECONDS", 0.0)
    states: Iterator[Overview] = iter(
        [
            replace(OVERVIEW, status="queued", session=None),
            replace(OVERVIEW, status="queued", session=None),
            OVERVIEW,
            replace(OVERVIEW, status="finished: all"),
        ]
    )
    tables.watch(Console(width=80), lambda: next(states))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "Sweep s: queued"
    assert printed[1].startswith("9/20 trials, 6 complete, 3 pruned, 2 running, best val_loss 0.25 (trial 4), ")
    assert len(printed) == 2


def test_a_driver_that_has_said_nothing_yet_is_not_taken_for_the_one_before() -> None:
    before, after = time.strftime(SINCE, time.localtime(999.0)), time.strftime(SINCE, time.localtime(1001.0))
    assert analysis.session_of(SESSION.as_dict(), {"since": before}) == SESSION
    assert analysis.session_of(SESSION.as_dict(), {"since": after}) is None
    assert analysis.session_of(SESSION.as_dict(), None) == SESSION
    assert analysis.session_of(None, {"since": before}) is None
