"""Trials that go wrong in a real sweep: what ends them, what their runs say, and what the commands show of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swathe.records import Records
from tests.integration import swathes

WILD = """
defaults: [/model: mlp, /data: digits, /optim: sgd, /sampler: grid, /pruner: none, _self_]
data: {limit: 320}
epochs: 3
sweep:
  name: wild
  trials: 3
  space: {optim.lr: "choice(0.1, 1e4, 1e30)"}
"""


def launch(folder: Path, *overrides: str) -> dict[float, Any]:
    """Launch the sweep, and return its trials' runs by their learning rates."""
    (folder / "wild.yaml").write_text(WILD)
    swathes.read(folder, "launch", "wild.yaml", "cluster=inline", "lanes.compile=never", *overrides)
    runs = Records(f"sqlite:///{folder}/.swathe/mlflow.db").trial_runs("wild", "wild")
    return {float(run.params["optim.lr"]): run for run in runs}


@pytest.mark.slow
def test_findings_end_trials_and_stand_on_their_runs(tmp_path: Path) -> None:
    runs = launch(tmp_path)
    good, wild, worst = runs[0.1], runs[1e4], runs[1e30]
    assert (good.state, good.tags["swathe.classes"], good.tags["swathe.steps_per_report"]) == ("complete", "10", "5")
    assert "swathe.diagnosis" not in good.tags
    for run in (wild, worst):
        assert run.state == "diverged"
        assert run.tags["swathe.diagnosis"].startswith("diverged")
        assert "Lower the learning rate" in run.tags["swathe.diagnosis.diverged"]
    assert wild.tags["swathe.state"].startswith("diverged: The training loss is ")
    assert swathes.read(tmp_path, "status", "wild")["diagnosis"]["diverged"] == 2
    found = swathes.read(tmp_path, "diagnose", "wild")
    assert {one["trial"] for one in found["symptoms"]["diverged"]["findings"]} == {wild.number, worst.number}
    for run in (good, wild):
        said = swathes.read(tmp_path, "diagnose", run.run_id)["findings"]
        assert ",".join(one["symptom"] for one in said) == run.tags.get("swathe.diagnosis", "")
    again = swathes.read(tmp_path, "reproduce", "wild", "--trial", str(wild.number))
    assert again[0]["identical"]


@pytest.mark.slow
def test_without_stop_a_finding_is_a_tag_alone(tmp_path: Path) -> None:
    runs = launch(tmp_path, "diagnosis.stop=false", 'sweep.space={optim.lr: "choice(0.1, 1e4)"}')
    assert {run.state for run in runs.values()} == {"complete"}
    assert runs[1e4].tags["swathe.diagnosis"].startswith("diverged")
    history = Records(f"sqlite:///{tmp_path}/.swathe/mlflow.db").history(runs[1e4].run_id)
    assert {step for _, step in history} == {1, 2, 3}
