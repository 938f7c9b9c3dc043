"""Real sweeps with several trials a point: killed and resumed, reproduced, and shown as points by every command."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas
import pytest

from swathe import analysis, exporting, held_models
from swathe.home import Home
from swathe.records import Records
from swathe.runtime import trial_seed
from swathe.study import Study
from tests.integration.swathes import start, succeed
from tests.integration.test_report import said

SWEEP = """
defaults: [/model: mlp, /data: digits, /optim: adamw, /sampler: tpe, /pruner: median, /cluster: inline, _self_]
epochs: 4
sampler: {n_startup_trials: 2}
pruner: {n_startup_trials: 2}
lanes: {compile: never}
preflight: {enabled: false}
sweep:
  trials: 24
  repeats: 3
  space:
    optim.lr: tag(log, interval(1e-5, 1e-1))
    model.hidden: choice([16], [24])
"""


def trials_over(folder: Path, storage: str | None) -> int:
    sweep = Home(folder / ".swathe").sweep("thrice")
    if sweep.card() is None:
        return 0
    study = Study.load("thrice", folder=sweep.path, storage=storage)
    try:
        return sum(past.state.final for past in study.history())
    finally:
        study.close()


@pytest.mark.slow
@pytest.mark.parametrize("database", [False, True], ids=["journal", "sqlite"])
def test_a_sweep_of_points(tmp_path: Path, database: bool) -> None:
    (tmp_path / "thrice.yaml").write_text(SWEEP)
    storage = f"sqlite:///{tmp_path}/study.db" if database else None
    words = ["launch", "thrice.yaml", "-q", *([f"sweep.storage={storage}"] if storage else [])]
    driver = start(tmp_path, *words)
    deadline = time.monotonic() + 120
    while trials_over(tmp_path, storage) < 4 and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert 0 < trials_over(tmp_path, storage) < 24
    succeed(tmp_path, "resume", "thrice", "-q")
    table = exporting.trials(Home(tmp_path / ".swathe"), "thrice")
    assert len(table) == 24
    best = _check_points(table)
    _check_record(tmp_path, table, best)
    if not database:
        _check_commands(tmp_path, best)


def _check_points(table: pandas.DataFrame) -> Any:
    """Every point has one set of parameters and three seeds; return the rows of the best one."""
    whole = []
    for head, rows in table.groupby("point"):
        assert list(rows["trial"]) == [head, head + 1, head + 2]
        assert rows["params.optim.lr"].nunique() == 1
        complete = (rows["state"] == "complete").all()
        assert rows["point_value"].notna().all() == complete
        if complete:
            assert rows["value"].nunique() == 3, "each with its own seed"
            assert rows["point_value"].iloc[0] == pytest.approx(fmean(rows["value"]))
            whole.append(rows)
        else:
            # The repeat by which it is out has a reason of its own.
            out = rows[rows["state"] != "complete"]
            assert not out["reason"].str.startswith("dropped").all()
    assert len(whole) > 1
    assert len(whole) < 8, "some are pruned"
    return min(whole, key=lambda rows: rows["point_value"].iloc[0])


def _check_commands(folder: Path, best: Any) -> None:
    numbers, value = list(best["trial"]), best["point_value"].iloc[0]
    home = Home(folder / ".swathe")
    status = analysis.overview(home, "thrice")
    assert status.best == (best.loc[best["value"].idxmin(), "trial"], value)
    assert status.repeats is not None
    assert list(status.repeats.values) == numbers
    assert status.repeats.std == pytest.approx(best["value"].std())
    found = analysis.best(home, "thrice")
    assert (found.trial, found.value, found.repeats) == (*status.best, status.repeats)
    assert found.config["seed"] == trial_seed(0, found.trial)
    rows = analysis.compare(home, "thrice", top=50)
    assert len(rows) == 8
    assert (rows[0].trial, rows[0].metrics["val_loss"], rows[0].repeats) == (*status.best, status.repeats)
    text = succeed(folder, "reproduce", "thrice")
    assert [text.count(f"Identical: trial {number} (complete)") for number in numbers] == [1, 1, 1]
    succeed(folder, "report", "thrice", "--no-seeds", "--out", "report.html")
    page = said((folder / "report.html").read_text())
    assert f"mean of trials {', '.join(map(str, numbers))}, standard deviation" in page
    assert "8 points of 3 trials that are over" in page


def _check_record(folder: Path, table: pandas.DataFrame, best: Any) -> None:
    home = Home(folder / ".swathe")
    records = Records(home.tracking_uri)
    runs = {run.number: run for run in records.trial_runs("thrice", "thrice")}
    assert runs.keys() == set(table["trial"])
    for row in table.itertuples():
        run = runs[row.trial]
        # Of a trial that was pruned the first word of why it was.
        assert run.state == row.state or (row.state, run.state) == ("pruned", "dropped")
        assert run.tags["swathe.point"] == str(row.point)
        assert ("swathe.point_value" in run.tags) == pandas.notna(row.point_value)
    metrics = records.sweep_metrics("thrice", "thrice")
    assert metrics["best_val_loss"] == best["point_value"].iloc[0]
    assert metrics["best_val_loss_std"] == pytest.approx(best["value"].std())
    assert held_models.held(home.sweep("thrice")) == []
    assert '"trial": ' in home.sweep("thrice").best_model.with_suffix(".json").read_text()
    champion = records.trial("thrice", "thrice", int(best.loc[best["value"].idxmin(), "trial"]))
    assert f'{{"trial": {champion.number}}}' == home.sweep("thrice").best_model.with_suffix(".json").read_text()
