"""What a seed decides of a simulated sweep before it begins: its size, its faults, and how each trial would go."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from swathe.controller import Budget
from swathe.events import Direction, Report
from swathe.repetition import KINDS, Repetition
from swathe.training.diagnose import Action, Finding, Symptom

METRIC = "loss"
STOPPED = (Finding(Symptom.DIVERGED, "The training loss is 40.", "Lower it.", Action.STOP),)

_PRUNERS: tuple[Mapping[str, Any], ...] = (
    {"name": "none"},
    {"name": "asha", "min_resource": 1, "reduction_factor": 2},
    {"name": "asha", "min_resource": 2, "reduction_factor": 3},
    {"name": "median", "n_startup_trials": 3},
    {"name": "hyperband", "min_resource": 1, "max_resource": 9, "reduction_factor": 3},
    {"name": "threshold", "upper": 0.9},
)
# The structural keys of a sweep's trials; "" is a trial that has a worker to itself.
_KEYS = (("",), ("a",), ("a", "b"), ("", "a", "b"), ("a", "b", "c", "d", "e", "f"))


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong; rates are for one virtual second, shares for one delivery."""

    worker_dies: float = 0.0
    worker_stalls: float = 0.0
    driver_dies: float = 0.0
    stop_asked: float = 0.0
    commit_fails: float = 0.0
    recorder_away: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    # Deliveries of one worker overtake each other, which Ray's do not: then a last report may come after the end.
    overtaking: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """One simulated sweep; `journal`: its trials are in a journal file, so that its driver may die."""

    seed: int
    trials: int
    workers: int
    slots: tuple[int, ...]
    keys: tuple[str, ...]
    pruner: Mapping[str, Any]
    sampler: Mapping[str, Any]
    direction: Direction
    budget: Budget
    group: int
    journal: bool
    bad_trials: float
    faults: Faults
    ask_ahead: int | None
    # Only where it is set do trials hang.
    trial_timeout: float | None
    # After how many of their reports trials are kept, and how many of those cannot be read again.
    kept: float
    damaged: float
    # How many points the first trials are to take.
    points: int
    # How many trials are one point.
    repetition: Repetition
    # So many consecutive trials train together.
    population: int = 1

    @classmethod
    def drawn(cls, seed: int, trials: int = 50) -> Shape:
        """Return the sweep of a seed; every other one is small, as small ones meet more ends."""
        draw = random.Random(seed)
        count = trials if draw.random() < 0.5 else draw.randint(1, trials)
        repetition = _repetition(seed)
        count = max(repetition.count, repetition.head(count))
        journal = draw.random() < 0.6
        limit = draw.random()
        return cls(
            seed=seed,
            trials=count,
            workers=draw.choice([1, 2, 3, 5, 8, 8, 20, 200]),
            slots=tuple(draw.choices([1, 2, 3, 4, 8, 16, 64], k=3)),
            keys=draw.choice(_KEYS),
            pruner=draw.choice(_PRUNERS),
            sampler={"name": "grid"} if draw.random() < 0.1 else {"name": "random"},
            direction=draw.choice(list(Direction)),
            budget=Budget(
                trials=count,
                epochs=draw.randint(1, 4 * count) if limit < 0.1 else None,
                device_seconds=draw.uniform(1, 4 * count) if 0.1 < limit < 0.2 else None,
                target=draw.uniform(0.0, 0.2) if 0.2 < limit < 0.3 else None,
                wall_time=draw.uniform(1, count) if 0.3 < limit < 0.4 else None,
                patience=draw.randint(1, count) if 0.4 < limit < 0.5 else None,
            ),
            group=max(repetition.count, repetition.head(draw.choice([1, 1, 4]))),
            journal=journal,
            bad_trials=draw.choice([0.0, 0.05, 0.3]),
            faults=_faults(draw, journal=journal),
            ask_ahead=draw.choice([None, None, 0, 1, 10]),
            trial_timeout=8.0 if draw.random() < 0.25 else None,
            kept=draw.choice([0.0, 0.3, 1.0]),
            damaged=draw.choice([0.0, 0.0, 0.2]),
            points=draw.choice([0, 0, 1, 3]),
            repetition=repetition,
        )

    @classmethod
    def with_populations(cls, seed: int, trials: int = 50) -> Shape:
        """Return a sweep with a seed's faults whose trials are populations, of which nothing is kept on the way."""
        drawn = cls.drawn(seed, trials)
        size = 4 + seed % 5
        count = size * (1 + drawn.trials // size)
        return replace(
            drawn,
            trials=count,
            keys=("",),
            pruner={"name": "none"},
            sampler={"name": "random"},
            budget=replace(drawn.budget, trials=count),
            group=size,
            kept=0.0,
            points=0,
            repetition=Repetition(),
            population=size,
        )

    @property
    def faultless(self) -> Faults:
        """The faults of this sweep once it has had enough of them."""
        return Faults(overtaking=self.faults.overtaking)


def _repetition(seed: int) -> Repetition:
    draw = random.Random(f"repetition {seed}")
    return Repetition(draw.choice([2, 3, 5]), draw.choice(KINDS)) if draw.random() < 0.3 else Repetition()


def _faults(draw: random.Random, *, journal: bool) -> Faults:
    def maybe(rate: float, share: float = 0.5) -> float:
        return draw.uniform(0, rate) if draw.random() < share else 0.0

    return Faults(
        worker_dies=maybe(0.3),
        worker_stalls=maybe(0.3),
        driver_dies=maybe(0.1) if journal else 0.0,
        stop_asked=maybe(0.1, 0.3),
        commit_fails=maybe(0.02, 0.3) if journal else 0.0,
        recorder_away=maybe(0.1),
        twice=maybe(0.2),
        late=maybe(0.2),
        overtaking=draw.random() < 0.15,
    )


@dataclass(frozen=True, slots=True)
class Course:
    """How one trial goes wherever and whenever it runs: its length, its values, and how it ends by itself."""

    key: str
    length: int
    seconds: float
    values: tuple[float, ...]
    end: str

    def report(self, trial: int, step: int) -> Report:
        """Return what the trial reports at a step, from 1."""
        last = step == self.length
        if last and self.end == "nothing":
            return Report(trial, step, {"other": 1.0}, self.seconds)
        stopped = last and self.end == "stop"
        value = math.nan if last and self.end == "nan" else self.values[step - 1]
        findings, ends = (STOPPED, Action.STOP) if stopped else ((), None)
        return Report(trial, step, {METRIC: value}, self.seconds, float(step), findings, ends)


def course(shape: Shape, x: float, key: str, repeat: int = 0) -> Course:
    """Return the course of the trial with these parameters: a function of them, its seed and the sweep's."""
    draw = random.Random(f"{shape.seed} {x} {key}" + (f" {repeat}" if repeat else ""))
    length = draw.choice([1, 2, 3, 5, 9, 12])
    level = draw.random()
    # Few different values, so that there are ties.
    values = tuple(round(level * draw.uniform(0.5, 1.2), 2) for _ in range(length))
    bad = draw.random() < shape.bad_trials
    ends = ["raise", "nan", "nothing", "stop"] + (["hang"] if shape.trial_timeout is not None else [])
    end = draw.choice(ends) if bad else "complete"
    return Course(key, length, draw.choice([0.01, 0.1, 1.0]), values, end)
