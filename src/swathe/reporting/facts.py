"""What the report knows of a sweep: trials and their space from Optuna, all else from MLflow."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from swathe import analysis
from swathe.errors import BadInputError
from swathe.events import Config, Direction, TrialState
from swathe.home import Home, SweepCard
from swathe.objectives import Goal
from swathe.overview import Repeats
from swathe.points import by_points, points_of
from swathe.records import Records, TrialRun
from swathe.reporting.stats import Axis, Fate, SweptTrial, best_of
from swathe.single_objective import by_first
from swathe.study import PastTrial
from swathe.tracking import shown

# Learning curves of so many of the best trials are shown.
CURVES = 6
# Metrics whose curves are shown beside the sweep's own, as far as they are reported.
_CURVE_METRICS = ("train_loss", "val_loss", "val_accuracy")


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric of one trial by step."""

    trial: int
    metric: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class SweepFacts:
    """A sweep as its two stores have it.

    `config`: the sweep's whole config. `runs`: the trials' MLflow runs by number. `axes`: the space, in its order.
    `groups`: those of its parameters that swap a group of the config. `fixed`: what every trial had alike; `varied`:
    what differed without being searched, such as the seed. `unfinished`: trials that are not over. `seconds`: from the
    first trial's start to the last one's end. `importances` add up to 1 and are empty where they are not known.
    `repeats`: how many trials are one point; where they are several, `trials` are points with the numbers of their best
    repeats, and `best_repeats` is of what the best one's value is.
    """

    name: str
    status: str
    metric: str
    direction: Direction
    command: str
    config: Config
    trials: tuple[SweptTrial, ...]
    unfinished: int
    runs: Mapping[int, TrialRun]
    axes: Mapping[str, Axis]
    groups: frozenset[str]
    importances: Mapping[str, float]
    fixed: Mapping[str, str]
    varied: tuple[str, ...]
    curves: tuple[Curve, ...]
    seconds: float
    goal: Goal
    repeats: int = 1
    best_repeats: Repeats | None = None

    @property
    def maximize(self) -> bool:
        return self.direction is Direction.MAXIMIZE

    @property
    def is_function(self) -> bool:
        return self.config.get("trainable") is not None

    @property
    def best(self) -> SweptTrial | None:
        return best_of(self.trials, maximize=self.maximize)

    def trial_config(self, number: int) -> Config:
        """Return the whole config that a trial was trained with."""
        return json.loads(self.runs[number].tags["swathe.config"])  # type: ignore[no-any-return]

    def geometry(self, number: int) -> dict[str, str]:
        """Return on what machine and how a trial was trained."""
        return json.loads(self.runs[number].tags.get("swathe.geometry", "{}"))  # type: ignore[no-any-return]


def read(home: Home, name: str) -> SweepFacts:
    """Read everything; raises `BadInputError` when no trial of the sweep is over yet."""
    _, card = home.existing(name)
    overview = analysis.leaders(home, name, top=0)[0]
    study = analysis.open_study(home, name)
    try:
        history = study.history()
        axes = _axes(study.optuna_study)
        importances = _importances(by_first(by_points(study.optuna_study, card.repetition)))
    finally:
        study.close()
    direction = Direction(card.direction)
    history = [*points_of(history, card.repetition, direction)]
    over = [past for past in history if past.state.final]
    if not over:
        raise BadInputError(f"Sweep {name!r} has no trial that is over yet, so there is nothing to report.")
    records = Records(card.tracking_uri)
    config: Config = yaml.safe_load(records.sweep_text(card.experiment, name, "config.yaml"))
    runs = {run.number: run for run in records.trial_runs(card.experiment, name)}
    function = config.get("trainable") is not None
    costs = {past.number: _costs(past.number, card, runs, function=function) for past in over}
    trials = tuple(_swept(past, runs.get(past.number), costs[past.number], function=function) for past in over)
    fixed, varied = _not_searched(list(runs.values()), axes)
    ends = [run.end for run in runs.values() if run.end is not None]
    return SweepFacts(
        name=name,
        status=shown(overview.status),
        metric=card.metric,
        direction=direction,
        command=shown(card.command),
        config=config,
        trials=trials,
        unfinished=len(history) - len(over),
        runs=runs,
        axes=axes,
        groups=frozenset(axis for axis in axes if isinstance(config.get(axis), Mapping)),
        importances=importances,
        fixed=fixed,
        varied=varied,
        curves=_curves(records, _best_runs(trials, runs, direction), card.metric),
        seconds=max(ends) - min(run.start for run in runs.values()) if ends else 0.0,
        goal=card.goal,
        repeats=card.repeats,
        best_repeats=overview.repeats,
    )


def _costs(number: int, card: SweepCard, runs: Mapping[int, TrialRun], *, function: bool) -> float:
    """Return what all repeats of a trial's point took of a device (seconds)."""
    own = (runs[one] for one in card.repetition.members(number) if one in runs)
    return sum(_device_seconds(run, function=function) for run in own)


def axis(name: str, distribution: BaseDistribution) -> Axis:
    """Return a parameter's axis from its distribution."""
    match distribution:
        case CategoricalDistribution():
            return Axis(name, choices=tuple(distribution.choices))
        case IntDistribution() | FloatDistribution():
            step = None if distribution.step is None else float(distribution.step)
            return Axis(name, (), float(distribution.low), float(distribution.high), distribution.log, step)
    raise TypeError(f"{name}: {type(distribution).__name__} is no distribution of Optuna's.")


def fate(past: PastTrial) -> Fate:
    """Return how a trial ended, which Optuna's state and Swathe's reason say together."""
    match past.state:
        case TrialState.FAILED:
            return Fate.FAILED
        case TrialState.COMPLETE:
            return Fate.COMPLETE
    reason = str(past.attrs.get("reason", ""))
    if reason.startswith("diverged"):
        return Fate.DIVERGED
    return Fate.PRUNED if reason.startswith("pruned") else Fate.STOPPED


def _axes(study: optuna.Study) -> dict[str, Axis]:
    found: dict[str, Axis] = {}
    for trial in study.get_trials(deepcopy=False):
        for name in trial.params:
            if name not in found:
                found[name] = axis(name, trial.distributions[name])
    return found


def _importances(study: optuna.Study) -> dict[str, float]:
    """Return PED-ANOVA's importances over the complete trials (Watanabe et al. 2023), the largest first."""
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _swept(past: PastTrial, run: TrialRun | None, seconds: float, *, function: bool) -> SweptTrial:
    return SweptTrial(
        number=past.number,
        params=past.params,
        fate=fate(past),
        first=_finite(past.values[min(past.values)]) if past.values else None,
        value=None if (value := analysis.last_value(past)) is None else _finite(value),
        step=max(past.values, default=0),
        planned=None if function or run is None else _epochs(run),
        seconds=seconds,
        objectives=past.objectives,
        feasible=past.feasible,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _epochs(run: TrialRun) -> int | None:
    epochs = run.params.get("epochs", "")
    return int(epochs) if epochs.isdecimal() else None


def _device_seconds(run: TrialRun, *, function: bool) -> float:
    """Return a recipe's own count, which knows how many lanes shared the device; of a function, from start to end."""
    if not function and math.isfinite(seconds := run.metrics.get("seconds", math.nan)):
        return seconds
    return 0.0 if run.end is None else max(0.0, run.end - run.start)


def _not_searched(runs: Sequence[TrialRun], axes: Mapping[str, Axis]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the parameters outside of the space that are alike in all runs that have them, and those that are not."""
    from swathe.mlflow_runs import clean_name

    searched = {clean_name(name) for name in axes}
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, value in run.params.items():
            if key not in searched:
                values.setdefault(key, set()).add(value)
    fixed = {key: next(iter(found)) for key, found in sorted(values.items()) if len(found) == 1}
    return fixed, tuple(key for key, found in sorted(values.items()) if len(found) > 1)


def _best_runs(trials: Sequence[SweptTrial], runs: Mapping[int, TrialRun], direction: Direction) -> list[TrialRun]:
    sign = 1.0 if direction is Direction.MINIMIZE else -1.0
    ranked = sorted(
        (trial for trial in trials if best_of([trial], maximize=False) is not None and trial.number in runs),
        key=lambda trial: (sign * (trial.value or 0.0), trial.number),
    )
    return [runs[trial.number] for trial in ranked[:CURVES]]


def _curves(records: Records, runs: Sequence[TrialRun], metric: str) -> tuple[Curve, ...]:
    from swathe.mlflow_runs import clean_name

    wanted = list(dict.fromkeys([clean_name(metric), *_CURVE_METRICS]))
    curves = []
    for run in runs:
        history = records.history(run.run_id)
        for name in wanted:
            points = sorted((step, value) for (key, step), value in history.items() if key == name)
            if points:
                steps, values = zip(*points, strict=True)
                curves.append(Curve(run.number, name, steps, values))
    return tuple(curves)
