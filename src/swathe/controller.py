"""The decision loop of a sweep as a pure state machine: events in, commands out.

No input or output, no clock, no randomness: a simulator can drive it as well as the runtime does
(after h11's sans-I/O design and FoundationDB's deterministic simulation).
Each event costs O(log n) or better in the number of trials; finished trials take no memory here.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
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
    Hold,
    Keep,
    Kill,
    Proposed,
    Record,
    Report,
    Reported,
    Settle,
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
from swathe.failures import CAUSE, Failures
from swathe.objectives import Constraint, Front, Goal, Losses, Objective
from swathe.pruners import Pruner
from swathe.repetition import OpenPoints, PointEnd, Repetition, past_points, why_not_needed
from swathe.stagnation import STOPPED, Ended, Stagnation
from swathe.stagnation import reason as stagnation_reason
from swathe.training.diagnose import Action

# Below this device time (seconds) a trial is so short that its worker holds the next ones already, because waiting
# for the driver would cost more than the imbalance at the sweep's end that holding them can cause.
SHORT_TRIAL_SECONDS = 0.25
SHORT_TRIALS_HELD = 2
# The structural key of a trial that is trained alone, such as a function's: each worker has one slot for it.
ALONE = ""
# The share of a worker, 1/16, that a trial takes whose key's slots are not known yet: the worker measures them with it.
UNMEASURED_SLOTS = 16


@dataclass(frozen=True, slots=True)
class Budget:
    """What a sweep may use; whichever comes first ends it. Times in seconds, `epochs` in reports of all trials.

    `patience`: trials that end without a best that is better by more than `min_improvement`.
    """

    trials: int
    epochs: int | None = None
    wall_time: float | None = None
    device_seconds: float | None = None
    target: float | None = None
    patience: int | None = None
    min_improvement: float = 0.0


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
    @property
    def attrs(self) -> Mapping[str, Value]: ...
    @property
    def objectives(self) -> tuple[float, ...]: ...
    @property
    def feasible(self) -> bool: ...
    @property
    def ended(self) -> float | None: ...


@dataclass(slots=True)
class _Trial:
    number: int
    params: Mapping[str, Value]
    key: str
    attempt: int = 0
    step: int | None = None
    value: float | None = None
    decide_from: int | None = None
    seconds: float = 0.0
    worker: str | None = None
    # Of what objectives and constraints name, the last value that was reported.
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Block:
    """How many trials of one key a worker runs, and how many it was told to stop and has not confirmed."""

    running: int = 0
    stopping: int = 0


@dataclass(slots=True)
class _Worker:
    """What one worker has said and holds; `taken / whole` of it is in use, exact in integers.

    A trial of a key with n slots takes 1/n of a worker. One that was told to stop keeps its slot until the worker
    confirms only where it has the worker to itself: a block gives its lane to the next trial by itself.
    """

    slots: dict[str, int] = field(default_factory=lambda: {ALONE: 1})
    # In the order in which they were assigned.
    running: dict[int, str] = field(default_factory=dict)
    stopping: dict[int, str] = field(default_factory=dict)
    blocks: dict[str, _Block] = field(default_factory=dict)
    taken: int = 0
    whole: int = 1
    measuring: bool = False
    widest: int = 1
    # When it was last heard of, or given work after it had none (seconds since the sweep began); `killed`: for silence.
    heard: float = 0.0
    killed: bool = False

    def start(self, number: int, key: str) -> None:
        self.running[number] = key
        self.blocks.setdefault(key, _Block()).running += 1
        self._weigh()

    def stop(self, number: int) -> None:
        """Note that a trial is over for the controller."""
        key = self.running.pop(number)
        self.stopping[number] = key
        self.blocks[key].running -= 1
        self.blocks[key].stopping += 1
        self._weigh()

    def end(self, number: int) -> str | None:
        """Forget a trial that has left the worker; return its key if that was the last of its block."""
        if number in self.running:
            key = self.running.pop(number)
            self.blocks[key].running -= 1
        elif number in self.stopping:
            key = self.stopping.pop(number)
            self.blocks[key].stopping -= 1
        else:
            return None
        last = not (self.blocks[key].running or self.blocks[key].stopping)
        if last:
            del self.blocks[key]
        self._weigh()
        return key if last else None

    def learn(self, key: str, slots: int) -> None:
        self.slots[key] = slots
        self.widest = max(self.slots.values())
        self._weigh()

    def _weigh(self) -> None:
        shares: list[tuple[int, int]] = []
        self.measuring = False
        for key, block in self.blocks.items():
            slots = self.slots.get(key)
            held = block.running + (block.stopping if slots in (None, 1) else 0)
            if held:
                shares.append((held, slots or UNMEASURED_SLOTS))
                self.measuring = self.measuring or slots is None
        self.whole = math.lcm(*(slots for _, slots in shares))
        self.taken = sum(held * (self.whole // slots) for held, slots in shares)

    @property
    def begun(self) -> frozenset[int]:
        """The trials that may have begun: of trials alone the first, unless one that was told to stop is before it."""
        if self.whole > 1:
            return frozenset(self.running)
        return frozenset() if self.stopping else frozenset([*self.running][:1])

    @property
    def load(self) -> float:
        return self.taken / self.whole

    def full(self, ahead: int) -> bool:
        return self.taken >= self.whole and not self._holds_more(ahead)

    def fits(self, key: str, ahead: int) -> bool:
        """Whether one more trial of this key has room; `ahead`: how many trials alone it may hold beyond its slot."""
        slots = self.slots.get(key)
        if slots == 1:
            return self._holds_more(ahead)
        if slots is None and self.measuring:
            return False  # One measurement at a time: with many keys it might otherwise find that none had room.
        return (slots or UNMEASURED_SLOTS) * (self.whole - self.taken) >= self.whole

    def _holds_more(self, ahead: int) -> bool:
        # The whole is 1 exactly when no lane is in use: nothing runs, or trials that have the worker to themselves.
        return self.whole == 1 and self.taken < 1 + ahead

    def room(self, slots: int, ahead: int = 0) -> int:
        """How many more trials of a key with so many slots would fit."""
        if slots == 1 and self.whole == 1:
            return max(0, 1 + ahead - self.taken)
        return max(0, (self.whole - self.taken) * slots // self.whole)


class Controller:
    """Decides what every worker does next; see `handle`.

    `metric` is the reported value that the sweep optimises, `others` are further ones where there are several, and
    `constraints` what a trial has to keep at its end to count as the best, or as one of the front; `retries` bounds how
    often a trial whose worker was lost is run again; a worker that has trials and says nothing for `trial_timeout`
    seconds is killed, as one of them hangs (None: never); `max_failures` trials that fail with one and the same error
    stop the sweep, if none drawn later got further, which is looked at whenever one more fails: a sweep that was
    stopped for it, and goes on, tries once more; `ask_ahead` points are kept drawn in advance (None: one for each
    slot). `key` gives, from a trial's parameters, the structural key whose trials one worker can train side by side, or
    "" for a trial that has a worker to itself. `history` are the trials of earlier sessions of the same sweep.
    `population`: so many consecutive trials, from a multiple of it, are given to one worker together; with more than
    one, `key` is to say that they have it to themselves.

    With a `repetition` of several trials a point, `best`, target and patience are about points, the pruner compares the
    first trials of points, and what is left of a point that is out (`repetition.OpenPoints`) is told as pruned.

    How waiting trials and workers meet: a worker with room takes first from the queues of the keys that it runs, most
    run first; when those are empty, from the key with the most waiting trials for each worker on it. Of a key whose
    slots a worker has not said yet it gets one trial, and no other such key's before it has said so. The least loaded
    worker comes first, so that none holds a second trial while another has none. However wide it is, none holds more
    than an equal share of all trials that are left, and of what others have no slots for: workers that are still
    starting find work too, and all end together.
    """

    def __init__(
        self,
        *,
        metric: str,
        direction: Direction,
        pruner: Pruner,
        budget: Budget,
        retries: int = 3,
        trial_timeout: float | None = None,
        max_failures: int = 20,
        ask_ahead: int | None = None,
        key: Callable[[Mapping[str, Value]], str] = lambda params: ALONE,
        population: int = 1,
        history: Iterable[PastTrial] = (),
        others: Sequence[Objective] = (),
        constraints: Sequence[Constraint] = (),
        repetition: Repetition | None = None,
    ) -> None:
        self._metric = metric
        self._sign = 1.0 if direction is Direction.MINIMIZE else -1.0
        self._goal = Goal((Objective(metric, direction), *others), tuple(constraints))
        # Metrics that are remembered besides the first objective's value; none where that is all.
        self._noted = () if self._goal.plain else tuple(sorted(self._goal.names))
        self._pruner = pruner
        self._budget = budget
        self._retries = retries
        self._trial_timeout = trial_timeout
        self._now = 0.0
        self._max_failures = max_failures
        self._ask_ahead = ask_ahead
        self._key = key
        self._population = population
        self._workers: dict[str, _Worker] = {}
        # All workers that may have room are among these, so that the full ones cost nothing an event.
        self._roomy: set[str] = set()
        # How many workers there are to be.
        self._expected = 1
        # The slots of all workers, of each those of its widest key; and the most that one has.
        self._width = 0
        self._widest = 1
        self._held_ahead = 0
        self._trials: dict[int, _Trial] = {}
        # The trials that wait, by key, each population by its first one; a queue that is empty is not there.
        self._queues: dict[str, deque[int]] = {}
        # Of each population that waits, or is not drawn whole yet, the trials that do; and how many were over before.
        self._together: dict[int, list[int]] = {}
        self._over: Counter[int] = Counter()
        self._waiting = 0
        # On how many workers trials of a key run.
        self._runners: Counter[str] = Counter()
        self._asked = 0
        self._proposed = 0
        self._exhausted = False
        self._ending: Done | None = None
        self._done = False
        self._failures = Failures()
        self._epochs = 0
        self._device_seconds = 0.0
        self._ended_here = 0
        self.counts: Counter[TrialState] = Counter()
        self._repetition = repetition or Repetition()
        self._points = OpenPoints(self._repetition, direction)
        # Trials that wait or run and whose points are out.
        self._unneeded: deque[int] = deque()
        # The best trial that keeps the constraints: of several objectives, by the first one. Of several repeats, the
        # best one of the best point, with that point's value.
        self.best: tuple[int, float] | None = None
        self._best: Losses = ()
        # Where there are several, the trials that no other dominates.
        self.front = Front()
        self._stagnation = Stagnation(budget.min_improvement)
        past_trials = list(history)
        for past in past_trials:
            self._restore(past)
        self._unneeded.extend(number for number in self._trials if self._points.out(number) is not None)
        # A population that a crash has left half drawn is drawn whole.
        whole = self._proposed + -self._proposed % population
        self._budget = replace(budget, trials=max(budget.trials, whole) if whole > self._proposed else budget.trials)
        if budget.patience is not None:
            ended: Sequence[Ended] = past_trials
            if self._repetition.several:
                ended = past_points(past_trials, self._repetition, direction)
            self._stagnation.restore(ended, self._sign)

    # What the outside may see.

    @property
    def running(self) -> int:
        """How many trials are on workers now."""
        return sum(len(worker.running) for worker in self._workers.values())

    @property
    def lanes(self) -> tuple[int, int]:
        """How many trials run now, and how many would if every worker were full, as far as workers have said."""
        running = room = 0
        for worker in self._workers.values():
            running += len(worker.running)
            most = max(worker.blocks, key=lambda key: worker.blocks[key].running, default=None)
            room += worker.room(worker.widest if most is None else worker.slots.get(most, 1))
        return running, running + room * self._population

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

    @property
    def device_seconds(self) -> float:
        """What the reports of this session took of the devices (seconds)."""
        return self._device_seconds

    def handle(self, event: Event) -> list[Command]:
        """Take one event in and return the commands that follow from it, in the order to carry them out."""
        if self._done:
            return []
        commands: list[Command] = []
        if isinstance(event, Reported | Finished | Failed | Slots) and event.worker in self._workers:
            self._workers[event.worker].heard = self._now
        match event:
            case WorkersStart(workers):
                self._expected = workers
                commands += self._end_what_is_over()
            case WorkerReady(worker):
                self._workers[worker] = _Worker(heard=self._now)
                self._width += 1
                self._roomy.add(worker)
            case Slots():
                self._learn_slots(event)
            case WorkerLost():
                commands += self._worker_lost(event)
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
                self._now = elapsed
                commands += self._kill_silent()
                limit = self._budget.wall_time
                if limit is not None and elapsed >= limit:
                    commands += self._end(f"the wall time of {limit:g} s is used up")
        if not self._done:
            commands += self._drop_unneeded()
            commands += self._fill()
            commands += self._finish()
        return commands

    # Taking in.

    def _restore(self, past: PastTrial) -> None:
        self._proposed += 1
        self._epochs += len(past.values)
        if self._is_judged(past.number):
            self._pruner.restore(past.number, past.values, past.state)
        for reported in past.values:
            self._failures.reached(past.number, reported)
        step = max(past.values, default=None)
        if past.state.final:
            self.counts[past.state] += 1
            if self._population > 1:
                self._over[self._head(past.number)] += 1
            if past.state is TrialState.COMPLETE and past.value is not None:
                if not self._repetition.several:
                    self._improves(past.number, past.objectives or (past.value,), feasible=past.feasible)
                self._failures.completed(past.number)
            if self._repetition.several:
                self._end_of_point(past.number, past.state, past.value, feasible=past.feasible)
            if past.state is TrialState.FAILED and (cause := past.attrs.get(CAUSE)):
                self._failures.failed(past.number, step, str(cause))
            return
        value = None if step is None else past.values[step]
        self._wait(_Trial(past.number, past.params, self._key(past.params), step=step, value=value))

    def _take_proposals(self, event: Proposed) -> Iterator[Command]:
        self._asked = 0
        self._exhausted = self._exhausted or event.exhausted
        for proposal in event.proposals:
            self._proposed += 1
            self._wait(_Trial(proposal.trial, proposal.params, self._key(proposal.params)))
            if self._points.out(proposal.trial) is not None:
                self._unneeded.append(proposal.trial)
        if self._ending is not None:
            yield from self._empty_queues()

    def _head(self, number: int) -> int:
        """Return the first trial of a trial's population."""
        return number - number % self._population

    def _wait(self, trial: _Trial) -> None:
        self._trials[trial.number] = trial
        self._waiting += 1
        head = self._head(trial.number)
        together = self._together.setdefault(head, [])
        together.append(trial.number)
        if len(together) + self._over[head] == self._population:
            self._queues.setdefault(trial.key, deque()).append(head)

    def _learn_slots(self, event: Slots) -> None:
        worker = self._workers.get(event.worker)
        if worker is None:
            return
        self._width -= worker.widest
        worker.learn(event.key, event.slots)
        self._width += worker.widest
        self._widest = max(self._widest, worker.widest)
        self._roomy.add(event.worker)

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
            if self._noted:
                trial.metrics |= {name: report.metrics[name] for name in self._noted if name in report.metrics}
            missing = next((name for name in self._goal.metrics if name not in report.metrics), None)
            value = report.metrics.get(self._metric)
            if trial.step is not None and report.step <= trial.step:
                # A second attempt says again what the first had said; where that was its end, so it is now.
                again = None if missing is not None or value is None else self._fate(trial, report, value)
                if again is not None and value is not None:
                    after += self._leave(trial, *again)
                    decisions.append(Decision(trial.number, report.step, stop=True))
                    after += self._end_at_report(trial, value)
                continue
            if missing is not None or value is None:
                known = ", ".join(sorted(report.metrics)) or "nothing"
                reason = f"step {report.step} reports no {missing!r}; it reports: {known}"
                after += self._leave(trial, TrialState.FAILED, reason, f"no report of {missing!r}")
                decisions.append(Decision(trial.number, report.step, stop=True))
                continue
            trial.step, trial.value = report.step, value
            self._failures.reached(trial.number, report.step)
            self._epochs += 1
            recorded.append(report)
            verdict = self._judge(trial, report, value)
            if verdict is not None:
                after += self._leave(trial, *verdict)
                decisions.append(Decision(trial.number, report.step, stop=True))
            elif trial.decide_from is not None and report.step >= trial.decide_from:
                trial.decide_from = self._pruner.next_decision(trial.number, report.step)
                decisions.append(Decision(trial.number, report.step, stop=False, decide_from=trial.decide_from))
            after += self._end_at_report(trial, value)
        if decisions:
            yield Decide(event.worker, tuple(decisions))
        if recorded:
            yield Record(tuple(recorded))
        yield from after
        yield from self._check_budget()

    def _judge(self, trial: _Trial, report: Report, value: float) -> tuple[TrialState, str] | None:
        """Say whether the trial must stop here: its final state and why; None to go on."""
        pruned = self._is_judged(trial.number) and self._pruner.decide(trial.number, report.step, value)
        fate = self._fate(trial, report, value)
        if fate is None and pruned:
            return TrialState.PRUNED, f"pruned at step {report.step}"
        return fate

    def _is_judged(self, number: int) -> bool:
        """Whether the pruner looks at a trial: of the repeats of a point at the first, as if it was alone."""
        return number == self._repetition.head(number)

    def _fate(self, trial: _Trial, report: Report, value: float) -> tuple[TrialState, str] | None:
        """Say how a trial ends at a report whatever others have reported; None where it goes on."""
        for name in self._goal.metrics:
            if not math.isfinite(report.metrics[name]):
                return TrialState.PRUNED, f"diverged: {name} is {report.metrics[name]} at step {report.step}"
        if self._ends_at_target(trial, value):
            return TrialState.COMPLETE, f"reached the target at step {report.step}"
        if report.ends is Action.STOP:
            return self._worst(trial, report)
        return None

    def _worst(self, trial: _Trial, report: Report) -> tuple[TrialState, str]:
        """Say how a trial ends that a finding stops: as one that diverged, and no value is the worst one."""
        trial.value = None
        said = next(finding for finding in report.findings if finding.action is Action.STOP)
        return TrialState.PRUNED, f"{said.symptom}: {said.evidence.rstrip('.')}"

    def _finished(self, event: Finished) -> Iterator[Command]:
        trial = self._release(event.worker, event.trial)
        if trial is None:
            # Told before its end came: it reached the target, and its worker brings the model now.
            if event.model is not None and self.best is not None and self.best[0] == event.trial:
                yield Keep(event.trial, event.model)
            return
        if trial.value is None:
            reason = f"ended without a report of {self._metric!r}"
            yield from self._fail(trial, reason, cause=reason)
            return
        if (unreported := self._goal.unreported(trial.metrics)) is not None:
            reason = f"ended without a report of {unreported!r}, which sweep.constraints names"
            yield from self._fail(trial, reason, cause=reason)
            return
        if self._repetition.several:
            yield from self._finish_repeat(trial, trial.value, event.model)
            return
        better = self._improves(trial.number, self._values(trial), feasible=self._is_feasible(trial))
        yield from self._tell(trial, TrialState.COMPLETE)
        # Of several objectives no one model is the best.
        if better and event.model is not None and not self._goal.several:
            yield Keep(trial.number, event.model)

    def _finish_repeat(self, trial: _Trial, value: float, model: bytes | None) -> Iterator[Command]:
        """Tell a repeat that is complete; its model waits for the end of the point, if it is the best there so far."""
        if model is not None and self._points.leads(trial.number, value):
            yield Hold(trial.number, model)
        yield from self._tell(trial, TrialState.COMPLETE)

    def _failed(self, event: Failed) -> Iterator[Command]:
        trial = self._release(event.worker, event.trial)
        if trial is None:
            return
        yield from self._fail(trial, event.reason, event.traceback, event.cause or event.reason)

    def _kill_silent(self) -> Iterator[Command]:
        """End workers that hold trials, those among them that were told to stop, and say nothing of any."""
        if self._trial_timeout is None:
            return
        for name, worker in self._workers.items():
            silent = self._now - worker.heard >= self._trial_timeout
            if silent and not worker.killed and (worker.running or worker.stopping):
                worker.killed = True
                yield Kill(name, f"nothing was heard of its trials for {self._trial_timeout:g} s")

    def _worker_lost(self, event: WorkerLost) -> Iterator[Command]:
        name = event.worker
        worker = self._workers.pop(name, None)
        if worker is None:
            return
        self._width -= worker.widest
        self._roomy.discard(name)
        for key in worker.blocks:
            self._count_runner(key, -1)
        # Ends that were under way to us are lost with it: the one that ran may not be the first of them.
        begun = worker.begun if event.trial not in worker.running else frozenset([event.trial])
        if self._population > 1:
            # They train together.
            begun = frozenset(worker.running)
        # Back to the front of their queues, in the order in which they were assigned.
        for number in reversed(worker.running):
            trial = self._trials[number]
            trial.worker = None
            # Not one that only waited there behind another.
            trial.attempt += number in begun
            if trial.attempt > self._retries:
                times = "" if trial.attempt == 1 else f" {trial.attempt} times, at last as follows"
                reason = f"its worker was lost{times}: {event.reason}"
                # Machines that fail are no bug in the code: only a crash in a trial's own counts.
                yield from self._fail(trial, reason, event.traceback, event.cause)
            elif self._ending is not None:
                yield from self._suspend(trial)
            else:
                self._wait_again(trial)

    def _wait_again(self, trial: _Trial) -> None:
        """Put a trial before all that wait, behind the first of its population if that is there already."""
        head = self._head(trial.number)
        if head not in self._together:
            self._queues.setdefault(trial.key, deque()).appendleft(head)
        self._together.setdefault(head, []).insert(0, trial.number)
        self._waiting += 1

    def _stop_asked(self, at_once: bool) -> Iterator[Command]:
        if self._ending is None or not self._ending.interrupted:
            self._ending = Done("stopped on request", interrupted=True)
        yield from self._empty_queues()
        for name, worker in self._workers.items():
            trials = [self._trials[number] for number in worker.running]
            if trials:
                told = (Decision(trial.number, trial.step or 0, stop=True, suspend=True) for trial in trials)
                yield Decide(name, tuple(told))
            for trial in trials:
                worker.stop(trial.number)
                yield from self._suspend(trial)
        if at_once:
            self._done = True
            yield self._ending

    # Ending trials.

    def _leave(self, trial: _Trial, state: TrialState, reason: str, cause: str = "") -> Iterator[Command]:
        """Take a trial that its worker still runs out of the game."""
        assert trial.worker is not None
        self._workers[trial.worker].stop(trial.number)
        self._roomy.add(trial.worker)
        if state is TrialState.FAILED:
            yield from self._fail(trial, reason, cause=cause)
            return
        if state is TrialState.COMPLETE and trial.value is not None:
            self._improves(trial.number, self._values(trial), feasible=self._is_feasible(trial))
        yield from self._tell(trial, state, reason)

    def _fail(self, trial: _Trial, reason: str, traceback: str = "", cause: str = "") -> Iterator[Command]:
        """Tell a trial as failed; end the sweep if so many have with this cause (empty: one that does not count)."""
        yield from self._tell(trial, TrialState.FAILED, reason, traceback, cause)
        if not cause:
            return
        count = self._failures.failed(trial.number, trial.step, cause)
        if count >= self._max_failures:
            yield from self._end(f"{count} trials failed for the same reason: {reason}", failed=True)

    def _release(self, name: str, number: int) -> _Trial | None:
        """Free the slot of an ended trial; the trial is returned only if nobody told its end before."""
        worker = self._workers.get(name)
        if worker is None:
            return None
        trial = self._trials[number] if number in worker.running else None
        key = worker.end(number)
        if key is not None:
            self._count_runner(key, -1)
        self._roomy.add(name)
        return trial

    def _tell(
        self, trial: _Trial, state: TrialState, reason: str = "", traceback: str = "", cause: str = ""
    ) -> Iterator[Command]:
        del self._trials[trial.number]
        if state is TrialState.COMPLETE:
            self._failures.completed(trial.number)
        if self._is_judged(trial.number):
            self._pruner.finish(trial.number, state)
        self.counts[state] += 1
        self._ended_here += 1
        complete = state is TrialState.COMPLETE
        known = state is not TrialState.FAILED and self._goal.unreported(trial.metrics) is None
        yield Tell(
            trial.number,
            state,
            trial.value,
            trial.step,
            reason,
            traceback,
            cause,
            objectives=self._values(trial) if complete and self._goal.several else (),
            constraints=self._goal.violations(trial.metrics) if known else {},
            metrics=trial.metrics,
        )
        if self._repetition.several:
            ended = self._end_of_point(trial.number, state, trial.value, feasible=self._is_feasible(trial))
            if ended is None:
                return
            state = ended.state
            yield Settle(ended.number, best=self.best is not None and self.best[0] == ended.number)
            if ended.value is not None:
                yield from self._end_at_target(ended.value, feasible=ended.feasible)
        if self._ending is None:
            self._stagnation.end(state, None if self.best is None else self._sign * self.best[1])
            yield from self._end_if_stagnant()

    def _end_of_point(self, number: int, state: TrialState, value: float | None, *, feasible: bool) -> PointEnd | None:
        """Take in that a repeat is over; return how its point ends, if this decides it."""
        ended = self._points.end(number, state, value, feasible=feasible)
        if ended is None:
            return None
        if ended.value is not None:
            self._improves(ended.number, (ended.value,), feasible=ended.feasible)
        else:
            self._unneeded.extend(one for one in self._repetition.members(number) if one in self._trials)
        return ended

    def _drop_unneeded(self) -> Iterator[Command]:
        """Take what waits or runs of points that are out out of the game."""
        while self._unneeded:
            trial = self._trials.get(self._unneeded.popleft())
            out = None if trial is None else self._points.out(trial.number)
            if trial is None or out is None:
                continue  # It has ended by itself, or is left for a later session.
            if trial.worker is None:
                self._take_from_queue(trial)
                yield from self._tell(trial, TrialState.PRUNED, why_not_needed(*out))
            else:
                yield Decide(trial.worker, (Decision(trial.number, trial.step or 0, stop=True),))
                yield from self._leave(trial, TrialState.PRUNED, why_not_needed(*out))

    def _take_from_queue(self, trial: _Trial) -> None:
        # Points of several trials and populations exclude each other, so that it waits alone.
        del self._together[trial.number]
        queue = self._queues[trial.key]
        queue.remove(trial.number)
        if not queue:
            del self._queues[trial.key]
        self._waiting -= 1

    def _suspend(self, trial: _Trial) -> Iterator[Command]:
        del self._trials[trial.number]
        yield Suspend(trial.number)

    def _empty_queues(self) -> Iterator[Command]:
        together, self._together, self._queues, self._waiting = self._together, {}, {}, 0
        for number in sorted(number for numbers in together.values() for number in numbers):
            yield from self._suspend(self._trials[number])

    def _values(self, trial: _Trial) -> tuple[float, ...]:
        """Return the objectives of a trial that is complete: of several, those of its last report."""
        if self._goal.several:
            return tuple(trial.metrics[name] for name in self._goal.metrics)
        assert trial.value is not None
        return (trial.value,)

    def _is_feasible(self, trial: _Trial) -> bool:
        return not self._goal.constraints or self._goal.feasible(trial.metrics)

    def _improves(self, number: int, values: tuple[float, ...], *, feasible: bool) -> bool:
        if not feasible:
            return False
        losses = self._goal.losses(values)
        if self._goal.several:
            self.front.add(number, losses)
        if self.best is not None and losses >= self._best:
            return False
        self.best, self._best = (number, values[0]), losses
        return True

    # Ending the sweep.

    def _use(self, trial: _Trial, seconds: float) -> None:
        trial.seconds += seconds
        self._device_seconds += seconds

    def _reaches_target(self, value: float, *, feasible: bool) -> bool:
        target = self._budget.target
        return target is not None and feasible and self._sign * value <= self._sign * target

    def _ends_at_target(self, trial: _Trial, value: float) -> bool:
        """Whether a report ends its trial as good enough; of several repeats it is the point's value that counts."""
        return not self._repetition.several and self._reaches_target(value, feasible=self._is_feasible(trial))

    def _end_at_report(self, trial: _Trial, value: float) -> Iterator[Command]:
        if not self._repetition.several:
            yield from self._end_at_target(value, feasible=self._is_feasible(trial))

    def _end_what_is_over(self) -> Iterator[Command]:
        """End a sweep at once that earlier sessions have ended but for saying so."""
        if self.best is not None:
            yield from self._end_at_target(self.best[1], feasible=True)
        yield from self._check_budget()
        yield from self._end_if_stagnant()

    def _end_if_stagnant(self) -> Iterator[Command]:
        patience = self._budget.patience
        if patience is not None and self._stagnation.since >= patience:
            yield from self._end(stagnation_reason(patience, self._budget.min_improvement))

    def _end_at_target(self, value: float, *, feasible: bool) -> Iterator[Command]:
        if self._reaches_target(value, feasible=feasible):
            yield from self._end(f"the target of {self._budget.target:g} is reached")

    def _check_budget(self) -> Iterator[Command]:
        epochs, seconds = self._budget.epochs, self._budget.device_seconds
        if epochs is not None and self._epochs >= epochs:
            yield from self._end(f"the budget of {epochs} epochs is used up")
        if seconds is not None and self._device_seconds >= seconds:
            yield from self._end(f"the budget of {seconds:g} device-seconds is used up")

    def _end(self, reason: str, *, failed: bool = False) -> Iterator[Command]:
        """End the sweep: what runs is told as pruned, what waits is left for a later session with a larger budget."""
        if self._ending is not None:
            return
        self._ending = Done(reason, failed=failed)
        yield from self._empty_queues()
        for name, worker in self._workers.items():
            trials = [self._trials[number] for number in worker.running]
            if trials:
                yield Decide(name, tuple(Decision(trial.number, trial.step or 0, stop=True) for trial in trials))
            for trial in trials:
                if trial.step is None:
                    worker.stop(trial.number)
                    yield from self._suspend(trial)
                else:
                    yield from self._leave(trial, TrialState.PRUNED, f"{STOPPED} {trial.step}: {reason}")

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
        what, complete = "trial", self.counts[TrialState.COMPLETE]
        if self._repetition.several:
            what, complete = "point", self._points.complete
        if not ending.interrupted and not complete:
            ending = Done(f"{ending.reason}, and no {what} completed", failed=True)
        self._done = True
        yield ending

    # Giving out.

    def _fill(self) -> Iterator[Command]:
        """Give waiting trials to workers with room, the least loaded first, and ask for as many as are missing."""
        if self._ending is not None or not (self._waiting or self._may_ask()):
            return
        short = self._ended_here > 0 and self._device_seconds / self._ended_here <= SHORT_TRIAL_SECONDS
        # A population is none, and a worker that is to hold two of them keeps another from one.
        ahead = SHORT_TRIALS_HELD if short and self._population == 1 else 0
        if ahead > self._held_ahead:
            self._roomy.update(self._workers)
        self._held_ahead = ahead
        for name, assignments in self._give_out().items():
            yield Assign(name, tuple(assignments))
        self._roomy = {name for name in self._roomy if not self._workers[name].full(ahead)}
        yield from self._ask()

    def _give_out(self) -> dict[str, list[Assignment]]:
        given: dict[str, list[Assignment]] = {}
        waiting_keys, share = len(self._queues) + 1, self._share()
        # Once more whenever a queue has run empty: workers that run its key may then take others.
        while len(self._queues) < waiting_keys:
            waiting_keys = len(self._queues)
            # The name settles what the load leaves open, so that the order is the same in every session.
            rooms = [(self._workers[name].load, name) for name in self._roomy]
            heapify(rooms)
            while rooms and self._queues:
                _, name = heappop(rooms)
                worker = self._workers[name]
                key = self._choose(worker, share)
                if key is None:
                    continue
                given.setdefault(name, []).extend(self._assign(name, worker, key))
                heappush(rooms, (worker.load, name))
        return given

    def _choose(self, worker: _Worker, share: int) -> str | None:
        """Return the key whose queue gives this worker its next trial; None: it can take none now."""
        if worker.full(self._held_ahead) or len(worker.running) >= share:
            return None
        own = [key for key in worker.blocks if key in self._queues]
        fitting = [key for key in own or self._queues if worker.fits(key, self._held_ahead)]
        if own:
            return max(fitting, key=lambda key: worker.blocks[key].running, default=None)
        return max(fitting, key=lambda key: len(self._queues[key]) / (1 + self._runners[key]), default=None)

    def _share(self) -> int:
        """Return how many trials a worker may hold: an equal part of all that are left, and of what others cannot."""
        left = len(self._trials) + (0 if self._exhausted else max(0, self._budget.trials - self._proposed))
        equal = -(-left // max(self._expected, len(self._workers), 1))
        if equal >= self._widest:
            return left
        # Who has said nothing of lanes yet may have as many as it likes.
        return equal + sum(max(0, equal - worker.widest) for worker in self._workers.values() if len(worker.slots) > 1)

    def _assign(self, name: str, worker: _Worker, key: str) -> list[Assignment]:
        """Give a worker the next trial of a queue, with all of its population."""
        queue = self._queues[key]
        numbers = self._together.pop(queue.popleft())
        if not queue:
            del self._queues[key]
        self._waiting -= len(numbers)
        if key not in worker.blocks:
            self._count_runner(key, 1)
        if not (worker.running or worker.stopping):
            worker.heard = self._now
        return [self._start(name, worker, key, number) for number in numbers]

    def _start(self, name: str, worker: _Worker, key: str, number: int) -> Assignment:
        worker.start(number, key)
        trial = self._trials[number]
        trial.worker = name
        trial.decide_from = self._pruner.next_decision(number, trial.step) if self._is_judged(number) else None
        return Assignment(number, trial.params, trial.attempt, trial.decide_from, trial.step)

    def _count_runner(self, key: str, by: int) -> None:
        self._runners[key] += by
        if not self._runners[key]:
            del self._runners[key]

    def _may_ask(self) -> bool:
        return not self._asked and not self._exhausted and bool(self._workers) and self._proposed < self._budget.trials

    def _ask(self) -> Iterator[Command]:
        if not self._may_ask():
            return
        free, share = 0, self._share()
        for name in self._roomy:
            worker = self._workers[name]
            free += min(worker.room(worker.widest, self._held_ahead), max(0, share - len(worker.running)))
        ahead = self._width if self._ask_ahead is None else self._ask_ahead
        # Whole populations, the first of which may be half drawn.
        size, drawn = self._population, self._proposed % self._population
        wanted = min((free + ahead - self._waiting // size) * size - drawn, self._budget.trials - self._proposed)
        if wanted > 0:
            # All repeats of a point, so that they wait side by side.
            self._asked = wanted + -(self._proposed + wanted) % self._repetition.count
            yield Ask(self._asked)
