"""Training recorded configs again, side by side as lanes in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from swathe.events import Config, Decision, Direction, Failed, Report, Reported
from swathe.home import Home
from swathe.reproduce import available
from swathe.worker import Emitted, InlineChannel, Job, WorkerSetup, prepare

# It imports PyTorch, which the rest of the report does without.
if TYPE_CHECKING:
    from swathe.training.lane_plan import LanePlan
    from swathe.training.recipe import Recipe


@dataclass(slots=True)
class Retrained:
    """A training that is over: its reports in order, and why it failed, "" if it did not."""

    reports: list[Report] = field(default_factory=list)
    failure: str = ""

    def value(self, metric: str, step: int | None = None) -> float | None:
        """Return the metric at a step, None for the last one; None where it was not reported."""
        for report in reversed(self.reports):
            if step in (None, report.step):
                return report.metrics.get(metric)
        return None

    @property
    def seconds(self) -> float:
        """What it took of the device."""
        return sum(report.seconds for report in self.reports)


def retrain(
    configs: Mapping[int, Config],
    home: Home,
    geometry: Mapping[str, str],
    *,
    metric: str,
    until: int | None = None,
    on_report: Callable[[], None] = lambda: None,
) -> dict[int, Retrained]:
    """Train recipes to their ends, or through step `until`; those with one structural key are lanes of one block.

    `geometry`, that of a recorded trial, says with how many threads, and on a GPU or not; compiled programs that the
    sweep left on disk are used. A run that fails does so alone.
    """
    from swathe.lane_worker import LaneEngine

    setup = WorkerSetup(
        trainable=None,
        metric=metric,
        direction=Direction.MINIMIZE,
        home=str(home.path),
        import_paths=(os.getcwd(),),
        device=available(geometry.get("device", "cpu")),
        threads=int(geometry.get("threads", "1")),
        # The objective may be this.
        parameters=True,
    )
    prepare(setup)
    found = {number: Retrained() for number in configs}

    def take(events: Sequence[Emitted]) -> None:
        for event in events:
            match event:
                case Reported(_, reports):
                    for report in reports:
                        found[report.trial].reports.append(report)
                        on_report()
                        if until is not None and report.step >= until:
                            channel.put((Decision(report.trial, report.step, stop=True),))
                case Failed():
                    found[event.trial].failure = event.reason

    channel = InlineChannel("inline", take)
    channel.put(tuple(Job(number, config) for number, config in configs.items()))
    engine = LaneEngine(setup, channel, "inline", _SideBySide(len(configs), setup.device, setup.data))
    engine.turn(wait=False)
    while engine.busy:
        engine.turn(wait=False)
    return found


class _SideBySide:
    """Plans one block for all trials of a structure, compiled where its program is on disk."""

    def __init__(self, lanes: int, device: str, cache: Path) -> None:
        self._device = device
        self._cache = cache
        self._lanes = lanes
        self._plans: dict[str, LanePlan] = {}

    def plan(self, recipe: Recipe) -> LanePlan:
        from swathe.training.structure import structural_key

        key = structural_key(recipe)
        if key not in self._plans:
            self._plans[key] = self._planned(recipe)
        return self._plans[key]

    def _planned(self, recipe: Recipe) -> LanePlan:
        from swathe.training import lane_compiler
        from swathe.training.data import load
        from swathe.training.lane_plan import LanePlan
        from swathe.training.lanes import geometry_of
        from swathe.training.structure import can_lane, is_slow_to_trace

        geometry = geometry_of(recipe, load(recipe.data, self._cache), self._device)
        if lane_compiler.is_compiled(geometry, self._cache):
            return LanePlan(self._lanes, "compiled")
        if self._lanes == 1 or is_slow_to_trace(recipe, geometry) or can_lane(recipe, geometry):
            return LanePlan(1, "solo")
        return LanePlan(self._lanes, "eager")

    def trained(self, recipe: Recipe, seconds: float) -> None:
        """Nothing is compiled: a few trials do not pay for it."""

    def out_of_memory(self, recipe: Recipe, lanes: int) -> LanePlan:
        from swathe.training.structure import structural_key

        key = structural_key(recipe)
        self._plans[key] = replace(self._plans[key], lanes=max(1, lanes // 2))
        return self._plans[key]
