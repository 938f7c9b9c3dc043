"""The driver's side of the record: URIs, and a recorder's process that is killed or left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from swathe.errors import BadInputError
from swathe.events import TrialState
from swathe.records import Records
from swathe.tracking import Recorder, SweepRecord, check_uri, is_known, shown, with_driver


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///mlflow.db",
        "sqlite:////tmp/mlflow.db",
        "postgresql://me:secret@host:5432/mlflow",
        "postgresql+psycopg://host/mlflow",
        "http://localhost:5000",
        "https://mlflow.example.org/prefix",
    ],
)
def test_good_uris(uri: str) -> None:
    check_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "mlruns",
        "file:///tmp/mlruns",
        "sqlite://mlflow.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:////tmp",
        "postgresql://host",
        "mysql://host/db",
        "http://",
        "http://host:port",
        "http://[bad",
    ],
)
def test_a_uri_that_mlflow_cannot_be_at_is_refused(uri: str) -> None:
    with pytest.raises(BadInputError, match=r"tracking\.uri: .* allowed: sqlite:///PATH"):
        check_uri(uri)


def test_a_password_is_not_shown() -> None:
    assert shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert shown("https://host/a@b") == "https://host/a@b"
    with pytest.raises(BadInputError) as refused:
        check_uri("postgresql://me:secret@host")
    assert "secret" not in str(refused.value)


def test_postgresql_is_spoken_through_psycopg() -> None:
    assert with_driver("postgresql://host/db") == "postgresql+psycopg://host/db"
    assert with_driver("postgres://host/db") == "postgresql+psycopg://host/db"
    assert with_driver("postgresql+psycopg://host/db") == "postgresql+psycopg://host/db"
    assert with_driver("sqlite:///x") == "sqlite:///x"


def sweep_record(folder: Path, uri: str | None = None) -> SweepRecord:
    return SweepRecord(
        name="s",
        uri=uri or f"sqlite:///{folder}/mlflow.db",
        experiment="e",
        artifact_folder=str(folder / "artifacts"),
        metric="val_loss",
        direction="minimize",
        config_yaml="seed: 1\n",
        tags={"swathe.command": "swathe launch s"},
        workdir=str(folder),
    )


def run_trial(recorder: Recorder, number: int, steps: int = 3) -> None:
    recorder.trial(number, f"{number:04d}", {"lr": 0.1}, {}, 100.0)
    for step in range(steps):
        recorder.metrics(number, step, {"val_loss": 1.0 / (step + 1)}, 100.0 + step)
    recorder.end(number, TrialState.COMPLETE, {"swathe.state": "complete"}, 110.0)


def recorder_pids(folder: Path) -> list[int]:
    """Return the recorders that carry the spool of `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"swathe.recorder" in words and str(folder).encode() in words:
                found.append(int(entry.name))
    return found


def test_a_session_without_a_trial_leaves_nothing(tmp_path: Path) -> None:
    recorder = Recorder.start(tmp_path, sweep_record(tmp_path))
    assert recorder.close(60.0)
    assert recorder.problem() is None
    assert recorder_pids(tmp_path) == []
    assert not (tmp_path / "mlflow.db").exists()


def test_a_killed_recorder_is_started_again(tmp_path: Path) -> None:
    recorder = Recorder.start(tmp_path, sweep_record(tmp_path))
    run_trial(recorder, 0)
    recorder.flush()
    deadline = time.monotonic() + 30
    while not (pids := recorder_pids(tmp_path)):
        assert time.monotonic() < deadline
    (pid,) = pids
    os.kill(pid, signal.SIGKILL)
    while recorder_pids(tmp_path) in ([], [pid]):
        assert recorder.problem() is None
        assert time.monotonic() < deadline
    run_trial(recorder, 1)
    recorder.flush()
    assert recorder.close(60.0)
    runs = Records(f"sqlite:///{tmp_path}/mlflow.db").trial_runs("e", "s")
    assert [(run.number, run.state) for run in runs] == [(0, "complete"), (1, "complete")]


DRIVER = """
import os, signal, sys
from pathlib import Path
from tests.test_tracking import run_trial, sweep_record
from swathe.tracking import Recorder
folder = Path(sys.argv[1])
recorder = Recorder.start(folder, sweep_record(folder))
for number in range(20):
    run_trial(recorder, number)
recorder.flush()
# The study may have what follows, or not: the driver dies before it says so.
for number in (20, 21):
    run_trial(recorder, number)
recorder.stage()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_recorder_whose_driver_is_killed_finishes_and_ends(tmp_path: Path) -> None:
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert driver.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while recorder_pids(tmp_path):
        assert time.monotonic() < deadline
    records = Records(f"sqlite:///{tmp_path}/mlflow.db")
    runs = records.trial_runs("e", "s")
    assert [run.number for run in runs] == list(range(20))
    assert len(records.history(runs[19].run_id)) == 3
    # The next session asks the study: trial 20 has two of its reports there and no end, of 21 it knows nothing.
    again = Recorder.start(tmp_path, sweep_record(tmp_path))
    history = {number: Past(TrialState.COMPLETE, {0: 1.0, 1: 0.5, 2: 0.3}) for number in range(20)}
    history[20] = Past(TrialState.RUNNING, {0: 1.0, 1: 0.5})
    again.recall(lambda record: is_known(record, history))
    again.flush()
    assert again.close(60.0)
    runs = records.trial_runs("e", "s")
    assert [(run.number, run.state) for run in runs[19:]] == [(19, "complete"), (20, "running")]
    assert len(records.history(runs[20].run_id)) == 2


@dataclass(frozen=True)
class Past:
    state: TrialState
    values: Mapping[int, float]


def test_mlflow_that_is_away_is_told_once_and_nothing_is_lost(tmp_path: Path) -> None:
    blocked = tmp_path / "database"
    blocked.write_text("no folder")
    uri = f"sqlite:///{blocked}/mlflow.db"
    recorder = Recorder.start(tmp_path, sweep_record(tmp_path, uri))
    run_trial(recorder, 0)
    recorder.flush()
    assert not recorder.close(0.0)
    deadline = time.monotonic() + 60
    problem = recorder.problem()
    while problem is None:
        assert time.monotonic() < deadline
        problem = recorder.problem()
    assert "does not take the record" in problem
    assert recorder.problem() is None
    # The next session's recorder takes over, with everything.
    blocked.unlink()
    again = Recorder.start(tmp_path, sweep_record(tmp_path, uri))
    run_trial(again, 1)
    again.sweep({"occupancy": 0.5}, time.time())
    again.flush()
    assert again.close(60.0)
    assert [run.number for run in Records(uri).trial_runs("e", "s")] == [0, 1]
    assert Records(uri).sweep_metrics("e", "s") == {"occupancy": 0.5}
    assert recorder_pids(tmp_path) == []
