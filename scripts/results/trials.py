"""A sweep's trials as their record has them, and what is measured of one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swathe import analysis
from swathe.errors import SwatheError
from swathe.events import TrialState, Value
from swathe.home import Home
from swathe.records import Records
from swathe.study import Study

# Accuracy of a guess among ten classes, which is what a network is worth whose training diverged.
GUESS = 0.1

Measure = Callable[["Trial"], float]


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: its drawn parameters, how it ended (`complete`, `diverged` ...), and its reports.

    `history` has each metric's values by epoch; `config` is all that training it again takes.
    """

    params: Mapping[str, Value]
    state: str
    history: Mapping[str, Mapping[int, float]]
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return int(self.params["seed"])  # type: ignore[arg-type]

    def last(self, metric: str) -> float:
        """Return the last reported value, NaN where there is none."""
        values = self.history.get(metric, {})
        return values[max(values)] if values else math.nan

    def first(self, metric: str) -> float:
        """Return the first reported value, NaN where there is none."""
        values = self.history.get(metric, {})
        return values[min(values)] if values else math.nan


@dataclass(frozen=True, slots=True)
class Record:
    """A sweep's complete record: its trials, and what each ran on (engine, device, versions)."""

    trials: Sequence[Trial]
    geometries: Sequence[Mapping[str, str]]


def read(home: Home, sweep: str) -> Record:
    """Read a sweep that is over; raises `SwatheError` where trials failed, since a claim is not read from a part."""
    folder, card = home.existing(sweep)
    study = Study.load(sweep, folder=folder.path, storage=card.storage)
    params = {past.number: past.params for past in study.history()}
    failed = [past.number for past in study.history() if past.state is TrialState.FAILED]
    study.close()
    if failed:
        raise SwatheError(f"Sweep {sweep!r} has failed trials ({', '.join(map(str, failed))}): see swathe status.")
    records = Records(card.tracking_uri)
    runs = records.trial_runs(*analysis.experiment(home, sweep)[1:], sweep)
    trials = []
    for run in runs:
        history: dict[str, dict[int, float]] = {}
        for (metric, step), value in records.history(run.run_id).items():
            history.setdefault(metric, {})[step] = value
        trials.append(Trial(params[run.number], run.state, history, json.loads(run.tags["swathe.config"])))
    return Record(trials, [json.loads(run.tags["swathe.geometry"]) for run in runs])


# What is measured of one trial.


def accuracy(trial: Trial) -> float:
    """Return the last validation accuracy, that of a guess where the training diverged."""
    last = trial.last("val_accuracy")
    return last if math.isfinite(last) else GUESS


def worse_than_a_guess(trial: Trial) -> bool:
    """Whether the last validation loss is not finite or above that of a guess among ten classes, ln 10.

    So is a network that has diverged, and one that has hardly begun to learn.
    """
    last = trial.last("val_loss")
    return not last <= math.log(10)


def epochs_to(trial: Trial, target: float) -> float:
    """Return the first epoch with a validation accuracy of `target` or more, infinity where there is none."""
    values = trial.history.get("val_accuracy", {})
    return min((epoch for epoch, value in values.items() if value >= target), default=math.inf)


def seconds_to(trial: Trial, target: float) -> float:
    """Return the seconds of training and validation until that epoch, infinity where there is none."""
    epoch = epochs_to(trial, target)
    return trial.history["seconds"][int(epoch)] if math.isfinite(epoch) else math.inf


# Groups of trials.


def grouped(trials: Sequence[Trial], *names: str) -> dict[tuple[Value, ...], list[Trial]]:
    """Return the trials of each combination of the named parameters, None where a trial has no such parameter."""
    groups: dict[tuple[Value, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(tuple(trial.params.get(name) for name in names), []).append(trial)
    return groups


def by_seed(trials: Sequence[Trial], measure: Measure) -> dict[int, float]:
    """Return a measure of the trials of one setting by their seeds."""
    return {trial.seed: measure(trial) for trial in trials}


def mean_curve(trials: Sequence[Trial], metric: str) -> dict[int, list[float]]:
    """Return the values of all trials at each epoch that all of them reported, where all are finite."""
    epochs = set.intersection(*(set(trial.history.get(metric, {})) for trial in trials))
    curve = {epoch: [trial.history[metric][epoch] for trial in trials] for epoch in sorted(epochs)}
    return {epoch: values for epoch, values in curve.items() if all(map(math.isfinite, values))}
