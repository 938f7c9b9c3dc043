"""A built wheel in an environment of its own, used from empty folders."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

USERS_SWEEP = """
defaults: [/model: mlp, /data: digits, /optim: adamw, _self_]
sweep:
  trials: 7
  space:
    optim.lr: choice(0.25, 0.5)
"""
USERS_OPTIMISER = """
defaults: [adamw_schema, _self_]
beta2: 0.875
"""


def run(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user's shell would: nothing of the checkout on any path."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SWATHE", "VIRTUAL"))}
    return subprocess.run(
        [str(word) for word in command], cwd=folder, env=inherited, capture_output=True, text=True, check=False
    )


def succeed(command: list[str | Path], folder: Path) -> str:
    done = run(command, folder)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    succeed([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def swathe(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment; its dependencies are those of the tests' own environment."""
    environment = tmp_path_factory.mktemp("environment")
    succeed([sys.executable, "-m", "venv", "--without-pip", environment], environment)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    succeed([*pip, "--no-deps", wheel], environment)
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site_packages = Path(succeed(where, environment).strip())
    # A line of a .pth file is only appended to sys.path: an editable Swathe in there is not seen.
    (site_packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    found = succeed([python, "-c", "import swathe; print(swathe.__file__)"], environment)
    assert Path(found.strip()).is_relative_to(environment)
    return environment / "bin" / "swathe"


def config_of(swathe: Path, folder: Path, *words: str) -> Mapping[str, Any]:
    composed: Mapping[str, Any] = json.loads(succeed([swathe, "config", *words, "--json"], folder))["config"]
    return composed


def test_the_wheel_carries_conf_and_sweeps(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("conf", "sweeps"):
        ours = {f"swathe/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.yaml")}
        assert ours
        assert ours <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


@pytest.mark.slow
def test_quickstart_runs_from_an_empty_folder(swathe: Path, tmp_path: Path) -> None:
    small = ["sweep.trials=3", "epochs=2", "cluster.workers=1"]
    outcome = json.loads(succeed([swathe, "launch", "quickstart", *small, "--json"], tmp_path))
    assert not outcome["failed"]
    assert {path.name for path in tmp_path.iterdir()} == {".swathe"}
    assert (tmp_path / ".swathe" / "mlflow.db").exists()
    rows = json.loads(succeed([swathe, "compare", "quickstart", "--json"], tmp_path))
    assert 1 <= len(rows) <= 3


def test_the_working_folders_sweeps_come_first(swathe: Path, tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "quickstart.yaml").write_text(USERS_SWEEP)
    config = config_of(swathe, tmp_path, "quickstart")
    assert config["sweep"]["trials"] == 7
    assert list(config["sweep"]["space"]) == ["optim.lr"]


def test_the_working_folders_conf_comes_first(swathe: Path, tmp_path: Path) -> None:
    (tmp_path / "conf" / "optim").mkdir(parents=True)
    (tmp_path / "conf" / "optim" / "adamw.yaml").write_text(USERS_OPTIMISER)
    (tmp_path / "conf" / "optim" / "mine.yaml").write_text(USERS_OPTIMISER)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "small.yaml").write_text(USERS_SWEEP)
    assert config_of(swathe, tmp_path, "small")["optim"]["beta2"] == 0.875
    assert config_of(swathe, tmp_path, "small", "optim=mine")["optim"]["beta2"] == 0.875
