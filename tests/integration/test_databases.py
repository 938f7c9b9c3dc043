"""A whole sweep with PostgreSQL for Optuna and behind an MLflow server: no code path is only for the default."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from tests import postgres
from tests.integration import swathes


@pytest.mark.slow
def test_a_sweep_lives_in_postgresql(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "diverges", trials=8, pruner="median")
    with postgres.server() as server:
        study, record = server.create_database("study"), server.create_database("record")
        words = [sweep, f"sweep.storage={study}", f"tracking.uri={record}"]
        first = swathes.read(tmp_path, "launch", *words, "sweep.trials=5")
        assert sum(first["counts"].values()) == 5
        swathes.succeed(tmp_path, "launch", *words)
        trials = optuna.load_study(
            study_name="f", storage=study.replace("postgresql://", "postgresql+psycopg://")
        ).get_trials()
        assert len(trials) == 8
        uri = record.replace("postgresql://", "postgresql+psycopg://")
        client = MlflowClient(uri, uri)
        experiment = client.get_experiment_by_name("f")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], "tags.`swathe.kind` = 'trial'")
        states = {int(run.data.tags["swathe.trial"]): run.data.tags["swathe.state"].split()[0] for run in runs}
        expected = {TrialState.COMPLETE: ("complete",), TrialState.PRUNED: ("pruned", "diverged:")}
        assert sorted(states) == list(range(8))
        assert all(states[trial.number] in expected[trial.state] for trial in trials)
        assert swathes.read(tmp_path, "reproduce", "f")[0]["identical"]
        assert not (tmp_path / ".swathe" / "mlflow.db").exists()
        assert not (tmp_path / ".swathe" / "sweeps" / "f" / "journal.log").exists()
        card = (tmp_path / ".swathe" / "sweeps" / "f" / "sweep.json").read_text()
        assert study in card
