"""A sweep of hostile functions on the real Ray: each fails alone, or is put right, and the others never notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.hostile.deeds import DEEDS, HANGS, LATE, Deed
from tests.integration import swathes
from tests.integration.test_launch import client_of, runs_of, study_of

SWEEP = """
defaults: [/sampler: grid, /pruner: none, _self_]
trainable: tests.hostile.deeds:hostile
params: {{deed: nothing, folder: {folder}}}
sweep:
  name: {name}
  trials: 200
  retries: 0
  max_failures: 1000
  space: {{params.deed: "choice({deeds})"}}
"""
STATES = {"complete": TrialState.COMPLETE, "diverged": TrialState.PRUNED, "failed": TrialState.FAIL}


def launch(folder: Path, name: str, deeds: list[str], *words: str) -> Any:
    quoted = ",".join(f"'{deed}'" for deed in deeds)
    (folder / f"{name}.yaml").write_text(SWEEP.format(folder=folder, name=name, deeds=quoted))
    return swathes.read(folder, "launch", f"{name}.yaml", "cluster.workers=1", *words)


def check(folder: Path, name: str, deeds: list[str]) -> None:
    """Compare the study, MLflow and `swathe status` with what is promised of each deed."""
    trials = {trial.params["params.deed"]: trial for trial in study_of(folder, name).get_trials()}
    assert set(trials) == set(deeds)
    runs = runs_of(folder, name)
    status = swathes.succeed(folder, "status", name)
    wrong = []
    for deed, trial in trials.items():
        said = runs[trial.number].data.tags["swathe.state"]
        promised = DEEDS[deed]
        good = trial.state is STATES[promised.state] and said.startswith(promised.state) and promised.words in said
        good = good and _has_traceback(folder, runs[trial.number].info.run_id, promised)
        if not good:
            wrong.append((deed, trial.state.name, said))
        assert LATE not in trial.intermediate_values.values()
    assert not wrong, json.dumps(wrong, indent=1)
    failed = sum(promised.state == "failed" for promised in (DEEDS[deed] for deed in deeds))
    assert f"{failed} failed" in status
    assert "failed: " in status


def _has_traceback(folder: Path, run_id: str, promised: Deed) -> bool:
    if promised.state != "failed" or (promised.loses_worker and not promised.traceback) or not promised.traceback:
        return True
    text = Path(client_of(folder).download_artifacts(run_id, "traceback.txt", str(folder))).read_text()
    return promised.traceback in text and len(text) < 200_000


@pytest.mark.slow
def test_hostile_functions_harm_themselves_alone(tmp_path: Path) -> None:
    deeds = [deed for deed in DEEDS if deed not in HANGS]
    outcome = launch(tmp_path, "hostile", deeds, "cluster.memory_per_worker=1.5")
    assert outcome["reason"] == "the space is exhausted"
    check(tmp_path, "hostile", deeds)
    size = sum(path.stat().st_size for path in (tmp_path / ".swathe").rglob("*") if path.is_file())
    assert size < 30 << 20, "what trials print must not fill the home"


@pytest.mark.slow
def test_what_hangs_is_ended_whatever_it_holds(tmp_path: Path) -> None:
    deeds = ["nothing", *HANGS, "raise"]
    launch(tmp_path, "hangs", deeds, "sweep.trial_timeout=5")
    check(tmp_path, "hangs", deeds)


@pytest.mark.slow
def test_a_bug_in_the_code_stops_the_sweep_which_goes_on_when_it_is_mended(tmp_path: Path) -> None:
    sweep = swathes.write_function_sweep(tmp_path, "fails_until_marked", trials=40)
    done = swathes.run(tmp_path, "launch", sweep, "cluster=inline", "sweep.max_failures=5", "--json")
    assert done.returncode == 1
    reason = json.loads(done.stdout)["reason"]
    assert reason.startswith("5 trials failed for the same reason: ValueError: no marker for 0.")
    # As it is, it tries once more, and mended it goes on.
    again = swathes.run(tmp_path, "resume", "f", "--json")
    assert json.loads(again.stdout)["reason"].startswith("6 trials failed for the same reason: ")
    (tmp_path / "marker").touch()
    assert swathes.read(tmp_path, "resume", "f")["counts"] == {"failed": 6, "complete": 34}
