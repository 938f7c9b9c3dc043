"""A worker: takes several trials, trains them with an engine and reports; the same under Ray and inline.

The engine behind it today is solo: it trains the assigned trials one after another. Nothing in the interface says
so: jobs, reports and decisions come and go in tuples.
"""

from __future__ import annotations

import bdb
import importlib
import io
import os
import platform
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from swathe import function
from swathe.errors import BadInputError, bad_value
from swathe.events import Config, Decision, Direction, Failed, Finished, Report, Reported

# Reports that nobody waits for are sent together, at most this late (seconds).
FLUSH_SECONDS = 0.2
# An idle worker answers its driver at least this often (seconds).
IDLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Job:
    """A trial as a worker gets it: the assignment with its composed config; `best` is the best value known by now."""

    trial: int
    config: Config
    attempt: int = 0
    decide_from: int | None = None
    best: float | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Facts on a trial for its record, which no decision depends on."""

    trial: int
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker must know once: paths for imports, the data cache, its device and its threads."""

    trainable: str | None
    metric: str
    direction: Direction
    home: str
    import_paths: tuple[str, ...]
    device: str
    threads: int
    target: float | None = None


Message = Job | Decision
Emitted = Reported | Finished | Failed | Note


class Channel(Protocol):
    """How an engine speaks to the controller."""

    def next_job(self) -> Job | None:
        """Return the next job, waiting for it; None when the worker closes."""

    def report(self, report: Report, *, urgent: bool) -> None:
        """Send a report; `urgent` when a decision is waited for."""

    def emit(self, event: Finished | Failed | Note) -> None:
        """Send anything else."""

    def decision(self, trial: int, step: int) -> Decision:
        """Return the decision on the report of `step`, waiting for it."""

    def stopped(self, trial: int) -> bool:
        """Whether the trial was told to stop by now."""


class ThreadChannel:
    """A channel between the thread that trains and the calls of the driver."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._condition = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._decisions: dict[int, Decision] = {}
        self._out: list[Emitted] = []
        self._reports: list[Report] = []
        self._urgent = False
        self._closed = False

    def put(self, messages: tuple[Message, ...]) -> None:
        """Take messages of the driver in."""
        with self._condition:
            for message in messages:
                if isinstance(message, Job):
                    self._decisions.pop(message.trial, None)
                    self._jobs.append(message)
                else:
                    self._decisions[message.trial] = message
            self._condition.notify_all()

    def drain(self) -> list[Emitted]:
        """Wait until there is something to say and return it; empty after `IDLE_SECONDS`."""
        deadline = time.monotonic() + IDLE_SECONDS
        with self._condition:
            while not self._urgent and time.monotonic() < deadline:
                woken = self._condition.wait_for(lambda: self._urgent or self._closed, FLUSH_SECONDS)
                if not woken and self._reports:
                    break
                if self._closed:
                    break
            self._pack()
            events, self._out, self._urgent = self._out, [], False
            return events

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def next_job(self) -> Job | None:
        with self._condition:
            self._condition.wait_for(lambda: self._jobs or self._closed)
            return self._jobs.popleft() if self._jobs else None

    def report(self, report: Report, *, urgent: bool) -> None:
        with self._condition:
            self._reports.append(report)
            if urgent or report.time - self._reports[0].time > FLUSH_SECONDS:
                self._urgent = True
                self._condition.notify_all()

    def emit(self, event: Finished | Failed | Note) -> None:
        with self._condition:
            self._pack()
            self._out.append(event)
            if not isinstance(event, Note):
                self._decisions.pop(event.trial, None)
                self._urgent = True
                self._condition.notify_all()

    def decision(self, trial: int, step: int) -> Decision:
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._answered(trial, step))
            return self._decisions.get(trial) or Decision(trial, step, stop=True)

    def stopped(self, trial: int) -> bool:
        decision = self._decisions.get(trial)
        return self._closed or (decision is not None and decision.stop)

    def _answered(self, trial: int, step: int) -> bool:
        decision = self._decisions.get(trial)
        return decision is not None and (decision.stop or decision.step >= step)

    def _pack(self) -> None:
        if self._reports:
            self._out.append(Reported(self._worker, tuple(self._reports)))
            self._reports = []


class InlineChannel:
    """A channel within one thread: every event is handled before the engine goes on, so that pdb sees it all."""

    def __init__(self, worker: str, deliver: Callable[[list[Emitted]], None]) -> None:
        self._worker = worker
        self._deliver = deliver
        self._jobs: deque[Job] = deque()
        self._decisions: dict[int, Decision] = {}

    def put(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            if isinstance(message, Job):
                self._decisions.pop(message.trial, None)
                self._jobs.append(message)
            else:
                self._decisions[message.trial] = message

    def next_job(self) -> Job | None:
        return self._jobs.popleft() if self._jobs else None

    def report(self, report: Report, *, urgent: bool) -> None:
        self._deliver([Reported(self._worker, (report,))])

    def emit(self, event: Finished | Failed | Note) -> None:
        self._deliver([event])

    def decision(self, trial: int, step: int) -> Decision:
        return self._decisions.get(trial) or Decision(trial, step, stop=True)

    def stopped(self, trial: int) -> bool:
        decision = self._decisions.get(trial)
        return decision is not None and decision.stop


def geometry(setup: WorkerSetup) -> dict[str, str]:
    """Say on what a trial's bits may depend besides its config: engine, device, threads and versions."""
    return {
        "engine": "solo" if setup.trainable is None else "function",
        "device": setup.device,
        "device_name": _device_name(setup),
        "threads": str(setup.threads),
        "torch": version("torch"),
        "python": platform.python_version(),
        "host": socket.gethostname(),
    }


def _device_name(setup: WorkerSetup) -> str:
    """Return the GPU's name, or the widest instructions that PyTorch may use on this CPU.

    A function may do without PyTorch, whose import takes seconds: of its CPU only the family is said.
    """
    if setup.trainable is not None and not setup.device.startswith("cuda"):
        return platform.machine()
    import torch

    if setup.device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return torch.backends.cpu.get_cpu_capability()


def prepare(setup: WorkerSetup) -> None:
    """Set threads, import paths and determinism of this process, before the first trial.

    PyTorch, which takes seconds to import, is left out where the user's own function does without it.
    """
    add_import_paths(setup.import_paths)
    os.environ["SWATHE_HOME"] = setup.home
    os.environ["OMP_NUM_THREADS"] = str(setup.threads)
    if setup.trainable is None or setup.device.startswith("cuda"):
        importlib.import_module("torch")
    else:
        # One that cannot be imported fails its trials, each with the reason.
        with suppress(BadInputError):
            load_function(setup.trainable)
    set_threads(setup.threads)


def set_threads(threads: int) -> None:
    """Bound the threads of PyTorch in the calling thread, and let it choose algorithms that repeat their bits."""
    if "torch" not in sys.modules:
        return
    import torch

    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def add_import_paths(paths: Sequence[str]) -> None:
    """Let modules of these folders be imported, before any other."""
    sys.path[:0] = [path for path in paths if path not in sys.path]


def load_function(trainable: str) -> Callable[[Any], Any]:
    """Import `module:function`; raises `BadInputError` when there is none."""
    module_name, _, name = trainable.partition(":")
    allowed = "module:function, importable from the working folder"
    if not module_name or not name:
        raise bad_value("trainable", trainable, allowed)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise BadInputError(
            f"trainable: {trainable!r} cannot be imported ({type(error).__name__}: {error}); allowed: {allowed}."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise BadInputError(
            f"trainable: {name!r} is no function of {module_name}; allowed: {', '.join(names) or 'none there'}."
        )
    return found  # type: ignore[no-any-return]


def run_solo(setup: WorkerSetup, channel: Channel, worker: str) -> None:
    """Train the jobs of `channel` one after another until there are no more."""
    while (job := channel.next_job()) is not None:
        run_job(setup, channel, worker, job)


def run_job(setup: WorkerSetup, channel: Channel, worker: str, job: Job) -> None:
    """Train one trial to its end; whatever it raises ends this trial alone."""
    try:
        if setup.trainable is None:
            model = _train_recipe(setup, channel, job)
        else:
            model = _call_function(setup, channel, job)
    except function.TrialStopped:
        model = None
    except (KeyboardInterrupt, bdb.BdbQuit):
        # In the main thread it is the user who wants out, of an inline trial or of its debugger.
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt from None
        channel.emit(Failed(worker, job.trial, "KeyboardInterrupt", traceback.format_exc(), job.attempt))
        return
    except BaseException as error:  # sys.exit and the like must fail the trial, too.
        text = "".join(traceback.format_exception(error))
        channel.emit(Failed(worker, job.trial, one_line(error), text, job.attempt))
        return
    channel.emit(Finished(worker, job.trial, job.attempt, model))


def one_line(error: BaseException) -> str:
    """Return the error's type and the first line of its text, at most 300 characters."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}"[:300] if text else type(error).__name__


@dataclass(slots=True)
class _Pace:
    """Which report must wait for its decision, and which decision is still out."""

    channel: Channel
    trial: int
    decide_from: int | None
    due: int | None = None

    def send(self, report: Report) -> None:
        urgent = self.decide_from is not None and report.step >= self.decide_from
        self.due = report.step if urgent else None
        self.channel.report(report, urgent=urgent)

    def settle(self) -> bool:
        """Wait for the decision that is out, if any; return whether to stop."""
        if self.due is not None:
            decision = self.channel.decision(self.trial, self.due)
            self.due, self.decide_from = None, decision.decide_from
        return self.channel.stopped(self.trial)


def _train_recipe(setup: WorkerSetup, channel: Channel, job: Job) -> bytes | None:
    from swathe.training.recipe import recipe_from_config
    from swathe.training.solo import Solo

    solo = Solo(recipe_from_config(job.config), device=setup.device, cache=Path(setup.home) / "data")
    channel.emit(Note(job.trial, {"swathe.dataset": solo.dataset.name, "swathe.dataset_digest": solo.dataset.digest}))
    pace = _Pace(channel, job.trial, job.decide_from)
    metrics: Mapping[str, float] = {}
    # The next epoch begins while the decision on the last one is under way.
    for epoch, metrics, seconds in solo.reports(should_stop=lambda: channel.stopped(job.trial)):
        if pace.settle():
            return None
        pace.send(Report(job.trial, epoch, metrics, seconds, time.time()))
        if _reaches_target(setup, metrics):
            # The sweep ends with this report, and its winner's model is the one that made it.
            return serialise(solo.state_dict())
    if pace.settle() or not _is_better(setup, job, metrics):
        return None
    return serialise(solo.state_dict())


def _is_better(setup: WorkerSetup, job: Job, metrics: Mapping[str, float]) -> bool:
    value = metrics.get(setup.metric)
    if value is None:
        return False
    if job.best is None:
        return True
    return value < job.best if setup.direction is Direction.MINIMIZE else value > job.best


def _reaches_target(setup: WorkerSetup, metrics: Mapping[str, float]) -> bool:
    value = metrics.get(setup.metric)
    if setup.target is None or value is None:
        return False
    return value <= setup.target if setup.direction is Direction.MINIMIZE else value >= setup.target


def serialise(state: Mapping[str, Any]) -> bytes:
    """Return a state dictionary as `torch.save` writes it."""
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


@dataclass(slots=True)
class _FunctionSession:
    setup: WorkerSetup
    info: function.TrialInfo
    pace: _Pace
    since: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        now = time.time()
        self.metrics = metrics
        self.pace.send(Report(self.info.number, step, metrics, now - self.since, now))
        stop = self.pace.settle() or _reaches_target(self.setup, metrics)
        self.since = time.time()
        return stop


class Params(dict[str, Any]):
    """The parameters of a function: a dictionary whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(f"no parameter {name!r}; there are: {', '.join(self) or 'none'}") from None
        return Params(value) if isinstance(value, dict) else value


def _call_function(setup: WorkerSetup, channel: Channel, job: Job) -> bytes | None:
    assert setup.trainable is not None
    train = load_function(setup.trainable)
    info = function.TrialInfo(job.trial, int(job.config.get("seed", 0)), job.config)
    session = _FunctionSession(setup, info, _Pace(channel, job.trial, job.decide_from), time.time())
    function.install(session)
    try:
        result = train(Params(job.config.get("params", {})))
    finally:
        function.install(None)
    if hasattr(result, "state_dict") and _is_better(setup, job, session.metrics):
        return serialise(result.state_dict())
    return None
