"""A population on its worker: its members are the lanes of one block and copy each other between two epochs.

What a lane copies is a row of the block's tensors, and no file is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from swathe.errors import BadInputError
from swathe.population import COPIES, LINEAGE, VALUE, Copy, PopulationJob, copies, values_of, with_values
from swathe.training.data import Dataset
from swathe.training.lanes import LaneBlock, LaneReport
from swathe.training.recipe import Recipe, recipe_from_config
from swathe.training.structure import structural_key

ShouldStop = Callable[[int], bool]


@dataclass(slots=True)
class _Member:
    """A member as it trains: by this config, of which `names` are explored.

    `copied` are its own copies in the order of their epochs; `lineage` are the values by which its parameters came
    about, those of the members that it descends from among them.
    """

    config: dict[str, Any]
    names: tuple[str, ...]
    copied: list[dict[str, Any]]
    lineage: list[dict[str, Any]]

    @property
    def values(self) -> dict[str, int | float]:
        return values_of(self.config, self.names)


class PopulationBlock:
    """A block of lanes whose trials are the members of one population, with the words of a `LaneBlock`.

    All members are in it from the start and train to the end, also those whose trials are over, or were never asked
    for: what the others copy may be theirs. Only trials that were admitted are spoken of. One whose config is refused,
    so that its trial has failed, is left out, and a member whose loss is not finite leaves. Raises `BadInputError` for
    members that are not of the block's structure.
    """

    def __init__(self, job: PopulationJob, block: LaneBlock) -> None:
        self._plan = job.plan
        self._block = block
        self._epoch = 0
        self._admitted: set[int] = set()
        self._members: dict[int, _Member] = {}
        self._noted: dict[int, Mapping[str, str]] = {}
        for one in job.members:
            recipe = _recipe(one.config)
            if recipe is None:
                continue
            block.admit(recipe, one.number)
            first = {"step": 0, "from": one.number, "params": values_of(one.config, one.names)}
            self._members[one.number] = _Member(one.config, one.names, [], [first])

    @property
    def compiled(self) -> bool:
        return self._block.compiled

    @property
    def lanes(self) -> int:
        return self._block.lanes

    @property
    def dataset(self) -> Dataset:
        return self._block.dataset

    @property
    def steps(self) -> int:
        return self._block.steps

    @property
    def size(self) -> int:
        return self._block.size

    @property
    def free(self) -> int:
        """How many trials can be admitted: none but its own."""
        return 0

    def awaits(self, head: int) -> bool:
        """Whether this is the population from that trial on, and has not begun."""
        return self._plan.head == head and self._epoch == 0

    def admit(self, recipe: Recipe, tag: int, state: object = None) -> None:
        """Speak of this member from now on."""
        self._admitted.add(tag)

    def epoch(self, should_stop: ShouldStop) -> list[LaneReport]:
        """Train all members for one epoch, unless all that are spoken of are to stop; then let them copy each other.

        Reports have the values that the epoch was trained with, `hp/optim.lr` and the like.
        """

        def all_stop(tag: int) -> bool:
            return all(should_stop(number) for number in self._admitted)

        reports = self._block.epoch(all_stop)
        self._epoch += 1
        said = [self._with_values(report) for report in reports if report.tag in self._admitted]
        if self._plan.options.is_due(self._epoch):
            self._copy(reports)
        return said

    def noted(self) -> dict[int, Mapping[str, str]]:
        """Return the tags of the members that have copied another one after the last epoch."""
        noted, self._noted = self._noted, {}
        return noted

    def release(self, tag: int) -> None:
        """Speak of this member no more; it trains on."""
        self._admitted.discard(tag)

    def state_dict(self, tag: int) -> dict[str, Tensor]:
        return self._block.state_dict(tag)

    def _with_values(self, report: LaneReport) -> LaneReport:
        values = self._members[report.tag].values
        shown = {f"{VALUE}{name}": float(value) for name, value in values.items()}
        return replace(report, metrics={**report.metrics, **shown})

    def _copy(self, reports: Sequence[LaneReport]) -> None:
        metric = self._plan.metric
        reached = {
            report.tag: report.metrics[metric]
            for report in reports
            if not report.finished and math.isfinite(report.metrics.get(metric, math.nan))
        }
        values = {number: self._members[number].values for number in reached}
        for one in copies(self._plan, self._epoch, reached, values):
            self._carry_out(one)

    def _carry_out(self, one: Copy) -> None:
        member, source = self._members[one.member], self._members[one.source]
        # Its own seed: what it draws from now on is not what the other one draws.
        copied = {**source.config, "seed": member.config.get("seed", 0)}
        explored = with_values(copied, one.params)
        params, recipe = one.params, _recipe(explored)
        if recipe is None or structural_key(recipe) != self._block.key:
            # The values do not go together.
            params, explored, recipe = source.values, copied, recipe_from_config(copied)
        self._block.exploit(one.member, one.source, recipe)
        step = {"step": self._epoch, "from": one.source, "params": dict(params)}
        self._members[one.member] = _Member(explored, source.names, [*member.copied, step], [*source.lineage, step])
        now = self._members[one.member]
        self._noted[one.member] = {COPIES: json.dumps(now.copied), LINEAGE: json.dumps(now.lineage)}


def _recipe(config: Mapping[str, Any]) -> Recipe | None:
    """Return the recipe of a config, None where its values are allowed, but not together."""
    try:
        return recipe_from_config(config)
    except BadInputError:
        return None
