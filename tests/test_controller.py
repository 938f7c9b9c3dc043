"""The controller alone: whatever happens in whatever order, its promises hold."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swathe import pruners
from swathe.controller import Budget, Controller
from swathe.events import (
    Ask,
    Assign,
    Command,
    Decide,
    Direction,
    Done,
    Event,
    Failed,
    Finished,
    Keep,
    Proposal,
    Proposed,
    Record,
    Report,
    Reported,
    StopAsked,
    Suspend,
    Tell,
    Tick,
    TrialState,
    Value,
    WorkerLost,
    WorkerReady,
)

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


def start(controller: Controller, slots: int = 1, worker: str = "w") -> list[Command]:
    """Bring up one worker and answer the first ask with points numbered from 0."""
    commands = controller.handle(WorkerReady(worker, slots))
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
    commands = controller.handle(WorkerReady("v", 1))
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
    controller.handle(WorkerReady("v", 1))
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


def test_a_resumed_sweep_runs_what_was_left_first() -> None:
    past = [
        Past(0, {}, TrialState.COMPLETE, 0.5, {1: 0.6, 2: 0.5}),
        Past(1, {"x": 1}, TrialState.RUNNING, None, {1: 0.4}),
    ]
    controller = make(history=past)
    assert controller.best == (0, 0.5)
    commands = controller.handle(WorkerReady("w", 1))
    (assign,) = of(commands, Assign)
    assert assign.assignments[0].trial == 1
    assert not of(controller.handle(report(1, 1, 0.4)), Record)
    (ask,) = of(commands, Ask)
    assert ask.count <= 2


class World:
    """Workers and a study with faults, driven by a random choice a turn; checks every promise after each event."""

    def __init__(self, seed: int, trials: int, pruner: Mapping[str, object], *, slots: int, stop: bool) -> None:
        self.random = random.Random(seed)
        self.trials = trials
        self.stop = stop
        self.slots = slots
        self.controller = make(pruner, budget=Budget(trials=trials), retries=2, max_failures=10_000)
        self.asked = 0
        self.proposed = 0
        self.workers: dict[str, dict[int, int]] = {}
        self.made = 0
        self.told: Counter[int] = Counter()
        self.suspended: set[int] = set()
        self.places: dict[int, str] = {}
        self.steps: dict[int, list[int]] = {}
        self.stopping: set[tuple[str, int]] = set()
        self.done: Done | None = None
        self.late: list[Event] = []

    def feed(self, event: Event) -> None:
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
                    assert assignment.trial not in self.places, "running in two places"
                    assert assignment.trial not in self.told
                    self.places[assignment.trial] = worker
                    self.workers[worker][assignment.trial] = 0
            case Decide(worker, decisions):
                for decision in decisions:
                    if decision.stop:
                        self.stopping.add((worker, decision.trial))
            case Record(reports):
                for made in reports:
                    steps = self.steps.setdefault(made.trial, [])
                    assert not steps or made.step > steps[-1], "recorded twice"
                    steps.append(made.step)
            case Tell(trial):
                self.told[trial] += 1
                self.places.pop(trial, None)
            case Suspend(trial):
                assert trial not in self.told
                self.suspended.add(trial)
                self.places.pop(trial, None)
            case Done():
                self.done = command

    def check(self) -> None:
        assert all(count == 1 for count in self.told.values()), "told twice"
        assert self.proposed <= self.trials
        assert self.proposed + self.asked <= self.trials, "budget"
        everything = set(range(self.proposed))
        assert everything == set(self.told) | self.suspended | self.controller.live, "a trial is lost"
        if not self.controller.ending and not self.asked and self.proposed < self.trials:
            for worker, running in self.workers.items():
                assert len(running) >= self.slots, f"{worker} has a free slot that nobody filled"

    def step(self) -> None:
        choices = [self.spawn] if len(self.workers) < 3 else []
        if self.asked:
            choices += [self.propose] * 3
        if any(self.workers.values()):
            choices += [self.report] * 6 + [self.finish] * 3 + [self.fail]
        if self.workers:
            choices.append(self.lose)
        if self.late:
            choices.append(self.deliver_late)
        if self.stop and self.random.random() < 0.02:
            choices = [lambda: self.feed(StopAsked())]
        self.random.choice(choices)()

    def spawn(self) -> None:
        name = f"w{self.made}"
        self.made += 1
        self.workers[name] = {}
        self.feed(WorkerReady(name, self.slots))

    def propose(self) -> None:
        count, self.asked = self.asked, 0
        proposals = tuple(Proposal(self.proposed + index, {}) for index in range(count))
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
    slots=st.integers(1, 3),
    stop=st.booleans(),
)
def test_any_order_of_events_keeps_the_promises(
    seed: int, trials: int, pruner: Mapping[str, object], slots: int, stop: bool
) -> None:
    world = World(seed, trials, pruner, slots=slots, stop=stop)
    for _ in range(20_000):
        if world.done is not None:
            break
        world.step()
    assert world.done is not None, "the end is never reached"
    if not world.done.interrupted:
        assert set(world.told) == set(range(trials))
        assert not world.suspended
