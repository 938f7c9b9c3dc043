"""The examples that hydra-optuna-sweeper publishes, by the command lines of its documentation and of its tests."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hydra_plugins.swathe_sweeper import _config
from hydra_plugins.swathe_sweeper._space import read
from hydra_plugins.swathe_sweeper._sweep import _sampler
from swathe import schema
from tests.integration import swathes

PUBLISHED = Path(__file__).parent / "published"
# In the process itself, which saves the seconds of starting Ray.
OURS = ("hydra/sweeper=swathe", "hydra.sweeper.cluster.kind=inline")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the plugin's folder, from which its documentation runs the examples."""
    return Path(shutil.copytree(PUBLISHED, tmp_path_factory.mktemp("published") / "hydra_optuna_sweeper"))


def multirun(plugin: Path, out: Path, script: str, *words: str, code: int = 0) -> Any:
    """Run an example and return its `optimization_results.yaml`, or what it said where it is to fail."""
    done = swathes.run_script(plugin, script, "--multirun", *words, *OURS, f"hydra.sweep.dir={out}")
    said = done.stdout + done.stderr
    assert done.returncode == code, said[-4000:]
    return said if code else yaml.safe_load((out / "optimization_results.yaml").read_text())


@pytest.mark.slow
def test_the_sphere(plugin: Path, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/test.db"
    words = ("hydra.job.chdir=True", "hydra.sweeper.n_trials=20", "hydra.sweeper.n_jobs=1", "hydra/sweeper/sampler=tpe")
    named = (f"hydra.sweeper.storage={storage}", "hydra.sweeper.study_name=test", "hydra.sweeper.sampler.seed=123")
    found = multirun(plugin, tmp_path, "example/sphere.py", *words, *named, "~z", "x=choice(0, 1, 2)", "y=0")
    best = optuna.load_study(storage=storage, study_name="test").best_trial
    assert found == {"name": "optuna", "best_params": best.params, "best_value": best.value}
    assert set(best.params) == {"x"}, "y is fixed"
    assert found["best_value"] <= 2.27, "what their test asks of their TPE"


@pytest.mark.slow
def test_a_grid_from_a_config_of_its_own(plugin: Path, tmp_path: Path) -> None:
    config = ("--config-dir=tests/conf", "--config-name=test_grid")
    words = ("hydra.job.chdir=False", "hydra.sweeper.n_trials=12", "hydra.sweeper.n_jobs=1")
    found = multirun(plugin, tmp_path, "example/sphere.py", *config, *words)
    assert found["best_value"] == 1
    assert abs(found["best_params"]["x"]) == 1
    assert found["best_params"]["y"] == 0
    assert found["best_params"]["z"] in ("foo", "bar")


@pytest.mark.slow
def test_a_custom_search_space(plugin: Path, tmp_path: Path) -> None:
    words = ("hydra.job.chdir=True", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=123")
    script = "example/custom-search-space-objective.py"
    best = multirun(plugin, tmp_path, script, *words, "max_z_difference_from_x=0.3")["best_params"]
    assert abs(best["x"] - best["z"]) <= 0.3
    assert 0 <= best["+w"] <= 1


@pytest.mark.slow
def test_two_objectives(plugin: Path, tmp_path: Path) -> None:
    found = multirun(plugin, tmp_path, "example/multi-objective.py", "hydra.job.chdir=True")
    assert found["name"] == "optuna"
    points = [one["values"] for one in found["solutions"]]
    assert points
    for one in found["solutions"]:
        x, y = one["params"]["x"], one["params"]["y"]
        assert (x % 0.5, y % 0.5) == (0, 0)
        assert one["values"] == [4 * x**2 + 4 * y**2, (x - 5) ** 2 + (y - 5) ** 2]
    assert not [(one, other) for one in points for other in points if dominates(one, other)]


def dominates(one: list[float], other: list[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


@pytest.mark.parametrize(
    ("words", "distributions"),
    [
        (
            ["x=interval(-5.0, 5.0)", "y=interval(0, 10)"],
            {"x": FloatDistribution(-5, 5), "y": FloatDistribution(0, 10)},
        ),
        (
            ["x=int(interval(-5.0, 5.0))", "y=tag(log, interval(1, 10))"],
            {"x": IntDistribution(-5, 5), "y": FloatDistribution(1, 10, log=True)},
        ),
        (
            ["x=choice(-5.0, 0.0, 5.0)", "y=choice(0, 1, 2, 3, 4, 5)"],
            {"x": CategoricalDistribution([-5.0, 0.0, 5.0]), "y": CategoricalDistribution([0, 1, 2, 3, 4, 5])},
        ),
        (["x=range(-5.0, 5.0)"], {"x": FloatDistribution(-5, 5, step=1)}),
    ],
)
def test_the_command_lines_of_the_documentation(words: list[str], distributions: dict[str, BaseDistribution]) -> None:
    shipped = yaml.safe_load((PUBLISHED / "example" / "conf" / "config.yaml").read_text())["hydra"]["sweeper"]["params"]
    found = {key: one.distribution for key, one in read(shipped, None, words).parameters.items()}
    assert {**found, **distributions} == found


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 5, "prior_weight": None}, {"name": "tpe"}),
        ({"_target_": "optuna.samplers.CmaEsSampler", "sigma0": 0.3, "use_separable_cma": False}, {"name": "cmaes"}),
        ({"_target_": "optuna.samplers.NSGAIISampler", "population_size": 20}, {"name": "nsga2"}),
        ({"_target_": "optuna.samplers.QMCSampler", "scramble": False}, {"name": "qmc"}),
        ({"_target_": "optuna.samplers.GPSampler", "deterministic_objective": True}, {"name": "gp"}),
        ({"_target_": "optuna.samplers.GridSampler", "_partial_": True}, {"name": "grid"}),
    ],
)
def test_their_samplers_have_the_options_that_they_are_given(given: dict[str, Any], options: dict[str, Any]) -> None:
    kept = {key: value for key, value in given.items() if key in _config.OPTIONS.get(_of(given), ())}
    assert _sampler({**given, "seed": 123}) == ({**options, **kept}, 123)


def _of(given: dict[str, Any]) -> str:
    return next(name for name, target in _config.SAMPLERS.items() if target == given["_target_"])


def test_the_command_line_can_set_each_option_of_the_cluster_the_record_and_the_pruners() -> None:
    """Hydra lets it set what is there: each key of Swathe's own config."""
    assert {one.name for one in fields(schema.ClusterOptions)} == set(_config.CLUSTER)
    assert {one.name for one in fields(schema.TrackingOptions)} == set(_config.TRACKING)
    pruners = [one for name, one in vars(schema).items() if name.endswith("Pruner")]
    assert {one.name for pruner in pruners for one in fields(pruner)} == {"name", *_config.PRUNER}
