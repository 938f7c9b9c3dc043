"""Trials as tables, read back by pandas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from swathe import exporting
from swathe.errors import BadInputError
from swathe.events import TrialState
from swathe.home import Home
from tests.test_analysis import launch


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / ".swathe")
    study = launch(home)
    study.ask(3)
    for step in (1, 2):
        study.record(0, step, 1.0 / step)
    study.record(1, 1, float("nan"))
    study.tell(0, TrialState.COMPLETE, 0.5, {"worker": "w0", "metrics": '{"val_loss": 0.5, "val_accuracy": 0.75}'})
    study.tell(1, TrialState.FAILED, None, {"reason": "ValueError: no, never"})
    study.commit()
    study.close()
    return home


def test_a_row_for_each_trial(home: Home) -> None:
    frame = exporting.trials(home, "s")
    assert list(frame.columns) == [
        *("trial", "state", "value", "ended", "worker", "reason", "diagnosis"),
        *("params.lr", "metrics.val_loss", "metrics.val_accuracy"),
    ]
    assert frame["state"].tolist() == ["complete", "failed", "running"]
    assert frame["value"].tolist()[0] == 0.5
    assert frame["value"].isna().tolist() == [False, True, True]
    assert frame["ended"].notna().tolist() == [True, True, False]
    assert frame["params.lr"].between(0, 1).all()


def test_a_row_for_each_report(home: Home) -> None:
    frame = exporting.curves(home, "s")
    assert frame[["trial", "step"]].values.tolist() == [[0, 1], [0, 2], [1, 1]]
    assert frame["value"].tolist()[:2] == [1.0, 0.5]
    assert frame["value"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize("suffix", exporting.SUFFIXES)
def test_files_that_pandas_reads_back(home: Home, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"trials{suffix}"
    frame = exporting.trials(home, "s")
    exporting.write(frame, out)
    read = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet, ".json": _read_json}[suffix]
    again = read(out)
    assert list(again.columns) == list(frame.columns)
    assert again["params.lr"].tolist() == frame["params.lr"].tolist(), "bit for bit"
    assert again["reason"][1] == "ValueError: no, never"


def _read_json(path: Path) -> pandas.DataFrame:
    return pandas.DataFrame(json.loads(path.read_text()))


def test_a_sweep_without_trials(tmp_path: Path) -> None:
    home = Home(tmp_path / ".swathe")
    launch(home).close()
    assert exporting.trials(home, "s").empty
    assert exporting.curves(home, "s").empty


@pytest.mark.parametrize("out", ["trials.xlsx", "trials", "no/such/folder.csv"])
def test_what_cannot_be_written(home: Home, tmp_path: Path, out: str) -> None:
    with pytest.raises(BadInputError, match=r"^--out: "):
        exporting.write(exporting.trials(home, "s"), tmp_path / out)


def _frame(**columns: list[Any]) -> pandas.DataFrame:
    return pandas.DataFrame({name: pandas.Series(values) for name, values in columns.items()})


def test_parquet_has_a_column_of_mixed_types_as_text(tmp_path: Path) -> None:
    frame = _frame(
        size=pandas.Series([64, "full", None], dtype=object).tolist(),
        either=[True, "full", 0.5],
        yes=[True, None, False],
        huge=[2**70, 1, None],
        number=[1, 0.5, None],
        word=["a", None, "b"],
    )
    exporting.write(frame, tmp_path / "t.parquet")
    again = pandas.read_parquet(tmp_path / "t.parquet")
    found = {name: again[name].astype(object).where(again[name].notna(), None).tolist() for name in again}
    assert found == {
        "size": ["64", "full", None],
        "either": ["True", "full", "0.5"],
        "yes": [True, None, False],
        "huge": [str(2**70), "1", None],
        "number": [1.0, 0.5, None],
        "word": ["a", None, "b"],
    }


def test_json_has_null_for_what_is_not_finite(tmp_path: Path) -> None:
    inf = float("inf")
    exporting.write(_frame(value=[inf, -inf, float("nan"), 1.5], mixed=["a", inf, None, 2]), tmp_path / "t.json")
    rows = json.loads((tmp_path / "t.json").read_text(), parse_constant=pytest.fail)
    assert [row["value"] for row in rows] == [None, None, None, 1.5]
    assert [row["mixed"] for row in rows] == ["a", None, None, 2]


def test_parameters_whose_columns_would_have_one_name_have_two() -> None:
    facts = {"trial": 0, "state": "complete", "value": None, "ended": None}
    rows = [
        exporting.row(facts, {"params.x": 1, "params.seed": 100, "seed": 1}, {"loss": 0.5}),
        # Where another trial has the other one, as in a conditional space.
        exporting.row({**facts, "trial": 1}, {"params.x": 2, "params.epochs": 7}, {}),
        exporting.row({**facts, "trial": 2}, {"params.params.y": 3, "params.y": 4, "epochs": 9}, {}),
    ]
    frame = exporting.table(rows)
    assert frame.columns.is_unique
    params = frame[[name for name in frame if name.startswith("params.")]]
    assert {name: params[name].dropna().tolist() for name in params} == {
        "params.x": [1, 2],
        "params.params.seed": [100],
        "params.seed": [1],
        "params.params.epochs": [7],
        "params.epochs": [9],
        "params.params.params.y": [3],
        "params.y": [4],
    }
