"""Simulated workers: they take jobs, report, wait for decisions and die, as `swathe.worker` and `lane_worker` do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from swathe.events import Assignment, Decision, Event, Failed, Finished, Report, Reported, Slots
from tests.simulation.clock import Clock
from tests.simulation.shape import Course

# How long reports that nobody waits for may lie until they are sent (virtual seconds).
FLUSH = 0.2


@dataclass(slots=True)
class _Run:
    """One attempt of a trial on a worker; `due`: the step whose decision it waits for."""

    job: Assignment
    course: Course
    decide_from: int | None
    step: int = 0
    due: int | None = None
    idle: bool = False


@dataclass(slots=True)
class Worker:
    """One worker process. `send` carries what it says away; all else happens on the clock."""

    name: str
    clock: Clock
    send: Callable[[str, tuple[Event, ...]], None]
    course_of: Callable[[Assignment], Course]
    slots: dict[str, int]
    speed: float
    alive: bool = True
    # A trial of it hangs, and the whole process with it.
    hung: bool = False
    stalled_until: float = 0.0
    _runs: dict[int, _Run] = field(default_factory=dict)
    _queue: deque[_Run] = field(default_factory=deque)
    _told: dict[int, Decision] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)
    _reports: list[Report] = field(default_factory=list)
    _out: list[Event] = field(default_factory=list)
    _flushing: bool = False

    @property
    def begun(self) -> list[int]:
        """The trials that it has begun."""
        return list(self._runs)

    def take(self, messages: Sequence[Assignment | Decision]) -> None:
        """Take in what the driver sent."""
        if not self.alive or self.hung:
            return
        for message in messages:
            if isinstance(message, Assignment):
                run = _Run(message, self.course_of(message), message.decide_from)
                self._told.pop(message.trial, None)
                self._queue.append(run)
                self._say_slots(run.course.key)
            else:
                self._decide(message)
        self._place()

    def _say_slots(self, key: str) -> None:
        if key and key not in self._said:
            self._said.add(key)
            self._emit(Slots(self.name, key, self.slots[key]), urgent=True)

    def _decide(self, decision: Decision) -> None:
        number = decision.trial
        waiting = next((run for run in self._queue if run.job.trial == number), None)
        if waiting is not None and decision.stop:
            self._queue.remove(waiting)
            self._emit(Finished(self.name, number, waiting.job.attempt))
            return
        run = self._runs.get(number)
        if run is None:
            return
        if decision.stop:
            self._leave(run, Finished(self.name, number, run.job.attempt))
            return
        if run.due is not None and decision.step >= run.due:
            run.due, run.decide_from = None, decision.decide_from
            if run.idle:
                run.idle = False
                self._go_on(run)

    def _place(self) -> None:
        """Start what waits, as far as there are lanes of its key; trials alone run one at a time."""
        for run in list(self._queue):
            here = sum(other.course.key == run.course.key for other in self._runs.values())
            if here < (self.slots[run.course.key] if run.course.key else 1):
                self._queue.remove(run)
                self._runs[run.job.trial] = run
                self._go_on(run)

    def _go_on(self, run: _Run) -> None:
        if run.step == run.course.length:
            self._leave(run, Finished(self.name, run.job.trial, run.job.attempt))
            return
        # Sooner or later, so that two trials of one length do not march in step.
        self.clock.after(run.course.seconds / self.speed * self.clock.draw.uniform(0.8, 1.2), lambda: self._epoch(run))

    def _epoch(self, run: _Run) -> None:
        if not self.alive or self.hung or self._runs.get(run.job.trial) is not run:
            return
        if self.clock.now < self.stalled_until:
            self.clock.after(self.stalled_until - self.clock.now, lambda: self._epoch(run))
            return
        run.step += 1
        if run.step == run.course.length and run.course.end == "hang":
            self.hung = True
            return
        if run.step == run.course.length and run.course.end == "raise":
            self._leave(run, Failed(self.name, run.job.trial, "ValueError: no", "", run.job.attempt))
            return
        urgent = run.decide_from is not None and run.step >= run.decide_from
        run.due = run.step if urgent else None
        report = run.course.report(run.job.trial, run.step)
        self._emit(report, urgent=urgent)
        last = run.step == run.course.length
        if last and (run.course.key or report.ends is not None):
            # A lane is free at once; a trial alone waits for the verdict on its last report.
            self._leave(run, Finished(self.name, run.job.trial, run.job.attempt))
        elif run.due is not None:
            run.idle = True
        else:
            self._go_on(run)

    def _leave(self, run: _Run, event: Finished | Failed) -> None:
        del self._runs[run.job.trial]
        self._emit(event)
        self._place()

    def _emit(self, said: Event | Report, *, urgent: bool = False) -> None:
        if isinstance(said, Report):
            self._reports.append(said)
        else:
            self._pack()
            self._out.append(said)
        if urgent or not isinstance(said, Report):
            self._flush()
        elif not self._flushing:
            self._flushing = True
            self.clock.after(FLUSH, self._flush)

    def _pack(self) -> None:
        if self._reports:
            self._out.append(Reported(self.name, tuple(self._reports)))
            self._reports.clear()

    def _flush(self) -> None:
        self._flushing = False
        self._pack()
        if self._out and self.alive:
            out, self._out = tuple(self._out), []
            self.send(self.name, out)
