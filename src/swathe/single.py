"""One training run in this process: what `swathe train` and `swathe reproduce` share."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from swathe.errors import SwatheError
from swathe.events import Config, Decision, Direction, Failed, Finished, Report, Reported
from swathe.home import Home
from swathe.population import PopulationJob
from swathe.training.recipe import Recipe, recipe_from_config
from swathe.worker import Emitted, InlineChannel, Job, Note, WorkerSetup, geometry, prepare, run_one_by_one

# It imports PyTorch, which a function may do without.
if TYPE_CHECKING:
    from swathe.training.lane_plan import LanePlan

# Tags of a trial on a worker: the geometry has a place of its own, and the rest says nothing of a single run.
_OF_A_WORKER = ("swathe.geometry", "swathe.lane", "swathe.lane_note")


class RunFailedError(SwatheError):
    """A run raised: its text is the reason in one line; `run` is what there is of it, `traceback` the whole text."""

    def __init__(self, reason: str, traceback: str, run: SingleRun) -> None:
        super().__init__(f"The run failed: {reason}")
        self.reason = reason
        self.traceback = traceback
        self.run = run


@dataclass(frozen=True, slots=True)
class LaneGeometry:
    """The block in which a trial was a lane: its lanes and its program, compiled or eager."""

    lanes: int
    program: str


@dataclass(slots=True)
class SingleRun:
    """What a run gave: its reports in order, facts for the record, the machine it ran on and the trained state."""

    geometry: Mapping[str, str]
    reports: list[Report] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    model: bytes | None = None

    def history(self) -> dict[tuple[str, int], float]:
        """Return every reported number by (metric, step)."""
        return {(name, report.step): value for report in self.reports for name, value in report.metrics.items()}


def train_once(
    config: Config,
    home: Home,
    *,
    number: int = 0,
    threads: int = 1,
    device: str = "cpu",
    metric: str = "val_loss",
    until: int | None = None,
    lane: LaneGeometry | None = None,
    population: PopulationJob | None = None,
    layers: bool = False,
    parameters: bool = False,
    on_report: Callable[[Report], None] = lambda report: None,
    on_compile: Callable[[], None] = lambda: None,
) -> SingleRun:
    """Train a trial's config here, with the threads and the device given, and stop it after step `until`.

    It is trained alone, or with `lane` as the only trial in such a block, whose program is compiled after a call of
    `on_compile` if it is not on disk; a member of a `population` is trained with all others. With `layers`, reports
    have the gradient's norm of every layer, with `parameters` the size of the network. Raises `RunFailedError` with the
    reason when the run fails.
    """
    setup = WorkerSetup(
        trainable=config.get("trainable"),
        metric=metric,
        direction=Direction.MINIMIZE,
        home=str(home.path),
        import_paths=(os.getcwd(),),
        device=device,
        threads=threads,
        layers=layers,
        parameters=parameters,
    )
    prepare(setup)
    run = SingleRun(geometry(setup))

    def take(events: Sequence[Emitted]) -> None:
        for event in events:
            match event:
                case Reported(_, reports):
                    for report in reports:
                        run.reports.append(report)
                        on_report(report)
                        if until is not None and report.step >= until:
                            channel.put((Decision(number, report.step, stop=True),))
                case Note(_, tags):
                    run.geometry = json.loads(tags.get("swathe.geometry", "null")) or run.geometry
                    run.tags.update({key: tag for key, tag in tags.items() if key not in _OF_A_WORKER})
                case Finished():
                    run.model = event.model
                case Failed():
                    raise RunFailedError(event.reason, event.traceback, run)

    channel = InlineChannel("inline", take)
    channel.put((Job(number, config, population=population),))
    if lane is None or setup.trainable is not None:
        run_one_by_one(setup, channel, "inline")
    else:
        if lane.program == "compiled" and _must_compile(setup, config):
            on_compile()
        _run_in_lane(setup, channel, lane)
    return run


def nudged_history(
    config: Config, home: Home, geometry: Mapping[str, str], *, until: int | None = None
) -> dict[tuple[str, int], float]:
    """Train a recipe alone, from parameters that are one rounding (2^-23) larger; return its numbers by (metric, step).

    The threads of this process are as the last `train_once` has set them.
    """
    import torch

    from swathe.training.alone import alone

    solo = alone(recipe_from_config(config), device=geometry["device"], cache=home.data)
    with torch.no_grad():
        for parameter in solo.network.parameters():
            parameter.mul_(1 + torch.finfo(torch.float32).eps)
    reports = itertools.islice(solo.reports(should_stop=lambda: False), until)
    return {(name, epoch): value for epoch, metrics, _ in reports for name, value in metrics.items()}


def _must_compile(setup: WorkerSetup, config: Config) -> bool:
    from swathe.training import data, lane_compiler
    from swathe.training.lanes import geometry_of

    try:
        recipe = recipe_from_config(config)
        geometry = geometry_of(recipe, data.load(recipe.data, setup.data), setup.device, layers=setup.layers)
    except SwatheError:
        # The run itself says why it cannot be trained.
        return False
    return not lane_compiler.is_compiled(geometry, setup.data) and not lane_compiler.no_compiler()


def _run_in_lane(setup: WorkerSetup, channel: InlineChannel, lane: LaneGeometry) -> None:
    from swathe.lane_worker import LaneEngine

    engine = LaneEngine(setup, channel, "inline", _AsRecorded(lane))
    engine.turn(wait=False)
    while engine.busy:
        engine.turn(wait=False)


class _AsRecorded:
    """Plans blocks of the geometry that a trial was recorded with."""

    def __init__(self, lane: LaneGeometry) -> None:
        from swathe.training.lane_plan import BLOCKS, LanePlan

        # A block has its share of a plan's lanes, unless there are too few to halve.
        self._plan = LanePlan(BLOCKS * lane.lanes if lane.lanes > 1 else 1, lane.program)

    def plan(self, recipe: Recipe) -> LanePlan:
        return self._plan

    def trained(self, recipe: Recipe, seconds: float) -> None:
        """Nothing is compiled later: the bits are the program's."""

    def out_of_memory(self, recipe: Recipe, lanes: int) -> LanePlan:
        """Plan a narrower block: the bits of a trial do not depend on its width."""
        self._plan = replace(self._plan, lanes=max(1, lanes // 2))
        return self._plan
