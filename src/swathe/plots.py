"""Optuna's plots of a study on one HTML page that opens offline, and its trials as a table."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import (
    plot_intermediate_values,
    plot_optimization_history,
    plot_parallel_coordinate,
    plot_pareto_front,
    plot_slice,
)
from plotly import graph_objects

from swathe.single_objective import by_first

# More trials than that are a grey surface in a plot and take seconds to draw: history and slices show the newest,
# parallel coordinates and learning curves the best.
SHOWN_POINTS = 2000
SHOWN_LINES = 200
# Objectives of a front that can be drawn.
MOST_DRAWN = 3


def page(study: optuna.Study, metric: str, others: Sequence[str] = ()) -> str:
    """Return history, importance, parallel coordinates, slices and intermediate values of `study`, as one page.

    With `others`, further objectives, these are about the first one, and the front comes first. plotly.js is in it
    once, so that it opens in MLflow's viewer without a network.
    """
    whole, study = study, by_first(study)
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    recent = _study(study, trials[-SHOWN_POINTS:])
    best = _study(study, _best(trials, study.direction)[:SHOWN_LINES])
    plots: list[tuple[str, Callable[[], Any]]] = [
        ("History", lambda: plot_optimization_history(recent, target_name=metric)),
        ("Importance", lambda: _importance(recent)),
        ("Parallel coordinates", lambda: plot_parallel_coordinate(best, target_name=metric)),
        ("Slices", lambda: plot_slice(recent, target_name=metric)),
        ("Intermediate values", lambda: plot_intermediate_values(best)),
    ]
    if 1 <= len(others) <= MOST_DRAWN - 1:
        plots.insert(0, ("Pareto front", lambda: plot_pareto_front(whole, target_names=[metric, *others])))
    return f"<!doctype html><meta charset='utf-8'><title>{html.escape(study.study_name)}</title>\n" + "".join(
        _sections(plots)
    )


def _sections(plots: Sequence[tuple[str, Callable[[], Any]]]) -> Iterator[str]:
    script = True
    for title, plot in plots:
        yield f"<h2>{title}</h2>\n{plot().to_html(full_html=False, include_plotlyjs=script)}\n"
        script = False


def _importance(study: optuna.Study) -> graph_objects.Figure:
    """Draw PED-ANOVA's importances (Watanabe et al. 2023); Optuna's own plot copies all trials for each bar's label."""
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    bars = graph_objects.Bar(x=list(found.values())[::-1], y=list(found)[::-1], orientation="h")
    return graph_objects.Figure(bars, {"xaxis": {"title": {"text": "Importance (PED-ANOVA)"}}})


def _best(trials: Sequence[FrozenTrial], direction: optuna.study.StudyDirection) -> list[FrozenTrial]:
    sign = 1.0 if direction == optuna.study.StudyDirection.MINIMIZE else -1.0

    def rank(trial: FrozenTrial) -> tuple[bool, float, int]:
        value = trial.value if trial.state == TrialState.COMPLETE else None
        missing = value is None or math.isnan(value)
        return missing, 0.0 if value is None or missing else sign * value, trial.number

    return sorted(trials, key=rank)


def _study(study: optuna.Study, trials: Sequence[FrozenTrial]) -> optuna.Study:
    part = optuna.create_study(direction=study.direction, study_name=study.study_name)
    part.add_trials(trials)
    return part


def table(study: optuna.Study, metric: str, others: Sequence[str] = ()) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of all trials: number, state, objectives, seconds, parameters and attributes."""
    trials = study.get_trials(deepcopy=False)
    params = sorted({key for trial in trials for key in trial.params})
    attrs = sorted({key for trial in trials for key in trial.user_attrs})
    header = ["trial", "state", metric, *others, "steps", "seconds", *params, *attrs]
    return header, [_row(trial, 1 + len(others), params, attrs) for trial in trials]


def _row(trial: FrozenTrial, objectives: int, params: Sequence[str], attrs: Sequence[str]) -> list[Any]:
    known = trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.values is not None
    values = trial.values if known else [None] * objectives
    seconds = None if trial.duration is None else round(trial.duration.total_seconds(), 3)
    facts = [trial.number, trial.state.name.lower(), *values, len(trial.intermediate_values), seconds]
    return [*facts, *(trial.params.get(key) for key in params), *(trial.user_attrs.get(key) for key in attrs)]


def as_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return the table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def as_mlflow_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return the table in the form of `mlflow.log_table` (pandas' `split`), which MLflow's UI shows as a table."""

    def plain(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({"columns": list(header), "data": [[plain(value) for value in row] for row in rows]}, default=str)
