"""Population based training with the real Ray, Optuna and MLflow: the same bits whatever is killed, and once more."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.integration import swathes
from tests.integration.test_checkpoints import histories
from tests.integration.test_lanes import workers_of
from tests.integration.test_launch import client_of, runs_of, wait_for

SWEEP = """
defaults: [/model: mlp, /data: digits, /optim: momentum, /sampler: random, _self_]
model: {hidden: [32]}
batch_size: 8
epochs: 8
lanes: {compile: never}
cluster: {workers: 2}
sweep:
  name: whole
  trials: 12
  population: {size: 4, resample_probability: 0.5}
  space:
    optim.lr: tag(log, interval(1e-4, 0.1))
    optim.momentum: interval(0.0, 0.9)
    regularization.dropout: interval(0.05, 0.5)
    model.norm: choice(none, batch)
"""
COPIES, LINEAGE = "swathe.population", "swathe.lineage"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a sweep of three populations has run without a disturbance."""
    folder = tmp_path_factory.mktemp("population")
    (folder / "pbt.yaml").write_text(SWEEP)
    swathes.succeed(folder, "launch", "pbt.yaml")
    return folder


def copied(run: Any) -> list[dict[str, Any]]:
    return list(json.loads(run.data.tags.get(COPIES, "[]")))


def test_members_are_lanes_of_one_block_that_copy_each_other(folder: Path) -> None:
    runs = runs_of(folder, "whole")
    assert sorted(runs) == list(range(12))
    for head in (0, 4, 8):
        members = [runs[number] for number in range(head, head + 4)]
        assert len({run.data.tags["swathe.worker"] for run in members}) == 1
        assert len({run.data.params["model.norm"] for run in members}) == 1
        steps = [step for run in members for step in copied(run)]
        assert sorted(step["step"] for step in steps) == [2, 4, 6]
        assert all(step["from"] in range(head, head + 4) for step in steps)
        for run in members:
            history = client_of(folder).get_metric_history(run.info.run_id, "hp/optim.lr")
            rates = {one.step: one.value for one in history}
            assert sorted(rates) == list(range(1, 9))
            assert all(rates[step["step"] + 1] == step["params"]["optim.lr"] for step in copied(run))


def test_the_best_trial_says_which_values_it_had_when(folder: Path) -> None:
    found = swathes.read(folder, "best", "whole")
    run = runs_of(folder, "whole")[found["origin"]["trial"]]
    assert found["origin"].get("lineage", []) == json.loads(run.data.tags.get(LINEAGE, "[]"))
    assert swathes.read(folder, "status", "whole")["best_changed"] == ("lineage" in found["origin"])
    copier = next(number for number, one in runs_of(folder, "whole").items() if copied(one))
    lineage = swathes.read(folder, "best", "whole", "--trial", str(copier))["origin"]["lineage"]
    assert [lineage[0]["step"], lineage[-1]] == [0, copied(runs_of(folder, "whole")[copier])[-1]]


def test_a_member_is_trained_again_with_its_population(folder: Path) -> None:
    copier = next(number for number, run in runs_of(folder, "whole").items() if copied(run))
    (result,) = swathes.read(folder, "reproduce", "whole", "--trial", str(copier))
    assert result["identical"]
    again = client_of(folder).get_run(result["new_run_id"])
    assert copied(again) == copied(runs_of(folder, "whole")[copier])
    refused = swathes.run(folder, "reproduce", "whole", "--trial", str(copier), "--solo")
    assert (refused.returncode, "--solo" in refused.stderr) == (2, True)


def found(database: Path, rows: str) -> bool:
    """Whether a study's database has such rows by now."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute(f"SELECT 1 FROM {rows} LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError:
        return False


def test_a_killed_worker_and_a_killed_driver_change_no_bit(folder: Path) -> None:
    database = folder / "study.db"
    storage = f"sqlite:///{database}"
    words = ["launch", "pbt.yaml", "sweep.name=disturbed", f"sweep.storage={storage}"]
    process = swathes.start(folder, *words)

    def trials() -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name="disturbed", storage=storage).get_trials()

    wait_for(lambda: process.poll() is not None or found(database, "trial_intermediate_values WHERE step = 3"))
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    wait_for(lambda: process.poll() is not None or found(database, "trials WHERE state = 'COMPLETE'"))
    assert process.poll() is None, (folder / "output.txt").read_text()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert any(not one.state.is_finished() for one in trials())
    swathes.succeed(folder, "resume", "disturbed")
    assert {one.state for one in trials()} == {TrialState.COMPLETE}
    disturbed, whole = runs_of(folder, "disturbed"), runs_of(folder, "whole")
    assert disturbed.keys() == whole.keys()
    for number, run in whole.items():
        assert histories(folder, disturbed[number]) == histories(folder, run)
        assert copied(disturbed[number]) == copied(run)
