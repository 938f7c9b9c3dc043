"""A sweep's trials as a table, for pandas and other tools: from the study alone, without an import of MLflow."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swathe.errors import bad_value, writing
from swathe.events import TrialState
from swathe.plain import finite

# A table of a server's trials takes no study.
if TYPE_CHECKING:
    import pandas

    from swathe.home import Home, SweepCard
    from swathe.objectives import Goal
    from swathe.study import PastTrial

SUFFIXES = (".csv", ".parquet", ".json")


def trials(home: Home, sweep: str) -> pandas.DataFrame:
    """Return a row for each trial, by number.

    Columns: trial, state, value (the objective of a trial that has one), ended (UTC), worker, reason, diagnosis, then
    the parameters as `params.NAME`, empty where a trial has none of it, and the last metrics as `metrics.NAME`. A
    function's `params.NAME` is called so too, and `params.params.NAME` only beside a searched `NAME`. Of several
    objectives `value` is the first; then there are `objectives.NAME` for each and `on_front`, and with
    constraints `feasible`. Where a point is several trials, `point` is the number of its first one, and a complete one
    has its `point_value` and `point_std` in each of their rows. Raises `BadInputError` where there is no such sweep.
    """
    from swathe.analysis import front_of

    card, history = home.existing(sweep)[1], _history(home, sweep)
    goal, of_points = card.goal, _point_columns(card, history)
    on_front = {past.number for past in front_of(history, goal)}
    return table([_row(past, goal, on_front, of_points.get(past.number, {})) for past in history])


def _point_columns(card: SweepCard, history: Sequence[PastTrial]) -> dict[int, dict[str, Any]]:
    """Return by trial the columns that there are only where a point is several trials."""
    from swathe.points import points

    columns: dict[int, dict[str, Any]] = {}
    for point in points(history, card.repetition, card.goal.first.direction) if card.repetition.several else ():
        head = point.repeats[0].number
        value, std = point.as_trial.value, point.std if point.as_trial.value is not None else None
        columns |= {past.number: {"point": head, "point_value": value, "point_std": std} for past in point.repeats}
    return columns


def table(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """Return rows of trials, which need not have every column, as `trials` has them; `ended` in unix time (seconds)."""
    import pandas

    columns = _columns(rows)
    frame = pandas.DataFrame(rows, columns=columns)
    frame["ended"] = pandas.to_datetime(frame["ended"], unit="s", utc=True)
    return frame.rename(columns=_short(columns))


def curves(home: Home, sweep: str) -> pandas.DataFrame:
    """Return a row for each report: trial, step and the sweep's metric as `value`. Raises as `trials` does."""
    import pandas

    reports = [
        (past.number, step, value) for past in _history(home, sweep) for step, value in sorted(past.values.items())
    ]
    return pandas.DataFrame(reports, columns=["trial", "step", "value"])


def write(frame: pandas.DataFrame, out: Path) -> None:
    """Write a table as its file's name says: CSV, Parquet, or JSON as a list of rows. Raises `BadInputError`.

    Parquet has a column of mixed types as text, JSON a null for a number that is not finite.
    """
    if out.suffix not in SUFFIXES:
        raise bad_value("--out", str(out), f"a name that ends in {', '.join(SUFFIXES)}")
    with writing("--out", out):
        match out.suffix:
            case ".csv":
                frame.to_csv(out, index=False)
            case ".parquet":
                frame.apply(_of_one_type).to_parquet(out, index=False)
            case _:
                out.write_text(_as_json(frame))


def _of_one_type(column: pandas.Series[Any]) -> pandas.Series[Any]:
    """Return a column as Parquet can hold it: what is neither all numbers, all booleans nor all text becomes text."""
    from pandas.api.types import infer_dtype

    if column.dtype != object or infer_dtype(column, skipna=True) in ("boolean", "string", "empty"):
        return column
    return column.map(str, na_action="ignore")


def _as_json(frame: pandas.DataFrame) -> str:
    """Return a list of rows; pandas itself writes 15 digits of a number, which are not all of its bits."""
    objects = frame.astype(object)
    rows = objects.where(frame.notna(), None).to_dict(orient="records")
    return json.dumps(finite(rows), indent=2, default=str, allow_nan=False)


def _history(home: Home, sweep: str) -> list[PastTrial]:
    from swathe import analysis

    study = analysis.open_study(home, sweep)
    try:
        return study.history()
    finally:
        study.close()


def _row(past: PastTrial, goal: Goal, on_front: Collection[int], of_point: Mapping[str, Any]) -> dict[str, Any]:
    metrics: Mapping[str, float] = json.loads(str(past.attrs.get("metrics", "{}")))
    facts = {
        "trial": past.number,
        "state": past.state.value,
        "value": past.value,
        "ended": past.ended,
        "worker": past.attrs.get("worker"),
        "reason": past.attrs.get("reason"),
        "diagnosis": past.attrs.get("diagnosis"),
        **of_point,
        **goal_columns(goal, past, on_front),
    }
    return row(facts, past.params, metrics)


def goal_columns(goal: Goal, past: PastTrial, on_front: Collection[int]) -> dict[str, Any]:
    """Return the columns that there are only with several objectives, or with constraints."""
    columns: dict[str, Any] = {}
    if goal.several:
        values = past.objectives or (None,) * len(goal.metrics)
        columns = {f"objectives.{name}": value for name, value in zip(goal.metrics, values, strict=True)}
        columns["on_front"] = past.number in on_front
    if goal.constraints:
        columns["feasible"] = past.feasible if past.state is TrialState.COMPLETE else None
    return columns


def row(facts: Mapping[str, Any], params: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's row for `table`: what every trial has, its parameters by their whole names, and its metrics."""
    return {
        **facts,
        **{f"params.{name}": value for name, value in params.items()},
        **{f"metrics.{name}": value for name, value in metrics.items()},
    }


def _short(columns: Sequence[str]) -> dict[str, str]:
    """Return shorter names: a function's parameter is `params.NAME` already, and stays so unless another is that."""
    doubled = (name for name in columns if name.startswith("params.params."))
    return {name: short for name in doubled if (short := name.removeprefix("params.")) not in columns}


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of all rows: what every trial has, then objectives, parameters and metrics."""
    always = ["trial", "state", "value", "ended", "worker", "reason", "diagnosis"]
    kinds = ("point", "objectives.", "on_front", "feasible", "params.", "metrics.")
    named = {name: None for row in rows for name in row}
    return [*always, *(name for kind in kinds for name in named if name.startswith(kind))]
