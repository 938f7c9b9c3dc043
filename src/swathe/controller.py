"""The decision loop of a sweep as a pure state machine: events in, commands out.

No input or output, no clock, no randomness: a simulator can drive it as well as the runtime does
(after h11's sans-I/O design and FoundationDB's deterministic simulation).
Each event costs O(log n) or better in the number of trials; finished trials take no memory here.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from swathe.events import (
    Ask,
    Assign,
    Assignment,
    Command,
    Decide,
    Decision,
    Direction,
    Done,
    Event,
    Failed,
    Finished,
    Keep,
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
from swathe.pruners import Pruner

# Below this device time (seconds) a trial is so short that its worker holds the next ones already, because waiting
# for the driver would cost more than the imbalance at the sweep's end that holding them can cause.
SHORT_TRIAL_SECONDS = 0.25
SHORT_TRIALS_HELD = 2


@dataclass(frozen=True, slots=True)
class Budget:
    """What a sweep may use; whichever comes first ends it. Times in seconds, `epochs` in reports of all trials."""

    trials: int
    epochs: int | None = None
    wall_time: float | None = None
    device_seconds: float | None = None
    target: float | None = None


class PastTrial(Protocol):
    """A trial of an earlier session, as the study remembers it."""

    @property
    def number(self) -> int: ...
    @property
    def params(self) -> Mapping[str, Value]: ...
    @property
    def state(self) -> TrialState: ...
    @property
    def value(self) -> float | None: ...
    @property
    def values(self) -> Mapping[int, float]: ...


@dataclass(slots=True)
class _Trial:
    number: int
    params: Mapping[str, Value]
    attempt: int = 0
    step: int | None = None
    value: float | None = None
    decide_from: int | None = None
    seconds: float = 0.0
    worker: str | None = None


@dataclass(slots=True)
class _Worker:
    slots: int
    running: OrderedDict[int, None] = field(default_factory=OrderedDict)
    # Trials that are over for the controller, whose end the worker has not confirmed: they still hold a slot.
    stopping: set[int] = field(default_factory=set)

    @property
    def load(self) -> int:
        return len(self.running) + len(self.stopping)


class Controller:
    """Decides what every worker does next; see `handle`.

    `metric` is the reported value that the sweep optimises; `retries` bounds how often a trial whose worker was lost is
    run again; `max_failures` trials that fail for one and the same reason stop the sweep; `ask_ahead` points are kept
    drawn in advance (None: one for each slot). `history` are the trials of earlier sessions of the same sweep.
    """

    def __init__(
        self,
        *,
        metric: str,
        direction: Direction,
        pruner: Pruner,
        budget: Budget,
        retries: int = 3,
        max_failures: int = 20,
        ask_ahead: int | None = None,
        history: Iterable[PastTrial] = (),
    ) -> None:
        self._metric = metric
        self._sign = 1.0 if direction is Direction.MINIMIZE else -1.0
        self._pruner = pruner
        self._budget = budget
        self._retries = retries
        self._max_failures = max_failures
        self._ask_ahead = ask_ahead
        self._workers: dict[str, _Worker] = {}
        self._trials: dict[int, _Trial] = {}
        self._queue: deque[int] = deque()
        self._asked = 0
        self._proposed = 0
        self._exhausted = False
        self._ending: Done | None = None
        self._done = False
        self._failures: Counter[str] = Counter()
        self._epochs = 0
        self._device_seconds = 0.0
        self._ended_here = 0
        self.counts: Counter[TrialState] = Counter()
        self.best: tuple[int, float] | None = None
        for past in history:
            self._restore(past)

    # What the outside may see.

    @property
    def running(self) -> int:
        """How many trials are on workers now."""
        return sum(len(worker.running) for worker in self._workers.values())

    @property
    def live(self) -> frozenset[int]:
        """Numbers of the trials that are drawn and not yet over."""
        return frozenset(self._trials)

    @property
    def ending(self) -> bool:
        """Whether the sweep takes no new trials any more."""
        return self._ending is not None

    @property
    def epochs(self) -> int:
        """Reports taken in so far, those of earlier sessions included."""
        return self._epochs

    def handle(self, event: Event) -> list[Command]:
        """Take one event in and return the commands that follow from it, in the order to carry them out."""
        if self._done:
            return []
        commands: list[Command] = []
        match event:
            case WorkerReady(worker, slots):
                self._workers[worker] = _Worker(slots)
            case WorkerLost(worker):
                commands += self._worker_lost(worker)
            case Reported():
                commands += self._reported(event)
            case Finished():
                commands += self._finished(event)
            case Failed():
                commands += self._failed(event)
            case Proposed():
                commands += self._take_proposals(event)
            case StopAsked(at_once):
                commands += self._stop_asked(at_once)
            case Tick(elapsed):
                limit = self._budget.wall_time
                if limit is not None and elapsed >= limit:
                    commands += self._end(f"the wall time of {limit:g} s is used up")
        if not self._done:
            commands += self._fill()
            commands += self._finish()
        return commands

    # Taking in.

    def _restore(self, past: PastTrial) -> None:
        self._proposed += 1
        self._epochs += len(past.values)
        self._pruner.restore(past.number, past.values, past.state)
        if past.state.final:
            self.counts[past.state] += 1
            if past.state is TrialState.COMPLETE and past.value is not None:
                self._improves(past.number, past.value)
            return
        step = max(past.values, default=None)
        value = None if step is None else past.values[step]
        self._trials[past.number] = _Trial(past.number, past.params, step=step, value=value)
        self._queue.append(past.number)

    def _take_proposals(self, event: Proposed) -> Iterator[Command]:
        self._asked = 0
        self._exhausted = self._exhausted or event.exhausted
        for proposal in event.proposals:
            self._proposed += 1
            self._trials[proposal.trial] = _Trial(proposal.trial, proposal.params)
            self._queue.append(proposal.trial)
        if self._ending is not None:
            yield from self._empty_queue()

    def _reported(self, event: Reported) -> Iterator[Command]:
        worker = self._workers.get(event.worker)
        if worker is None:
            return
        recorded: list[Report] = []
        decisions: list[Decision] = []
        after: list[Command] = []
        for report in event.reports:
            trial = self._trials.get(report.trial)
            if trial is None or report.trial not in worker.running:
                continue  # Late: the trial was stopped, or runs elsewhere since its worker was thought lost.
            self._use(trial, report.seconds)
            if trial.step is not None and report.step <= trial.step:
                continue  # A second attempt says again what the first had said.
            value = report.metrics.get(self._metric)
            if value is None:
                known = ", ".join(sorted(report.metrics)) or "nothing"
                reason = f"step {report.step} reports no {self._metric!r}; it reports: {known}"
                after += self._leave(trial, TrialState.FAILED, reason)
                decisions.append(Decision(trial.number, report.step, stop=True))
                continue
            trial.step, trial.value = report.step, value
            self._epochs += 1
            recorded.append(report)
            verdict = self._judge(trial, report.step, value)
            if verdict is not None:
                after += self._leave(trial, *verdict)
                decisions.append(Decision(trial.number, report.step, stop=True))
            elif trial.decide_from is not None and report.step >= trial.decide_from:
                trial.decide_from = self._pruner.next_decision(trial.number, report.step)
                decisions.append(Decision(trial.number, report.step, stop=False, decide_from=trial.decide_from))
            if self._reaches_target(value):
                after += self._end(f"the target of {self._budget.target:g} is reached")
        if decisions:
            yield Decide(event.worker, tuple(decisions))
        if recorded:
            yield Record(tuple(recorded))
        yield from after
        yield from self._check_budget()

    def _judge(self, trial: _Trial, step: int, value: float) -> tuple[TrialState, str] | None:
        """Say whether the trial must stop here: its final state and why; None to go on."""
        pruned = self._pruner.decide(trial.number, step, value)
        if not math.isfinite(value):
            return TrialState.PRUNED, f"diverged: {self._metric} is {value} at step {step}"
        if self._reaches_target(value):
            return TrialState.COMPLETE, f"reached the target at step {step}"
        if pruned:
            return TrialState.PRUNED, f"pruned at step {step}"
        return None

    def _finished(self, event: Finished) -> Iterator[Command]:
        trial = self._release(event.worker, event.trial)
        if trial is None:
            # Told before its end came: it reached the target, and its worker brings the model now.
            if event.model is not None and self.best is not None and self.best[0] == event.trial:
                yield Keep(event.trial, event.model)
            return
        if trial.value is None:
            reason = f"ended without a report of {self._metric!r}"
            yield from self._tell(trial, TrialState.FAILED, reason)
            yield from self._count_failure(reason)
            return
        better = self._improves(trial.number, trial.value)
        yield from self._tell(trial, TrialState.COMPLETE)
        if better and event.model is not None:
            yield Keep(trial.number, event.model)

    def _failed(self, event: Failed) -> Iterator[Command]:
        trial = self._release(event.worker, event.trial)
        if trial is None:
            return
        yield from self._tell(trial, TrialState.FAILED, event.reason, event.traceback)
        yield from self._count_failure(event.reason)

    def _worker_lost(self, name: str) -> Iterator[Command]:
        worker = self._workers.pop(name, None)
        if worker is None:
            return
        # Back to the front, in the order in which they were assigned.
        for number in reversed(worker.running):
            trial = self._trials[number]
            trial.worker = None
            trial.attempt += 1
            if trial.attempt > self._retries:
                reason = f"its worker was lost {trial.attempt} times"
                yield from self._tell(trial, TrialState.FAILED, reason)
                yield from self._count_failure(reason)
            elif self._ending is not None:
                yield from self._suspend(trial)
            else:
                self._queue.appendleft(number)

    def _stop_asked(self, at_once: bool) -> Iterator[Command]:
        if self._ending is None or not self._ending.interrupted:
            self._ending = Done("stopped on request", interrupted=True)
        yield from self._empty_queue()
        for name, worker in self._workers.items():
            trials = [self._trials[number] for number in worker.running]
            worker.stopping.update(worker.running)
            worker.running.clear()
            if trials:
                yield Decide(name, tuple(Decision(trial.number, trial.step or 0, stop=True) for trial in trials))
            for trial in trials:
                yield from self._suspend(trial)
        if at_once:
            self._done = True
            yield self._ending

    # Ending trials.

    def _leave(self, trial: _Trial, state: TrialState, reason: str) -> Iterator[Command]:
        """Take a trial that its worker still runs out of the game: the slot is free when the worker confirms."""
        assert trial.worker is not None
        worker = self._workers[trial.worker]
        del worker.running[trial.number]
        worker.stopping.add(trial.number)
        if state is TrialState.COMPLETE and trial.value is not None:
            self._improves(trial.number, trial.value)
        yield from self._tell(trial, state, reason)
        if state is TrialState.FAILED:
            yield from self._count_failure(reason)

    def _release(self, name: str, number: int) -> _Trial | None:
        """Free the slot of an ended trial; the trial is returned only if nobody told its end before."""
        worker = self._workers.get(name)
        if worker is None:
            return None
        worker.stopping.discard(number)
        if number not in worker.running:
            return None
        del worker.running[number]
        return self._trials[number]

    def _tell(self, trial: _Trial, state: TrialState, reason: str = "", traceback: str = "") -> Iterator[Command]:
        del self._trials[trial.number]
        self._pruner.finish(trial.number, state)
        self.counts[state] += 1
        self._ended_here += 1
        yield Tell(trial.number, state, trial.value, trial.step, reason, traceback)

    def _suspend(self, trial: _Trial) -> Iterator[Command]:
        del self._trials[trial.number]
        yield Suspend(trial.number)

    def _empty_queue(self) -> Iterator[Command]:
        while self._queue:
            yield from self._suspend(self._trials[self._queue.popleft()])

    def _improves(self, number: int, value: float) -> bool:
        if self.best is not None and self._sign * value >= self._sign * self.best[1]:
            return False
        self.best = (number, value)
        return True

    # Ending the sweep.

    def _use(self, trial: _Trial, seconds: float) -> None:
        trial.seconds += seconds
        self._device_seconds += seconds

    def _reaches_target(self, value: float) -> bool:
        target = self._budget.target
        return target is not None and self._sign * value <= self._sign * target

    def _check_budget(self) -> Iterator[Command]:
        epochs, seconds = self._budget.epochs, self._budget.device_seconds
        if epochs is not None and self._epochs >= epochs:
            yield from self._end(f"the budget of {epochs} epochs is used up")
        if seconds is not None and self._device_seconds >= seconds:
            yield from self._end(f"the budget of {seconds:g} device-seconds is used up")

    def _count_failure(self, reason: str) -> Iterator[Command]:
        self._failures[reason] += 1
        if self._failures[reason] >= self._max_failures:
            why = f"{self._max_failures} trials failed for the same reason: {reason}"
            yield from self._end(why, failed=True)

    def _end(self, reason: str, *, failed: bool = False) -> Iterator[Command]:
        """End the sweep: what runs is told as pruned, what waits is left for a later session with a larger budget."""
        if self._ending is not None:
            return
        self._ending = Done(reason, failed=failed)
        yield from self._empty_queue()
        for name, worker in self._workers.items():
            trials = [self._trials[number] for number in worker.running]
            if trials:
                yield Decide(name, tuple(Decision(trial.number, trial.step or 0, stop=True) for trial in trials))
            for trial in trials:
                if trial.step is None:
                    del worker.running[trial.number]
                    worker.stopping.add(trial.number)
                    yield from self._suspend(trial)
                else:
                    yield from self._leave(trial, TrialState.PRUNED, f"stopped at step {trial.step}: {reason}")

    def _finish(self) -> Iterator[Command]:
        if self._trials or self._asked:
            return
        drawn = self._exhausted or self._proposed >= self._budget.trials
        if self._ending is None and not drawn:
            return
        if any(worker.stopping for worker in self._workers.values()):
            return
        reason = "the space is exhausted" if self._exhausted else f"all {self._proposed} trials are done"
        ending = self._ending or Done(reason)
        if not ending.interrupted and not self.counts[TrialState.COMPLETE]:
            ending = Done(f"{ending.reason}, and no trial completed", failed=True)
        self._done = True
        yield ending

    # Giving out.

    def _depth(self, worker: _Worker) -> int:
        """How many trials the worker may hold: its slots, and the next ones already where trials are very short."""
        if not self._ended_here or self._device_seconds / self._ended_here > SHORT_TRIAL_SECONDS:
            return worker.slots
        return worker.slots + SHORT_TRIALS_HELD

    def _fill(self) -> Iterator[Command]:
        """Give waiting trials to free slots, the least loaded worker first, and ask for as many as are missing."""
        if self._ending is not None or not (self._queue or self._may_ask()):
            return
        given: dict[str, list[Assignment]] = {}
        rooms = [(worker.load, name, worker) for name, worker in self._workers.items()]
        rooms = [room for room in rooms if room[0] < self._depth(room[2])]
        # Level by level, so that no worker holds a second trial while another has none.
        rooms.sort(key=lambda room: room[:2])
        while rooms and self._queue:
            level: list[tuple[int, str, _Worker]] = []
            for load, name, worker in rooms:
                if not self._queue:
                    level.append((load, name, worker))
                    continue
                given.setdefault(name, []).append(self._assign(name, worker, self._queue.popleft()))
                if load + 1 < self._depth(worker):
                    level.append((load + 1, name, worker))
            rooms = sorted(level, key=lambda room: room[:2])
        free = sum(self._depth(worker) - load for load, _, worker in rooms)
        for name, assignments in given.items():
            yield Assign(name, tuple(assignments))
        yield from self._ask(free)

    def _assign(self, name: str, worker: _Worker, number: int) -> Assignment:
        trial = self._trials[number]
        worker.running[number] = None
        trial.worker = name
        trial.decide_from = self._pruner.next_decision(number, trial.step)
        return Assignment(number, trial.params, trial.attempt, trial.decide_from)

    def _may_ask(self) -> bool:
        return not self._asked and not self._exhausted and bool(self._workers) and self._proposed < self._budget.trials

    def _ask(self, free: int) -> Iterator[Command]:
        if not self._may_ask():
            return
        ahead = self._ask_ahead
        if ahead is None:
            ahead = sum(worker.slots for worker in self._workers.values())
        wanted = min(free + ahead - len(self._queue), self._budget.trials - self._proposed)
        if wanted > 0:
            self._asked = wanted
            yield Ask(wanted)
