"""One simulated sweep: the real controller and the real study among workers, a record and a driver that fail.

After every event the promises of docs/reliability.md are checked; `ViolationError` says which one is broken, and its
seed plays the same sweep again, event by event.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from swathe import pruners, samplers
from swathe import study as study_module
from swathe.controller import Controller
from swathe.enqueued import ENQUEUED, Point
from swathe.errors import SwatheError
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
    Hold,
    Keep,
    Kill,
    Proposed,
    Record,
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
from swathe.points import points_of
from swathe.repetition import OpenPoints, is_not_needed
from swathe.samplers import Suggest
from swathe.study import PastTrial, Study
from tests.simulation.clock import Clock
from tests.simulation.pool import Disk, Worker
from tests.simulation.recorder import Recorder, Run
from tests.simulation.shape import METRIC, Course, Shape, course

# The study's group commit, as the runtime's (virtual seconds).
COMMIT = 0.05
TICK = 1.0
# Faults end here, so that every sweep can reach its end (virtual seconds, and sessions).
CALM, MOST_SESSIONS = 120.0, 12
# No sweep of these sizes takes so many events: it does not end.
MOST_STEPS = 400_000
RETRIES = 2
MAX_FAILURES = 30


class ViolationError(AssertionError):
    """A promise is broken."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of the two parameters that every simulated trial has."""

    distribution: BaseDistribution
    conditions: tuple[()] = ()


class Space:
    """A value that decides how a trial goes, and its structural key."""

    def __init__(self, keys: Sequence[str], *, grid: bool) -> None:
        x: BaseDistribution = FloatDistribution(0, 1, step=0.1) if grid else FloatDistribution(0, 1)
        self.parameters = {"x": Parameter(x), "key": Parameter(CategoricalDistribution(list(keys)))}

    def sample(self, suggest: Suggest) -> dict[str, Value]:
        return {name: suggest(name, parameter.distribution) for name, parameter in self.parameters.items()}


class World:
    """Plays one sweep to its end, over as many sessions as it takes; `controller` is the class that is put to test."""

    def __init__(self, shape: Shape, controller: type[Controller] = Controller, *, trace: bool = False) -> None:
        self.shape = shape
        self.clock = Clock(random.Random(shape.seed))
        self.disk = Disk(self.clock, shape.kept, shape.damaged)
        self.events = 0
        self._make = controller
        self._trace = trace
        self._faults = shape.faults
        self._space = Space(shape.keys, grid=shape.sampler["name"] == "grid")
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._memory: optuna.Study | None = None
        self._runs: dict[int, Run] = {}
        self.sessions = 0
        self._made = 0
        # What is known of each trial: where it stands, and what was told of it in storage that lasts.
        self._courses: dict[int, Course] = {}
        self._reached: Counter[int] = Counter()
        # Reports and ends as the study got them, for Optuna's own pruner; what was not committed is cut off again.
        self.log: list[tuple[Any, ...]] = []
        self._committed = 0

    # The whole.

    def play(self) -> None:
        """Play the sweep; raises `ViolationError`."""
        place = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryDirectory(prefix="simulation-", dir=place) as name:
            self._path = Path(name)
            while True:
                self.sessions += 1
                if self.sessions == MOST_SESSIONS:
                    self._faults = self.shape.faultless
                if self._session():
                    break
            self._check_end()

    def _session(self) -> bool:
        """Play one session; return whether the sweep is over, and not only stopped or cut off."""
        self._open()
        began = self.clock.now
        for name in [*self._crew]:
            self._spawn_later(name)
        self._feed(WorkersStart(self.shape.workers))
        self._schedule(began)
        try:
            while self._done is None and not self._dead:
                if not self.clock.step():
                    self._fail("nothing will happen any more, and the sweep is not over")
                self.events += 1
                if self.events > MOST_STEPS:
                    self._fail("the sweep does not end")
        except SwatheError as error:
            # The storage does not take a write: the session ends as if its driver had died.
            self._say(f"storage: {error}")
            self._dead = True
        return self._close()

    # A session.

    def _open(self) -> None:
        shape = self.shape
        self._done: Done | None = None
        self._dead = False
        self._asked_to_stop = self._at_once = False
        self._study = self._open_study()
        history = self._study.history()
        self._check_history(history)
        self._recorder = Recorder(self.clock, self._path / "record", self._runs, history)
        self._state: dict[int, str] = {}
        self._place: dict[int, str] = {}
        self._waiting: Counter[str] = Counter()
        self._told = {past.number for past in history if past.state.final}
        self._proposed = len(history)
        self._asked = 0
        # How many workers were lost with each trial, once it had begun there.
        self._losses: Counter[int] = Counter()
        self._epochs = sum(len(past.values) for past in history)
        self._reached.clear()
        for past in history:
            self._meet(past.number, past.params)
            self._state[past.number] = "told" if past.state.final else "waiting"
            if not past.state.final:
                self._waiting[self._courses[past.number].key] += 1
            self._reached[past.number] = max(past.values, default=0)
        # By the head of each point, whose model is held.
        self._models: dict[int, int] = {}
        self._workers: dict[str, Worker] = {}
        # By worker: the trials that it holds as far as the driver knows, and those that it was told to stop.
        self._held: dict[str, dict[int, str]] = {}
        self._stopping: dict[str, set[int]] = {}
        self._slots: dict[tuple[str, str], int] = {}
        self._arrival: dict[str, float] = {}
        self._departure: dict[str, float] = {}
        # When the driver last heard of each worker, or gave it work after it had none.
        self._heard: dict[str, float] = {}
        self._outgoing: dict[str, list[Any]] = {}
        self._crew = [self._name() for _ in range(shape.workers)]
        self._controller = self._make(
            metric=METRIC,
            direction=shape.direction,
            pruner=pruners.build(shape.pruner, shape.direction, "s"),
            budget=shape.budget,
            retries=RETRIES,
            trial_timeout=shape.trial_timeout,
            max_failures=MAX_FAILURES,
            ask_ahead=shape.ask_ahead,
            key=lambda params: str(params["key"]),
            population=shape.population,
            history=history,
            repetition=shape.repetition,
        )
        self._committing = False

    def _open_study(self) -> Study:
        shape = self.shape
        options: dict[str, Any] = {
            "space": self._space,
            "seed": shape.seed,
            "points": self._points(),
            "repetition": shape.repetition,
        }
        if shape.journal:
            study = Study.open(
                "s",
                folder=self._path,
                storage=None,
                direction=shape.direction,
                sampler=shape.sampler,
                group=shape.group,
                structural=lambda name: name == "key",
                **options,
            )
            journal = study._store.journal
            assert journal is not None
            self._commit_journal: Callable[[], None] = journal.commit
            journal.commit = self._commit_or_fail  # type: ignore[method-assign]
            return study
        study_module._be_quiet()
        if self._memory is None:
            self._memory = optuna.create_study(direction=shape.direction.value, pruner=optuna.pruners.NopPruner())
        groups = study_module._groups(self._space, shape.group, lambda name: name == "key")
        known = samplers.Known(repetition=shape.repetition)
        drawing = samplers.build(shape.sampler, self._space, shape.seed, groups, known)
        store = study_module._Store(self._memory._storage)
        study = Study(
            self._memory,
            store,
            space=self._space,
            drawing=drawing,
            points=self._points(),
            repetition=shape.repetition,
        )
        study._take_over(shape.seed)
        return study

    def _points(self) -> list[Point]:
        return [Point(f"point {index}", {"x": index / 10}) for index in range(self.shape.points)]

    def _commit_or_fail(self) -> None:
        if self.clock.draw.random() < self._faults.commit_fails:
            if self.clock.draw.random() < 0.5:
                # It was written, and nobody was told so.
                self._commit_journal()
                self._committed = len(self.log)
            raise OSError("no space is left")
        self._commit_journal()
        self._committed = len(self.log)

    def _close(self) -> bool:
        """End the session; return whether the sweep is over."""
        self.clock.forget()
        for worker in self._workers.values():
            worker.alive = False
        if self._dead:
            self._tear()
            return False
        assert self._done is not None
        try:
            self._commit()
            self._study.close()
        except SwatheError:
            self._tear()
            return False
        return not self._done.interrupted

    def _tear(self) -> None:
        """Leave the journal as a crash does: without what was not committed, perhaps with half a line of it."""
        journal = self._study._store.journal
        assert journal is not None
        lines = b"".join(journal._lines)
        if lines and self.clock.draw.random() < 0.5:
            # A write that the crash has torn, which `stage` came before: whole lines of it count.
            self._recorder.stage()
            written = lines[: self.clock.draw.randrange(len(lines) + 1)]
            with (self._path / study_module.JOURNAL).open("ab") as file:
                file.write(written)
            self._committed = None  # type: ignore[assignment]
        journal._lines.clear()
        journal.close()

    # What happens.

    def _schedule(self, began: float) -> None:
        """Let time pass, and things go wrong."""
        calm = self._faults is not self.shape.faults

        def at_rate(rate: float, what: Callable[[], None]) -> None:
            def happen() -> None:
                if self.clock.now < CALM:
                    what()
                    again()

            def again() -> None:
                self.clock.after(self.clock.draw.expovariate(rate), happen)

            if rate and not calm:
                again()

        faults = self._faults
        at_rate(faults.worker_dies * min(4, self.shape.workers), self._kill_worker)
        at_rate(faults.worker_stalls * min(4, self.shape.workers), self._stall_worker)
        at_rate(faults.driver_dies, self._kill_driver)
        at_rate(faults.stop_asked, self._ask_to_stop)
        at_rate(faults.recorder_away, self._send_mlflow_away)

        def tick() -> None:
            self._feed(Tick(self.clock.now - began))
            self.clock.after(TICK, tick)

        if self.shape.budget.wall_time is not None or self.shape.trial_timeout is not None:
            self.clock.after(TICK, tick)

    def _name(self) -> str:
        self._made += 1
        return f"w{self._made}"

    def _spawn_later(self, name: str) -> None:
        self.clock.after(self.clock.draw.uniform(0.1, 2.0), lambda: self._spawn(name))

    def _spawn(self, name: str) -> None:
        draw = self.clock.draw
        slots = {key: draw.choice(self.shape.slots) for key in self.shape.keys if key}
        speed = draw.choice([0.5, 1.0, 1.0, 2.0])
        self._workers[name] = Worker(name, self.clock, self._deliver, self._course_of, slots, speed, self.disk)
        self._held[name], self._stopping[name] = {}, set()
        self._heard[name] = self.clock.now
        self._feed(WorkerReady(name))

    def _course_of(self, job: Assignment) -> Course:
        return self._courses[job.trial]

    def _deliver(self, name: str, said: tuple[Event, ...]) -> None:
        """Bring to the driver what a worker said: in order, unless its deliveries overtake each other."""
        draw, faults = self.clock.draw, self._faults
        delay = draw.expovariate(1 / 0.01)
        if draw.random() < faults.late:
            delay += draw.uniform(0, 3)
        due = self.clock.now + delay
        if not faults.overtaking:
            due = max(due, self._arrival.get(name, 0.0))
            self._arrival[name] = due
        self.clock.at(due, lambda: self._arrive(said))
        if draw.random() < faults.twice:
            self.clock.at(due + draw.uniform(0, 2), lambda: self._arrive(said))

    def _arrive(self, said: tuple[Event, ...]) -> None:
        for event in said:
            if self._done is None:
                self._heard[event.worker] = self.clock.now  # type: ignore[union-attr]
                self._feed(event)

    def _kill_worker(self) -> None:
        if not self._workers:
            return
        self._end_worker(self.clock.draw.choice(list(self._workers)), "killed")

    def _end_worker(self, name: str, reason: str) -> None:
        worker = self._workers.pop(name, None)
        if worker is None:
            return
        worker.alive = False
        self._losses.update(worker.begun)
        # The driver learns of it before or after what the worker has said last.
        self.clock.after(self.clock.draw.uniform(0, 0.5), lambda: self._lose(name, reason))

    def _lose(self, name: str, reason: str) -> None:
        if self._done is not None:
            return
        self._forget_worker(name)
        self._feed(WorkerLost(name, reason))
        self._spawn_later(self._name())

    def _forget_worker(self, name: str) -> None:
        for number, key in self._held.pop(name, {}).items():
            if self._place.get(number) == name:
                del self._place[number]
                self._state[number] = "waiting"
                self._waiting[key] += 1
        self._stopping.pop(name, None)
        for said in [said for said in self._slots if said[0] == name]:
            del self._slots[said]

    def _stall_worker(self) -> None:
        if self._workers:
            worker = self._workers[self.clock.draw.choice(list(self._workers))]
            worker.stalled_until = self.clock.now + self.clock.draw.uniform(0, 5)

    def _kill_driver(self) -> None:
        self._say("the driver dies")
        self._dead = True

    def _ask_to_stop(self) -> None:
        if self._done is None:
            self._at_once = self._asked_to_stop or self.clock.draw.random() < 0.3
            self._asked_to_stop = True
            self._feed(StopAsked(self._at_once))

    def _send_mlflow_away(self) -> None:
        self._recorder.away_until = self.clock.now + self.clock.draw.uniform(0, 20)

    # The driver: what `swathe.runtime` does with commands.

    def _feed(self, event: Event) -> None:
        self._note(event)
        self._say(event)
        waiting: list[Command] = list(self._controller.handle(event))
        while waiting:
            command = waiting.pop(0)
            self._say(f"    {command}")
            if isinstance(command, Ask):
                proposed = self._answer(command)
                self._say(f"    {proposed}")
                waiting += self._controller.handle(proposed)
            else:
                self._carry_out(command)
        self._send()
        self._check()
        if not self._committing and self._done is None:
            self._committing = True
            self.clock.after(COMMIT, self._commit)

    def _commit(self) -> None:
        self._committing = False
        self._recorder.stage()
        if self.clock.draw.random() < self._faults.commit_fails:
            raise SwatheError("killed between the two")
        self._study.commit()
        if not self.shape.journal:
            self._committed = len(self.log)
        self._recorder.flush()

    def _answer(self, ask: Ask) -> Proposed:
        if self._asked or ask.count < 1:
            self._fail("points are asked for while others are under way")
        self._asked = ask.count
        proposed = self._study.ask(ask.count)
        self._asked = 0
        self._proposed += len(proposed.proposals)
        for proposal in proposed.proposals:
            if proposal.trial in self._state:
                self._fail(f"trial {proposal.trial} is drawn twice")
            self._meet(proposal.trial, proposal.params)
            self._state[proposal.trial] = "waiting"
            self._waiting[self._courses[proposal.trial].key] += 1
        return proposed

    def _meet(self, number: int, params: Any) -> None:
        repeat = number - self.shape.repetition.head(number)
        found = course(self.shape, float(params["x"]), str(params["key"]), repeat)
        # A trial whose draw was not committed may be another one in the next session.
        self._courses[number] = found

    def _carry_out(self, command: Command) -> None:
        if self._done is not None:
            self._fail("a command after the end")
        match command:
            case Assign(worker, assignments):
                self._check_whole(worker, assignments)
                for assignment in assignments:
                    self._assign(worker, assignment)
            case Decide(worker, decisions):
                self._outgoing.setdefault(worker, []).extend(decisions)
                self._stopping[worker].update(decision.trial for decision in decisions if decision.stop)
            case Record(reports):
                for report in reports:
                    self._record(report.trial, report.step, report.metrics[METRIC])
            case Tell():
                self._tell(command)
            case Suspend(trial):
                if self._state.get(trial) not in ("waiting", "placed"):
                    self._fail(f"trial {trial} is suspended, but is {self._state.get(trial)}")
                self._leave(trial, "suspended")
                self._recorder.end(trial, None)
            case Keep(trial):
                if self._controller.best is None or self._controller.best[0] != trial:
                    self._fail(f"the model of trial {trial} is kept, which is not the best")
            case Hold(trial):
                if not self.shape.repetition.several or self._state.get(trial) != "placed":
                    self._fail(f"the model of trial {trial} is held, which is {self._state.get(trial)}")
                self._models[self.shape.repetition.head(trial)] = trial
            case Settle(trial, best):
                model = self._models.pop(self.shape.repetition.head(trial), None)
                if best and model not in (None, trial):
                    self._fail(f"the model of trial {model} is held, and trial {trial} is the best of its point")
            case Kill(worker, reason):
                assert self.shape.trial_timeout is not None
                # The controller knows the time by its last tick.
                if self.clock.now - self._heard[worker] < self.shape.trial_timeout - TICK:
                    self._fail(f"{worker} is killed, which was heard of at {self._heard[worker]:.3f} s")
                if not self._held[worker]:
                    self._fail(f"{worker} is killed, which has no trial")
                self.clock.after(0.0, lambda: self._end_worker(worker, reason))
            case Done():
                self._done = command
                running = [name for name, held in self._held.items() if held]
                if running and not self._at_once:
                    self._fail(f"the sweep ends while {running[0]} has not confirmed that its trials have")

    def _check_whole(self, worker: str, assignments: Sequence[Assignment]) -> None:
        """A population is given out whole but for those that are over, to a worker that has no other trial."""
        size = self.shape.population
        if size == 1:
            return
        numbers = {assignment.trial for assignment in assignments}
        head = min(numbers) - min(numbers) % size
        if numbers != {number for number in range(head, head + size) if number not in self._told}:
            self._fail(f"{sorted(numbers)} are given to {worker}, which are no population")
        if self._held[worker]:
            self._fail(f"{worker} is given a second population")

    def _assign(self, worker: str, assignment: Assignment) -> None:
        number = assignment.trial
        if self._state.get(number) != "waiting":
            self._fail(f"trial {number} is assigned to {worker}, but is {self._state.get(number)}")
        if worker not in self._held:
            self._fail(f"trial {number} is assigned to {worker}, which is not there")
        # The driver may not know yet that the trial before it was over, and so takes that one for the one that ran.
        if self._losses[number] > 2 * RETRIES + 2:
            self._fail(f"trial {number} is tried again after {self._losses[number]} workers were lost with it")
        if not self._held[worker]:
            self._heard[worker] = self.clock.now
        key = self._courses[number].key
        self._state[number] = "placed"
        self._place[number] = worker
        self._waiting[key] -= 1
        self._held[worker][number] = key
        self._stopping[worker].discard(number)
        self._outgoing.setdefault(worker, []).append(assignment)
        self._recorder.trial(number)

    def _record(self, trial: int, step: int, value: float) -> None:
        if self._state.get(trial) != "placed":
            self._fail(f"a report of trial {trial} counts, which is {self._state.get(trial)}")
        if step <= self._reached[trial]:
            self._fail(f"step {step} of trial {trial} is recorded after step {self._reached[trial]}")
        self._reached[trial] = step
        self._epochs += 1
        self._recorder.metrics(trial, step, value)
        self._study.record(trial, step, value)
        self.log.append(("report", trial, step, value))

    def _tell(self, tell: Tell) -> None:
        if tell.trial in self._told:
            self._fail(f"trial {tell.trial} is told twice")
        if self._state.get(tell.trial) not in ("waiting", "placed"):
            self._fail(f"trial {tell.trial} is told, but is {self._state.get(tell.trial)}")
        self._told.add(tell.trial)
        self._leave(tell.trial, "told")
        self._recorder.end(tell.trial, tell.state)
        self._study.tell(tell.trial, tell.state, tell.value, {"reason": tell.reason} if tell.reason else {})
        self.log.append(("tell", tell.trial, tell.state, tell.reason, tell.value))

    def _leave(self, trial: int, state: str) -> None:
        if self._state[trial] == "waiting":
            self._waiting[self._courses[trial].key] -= 1
        self._place.pop(trial, None)
        self._state[trial] = state

    def _send(self) -> None:
        for name, messages in self._outgoing.items():
            worker = self._workers.get(name)
            if worker is not None:
                # In order, as a worker's host sees to it.
                due = max(self.clock.now + self.clock.draw.expovariate(1 / 0.005), self._departure.get(name, 0.0))
                self._departure[name] = due
                self.clock.at(due, partial(worker.take, messages))
        self._outgoing = {}

    # What must hold.

    def _note(self, event: Event) -> None:
        """Keep book of what the driver knows of workers."""
        match event:
            case Slots(worker, key, slots) if worker in self._held:
                self._slots[worker, key] = slots
            case Finished(worker, trial) | Failed(worker, trial) if worker in self._held:
                if trial in self._stopping[worker] or self._place.get(trial) == worker:
                    self._held[worker].pop(trial, None)
                self._stopping[worker].discard(trial)

    def _check(self) -> None:
        budget, controller = self.shape.budget, self._controller
        if self._proposed > budget.trials:
            self._fail(f"{self._proposed} trials are drawn; the budget is {budget.trials}")
        live = sum(state in ("waiting", "placed") for state in self._state.values()) if self._small else None
        if live is not None and live != len(controller.live):
            self._fail(f"{live} trials are neither told nor suspended, and the controller knows {len(controller.live)}")
        if self._done is None and not controller.ending:
            if budget.epochs is not None and self._epochs >= budget.epochs:
                self._fail(f"{self._epochs} epochs are trained; the budget is {budget.epochs}")
            self._check_work()

    @property
    def _small(self) -> bool:
        return self.shape.trials <= 100

    def _check_work(self) -> None:
        """Every worker that is free is offered work."""
        waiting = {key for key, count in self._waiting.items() if count}
        if not waiting:
            if self._held and self._proposed < self.shape.budget.trials and not self._controller._exhausted:
                idle = [name for name, held in self._held.items() if not held]
                if idle:
                    self._fail(f"{idle[0]} has nothing to do, and nobody asks for points")
            return
        unasked = 0 if self._controller._exhausted else self.shape.budget.trials - self._proposed
        left = len(self._controller.live) + unasked
        share = math.ceil(left / max(self.shape.workers, len(self._held), 1))
        for name, held in self._held.items():
            if not held:
                self._fail(f"{name} has nothing to do while trials wait")
            keys = set(held.values())
            if len(keys) == 1:
                (key,) = keys
                slots = self._slots.get((name, key))
                # A block gives the lane of a trial that is to stop to the next one by itself.
                live = len(held) - len(self._stopping[name] & held.keys())
                if key in waiting and slots is not None and slots > 1 and live < min(slots, share):
                    self._fail(f"{name} runs {live} of {slots} lanes of {key!r} while trials of it wait")

    def _check_history(self, history: Sequence[PastTrial]) -> None:
        """What was committed is still there, and the record says nothing of an end that the study does not know."""
        if [past.number for past in history] != list(range(len(history))):
            self._fail("the numbers of the trials have gaps")
        if self.sessions == 1:
            return
        ends = {past.number: past.state for past in history if past.state.final}
        if self._committed is None:
            # Whole lines of a torn write count: what the study says is what was committed.
            known = {past.number: max(past.values, default=0) for past in history}
            kept = [
                entry
                for entry in self.log
                if entry[0] == "session"
                or (entry[0] == "report" and entry[2] <= known.get(entry[1], 0))
                or (entry[0] == "tell" and entry[1] in ends)
            ]
            self.log = kept
            self._committed = len(kept)
        lost, self.log = self.log[self._committed :], self.log[: self._committed]
        self._say(f"a new session: {len(history)} trials, {len(ends)} over, {len(lost)} entries were not committed")
        self.log.append(("session",))
        self._committed = len(self.log)
        told = {entry[1]: entry[2] for entry in self.log if entry[0] == "tell"}
        if told != ends:
            self._fail(f"the study has other ends than were committed: {set(told.items()) ^ set(ends.items())}")
        values = {past.number: past.values for past in history}
        for kind, *rest in self.log:
            if kind == "report":
                trial, step, value = rest
                if not _same(values[trial].get(step), value):
                    self._fail(f"trial {trial} has lost its report of step {step}")
        for number, run in self._runs.items():
            if run.state is not None and ends.get(number) is not run.state:
                self._fail(f"MLflow has trial {number} as {run.state}, and the study does not")

    def _check_end(self) -> None:
        """The sweep is over: everything that was drawn has one end, and its numbers are those it would have alone."""
        history = self._reopened()
        runs = self._recorder.close()
        ending = self._done
        assert ending is not None
        reasons = ("used up", "target", "same reason", "no better best")
        cut = ending.failed or any(words in ending.reason for words in reasons)
        for past in history:
            if not past.state.final:
                if not cut:
                    self._fail(f"trial {past.number} has no end: {ending.reason}")
                continue
            self._check_trial(past)
            run = runs.get(past.number)
            if run is None or run.state is not past.state:
                self._fail(f"MLflow has trial {past.number} as {run and run.state}, the study as {past.state}")
            if run.values.keys() != past.values.keys() or not all(
                _same(run.values[step], value) for step, value in past.values.items()
            ):
                self._fail(f"MLflow has other numbers of trial {past.number} than the study")
        sign = 1 if self.shape.direction is Direction.MINIMIZE else -1
        whole_points = points_of(history, self.shape.repetition, self.shape.direction)
        complete = [past for past in whole_points if past.state is TrialState.COMPLETE and past.value is not None]
        values = [sign * past.value for past in complete if past.value is not None]
        best = self._controller.best
        if min(values, default=None) != (None if best is None else sign * best[1]):
            self._fail(f"the best trial is said to be {best}")
        if best is not None and best not in [(past.number, past.value) for past in complete]:
            self._fail(f"the best trial is said to be {best}, which is another one's value")
        self._check_points(history)
        self._check_patience()
        taken = [past.attrs[ENQUEUED] for past in history if ENQUEUED in past.attrs]
        if taken != [point.id for point in self._points()][: -(-len(history) // self.shape.repetition.count)]:
            self._fail(f"the points that were tried are {taken}")
        whole = len(history) == self.shape.budget.trials or self.shape.sampler["name"] == "grid"
        if not cut and not whole:
            self._fail(f"the sweep ends with {len(history)} of {self.shape.budget.trials} trials")

    def _check_points(self, history: Sequence[PastTrial]) -> None:
        """The repeats of a point have its parameters, and none goes on once it is out."""
        repetition = self.shape.repetition
        for past in history:
            if past.params != history[repetition.head(past.number)].params:
                self._fail(f"trial {past.number} has other parameters than its point")
            if is_not_needed(past.attrs):
                others = [history[number] for number in repetition.members(past.number) if number < len(history)]
                out = [one for one in others if one.state in (TrialState.PRUNED, TrialState.FAILED)]
                if all(is_not_needed(one.attrs) for one in out):
                    self._fail(f"trial {past.number} was not needed, and its point is not out")
        if not repetition.several:
            return
        # In the order of the log: reports of a trial whose point is out do not count.
        out_by: set[int] = set()
        for kind, *rest in self.log:
            match kind:
                case "session":
                    continue
                case "report" if repetition.head(rest[0]) in out_by:
                    self._fail(f"trial {rest[0]} goes on, whose point is out")
                case "tell" if rest[1] is not TrialState.COMPLETE:
                    out_by.add(repetition.head(rest[0]))

    def _check_patience(self) -> None:
        """No trial goes on once so many have ended without a better best."""
        patience, sign = self.shape.budget.patience, 1 if self.shape.direction is Direction.MINIMIZE else -1
        best, since = math.inf, 0
        open_points = OpenPoints(self.shape.repetition, self.shape.direction)
        for kind, trial, *rest in (entry for entry in self.log if patience is not None and entry[0] == "tell"):
            state, reason, value = rest
            ended = open_points.end(trial, state, value, feasible=True)
            if ended is None:
                continue
            state, value = ended.state, ended.value
            if state is TrialState.FAILED or reason.startswith("stopped at step"):
                continue
            if patience is not None and since >= patience:
                self._fail(f"the {kind} of trial {trial} comes after {since} without a better best")
            better = state is TrialState.COMPLETE and sign * value < best
            best, since = (sign * value, 0) if better else (best, since + (best < math.inf))

    def _reopened(self) -> list[PastTrial]:
        if not self.shape.journal:
            return self._study.history()
        study = Study.load("s", folder=self._path, storage=None)
        return study.history()

    def _check_trial(self, past: PastTrial) -> None:
        found = self._courses[past.number]
        for step, value in past.values.items():
            expected = found.report(past.number, step).metrics.get(METRIC)
            if not _same(expected, value):
                self._fail(f"trial {past.number} has {value} at step {step}; alone it has {expected}")
        if list(past.values) != list(range(1, len(past.values) + 1)) and not self._faults.overtaking:
            self._fail(f"trial {past.number} has gaps in its reports: {list(past.values)}")
        by_itself = past.state is TrialState.COMPLETE and self.shape.budget.target is None
        whole = found.end == "complete" and len(past.values) == found.length
        if by_itself and not whole and not self._faults.overtaking:
            self._fail(f"trial {past.number} is complete after {len(past.values)} of {found.length} steps")

    # Saying.

    def _say(self, what: object) -> None:
        if self._trace:
            print(f"{self.clock.now:9.3f} {what}")

    def _fail(self, what: str) -> Any:
        raise ViolationError(f"seed {self.shape.seed}, {self.clock.now:.3f} s, session {self.sessions}: {what}")


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))
