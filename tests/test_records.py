"""Single runs: read and written in a real MLflow on SQLite."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swathe.errors import BadInputError
from swathe.events import Report
from swathe.mlflow_runs import connect
from swathe.records import Failure, Records

ROOT = Path(__file__).resolve().parent.parent
TAGS = {"swathe.config": "{}", "swathe.geometry": "{}", "swathe.dataset": "digits", "swathe.dataset_digest": "ab" * 32}
REPORTS = [
    Report(0, 1, {"val_loss": 0.1 + 0.2, "grad": math.inf}, 2.0, 102.0),
    Report(0, 2, {"val_loss": math.nan, "grad": -0.5}, 3.0, 105.0),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def records(home: Path) -> Records:
    return Records(f"sqlite:///{home}/mlflow.db")


@pytest.fixture(scope="module")
def run_id(home: Path, records: Records) -> str:
    params = {"optim.lr": 0.1, "model.hidden": [64, 32]}
    return records.log_run("train", "mlp digits", REPORTS, TAGS, artifacts=home / "artifacts", params=params)


def test_a_run_is_read_as_it_was_recorded(home: Path, records: Records, run_id: str) -> None:
    run = records.run(run_id)
    assert (run.number, run.state, run.tags["swathe.kind"]) == (0, "complete", "run")
    assert run.params == {"optim.lr": "0.1", "model.hidden": "[64, 32]"}
    assert math.isnan(run.metrics["val_loss"])
    assert run.metrics["grad"] == -0.5
    stored = connect(f"sqlite:///{home}/mlflow.db").get_run(run_id)
    assert (stored.info.run_name, stored.info.status) == ("mlp digits", "FINISHED")
    assert (stored.info.start_time, stored.info.end_time) == (100_000, 105_000)
    assert stored.info.artifact_uri.startswith(str(home / "artifacts"))
    assert [item.dataset.name for item in stored.inputs.dataset_inputs] == ["digits"]


def test_the_history_keeps_its_bits(records: Records, run_id: str) -> None:
    history = records.history(run_id)
    assert math.isnan(history.pop(("val_loss", 2)))
    assert history == {("val_loss", 1): 0.1 + 0.2, ("grad", 1): math.inf, ("grad", 2): -0.5}


def test_one_metric_of_many_runs_is_read_at_once(home: Path, records: Records, run_id: str) -> None:
    other = records.log_run("train", "other", REPORTS[:1], TAGS, artifacts=home / "artifacts", params={})
    found = records.histories([run_id, other, "0" * 32], "val_loss")
    assert math.isnan(found[run_id].pop(2))
    assert found == {run_id: {1: 0.1 + 0.2}, other: {1: 0.1 + 0.2}}
    assert records.histories([run_id], "grad")[run_id][1] == math.inf
    assert records.histories([run_id], "nothing") == {}


def test_a_reproduction_is_linked_with_its_original(records: Records, run_id: str) -> None:
    new_id = records.log_reproduction(records.run(run_id), REPORTS, {"swathe.geometry": "{}"}, identical=False)
    new, old = records.run(new_id), records.run(run_id)
    assert new.experiment_id == old.experiment_id == records.experiment_id("train")
    assert (new.tags["swathe.kind"], new.tags["swathe.reproduces"]) == ("reproduction", run_id)
    assert new.tags["mlflow.runName"] == "reproduction of mlp digits"
    assert (old.tags["swathe.reproduced_by"], old.tags["swathe.reproduced"]) == (new_id, "different")
    assert new.params == old.params


def test_a_failed_run_has_its_reason_and_traceback(home: Path, records: Records) -> None:
    failure = Failure("ValueError: no", "Traceback ...\nValueError: no")
    run_id = records.log_run("train", "n", REPORTS[:1], TAGS, artifacts=home / "artifacts", params={}, failure=failure)
    run = records.run(run_id)
    assert (run.state, run.tags["swathe.state"]) == ("failed", "failed: ValueError: no")
    assert connect(f"sqlite:///{home}/mlflow.db").get_run(run_id).info.status == "FAILED"
    (file,) = home.joinpath("artifacts").rglob(f"{run_id}/**/traceback.txt")
    assert file.read_text() == failure.traceback


def test_the_first_record_of_a_folder_says_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from swathe.records import Records; folder = pathlib.Path(sys.argv[1])\n"
        "Records(f'sqlite:///{folder}/mlflow.db').log_run('e', 'n', [], {}, artifacts=folder / 'a', params={})"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment["PYTHONPATH"] = str(ROOT / "src")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_what_is_not_there_is_refused(records: Records, run_id: str) -> None:
    with pytest.raises(BadInputError, match="no experiment 'other'"):
        records.experiment_id("other")
    with pytest.raises(BadInputError, match="no run 'abc'"):
        records.run("abc")
    for read in (lambda: records.trial_runs("train", "s"), lambda: records.trial("train", "s", 3)):
        with pytest.raises(BadInputError, match="Nothing is recorded yet of sweep 's'"):
            read()


def test_a_folder_without_a_record_is_refused_and_stays_without(tmp_path: Path) -> None:
    records = Records(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(BadInputError, match="Nothing is recorded yet: there is no MLflow database"):
        records.trial_runs("e", "s")
    with pytest.raises(BadInputError, match="Nothing is recorded yet"):
        records.run("a" * 32)
    with pytest.raises(BadInputError, match="Nothing is recorded yet"):
        records.experiment_id("e")
    assert list(tmp_path.iterdir()) == []
