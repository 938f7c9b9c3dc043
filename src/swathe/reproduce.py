"""Train a recorded trial again and compare every number that it reported, bit for bit or within a tolerance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from swathe.errors import BadInputError, bad_value
from swathe.home import Home
from swathe.population import PLAN, Member, PopulationJob, read_plan
from swathe.records import Records, TrialRun
from swathe.single import LaneGeometry, SingleRun, nudged_history, train_once
from swathe.training.own_source import SOURCE
from swathe.training.recipe import PARAMETERS, TIMING_METRICS
from swathe.training.symptoms import LAYER_NORMS

# What a trial's bits may depend on besides its config; a difference in one of them is named when bits differ.
_CONDITIONS = ("engine", "lanes", "program", "device", "device_name", "threads", "torch", "python")
# Trained alone, a lane's losses are the same up to rounding: so far they may differ, docs/reproduce.md has why.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-3, 1e-6
# Where training makes rounding grow, they may differ so many times as far as two runs alone that begin one rounding
# apart: a lane is rounded otherwise at each step, and not only at the first.
ROUNDING_FACTOR = 10.0
_LOSSES = ("train_loss", "val_loss")


@dataclass(frozen=True, slots=True)
class Row:
    """One number: as recorded and as reproduced; None where one of the two runs has no such report.

    `rounding`: how far one rounding at the start has taken it by this step, where that was measured.
    """

    step: int
    metric: str
    recorded: float | None
    reproduced: float | None
    rounding: float = 0.0

    @property
    def identical(self) -> bool:
        """Whether the two have the same bits (a NaN equals a NaN)."""
        if self.recorded is None or self.reproduced is None:
            return False
        return self.recorded == self.reproduced or (math.isnan(self.recorded) and math.isnan(self.reproduced))

    @property
    def distance(self) -> float:
        """Absolute difference; infinite where one of the two is missing."""
        if self.identical:
            return 0.0
        if self.recorded is None or self.reproduced is None:
            return math.inf
        return abs(self.recorded - self.reproduced)

    @property
    def relative(self) -> float:
        """The difference over the larger magnitude, 0 to 2; infinite where one of the two is missing or not finite."""
        if self.identical:
            return 0.0
        if self.recorded is None or self.reproduced is None or not math.isfinite(self.distance):
            return math.inf
        return self.distance / max(abs(self.recorded), abs(self.reproduced))

    @property
    def is_loss(self) -> bool:
        """Whether it is a loss: a smooth function of the parameters, as an accuracy is not."""
        return self.metric in _LOSSES

    @property
    def close(self) -> bool:
        """Whether the two are equal within the tolerance for rounding."""
        if self.identical:
            return True
        if self.recorded is None or self.reproduced is None:
            return False
        largest = max(abs(self.recorded), abs(self.reproduced))
        if not math.isfinite(largest):
            return self.rounding == math.inf
        return self.distance <= ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * largest + ROUNDING_FACTOR * self.rounding


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A recorded trial beside its second training; `alone`: it was a lane, and was trained without one."""

    run: TrialRun
    rows: tuple[Row, ...]
    differences: tuple[str, ...]
    new_run_id: str
    alone: bool = False

    @property
    def identical(self) -> bool:
        return bool(self.rows) and all(row.identical for row in self.rows)

    @property
    def good(self) -> bool:
        """Whether it is as was promised: the same bits, or for a lane that was trained alone the same losses nearly."""
        return self.identical or (self.alone and is_close(self.rows))

    @property
    def distance(self) -> float:
        """The largest absolute difference."""
        return max((row.distance for row in self.rows), default=math.inf)

    @property
    def outside_from(self) -> int | None:
        """The first step at which a loss is outside of the tolerance for rounding."""
        return min((row.step for row in self.rows if row.is_loss and not row.close), default=None)

    @property
    def largest_of_losses(self) -> float:
        """The largest relative difference of a loss."""
        return max((row.relative for row in self.rows if row.is_loss), default=math.inf)


def is_close(rows: tuple[Row, ...]) -> bool:
    """Whether every number is there twice, and all losses are equal within the tolerance."""
    missing = any(row.recorded is None or row.reproduced is None for row in rows)
    return any(row.is_loss for row in rows) and not missing and all(row.close for row in rows if row.is_loss)


def reproduce(
    records: Records,
    run: TrialRun,
    home: Home,
    *,
    metric: str = "val_loss",
    solo: bool = False,
    on_compile: Callable[[], None] = lambda: None,
) -> Reproduction:
    """Train `run` again from its record alone: config, seed, threads, device, and for a lane its block's geometry.

    It is trained to its last recorded step: a pruned trial had no more, nor one that reached the sweep's target. With
    `solo` a lane is trained alone, and once more from one rounding apart where it is not close. A member of a
    population is trained with all of its fellows, whom it may have copied. `on_compile` is called before a lane's
    program is compiled, which takes a while. The new run is recorded and linked to the old one. Raises `BadInputError`
    when the record lacks what is needed.
    """
    text = run.tags.get("swathe.config")
    if text is None:
        raise BadInputError(f"Run {run.run_id} has no tag swathe.config, so it is no trial that Swathe recorded.")
    recorded = records.history(run.run_id)
    if not recorded:
        raise BadInputError(f"Run {run.run_id} reported nothing, so there is nothing to compare.")
    then: dict[str, str] = json.loads(run.tags.get("swathe.geometry", "{}"))
    lane = lane_geometry(then, run)
    population = population_of(records, run)
    if solo and population is not None:
        raise bad_value("--solo", "a member of a population", "no --solo for it, as it has parameters of others")
    last = max(step for _, step in recorded)
    again = train_once(
        json.loads(text),
        home,
        number=run.number or 0,
        threads=int(then.get("threads", "1")),
        device=available(then.get("device", "cpu")),
        metric=metric,
        until=last,
        lane=None if solo else lane,
        population=population,
        layers=any(name.startswith(LAYER_NORMS) for name, _ in recorded),
        parameters=any(name == PARAMETERS for name, _ in recorded),
        on_compile=on_compile,
    )
    rows = compare(recorded, as_recorded(again.history()))
    alone = solo and lane is not None
    if alone and not is_close(rows):
        rows = with_rounding(rows, nudged_history(json.loads(text), home, again.geometry, until=last))
    differences = conditions_that_differ(then, run.tags, again)
    tags = {**again.tags, "swathe.geometry": json.dumps(dict(again.geometry))}
    same = all(row.identical for row in rows)
    new_run_id = records.log_reproduction(run, again.reports, tags, identical=same, close=alone and is_close(rows))
    return Reproduction(run, rows, differences, new_run_id, alone)


def population_of(records: Records, run: TrialRun) -> PopulationJob | None:
    """Return the population that a trial is a member of, from its fellows' records; None: it is of none.

    Raises `BadInputError` where one of them is missing.
    """
    text = run.tags.get(PLAN)
    if text is None:
        return None
    plan, _ = read_plan(text)
    found = {one.number: one for one in records.siblings(run, plan.numbers)}
    for number in plan.numbers:
        if number not in found or PLAN not in found[number].tags:
            raise BadInputError(f"Run {run.run_id}: trial {number} of its population is not recorded.")
    members = (
        Member(number, json.loads(one.tags["swathe.config"]), read_plan(one.tags[PLAN])[1])
        for number, one in sorted(found.items())
    )
    return PopulationJob(plan, tuple(members))


def with_rounding(rows: tuple[Row, ...], nudged: Mapping[tuple[str, int], float]) -> tuple[Row, ...]:
    """Say of each number how far a run alone that began one rounding apart came from it, up to its step."""
    furthest: dict[str, float] = {}
    measured = []
    for row in rows:
        other = nudged.get((row.metric, row.step))
        furthest[row.metric] = max(furthest.get(row.metric, 0.0), _apart(row.reproduced, other))
        measured.append(replace(row, rounding=furthest[row.metric]))
    return tuple(measured)


def _apart(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        # One of the two has ended, as its loss was not finite, or its last epochs brought too little.
        return 0.0 if one is other else math.inf
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    distance = abs(one - other)
    return distance if math.isfinite(distance) else math.inf


def lane_geometry(geometry: Mapping[str, str], run: TrialRun) -> LaneGeometry | None:
    """Return in what block a trial was a lane; None: it was none. Raises `BadInputError` when that is not said."""
    if geometry.get("engine") != "lanes":
        return None
    lanes, program = geometry.get("lanes", ""), geometry.get("program", "")
    if not (lanes.isdecimal() and int(lanes) > 0 and program in ("compiled", "eager")):
        raise BadInputError(f"Run {run.run_id}: its tag swathe.geometry does not say with which lanes it was trained.")
    return LaneGeometry(int(lanes), program)


def as_recorded(history: Mapping[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    """Return a run's own numbers under the names that MLflow has for them; where two become one, the first counts."""
    from swathe.mlflow_runs import clean_name

    named: dict[tuple[str, int], float] = {}
    for (metric, step), value in history.items():
        named.setdefault((clean_name(metric), step), value)
    return named


def compare(recorded: Mapping[tuple[str, int], float], reproduced: Mapping[tuple[str, int], float]) -> tuple[Row, ...]:
    """Put two histories side by side, by step and metric; timings are left out, as nothing makes them equal."""
    keys = sorted({*recorded, *reproduced}, key=lambda key: (key[1], key[0]))
    return tuple(
        Row(step, metric, recorded.get((metric, step)), reproduced.get((metric, step)))
        for metric, step in keys
        if metric not in TIMING_METRICS
    )


def conditions_that_differ(then: Mapping[str, str], tags: Mapping[str, str], again: SingleRun) -> tuple[str, ...]:
    """Name what is not as it was when the trial was recorded: versions, device, threads, data."""
    found = [
        f"{key}: recorded {then.get(key, 'unknown')}, now {again.geometry.get(key, 'none')}"
        for key in _CONDITIONS
        if then.get(key) != again.geometry.get(key)
    ]
    before, now = tags.get("swathe.dataset_digest"), again.tags.get("swathe.dataset_digest")
    if before != now:
        found.append(f"data: recorded digest {str(before)[:12]}, now {str(now)[:12]}")
    before, now = tags.get(SOURCE), again.tags.get(SOURCE)
    if before != now:
        found.append(f"code of the model: recorded digest {str(before)[:12]}, now {str(now)[:12]}")
    return tuple(found)


def available(device: str) -> str:
    """Return a recorded device, or the CPU where this machine has no GPU for it."""
    import torch

    return device if device == "cpu" or torch.cuda.is_available() else "cpu"
