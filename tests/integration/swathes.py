"""How the integration tests run the command line: as a user does, in a folder of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

FUNCTION_SWEEP = """
defaults: [/sampler: random, /pruner: {pruner}, _self_]
trainable: tests.trials:{function}
params: {{x: 0.5, marker: {marker}}}
sweep:
  name: {name}
  trials: {trials}
  space: {{params.x: "interval(0.0, 1.0)"}}
"""


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SWATHE")}
    return kept | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "COLUMNS": "80", "RAY_USAGE_STATS_ENABLED": "0"}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "swathe.cli", *words]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a command and go on; its output goes to a file, so that nothing ever waits for a reader."""
    with (folder / "output.txt").open("a") as output:
        return subprocess.Popen(
            command(*words),
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            text=True,
        )


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=280
    )


def run_script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with one thread as workers have it: a script with its words, or `-m` and a module."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


def succeed(folder: Path, *words: str) -> str:
    done = run(folder, *words)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    return done.stdout


def read(folder: Path, *words: str) -> Any:
    """Run a reading command with --json and return what it printed."""
    return json.loads(succeed(folder, *words, "--json"))


def write_function_sweep(folder: Path, function: str, *, trials: int, name: str = "f", pruner: str = "none") -> str:
    text = FUNCTION_SWEEP.format(function=function, trials=trials, name=name, pruner=pruner, marker=folder / "marker")
    (folder / f"{name}.yaml").write_text(text)
    return f"{name}.yaml"
