"""Training a recorded trial again: to its last recorded step, and compared under the names that MLflow has."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

import swathe
from swathe.errors import BadInputError
from swathe.events import Report
from swathe.home import Home
from swathe.mlflow_runs import RunChange, open_runs
from swathe.records import Records
from swathe.reproduce import as_recorded, available, compare, reproduce


def train(params: Any) -> None:
    """Report five steps under names that MLflow cannot take."""
    for step in range(1, 6):
        if swathe.report({"val_loss": params.x / step, "loss @ 5 (%)": params.x * step}, step=step):
            return


def recorded(home: Home, steps: Sequence[int], *, x: float = 0.3, state: str = "complete") -> str:
    config = {"trainable": "tests.test_reproduce:train", "params": {"x": 0.3}, "seed": 0}
    reports = [
        Report(0, step, {"val_loss": x / step, "loss @ 5 (%)": x * step, "seconds": 7.0}, 0.5, 100.0 + step)
        for step in steps
    ]
    tags = {"swathe.config": json.dumps(config), "swathe.geometry": "{}", "swathe.state": state}
    records = Records(home.tracking_uri)
    return records.log_run("train", "n", reports, tags, artifacts=home.artifacts, params={})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("state", ["complete", "pruned at step 3"])
def test_a_trial_is_trained_to_its_last_recorded_step(home: Home, state: str) -> None:
    # A trial that reached the sweep's target is complete, though it was stopped before its end.
    records = Records(home.tracking_uri)
    result = reproduce(records, records.run(recorded(home, [1, 2, 3], state=state)), home)
    assert [(row.step, row.metric) for row in result.rows] == [
        (step, metric) for step in (1, 2, 3) for metric in ("loss _ 5 ___", "val_loss")
    ]
    assert result.identical
    assert records.run(result.new_run_id).tags["swathe.reproduced"] == "identical"


def test_a_number_that_differs_is_found(home: Home) -> None:
    records = Records(home.tracking_uri)
    result = reproduce(records, records.run(recorded(home, [1, 2], x=0.3 + 1e-16)), home)
    assert not result.identical
    assert 0.0 < result.distance < 1e-15


def test_a_run_without_reports_or_of_others_is_refused(home: Home) -> None:
    records = Records(home.tracking_uri)
    with pytest.raises(BadInputError, match="reported nothing"):
        reproduce(records, records.run(recorded(home, [])), home)
    foreign = RunChange("theirs", 0)
    open_runs(home.tracking_uri, "train", home.artifacts).write([foreign])
    with pytest.raises(BadInputError, match=r"no tag swathe\.config"):
        reproduce(records, records.run(foreign.run_id), home)


def test_names_that_become_one_keep_the_first_number() -> None:
    history = {("a@b", 1): 1.0, ("a_b", 1): 2.0, ("c", 1): 3.0}
    assert as_recorded(history) == {("a_b", 1): 1.0, ("c", 1): 3.0}


def test_timings_are_left_out_and_missing_numbers_are_not() -> None:
    rows = compare({("loss", 1): math.nan, ("seconds", 1): 1.0}, {("loss", 1): math.nan, ("loss", 2): 1.0})
    assert [(row.step, row.identical, row.distance) for row in rows] == [(1, True, 0.0), (2, False, math.inf)]


def test_a_gpu_that_is_not_here_becomes_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (available("cpu"), available("cuda")) == ("cpu", "cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (available("cpu"), available("cuda")) == ("cpu", "cuda")
