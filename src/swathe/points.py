"""Points of several trials each, as those see them who look at one trial a point: the sampler, and what is shown."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from swathe.events import Direction, TrialState, Value
from swathe.overview import Repeats
from swathe.repetition import POINT_TAG, Repetition, is_not_needed, spread
from swathe.seen import Sight

if TYPE_CHECKING:
    from swathe.study import PastTrial

# The attribute in which Optuna keeps a trial's constraints (optuna/samplers/_base.py).
CONSTRAINTS = "constraints"
FROM_OPTUNA = {
    optuna.trial.TrialState.WAITING: TrialState.WAITING,
    optuna.trial.TrialState.RUNNING: TrialState.RUNNING,
    optuna.trial.TrialState.COMPLETE: TrialState.COMPLETE,
    optuna.trial.TrialState.PRUNED: TrialState.PRUNED,
    optuna.trial.TrialState.FAIL: TrialState.FAILED,
}
TO_OPTUNA = {ours: theirs for theirs, ours in FROM_OPTUNA.items()}


@dataclass(frozen=True, slots=True)
class Point:
    """A point as one trial: of a complete one the best repeat's number and the value of all; and its repeats."""

    as_trial: PastTrial
    repeats: tuple[PastTrial, ...]

    @property
    def values(self) -> dict[int, float]:
        """The values of a complete point's repeats, by number."""
        return {one.number: one.value for one in self.repeats if one.value is not None}

    def shown(self, repetition: Repetition) -> Repeats | None:
        """Return of what the value of a complete point is, as people read it; None for any other."""
        return Repeats(repetition.of, self.values, self.std) if self.as_trial.state is TrialState.COMPLETE else None

    @property
    def last(self) -> int:
        """The number of the repeat that ended last."""
        return max(self.repeats, key=lambda past: (past.ended or 0.0, past.number)).number

    @property
    def tags(self) -> dict[str, str]:
        """What the runs of a complete point's repeats have of it in MLflow."""
        value = self.as_trial.value
        return {f"{POINT_TAG}_value": f"{value:.6g}", f"{POINT_TAG}_std": f"{self.std:.3g}"}

    @property
    def std(self) -> float:
        """The standard deviation of those."""
        return spread([*self.values.values()])


def points(history: Iterable[PastTrial], repetition: Repetition, direction: Direction) -> list[Point]:
    """Return the points of trials by number, in their order."""
    grouped = groupby(history, key=lambda past: repetition.head(past.number))
    return [_point(tuple(members), repetition, direction) for _, members in grouped]


def points_of(history: Sequence[PastTrial], repetition: Repetition, direction: Direction) -> Sequence[PastTrial]:
    """Return the points of trials as one trial each; where a point is one trial, these themselves."""
    if not repetition.several:
        return history
    return [point.as_trial for point in points(history, repetition, direction)]


def _point(members: tuple[PastTrial, ...], repetition: Repetition, direction: Direction) -> Point:
    state = repetition.state([past.state for past in members])
    values = {past.number: past.value for past in members if past.value is not None}
    reports = common_reports([past.values for past in members], repetition, direction)
    chosen, value, ended = members[0], None, None
    if state is TrialState.COMPLETE:
        number = repetition.best(values, direction)
        chosen = next(past for past in members if past.number == number)
        value = repetition.value([*values.values()], direction)
        ended = max((past.ended for past in members if past.ended is not None), default=None)
        chosen = replace(chosen, attrs={**chosen.attrs, **_mean_metrics(members)})
    elif state.final:
        # That by which the point is out, and not one that was not needed any more.
        ends = [past for past in members if past.state is state]
        chosen = next((past for past in ends if not is_not_needed(past.attrs)), ends[0])
        ended = chosen.ended
    whole = replace(
        chosen,
        state=state,
        value=value,
        values=reports,
        ended=ended,
        feasible=all(past.feasible for past in members),
    )
    return Point(whole, members)


def _mean_metrics(members: Iterable[PastTrial]) -> dict[str, Value]:
    told = [json.loads(str(past.attrs.get("metrics", "{}"))) for past in members]
    metrics = mean_of(told)
    return {"metrics": json.dumps(metrics)} if metrics else {}


def mean_of(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric that all of these have."""
    first, *others = metrics
    shared = [name for name in first if all(name in other for other in others)]
    mean = Repetition(len(metrics))
    return {name: mean.value([one[name] for one in metrics], Direction.MINIMIZE) for name in shared}


def common_reports(
    reports: Sequence[Mapping[int, float]], repetition: Repetition, direction: Direction
) -> dict[int, float]:
    """Return what repeats have reported together: at each step that all of them have which have reported at all."""
    told = [one for one in reports if one]
    if not told:
        return {}
    steps = sorted(set.intersection(*(set(one) for one in told)))
    return {step: repetition.value([one[step] for one in told], direction) for step in steps}


# As Optuna's trials.


def seen_points(repetition: Repetition, direction: Direction) -> Sight:
    """Return the sight of a study in which each point is one trial: its head, with the state and value of all."""

    def sight(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        grouped = groupby(trials, key=lambda trial: repetition.head(trial.number))
        return [_seen([*members], repetition, direction) for _, members in grouped]

    return sight


def _seen(members: Sequence[FrozenTrial], repetition: Repetition, direction: Direction) -> FrozenTrial:
    state = repetition.state([FROM_OPTUNA[trial.state] for trial in members])
    # What samplers keep in a trial's attributes is in the one that they have drawn.
    seen = copy.copy(members[0])
    seen.state = TO_OPTUNA[state]
    seen.intermediate_values = common_reports([one.intermediate_values for one in members], repetition, direction)
    seen._values = None
    if state is TrialState.COMPLETE:
        seen._values = [repetition.value([trial.values[0] for trial in members], direction)]
        seen.datetime_complete = max(one.datetime_complete for one in members if one.datetime_complete is not None)
    violations = [one.system_attrs[CONSTRAINTS] for one in members if CONSTRAINTS in one.system_attrs]
    if violations:
        worst = [max(each) for each in zip(*violations, strict=True)]
        seen._system_attrs = {**members[0].system_attrs, CONSTRAINTS: worst}
    return seen


def by_points(study: optuna.Study, repetition: Repetition) -> optuna.Study:
    """Return a study as it is, or with several repeats a copy in memory whose trials are the points that are over."""
    if not repetition.several:
        return study
    direction = Direction(study.direction.name.lower())
    seen = seen_points(repetition, direction)(study.get_trials(deepcopy=False))
    whole = optuna.create_study(study_name=study.study_name, direction=study.direction)
    whole.add_trials([_finished(trial) for trial in seen if trial.state.is_finished()])
    return whole


def _finished(trial: FrozenTrial) -> FrozenTrial:
    facts: dict[str, Any] = {
        "params": trial.params,
        "distributions": trial.distributions,
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "intermediate_values": trial.intermediate_values,
    }
    return optuna.trial.create_trial(state=trial.state, values=trial.values, **facts)
