"""The words that the controller, the runtime, the workers and the recorder speak.

Plain immutable data: it pickles cheaply, travels over Ray and drives the simulator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from swathe.training.diagnose import Action, Finding

Value = bool | int | float | str | None


class Direction(Enum):
    """Which way the objective is better."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"


class TrialState(Enum):
    """Where a trial stands; the last three are final."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether a trial in this state has been told and stays so."""
        return self in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)


@dataclass(frozen=True, slots=True)
class Proposal:
    """One point of the space, as the sampler drew it: a trial number and its parameters."""

    trial: int
    params: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Report:
    """The metrics of one trial at one step.

    `seconds` is the device time (seconds) spent since the trial's previous report; `time` is the unix time
    (seconds) at which the worker made the report. `findings` are what its diagnosis has new to say at this report;
    `ends`: whether the worker ends the trial for it, with the worst value (STOP) or as it stands (EARLY_STOP).
    """

    trial: int
    step: int
    metrics: Mapping[str, float]
    seconds: float = 0.0
    time: float = 0.0
    findings: tuple[Finding, ...] = ()
    ends: Action | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """A trial given to a worker.

    `decide_from`: the first step whose report must wait for the controller's decision (None: none ever).
    `attempt` counts from 0 and grows when a lost worker's trial is run again. `step`: the last one that counts of
    earlier attempts (None: none does).
    """

    trial: int
    params: Mapping[str, Value]
    attempt: int = 0
    decide_from: int | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The controller's answer to the report of `trial` at `step`: stop, or go on until `decide_from`.

    `suspend`: the trial that is to stop will go on in a later session, with what its worker keeps of it now.
    """

    trial: int
    step: int
    stop: bool
    decide_from: int | None = None
    suspend: bool = False


# Events: what happened.


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker can train; it takes a first trial of each structural key, and says with `Slots` how many more."""

    worker: str


@dataclass(frozen=True, slots=True)
class WorkersStart:
    """So many workers are starting; each is there when it says `WorkerReady`."""

    workers: int


@dataclass(frozen=True, slots=True)
class Slots:
    """A worker trains up to `slots` trials of one structural key side by side; 1: it trains them alone."""

    worker: str
    key: str
    slots: int


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker died, with every trial on it.

    `traceback` and `cause`: those of `Failed`, where it was code of a trial that ended the process, and this is known;
    `trial`: the one that it had begun last, if that is known and it trains one after another.
    """

    worker: str
    reason: str
    traceback: str = field(default="", repr=False)
    cause: str = ""
    trial: int | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """Reports of one worker, a whole block's at once, in the order in which they were made."""

    worker: str
    reports: tuple[Report, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """A trial ended by itself, or stopped because it was told to."""

    worker: str
    trial: int
    attempt: int = 0
    model: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """A trial raised: `reason` is one line, `traceback` the whole text, `cause` the same for the same error.

    An error is the same if it is of the same kind and from the same place, whatever its text says.
    """

    worker: str
    trial: int
    reason: str
    traceback: str = ""
    attempt: int = 0
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Proposed:
    """The answer to `Ask`; `exhausted` when the space has no further point."""

    proposals: tuple[Proposal, ...]
    exhausted: bool = False


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The user asked to stop: gently (running trials go back to the queue at their next report) or at once."""

    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """Wall time (seconds) since the sweep began; the controller has no clock of its own."""

    elapsed: float


Event = WorkersStart | WorkerReady | Slots | WorkerLost | Reported | Finished | Failed | Proposed | StopAsked | Tick


# Commands: what the runtime must now do.


@dataclass(frozen=True, slots=True)
class Ask:
    """Draw `count` points from the sampler and answer with `Proposed`."""

    count: int


@dataclass(frozen=True, slots=True)
class Assign:
    """Give trials to a worker."""

    worker: str
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class Decide:
    """Send decisions to a worker."""

    worker: str
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Reports that count: write them to the study and to the record."""

    reports: tuple[Report, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """A trial is over: its final state, its objective and, if it did not complete, why.

    `cause`: of a failure that counts as one of the code, what tells it from others, see `failures`. Of several
    objectives `value` is the first, and `objectives` are all of a complete trial. `constraints`: by how much each is
    violated, by metric; `metrics`: the last values of what objectives and constraints name, where there are such.
    """

    trial: int
    state: TrialState
    value: float | None
    step: int | None
    reason: str = ""
    traceback: str = field(default="", repr=False)
    cause: str = ""
    objectives: tuple[float, ...] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suspend:
    """This trial was taken off its worker because the sweep stops; it is not told and runs again on resume."""

    trial: int


@dataclass(frozen=True, slots=True)
class Keep:
    """This trial is the best so far: keep its model."""

    trial: int
    model: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Hold:
    """This repeat is the best one of its point so far: keep its model until the point's `Settle`."""

    trial: int
    model: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settle:
    """The point of this trial is over: its held model is the sweep's if it is the `best`, and is needed no more."""

    trial: int
    best: bool


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker that does not answer, with every trial on it; `WorkerLost` is to follow, with the same `reason`."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do; `reason` says why the sweep ended and `failed` whether it must count as failed."""

    reason: str
    failed: bool = False
    interrupted: bool = False


Command = Ask | Assign | Decide | Record | Tell | Suspend | Keep | Hold | Settle | Kill | Done

Config = dict[str, Any]
