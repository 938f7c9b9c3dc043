"""Each example is run as its README says, in a copy of its folder."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from swathe.study import Study
from tests.integration import swathes

EXAMPLES = swathes.ROOT / "examples"
# What follows a README's command here, so that there is less to do, and fewer workers to start.
SMALLER = {
    ("ddp", "launch"): ["sweep.trials=1", "params.epochs=2"],
    ("hugging_face", "launch"): ["sweep.trials=4", "cluster=inline"],
    ("lightning", "launch"): ["sweep.trials=6"],
    ("own_function", "launch"): ["cluster=inline"],
    ("streaming_data", "launch"): ["sweep.trials=2", "cluster=inline"],
    ("streaming_data", "make_data.py"): ["2"],
}


def commands(folder: Path) -> list[list[str]]:
    """Return the commands that a README shows, one a line, each indented."""
    lines = (folder / "README.md").read_text().splitlines()
    return [shlex.split(line) for line in lines if line.startswith("    ")]


def run(folder: Path, words: list[str]) -> str:
    """Run a command of a README as a user does, in the example's folder."""
    start = {"swathe": ["-m", "swathe.cli"], "python": []}[words[0]]
    done = swathes.run_script(folder, *start, *words[1:], *SMALLER.get((folder.name, words[1]), []))
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def copied(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns(".*", "__pycache__")))


def states(folder: Path) -> list[str]:
    """Return how the trials of the one sweep of a folder have ended."""
    (path,) = (folder / ".swathe" / "sweeps").iterdir()
    study = Study.load(path.name, folder=path, storage=None)
    past = study.history()
    study.close()
    return [trial.state.value for trial in past]


def test_every_example_is_in_the_list_and_has_a_readme() -> None:
    names = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
    listed = (EXAMPLES / "README.md").read_text()
    for name in names:
        assert f"| [{name}]({name}) |" in listed
        assert commands(EXAMPLES / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["own_module", "own_function", "lightning", "hugging_face", "streaming_data", "ddp", "hydra_app"]
)
def test_an_example(tmp_path: Path, name: str) -> None:
    folder = copied(name, tmp_path)
    said = [run(folder, words) for words in commands(folder)]
    if name in ("own_module", "own_function"):
        assert "Identical" in said[-1]
    if name == "hydra_app":
        assert list(folder.glob("multirun/*/*/optimization_results.yaml"))
    ended = set(states(folder))
    assert ended <= {"complete", "pruned"}
    assert "pruned" in ended or name not in ("lightning", "own_function")


@pytest.mark.slow
def test_the_notebook(tmp_path: Path) -> None:
    """Its cells, one after another in one process; what a cell ends with is what a notebook shows."""
    folder = copied("notebook", tmp_path)
    cells = json.loads((folder / "tune.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (folder / "cells.py").write_text(f"{code}\nassert len(result.trials) == 12\nprint('best', result.best['value'])\n")
    assert "best 0." in run(folder, ["python", "cells.py"])
