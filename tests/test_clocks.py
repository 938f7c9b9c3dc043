"""The wall clock may be set forward or back while a sweep runs: no interval is measured with it."""

from __future__ import annotations

import ast
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swathe.events import Direction, Report, Reported
from swathe.worker import InlineChannel, Job, ThreadChannel, WorkerSetup, run_one_by_one

SOURCE = Path(__file__).parents[1] / "src" / "swathe"


def is_wall_time(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.time", "time.time_ns", "datetime.now")


def intervals(function: ast.AST) -> Iterator[int]:
    """Yield the lines at which wall times are compared or taken from one another; also by a name of the function."""
    names = {
        target.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and is_wall_time(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(function):
        sides: list[ast.AST] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            sides = [node.left, node.right]
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        if any(is_wall_time(side) or (isinstance(side, ast.Name) and side.id in names) for side in sides):
            yield node.lineno


def test_nothing_measures_an_interval_with_the_wall_clock() -> None:
    texts = {path: path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
    found = [
        f"{path.name}:{line}"
        for path, text in texts.items()
        if "time.time" in text or "datetime" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
        for line in intervals(node)
    ]
    assert found == []


@pytest.mark.parametrize("code", ["x = time.time() - began", "began = time.time()\nx = y - began", "time.time() > x"])
def test_the_check_finds_what_it_looks_for(code: str) -> None:
    assert list(intervals(ast.parse(code)))


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the wall clock jump a day back, two forward, and so on, each time that it is looked at."""
    real, jumps = time.time, itertools.cycle([-86_400.0, 172_800.0])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))


@pytest.mark.usefixtures("jumping")
def test_the_time_of_a_trial_is_no_less_and_no_more_when_the_clock_is_set() -> None:
    events: list[object] = []
    channel = InlineChannel("w", events.extend)
    channel.put((Job(0, {"params": {"steps": 5, "loss": 1.0}}),))
    run_one_by_one(WorkerSetup("tests.test_worker:train", "loss", Direction.MINIMIZE, "", (), "cpu", 1), channel, "w")
    seconds = [report.seconds for event in events if isinstance(event, Reported) for report in event.reports]
    assert len(seconds) == 5
    assert all(0 <= one < 60 for one in seconds)


@pytest.mark.usefixtures("jumping")
def test_reports_leave_their_worker_when_the_clock_is_set() -> None:
    channel = ThreadChannel("w")
    for step in range(3):
        channel.report(Report(0, step, {"loss": 1.0}, time=time.time()), urgent=False)
    (event,) = channel.drain()
    assert isinstance(event, Reported)
    assert len(event.reports) == 3
