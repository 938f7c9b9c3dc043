"""Each way to bring one's own model: from a fresh clone of this repository to its first result.

    python benchmarks/own_models.py               # the first results five times; some eight minutes
    python benchmarks/own_models.py --repeat 1    # a quick look, which writes no results

Clones the last commit into an empty folder and sets it up once, as `make` does for a new user: that needs what pip
fetches, and its time is mostly the network's. Then each way runs as its example's README says: with one trial, whose
end is the first result, each time from a folder without any record or cache; and once as the whole sweep.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks import commands, machine  # noqa: E402 - the script runs from anywhere
from benchmarks.rows import OWN_MODELS  # noqa: E402
from benchmarks.spread import figure, said  # noqa: E402

# The sweep of each way's folder under examples/.
SWEEPS = {
    "own_module": "sweep.yaml",
    "own_function": "tune.yaml",
    "lightning": "sweep.yaml",
    "hugging_face": "sweep.yaml",
}


def timed(*words: str, folder: Path) -> float:
    """Run a command as a new user would, without anything of this process's; returns its seconds."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SWATHE", "PYTHON", "VIRTUAL_ENV"))}
    began = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=kept, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return round(time.perf_counter() - began, 3)


def measure(clone: Path, repeats: int) -> dict[str, Any]:
    """Return the seconds of the clone and of the set-up, and the figures of each way; prints a line for each."""
    cloned = timed("git", "clone", "--quiet", f"file://{ROOT}", str(clone), folder=ROOT)
    setup = timed("make", "setup", f"PYTHON={sys.executable}", folder=clone)
    print(f"The clone {cloned:.1f} s, its set-up {setup:.0f} s", flush=True)
    swathe = str(clone / ".venv" / "bin" / "swathe")
    figures = {}
    for example, sweep in SWEEPS.items():
        folder = clone / "examples" / example
        firsts = []
        for _ in range(repeats):
            shutil.rmtree(folder / ".swathe", ignore_errors=True)
            firsts.append(timed(swathe, "launch", sweep, "sweep.trials=1", "sweep.name=first", folder=folder))
        whole = timed(swathe, "launch", sweep, folder=folder)
        note = f"{cloned + setup:.0f} s before for the clone and the set-up; the whole sweep {whole:.0f} s"
        figures[f"own-{example}"] = figure("s", firsts, note=note)
        print(
            f"{OWN_MODELS[example]}: first result after {said(firsts, 's')}, the whole sweep {whole:.1f} s", flush=True
        )
    return {"clone": cloned, "setup": setup, "figures": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=commands.REPEATS, metavar="N")
    repeats = parser.parse_args().repeat
    with tempfile.TemporaryDirectory(prefix="own-models-") as name:
        content: dict[str, Any] = {
            "what": __doc__.splitlines()[0],
            **measure(Path(name) / "swathe", repeats),
            "machine": machine.describe("torch", "ray", "lightning", "transformers"),
        }
    machine.keep("own_models", content, whole=repeats >= commands.REPEATS)


if __name__ == "__main__":
    main()
