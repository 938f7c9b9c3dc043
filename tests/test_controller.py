"""The controller alone: whatever happens in whatever order, its promises hold."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swathe import pruners
from swathe.controller import SHORT_TRIALS_HELD, Budget, Controller
from swathe.events import (
    Ask,
    Assign,
    Assignment,
    Command,
    Decide,
    Direction,
    Done,
    Event,
    Failed,
    Finished,
    Keep,
    Kill,
    Proposal,
    Proposed,
    Record,
    Report,
    Reported,
    Slots,
    StopAsked,
    Suspend,
    Tell,
    Tick,
    TrialState,
    Value,
    WorkerLost,
    WorkerReady,
    WorkersStart,
)
from swathe.repetition import KINDS, OpenPoints, Repetition
from swathe.training.diagnose import Action, Finding, Symptom

ASHA = {"name": "asha", "min_resource": 1, "reduction_factor": 2, "min_early_stopping_rate": 0, "bootstrap_count": 0}


def make(pruner: Mapping[str, object] | None = None, **options: object) -> Controller:
    budget = options.pop("budget", Budget(trials=4))
    return Controller(
        metric="loss",
        direction=options.pop("direction", Direction.MINIMIZE),  # type: ignore[arg-type]
        pruner=pruners.build(pruner or {"name": "none"}, Direction.MINIMIZE, "s"),
        budget=budget,  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )


def report(trial: int, step: int, loss: float, *, worker: str = "w", seconds: float = 1.0) -> Reported:
    return Reported(worker, (Report(trial, step, {"loss": loss}, seconds),))


def of(commands: list[Command], kind: type) -> list[Command]:
    return [command for command in commands if isinstance(command, kind)]


def start(controller: Controller, worker: str = "w") -> list[Command]:
    """Bring up one worker and answer the first ask with points numbered from 0."""
    commands = controller.handle(WorkerReady(worker))
    (ask,) = of(commands, Ask)
    return controller.handle(Proposed(tuple(Proposal(number, {"x": 0.5}) for number in range(ask.count))))


def test_a_worker_gets_a_trial_and_the_next_when_it_finishes() -> None:
    controller = make()
    (assign,) = of(start(controller), Assign)
    assert [assignment.trial for assignment in assign.assignments] == [0]
    controller.handle(report(0, 1, 0.3))
    commands = controller.handle(Finished("w", 0))
    assert of(commands, Tell) == [Tell(0, TrialState.COMPLETE, 0.3, 1)]
    assert [a.trial for assign in of(commands, Assign) for a in assign.assignments] == [1]
    assert controller.best == (0, 0.3)


def test_reports_are_recorded_before_the_trial_is_told() -> None:
    controller = make({"name": "threshold", "lower": None, "upper": 1.0, "n_warmup_steps": 0, "interval_steps": 1})
    start(controller)
    commands = controller.handle(report(0, 1, 2.0))
    assert [type(command) for command in commands[:3]] == [Decide, Record, Tell]
    assert commands[2] == Tell(0, TrialState.PRUNED, 2.0, 1, "pruned at step 1")
    # The slot is free only when the worker has confirmed.
    assert not of(commands, Assign)
    assert of(controller.handle(Finished("w", 0)), Assign)


def test_a_pruned_trial_that_reports_on_is_ignored() -> None:
    controller = make({"name": "threshold", "lower": None, "upper": 1.0, "n_warmup_steps": 0, "interval_steps": 1})
    start(controller)
    controller.handle(report(0, 1, 2.0))
    assert controller.handle(report(0, 2, 0.1)) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_trial_stops_at_once(value: float) -> None:
    controller = make()
    start(controller)
    (tell,) = of(controller.handle(report(0, 2, value)), Tell)
    assert tell.state is TrialState.PRUNED
    assert tell.reason == f"diverged: loss is {value} at step 2"


STOPPED = (Finding(Symptom.DIVERGED, "The training loss is 40 at report 2.", "Lower it.", Action.STOP),)


def test_a_trial_that_a_finding_stops_ends_as_one_that_diverged() -> None:
    controller = make()
    start(controller)
    controller.handle(report(0, 1, 0.3))
    commands = controller.handle(Reported("w", (Report(0, 2, {"loss": 0.2}, findings=STOPPED, ends=Action.STOP),)))
    assert [type(command) for command in commands[:3]] == [Decide, Record, Tell]
    assert commands[2] == Tell(0, TrialState.PRUNED, None, 2, "diverged: The training loss is 40 at report 2")
    assert controller.best is None


def test_a_finding_that_is_a_tag_ends_nothing() -> None:
    controller = make()
    start(controller)
    commands = controller.handle(Reported("w", (Report(0, 2, {"loss": 0.2}, findings=STOPPED),)))
    assert not of(commands, Tell)
    early = Report(0, 3, {"loss": 0.2}, findings=STOPPED, ends=Action.EARLY_STOP)
    # Its worker ends it, as after its last epoch.
    assert not of(controller.handle(Reported("w", (early,))), Tell)
    assert of(controller.handle(Finished("w", 0)), Tell) == [Tell(0, TrialState.COMPLETE, 0.2, 3)]


def test_a_second_attempt_ends_where_the_first_was_about_to() -> None:
    controller = make()
    start(controller)
    controller.handle(report(0, 2, 0.2))
    controller.handle(WorkerLost("w", "killed"))
    controller.handle(WorkerReady("v"))
    again = Report(0, 2, {"loss": 0.2}, findings=STOPPED, ends=Action.STOP)
    commands = controller.handle(Reported("v", (again,)))
    assert not of(commands, Record)
    (tell,) = of(commands, Tell)
    assert (tell.state, tell.value) == (TrialState.PRUNED, None)


def test_a_report_without_the_metric_fails_the_trial_and_says_what_it_has() -> None:
    controller = make()
    start(controller)
    (tell,) = of(controller.handle(Reported("w", (Report(0, 1, {"accuracy": 0.5}),))), Tell)
    assert tell.state is TrialState.FAILED
    assert tell.reason == "step 1 reports no 'loss'; it reports: accuracy"


def test_a_lost_workers_trial_goes_to_another_and_is_not_recorded_twice() -> None:
    controller = make()
    start(controller)
    controller.handle(report(0, 1, 0.3))
    controller.handle(WorkerLost("w", "killed"))
    commands = controller.handle(WorkerReady("v"))
    (assign,) = of(commands, Assign)
    assert assign.assignments[0].trial == 0
    assert assign.assignments[0].attempt == 1
    assert not of(controller.handle(report(0, 1, 0.3, worker="v")), Record)
    assert of(controller.handle(report(0, 2, 0.2, worker="v")), Record)
    assert of(controller.handle(report(0, 3, 0.1, worker="w")), Record) == []


def test_a_trial_whose_worker_is_lost_too_often_fails() -> None:
    controller = make(retries=1)
    start(controller)
    controller.handle(WorkerLost("w", "killed"))
    controller.handle(WorkerReady("v"))
    (tell,) = of(controller.handle(WorkerLost("v", "killed")), Tell)
    assert tell.state is TrialState.FAILED
    assert "lost 2 times" in tell.reason


def test_the_same_failure_again_and_again_ends_the_sweep() -> None:
    controller = make(budget=Budget(trials=100), max_failures=3)
    start(controller)
    held = [0]
    for _ in range(3):
        number = held.pop(0)
        commands = controller.handle(Failed("w", number, "ValueError: no"))
        for ask in of(commands, Ask):
            commands += controller.handle(Proposed(_fresh(controller, ask)))
        held += [a.trial for assign in of(commands, Assign) for a in assign.assignments]
    assert controller.ending
    assert {command.trial for command in of(commands, Suspend)} >= set(held)
    # What the worker held in advance must be confirmed as stopped before the sweep is over.
    for number in held:
        assert not of(commands, Done)
        commands = controller.handle(Finished("w", number))
    (done,) = of(commands, Done)
    assert done.failed
    assert "3 trials failed for the same reason: ValueError: no" in done.reason


def _fresh(controller: Controller, ask: Ask) -> tuple[Proposal, ...]:
    first = max(controller.live, default=1) + 1
    return tuple(Proposal(first + index, {}) for index in range(ask.count))


@pytest.mark.parametrize(
    ("budget", "word"),
    [
        (Budget(trials=9, epochs=2), "epochs"),
        (Budget(trials=9, device_seconds=2.0), "device-seconds"),
        (Budget(trials=9, target=0.25), "target"),
    ],
)
def test_each_budget_ends_the_sweep(budget: Budget, word: str) -> None:
    controller = make(budget=budget)
    start(controller)
    controller.handle(report(0, 1, 0.3))
    commands = controller.handle(report(0, 2, 0.2))
    assert of(commands, Tell)
    commands = controller.handle(Finished("w", 0))
    (done,) = of(commands, Done)
    assert word in done.reason
    assert controller.ending


def test_wall_time_ends_the_sweep() -> None:
    controller = make(budget=Budget(trials=9, wall_time=10.0))
    start(controller)
    assert not controller.handle(Tick(9.9))
    controller.handle(report(0, 1, 0.3))
    commands = controller.handle(Tick(10.0))
    (tell,) = of(commands, Tell)
    assert tell.state is TrialState.PRUNED
    assert of(controller.handle(Finished("w", 0)), Done)


def test_stopping_suspends_what_runs_and_what_waits() -> None:
    controller = make()
    start(controller)
    commands = controller.handle(StopAsked())
    assert {command.trial for command in of(commands, Suspend)} == {0, 1}
    assert not of(commands, Tell)
    (done,) = of(controller.handle(Finished("w", 0)), Done)
    assert done.interrupted


def test_stopping_at_once_is_done_at_once() -> None:
    controller = make()
    start(controller)
    assert of(controller.handle(StopAsked(at_once=True)), Done)


def test_the_best_trials_model_is_kept() -> None:
    controller = make()
    start(controller)
    controller.handle(report(0, 1, 0.3))
    assert of(controller.handle(Finished("w", 0, model=b"a")), Keep) == [Keep(0, b"a")]
    controller.handle(report(1, 1, 0.4))
    assert not of(controller.handle(Finished("w", 1, model=b"b")), Keep)


def test_short_trials_are_held_in_advance_and_long_ones_are_not() -> None:
    for seconds, expected in ((0.001, 3), (5.0, 1)):
        controller = make(budget=Budget(trials=50), ask_ahead=10)
        start(controller)
        controller.handle(report(0, 1, 0.3, seconds=seconds))
        commands = controller.handle(Finished("w", 0))
        assert sum(len(assign.assignments) for assign in of(commands, Assign)) == expected


@dataclass(frozen=True)
class Past:
    number: int
    params: Mapping[str, Value]
    state: TrialState
    value: float | None
    values: Mapping[int, float] = field(default_factory=dict)
    attrs: Mapping[str, Value] = field(default_factory=dict)
    objectives: tuple[float, ...] = ()
    feasible: bool = True


def test_a_resumed_sweep_runs_what_was_left_first() -> None:
    past = [
        Past(0, {}, TrialState.COMPLETE, 0.5, {1: 0.6, 2: 0.5}),
        Past(1, {"x": 1}, TrialState.RUNNING, None, {1: 0.4}),
    ]
    controller = make(history=past)
    assert controller.best == (0, 0.5)
    commands = controller.handle(WorkerReady("w"))
    (assign,) = of(commands, Assign)
    assert assign.assignments[0].trial == 1
    assert not of(controller.handle(report(1, 1, 0.4)), Record)
    (ask,) = of(commands, Ask)
    assert ask.count <= 2


@pytest.mark.parametrize(
    ("value", "state", "reason"),
    [
        (math.nan, TrialState.PRUNED, "diverged: loss is nan at step 2"),
        (0.1, TrialState.COMPLETE, "reached the target at step 2"),
    ],
)
def test_an_end_that_the_last_driver_had_recorded_and_not_told_is_told_now(
    value: float, state: TrialState, reason: str
) -> None:
    past = [Past(0, {}, TrialState.RUNNING, None, {1: 0.6, 2: value})]
    controller = make(history=past, budget=Budget(trials=3, target=0.2))
    controller.handle(WorkersStart(1))
    controller.handle(WorkerReady("w"))
    assert not of(controller.handle(report(0, 1, 0.6)), Tell)
    commands = controller.handle(report(0, 2, value))
    assert not of(commands, Record)
    (tell,) = of(commands, Tell)
    assert (tell.state, tell.step, tell.reason) == (state, 2, reason)
    assert controller.ending == (state is TrialState.COMPLETE)


def test_a_worker_that_hangs_is_killed_and_its_trial_fails_in_the_end() -> None:
    controller = make(retries=1, trial_timeout=5.0)
    start(controller)
    controller.handle(Tick(3.0))
    controller.handle(report(0, 1, 0.3))
    assert not of(controller.handle(Tick(7.9)), Kill)
    (kill,) = of(controller.handle(Tick(8.0)), Kill)
    assert kill == Kill("w", "nothing was heard of its trials for 5 s")
    assert not of(controller.handle(Tick(8.5)), Kill), "once"
    controller.handle(WorkerLost("w", kill.reason))
    controller.handle(WorkerReady("v"))
    (kill,) = of(controller.handle(Tick(20.0)), Kill)
    (tell,) = of(controller.handle(WorkerLost("v", kill.reason)), Tell)
    assert tell.state is TrialState.FAILED
    assert tell.reason.endswith("nothing was heard of its trials for 5 s")


def test_a_worker_without_a_trial_may_be_silent_and_one_that_was_told_to_stop_may_not() -> None:
    controller = make(trial_timeout=5.0, budget=Budget(trials=1))
    assert not of(controller.handle(Tick(60.0)), Kill)
    start(controller)
    assert not of(controller.handle(Tick(64.0)), Kill), "it has a trial since 60 s"
    controller.handle(StopAsked())
    assert of(controller.handle(Tick(66.0)), Kill)
    assert of(controller.handle(WorkerLost("w", "killed")), Done)


def test_what_only_waited_behind_a_trial_that_kills_its_worker_does_not_count_as_tried() -> None:
    controller = make(retries=0, budget=Budget(trials=50), ask_ahead=10)
    start(controller)
    controller.handle(report(0, 1, 0.3, seconds=0.001))
    held = [a.trial for assign in of(controller.handle(Finished("w", 0)), Assign) for a in assign.assignments]
    assert len(held) == 3
    tells = of(controller.handle(WorkerLost("w", "killed")), Tell)
    assert [tell.trial for tell in tells] == held[:1]


@pytest.mark.parametrize("budget", [Budget(trials=9, epochs=2), Budget(trials=9, target=0.5)])
def test_a_resumed_sweep_that_was_over_but_for_saying_so_trains_no_more(budget: Budget) -> None:
    past = [
        Past(0, {}, TrialState.COMPLETE, 0.5, {1: 0.6, 2: 0.5}),
        Past(1, {"x": 1}, TrialState.RUNNING, None, {1: 0.4}),
    ]
    controller = make(history=past, budget=budget)
    commands = controller.handle(WorkersStart(1))
    assert of(commands, Suspend) == [Suspend(1)]
    assert of(commands, Done)
    assert controller.handle(WorkerReady("w")) == []


# Lanes: trials of one structural key side by side.


def laned(trials: str, *, workers: tuple[str, ...] = ("w",), **options: object) -> Controller:
    """Return a controller with workers and one trial asked for each letter, which is its key: "-" is a trial alone."""
    options = {"budget": Budget(trials=len(trials)), "ask_ahead": len(trials)} | options
    controller = make(key=lambda params: str(params["key"]).strip("-"), **options)  # type: ignore[arg-type]
    (ask,) = of(controller.handle(WorkerReady(workers[0])), Ask)
    assert ask == Ask(len(trials))
    for worker in workers[1:]:
        controller.handle(WorkerReady(worker))
    return controller


def draw(controller: Controller, trials: str) -> list[Command]:
    return controller.handle(Proposed(tuple(Proposal(number, {"key": key}) for number, key in enumerate(trials))))


def given_to(commands: list[Command], worker: str = "w") -> list[int]:
    assigns = [command for command in commands if isinstance(command, Assign) and command.worker == worker]
    assert len(assigns) <= 1, "a worker's trials come in one message"
    return [assignment.trial for assign in assigns for assignment in assign.assignments]


def test_a_worker_gets_one_trial_of_a_key_until_it_says_its_slots() -> None:
    trials = "aaaaaaaa"
    controller = laned(trials)
    assert given_to(draw(controller, trials)) == [0]
    assert controller.lanes == (1, 1)
    assert given_to(controller.handle(report(0, 1, 0.5))) == []
    assert given_to(controller.handle(Slots("w", "a", 4))) == [1, 2, 3]
    assert controller.lanes == (4, 4)
    assert given_to(controller.handle(Finished("w", 2))) == [4]


def test_the_successor_of_a_pruned_lane_goes_out_with_the_decision() -> None:
    trials = "aaaa"
    threshold = {"name": "threshold", "lower": None, "upper": 1.0, "n_warmup_steps": 0, "interval_steps": 1}
    controller = laned(trials, pruner=threshold)
    draw(controller, trials)
    controller.handle(Slots("w", "a", 2))
    commands = controller.handle(report(0, 1, 2.0))
    assert [type(command) for command in commands] == [Decide, Record, Tell, Assign]
    assert given_to(commands) == [2]
    # The worker's word that the pruned trial has ended makes no room twice.
    assert controller.handle(Finished("w", 0)) == []
    assert given_to(controller.handle(report(1, 1, 2.0))) == [3]


def test_a_trial_alone_and_a_first_one_keep_their_slot_until_the_worker_confirms() -> None:
    threshold = {"name": "threshold", "lower": None, "upper": 1.0, "n_warmup_steps": 0, "interval_steps": 1}
    for trials in ("--", "aa"):
        controller = laned(trials, pruner=threshold)
        draw(controller, trials)
        assert given_to(controller.handle(report(0, 1, 2.0))) == []
        assert given_to(controller.handle(Finished("w", 0))) == [1]
    controller = laned("aa", pruner=threshold)
    draw(controller, "aa")
    controller.handle(Slots("w", "a", 1))
    assert given_to(controller.handle(report(0, 1, 2.0))) == []
    assert given_to(controller.handle(Finished("w", 0))) == [1]


def test_a_worker_takes_what_it_runs_first_and_another_key_when_that_has_drained() -> None:
    trials = "aabbab"
    controller = laned(trials)
    assert given_to(draw(controller, trials)) == [0]
    # 1/3 for each a; then b's first one takes 1/16, and the next b wait for its slots.
    assert given_to(controller.handle(Slots("w", "a", 3))) == [1, 4]
    assert given_to(controller.handle(Finished("w", 0))) == [2]
    assert given_to(controller.handle(Finished("w", 1))) == []
    # One a takes 1/3, so that b's slots leave room for two of three.
    assert given_to(controller.handle(Slots("w", "b", 3))) == [3]
    assert given_to(controller.handle(Finished("w", 4))) == [5]


def test_the_key_that_most_trials_wait_for_comes_first() -> None:
    trials = "abbbccb"
    controller = laned(trials, workers=("v", "w", "x"))
    commands = draw(controller, trials)
    # 4 of b wait, then 3 for one worker on it and one that joins, 2 of c.
    assert [given_to(commands, worker) for worker in "vwx"] == [[1], [4], [2]]


def test_no_worker_holds_a_second_trial_while_another_has_none() -> None:
    trials = "aaaaaaaaaaaa"
    controller = laned(trials, workers=("v", "w"))
    controller.handle(Slots("v", "a", 8))
    controller.handle(Slots("w", "a", 4))
    commands = draw(controller, trials)
    # By the share of it that is in use: the larger worker gets more.
    assert [given_to(commands, worker) for worker in "vw"] == [[0, 2, 3, 5, 6, 8, 9, 11], [1, 4, 7, 10]]


def test_no_worker_holds_more_than_its_share_of_what_is_left() -> None:
    trials = "aaaaaaaa"
    controller = laned(trials, workers=("v", "w"))
    controller.handle(Slots("v", "a", 64))
    controller.handle(Slots("w", "a", 4))
    commands = draw(controller, trials)
    assert [len(given_to(commands, worker)) for worker in "vw"] == [4, 4]


def test_what_others_have_no_slots_for_is_nobody_s_share() -> None:
    trials = "a" * 20
    controller = laned(trials, workers=("v", "w"))
    controller.handle(Slots("v", "a", 64))
    controller.handle(Slots("w", "a", 2))
    commands = draw(controller, trials)
    assert [len(given_to(commands, worker)) for worker in "vw"] == [18, 2]


def test_a_worker_that_is_still_starting_finds_its_share() -> None:
    trials = "aaaaaaaa"
    controller = make(key=lambda params: "a", budget=Budget(trials=8), ask_ahead=8)
    controller.handle(WorkersStart(2))
    controller.handle(WorkerReady("v"))
    draw(controller, trials)
    assert given_to(controller.handle(Slots("v", "a", 64)), "v") == [1, 2, 3]
    assert given_to(controller.handle(WorkerReady("w")), "w") == [4]
    assert given_to(controller.handle(Slots("w", "a", 64)), "w") == [5, 6, 7]


def test_no_more_points_are_drawn_than_workers_take() -> None:
    controller = make(key=lambda params: "a", budget=Budget(trials=8), ask_ahead=0)
    controller.handle(WorkersStart(2))
    (ask,) = of(controller.handle(WorkerReady("v")), Ask)
    assert ask == Ask(1)
    controller.handle(Proposed((Proposal(0, {"key": "a"}),)))
    (ask,) = of(controller.handle(Slots("v", "a", 64)), Ask)
    assert ask == Ask(3)


def test_a_new_trial_goes_to_the_worker_with_the_most_room() -> None:
    controller = laned("aaaa", workers=("v", "w"))
    controller.handle(Slots("v", "a", 4))
    controller.handle(Slots("w", "a", 4))
    draw(controller, "aaa")
    assert controller.handle(Finished("w", 1)) == [Tell(1, TrialState.FAILED, None, None, NO_LOSS, cause=NO_LOSS)]
    assert given_to(controller.handle(Proposed((Proposal(3, {"key": "a"}),))), "w") == [3]


def test_a_worker_that_waited_for_a_queue_takes_another_when_that_is_drained() -> None:
    trials = "aaaab"
    controller = laned(trials, workers=("v", "w"))
    controller.handle(Slots("v", "a", 3))
    controller.handle(Slots("w", "b", 16))
    commands = draw(controller, trials)
    # w measures a, so that b waits for as long as a does; v takes what is left of a, and is full.
    assert [given_to(commands, worker) for worker in "vw"] == [[0, 2, 3], [1, 4]]


def test_a_lost_worker_counts_for_no_key() -> None:
    controller = laned("aaabb")
    draw(controller, "aaabb")
    controller.handle(WorkerLost("w", "killed"))
    assert given_to(controller.handle(WorkerReady("v")), "v") == [0]


def test_a_lost_worker_needs_no_points_in_advance() -> None:
    controller = laned("aa", budget=Budget(trials=9), ask_ahead=None)
    controller.handle(WorkerLost("w", "killed"))
    draw(controller, "aa")
    assert [type(command) for command in controller.handle(WorkerReady("v"))] == [Assign]


def test_only_one_key_is_measured_at_a_time() -> None:
    trials = "abc"
    controller = laned(trials)
    assert given_to(draw(controller, trials)) == [0]
    assert given_to(controller.handle(Slots("w", "a", 4))) == [1]
    assert given_to(controller.handle(Slots("w", "b", 1))) == []
    assert given_to(controller.handle(Finished("w", 1))) == [2]


def test_fewer_slots_stop_nothing_that_runs() -> None:
    trials = "aaaaaaaa"
    controller = laned(trials)
    draw(controller, trials)
    assert len(given_to(controller.handle(Slots("w", "a", 6)))) == 5
    assert controller.handle(Slots("w", "a", 3)) == []
    for number in range(3):
        assert controller.handle(Finished("w", number)) == [
            Tell(number, TrialState.FAILED, None, None, NO_LOSS, cause=NO_LOSS)
        ]
    assert given_to(controller.handle(Finished("w", 3))) == [6]
    assert given_to(controller.handle(Slots("w", "a", 4))) == [7]


NO_LOSS = "ended without a report of 'loss'"


def test_a_lost_workers_trials_go_to_the_front_of_their_own_queues() -> None:
    trials = "aaabbab"
    controller = laned(trials)
    draw(controller, trials)
    controller.handle(Slots("w", "a", 3))
    assert given_to(controller.handle(Finished("w", 0))) == [5]
    controller.handle(WorkerLost("w", "killed"))
    # As many wait under a (1, 2 and 5, of which 5 was drawn last) as under b (3, 4 and 6).
    assert given_to(controller.handle(WorkerReady("v")), "v") == [3]
    assert given_to(controller.handle(Slots("v", "b", 3)), "v") == [4, 6]
    assert given_to(controller.handle(Finished("v", 4)), "v") == [1]
    assert given_to(controller.handle(Slots("v", "a", 9)), "v") == [2, 5]


def test_points_are_asked_for_one_more_fill_of_the_widest_slots() -> None:
    trials = "aa"
    controller = laned(trials, budget=Budget(trials=100), ask_ahead=None)
    assert of(draw(controller, trials), Ask) == []
    (ask,) = of(controller.handle(Slots("w", "a", 10)), Ask)
    # 2 run, 8 lanes are free, and 10 wait in advance.
    assert ask == Ask(18)


def test_stopping_ends_lanes_and_what_waits_in_every_queue() -> None:
    trials = "aab-"
    controller = laned(trials)
    draw(controller, trials)
    controller.handle(Slots("w", "a", 4))
    commands = controller.handle(StopAsked())
    assert [command.trial for command in of(commands, Suspend)] == [3, 0, 1, 2]  # type: ignore[attr-defined]
    for number in (0, 1):
        assert controller.handle(Finished("w", number)) == []
    assert of(controller.handle(Finished("w", 2)), Done)


class World:
    """Workers and a study with faults, driven by a random choice a turn; checks every promise after each event."""

    def __init__(
        self, seed: int, trials: int, pruner: Mapping[str, object], *, keys: str, stop: bool, repeats: Repetition
    ) -> None:
        self.random = random.Random(seed)
        self.repeats = repeats
        self.points = OpenPoints(repeats, Direction.MINIMIZE)
        self.best: tuple[int, float] | None = None
        self.trials = trials
        self.stop = stop
        self.keys = keys
        self.controller = make(
            pruner,
            budget=Budget(trials=trials),
            retries=2,
            max_failures=10_000,
            key=lambda params: self.key(params["n"]),
            repetition=repeats,
        )
        self.asked = 0
        self.proposed = 0
        self.workers: dict[str, dict[int, int]] = {}
        self.made = 0
        self.told: Counter[int] = Counter()
        self.suspended: set[int] = set()
        self.places: dict[int, str] = {}
        self.steps: dict[int, list[int]] = {}
        self.stopping: set[tuple[str, int]] = set()
        # What each worker has said of each key, and what it has still to say.
        self.slots: dict[tuple[str, str], int] = {}
        self.unsaid: list[tuple[str, str]] = []
        self.done: Done | None = None
        self.late: list[Event] = []
        self.widest = 1
        self.expected = self.random.choice([1, 2, 3, 4])
        self.feed(WorkersStart(self.expected))

    def key(self, trial: Value) -> str:
        assert isinstance(trial, int)
        return self.keys[hash((self.repeats.head(trial), 7)) % len(self.keys)].strip("-")

    def feed(self, event: Event) -> None:
        if isinstance(event, Slots) and event.worker in self.workers:
            self.slots[event.worker, event.key] = event.slots
            self.widest = max(self.widest, event.slots)
        for command in self.controller.handle(event):
            assert self.done is None
            self.take(command)
        self.check()

    def take(self, command: Command) -> None:
        match command:
            case Ask(count):
                assert count > 0
                assert self.asked == 0
                self.asked = count
            case Assign(worker, assignments):
                for assignment in assignments:
                    self.take_trial(worker, assignment)
            case Decide(worker, decisions):
                for decision in decisions:
                    if decision.stop:
                        assert decision.trial in self.workers[worker]
                        self.stopping.add((worker, decision.trial))
            case Record(reports):
                for made in reports:
                    steps = self.steps.setdefault(made.trial, [])
                    assert not steps or made.step > steps[-1], "recorded twice"
                    steps.append(made.step)
            case Tell(trial, state, value):
                self.told[trial] += 1
                self.places.pop(trial, None)
                self.end(trial, state, value)
            case Suspend(trial):
                assert trial not in self.told
                self.suspended.add(trial)
                self.places.pop(trial, None)
            case Done():
                self.done = command

    def end(self, trial: int, state: TrialState, value: float | None) -> None:
        ended = self.points.end(trial, state, value, feasible=True)
        if ended is not None and ended.value is not None and (self.best is None or ended.value < self.best[1]):
            self.best = ended.number, ended.value

    def take_trial(self, worker: str, assignment: Assignment) -> None:
        number = assignment.trial
        assert number not in self.places, "running in two places"
        assert number not in self.told
        assert number < self.proposed
        assert self.fits(worker, self.key(number), SHORT_TRIALS_HELD), "more than the worker has room for"
        self.places[number] = worker
        self.workers[worker][number] = 0
        said = (worker, self.key(number))
        if said[1] and said not in self.slots and said not in self.unsaid:
            self.unsaid.append(said)

    # The rules of room once more, from the trials on a worker alone.

    def held(self, worker: str) -> Counter[str]:
        held: Counter[str] = Counter()
        for number in self.workers[worker]:
            key = self.key(number)
            if (worker, number) not in self.stopping or self.said(worker, key) in (None, 1):
                held[key] += 1
        return held

    def said(self, worker: str, key: str) -> int | None:
        return self.slots.get((worker, key)) if key else 1

    def fits(self, worker: str, key: str, ahead: int = 0) -> bool:
        held = self.held(worker)
        slots = self.said(worker, key)
        used = sum(Fraction(count, self.said(worker, other) or 16) for other, count in held.items())
        if slots is None:
            return None not in {self.said(worker, other) for other in held} and used + Fraction(1, 16) <= 1
        if slots == 1:
            return {self.said(worker, other) for other in held} <= {1} and used + 1 <= 1 + ahead
        return used + Fraction(1, slots) <= 1

    def check(self) -> None:
        assert all(count == 1 for count in self.told.values()), "told twice"
        assert self.proposed <= self.trials
        assert self.proposed + self.asked <= self.trials, "budget"
        everything = set(range(self.proposed))
        assert everything == set(self.told) | self.suspended | self.controller.live, "a trial is lost"
        assert self.controller.best == self.best
        assert not self.repeats.several or all(self.points.out(number) is None for number in self.controller.live)
        assert self.controller.running == len(self.places)
        assert self.controller.lanes[0] == len(self.places)
        if not self.controller.ending:
            self.check_work()

    def share(self) -> int:
        left = len(self.controller.live) + self.trials - self.proposed
        equal = math.ceil(left / max(self.expected, len(self.workers)))
        if equal >= self.widest:
            return left
        said = {worker: [slots for (who, _), slots in self.slots.items() if who == worker] for worker in self.workers}
        return equal + sum(max(0, equal - max(slots)) for slots in said.values() if slots)

    def check_work(self) -> None:
        waiting = {self.key(number) for number in self.controller.live - set(self.places)}
        held = Counter(self.places.values())
        for worker, on in self.workers.items():
            if held[worker] >= self.share():
                continue
            own = waiting & {self.key(number) for number in on}
            for key in own or waiting:
                assert not self.fits(worker, key), f"{worker} has room that nobody filled"
        if waiting:
            loads = {worker: len(on) for worker, on in self.workers.items()}
            assert 0 not in loads.values(), "a worker has none"
        assert self.asked or waiting or not self.workers or self.proposed == self.trials, "nobody asks"

    def step(self) -> None:
        choices = [self.spawn] if len(self.workers) < 3 else []
        if self.asked:
            choices += [self.propose] * 3
        if any(self.workers.values()):
            choices += [self.report] * 6 + [self.finish] * 3 + [self.fail]
        if self.workers:
            choices.append(self.lose)
        if self.unsaid:
            choices += [self.say_slots] * 4
        if self.slots:
            choices.append(self.change_slots)
        if self.late:
            choices.append(self.deliver_late)
        if self.stop and self.random.random() < 0.02:
            choices = [lambda: self.feed(StopAsked())]
        self.random.choice(choices)()

    def say_slots(self) -> None:
        worker, key = self.unsaid.pop(self.random.randrange(len(self.unsaid)))
        self.feed(Slots(worker, key, self.random.choice([1, 2, 3, 7, 16])))

    def change_slots(self) -> None:
        (worker, key), slots = self.random.choice(sorted(self.slots.items()))
        self.feed(Slots(worker, key, max(1, slots // 2) if self.random.random() < 0.7 else slots + 1))

    def spawn(self) -> None:
        name = f"w{self.made}"
        self.made += 1
        self.workers[name] = {}
        self.feed(WorkerReady(name))

    def propose(self) -> None:
        count, self.asked = self.asked, 0
        proposals = tuple(Proposal(self.proposed + index, {"n": self.proposed + index}) for index in range(count))
        self.proposed += count
        self.feed(Proposed(proposals))

    def pick(self) -> tuple[str, int]:
        places = [(worker, trial) for worker, on in sorted(self.workers.items()) for trial in sorted(on)]
        return self.random.choice(places)

    def report(self) -> None:
        worker, trial = self.pick()
        self.workers[worker][trial] += 1
        value = math.nan if self.random.random() < 0.02 else self.random.random()
        event = Reported(worker, (Report(trial, self.workers[worker][trial], {"loss": value}, self.random.random()),))
        if self.random.random() < 0.1:
            self.late.append(event)
        self.feed(event)

    def finish(self) -> None:
        worker, trial = self.pick()
        del self.workers[worker][trial]
        event = Finished(worker, trial)
        if self.random.random() < 0.1:
            self.late.append(event)
        self.feed(event)

    def fail(self) -> None:
        worker, trial = self.pick()
        del self.workers[worker][trial]
        self.feed(Failed(worker, trial, "no"))

    def lose(self) -> None:
        worker = self.random.choice(sorted(self.workers))
        for trial in self.workers.pop(worker):
            if self.places.get(trial) == worker:
                del self.places[trial]
        self.slots = {said: slots for said, slots in self.slots.items() if said[0] != worker}
        self.unsaid = [said for said in self.unsaid if said[0] != worker]
        self.feed(WorkerLost(worker, "killed"))

    def deliver_late(self) -> None:
        """Deliver an old event once more."""
        event = self.late.pop()
        if isinstance(event, Finished) and event.trial in self.workers.get(event.worker, {}):
            return  # The trial runs there again: that would be a new event, not an old one.
        self.feed(event)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    trials=st.integers(1, 40),
    pruner=st.sampled_from([{"name": "none"}, ASHA]),
    keys=st.sampled_from(["-", "a", "ab", "-ab", "abcdefgh"]),
    stop=st.booleans(),
    repeats=st.builds(Repetition, st.sampled_from([1, 1, 2, 3]), st.sampled_from(KINDS)),
)
def test_any_order_of_events_keeps_the_promises(
    seed: int, trials: int, pruner: Mapping[str, object], keys: str, stop: bool, repeats: Repetition
) -> None:
    trials = max(repeats.count, repeats.head(trials))
    world = World(seed, trials, pruner, keys=keys, stop=stop, repeats=repeats)
    for _ in range(20_000):
        if world.done is not None:
            break
        world.step()
    assert world.done is not None, "the end is never reached"
    if not world.done.interrupted:
        assert set(world.told) == set(range(trials))
        assert not world.suspended


# Populations.


def with_population(size: int = 4, trials: int = 12, **options: object) -> Controller:
    return make(budget=Budget(trials=trials), population=size, **options)


def answered(controller: Controller, event: Event, drawn: list[int]) -> list[Command]:
    """Hand an event over, and draw what is asked for."""
    commands = controller.handle(event)
    found = list(commands)
    for ask in of(commands, Ask):
        numbers = range(len(drawn), len(drawn) + ask.count)  # type: ignore[attr-defined]
        drawn.extend(numbers)
        found += controller.handle(Proposed(tuple(Proposal(number, {"x": 0.5}) for number in numbers)))
    return found


def given_out(commands: list[Command]) -> dict[str, list[int]]:
    return {one.worker: [a.trial for a in one.assignments] for one in of(commands, Assign)}  # type: ignore[attr-defined]


def test_a_population_goes_to_one_worker_whole_and_the_next_when_all_have_left() -> None:
    controller, drawn = with_population(), []
    assert given_out(answered(controller, WorkerReady("a"), drawn)) == {"a": [0, 1, 2, 3]}
    assert given_out(answered(controller, WorkerReady("b"), drawn)) == {"b": [4, 5, 6, 7]}
    assert len(drawn) % 4 == 0
    for trial in range(4):
        answered(controller, report(trial, 1, 0.5, worker="a", seconds=0.01), drawn)
    for trial in (2, 0, 3):
        assert not given_out(answered(controller, Finished("a", trial), drawn))
    assert given_out(answered(controller, Finished("a", 1), drawn)) == {"a": [8, 9, 10, 11]}


def test_all_of_a_lost_workers_population_begin_again_together_but_those_that_are_over() -> None:
    controller, drawn = with_population(retries=1), []
    answered(controller, WorkerReady("a"), drawn)
    answered(controller, report(2, 1, math.nan, worker="a"), drawn)
    assert controller.counts[TrialState.PRUNED] == 1
    answered(controller, WorkerLost("a", "it died"), drawn)
    commands = answered(controller, WorkerReady("b"), drawn)
    (assign,) = of(commands, Assign)
    assert [(one.trial, one.attempt) for one in assign.assignments] == [(0, 1), (1, 1), (3, 1)]  # type: ignore[attr-defined]
    ends = of(answered(controller, WorkerLost("b", "it died"), drawn), Tell)
    assert {(end.trial, end.state) for end in ends} == {(n, TrialState.FAILED) for n in (0, 1, 3)}  # type: ignore[attr-defined]
    assert given_out(answered(controller, WorkerReady("c"), drawn)) == {"c": [4, 5, 6, 7]}


def test_a_resumed_sweep_waits_for_whole_populations_alone() -> None:
    # Of the first all are over, of the second one, the third was running, and of the fourth only half was drawn.
    history = [Past(n, {}, TrialState.COMPLETE, 0.1, {1: 0.1}) for n in range(5)]
    history += [Past(n, {}, TrialState.RUNNING, None, {1: 0.1}) for n in range(5, 14)]
    controller, drawn = with_population(trials=16, history=history), list(range(14))
    assert given_out(answered(controller, WorkerReady("a"), drawn)) == {"a": [5, 6, 7]}
    assert given_out(answered(controller, WorkerReady("b"), drawn)) == {"b": [8, 9, 10, 11]}
    assert drawn == list(range(16))
    assert given_out(answered(controller, WorkerReady("c"), drawn)) == {"c": [12, 13, 14, 15]}


def test_half_a_population_is_drawn_whole_whatever_the_budget_has_become() -> None:
    history = [Past(n, {}, TrialState.RUNNING, None, {}) for n in range(6)]
    controller, drawn = with_population(trials=4, history=history), list(range(6))
    answered(controller, WorkerReady("a"), drawn)
    assert drawn == list(range(8))
    assert given_out(answered(controller, WorkerReady("b"), drawn)) == {"b": [4, 5, 6, 7]}


def test_a_stop_suspends_all_that_run_and_all_that_wait() -> None:
    controller, drawn = with_population(), []
    answered(controller, WorkerReady("a"), drawn)
    commands = controller.handle(StopAsked())
    assert {one.trial for one in of(commands, Suspend)} == set(drawn)  # type: ignore[attr-defined]
    for trial in range(3):
        assert not of(controller.handle(Finished("a", trial)), Done)
    assert of(controller.handle(Finished("a", 3)), Done)
