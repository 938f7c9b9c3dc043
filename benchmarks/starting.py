"""From the command to the first training: Swathe beside Ray Tune, and beside the start of Ray alone.

    python benchmarks/starting.py               # medians of five, in turns; some 3 minutes
    python benchmarks/starting.py --repeat 1    # a quick look, which writes no results

The sweep is that of benchmarks/digits.py with warm caches. The clock runs from the start of the process to the first
report of the first trial, which is an epoch (some milliseconds) after its first step. Ray Tune runs four trials of it
without any record; Ray alone is `ray.init` with two actors, as Swathe starts it, in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks import commands, machine  # noqa: E402 - the script runs from anywhere
from benchmarks.digits import WORK  # noqa: E402
from benchmarks.overhead import QUIET  # noqa: E402
from benchmarks.spread import figure, said  # noqa: E402

PEER_TRIALS = 4
# Ray alone, as Swathe starts it, with its workers; says how long that took (seconds), imports included.
RAY = """
import time
began = time.time()
import ray
ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=1)
class Worker:
    def begin(self):
        return 0
workers = [Worker.remote() for _ in range(int(ray.cluster_resources()["CPU"]))]
ray.get([worker.begin.remote() for worker in workers])
print(time.time() - began)
"""


def ray_alone() -> float:
    """Return the seconds that Ray's own start takes."""
    command = [sys.executable, "-c", RAY]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | QUIET)
    return float(done.stdout)


def swathe(home: Path) -> float:
    commands.forget(home)
    began = time.time()
    commands.run_swathe(WORK, home, "sweep.name=starting")
    return commands.first_report(home / "mlflow.db") - began


def ray_tune(home: Path) -> float:
    began = time.time()
    return float(commands.run_peer(WORK.small(PEER_TRIALS, 1), home / "data", record=False)["first_report"]) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=commands.REPEATS, metavar="N")
    repeats = parser.parse_args().repeat
    runs: dict[str, list[float]] = {"ray": [], "swathe": [], "ray_tune": []}
    with tempfile.TemporaryDirectory(prefix="starting-") as name:
        home = Path(name)
        commands.warm(WORK, home)
        for _ in range(repeats):
            runs["ray"].append(ray_alone())
            runs["swathe"].append(swathe(home))
            runs["ray_tune"].append(ray_tune(home))
    print(
        f"From the command to the first report: Swathe {said(runs['swathe'], 's')}, Ray Tune "
        f"{said(runs['ray_tune'], 's')}, the start of Ray alone {said(runs['ray'], 's')}"
    )
    content: dict[str, Any] = {
        "what": __doc__.splitlines()[0],
        "figures": {
            "starting": figure("s", runs["swathe"], runs["ray_tune"], "Ray Tune without any record"),
            "starting-ray": figure("s", runs["swathe"], runs["ray"], "Ray's own start alone"),
        },
        "machine": machine.describe("ray", "optuna", "mlflow", "torch"),
    }
    machine.keep("starting", content, whole=repeats >= commands.REPEATS)


if __name__ == "__main__":
    main()
