"""Simulated workers: they take jobs, report, wait for decisions and die, as `swathe.worker` and `lane_worker` do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from swathe.events import Assignment, Decision, Event, Failed, Finished, Report, Reported, Slots
from swathe.worker import Channel, Pace
from tests.simulation.clock import Clock
from tests.simulation.shape import Course

# How long reports that nobody waits for may lie until they are sent (virtual seconds).
FLUSH = 0.2


@dataclass(slots=True)
class Disk:
    """Where workers keep trials: of each its course and its reports. `share`: how many reports are followed by that.

    A checkpoint cannot be read again as often as `damaged` says.
    """

    clock: Clock
    share: float
    damaged: float
    kept: dict[int, tuple[Course, tuple[Report, ...]]] = field(default_factory=dict)

    def read(self, job: Assignment, course: Course) -> tuple[Report, ...]:
        """Return the reports that an attempt begins with, each as it is made again."""
        found, reports = self.kept.get(job.trial, (None, ()))
        if found != course or self.clock.draw.random() < self.damaged:
            return ()
        return tuple(replace(report, seconds=0.0) if report.step <= (job.step or 0) else report for report in reports)


@dataclass(slots=True)
class _Run:
    """One attempt of a trial on a worker, with the real rule of which decisions it waits for."""

    job: Assignment
    course: Course
    pace: Pace
    reports: list[Report] = field(default_factory=list)
    idle: bool = False

    @property
    def step(self) -> int:
        return len(self.reports)


@dataclass(slots=True)
class Worker:
    """One worker process. `send` carries what it says away; all else happens on the clock."""

    name: str
    clock: Clock
    send: Callable[[str, tuple[Event, ...]], None]
    course_of: Callable[[Assignment], Course]
    slots: dict[str, int]
    speed: float
    disk: Disk
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
                pace = Pace(cast(Channel, self), message.trial, message.decide_from)
                run = _Run(message, self.course_of(message), pace)
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

    def decided(self, trial: int, step: int) -> Decision | None:
        """Return the decision on a step as a real worker's inbox has it."""
        decision = self._told.get(trial)
        return decision if decision is not None and (decision.stop or decision.step >= step) else None

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
        self._told[number] = decision
        if decision.stop:
            if decision.suspend and self.clock.draw.random() < self.disk.share:
                self._keep(run)
            self._leave(run, Finished(self.name, number, run.job.attempt))
        elif run.pace.look() and run.idle:
            run.idle = False
            self._go_on(run)

    def _keep(self, run: _Run) -> None:
        if 0 < run.step < run.course.length:
            self.disk.kept[run.job.trial] = run.course, tuple(run.reports)

    def _place(self) -> None:
        """Start what waits, as far as there are lanes of its key; trials alone run one at a time."""
        for run in list(self._queue):
            here = sum(other.course.key == run.course.key for other in self._runs.values())
            if here < (self.slots[run.course.key] if run.course.key else 1):
                self._queue.remove(run)
                self._runs[run.job.trial] = run
                self._begin(run)

    def _begin(self, run: _Run) -> None:
        for report in self.disk.read(run.job, run.course):
            run.reports.append(report)
            self._emit(report, urgent=run.pace.note(report.step))
        if run.pace.look():
            self._go_on(run)
        else:
            run.idle = True

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
        report = run.course.report(run.job.trial, run.step + 1)
        last = report.step == run.course.length
        if last and run.course.end == "hang":
            self.hung = True
            return
        if last and run.course.end == "raise":
            self._leave(run, Failed(self.name, run.job.trial, "ValueError: no", "", run.job.attempt))
            return
        run.reports.append(report)
        urgent = run.pace.note(report.step)
        self._emit(report, urgent=urgent)
        if self.clock.draw.random() < self.disk.share:
            self._keep(run)
        if last and (run.course.key or report.ends is not None):
            # A lane is free at once; a trial alone waits for the verdict on its last report.
            self._leave(run, Finished(self.name, run.job.trial, run.job.attempt))
        elif urgent:
            run.idle = True
        else:
            self._go_on(run)

    def _leave(self, run: _Run, event: Finished | Failed) -> None:
        del self._runs[run.job.trial]
        self._told.pop(run.job.trial, None)
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
