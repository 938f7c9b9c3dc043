"""A worker's core: jobs in, reports and ends out; one bad trial harms no other."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

import swathe
from swathe.diagnosis import Rule
from swathe.errors import BadInputError
from swathe.events import Decision, Direction, Failed, Finished, Report, Reported
from swathe.training.diagnose import Action
from swathe.worker import (
    Emitted,
    InlineChannel,
    Job,
    Params,
    ThreadChannel,
    WorkerSetup,
    load_function,
    one_line,
    run_one_by_one,
)


def setup(trainable: str) -> WorkerSetup:
    return WorkerSetup(trainable, "loss", Direction.MINIMIZE, "", (), "cpu", 1)


def train(params: Params) -> None:
    for step in range(1, params.steps + 1):
        if swathe.report(loss=params.loss / step):
            return


def raises(params: Params) -> None:
    raise ValueError("first line\nsecond line")


def leaves(params: Params) -> None:
    sys.exit(3)


def never_stops(params: Params) -> None:
    while True:
        swathe.report(loss=1.0)


def inline(trainable: str, job: Job, stop_at: int | None = None) -> list[Emitted]:
    events: list[Emitted] = []

    def take(new: Sequence[Emitted]) -> None:
        events.extend(new)
        for event in new:
            if isinstance(event, Reported):
                step = event.reports[-1].step
                channel.put((Decision(job.trial, step, stop=step == stop_at, decide_from=step + 1),))

    channel = InlineChannel("w", take)
    channel.put((job,))
    run_one_by_one(setup(trainable), channel, "w")
    return events


def steps(events: Sequence[Emitted]) -> list[int]:
    return [report.step for event in events if isinstance(event, Reported) for report in event.reports]


HERE = "tests.test_worker"


def test_a_function_reports_and_finishes() -> None:
    events = inline(f"{HERE}:train", Job(4, {"params": {"steps": 3, "loss": 1.0}}, attempt=2))
    assert steps(events) == [1, 2, 3]
    assert events[-1] == Finished("w", 4, 2)


def grows(params: Params) -> None:
    for step in range(1, 6):
        if swathe.report(loss=1.0, train_loss=10.0**step):
            return


def test_a_function_whose_training_loss_grows_is_stopped_by_its_diagnosis() -> None:
    for rule, last in ((Rule(), 3), (Rule(stop=False), 5), (None, 5)):
        events: list[Emitted] = []
        channel = InlineChannel("w", events.extend)
        channel.put((Job(0, {"params": {}}),))
        run_one_by_one(replace(setup(f"{HERE}:grows"), diagnosis=rule), channel, "w")
        assert steps(events)[-1] == last
        reports = [report for event in events if isinstance(event, Reported) for report in event.reports]
        assert [report.step for report in reports if report.findings] == ([] if rule is None else [3])
        assert [report.ends for report in reports if report.ends] == ([Action.STOP] if last == 3 else [])
        assert events[-1] == Finished("w", 0)


def test_a_function_that_is_told_to_stop_stops() -> None:
    job = Job(4, {"params": {"steps": 9, "loss": 1.0}}, decide_from=1)
    assert steps(inline(f"{HERE}:train", job, stop_at=2)) == [1, 2]


def test_a_function_that_does_not_listen_is_stopped_all_the_same() -> None:
    events = inline(f"{HERE}:never_stops", Job(0, {"params": {}}, decide_from=1), stop_at=2)
    assert steps(events) == [1, 2]
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize(
    ("name", "reason"), [("raises", "ValueError: first line"), ("leaves", "SystemExit: 3"), ("gone", "BadInputError")]
)
def test_whatever_a_function_raises_fails_its_trial(name: str, reason: str) -> None:
    (event,) = inline(f"{HERE}:{name}", Job(5, {"params": {}}))
    assert isinstance(event, Failed)
    assert event.reason.startswith(reason)
    assert "Traceback" in event.traceback


def test_parameters_are_attributes() -> None:
    params = Params({"a": {"b": 1}})
    assert params.a.b == 1
    with pytest.raises(AttributeError, match="no parameter 'c'; there are: a"):
        _ = params.c


@pytest.mark.parametrize("trainable", ["no_such_module_here:train", "json", "json:nothing", ":x"])
def test_a_function_that_is_not_there_is_refused(trainable: str) -> None:
    with pytest.raises(BadInputError, match="trainable"):
        load_function(trainable)


def test_one_line_of_an_error() -> None:
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(ValueError("x" * 1000))) == 300


def test_a_thread_channel_waits_for_the_decision_that_is_due() -> None:
    channel = ThreadChannel("w")
    channel.put(
        (Job(0, {"params": {"steps": 5, "loss": 1.0}}, decide_from=2), Job(1, {"params": {"steps": 1, "loss": 2.0}}))
    )
    thread = threading.Thread(target=run_one_by_one, args=(setup(f"{HERE}:train"), channel, "w"), daemon=True)
    thread.start()
    first = channel.drain()
    assert steps(first) == [1, 2]
    channel.put((Decision(0, 2, stop=False, decide_from=4),))
    assert steps(channel.drain()) == [3, 4]
    channel.put((Decision(0, 4, stop=True),))
    rest = channel.drain()
    while not any(isinstance(event, Finished) and event.trial == 1 for event in rest):
        rest += channel.drain()
    assert steps(rest) == [1]
    channel.close()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_reports_that_nobody_waits_for_leave_together() -> None:
    channel = ThreadChannel("w")
    for step in (1, 2):
        channel.report(Report(0, step, {"loss": 1.0}, time=0.0), urgent=False)
    channel.emit(Finished("w", 0))
    assert [type(event) for event in channel.drain()] == [Reported, Finished]
