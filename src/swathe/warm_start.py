"""Trials of earlier sweeps as what a sampler knows from its first draw on (`sweep.warm_start`).

They are recorded by value when the sweep is first launched, in its folder, so that it draws the same after the earlier
sweeps have grown or are gone. They are shown to the sampler alone (`swathe.seen`) and never written to the study: what
counts trials, finds the best or reports on a sweep reads its storage, and so does every other tool.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from swathe.enqueued import LARGEST, Point, member
from swathe.errors import BadInputError, bad_value
from swathe.events import TrialState, Value
from swathe.home import Home, SweepFolder, write_aside
from swathe.points import points_of
from swathe.seen import seen_trial
from swathe.study import PastTrial, Study

if TYPE_CHECKING:
    from swathe.config import ComposedSweep
    from swathe.objectives import Objective
    from swathe.space import Space

_FILE = "warm-start.json"
# Those that learn from trials which they have not drawn.
SAMPLERS = ("tpe", "bohb", "gp", "cmaes")
_SOURCES = "names of sweeps that were launched here, or files of `swathe import`"


@dataclass(frozen=True, slots=True)
class Earlier:
    """A trial of an earlier sweep that is complete or was pruned; `values` is what it reported, by step."""

    sweep: str
    number: int
    state: TrialState
    value: float | None
    values: Mapping[int, float]
    params: Mapping[str, Value]


def check(composed: ComposedSweep, home: Home, folder: SweepFolder) -> None:
    """Refuse a warm start that cannot be, as far as a look at the sweep's options and the sources' names tells.

    What was recorded at an earlier launch needs its sources no more. Raises `BadInputError`.
    """
    options = composed.sweep
    if not options.warm_start:
        if options.warm_start_best:
            raise bad_value("sweep.warm_start_best", options.warm_start_best, "0 without a sweep.warm_start")
        return
    if composed.goal.several:
        raise bad_value("sweep.warm_start", list(options.warm_start), "none with several objectives")
    if composed.goal.constraints:
        # Optuna's samplers want every trial to have the violations, or none.
        raise bad_value("sweep.warm_start", list(options.warm_start), "none with sweep.constraints")
    name = composed.sampler["name"]
    if name not in SAMPLERS:
        raise BadInputError(
            f"sweep.warm_start: with sampler={name} it is not allowed; allowed: with {', '.join(SAMPLERS)}, which "
            "learn from trials."
        )
    if name == "cmaes" and (composed.sampler.get("sigma0") or composed.sampler.get("use_separable_cma")):
        raise BadInputError(
            "sweep.warm_start: with sampler.sigma0 or sampler.use_separable_cma it is not allowed; allowed: without "
            "them, as the earlier trials say where and how widely CMA-ES begins."
        )
    if (folder.path / _FILE).exists():
        return
    for source in options.warm_start:
        if _is_file(source):
            _read_file(source, composed.goal.first)
        else:
            _check_sweep(source, home, composed)


def _is_file(source: str) -> bool:
    return source.endswith(".json")


def _check_sweep(name: str, home: Home, composed: ComposedSweep) -> None:
    if name == composed.name:
        raise bad_value("sweep.warm_start", name, "other sweeps than the one that begins")
    try:
        _, card = home.existing(name)
    except BadInputError as error:
        raise BadInputError(f"sweep.warm_start: {error}") from error
    if card.goal.objectives != composed.goal.objectives:
        aim = composed.goal.first
        allowed = f"sweeps that {aim.direction.value} {aim.metric}, as this one does"
        raise bad_value("sweep.warm_start", name, allowed)


def recorded(composed: ComposedSweep, home: Home, folder: SweepFolder) -> list[Earlier]:
    """Return the earlier trials of a sweep whose lock is held, which the first time are recorded in its folder.

    Raises `BadInputError` for a source without a complete trial.
    """
    if not composed.sweep.warm_start:
        return []
    path = folder.path / _FILE
    if path.exists():
        return read(path)
    earlier = [one for source in composed.sweep.warm_start for one in _gather(source, home, composed.goal.first)]
    objective = composed.goal.first
    write(path, earlier, objective.metric, objective.direction.value)
    return earlier


def _gather(source: str, home: Home, objective: Objective) -> list[Earlier]:
    if _is_file(source):
        found = _read_file(source, objective)
    else:
        folder, card = home.existing(source)
        study = Study.load(source, folder=folder.path, storage=card.storage)
        try:
            found = earlier_of(source, points_of(study.history(), card.repetition, objective.direction))
        finally:
            study.close()
    if not any(one.state is TrialState.COMPLETE for one in found):
        raise bad_value("sweep.warm_start", source, "a sweep with a trial that is complete")
    return found


def earlier_of(sweep: str, history: Iterable[PastTrial]) -> list[Earlier]:
    """Return the trials of a study that a sampler can learn from: complete and pruned ones, and feasible ones."""
    return [
        Earlier(sweep, past.number, past.state, past.value, past.values, past.params)
        for past in history
        if past.state in (TrialState.COMPLETE, TrialState.PRUNED) and past.feasible
    ]


# Files.


def write(path: Path, earlier: Sequence[Earlier], metric: str | None, direction: str) -> None:
    """Write earlier trials to a file, with the metric (where it is known) and the direction of their values."""
    trials = [{**asdict(one), "state": one.state.value} for one in earlier]
    write_aside(path, json.dumps({"metric": metric, "direction": direction, "trials": trials}).encode())


def read(path: Path) -> list[Earlier]:
    """Read what `write` has written; raises `BadInputError` with the file's name for anything else."""
    return _parse(_load(path), path)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInputError(f"sweep.warm_start: {path.name} cannot be read ({error}); allowed: {_SOURCES}.") from error


def _parse(body: Any, path: Path) -> list[Earlier]:
    try:
        return [
            Earlier(
                sweep=str(one["sweep"]),
                number=int(one["number"]),
                state=TrialState(one["state"]),
                value=None if one["value"] is None else float(one["value"]),
                values={int(step): float(value) for step, value in one["values"].items()},
                params={name: _held(value) for name, value in one["params"].items()},
            )
            for one in body["trials"]
        ]
    except OverflowError as error:
        raise BadInputError(
            f"sweep.warm_start: {path.name} has a number that is too large; allowed: numbers from {-LARGEST:.1e} to "
            f"{LARGEST:.1e}."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(f"sweep.warm_start: {path.name} holds no trials; allowed: {_SOURCES}.") from error


def _held(value: Value) -> Value:
    """Return a parameter's value as it is; raises `OverflowError` for an integer that no float holds."""
    if isinstance(value, int):
        float(value)
    return value


def _read_file(source: str, objective: Objective) -> list[Earlier]:
    path = Path(source)
    body = _load(path)
    found = _parse(body, path)
    if body.get("direction") != objective.direction.value or body.get("metric") not in (None, objective.metric):
        given = f"{body.get('direction')} {body.get('metric') or ''}".rstrip()
        raise BadInputError(
            f"sweep.warm_start: {path.name}, whose trials {given}, is not allowed; allowed: trials that "
            f"{objective.direction.value} {objective.metric}, as this sweep does."
        )
    return found


# Use.


def fitting(earlier: Iterable[Earlier], space: Space) -> list[FrozenTrial]:
    """Return earlier trials as trials of this space, with those of their parameters that fit.

    A parameter is dropped that the space does not have, whose value its distribution does not, or whose conditions do
    not hold among those that are kept; so is a trial of which nothing is left. All come before the first trial: Optuna
    weighs trials by their number, the later ones more.
    """
    trials = []
    for one in earlier:
        params = _fitting_params(one, space)
        if params:
            distributions = {name: space.parameters[name].distribution for name in params}
            state = _STATES[one.state]
            trials.append(
                seen_trial(-1, state, one.value, params=params, distributions=distributions, reports=one.values)
            )
    return trials


_STATES = {
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
}


def _fitting_params(one: Earlier, space: Space) -> dict[str, Value]:
    params: dict[str, Value] = {}
    for name, parameter in space.parameters.items():
        if name in one.params and all(condition.holds(params) for condition in parameter.conditions):
            try:
                params[name] = member(parameter.distribution, one.params[name])
            except ValueError:
                continue
    return params


def best_points(earlier: Iterable[Earlier], space: Space, count: int, objective: Objective) -> list[Point]:
    """Return the points of the best earlier trials, the best first, to be tried before anything is drawn."""
    complete = [one for one in earlier if one.state is TrialState.COMPLETE and one.value is not None]
    points: list[dict[str, Value]] = []
    for one in sorted(complete, key=lambda one: objective.loss(one.value or 0.0)):
        params = _fitting_params(one, space)
        if params and params not in points:
            points.append(params)
    return [Point(f"sweep.warm_start_best[{index}]", params) for index, params in enumerate(points[:count])]


def described(earlier: Sequence[Earlier], trials: Sequence[FrozenTrial], space: Space) -> str:
    """Say what a sweep begins with, in one sentence."""
    counts = Counter(one.sweep for one in earlier)
    named = ", ".join(f"{count} of {sweep}" for sweep, count in counts.items())
    always = {name for name, parameter in space.parameters.items() if not parameter.conditions}
    whole = sum(always <= trial.params.keys() for trial in trials)
    return f"Warm start: {len(earlier)} trials ({named}), of which {whole} have every parameter of this space."
