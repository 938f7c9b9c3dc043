"""Checkpoints: whole or not there, never too many, and what goes on from one is what had never been interrupted."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import swathe
from swathe import checkpoints
from swathe.checkpoints import KEPT_REPORTS, NOTE, Checkpoints, History
from swathe.diagnosis import Rule, TrialDiagnosis
from swathe.events import Decision, Direction, Failed, Finished, Report, Reported
from swathe.training.diagnose import Facts
from swathe.worker import Emitted, InlineChannel, Job, Note, Pace, Params, WorkerSetup, run_one_by_one
from tests.test_lane_worker import Fixed, Plan, Played, untimed
from tests.test_lane_worker import config as config
from tests.test_lane_worker import home as home
from tests.test_lane_worker import table as table

FACTS = {"program": "eager"}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def history(*steps: int) -> History:
    made = History()
    for step in steps:
        made.add(Report(3, step, {"loss": 1 / step}, 0.5))
    return made


def save(store: Checkpoints, step: int, state: object = None) -> str:
    return store.save(3, FACTS, lambda: history(*range(1, step + 1)).checkpoint(None, state or f"after {step}"))


def state_of(store: Checkpoints, counted: int | None = 0) -> Any:
    found = store.load(3, FACTS.__eq__, counted)
    return None if found is None else found[1].state


# The files.


def test_the_last_one_is_found_and_of_those_before_it_one(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, 60.0)
    assert state_of(store) is None
    for step in (2, 4, 7):
        assert save(store, step) == ""
    assert state_of(Checkpoints(tmp_path, 60.0)) == "after 7"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trial-3.before.ckpt", "trial-3.ckpt"]
    assert state_of(Checkpoints(tmp_path, None)) is None
    # Its driver died before any of its reports had come.
    assert state_of(store, counted=None) == "after 7"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "header", "gone"])
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    store = Checkpoints(tmp_path, 60.0)
    save(store, 2)
    save(store, 4)
    path = tmp_path / "trial-3.ckpt"
    content = path.read_bytes()
    middle = len(content) - 20
    match damage:
        case "cut":
            path.write_bytes(content[:middle])
        case "flipped":
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "empty":
            path.write_bytes(b"")
        case "header":
            path.write_bytes(b"{}" + content)
        case "gone":
            path.unlink()
    assert state_of(store) == "after 2"
    (tmp_path / "trial-3.before.ckpt").write_bytes(b"\x00" * 100)
    assert state_of(store) is (None if damage != "none" else "")


@given(st.binary(max_size=200))
def test_no_content_of_a_file_is_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "trial-3.ckpt").write_bytes(content)
    assert state_of(Checkpoints(folder, 60.0)) is None


def test_one_of_another_program_does_not_count(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, 60.0)
    save(store, 2)
    assert store.load(3, {"program": "compiled"}.__eq__, 2) is None


def test_a_class_that_is_gone_makes_the_trial_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Checkpoints(tmp_path, 60.0)
    save(store, 2, Clock())
    monkeypatch.delattr(f"{__name__}.Clock")
    assert state_of(store) is None


def test_a_trial_that_was_stopped_leaves_nothing_and_one_that_is_over_waits_for_its_driver(tmp_path: Path) -> None:
    clock = Clock()
    store = Checkpoints(tmp_path, 60.0, clock)
    save(store, 2)
    store.end(3, stopped=True, suspended=True)
    assert state_of(store) == "after 2"
    store.end(3, stopped=True)
    assert list(tmp_path.iterdir()) == []
    save(store, 4)
    store.end(3)
    clock.now = checkpoints.DRIVER_SECONDS - 1
    store.begin(5)
    assert state_of(Checkpoints(tmp_path, 60.0)) == "after 4"
    clock.now = checkpoints.DRIVER_SECONDS
    store.begin(6)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_runs_again_keeps_its_files(tmp_path: Path) -> None:
    clock = Clock()
    store = Checkpoints(tmp_path, 60.0, clock)
    save(store, 2)
    store.end(3)
    assert state_of(store) == "after 2"
    store.begin(3)
    clock.now = 2 * checkpoints.DRIVER_SECONDS
    store.begin(4)
    assert state_of(store) == "after 2"


def test_the_driver_removes_what_nobody_goes_on_from(tmp_path: Path) -> None:
    folder = tmp_path / "trials"
    store = Checkpoints(folder, 60.0)
    save(store, 2)
    save(store, 3)
    (folder / ".trial-4.new.ckpt.12").write_bytes(b"half")
    (folder / "trial-33.ckpt").write_bytes(b"another")
    checkpoints.discard_others(folder, [3])
    assert sorted(path.name for path in folder.iterdir()) == ["trial-3.before.ckpt", "trial-3.ckpt"]
    checkpoints.discard(folder, 3)
    assert list(folder.iterdir()) == []
    checkpoints.discard_others(folder, [])
    assert not folder.exists()
    checkpoints.discard_others(folder, [])


def test_where_nothing_can_be_written_it_is_said_and_the_last_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Checkpoints(tmp_path, 60.0)
    save(store, 2)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_aside", full)
    assert save(store, 4) == "Checkpoints cannot be written: No space left on device."
    assert state_of(store) == "after 2"


# When.


def test_they_are_due_by_time_and_cost_at_most_a_hundredth_of_it(tmp_path: Path) -> None:
    clock = Clock()
    store = Checkpoints(tmp_path, 60.0, clock)
    assert not store.due(3)
    clock.now = 100.0
    store.begin(3)
    store.begin(4)
    clock.now = 159.0
    assert not store.due(3)
    clock.now = 160.0
    assert store.due(3)

    def slow(step: int) -> object:
        clock.now += 6.0
        return None

    store.save(3, FACTS, lambda: history(1).checkpoint(None, slow(1)))
    # 6 of 166 seconds: the next one, of any trial, has to wait until 600 are over.
    assert not store.due(4)
    clock.now = 600.5
    assert store.due(4)
    assert store.due(3)
    store.end(3)
    assert not store.due(3)


# Reports.


@given(st.integers(0, 3 * KEPT_REPORTS), st.integers(0, 3 * KEPT_REPORTS))
def test_every_report_that_does_not_count_is_made_again(made: int, counted: int) -> None:
    kept = history(*range(1, made + 1)).checkpoint(None, None)
    if kept.reaches(counted):
        again = kept.again(counted)
        assert [report.step for report in again if report.step > counted] == list(range(counted + 1, made + 1))
        assert {report.seconds for report in again if report.step <= counted} <= {0.0}
        assert {report.seconds for report in again if report.step > counted} <= {0.5}
    else:
        assert made - counted >= KEPT_REPORTS
    assert len(kept.reports) <= 2 * KEPT_REPORTS


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.data())
def test_decisions_on_reports_made_again_are_waited_for_one_after_another(gaps: list[int], data: st.DataObject) -> None:
    """The driver answers where its own next step to decide is reached, at once or in the middle of the reports."""
    steps = list(range(1, sum(gaps) + 1))
    points = iter(gaps)
    due = next(points)
    answers: list[Decision] = []
    first = due
    for step in steps:
        if step >= due:
            due = step + next(points, 1000)
            answers.append(Decision(0, step, stop=False, decide_from=due))
    channel = InlineChannel("w", lambda events: None)
    channel.put((Job(0, {}),))
    pace = Pace(channel, 0, first)
    for step in steps:
        pace.note(step)
    while answers:
        assert not pace.look()
        count = data.draw(st.integers(1, len(answers)))
        channel.put(tuple(answers[:count]))
        del answers[:count]
    assert pace.look()
    assert not pace.settle()


# Lanes, and trials alone.


@pytest.mark.parametrize("program", ["eager", "solo"])
def test_a_trial_goes_on_from_its_checkpoint_with_the_same_numbers(
    home: Path, tmp_path: Path, config: Callable[..., dict[str, Any]], program: str
) -> None:
    options = {"model": {"name": "mlp", "hidden": [8], "norm": "batch"}, "optim": {"name": "adamw", "lr": 0.01}}
    settings = {"checkpoint_folder": str(tmp_path), "checkpoint_seconds": 1e-9, "diagnosis": Rule()}
    jobs = [Job(number, config(number, epochs=9, **options)) for number in range(3)]
    whole = Played(home, Fixed(Plan(3, program)))
    whole.run(*jobs)

    killed = Played(home, Fixed(Plan(3, program)), **settings)
    killed.engine._checkpoints._began -= 1e9
    killed.channel.put(tuple(jobs))
    while len(killed.reports(0)) < 4:
        killed.turn()
    made = {number: len(killed.reports(number)) for number in range(3)}
    assert {path.name for path in tmp_path.iterdir()} >= {"trial-0.ckpt", "trial-0.before.ckpt"}

    # Another program and other lanes are planned now: the trials go on as they began.
    again = Played(home, Fixed(Plan(2, "eager" if program == "solo" else "solo")), **settings)
    begun = [number for number in range(3) if made[number]]
    again.run(*(replace(jobs[number], attempt=1, counted=made[number]) for number in begun))
    assert begun == ([0] if program == "solo" else [0, 1, 2])
    for number in begun:
        reports = again.reports(number)
        assert [report.step for report in reports] == list(range(1, 10))
        for report, expected in zip(reports, whole.reports(number), strict=True):
            assert untimed(report.metrics) == untimed(expected.metrics)
    # Its epochs before the checkpoint took no time again.
    assert [report.seconds for report in again.reports(0)][: made[0]] == [0.0] * made[0]


def test_reports_that_never_arrived_are_made_again_and_judged(
    home: Path, tmp_path: Path, config: Callable[..., dict[str, Any]]
) -> None:
    settings = {"checkpoint_folder": str(tmp_path), "checkpoint_seconds": 1e-9}
    killed = Played(home, Fixed(Plan(2)), **settings)
    killed.engine._checkpoints._began -= 1e9
    killed.channel.put((Job(0, config(0, epochs=9)),))
    while len(killed.reports(0)) < 5:
        killed.turn()

    def judge(report: Report) -> Decision | None:
        return Decision(0, report.step, stop=report.step == 4, decide_from=4) if report.step in (3, 4) else None

    again = Played(home, Fixed(Plan(2)), judge, **settings)
    # Only two reports had reached the study, and the pruner has a word at each that follows.
    again.run(Job(0, config(0, epochs=9), attempt=1, decide_from=3, counted=2))
    assert [report.step for report in again.reports(0)] == [1, 2, 3, 4, 5]
    assert again.of(Finished) == [Finished("w", 0, 1)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", ["eager", "solo"])
def test_a_sweep_that_is_stopped_keeps_the_epoch_that_is_under_way(
    home: Path, tmp_path: Path, config: Callable[..., dict[str, Any]], program: str
) -> None:
    settings = {"checkpoint_folder": str(tmp_path), "checkpoint_seconds": 3600.0}
    jobs = [Job(number, config(number, epochs=6)) for number in range(2)]
    stopped = Played(home, Fixed(Plan(2, program)), **settings)

    def stop(report: Report) -> Decision | None:
        return Decision(report.trial, report.step, stop=True, suspend=True) if report.step == 2 else None

    stopped.judge = stop
    stopped.run(*jobs)
    assert sorted(event.trial for event in stopped.of(Finished)) == [0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trial-0.ckpt", "trial-1.ckpt"]
    again = Played(home, Fixed(Plan(2, program)), **settings)
    again.run(*(replace(job, counted=2) for job in jobs))
    fresh = Played(home, Fixed(Plan(2, program)))
    fresh.run(*jobs)
    for number in range(2):
        assert [untimed(report.metrics) for report in again.reports(number)] == [
            untimed(report.metrics) for report in fresh.reports(number)
        ]
        assert again.reports(number)[1].seconds == 0.0


def test_a_stop_in_mid_epoch_trains_it_to_its_end_unless_the_last_one_is_kept(
    home: Path, tmp_path: Path, config: Callable[..., dict[str, Any]]
) -> None:
    settings = {"checkpoint_folder": str(tmp_path), "checkpoint_seconds": 3600.0}
    played = Played(home, Fixed(Plan(2)), **settings)
    played.channel.put((Job(0, config(0, epochs=6)),))
    while len(played.reports(0)) < 2:
        played.turn()
    (block,) = played.engine._blocks
    epoch = block.lanes.epoch

    def meanwhile(should_stop: Callable[[int], bool]) -> Any:
        # The word comes when the first step of the third epoch is over.
        asked = 0

        def ask(number: int) -> bool:
            nonlocal asked
            asked += 1
            if asked == 2:
                played.channel.put((Decision(0, 2, stop=True, suspend=True),))
            return should_stop(number)

        return epoch(ask)

    block.lanes.epoch = meanwhile  # type: ignore[method-assign]
    played.turn()
    # It trained on, and the third report went to disk instead of to the driver, which takes none any more.
    assert [report.step for report in played.reports(0)] == [1, 2]
    found = Checkpoints(tmp_path, 1.0).load(0, lambda facts: True, 2)
    assert found is not None
    assert [report.step for report in found[1].reports] == [1, 2, 3]


# Functions.


def trains(params: Params) -> None:
    state = swathe.restore() or {"step": 0, "sum": 0.0}
    trial = swathe.trial()
    assert trial is not None
    for step in range(state["step"] + 1, params.steps + 1):
        state = {"step": step, "sum": state["sum"] + 1 / step}
        if step == params.get("dies") and swathe.restore() is None:
            raise RuntimeError("killed")
        if swathe.report(loss=state["sum"]):
            return
        swathe.checkpoint(lambda: state)  # noqa: B023


def keeps_what_cannot_be_kept(params: Params) -> None:
    swathe.report(loss=1.0)
    swathe.checkpoint({"state": lambda: 1})


def called(
    folder: Path,
    trainable: str,
    job: Job,
    judge: Callable[[Report], Decision | None] = lambda report: None,
    **more: Any,
) -> list[Emitted]:
    events: list[Emitted] = []

    def take(new: Sequence[Emitted]) -> None:
        events.extend(new)
        for report in (report for event in new if isinstance(event, Reported) for report in event.reports):
            if (decision := judge(report)) is not None:
                channel.put((decision,))

    settings = {"checkpoint_folder": str(folder), "checkpoint_seconds": 1e-9, **more}
    channel = InlineChannel("w", take)
    channel.put((job,))
    setup = WorkerSetup(f"{__name__}:{trainable}", "loss", Direction.MINIMIZE, "", (), "cpu", 1)
    run_one_by_one(replace(setup, **settings), channel, "w")
    return events


def losses(events: Sequence[Emitted]) -> list[tuple[int, float]]:
    reports = [report for event in events if isinstance(event, Reported) for report in event.reports]
    return [(report.step, report.metrics["loss"]) for report in reports]


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a checkpoint be written whenever it is asked for, however little time it has had to pay for itself."""
    monkeypatch.setattr(checkpoints, "SHARE", 1e9)


@pytest.mark.usefixtures("unhurried")
def test_a_function_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"params": {"steps": 6, "dies": 4}}
    # As when its process dies: nobody removes what it has kept.
    monkeypatch.setattr(Checkpoints, "end", lambda self, trial, **how: None)
    first = called(tmp_path, "trains", Job(3, params))
    assert isinstance(first[-1], Failed)
    monkeypatch.undo()
    again = called(tmp_path, "trains", Job(3, params, attempt=1, counted=2))
    whole = called(tmp_path, "trains", Job(4, {"params": {"steps": 6}}))
    assert losses(again) == losses(whole)
    assert isinstance(again[-1], Finished)


@pytest.mark.usefixtures("unhurried")
def test_a_function_that_is_pruned_by_what_it_says_again_does_not_run(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, 1.0)
    facts = {"trial": checkpoints.digest({"params": {"steps": 6}, "seed": 0, "trainable": f"{__name__}:trains"})}
    diagnosis = TrialDiagnosis(None, Facts())
    store.save(3, facts, lambda: history(1, 2, 3).checkpoint(diagnosis, {"step": 3, "sum": 99.0}))
    stop = called(
        tmp_path,
        "trains",
        Job(3, {"params": {"steps": 6}}, decide_from=2, counted=1),
        lambda report: Decision(3, report.step, stop=True) if report.step == 2 else None,
    )
    assert [step for step, _ in losses(stop)] == [1, 2, 3]
    assert isinstance(stop[-1], Finished)


@pytest.mark.usefixtures("unhurried")
def test_a_stopped_sweep_keeps_a_function_at_its_next_checkpoint(tmp_path: Path) -> None:
    def stop(report: Report) -> Decision | None:
        return Decision(3, report.step, stop=True, suspend=True) if report.step == 3 else None

    # Its interval is an hour: nothing would be due.
    stopped = called(tmp_path, "trains", Job(3, {"params": {"steps": 6}}), stop, checkpoint_seconds=3600.0)
    assert [step for step, _ in losses(stopped)] == [1, 2, 3]
    assert isinstance(stopped[-1], Finished)
    again = called(tmp_path, "trains", Job(3, {"params": {"steps": 6}}, counted=3))
    assert [step for step, _ in losses(again)] == [1, 2, 3, 4, 5, 6]
    assert losses(again)[-1][1] == pytest.approx(sum(1 / step for step in range(1, 7)), abs=0)


@pytest.mark.usefixtures("unhurried")
def test_a_function_is_told_what_cannot_be_kept(tmp_path: Path) -> None:
    (_, failed) = called(tmp_path, "keeps_what_cannot_be_kept", Job(3, {"params": {}}))
    assert isinstance(failed, Failed)
    assert failed.reason.startswith("SwatheError: swathe.checkpoint: state: dict is not allowed; allowed: what can be")


@pytest.mark.usefixtures("unhurried")
def test_a_folder_that_cannot_be_written_is_said_and_the_trial_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    events = called(tmp_path / "file", "trains", Job(3, {"params": {"steps": 3}}))
    assert isinstance(events[-1], Finished)
    said = [note.tags[NOTE] for note in events if isinstance(note, Note)]
    assert said == ["Checkpoints cannot be written: File exists."] * 3


def test_outside_of_a_sweep_nothing_is_kept() -> None:
    assert swathe.restore() is None
    assert not swathe.checkpoint({})


def test_a_trial_that_begins_anew_has_the_program_that_began_it(
    home: Path, config: Callable[..., dict[str, Any]]
) -> None:
    played = Played(home, Fixed(Plan(1, "solo")))
    played.run(Job(0, config(0), counted=2, program="eager"), Job(1, config(1)))
    assert json.loads(played.tags(0)["swathe.geometry"])["program"] == "eager"
    assert "program" not in json.loads(played.tags(1)["swathe.geometry"])
