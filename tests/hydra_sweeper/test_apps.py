"""Whole apps: their commands as users type them, with real workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from swathe.home import Home
from swathe.records import Records
from swathe.study import Study
from tests.integration import swathes

APPS = Path(__file__).parent / "apps"


def copied(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(APPS / name, folder / name))


def run(folder: Path, script: str, *words: str, code: int = 0) -> str:
    """Run an app in its folder and return all that it said."""
    done = swathes.run_script(folder, script, "-m", *words)
    said = done.stdout + done.stderr
    assert done.returncode == code, said[-4000:]
    assert "Traceback" not in done.stderr
    return said


def results(folder: Path) -> Any:
    (path,) = folder.glob("multirun/*/*/optimization_results.yaml")
    return yaml.safe_load(path.read_text())


def test_hydra_finds_it() -> None:
    from hydra.core.plugins import Plugins
    from hydra.plugins.sweeper import Sweeper

    assert "SwatheSweeper" in [plugin.__name__ for plugin in Plugins.instance().discover(Sweeper)]


def test_the_sweeper_costs_an_app_nothing_until_it_is_used() -> None:
    code = (
        "import sys, hydra_plugins.swathe_sweeper.swathe_sweeper\n"
        "print([name for name in ('optuna', 'ray', 'mlflow', 'torch', 'swathe') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=swathes.environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["q=interval(0.0,1.0)"], "The overrides 'x=-5.5 y=-5 q=0.0' are not allowed for this app"),
        (["norm=choice(large,huge)"], "are not allowed for this app"),
        (
            ["hydra.sweeper.direction=up"],
            "hydra.sweeper.direction: 'up' is not allowed; allowed: minimize, maximize, or a list",
        ),
        (["hydra.sweeper.max_failure_rate=2"], "hydra.sweeper.max_failure_rate: 2"),
        (["hydra.sweeper.sampler._target_=a.B"], "hydra.sweeper.sampler: 'a.B' is not allowed; allowed: tpe, random"),
        (["hydra.sweeper.n_trials=-1"], "sweep.trials"),
        (["hydra.sweeper.custom_search_space=no.such"], "hydra.sweeper.custom_search_space: 'no.such' is not allowed"),
        (["x=interval(2.0,1.0)"], "x: 'interval(2.0,1.0)' is not allowed"),
        (["hydra/sweeper/sampler=grid", "x=interval(0.0,1.0)"], "sampler.name: 'grid' is not allowed"),
        (["hydra.sweeper.sampler=tpe"], "hydra.sweeper.sampler: 'tpe' is not allowed; allowed: a sampler's config"),
        (["hydra.sweeper.sampler.seed=a"], "hydra.sweeper.sampler.seed: 'a' is not allowed; allowed: an integer"),
        (["hydra.sweeper.study_name=../../a"], "hydra.sweeper.study_name: '../../a' is not allowed; allowed: letters"),
        (["hydra.sweep.dir=app.py"], "hydra.sweep.dir: 'app.py' is not allowed; allowed: a folder that can be made"),
        (
            ["hydra.sweeper.custom_search_space=app.main"],
            "hydra.sweeper.custom_search_space: 'main' is not allowed (TypeError: ",
        ),
    ],
)
@pytest.mark.slow
def test_what_is_refused_is_one_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    folder = copied("sphere", tmp_path)
    said = run(folder, "app.py", *words, code=2)
    assert len(said.strip().splitlines()) == 1, said
    assert sentence in said
    assert not (folder / ".swathe" / "sweeps").exists(), "nothing was launched"


@pytest.mark.slow
def test_a_study_goes_on_with_its_own_app_and_a_refused_launch_changes_nothing(tmp_path: Path) -> None:
    folder = copied("sphere", tmp_path)
    words = ("hydra.sweeper.study_name=one", "hydra.sweeper.cluster.kind=inline")
    run(folder, "app.py", *words, "hydra.sweeper.n_trials=2")
    config = folder / "configs" / "config.yaml"
    before = config.read_text()
    config.write_text(before + "more: 1\n")
    said = run(folder, "app.py", *words, "hydra.sweeper.n_trials=3", code=2)
    assert "hydra.sweeper.study_name: 'one' is not allowed; allowed: a name that is not taken" in said
    assert said.count("swathe: ") == 1
    config.write_text(before)
    assert "Identical" in swathes.succeed(folder, "reproduce", "one")
    with Home(folder / ".swathe").sweep("one").drive():
        files = {path: path.stat().st_mtime_ns for path in (folder / ".swathe" / "hydra").rglob("*")}
        said = run(folder, "app.py", *words, "hydra.sweeper.n_trials=4", code=2)
        assert f"swathe: Sweep 'one' is being run by process {os.getpid()}" in said
        assert {path: path.stat().st_mtime_ns for path in files} == files
    assert "all 3 trials are done" in run(folder, "app.py", *words, "hydra.sweeper.n_trials=3")


@pytest.mark.slow
def test_an_app_that_knows_nothing(tmp_path: Path) -> None:
    folder = copied("sphere", tmp_path)
    storage = f"sqlite:///{folder}/study.db"
    said = run(folder, "app.py", f"hydra.sweeper.storage={storage}", "norm=choice(large, small)", "y=0")
    study = optuna.load_study(storage=storage, study_name="sphere")
    best = study.best_trial
    assert len(study.trials) == 12
    assert results(folder) == {"name": "optuna", "best_params": best.params, "best_value": best.value}
    assert set(best.params) == {"x", "norm"}, "y is fixed"
    assert f"Best value: {best.value}" in said
    (jobs,) = folder.glob("multirun/*/*")
    assert {int(path.name) for path in jobs.iterdir() if path.is_dir()} == set(range(12))
    overrides = yaml.safe_load((jobs / "3" / ".hydra" / "overrides.yaml").read_text())
    third = study.trials[3].params
    assert overrides == ["y=0", f"x={third['x']}", f"norm={third['norm']}"]
    config = yaml.safe_load((jobs / "3" / ".hydra" / "config.yaml").read_text())
    assert config["norm"]["name"] == third["norm"]
    records = Records(Home(folder / ".swathe").tracking_uri)
    recorded = records.trial_runs("sphere", "sphere")
    assert [run.state for run in recorded] == ["complete"] * 12
    assert recorded[3].params["x"] == str(third["x"])
    # The same command has nothing more to do, and its winner is the same once more.
    assert "all 12 trials are done" in run(
        folder, "app.py", f"hydra.sweeper.storage={storage}", "norm=choice(large, small)", "y=0"
    )
    assert "Identical" in swathes.succeed(folder, "reproduce", "sphere")


@pytest.mark.slow
def test_two_lines_make_an_app_s_bad_trials_end_early(tmp_path: Path) -> None:
    folder = copied("search", tmp_path)
    run(folder, "app.py")
    study = Study.load("search", folder=folder / ".swathe" / "sweeps" / "search", storage=None)
    past = study.history()
    study.close()
    states = [trial.state.value for trial in past]
    assert states.count("pruned") >= 8
    assert set(states) == {"pruned", "complete"}
    assert all(max(trial.values) < 8 for trial in past if trial.state.value == "pruned")
    best = results(folder)["best_params"]
    assert abs(best["x"] - best["z"]) <= 0.5
    assert 0 <= best["+w"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "code"), [(0.0, 1), (1.0, 0)])
def test_how_many_trials_may_fail(tmp_path: Path, rate: float, code: int) -> None:
    folder = copied("sphere", tmp_path)
    words = ("error=true,false", f"hydra.sweeper.max_failure_rate={rate}", "hydra.sweeper.n_jobs=1")
    said = run(folder, "app.py", "hydra/sweeper/sampler=random", *words, code=code)
    assert " failed: RuntimeError: cfg.error is set\n" in said
    assert ("more than hydra.sweeper.max_failure_rate=0.0 allows; trial " in said) is (rate == 0)
    assert (results(folder)["best_params"]["error"] is False) if code == 0 else True


@pytest.mark.slow
def test_an_app_in_the_layout_of_lightning_hydra_template(tmp_path: Path) -> None:
    folder = copied("template", tmp_path)
    run(folder, os.path.join("src", "train.py"), "hparams_search=digits")
    found = results(folder)
    assert found["best_value"] > 0.5
    assert set(found["best_params"]) == {"model.optimizer.lr", "data.batch_size", "model.net.size"}
    assert len(list(folder.glob("multirun/*/*/*/metrics.txt"))) == 6
