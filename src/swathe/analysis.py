"""What the reading commands show: everything comes from the study (states) and from MLflow (what people compare)."""

from __future__ import annotations

import heapq
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import yaml

from swathe.diagnosis import TAG, count_symptoms, symptoms_of
from swathe.errors import BadInputError, SwatheError, bad_value
from swathe.events import Direction, TrialState
from swathe.home import SINCE, Home, SweepCard, SweepFolder, describe_driver
from swathe.objectives import Goal, Losses, Objective
from swathe.objectives import front_of as numbers_on_front
from swathe.overview import LATEST, Best, FrontTrial, Overview, Repeats, Row, Session
from swathe.points import Point, mean_of, points, points_of
from swathe.population import LINEAGE
from swathe.records import Records, TrialRun
from swathe.study import PastTrial, Study
from swathe.tracking import shown

_HIGHER_IS_BETTER = re.compile(r"acc|auc|f1|precision|recall|r2|reward|score|examples_per_second")
# Numbers of complete trials that a refusal names, at most.
_SHOWN_NUMBERS = 8
# Metrics of a sweep's own run that say how full its lanes are, by the names that `swathe status` has for them.
_LANES = {
    "live": "lanes_live",
    "lanes": "lanes",
    "occupancy": "occupancy",
    "occupancy_mean": "occupancy_mean",
    "occupancy_until_tail": "occupancy_until_tail",
}
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def _study(home: Home, name: str) -> tuple[SweepCard, Study]:
    folder, card = home.existing(name)
    return card, Study.load(name, folder=folder.path, storage=card.storage)


def open_study(home: Home, name: str) -> Study:
    """Open a sweep's study to read it."""
    return _study(home, name)[1]


def overview(home: Home, name: str) -> Overview:
    """Read how a sweep stands, and how full its lanes are."""
    found = leaders(home, name, top=0)[0]
    # MLflow, whose import takes seconds, need not be asked for what the driver says.
    told = found.running and found.session is not None
    return found if told else replace(found, lanes=lanes(home, name))


def lanes(home: Home, name: str) -> dict[str, float]:
    """Read how full a sweep's lanes were from MLflow; empty where trials are no lanes, or nothing is recorded."""
    folder, card = home.existing(name)
    try:
        config = yaml.safe_load(folder.config_file.read_text())
    except FileNotFoundError:
        return {}
    if not isinstance(config, dict) or config.get("trainable") is not None:
        # A function is no lane.
        return {}
    try:
        metrics = Records(card.tracking_uri).sweep_metrics(card.experiment, name)
    except SwatheError:
        # It has nothing yet, or is away: how the trials stand is known all the same.
        return {}
    return {key: metrics[recorded] for key, recorded in _LANES.items() if recorded in metrics}


def overviews(home: Home) -> list[Overview]:
    """Read how each sweep of the home stands; one that cannot be read says so, and why, in its status."""
    return [_overview_or_reason(home, folder.name) for folder in home.sweeps()]


def _overview_or_reason(home: Home, name: str) -> Overview:
    try:
        return overview(home, name)
    except SwatheError as error:
        return Overview(
            name=name,
            status=f"cannot be read: {str(error).rstrip('.')}",
            metric="",
            direction="",
            trials=0,
            counts={},
            best=None,
            best_params={},
            failures=(),
            command="",
        )


def leaders(home: Home, name: str, *, top: int) -> tuple[Overview, list[Row]]:
    """Read how a sweep stands and its `top` trials from the study alone, which takes no import of MLflow."""
    # Before the trials are read: a driver that begins meanwhile finds its trials shown as waiting, never the reverse.
    driver = home.sweep(name).driver()
    card, study = _study(home, name)
    history = as_driven(study.history(), driver)
    session = session_of(study.session, driver)
    study.close()
    goal = card.goal
    found = _as_trials(card, history)
    repeats = repeats_of(card, history)
    front = {past.number for past in front_of(found, goal)}
    behind = _behind(found, goal, front)

    def rank(past: PastTrial) -> tuple[bool, bool, bool, float, int]:
        value, partial = last_value(past), past.state is not TrialState.COMPLETE
        return _rank(value, partial, past.number, goal.first, behind=past.number in behind)

    best_first = sorted((past for past in found if past.values), key=rank)[:top] if top else []
    rows = []
    for past in best_first:
        metrics = {card.metric: last_value(past), **json.loads(str(past.attrs.get("metrics", "{}")))}
        if card.repetition.several:
            metrics[card.metric] = last_value(past)
        symptoms = symptoms_of(past.attrs.get("diagnosis"))
        row = Row(past.number, "", past.state.value, metrics, past.params, symptoms, repeats=repeats.get(past.number))
        rows.append(replace(row, front=past.number in front, feasible=past.feasible))
    return summary(home, name, card, history, driver, session), rows


def session_of(plain: Any, driver: Mapping[str, Any] | None) -> Session | None:
    """Return what a study's driver said last; of one that has said nothing yet, not what the one before it said."""
    said = Session.from_dict(plain)
    since = (driver or {}).get("since")
    if said is None or since is None:
        return said
    return said if said.at >= time.mktime(time.strptime(since, SINCE)) else None


def as_driven(history: Sequence[PastTrial], driver: Mapping[str, Any] | None) -> Sequence[PastTrial]:
    """Return trials in the states that they are in: without a driver nobody runs those that Optuna has as running."""
    if driver is not None:
        return history
    # Drawn ahead, or on a worker when the driver died.
    return [replace(past, state=TrialState.WAITING) if past.state is TrialState.RUNNING else past for past in history]


def _rank(
    value: float | None, partial: bool, number: int, objective: Objective, *, behind: bool
) -> tuple[bool, bool, bool, float, int]:
    """Return what sorts trials best first, those `behind` after the others and those without a value last."""
    missing = value is None or value != value
    return missing, partial, behind, 0.0 if value is None or missing else objective.loss(value), number


def _behind(history: Sequence[PastTrial], goal: Goal, front: Set[int]) -> set[int]:
    """Return the trials that break a constraint, and of several objectives those that another dominates."""
    if goal.plain:
        return set()
    good = front if goal.several else {past.number for past in history if past.feasible}
    return {past.number for past in history} - good


def front_of(history: Sequence[PastTrial], goal: Goal) -> list[PastTrial]:
    """Return the complete trials that no other dominates, the best in the first objective first; none of one alone."""
    if not goal.several:
        return []
    trials = {past.number: past for past in history if past.objectives and past.feasible}
    return [trials[number] for number in numbers_on_front(_losses(trials.values(), goal))]


def _losses(trials: Iterable[PastTrial], goal: Goal) -> Iterator[tuple[int, Losses]]:
    return ((past.number, goal.losses(past.objectives)) for past in trials)


def repeats_of(card: SweepCard, history: Sequence[PastTrial]) -> dict[int, Repeats]:
    """Return of what the values of complete points are, by the numbers of these; empty where a point is one trial."""
    if not card.repetition.several:
        return {}
    shown = {one.as_trial.number: one.shown(card.repetition) for one in _points(card, history)}
    return {number: repeats for number, repeats in shown.items() if repeats is not None}


def _points(card: SweepCard, history: Sequence[PastTrial]) -> list[Point]:
    return points(history, card.repetition, card.goal.first.direction)


def _as_trials(card: SweepCard, history: Sequence[PastTrial]) -> Sequence[PastTrial]:
    """Return the points of a sweep as one trial each; where a point is one trial, these themselves."""
    return points_of(history, card.repetition, card.goal.first.direction)


def winner(card: SweepCard, history: Sequence[PastTrial]) -> PastTrial | None:
    """Return the best of a sweep's trials, or of its points with their values; None where there is none."""
    return winner_of(_as_trials(card, history), card.goal)


def last_value(past: PastTrial) -> float | None:
    """Return what a trial reported last; of a complete point of several, its value."""
    if past.state is TrialState.COMPLETE and past.value is not None:
        return past.value
    return past.values[max(past.values)] if past.values else past.value


def summary(
    home: Home,
    name: str,
    card: SweepCard,
    history: Sequence[PastTrial],
    driver: Mapping[str, Any] | None,
    session: Session | None = None,
) -> Overview:
    """Return how a sweep stands from its trials, in the states that they are in, and what its driver said last."""
    counts: Counter[TrialState] = Counter(past.state for past in history)
    failures: Counter[str] = Counter(
        str(past.attrs.get("reason", "unknown")) for past in history if past.state is TrialState.FAILED
    )
    symptoms = count_symptoms(past.attrs.get("diagnosis") for past in history if past.state.final)
    goal = card.goal
    best = winner(card, history)
    complete = [past for past in history if past.state is TrialState.COMPLETE]
    return Overview(
        name=name,
        status=_status(home.sweep(name), card, history, driver),
        metric=card.metric,
        direction=card.direction,
        trials=card.trials,
        counts=counts,
        best=None if best is None or best.value is None else (best.number, best.value),
        best_params={} if best is None else best.params,
        failures=failures.most_common(5),
        command=card.command,
        diagnosis=dict(symptoms.most_common()),
        latest=_latest_diagnoses(history),
        session=session,
        metrics=goal.metrics,
        directions=tuple(direction.value for direction in goal.directions),
        constraints=card.constraints,
        front=[FrontTrial(past.number, past.objectives, past.params) for past in front_of(history, goal)],
        feasible=sum(past.feasible for past in complete) if goal.constraints else None,
        repeats=None if best is None else repeats_of(card, history).get(best.number),
        best_changed=best is not None and LINEAGE in best.attrs,
    )


def _latest_diagnoses(history: Sequence[PastTrial]) -> list[tuple[int, Sequence[str]]]:
    diagnosed = [past for past in history if past.state.final and past.attrs.get("diagnosis")]
    last = heapq.nlargest(LATEST, diagnosed, key=lambda past: (past.ended or 0.0, past.number))
    return [(past.number, symptoms_of(past.attrs["diagnosis"])) for past in last]


def winner_of(history: Sequence[PastTrial], goal: Goal) -> PastTrial | None:
    """Return the best complete trial that keeps the constraints, of several objectives by the first; None without."""
    if goal.several:
        return next(iter(front_of(history, goal)), None)
    good = [past for past in history if may_be_best(past)]
    return min(good, key=lambda past: (goal.first.loss(past.value or 0.0), past.number), default=None)


def may_be_best(past: PastTrial) -> bool:
    """Whether a trial is complete and keeps the constraints."""
    return past.state is TrialState.COMPLETE and past.value is not None and past.feasible


def _status(
    folder: SweepFolder, card: SweepCard, history: Sequence[PastTrial], driver: Mapping[str, Any] | None
) -> str:
    if driver is not None:
        return f"running, {describe_driver(driver)}"
    ending = folder.ending()
    over = sum(past.state.final for past in history)
    if ending is not None and not ending["interrupted"]:
        return f"{'failed' if ending['failed'] else 'finished'}: {ending['reason']}"
    return f"stopped with {over} of {card.trials} trials; go on with: {card.command}"


def compare(home: Home, name: str, *, top: int, sort: str | None = None) -> list[Row]:
    """Return the `top` trials by the sweep's metric, or by the recorded metric `sort`; raises as `compare_of` does."""
    card, study = _study(home, name)
    history = study.history()
    study.close()
    runs = Records(card.tracking_uri).trial_runs(card.experiment, name)
    return compare_of(card, history, runs, top=top, sort=sort)


def compare_of(
    card: SweepCard, history: Sequence[PastTrial], runs: Sequence[TrialRun], *, top: int, sort: str | None
) -> list[Row]:
    """Return the `top` of these recorded trials by the sweep's metric, or by the recorded metric `sort`.

    By the sweep's own, trials that break a constraint come after the others, and of several objectives the front comes
    first, by the first of them. Rows have these metrics under their own names, and all others under those that MLflow
    takes. Other metrics than the sweep's own sort downwards where their name says that higher is better. Where points
    are several trials each, these are meant. Raises `BadInputError` for a metric that no trial has.
    """
    repeats = repeats_of(card, history)
    if card.repetition.several:
        runs = _runs_of_points(card, history, runs)
        history = _as_trials(card, history)
    params = {past.number: past.params for past in history}
    # Sets MLflow's environment before MLflow is imported, as `Records` does.
    from swathe.mlflow_runs import clean_name

    goal = card.goal
    metric = clean_name(sort or card.metric)
    known = sorted({key for run in runs for key in run.metrics})
    if sort is not None and metric not in known:
        raise bad_value("--sort", sort, ", ".join(known) or "none, since no metric is recorded yet")
    if metric == clean_name(card.metric):
        higher = card.direction == Direction.MAXIMIZE.value
    else:
        higher = _HIGHER_IS_BETTER.search(metric) is not None
    objective = Objective(metric, Direction.MAXIMIZE if higher else Direction.MINIMIZE)
    own_names = {clean_name(name): name for name in (*goal.metrics, sort) if name is not None}
    on_front = {past.number for past in front_of(history, goal)}
    behind = _behind(history, goal, on_front) if sort is None else set()
    infeasible = {past.number for past in history if not past.feasible}

    def rank(run: TrialRun) -> tuple[bool, bool, bool, float, int]:
        # By the sweep's own metric a complete trial comes before any that was stopped on the way.
        partial = sort is None and run.state != "complete"
        return _rank(run.metrics.get(metric), partial, run.number, objective, behind=run.number in behind)

    return [
        Row(
            run.number,
            run.run_id,
            run.state,
            {own_names.get(key, key): value for key, value in run.metrics.items()},
            params.get(run.number, {}),
            symptoms_of(run.tags.get(TAG)),
            front=run.number in on_front,
            feasible=run.number not in infeasible,
            repeats=repeats.get(run.number),
        )
        for run in sorted(runs, key=rank)[:top]
    ]


def _runs_of_points(card: SweepCard, history: Sequence[PastTrial], runs: Sequence[TrialRun]) -> list[TrialRun]:
    """Return the run of each point's best trial with the means of all of its runs' metrics, and the point's value."""
    from swathe.mlflow_runs import clean_name

    known = {run.number: run for run in runs}
    found = []
    for point in _points(card, history):
        whole = point.as_trial
        own = [known[past.number] for past in point.repeats if past.number in known]
        if whole.number not in known:
            continue
        metrics = mean_of([run.metrics for run in own])
        value = last_value(whole)
        if value is not None:
            metrics[clean_name(card.metric)] = value
        found.append(replace(known[whole.number], state=whole.state.value, metrics=metrics))
    return found


def best(home: Home, name: str, trial: int | None = None) -> Best:
    """Return the best complete trial, or the one named; raises `BadInputError` when there is none."""
    card, study = _study(home, name)
    history = study.history()
    study.close()
    records = Records(card.tracking_uri)
    return best_of(card, history, lambda number: records.trial(card.experiment, name, number), trial)


def best_of(
    card: SweepCard, history: Sequence[PastTrial], run_of: Callable[[int], TrialRun], trial: int | None = None
) -> Best:
    """Return the best of these trials, or the one named, with its run; raises `BadInputError` when there is none."""
    name, goal = card.name, card.goal
    found = winner(card, history) if trial is None else _complete(history, trial)
    if found is None or found.value is None:
        raise BadInputError(_none_is_best(card, history))
    run = run_of(found.number)
    return Best(
        sweep=name,
        trial=found.number,
        metric=card.metric,
        value=found.value,
        run_id=run.run_id,
        config=json.loads(run.tags["swathe.config"]),
        geometry=json.loads(run.tags["swathe.geometry"]),
        others=dict(zip(goal.metrics[1:], found.objectives[1:], strict=True)),
        repeats=repeats_of(card, history).get(found.number) if trial is None else None,
        lineage=json.loads(run.tags.get(LINEAGE, "[]")),
    )


def _complete(history: Sequence[PastTrial], number: int) -> PastTrial:
    """Return a complete trial; raises `BadInputError` for one that is not."""
    found = next((past for past in history if past.number == number), None)
    if found is None or found.state is not TrialState.COMPLETE:
        complete = [past.number for past in history if past.state is TrialState.COMPLETE]
        some = ", ".join(map(str, complete[:_SHOWN_NUMBERS])) + (", ..." if len(complete) > _SHOWN_NUMBERS else "")
        raise bad_value("--trial", number, f"a complete trial: {some or 'there is none'}")
    return found


def _none_is_best(card: SweepCard, history: Sequence[PastTrial]) -> str:
    found = _as_trials(card, history)
    what = f"point of {card.repeats} trials" if card.repetition.several else "trial"
    complete = sum(past.state is TrialState.COMPLETE for past in found)
    if not complete:
        return f"Sweep {card.name!r} has no complete {what} yet, so it has no best one."
    bounds = ", ".join(map(str, card.goal.constraints))
    whats = "points" if card.repetition.several else "trials"
    return f"None of the {complete} complete {whats} of sweep {card.name!r} keeps its constraints ({bounds})."


def best_numbers(home: Home, name: str) -> list[int]:
    """Return the numbers of a sweep's best trials: one, of several objectives the whole front, of a point all repeats.

    Raises `BadInputError` when there is none.
    """
    card, study = _study(home, name)
    history = study.history()
    study.close()
    best = winner(card, history)
    if best is None:
        raise BadInputError(_none_is_best(card, history))
    return [past.number for past in front_of(history, card.goal)] or [*card.repetition.members(best.number)]


def experiment(home: Home, name: str) -> tuple[str, str]:
    """Return where the sweep is recorded: MLflow's URI and the experiment's name."""
    _, card = home.existing(name)
    return card.tracking_uri, card.experiment


def is_run_id(home: Home, target: str) -> bool:
    """Whether what the user named is a run in MLflow, and no sweep of the home."""
    return _RUN_ID.fullmatch(target) is not None and home.sweep(target).card() is None


def runs_to_reproduce(home: Home, target: str, trials: Sequence[int]) -> tuple[Records, list[TrialRun], str]:
    """Find the recorded runs that `swathe reproduce TARGET --trial N ...` means, and the sweep's metric.

    A run id is looked for in the home's own database and wherever a sweep of the home is recorded.
    """
    if is_run_id(home, target):
        if trials:
            raise bad_value("--trial", trials[0], "a trial of a sweep that is named, while a RUN_ID is one run already")
        records, run = find_run(home, target)
        return records, [run], run.tags.get("swathe.metric", "val_loss")
    _, card = home.existing(target)
    records = Records(card.tracking_uri)
    numbers = list(trials) or best_numbers(home, target)
    return records, [records.trial(card.experiment, target, number) for number in numbers], card.metric


def find_run(home: Home, run_id: str) -> tuple[Records, TrialRun]:
    """Find a run in the home's own database, or wherever a sweep of the home is recorded."""
    uris = list(dict.fromkeys([home.tracking_uri, *(card.tracking_uri for card in home.cards())]))
    away: SwatheError | None = None
    for uri in uris:
        records = Records(uri)
        try:
            return records, records.run(run_id)
        except BadInputError:
            # It is not there, or nothing is.
            continue
        except SwatheError as error:
            away = error
    if away is not None:
        raise away
    places = ", ".join(shown(uri) for uri in uris)
    raise bad_value("SWEEP|RUN_ID", run_id, f"a sweep of {home.path}, or a run in MLflow at {places}")
