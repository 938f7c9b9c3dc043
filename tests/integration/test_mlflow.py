"""The record against real servers: MLflow's own on SQLite, one that goes away and comes back, and PostgreSQL."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from swathe.events import Report, TrialState
from swathe.mlflow_runs import connect
from swathe.records import Records, TrialRun
from swathe.tracking import Recorder, Summary, SweepRecord
from tests import postgres

START_SECONDS = 120.0


class MLflowServer:
    """`mlflow server` in a folder, on a port of its own; can be stopped and started again. `store`: SQLite there."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self._folder = folder
        self._store = store or f"sqlite:///{folder}/server.db"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", self._store, "--serve-artifacts"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=self._folder
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        if self._process is not None:
            # The server is a parent with workers: all of them are in its process group.
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


def sweep_record(folder: Path, uri: str, name: str) -> SweepRecord:
    return SweepRecord(
        name=name,
        uri=uri,
        experiment=f"{name} experiment",
        artifact_folder=str(folder / "artifacts"),
        metric="val_loss",
        direction="minimize",
        config_yaml="seed: 1\n",
        tags={"swathe.command": "swathe launch"},
        workdir=str(folder),
    )


def run_trial(recorder: Recorder, number: int, *, state: TrialState | None = TrialState.COMPLETE) -> None:
    recorder.trial(number, f"{number:04d}", {"lr": number / 7}, {"swathe.config": "{}", "swathe.geometry": "{}"}, 100.0)
    for step in range(1, 4):
        recorder.metrics(number, step, {"val_loss": number / 7 / step, "val_accuracy": 1 - 0.1 / step}, 100.0 + step)
    tags = {"swathe.dataset": "digits", "swathe.dataset_digest": "ab" * 32}
    word = "interrupted" if state is None else state.value
    if state is TrialState.FAILED:
        recorder.text(number, "traceback.txt", "ValueError: no\n")
    recorder.end(number, state, {**tags, "swathe.state": word}, 110.0)
    recorder.flush()


def summary(state: str = "FINISHED") -> Summary:
    return Summary(state, "over", "s", "sqlite:////no/such/study.db", {"complete": 2}, None, None, {}, "# Note", None)


def check_trials(uri: str, name: str, states: list[str]) -> list[TrialRun]:
    records = Records(uri)
    runs = records.trial_runs(f"{name} experiment", name)
    assert [(run.number, run.state) for run in runs] == list(enumerate(states))
    at_once = records.histories([run.run_id for run in runs], "val_loss")
    for run in runs:
        assert at_once[run.run_id] == {step: run.number / 7 / step for step in range(1, 4)}
        assert run.metrics == {"val_loss": run.number / 7 / 3, "val_accuracy": 1 - 0.1 / 3}
        history = records.history(run.run_id)
        assert len(history) == 6
        assert all(history["val_loss", step] == run.number / 7 / step for step in range(1, 4)), "bit for bit"
        stored = connect(records._client().tracking_uri).get_run(run.run_id)
        assert [item.dataset.name for item in stored.inputs.dataset_inputs] == ["digits"]
    return runs


def record_a_sweep(folder: Path, uri: str, name: str) -> None:
    """A sweep in two sessions; the first is interrupted in trial 1."""
    recorder = Recorder.start(folder, sweep_record(folder, uri, name))
    run_trial(recorder, 0)
    run_trial(recorder, 1, state=None)
    recorder.finish(summary("KILLED"))
    assert recorder.close(120.0)
    first = check_trials(uri, name, ["complete", "interrupted"])
    again = Recorder.start(folder, sweep_record(folder, uri, name))
    run_trial(again, 1, state=TrialState.PRUNED)
    run_trial(again, 2, state=TrialState.FAILED)
    again.finish(summary())
    assert again._process.wait(120.0) == 0, "nobody has to tell it that the sweep is over"
    assert again.close(120.0)
    last = check_trials(uri, name, ["complete", "pruned", "failed"])
    assert [run.run_id for run in last[:2]] == [run.run_id for run in first]
    client = connect(Records(uri)._client().tracking_uri)
    assert [item.path for item in client.list_artifacts(last[2].run_id)] == ["traceback.txt"]
    parent = client.get_run(last[0].tags["mlflow.parentRunId"])
    assert (parent.info.status, parent.data.tags["mlflow.note.content"]) == ("FINISHED", "# Note")


def reproduce_a_run(uri: str, name: str) -> None:
    records = Records(uri)
    run = records.trial(f"{name} experiment", name, 0)
    reports = [Report(0, step, {"val_loss": 0.25 / step}, 1.0, 200.0 + step) for step in (1, 2)]
    new = records.run(records.log_reproduction(run, reports, {"swathe.geometry": "{}"}, identical=True))
    assert new.tags["swathe.kind"] == "reproduction"
    assert new.tags["swathe.reproduces"] == run.run_id
    assert new.tags["mlflow.parentRunId"] == run.tags["mlflow.parentRunId"]
    assert new.params == run.params
    assert records.history(new.run_id) == {("val_loss", 1): 0.25, ("val_loss", 2): 0.125}
    linked = records.run(run.run_id).tags
    assert (linked["swathe.reproduced_by"], linked["swathe.reproduced"]) == (new.run_id, "identical")
    assert len(records.trial_runs(f"{name} experiment", name)) == 3, "it is no trial of the sweep"


def test_a_tracking_server(tmp_path: Path, server: MLflowServer) -> None:
    record_a_sweep(tmp_path, server.uri, "served")
    reproduce_a_run(server.uri, "served")


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    server = MLflowServer(tmp_path)
    server.start()
    try:
        recorder = Recorder.start(tmp_path, sweep_record(tmp_path, server.uri, "away"))
        run_trial(recorder, 0)
        deadline = time.monotonic() + 60
        while not _recorded(server.uri, "away", 1):
            assert time.monotonic() < deadline
        server.stop()
        for number in range(1, 4):
            run_trial(recorder, number)
        assert "does not take the record" in wait_for_problem(recorder)
        server.start()
        assert wait_for_problem(recorder) == "MLflow is back; the record catches up."
        assert recorder.close(120.0)
        assert recorder.problem() is None
        check_trials(server.uri, "away", ["complete"] * 4)
    finally:
        server.stop()


def wait_for_problem(recorder: Recorder) -> str:
    deadline = time.monotonic() + 120
    while (problem := recorder.problem()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return problem


def _recorded(uri: str, name: str, count: int) -> bool:
    client = connect(uri)
    experiment = client.get_experiment_by_name(f"{name} experiment")
    if experiment is None:
        return False
    runs = client.search_runs([experiment.experiment_id], "tags.`swathe.state` = 'complete'")
    return len(runs) == count


def test_postgresql(tmp_path: Path) -> None:
    with postgres.server() as made:
        uri = made.create_database("mlflow")
        record_a_sweep(tmp_path, uri, "postgres")
        reproduce_a_run(uri, "postgres")
        log = (tmp_path / "recorder.log").read_text()
        assert postgres.PASSWORD not in log


@pytest.mark.slow
def test_a_postgresql_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    with postgres.server() as made:
        uri = made.create_database("mlflow")
        recorder = Recorder.start(tmp_path, sweep_record(tmp_path, uri, "away"))
        run_trial(recorder, 0)
        deadline = time.monotonic() + 120
        while not (tmp_path / "record" / "position.json").exists():
            assert recorder.problem() is None
            assert time.monotonic() < deadline
        made.stop()
        run_trial(recorder, 1)
        problem = wait_for_problem(recorder)
        assert "does not take the record" in problem
        assert postgres.PASSWORD not in problem
        made.start()
        assert wait_for_problem(recorder) == "MLflow is back; the record catches up."
        assert recorder.close(120.0)
        check_trials(uri, "away", ["complete"] * 2)
