"""The loop that carries the controller's commands to the pool, the study and the recorder, and events back."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Protocol

import yaml

from swathe import beginning, checkpoints, held_models, population, population_sweep, pruners
from swathe.annotations import MLFLOW_NOTE, NOTE_TAG, checked_tags
from swathe.cluster import ClusterPlan, InlinePool, Pool, PoolEvent, RayPool
from swathe.config import ComposedSweep
from swathe.controller import ALONE, Budget, Controller
from swathe.diagnosis import TAG, Rule, count_symptoms, counts_text, finding_tags, rule_of, symptoms_of
from swathe.enqueued import Inbox
from swathe.errors import BadInputError, PreflightError
from swathe.events import (
    Ask,
    Assign,
    Assignment,
    Command,
    Config,
    Decide,
    Direction,
    Done,
    Event,
    Hold,
    Keep,
    Kill,
    Record,
    Reported,
    Settle,
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
from swathe.failures import CAUSE
from swathe.home import Home, SweepCard, SweepFolder, write_aside
from swathe.objectives import Goal, Losses
from swathe.occupancy import Occupancy
from swathe.overview import LATEST, Progress, Session
from swathe.points import Point, points
from swathe.preflight_task import PreflightTask, remembered
from swathe.repetition import POINT_TAG
from swathe.schema import SweepOptions
from swathe.space import Space, TrialComposer
from swathe.study import Foretold, PastTrial, Study
from swathe.tracking import Recorder, Summary, SweepRecord, is_known, shown
from swathe.training.diagnose import Finding
from swathe.training.recipe import PARAMETERS, recipe_from_config
from swathe.training.structure import is_structural, structural_key
from swathe.training.verdict import Verdict
from swathe.worker import Checked, Job, LaneUse, Note, WorkerSetup

POLL_SECONDS = 0.25
# One fsync for everything that happened in so long a time (seconds): the study's group commit.
COMMIT_SECONDS = 0.05
# How full the lanes are is recorded about so often (seconds).
OCCUPANCY_SECONDS = 1.0
# How often the study hears of the session's pace and use of its devices (seconds).
SESSION_SECONDS = 1.0
# How long the end of a sweep waits for MLflow; what is missing then stays in the spool for the next launch.
RECORD_SECONDS = 120.0
# The tag that says on what a trial's bits depend, and what its study has of the program, and of worker, lane and time.
GEOMETRY, PROGRAM, PLACE = "swathe.geometry", "program", "place"
# Trials drawn under one structural choice, at most: about as many lanes as a block of small networks has.
MAX_GROUP = 16


class View(Protocol):
    """Shows a sweep to the user while it runs."""

    def show(self, progress: Progress) -> None: ...
    def say(self, message: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session of a sweep ended."""

    reason: str
    failed: bool
    interrupted: bool
    seconds: float
    first_step_seconds: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep that was composed and found good, ready to run."""

    composed: ComposedSweep
    space: Space
    composer: TrialComposer
    folder: SweepFolder
    card: SweepCard


def trial_seed(seed: int, number: int) -> int:
    """Return a trial's seed, 31 bits: splitmix64 (Steele et al. 2014) of the sweep's seed and the trial's number."""
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + (number + 1) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 33


def trial_config(composer: TrialComposer, params: Mapping[str, Value], number: int) -> Config:
    """Return the whole config of a trial: the composed one, with the trial's own seed unless the space draws it."""
    config = composer.trial_config(params)
    if "seed" not in params:
        config["seed"] = trial_seed(int(config["seed"]), number)
    return config


def structure_of(plan: Plan) -> Callable[[Mapping[str, Value]], str]:
    """Return what gives a trial's structural key from its parameters: trials with one key can share a block of lanes.

    It says nothing of whether they should: a worker that trains a key's trials better alone has one slot for it.
    """

    def key(params: Mapping[str, Value]) -> str:
        try:
            recipe = recipe_from_config(plan.composer.trial_config(params))
        except BadInputError:
            return ALONE  # Values that are allowed, but not together: the worker refuses them, and says why.
        return sys.intern(structural_key(recipe))

    # A population has its worker to itself.
    return key if _may_lane(plan.composed) and plan.composed.population is None else lambda params: ALONE


def group_size(composed: ComposedSweep) -> int:
    """Return how many consecutive trials are drawn under one structural choice, so that blocks of lanes fill."""
    if composed.population is not None:
        return composed.population.size
    if not _may_lane(composed):
        return 1
    # At least 20 structural choices in a sweep, as far as its trials reach: fewer would search them too little.
    size = composed.sweep.group_ask or max(1, min(MAX_GROUP, composed.sweep.trials // 20))
    # All repeats of a point, which have all of their parameters in common.
    return max(composed.sweep.repeats, size - size % composed.sweep.repeats)


def shared_parameters(composed: ComposedSweep, space: Space) -> frozenset[str]:
    """Return the parameters that the trials of a group have in common."""
    return structural_parameters(space) if composed.population is None else population_sweep.shared(space)


def structural_parameters(space: Space) -> frozenset[str]:
    """Return the parameters of a space that can change a trial's structural key."""
    # Where an option of one group changes keys outside of the group, every swapped group may change the structure.
    return frozenset(
        name
        for name, parameter in space.parameters.items()
        if is_structural(name) or (parameter.group and not space.separable)
    )


def _may_lane(composed: ComposedSweep) -> bool:
    return composed.values.get("trainable") is None and composed.lanes.slots != 1


def trial_name(number: int, params: Mapping[str, Value]) -> str:
    """Return a run's readable name, such as `0012 adamw lr=0.0031 batch_size=64`; at most 120 characters."""
    words = []
    for key, value in params.items():
        short = key.rsplit(".", 1)[-1]
        text = f"{value:.2g}" if isinstance(value, float) else str(value)
        words.append(text if isinstance(value, str) and "." not in key else f"{short}={text}")
    return " ".join([f"{number:04d}", *words])[:120]


def prepare(composed: ComposedSweep, space: Space, home: Home, command: str) -> Plan:
    """Find the sweep's folder and refuse what must not be continued; nothing is started or written yet.

    `command` is what the user types to launch it, and to go on with it.
    """
    folder = home.sweep(composed.name)
    population_sweep.check(composed, space)
    beginning.check(composed, space, home, folder)
    past = folder.card()
    # A sweep that has a journal goes on with it, whatever the environment says by now.
    storage = composed.sweep.storage or (None if past is not None and past.storage is None else home.storage)
    uri = composed.tracking.uri or home.tracking_uri
    goal = composed.goal
    card = SweepCard(
        name=composed.name,
        identity=composed.identity,
        storage=storage,
        tracking_uri=uri,
        experiment=composed.tracking.experiment or composed.name,
        metric=goal.first.metric,
        direction=goal.first.direction.value,
        trials=composed.sweep.trials,
        command=command,
        created=time.time(),
        metrics=goal.metrics if goal.several else (),
        directions=tuple(one.value for one in goal.directions) if goal.several else (),
        constraints=dict(composed.sweep.constraints),
        repeats=composed.sweep.repeats,
        repeats_of=composed.sweep.repeats_of,
    )
    if past is not None and past.identity != card.identity:
        raise BadInputError(
            f"sweep.name: {card.name!r} is not allowed; allowed: a name that is not taken, since a sweep of that name "
            f"with another config is in {folder.path}; choose one with sweep.name=..."
        )
    if past is not None and past.storage != card.storage:
        raise BadInputError(
            f"sweep.storage: {card.storage!r} is not allowed; allowed: {past.storage!r}, where this sweep's trials are."
        )
    return Plan(composed, space, TrialComposer(composed, space), folder, card)


def run(plan: Plan, home: Home, view: View, preflight: PreflightTask | None = None) -> Outcome:
    """Run a sweep, or go on with it, until its budget is used, it is stopped or it fails.

    `preflight`: what is tried before the first trial, unless its verdict is known. Raises `BadInputError` where that
    refuses the sweep, of which then nothing is left that a corrected one could not be launched over.
    """
    if preflight is not None and (known := remembered(preflight)) is not None:
        _say_or_refuse(plan, known, view.say)
        preflight = None
    # Inline, a trial that never reports cannot be told to stop: there the second press ends it as in any program.
    patience = 2 if plan.composed.cluster.kind == "inline" else 3
    with plan.folder.drive(), _Interrupts(patience) as interrupts:
        session = _Session(plan, home, view, interrupts, preflight)
        try:
            return session.run()
        except PreflightError:
            if session.new:
                shutil.rmtree(plan.folder.path)
            raise


def _say_or_refuse(plan: Plan, verdict: Verdict, say: Callable[[str], None]) -> None:
    """Say what is not well, a line each; raise `PreflightError` for errors, unless the sweep is to go on even so."""
    refused = verdict.errors if plan.composed.preflight.refuse else ()
    for remark in verdict.remarks:
        if remark not in refused:
            say(f"Pre-flight, {remark.subject}: {remark.text}")
    if refused:
        said = " ".join(error.text for error in refused)
        raise PreflightError(
            f"Pre-flight, {refused[0].subject}: {said} To launch {plan.card.name} all the same: preflight.refuse=false."
        )


class _Interrupts:
    """Counts SIGINT and SIGTERM instead of raising in the middle of a write, `patience - 1` times."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._before = {number: signal.getsignal(number) for number in self._SIGNALS}
        self.presses = 0

    def __enter__(self) -> _Interrupts:
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals; once more after Ray has started, which takes SIGTERM for itself."""
        for number in self._SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.presses += 1
        if self.presses >= self._patience:
            raise KeyboardInterrupt

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class _Live:
    """What the runtime knows of a trial that is on a worker."""

    params: Mapping[str, Value]
    worker: str
    tags: dict[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    # By the steps at which they were found.
    findings: list[tuple[int, Finding]] = field(default_factory=list)
    # When it got its worker (seconds of unix time), and whether the study knows where and when.
    began: float = 0.0
    placed: bool = False

    @property
    def place(self) -> str:
        """The worker, its lane where it has lanes, and since when, as JSON."""
        lane = self.tags.get("swathe.lane", "").rpartition("/")[2]
        return json.dumps({"worker": self.worker, "lane": int(lane) if lane else None, "began": self.began})

    def found(self, step: int | None) -> list[Finding]:
        """Return what was found up to the last step that counts."""
        return [finding for at, finding in self.findings if step is not None and at <= step]


class _Session:
    def __init__(
        self, plan: Plan, home: Home, view: View, interrupts: _Interrupts, preflight: PreflightTask | None
    ) -> None:
        composed = plan.composed
        self._interrupts = interrupts
        self._answered = 0
        options = composed.sweep
        self._plan = plan
        self._view = view
        self._started = time.monotonic()
        self._committed = 0.0
        self._measured = 0.0
        self._occupancy = Occupancy()
        self._said: set[str] = set()
        self._shown = 0.0
        self._told = 0.0
        self._diagnosed: deque[tuple[int, tuple[str, ...]]] = deque(maxlen=LATEST)
        # The wall time of the budget counts from the first worker that is ready: starting Ray is not the sweep's time.
        self._ready: float | None = None
        # While the pre-flight's verdict is out, workers that are ready wait here.
        self._preflight = preflight
        self._held: list[WorkerReady] = []
        self._first_step: float | None = None
        self._done: Done | None = None
        self._live: dict[int, _Live] = {}
        self._params: dict[int, Mapping[str, Value]] = {}
        # Trials that are left for a later session.
        self._suspended: set[int] = set()
        self._goal = composed.goal
        # What the config says of every run.
        self._tags = checked_tags(options.tags)
        self._repetition = composed.repetition
        self._metric, self._direction = self._goal.first.metric, self._goal.first.direction
        begins = beginning.beginning(composed, plan.space, home, plan.folder)
        _write_plan(plan)
        self._log = plan.folder.log_file.open("a", buffering=1)
        # Lines on trials that are over, for when the study has them.
        self._ended: list[str] = []
        # The recorder's own process imports MLflow while this one opens the study and starts Ray.
        self._recorder = Recorder.start(plan.folder.path, _sweep_record(plan, home))
        try:
            self._study = Study.open(
                plan.card.name,
                folder=plan.folder.path,
                storage=plan.card.storage,
                direction=self._direction,
                sampler=composed.sampler,
                space=plan.space,
                seed=options.seed,
                group=group_size(composed),
                structural=shared_parameters(composed, plan.space).__contains__,
                others=self._goal.directions[1:],
                points=begins.points,
                known=begins.known,
                repetition=self._repetition,
            )
        except BaseException:
            self._recorder.close(0.0)
            raise
        if self._study.warning is not None:
            self._say(self._study.warning)
        if begins.said:
            self._say(begins.said)
        self._inbox = Inbox(plan.folder.path, plan.space)
        self._take_points()
        history = self._study.history()
        self.new = not history
        known = {past.number: past for past in history}
        # Which program has trained the trials that are not over.
        self._programs = {
            past.number: str(past.attrs[PROGRAM]) for past in history if PROGRAM in past.attrs and not past.state.final
        }
        self._populations = None
        if composed.population is not None:
            config_of = partial(trial_config, plan.composer)
            self._populations = population_sweep.Populations(composed, plan.space, self._study.params, config_of)
        self._recorder.recall(lambda record: is_known(record, known))
        for number, end in self._study.made_up.items():
            self._recorder.end(number, end.state, end.tags, time.time())
            self._ended.append(_end_line(number, end.tags["swathe.state"], end.value, self._metric))
        self._controller = Controller(
            metric=self._metric,
            direction=self._direction,
            pruner=pruners.build(composed.pruner, self._direction, plan.card.name),
            budget=Budget(
                options.trials,
                options.epochs,
                options.wall_time,
                options.device_seconds,
                options.target,
                options.patience,
                options.min_improvement,
            ),
            retries=options.retries,
            trial_timeout=options.trial_timeout,
            max_failures=options.max_failures,
            ask_ahead=options.ask_ahead,
            key=structure_of(plan),
            population=1 if composed.population is None else composed.population.size,
            history=history,
            others=self._goal.objectives[1:],
            constraints=self._goal.constraints,
            repetition=self._repetition,
        )
        if self._repetition.several:
            # What is left of a point that is out may be told before it has a worker.
            self._params = {past.number: past.params for past in history if not past.state.final}
            self._settle_models(history)
        self._symptoms = count_symptoms(past.attrs.get("diagnosis") for past in history if past.state.final)
        self._epochs_before = self._controller.epochs
        self._over_before = sum(self._controller.counts.values())
        best = self._controller.best
        self._best_params = {past.number: past.params for past in history if best and past.number == best[0]}
        kept = composed.checkpoints.folder
        self._checkpoints = plan.folder.checkpoints if kept is None else Path(kept).absolute() / plan.card.name
        checkpoints.discard_others(self._checkpoints, self._controller.live)
        self._pool = self._make_pool(home)

    def _make_pool(self, home: Home) -> Pool:
        composed = self._plan.composed
        cluster = composed.cluster
        setup = WorkerSetup(
            trainable=composed.values.get("trainable"),
            metric=self._metric,
            direction=self._direction,
            home=str(home.path),
            import_paths=(os.getcwd(),),
            device="cpu",
            threads=1,
            target=None if self._repetition.several else composed.sweep.target,
            repeated=self._repetition.several,
            slots=composed.lanes.slots if composed.population is None else composed.population.size,
            compile=composed.lanes.compile,
            memory_fraction=composed.lanes.memory_fraction,
            diagnosis=self._rule(),
            preflight=self._preflight,
            layers=composed.values["diagnosis"]["layers"] == "all",
            constraints=self._goal.constraints,
            parameters=PARAMETERS in self._goal.names,
            checkpoint_folder=str(self._checkpoints),
            checkpoint_seconds=composed.checkpoints.seconds,
        )
        plan = ClusterPlan(
            address=cluster.address,
            workers=cluster.workers,
            cpus_per_worker=cluster.cpus_per_worker,
            gpus_per_worker=cluster.gpus_per_worker,
            threads_per_worker=cluster.threads_per_worker,
            memory_per_worker=cluster.memory_per_worker,
            device=composed.values.get("device", "auto"),
        )
        if cluster.kind == "inline":
            return InlinePool(plan, setup, self._take_and_attend)
        return RayPool(plan, setup, self._plan.folder.faults)

    def _rule(self) -> Rule | None:
        """Return how trials are diagnosed: what ends no member of a population, whose worst ones become others."""
        rule = rule_of(self._plan.composed.values["diagnosis"])
        return rule if rule is None or self._populations is None else replace(rule, stop=False)

    # The loop.

    def run(self) -> Outcome:
        try:
            self._handle(Tick(0.0))
            if self._done is None:
                card = self._plan.card
                self._say(f"Sweep {card.name}: {card.trials} trials; starting workers ...")
                self._handle(WorkersStart(self._pool.start()))
                self._interrupts.listen()
            while self._done is None:
                self._take_and_attend(self._pool.poll(POLL_SECONDS))
            return self._end(self._done)
        except PreflightError as error:
            self._discard(error)
            raise
        except BaseException:
            try:
                self._commit()
            finally:
                # Also where the disk takes nothing more.
                self._recorder.close(5.0)
            raise
        finally:
            self._pool.close()
            self._study.close()
            self._log.close()

    def _take_and_attend(self, events: Sequence[PoolEvent]) -> None:
        """Take events in, then look at everything else: time, the user, the stores, the view."""
        self._take_points()
        self._take(events)
        if self._ready is not None:
            self._handle(Tick(time.monotonic() - self._ready))
        presses = self._interrupts.presses
        if presses > self._answered or self._plan.folder.stop_file.exists():
            self._answered = presses
            self._ask_to_stop(at_once=presses > 1)
        self._flush()
        self._show()

    def _take_points(self) -> None:
        """Let the next trials try what `swathe enqueue` has left."""
        for point in self._inbox.new(self._say):
            if point.id not in self._study.taken:
                self._say(f"To be tried next: {', '.join(f'{name}={value}' for name, value in point.values.items())}")
                self._study.enqueue(point)

    def _ask_to_stop(self, *, at_once: bool) -> None:
        if not self._controller.ending or at_once:
            self._say("Stopping now." if at_once else "Stopping: recording what runs; ^C again to stop at once.")
        self._plan.folder.stop_file.unlink(missing_ok=True)
        self._handle(StopAsked(at_once))

    def _take(self, events: Sequence[PoolEvent]) -> None:
        for event in events:
            match event:
                case Note():
                    self._note(event)
                case Checked(verdict):
                    self._note_verdict(verdict)
                case WorkerReady() if self._preflight is not None:
                    self._held.append(event)
                case LaneUse():
                    self._occupancy.take(event, self._controller.epochs - self._epochs_before)
                case _:
                    if isinstance(event, WorkerLost):
                        self._occupancy.forget(event.worker)
                    self._handle(event)

    def _note(self, note: Note) -> None:
        if note.trial in self._live:
            self._live[note.trial].tags.update(note.tags)
        # The same for many trials, and worth a line once.
        for sentence in (note.tags.get(tag) for tag in ("swathe.lane_note", checkpoints.NOTE)):
            if sentence is not None and sentence not in self._said:
                self._said.add(sentence)
                self._say(sentence)

    def _note_verdict(self, verdict: Verdict) -> None:
        """Let the workers that are ready begin, or refuse the sweep; the first verdict counts, all are the same."""
        if self._preflight is None:
            return
        self._preflight = None
        _say_or_refuse(self._plan, verdict, self._say)
        held, self._held = self._held, []
        for event in held:
            self._handle(event)

    def _note_findings(self, event: Reported) -> None:
        """Keep what was found, also at a report that a second attempt makes again and that counts no more."""
        for report in event.reports:
            live = self._live.get(report.trial) if report.findings else None
            if live is not None and live.worker == event.worker:
                live.findings += ((report.step, finding) for finding in report.findings)

    def _handle(self, event: Event) -> None:
        if isinstance(event, WorkerReady) and self._ready is None:
            self._ready = time.monotonic()
        if isinstance(event, Reported) and self._first_step is None:
            self._first_step = time.monotonic() - self._started
        if isinstance(event, Reported):
            self._note_findings(event)
        waiting: deque[Command] = deque(self._controller.handle(event))
        while waiting:
            command = waiting.popleft()
            match command:
                case Ask(count):
                    # What was drawn ahead goes out first: no worker waits while others' points are drawn.
                    self._pool.flush()
                    proposed = self._study.ask(count)
                    self._params.update((proposal.trial, proposal.params) for proposal in proposed.proposals)
                    waiting.extend(self._controller.handle(proposed))
                case Assign(worker, assignments):
                    self._pool.send(worker, [self._job(worker, assignment) for assignment in assignments])
                case Decide(worker, decisions):
                    self._pool.send(worker, decisions)
                case Record():
                    self._record(command, waiting)
                case Tell():
                    self._tell(command)
                case Suspend(trial):
                    self._suspend(trial)
                case Kill(worker, reason):
                    self._say(f"{worker} is ended and its trials run again: {reason}.")
                    self._pool.kill(worker, reason)
                case Keep(trial, model):
                    held_models.keep(self._plan.folder, trial, model)
                case Hold(trial, model):
                    held_models.hold(self._plan.folder, self._repetition, trial, model)
                case Settle(trial, best):
                    held_models.settle(self._plan.folder, self._repetition, trial, best=best)
                case Done():
                    self._done = command

    def _flush(self) -> None:
        self._pool.flush()
        now = time.monotonic()
        if now - self._measured >= OCCUPANCY_SECONDS and (metrics := self._occupancy.metrics()):
            self._measured = now
            self._recorder.sweep(metrics, time.time())
        if now - self._committed >= COMMIT_SECONDS:
            self._commit()
            self._committed = now
        problem = self._recorder.problem()
        if problem is not None:
            self._say(problem)

    def _commit(self) -> None:
        # MLflow gets what the study has, whenever this process is killed: see `spool`.
        self._recorder.stage()
        self._study.commit()
        self._inbox.remove(self._study.taken)
        self._recorder.flush()
        # What the log says has happened outlives a kill of this process.
        self._log.write("".join(self._ended))
        self._ended.clear()

    def _stage(self) -> None:
        """Get ready for a write to the study that lasts at once."""
        if self._study.writes_at_once:
            self._recorder.stage()

    # Carrying out.

    def _job(self, worker: str, assignment: Assignment) -> Job:
        number, params = assignment.trial, assignment.params
        self._params.pop(number, None)
        config = trial_config(self._plan.composer, params, number)
        self._live[number] = _Live(params, worker, began=time.time())
        tags = {
            "swathe.worker": worker,
            "swathe.attempt": str(assignment.attempt),
            GEOMETRY: json.dumps(self._pool.geometry.get(worker, {})),
        }
        job = None if self._populations is None else self._populations.job(number)
        if job is not None:
            tags[population.PLAN] = population.plan_tag(job, number)
        self._begin_record(number, params, config, tags)
        best = self._controller.best
        known = None if best is None else best[1]
        if self._goal.several:
            # None is better: no model is kept.
            known = -math.inf if self._direction is Direction.MINIMIZE else math.inf
        program = None if assignment.step is None else self._programs.get(number)
        if job is not None:
            # One block has one program, and a second attempt that of the first.
            program = next((self._programs[one] for one in job.plan.numbers if one in self._programs), None)
        return Job(number, config, assignment.attempt, assignment.decide_from, known, assignment.step, program, job)

    def _begin_record(self, number: int, params: Mapping[str, Value], config: Config, tags: Mapping[str, str]) -> None:
        """Let the record of a trial begin, or begin again."""
        said = {**tags, **self._tags, "swathe.config": json.dumps(config)}
        if self._repetition.several:
            said[POINT_TAG] = str(self._repetition.head(number))
        logged = {**self._plan.composer.logged_params(params), "seed": config["seed"]}
        self._recorder.trial(number, trial_name(number, params), logged, said, time.time())

    def _record(self, command: Record, then: Iterable[Command]) -> None:
        for report in command.reports:
            self._live[report.trial].metrics = report.metrics
            self._recorder.metrics(report.trial, report.step, report.metrics, report.time)
        self._stage()
        if self._study.writes_at_once:
            self._foretell({report.trial: report.step for report in command.reports}, then)
        for report in command.reports:
            self._note_program(report.trial)
            self._note_place(report.trial)
            self._study.record(report.trial, report.step, report.metrics[self._metric])

    def _note_program(self, trial: int) -> None:
        """Write which program trains a recipe, once, as an attempt that begins anew is to have the same bits."""
        if trial in self._programs or self._plan.composed.values.get("trainable") is not None:
            return
        geometry = json.loads(self._live[trial].tags.get(GEOMETRY, "{}"))
        self._programs[trial] = program = geometry.get("program", "solo")
        self._study.note(trial, PROGRAM, program)

    def _note_place(self, trial: int) -> None:
        """Write where a trial runs and since when, once an attempt, for those who watch lanes fill and refill."""
        live = self._live[trial]
        if not live.placed:
            live.placed = True
            self._study.note(trial, PLACE, live.place)

    def _foretell(self, steps: Mapping[int, int], commands: Iterable[Command]) -> None:
        """Note the ends that come of reports before these: in a database, a kill may fall between the two."""
        for command in commands:
            if isinstance(command, Tell) and command.trial in steps:
                attrs, tags = self._end_facts(command, self._live[command.trial])
                step, broken = steps[command.trial], command.constraints
                end = Foretold(step, command.state, command.value, attrs, tags, broken)
                self._study.foretell(command.trial, end)

    def _end_facts(self, command: Tell, live: _Live) -> tuple[dict[str, Value], dict[str, str]]:
        """Return what the study and what MLflow keep of a trial's end."""
        attrs: dict[str, Value] = {"worker": live.worker}
        if command.reason:
            attrs["reason"] = command.reason
        if command.cause:
            attrs[CAUSE] = command.cause
        # Of an attempt that only said again what was recorded, what objectives and constraints name.
        if metrics := live.metrics or command.metrics:
            attrs["metrics"] = json.dumps(dict(metrics))
        found = finding_tags(live.found(command.step))
        if found:
            attrs["diagnosis"] = found[TAG]
        attrs |= {tag: live.tags[tag] for tag in (population.COPIES, population.LINEAGE) if tag in live.tags}
        if live.worker and not live.placed:
            attrs[PLACE] = live.place
        return attrs, {**live.tags, **found, "swathe.state": _state_tag(command)}

    def _tell(self, command: Tell) -> None:
        live = self._live.pop(command.trial, None) or self._unbegun(command.trial)
        self._programs.pop(command.trial, None)
        attrs, tags = self._end_facts(command, live)
        self._symptoms += count_symptoms([attrs.get("diagnosis")])
        if symptoms := symptoms_of(attrs.get("diagnosis")):
            self._diagnosed.appendleft((command.trial, symptoms))
        if command.traceback:
            self._recorder.text(command.trial, "traceback.txt", command.traceback)
        self._recorder.end(command.trial, command.state, tags, time.time())
        # By its worker, too, if that lives; which may be on another machine, or not have heard of it yet.
        checkpoints.discard(self._checkpoints, command.trial)
        self._stage()
        self._study.tell(
            command.trial,
            command.state,
            command.value,
            attrs,
            objectives=command.objectives,
            constraints=command.constraints,
        )
        best = self._controller.best
        if best is not None and self._repetition.head(best[0]) == self._repetition.head(command.trial):
            self._best_params = {best[0]: live.params}
        self._ended.append(_end_line(command.trial, tags["swathe.state"], command.value, self._metric))

    def _unbegun(self, trial: int) -> _Live:
        """Return what is known of a trial that is told before it had a worker, as its point is out."""
        params = self._params.pop(trial, {})
        if self._repetition.several:
            self._begin_record(trial, params, trial_config(self._plan.composer, params, trial), {})
        return _Live(params, "")

    def _settle_models(self, history: Sequence[PastTrial]) -> None:
        """See to models that are held for points which are over: the last driver may have died before it did."""
        known = points(history, self._repetition, self._direction)
        best = self._controller.best
        for trial in held_models.held(self._plan.folder):
            point = trial // self._repetition.count
            if point < len(known) and known[point].as_trial.state.final:
                is_best = best is not None and best[0] == trial
                held_models.settle(self._plan.folder, self._repetition, trial, best=is_best)

    def _suspend(self, trial: int) -> None:
        self._suspended.add(trial)
        self._params.pop(trial, None)
        live = self._live.pop(trial, None)
        if live is not None:
            self._recorder.end(trial, None, {**live.tags, "swathe.state": "interrupted"}, time.time())

    # Showing and ending.

    def _say(self, message: str) -> None:
        self._log.write(f"{_now()} {message}\n")
        self._view.say(message)

    def _progress(self) -> Progress:
        controller, best = self._controller, self._controller.best
        return Progress(
            name=self._plan.card.name,
            metric=self._metric,
            trials=self._plan.composed.sweep.trials,
            counts=Counter(controller.counts),
            running=controller.running,
            epochs=controller.epochs,
            elapsed=time.monotonic() - self._started,
            best=best,
            best_params=self._best_params.get(best[0], {}) if best else {},
            workers=len(self._pool.geometry),
            lanes=self._occupancy.now,
            diagnosis=self._symptoms,
            latest=tuple(self._diagnosed),
            begun=self._over_before,
            device_seconds=controller.device_seconds,
            cost=self._cost_text(),
            front=len(controller.front.members),
        )

    def _cost(self) -> float | None:
        price = self._plan.composed.cost.per_device_hour
        return None if price is None else price * self._controller.device_seconds / 3600

    def _cost_text(self) -> str:
        cost = self._cost()
        return "" if cost is None else f"{cost:.2f} {self._plan.composed.cost.currency}".rstrip()

    def _used(self) -> dict[str, float]:
        """Return what the session took of its devices, as the sweep's run in MLflow has it."""
        cost = self._cost()
        return {"device_seconds": self._controller.device_seconds, **({} if cost is None else {"cost": cost})}

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown >= POLL_SECONDS:
            self._shown = now
            self._view.show(self._progress())
        if now - self._told >= SESSION_SECONDS:
            self._told = now
            self._study.say(self._facts())

    def _facts(self) -> dict[str, object]:
        """Return what those who watch from elsewhere cannot know from the trials alone."""
        now = self._progress()
        return Session(
            at=time.time(),
            seconds=now.elapsed,
            begun=now.begun,
            running=now.running,
            workers=now.workers,
            epochs=now.epochs,
            lanes=now.lanes,
            device_seconds=now.device_seconds,
            cost=now.cost,
        ).as_dict()

    def _end(self, done: Done) -> Outcome:
        self._view.show(self._progress())
        self._study.say(self._facts())
        self._commit()
        self._recorder.finish(self._summary(done))
        # Ray takes a moment to end, in which the recorder makes its plots.
        self._pool.close()
        # A worker may have kept a trial that was over and died before it heard of that.
        checkpoints.discard_others(self._checkpoints, self._suspended)
        if not self._recorder.close(RECORD_SECONDS):
            late = "MLflow has not taken everything yet; the rest follows at the next launch."
            self._say(self._recorder.problem() or late)
        seconds = time.monotonic() - self._started
        ending = {"reason": done.reason, "failed": done.failed, "interrupted": done.interrupted}
        self._plan.folder.write_ending({**ending, "seconds": seconds})
        self._log.write(f"{_now()} ended: {done.reason}\n")
        return Outcome(done.reason, done.failed, done.interrupted, seconds, self._first_step)

    def _discard(self, error: PreflightError) -> None:
        """Leave a sweep that was refused before its first trial to MLflow alone: its name is to be free again."""
        self._recorder.finish(self._summary(Done(str(error), failed=True, interrupted=False)))
        self._recorder.close(RECORD_SECONDS)
        if self.new:
            self._study.discard()

    def _model_path(self, best: int | None) -> str | None:
        """Return the kept model's file, if it is the best trial's: a function need not return its model each time."""
        path = self._plan.folder.best_model
        try:
            facts = json.loads(path.with_suffix(".json").read_text())
        except FileNotFoundError:
            return None
        return str(path) if facts["trial"] == best else None

    def _summary(self, done: Done) -> Summary:
        card, best = self._plan.card, self._controller.best
        params = self._best_params.get(best[0], {}) if best else {}
        known = points(self._study.history(), self._repetition, self._direction) if self._repetition.several else []
        whole = [point for point in known if point.as_trial.state is TrialState.COMPLETE]
        point = next((one for one in whole if best is not None and one.as_trial.number == best[0]), None)
        front = self._controller.front.members
        return Summary(
            state="KILLED" if done.interrupted else "FAILED" if done.failed else "FINISHED",
            reason=done.reason,
            study_name=card.name,
            study_storage=card.storage,
            counts={state.value: count for state, count in self._controller.counts.items()},
            best_trial=best[0] if best and not front else None,
            best_value=best[1] if best and not front else None,
            best_params={} if front else dict(params),
            note_markdown=_note(self._plan, self._controller, params, self._symptoms, point),
            model_path=self._model_path(best[0] if best else None),
            metrics=self._occupancy.means(self._controller.epochs - self._epochs_before) | self._used(),
            front=tuple(front),
            best_values=_best_values(self._goal, front),
            best_repeats=() if point is None else tuple(point.values),
            best_std=None if point is None else point.std,
            points={number: one.tags for one in whole for number in one.values},
        )


def _write_plan(plan: Plan) -> None:
    # Written anew by each session: the budget and the cluster may have changed, the identity has not.
    plan.folder.write_card(plan.card)
    write_aside(plan.folder.config_file, _config_yaml(plan).encode())


def _config_yaml(plan: Plan) -> str:
    return shown(str(yaml.safe_dump(dict(plan.composed.values), sort_keys=False)))


def _sweep_record(plan: Plan, home: Home) -> SweepRecord:
    card = plan.card
    return SweepRecord(
        name=card.name,
        uri=card.tracking_uri,
        experiment=card.experiment,
        artifact_folder=str(home.artifacts),
        metric=card.metric,
        direction=card.direction,
        config_yaml=_config_yaml(plan),
        tags={"swathe.command": shown(card.command), **_said_by_user(plan.composed.sweep)},
        workdir=str(Path.cwd()),
        space=tuple(plan.space.parameters),
        others=card.metrics[1:],
        repeats=card.repeats,
        repeats_of=card.repeats_of,
    )


def _said_by_user(options: SweepOptions) -> dict[str, str]:
    """Return the tags of the sweep's own run that its config gives it, with the note."""
    note = options.note or ""
    return {**checked_tags(options.tags), **({NOTE_TAG: note, MLFLOW_NOTE: note} if note else {})}


def _best_values(goal: Goal, front: Mapping[int, Losses]) -> dict[str, float]:
    """Return the best value of each objective, which is on the front."""
    if not front:
        return {}
    # The loss of a loss is the value.
    by_objective = zip(*front.values(), strict=True)
    return {one.metric: one.loss(min(losses)) for one, losses in zip(goal.objectives, by_objective, strict=True)}


def _state_tag(command: Tell) -> str:
    if command.state is TrialState.FAILED:
        return f"failed: {command.reason}"
    if command.state is TrialState.PRUNED:
        return command.reason
    return str(command.state.value)


def _note(
    plan: Plan, controller: Controller, params: Mapping[str, Value], symptoms: Mapping[str, int], point: Point | None
) -> str:
    """Return the markdown note of the parent run: the best config and how to train it again."""
    card, best = plan.card, controller.best
    counts = ", ".join(f"{count} {state.value}" for state, count in controller.counts.items())
    lines = [f"# Sweep {card.name}", "", f"{sum(controller.counts.values())} trials: {counts}."]
    if symptoms:
        lines += ["", f"Diagnosis: {counts_text(symptoms)}."]
    goal, front = plan.composed.goal, controller.front.members
    if goal.constraints:
        lines += ["", f"Constraints: {', '.join(map(str, goal.constraints))}."]
    if front:
        lines += ["", "The trials that no other dominates. Train them again and compare every number:"]
        lines += ["", f"    swathe reproduce {card.name}", "", f"| trial | {' | '.join(goal.metrics)} |"]
        lines += ["|---" * (1 + len(goal.metrics)) + "|"]
        for number, losses in sorted(front.items(), key=lambda one: one[1]):
            lines.append(f"| {number} | {' | '.join(f'{value:.6g}' for value in goal.losses(losses))} |")
    elif best is not None:
        # The command comes first: MLflow folds a long note.
        what = f"trial {best[0]}, {card.metric} {best[1]:.6g}"
        if point is not None and (repeats := point.shown(plan.composed.repetition)) is not None:
            what += f", {repeats.words}"
        lines += ["", f"Best: {what}. Train it again and compare every number:"]
        lines += ["", f"    swathe reproduce {card.name}", "", "| parameter | value |", "|---|---|"]
        lines += [f"| `{key}` | {value} |" for key, value in params.items()]
        if plan.composed.population is not None:
            lines += ["", f"With these values it began, as one of a population; `swathe best {card.name}` says more."]
    return "\n".join(lines) + "\n"


def _end_line(trial: int, state: str, value: float | None, metric: str) -> str:
    """Return the log's line on a trial that is over."""
    return f"{_now()} trial {trial} {state}{'' if value is None else f' {metric}={value:.6g}'}\n"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
