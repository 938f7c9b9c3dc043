"""Train a recorded trial again and compare every number that it reported, bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from swathe.errors import BadInputError
from swathe.home import Home
from swathe.records import Records, TrialRun
from swathe.single import SingleRun, train_once
from swathe.training.recipe import TIMING_METRICS

# What a trial's bits may depend on besides its config; a difference in one of them is named when bits differ.
_CONDITIONS = ("engine", "device", "device_name", "threads", "torch", "python")


@dataclass(frozen=True, slots=True)
class Row:
    """One number: as recorded and as reproduced; None where one of the two runs has no such report."""

    step: int
    metric: str
    recorded: float | None
    reproduced: float | None

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


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A recorded trial beside its second training."""

    run: TrialRun
    rows: tuple[Row, ...]
    differences: tuple[str, ...]
    new_run_id: str

    @property
    def identical(self) -> bool:
        return bool(self.rows) and all(row.identical for row in self.rows)

    @property
    def distance(self) -> float:
        """The largest absolute difference."""
        return max((row.distance for row in self.rows), default=math.inf)


def reproduce(records: Records, run: TrialRun, home: Home, *, metric: str = "val_loss") -> Reproduction:
    """Train `run` again from its record alone: config, seed, threads and device.

    It is trained to its last recorded step: a pruned trial had no more, nor one that reached the sweep's target. The
    new run is recorded and linked to the old one. Raises `BadInputError` when the record lacks what is needed.
    """
    text = run.tags.get("swathe.config")
    if text is None:
        raise BadInputError(f"Run {run.run_id} has no tag swathe.config, so it is no trial that Swathe recorded.")
    recorded = records.history(run.run_id)
    if not recorded:
        raise BadInputError(f"Run {run.run_id} reported nothing, so there is nothing to compare.")
    then: dict[str, str] = json.loads(run.tags.get("swathe.geometry", "{}"))
    again = train_once(
        json.loads(text),
        home,
        number=run.number or 0,
        threads=int(then.get("threads", "1")),
        device=available(then.get("device", "cpu")),
        metric=metric,
        until=max(step for _, step in recorded),
    )
    rows = compare(recorded, as_recorded(again.history()))
    differences = conditions_that_differ(then, run.tags, again)
    tags = {**again.tags, "swathe.geometry": json.dumps(dict(again.geometry))}
    same = all(row.identical for row in rows)
    new_run_id = records.log_reproduction(run, again.reports, tags, identical=same)
    return Reproduction(run, rows, differences, new_run_id)


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
        f"{key}: recorded {then.get(key, 'unknown')}, now {again.geometry[key]}"
        for key in _CONDITIONS
        if then.get(key) != again.geometry[key]
    ]
    before, now = tags.get("swathe.dataset_digest"), again.tags.get("swathe.dataset_digest")
    if before != now:
        found.append(f"data: recorded digest {str(before)[:12]}, now {str(now)[:12]}")
    return tuple(found)


def available(device: str) -> str:
    """Return a recorded device, or the CPU where this machine has no GPU for it."""
    import torch

    return device if device == "cpu" or torch.cuda.is_available() else "cpu"
