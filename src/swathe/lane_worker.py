"""The engine of a worker that trains recipes: as lanes of blocks, refilled as soon as a trial ends.

Of each structural key there are two blocks, each with half of the lanes: while the decisions on the reports of one are
under way the other trains, so that nothing waits and no epoch is trained in vain.
"""

from __future__ import annotations

import copy
import gc
import itertools
import json
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from swathe import __version__
from swathe.checkpoints import NOTE, RESUMED, Checkpoint, History, digest
from swathe.diagnosis import TrialDiagnosis, fact_tags, recipe_facts
from swathe.errors import BadInputError
from swathe.events import Finished, Report, Slots
from swathe.population import KEY, PopulationJob
from swathe.population_block import PopulationBlock
from swathe.preflight_task import settle
from swathe.training import lane_plan
from swathe.training.alone import alone
from swathe.training.beside import beside
from swathe.training.data import Dataset
from swathe.training.diagnose import Action, Facts
from swathe.training.diagnose_facts import dataset_facts
from swathe.training.lane_plan import BLOCKS, LanePlan
from swathe.training.lanes import LaneBlock, LaneReport
from swathe.training.own_source import source_of, source_tags
from swathe.training.progress import SoloState
from swathe.training.recipe import Recipe, recipe_from_config
from swathe.training.structure import structural_key
from swathe.worker import (
    Channel,
    Checked,
    Job,
    LaneUse,
    Note,
    Pace,
    Said,
    WorkerSetup,
    failure,
    geometry,
    is_better,
    is_out_of_memory,
    reaches_target,
    serialise,
)

# From so many lanes on they are trained in two halves.
HALVED_LANES = 4
# How full a worker was is said about so often (seconds), and at least after so short a time when it has run empty.
USE_SECONDS, EMPTY_USE_SECONDS = 1.0, 0.1
# Blocks that nobody uses are kept, as trials of their keys may follow: at most so many.
IDLE_BLOCKS = 4

# Of a trial that waits.
_UNDIAGNOSED = TrialDiagnosis(None, Facts())

ShouldStop = Callable[[int], bool]


class Planner(Protocol):
    """What the engine asks of `training.lane_plan.Planner`; a reproduction has its plan from the record."""

    def plan(self, recipe: Recipe) -> LanePlan:
        """Return the plan as it is now; takes about two seconds for a key that was never measured on this device."""

    def trained(self, recipe: Recipe, seconds: float) -> None:
        """Take note that an epoch of a trial alone or of an uncompiled block took so long."""

    def out_of_memory(self, recipe: Recipe, lanes: int) -> LanePlan:
        """Take note that so many lanes are too many, and return the plan from now on."""


def run(setup: WorkerSetup, channel: Channel, worker: str) -> None:
    """Train the recipes of `channel` until it closes."""
    with_lanes = engine(setup, channel, worker)
    while with_lanes.turn(wait=True):
        pass


def engine(setup: WorkerSetup, channel: Channel, worker: str) -> LaneEngine:
    """Return an engine that measures how many lanes pay on the worker's device."""
    planner = lane_plan.Planner(
        setup.device,
        setup.data,
        slots=setup.slots,
        compile=setup.compile,
        memory_fraction=setup.memory_fraction,
        layers=setup.layers,
    )
    return LaneEngine(setup, channel, worker, planner)


def halves(lanes: int) -> tuple[int, int]:
    """Return how many blocks a plan's lanes are trained in, and the lanes of each."""
    return (BLOCKS, math.ceil(lanes / BLOCKS)) if lanes >= HALVED_LANES else (1, lanes)


@dataclass(slots=True, eq=False)
class _Trial:
    """A trial that waits or is in a block; its program, its lane and the facts on it are known in its first one."""

    job: Job
    recipe: Recipe
    key: str
    pace: Pace
    program: str | None = None
    lane: int | None = None
    diagnosis: TrialDiagnosis = _UNDIAGNOSED
    # Of its last report.
    metrics: Mapping[str, float] = field(default_factory=dict)
    # What it goes on from, and what is kept of it.
    found: Checkpoint | None = None
    history: History = field(default_factory=History)
    # The last step of which a checkpoint is on disk.
    kept: int | None = None

    @property
    def number(self) -> int:
        return self.job.trial

    @property
    def alone(self) -> bool:
        """Whether it is a member of no population."""
        return self.job.population is None

    @property
    def unkept(self) -> bool:
        """Whether it has reports that no checkpoint on disk has, and that one is to have: a population begins anew."""
        return self.alone and self.history.last_step != self.kept


class _Alone:
    """A trial that is trained alone, with the words of a block: an epoch at a time."""

    lanes, compiled = 1, False

    def __init__(self, recipe: Recipe, setup: WorkerSetup) -> None:
        self._solo = alone(recipe, setup.device, setup.data, layers=setup.layers)
        self._should_stop: ShouldStop = lambda tag: False
        self._tag: int | None = None

    @property
    def dataset(self) -> Dataset:
        return self._solo.dataset

    @property
    def steps(self) -> int:
        return self._solo.steps

    @property
    def size(self) -> int:
        return self._solo.size

    @property
    def free(self) -> int:
        return 1 if self._tag is None else 0

    def admit(self, recipe: Recipe, tag: int, state: SoloState | None = None) -> None:
        self._tag = tag
        if state is not None:
            self._solo.resume(state)
        self._reports = self._solo.reports(should_stop=lambda: self._should_stop(tag))

    def epoch(self, should_stop: ShouldStop) -> list[LaneReport]:
        """Train one epoch; no report means that it was stopped, or that its last report was the last one."""
        assert self._tag is not None
        self._should_stop = should_stop
        report = next(self._reports, None)
        if report is None:
            return []
        epoch, metrics, seconds = report
        return [LaneReport(self._tag, epoch, metrics, seconds, self._solo.over)]

    def cut(self, tag: int) -> SoloState:
        return self._solo.cut()

    def release(self, tag: int) -> None:
        self._tag = None

    def state_dict(self, tag: int) -> dict[str, Tensor]:
        return self._solo.state_dict()


@dataclass(slots=True, eq=False)
class _Block:
    """A block with its trials; `slots`: the lanes of its key on this worker. `facts`: tags of each of its trials."""

    key: str
    program: str
    slots: int
    lanes: LaneBlock | _Alone | PopulationBlock
    recipe: Recipe
    facts: Mapping[str, str]
    # What it runs: solo, eager or, where that was planned and there is a compiler, compiled.
    made: str
    trials: dict[int, _Trial] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether no decision on its trials is out."""
        return all(trial.pace.due is None for trial in self.trials.values())


class LaneEngine:
    """Trains the recipes of one worker; each `turn` is an epoch of one block.

    A trial stays in the block in which it began, as its last bits depend on the block's program. Whatever a trial
    raises before it trains fails it alone; what a block raises fails the trials in it. When memory does not suffice, a
    block is made anew with fewer lanes and its trials begin again, which gives the same numbers; a population's, which
    has the lanes that it needs, fails.
    """

    def __init__(self, setup: WorkerSetup, channel: Channel, worker: str, planner: Planner) -> None:
        self._setup = setup
        self._channel = channel
        self._worker = worker
        self._planner = planner
        self._geometry = geometry(setup)
        self._waiting: deque[_Trial] = deque()
        # In the order in which they are trained, those that nobody uses among them.
        self._blocks: list[_Block] = []
        # What the driver was told: the lanes of each key.
        self._slots: dict[str, int] = {}
        self._key = ""
        self._said: list[Said] = []
        self._best: float | None = None
        self._use = _Use(worker)
        self._short_of_memory = False
        self._preflight = setup.preflight
        self._checkpoints = setup.checkpoints()

    @property
    def busy(self) -> bool:
        """Whether there are trials that are not over."""
        return bool(self._waiting) or any(block.trials for block in self._blocks)

    def turn(self, wait: bool) -> bool:
        """Take jobs in, train one epoch of one block and report it; False when the channel is closed.

        With `wait` and without a trial it waits about a second for a job. The first turn begins with the pre-flight.
        """
        if self._preflight is not None:
            task, self._preflight = self._preflight, None
            self._channel.emit(Checked(settle(task, self._setup.device)))
        jobs = self._channel.jobs(USE_SECONDS if wait and not self.busy else 0.0)
        if jobs is None:
            return False
        for job in jobs:
            self._take(job)
        for block in self._blocks:
            self._settle(block)
        self._place()
        self._note_use()
        self._flush()
        if (turn := self._next()) is not None:
            self._train(turn)
        self._tidy()
        return True

    # Trials come.

    def _take(self, job: Job) -> None:
        if job.best is not None and is_better(self._setup, job.best, self._best):
            self._best = job.best
        try:
            recipe = recipe_from_config(job.config)
            key = structural_key(recipe)
        except Exception as error:
            self._said.append(failure(self._worker, job, error))
            return
        trial = _Trial(job, recipe, key, Pace(self._channel, job.trial, job.decide_from), job.program)
        if trial.alone:
            self._find(trial)
        self._waiting.append(trial)

    def _find(self, trial: _Trial) -> None:
        """Look for what an earlier attempt has kept of a trial: it goes on from there, under the same program."""
        bits = self._bits(trial.recipe)
        found = self._checkpoints.load(trial.number, lambda facts: bits.items() <= facts.items(), trial.job.counted)
        if found is not None:
            facts, trial.found = found
            trial.program = facts["program"]

    def _bits(self, recipe: Recipe) -> dict[str, str]:
        """Return what the bits of a trial depend on besides its program, which is solo, eager or compiled."""
        device = {key: self._geometry[key] for key in ("device", "device_name", "threads", "torch", "python")}
        source = source_of(recipe) or ""
        return {**device, "swathe": __version__, "recipe": digest({"recipe": repr(recipe), "source": source})}

    def _place(self) -> None:
        """Put the trials that wait into blocks, as far as there is room."""
        if self._short_of_memory:
            self._reclaim()
        waiting, self._waiting = self._waiting, deque()
        for trial in waiting:
            if self._channel.stopped(trial.number):
                self._said.append(Finished(self._worker, trial.number, trial.job.attempt))
            elif not self._place_one(trial):
                self._waiting.append(trial)

    def _place_one(self, trial: _Trial) -> bool:
        """Return whether the trial needs to wait no more: it is in a block, or it has failed."""
        plan: LanePlan | None = None
        try:
            plan = self._planner.plan(trial.recipe)
            if trial.job.population is None:
                self._say_slots(trial.key, plan.lanes)
            else:
                # The driver counts whole populations.
                self._key, self._slots[trial.key] = trial.key, trial.job.population.plan.options.size
            if (block := self._block_for(trial, plan)) is None:
                return False
            found = trial.found if block.made == trial.program else None
            block.lanes.admit(trial.recipe, trial.number, None if found is None else found.state)
        except Exception as error:
            if trial.alone and plan is not None and self._has_shrunk(error, trial.recipe, trial.key, plan.lanes):
                return False
            self._said.append(failure(self._worker, trial.job, error))
            return True
        trial.program, trial.lane = block.program, self._free_lane()
        data, steps = block.lanes.dataset, block.lanes.steps
        facts = recipe_facts(trial.recipe, dataset_facts(data), steps, self._setup.metric)
        fresh = TrialDiagnosis(self._setup.diagnosis, facts)
        trial.diagnosis = fresh if found is None else copy.deepcopy(found.diagnosis)
        trial.history = History(found)
        trial.kept = trial.history.last_step
        if trial.alone:
            self._checkpoints.begin(trial.number)
        block.trials[trial.number] = trial
        note = {"swathe.lane_note": plan.note} if plan.note else {}
        tags = {**block.facts, **fact_tags(facts), "swathe.lane": f"{self._worker}/{trial.lane}", **note}
        self._said.append(Note(trial.number, tags))
        if found is not None:
            self._repeat(trial, found)
        return True

    def _repeat(self, trial: _Trial, found: Checkpoint) -> None:
        """Make the reports again that an earlier attempt has made; the decisions on them come like any others."""
        self._said.append(Note(trial.number, {RESUMED: str(trial.kept)}))
        reports = found.again(trial.job.counted)
        urgent = [trial.pace.note(report.step) for report in reports]
        trial.metrics = reports[-1].metrics
        self._flush(reports, urgent=any(urgent))

    def _say_slots(self, key: str, slots: int) -> None:
        self._key = key
        if self._slots.get(key) != slots:
            self._slots[key] = slots
            # At once: until it is known, the driver gives one trial of this key.
            self._said.append(Slots(self._worker, key, slots))
            self._flush()

    def _block_for(self, trial: _Trial, plan: LanePlan) -> _Block | None:
        """Return the block with the most room, which may be a new one; None when the trial must wait."""
        program = trial.program or plan.program
        if trial.job.population is not None:
            return self._population_block(trial, trial.job.population, program, plan.note)
        if program == "solo":
            # One at a time; beside lanes of another key, as those would otherwise drain.
            alone = any(block.program == "solo" and block.trials for block in self._blocks)
            return None if alone else self._new_block(trial, program, 1, 1)
        here = sum(len(block.trials) for block in self._blocks if block.key == trial.key)
        if here >= plan.lanes:
            return None
        count, size = halves(plan.lanes)
        own = [block for block in self._blocks if (block.key, block.program) == (trial.key, program)]
        roomiest = max(own, key=lambda block: block.lanes.free, default=None)
        if len(own) < count and (roomiest is None or roomiest.trials):
            return self._new_block(trial, program, plan.lanes, size)
        return roomiest if roomiest is not None and roomiest.lanes.free else None

    def _population_block(self, trial: _Trial, job: PopulationJob, program: str, note: str) -> _Block:
        """Return the block of a trial's population, which begins with all of its members; raises `BadInputError`."""
        if program == "solo":
            raise BadInputError(f"{KEY}: the members of a population train as lanes of one block; {note}")
        for block in self._blocks:
            if isinstance(block.lanes, PopulationBlock) and block.lanes.awaits(job.plan.head):
                return block
        return self._new_block(trial, program, job.plan.options.size, job.plan.options.size)

    def _new_block(self, trial: _Trial, program: str, slots: int, size: int) -> _Block:
        recipe, setup = trial.recipe, self._setup
        lanes: LaneBlock | _Alone | PopulationBlock
        if program == "solo":
            lanes = _Alone(recipe, setup)
            geometry, made = self._geometry, program
        else:
            compiled = program == "compiled"
            lanes = beside(recipe, size, setup.device, setup.data, compiled=compiled, layers=setup.layers)
            made = "compiled" if lanes.compiled else "eager"
            geometry = {**self._geometry, "engine": "lanes", "lanes": str(size), "slots": str(slots), "program": made}
            if trial.job.population is not None:
                lanes = PopulationBlock(trial.job.population, lanes)
        facts = {
            "swathe.dataset": lanes.dataset.name,
            "swathe.dataset_digest": lanes.dataset.digest,
            "swathe.geometry": json.dumps(geometry),
            **source_tags(recipe, lanes.dataset),
        }
        block = _Block(trial.key, program, slots, lanes, recipe, facts, made)
        self._blocks.append(block)
        return block

    def _free_lane(self) -> int:
        """Return the lowest number that no trial of this worker has."""
        taken = {trial.lane for trial in self._trials()}
        return next(number for number in itertools.count() if number not in taken)

    def _trials(self) -> Iterator[_Trial]:
        return (trial for block in self._blocks for trial in block.trials.values())

    # Trials train.

    def _settle(self, block: _Block) -> None:
        """Take the decisions that have come; trials that are to stop leave their lanes."""
        for trial in list(block.trials.values()):
            trial.pace.look()
            if self._channel.stopped(trial.number):
                self._leave(block, trial)

    def _next(self) -> _Block | None:
        """Return the block to train: in turn, but those first of whose trials no decision is out."""
        live = [block for block in self._blocks if block.trials]
        block = next((block for block in live if block.settled), live[0] if live else None)
        if block is not None:
            self._blocks.remove(block)
            self._blocks.append(block)
        return block

    def _train(self, block: _Block) -> None:
        began = time.perf_counter()
        try:
            reports = block.lanes.epoch(lambda number: self._ends_now(block, number))
        except Exception as error:
            self._fail(block, error)
        else:
            if not block.lanes.compiled:
                self._planner.trained(block.recipe, time.perf_counter() - began)
            self._report(block, reports)

    def _ends_now(self, block: _Block, number: int) -> bool:
        """Whether a trial is to end in the middle of an epoch; one that goes on later has its epoch kept first."""
        if not self._channel.stopped(number):
            return False
        trial = block.trials[number]
        return not (self._checkpoints.enabled and self._channel.suspended(number) and trial.unkept)

    def _report(self, block: _Block, reports: Sequence[LaneReport]) -> None:
        now = time.time()
        sent: list[Report] = []
        urgent = False
        silent = block.trials.keys() - {report.tag for report in reports}
        for trial in [trial for number, trial in block.trials.items() if number in silent]:
            self._end_silently(block, trial)
        for report in reports:
            trial = block.trials[report.tag]
            stopped = trial.pace.settle()
            if stopped and not self._channel.suspended(trial.number):
                self._leave(block, trial)
                continue
            metrics = self._setup.reported(report.metrics, block.lanes.size)
            judged = trial.diagnosis.judge(Report(report.tag, report.epoch, metrics, report.seconds, now))
            over = report.finished or judged.ends is not None
            if not over:
                trial.history.add(judged)
            if stopped:
                self._leave(block, trial, over=over)
                continue
            sent.append(judged)
            urgent = trial.pace.note(report.epoch) or urgent
            # The sweep ends with a report that reaches the target, and its winner's model is the one that made it.
            reached = reaches_target(self._setup, metrics)
            trial.metrics = metrics
            if judged.ends is Action.STOP and not reached:
                self._leave(block, trial, over=True)
            elif over or reached:
                self._leave(block, trial, self._model(block, trial, always=reached), over=True)
        if isinstance(block.lanes, PopulationBlock):
            self._said += (Note(number, tags) for number, tags in block.lanes.noted().items() if number in block.trials)
        self._note_use()
        self._flush(sent, urgent=urgent)
        for trial in block.trials.values():
            if self._checkpoints.due(trial.number) and trial.unkept:
                self._keep(block, trial)

    def _keep(self, block: _Block, trial: _Trial) -> None:
        """Write a checkpoint of a trial as it is after its last report."""
        facts, lanes = {**self._bits(trial.recipe), "program": block.made}, block.lanes
        # A population that is broken off begins anew.
        assert not isinstance(lanes, PopulationBlock)

        def kept() -> Checkpoint:
            return trial.history.checkpoint(trial.diagnosis, lanes.cut(trial.number))

        said = self._checkpoints.save(trial.number, facts, kept)
        if said:
            self._said.append(Note(trial.number, {NOTE: said}))
        else:
            trial.kept = trial.history.last_step

    def _end_silently(self, block: _Block, trial: _Trial) -> None:
        """End a trial without a report: it was told to stop, or, alone, had made its last report before."""
        model = None if self._channel.stopped(trial.number) else self._model(block, trial)
        # Its lane is free already.
        del block.trials[trial.number]
        self._end_checkpoints(trial)
        self._said.append(Finished(self._worker, trial.number, trial.job.attempt, model))

    def _model(self, block: _Block, trial: _Trial, *, always: bool = False) -> bytes | None:
        """Return the trial's model if it is better than any of which this worker knows."""
        value = trial.metrics.get(self._setup.metric)
        if not (always or is_better(self._setup, value, self._best)):
            return None
        if trial.pace.due is None and not self._setup.repeated:
            # Else its pruner may still refuse it, and then a worse one is the best; and of several repeats a single
            # value is not what makes a point the best.
            self._best = value
        return serialise(block.lanes.state_dict(trial.number))

    def _leave(self, block: _Block, trial: _Trial, model: bytes | None = None, *, over: bool = False) -> None:
        """Take a trial out of its block that has stopped, or is `over`; one that goes on later is kept as it is."""
        suspended = self._channel.suspended(trial.number)
        if suspended and not over and self._checkpoints.enabled and trial.unkept:
            self._keep(block, trial)
        self._end_checkpoints(trial)
        block.lanes.release(trial.number)
        del block.trials[trial.number]
        self._said.append(Finished(self._worker, trial.number, trial.job.attempt, model))

    def _end_checkpoints(self, trial: _Trial) -> None:
        stopped, suspended = self._channel.stopped(trial.number), self._channel.suspended(trial.number)
        self._checkpoints.end(trial.number, stopped=stopped, suspended=suspended)

    # What goes wrong.

    def _fail(self, block: _Block, error: Exception) -> None:
        """Give a block up: its trials begin again where there was too little memory, and else have failed."""
        self._blocks.remove(block)
        population = isinstance(block.lanes, PopulationBlock)
        if not population and self._has_shrunk(error, block.recipe, block.key, block.slots):
            for trial in reversed(block.trials.values()):
                trial.lane = None
                self._find(trial)
                self._waiting.appendleft(trial)
        else:
            self._said += [failure(self._worker, trial.job, error) for trial in block.trials.values()]
            for trial in block.trials.values():
                self._end_checkpoints(trial)
        self._note_use()
        self._flush()

    def _has_shrunk(self, error: Exception, recipe: Recipe, key: str, slots: int) -> bool:
        """Plan fewer lanes if the error says that they are too many; False when fewer would not help."""
        if slots <= 1 or not is_out_of_memory(error):
            return False
        self._say_slots(key, self._planner.out_of_memory(recipe, slots).lanes)
        self._short_of_memory = True
        return True

    def _reclaim(self) -> None:
        """Give memory back, now that no exception refers to it."""
        self._short_of_memory = False
        self._blocks = [block for block in self._blocks if block.trials]
        gc.collect()
        if self._setup.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _tidy(self) -> None:
        idle = [block for block in self._blocks if not block.trials]
        # Nobody joins these any more.
        dropped = [block for block in idle if block.program == "solo" or isinstance(block.lanes, PopulationBlock)]
        dropped += [block for block in idle if block not in dropped][:-IDLE_BLOCKS]
        if dropped:
            self._blocks = [block for block in self._blocks if block not in dropped]

    # Saying.

    def _note_use(self) -> None:
        """Take note of how full this worker is from now on."""
        keys = Counter(trial.key for trial in self._trials())
        live = sum(keys.values())
        # Trials of several keys share a worker by their keys' slots.
        load = sum(count / self._slots[key] for key, count in keys.items())
        self._use.change(live, max(live, live / load) if live else self._slots.get(self._key, 0))
        use = self._use.take(USE_SECONDS if live else EMPTY_USE_SECONDS)
        if use is not None:
            # Before the end of a trial, which may be the end of the sweep.
            self._said.insert(0, use)

    def _flush(self, reports: Sequence[Report] = (), *, urgent: bool = False) -> None:
        said, self._said = self._said, []
        if reports or said:
            self._channel.send(reports, said, urgent=urgent)


class _Use:
    """Adds up how many lanes were live, and how many there were, over time."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._live, self._slots = 0, 0.0
        self._live_seconds = self._slot_seconds = 0.0
        self._since = self._said = time.perf_counter()

    def change(self, live: int, slots: float) -> None:
        """From now on so many lanes are live, of so many."""
        now = time.perf_counter()
        if not self._slots:
            # Nothing was trained yet: the time until then does not count.
            self._said = now
        self._live_seconds += self._live * (now - self._since)
        self._slot_seconds += self._slots * (now - self._since)
        self._since, self._live, self._slots = now, live, slots

    def take(self, least: float) -> LaneUse | None:
        """Return the means since the last time, if that is `least` seconds ago."""
        seconds = self._since - self._said
        if seconds < least or not self._slot_seconds:
            return None
        use = LaneUse(self._worker, time.time(), seconds, self._live_seconds / seconds, self._slot_seconds / seconds)
        self._live_seconds = self._slot_seconds = 0.0
        self._said = self._since
        return use
