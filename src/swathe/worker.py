"""A worker: takes several trials, trains them with an engine and reports; the same under Ray and inline.

A function is called here, one trial after another; recipes are trained as lanes, see `lane_worker`. Nothing in the
interface says so: jobs, reports and decisions come and go in tuples.
"""

from __future__ import annotations

import bdb
import importlib
import inspect
import io
import os
import pickle
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

from swathe import faults, function, surroundings
from swathe.checkpoints import NOTE, RESUMED, Checkpoints, History, digest
from swathe.diagnosis import Rule, TrialDiagnosis, fact_tags, recipe_facts
from swathe.errors import BadInputError, SwatheError, bad_value
from swathe.events import Config, Decision, Direction, Failed, Finished, Report, Reported, Slots
from swathe.objectives import Constraint, kept
from swathe.population import PopulationJob
from swathe.preflight_task import PreflightTask
from swathe.training.diagnose import Action, Facts
from swathe.training.recipe import PARAMETERS
from swathe.training.verdict import Verdict

# Reports that nobody waits for are sent together, at most this late (seconds).
FLUSH_SECONDS = 0.2
# Of a longer traceback only the ends are kept (characters).
MAX_TRACEBACK = 100_000
# An idle worker answers its driver at least this often (seconds).
IDLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Job:
    """A trial as a worker gets it: the assignment with its composed config.

    `best` is the best value known by now, `counted` the last step whose report counts already, `program` the one that
    made it (solo, eager or compiled): the trial's bits are to be those of one program. `population`: the one that it is
    a member of; the jobs of all members that are not over come to one worker, at once.
    """

    trial: int
    config: Config
    attempt: int = 0
    decide_from: int | None = None
    best: float | None = None
    counted: int | None = None
    program: str | None = None
    population: PopulationJob | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Facts on a trial for its record, which no decision depends on."""

    trial: int
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LaneUse:
    """How full a worker was over the last `seconds` before the unix time `time`, as means.

    `live`: lanes that held a trial. `slots`: lanes that would have, had it been given trials enough of the keys that it
    trained. What no decision depends on.
    """

    worker: str
    time: float
    seconds: float
    live: float
    slots: float


@dataclass(frozen=True, slots=True)
class Checked:
    """What the pre-flight says of a sweep, before any of its trials trains."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker must know once: paths for imports, the data cache, its device, its threads, and its lanes.

    `slots`, `compile` and `memory_fraction` are the options of `lanes` in the config; `diagnosis` None: trials are not
    diagnosed. `preflight`: what to try before the first trial, None where nothing is or its verdict is known. `layers`:
    whether reports have the gradient's norm of every layer. `checkpoint_seconds`: how often a trial is kept in
    `checkpoint_folder`, None for never. `constraints`: without them kept no report reaches the target. `parameters`:
    whether a recipe's reports have the size of its network. `repeated`: a trial's model may count whose value is worse
    than that of another of this worker's, as several trials are one point.
    """

    trainable: str | None
    metric: str
    direction: Direction
    home: str
    import_paths: tuple[str, ...]
    device: str
    threads: int
    target: float | None = None
    repeated: bool = False
    slots: int | None = None
    compile: str = "auto"
    memory_fraction: float = 0.5
    diagnosis: Rule | None = None
    preflight: PreflightTask | None = None
    layers: bool = False
    checkpoint_folder: str = ""
    checkpoint_seconds: float | None = None
    constraints: tuple[Constraint, ...] = ()
    parameters: bool = False

    def reported(self, metrics: Mapping[str, float], size: int) -> Mapping[str, float]:
        """Return a recipe's metrics with the size of its network, where that is asked for."""
        return {**metrics, PARAMETERS: float(size)} if self.parameters else metrics

    def checkpoints(self) -> Checkpoints:
        """Return a worker's hold on its trials' checkpoints."""
        return Checkpoints(Path(self.checkpoint_folder), self.checkpoint_seconds)

    @property
    def data(self) -> Path:
        """The data cache of this node."""
        return Path(self.home) / "data"


Message = Job | Decision
End = Finished | Failed
# What a worker says besides reports.
Said = End | Note | Slots | LaneUse | Checked
Emitted = Reported | Said


class Channel(Protocol):
    """How an engine speaks to the controller."""

    def next_job(self) -> Job | None:
        """Return the next job, waiting for it; None when the worker closes."""

    def jobs(self, seconds: float) -> tuple[Job, ...] | None:
        """Return all jobs that are there, waiting up to `seconds` for a first one; None when the worker closes."""

    def report(self, report: Report, *, urgent: bool) -> None:
        """Send a report; `urgent` when a decision is waited for."""

    def emit(self, event: Said) -> None:
        """Send anything else."""

    def send(self, reports: Sequence[Report], said: Sequence[Said], *, urgent: bool) -> None:
        """Send reports and then the rest, all at once."""

    def decision(self, trial: int, step: int) -> Decision:
        """Return the decision on the report of `step`, waiting for it."""

    def decided(self, trial: int, step: int) -> Decision | None:
        """Return the decision on the report of `step` if it has come."""

    def stopped(self, trial: int) -> bool:
        """Whether the trial was told to stop by now."""

    def suspended(self, trial: int) -> bool:
        """Whether it was told so because it goes on in a later session."""


class _Inbox:
    """What came from the driver. Decisions are kept for trials that are here, so that memory does not grow."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.here: set[int] = set()
        self._decisions: dict[int, Decision] = {}

    def put(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            if isinstance(message, Job):
                self._decisions.pop(message.trial, None)
                self.here.add(message.trial)
                self.jobs.append(message)
            elif message.trial in self.here:
                self._decisions[message.trial] = message

    def all_jobs(self) -> tuple[Job, ...]:
        jobs = tuple(self.jobs)
        self.jobs.clear()
        return jobs

    def forget(self, trial: int) -> None:
        self.here.discard(trial)
        self._decisions.pop(trial, None)

    def last(self, trial: int) -> Decision | None:
        return self._decisions.get(trial)

    def suspended(self, trial: int) -> bool:
        decision = self._decisions.get(trial)
        return decision is not None and decision.stop and decision.suspend

    def decided(self, trial: int, step: int) -> Decision | None:
        """Return the decision on a step, if it has come; one on a later step, or to stop, stands for it."""
        decision = self._decisions.get(trial)
        return decision if decision is not None and (decision.stop or decision.step >= step) else None


class ThreadChannel:
    """A channel between the thread that trains and the calls of the driver."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._condition = threading.Condition()
        self._inbox = _Inbox()
        self._out: list[Emitted] = []
        self._reports: list[Report] = []
        # When the first of them came.
        self._since = 0.0
        self._urgent = False
        self._closed = False

    def put(self, messages: tuple[Message, ...]) -> None:
        """Take messages of the driver in."""
        with self._condition:
            self._inbox.put(messages)
            self._condition.notify_all()

    def drain(self) -> list[Emitted]:
        """Wait until there is something to say and return it; empty after `IDLE_SECONDS`."""
        deadline = time.monotonic() + IDLE_SECONDS
        with self._condition:
            while not self._urgent and time.monotonic() < deadline:
                woken = self._condition.wait_for(lambda: self._urgent or self._closed, FLUSH_SECONDS)
                if not woken and (self._reports or self._out):
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
            self._condition.wait_for(lambda: self._inbox.jobs or self._closed)
            return self._inbox.jobs.popleft() if self._inbox.jobs else None

    def jobs(self, seconds: float) -> tuple[Job, ...] | None:
        with self._condition:
            if seconds > 0:
                self._condition.wait_for(lambda: self._inbox.jobs or self._closed, seconds)
            return None if self._closed else self._inbox.all_jobs()

    def report(self, report: Report, *, urgent: bool) -> None:
        self.send((report,), (), urgent=urgent)

    def emit(self, event: Said) -> None:
        self.send((), (event,), urgent=False)

    def send(self, reports: Sequence[Report], said: Sequence[Said], *, urgent: bool) -> None:
        with self._condition:
            if not self._reports:
                self._since = time.monotonic()
            self._reports += reports
            late = bool(reports) and time.monotonic() - self._since > FLUSH_SECONDS
            if said:
                self._pack()
                self._out += said
            for event in said:
                if isinstance(event, End):
                    self._inbox.forget(event.trial)
                # Whoever says how many trials it can take waits for them, and all wait for the pre-flight.
                urgent = urgent or isinstance(event, End | Slots | Checked)
            if urgent or late:
                self._urgent = True
                self._condition.notify_all()

    def decision(self, trial: int, step: int) -> Decision:
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._inbox.decided(trial, step))
            return self._inbox.last(trial) or Decision(trial, step, stop=True)

    def decided(self, trial: int, step: int) -> Decision | None:
        return self._inbox.decided(trial, step)

    def stopped(self, trial: int) -> bool:
        decision = self._inbox.last(trial)
        return self._closed or (decision is not None and decision.stop)

    def suspended(self, trial: int) -> bool:
        return self._inbox.suspended(trial)

    def _pack(self) -> None:
        if self._reports:
            self._out.append(Reported(self._worker, tuple(self._reports)))
            self._reports = []


class InlineChannel:
    """A channel within one thread: every event is handled before the engine goes on, so that pdb sees it all."""

    def __init__(self, worker: str, deliver: Callable[[list[Emitted]], None]) -> None:
        self._worker = worker
        self._deliver = deliver
        self._inbox = _Inbox()

    def put(self, messages: tuple[Message, ...]) -> None:
        self._inbox.put(messages)

    def next_job(self) -> Job | None:
        return self._inbox.jobs.popleft() if self._inbox.jobs else None

    def jobs(self, seconds: float) -> tuple[Job, ...] | None:
        """Return the jobs that are there; nobody could bring one while this waits."""
        return self._inbox.all_jobs()

    def report(self, report: Report, *, urgent: bool) -> None:
        self.send((report,), (), urgent=urgent)

    def emit(self, event: Said) -> None:
        self.send((), (event,), urgent=False)

    def send(self, reports: Sequence[Report], said: Sequence[Said], *, urgent: bool) -> None:
        for event in said:
            if isinstance(event, End):
                self._inbox.forget(event.trial)
        events: list[Emitted] = [Reported(self._worker, tuple(reports))] if reports else []
        self._deliver(events + list(said))

    def decision(self, trial: int, step: int) -> Decision:
        return self._inbox.last(trial) or Decision(trial, step, stop=True)

    def decided(self, trial: int, step: int) -> Decision | None:
        return self._inbox.decided(trial, step)

    def stopped(self, trial: int) -> bool:
        decision = self._inbox.last(trial)
        return decision is not None and decision.stop

    def suspended(self, trial: int) -> bool:
        return self._inbox.suspended(trial)


def geometry(setup: WorkerSetup) -> dict[str, str]:
    """Say on what a trial's bits may depend besides its config: engine, device, threads and versions.

    The engine of a recipe is "solo" until one that trains it as a lane says more.
    """
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


def run_one_by_one(setup: WorkerSetup, channel: Channel, worker: str) -> None:
    """Train the jobs of `channel` one after another until there are no more."""
    while (job := channel.next_job()) is not None:
        run_job(setup, channel, worker, job)


def run_job(setup: WorkerSetup, channel: Channel, worker: str, job: Job) -> None:
    """Train one trial to its end; whatever it raises ends this trial alone."""
    faults.begins(job.trial)
    try:
        if setup.trainable is None:
            model = _train_recipe(setup, channel, job)
        else:
            model = _call_function(setup, channel, job)
    except function.TrialStopped:
        model = None
    except BaseException as error:  # sys.exit and the like must fail the trial, too.
        channel.emit(failure(worker, job, error))
        return
    channel.emit(Finished(worker, job.trial, job.attempt, model))


def failure(worker: str, job: Job, error: BaseException) -> Failed:
    """Return what a trial that raised says of it; raises `KeyboardInterrupt` when it is the user who wants out."""
    if isinstance(error, KeyboardInterrupt | bdb.BdbQuit):
        # Of an inline trial, or of its debugger.
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt from None
        error = KeyboardInterrupt()
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    cause = f"{type(error).__name__}{place}"
    return Failed(worker, job.trial, reason_of(error), _whole_text(error), job.attempt, cause)


def reason_of(error: BaseException) -> str:
    """Return one line on an error that ended a trial, which says so where there was not memory enough."""
    return f"out of memory: {one_line(error)}" if is_out_of_memory(error) else one_line(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not memory enough, on a GPU or for PyTorch's or Python's allocator on the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in one_line(error) for word in words)


def one_line(error: BaseException) -> str:
    """Return the error's type and the first line of its text, at most 300 characters."""
    try:
        text = str(error).strip().splitlines()
    except Exception:
        text = []  # Of an error that cannot say itself.
    line = f"{type(error).__name__}: {text[0]}"[:300] if text else type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _whole_text(error: BaseException) -> str:
    """Return an error's traceback, of a long one the two ends, in letters that every store takes."""
    text = "".join(traceback.format_exception(error))
    if len(text) > MAX_TRACEBACK:
        half = MAX_TRACEBACK // 2
        text = f"{text[:half]}\n... {len(text) - MAX_TRACEBACK:,} characters are left out ...\n{text[-half:]}"
    return text.replace("\0", "?").encode("utf-8", "backslashreplace").decode()


@dataclass(slots=True)
class Pace:
    """Which report of a trial must wait for its decision, and which decision is still out (`due`: on that step)."""

    channel: Channel
    trial: int
    decide_from: int | None
    due: int | None = None
    # Steps after it that were reported meanwhile, as only those that are made again are.
    _later: list[int] = field(default_factory=list)

    def note(self, step: int) -> bool:
        """Take note that a step is reported; return whether its decision is waited for."""
        urgent = self.decide_from is not None and step >= self.decide_from
        if self.due is not None:
            self._later.append(step)
        elif urgent:
            self.due = step
        return urgent

    def send(self, report: Report) -> None:
        self.channel.report(report, urgent=self.note(report.step))

    def settle(self) -> bool:
        """Wait for the decision that is out, if any; return whether to stop."""
        while self.due is not None:
            self._take(self.channel.decision(self.trial, self.due))
        return self.channel.stopped(self.trial)

    def look(self) -> bool:
        """Take the decision that is out, if it has come; return whether none is out."""
        while self.due is not None and (decision := self.channel.decided(self.trial, self.due)) is not None:
            self._take(decision)
        return self.due is None

    def _take(self, decision: Decision) -> None:
        later = [] if decision.stop else [step for step in self._later if step > decision.step]
        self.due, self.decide_from, self._later = None, decision.decide_from, []
        for step in later:
            self.note(step)


def _train_recipe(setup: WorkerSetup, channel: Channel, job: Job) -> bytes | None:
    from swathe.training.alone import alone
    from swathe.training.diagnose_facts import dataset_facts
    from swathe.training.own_source import source_tags
    from swathe.training.recipe import recipe_from_config

    solo = alone(recipe_from_config(job.config), setup.device, setup.data, layers=setup.layers)
    data = solo.dataset
    facts = recipe_facts(solo.recipe, dataset_facts(data), solo.steps, setup.metric)
    diagnosis = TrialDiagnosis(setup.diagnosis, facts)
    dataset = {"swathe.dataset": data.name, "swathe.dataset_digest": data.digest, **source_tags(solo.recipe, data)}
    channel.emit(Note(job.trial, {**dataset, **fact_tags(facts)}))
    pace = Pace(channel, job.trial, job.decide_from)
    metrics: Mapping[str, float] = {}
    # The next epoch begins while the decision on the last one is under way.
    for epoch, metrics, seconds in solo.reports(should_stop=lambda: channel.stopped(job.trial)):
        if pace.settle():
            return None
        metrics = setup.reported(metrics, solo.size)
        report = diagnosis.judge(Report(job.trial, epoch, metrics, seconds, time.time()))
        pace.send(report)
        if reaches_target(setup, metrics):
            # The sweep ends with this report, and its winner's model is the one that made it.
            return serialise(solo.state_dict())
        if report.ends is Action.STOP:
            return None
        if report.ends is not None:
            break
    if pace.settle() or not is_better(setup, metrics.get(setup.metric), job.best):
        return None
    return serialise(solo.state_dict())


def is_better(setup: WorkerSetup, value: float | None, best: float | None) -> bool:
    """Whether a value of the sweep's metric is better than the best one, where each may be missing."""
    if value is None or value != value:
        return False
    if best is None:
        return True
    return value < best if setup.direction is Direction.MINIMIZE else value > best


def reaches_target(setup: WorkerSetup, metrics: Mapping[str, float]) -> bool:
    """Whether these metrics end the sweep."""
    value = metrics.get(setup.metric)
    if setup.target is None or value is None:
        return False
    if not kept(setup.constraints, metrics):
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
    """What a function's calls reach; `restored`: the state that it goes on from."""

    setup: WorkerSetup
    info: function.TrialInfo
    pace: Pace
    since: float
    diagnosis: TrialDiagnosis
    checkpoints: Checkpoints
    facts: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: History = field(default_factory=History)
    restored: Any = None
    # Whether it has asked for a checkpoint since it began, and so will after its next report; whether it is to end
    # there.
    keeps: bool = False
    suspending: bool = False

    @property
    def metric(self) -> str:
        return self.setup.metric

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        seconds = time.perf_counter() - self.since
        self.metrics = metrics
        report = self.diagnosis.judge(Report(self.info.number, step, metrics, seconds, time.time()))
        self.history.add(report)
        self.pace.send(report)
        stop = self.pace.settle() or report.ends is not None or reaches_target(self.setup, metrics)
        self.since = time.perf_counter()
        if not stop or self.suspending or not (self.keeps and self.pace.channel.suspended(self.info.number)):
            return stop
        self.suspending = True
        return False

    def checkpoint_due(self) -> bool:
        self.keeps = self.checkpoints.enabled and self.history.last_step is not None
        return self.suspending or (self.keeps and self.checkpoints.due(self.info.number))

    def checkpoint(self, state: Any) -> bool:
        if not self.checkpoint_due():
            return False
        # A module can be called, too.
        kept = self._save(state() if inspect.isroutine(state) else state)
        if self.suspending:
            raise function.TrialStopped
        return kept

    def _save(self, state: Any) -> bool:
        number = self.info.number
        try:
            said = self.checkpoints.save(number, self.facts, lambda: self.history.checkpoint(self.diagnosis, state))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise SwatheError(
                f"swathe.checkpoint: state: {type(state).__name__} is not allowed; allowed: what can be pickled "
                f"({one_line(error)})."
            ) from error
        if said:
            self.pace.channel.emit(Note(number, {NOTE: said}))
        return not said

    def restore(self) -> Any:
        return self.restored

    def resume(self, counted: int | None) -> bool:
        """Make the reports of the trial's last checkpoint again, if it has one; return whether to stop after them."""
        found = self.checkpoints.load(self.info.number, self.facts.__eq__, counted)
        if found is None:
            return False
        _, checkpoint = found
        self.diagnosis, self.restored, self.history = checkpoint.diagnosis, checkpoint.state, History(checkpoint)
        self.pace.channel.emit(Note(self.info.number, {RESUMED: str(self.history.last_step)}))
        for report in checkpoint.again(counted):
            self.metrics = report.metrics
            self.pace.send(report)
        return self.pace.settle()


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
    diagnosis = TrialDiagnosis(setup.diagnosis, Facts(objective=setup.metric))
    pace, checkpoints = Pace(channel, job.trial, job.decide_from), setup.checkpoints()
    drawn = {"params": job.config.get("params", {}), "seed": info.seed, "trainable": setup.trainable}
    facts = {"trial": digest(drawn)}
    session = _FunctionSession(setup, info, pace, time.perf_counter(), diagnosis, checkpoints, facts)
    checkpoints.begin(job.trial)
    try:
        if session.resume(job.counted):
            return None
        function.install(session, session.history.last_step)
        with surroundings.kept(info.seed):
            # Of the thread that trains, as the number of threads is.
            set_threads(setup.threads)
            result = train(Params(job.config.get("params", {})))
    finally:
        function.install(None)
        checkpoints.end(job.trial, stopped=channel.stopped(job.trial), suspended=channel.suspended(job.trial))
    if hasattr(result, "state_dict") and is_better(setup, session.metrics.get(setup.metric), job.best):
        return serialise(result.state_dict())
    return None
