"""Cost against size: 100, 1,000 and 10,000 trials, each trial's wall time, its driver's CPU time, and memory.

    python benchmarks/sizes.py                            # medians of five; some 14 minutes
    python benchmarks/sizes.py --trials 10 20 --repeat 1  # a quick look, which writes no results

Two sweeps, with everything in MLflow: trials that do nothing but report ten times (benchmarks/noop.yaml, with ASHA),
and digits with 64-8-10 and one epoch (benchmarks/memory.yaml). Whole commands, whose wall time is divided by the
trials. The driver's CPU time and the resident memory of driver, recorder and workers are read from /proc (Linux)
meanwhile. What trials cost late in a sweep, beside what they did early, is told by when their runs ended in MLflow: the
last tenth beside the second one, in the largest sweep. Ray Tune (actors reused, MLflow) runs the smallest of the sweeps
that do nothing; the larger ones are carried on at what the second half of its trials cost.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks import commands, machine, memory, overhead  # noqa: E402 - the script runs from anywhere
from benchmarks.overhead import QUIET  # noqa: E402
from benchmarks.spread import figure, said  # noqa: E402

SIZES = (100, 1_000, 10_000)
SWEEPS = {"noop": "noop.yaml", "digits": "memory.yaml"}
LOOK_SECONDS = 0.25
PEER = "Ray Tune, actors reused, MLflow"


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process, user and system, without its children's."""
    # After the command in parentheses, which may hold anything, the state is the first field; these are 12 and 13.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(kind: str, trials: int, home: Path) -> dict[str, Any]:
    """Launch a sweep in a home with warm caches, and watch its processes."""
    commands.forget(home)
    command = [sys.executable, "-m", "swathe.cli", "launch", str(ROOT / "benchmarks" / SWEEPS[kind]), "--quiet"]
    command += [f"sweep.trials={trials}", "sweep.name=sizes", *(["device=cpu"] if kind == "digits" else [])]
    environment = os.environ | QUIET | {"SWATHE_HOME": str(home)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    peaks: dict[str, float] = {}
    cpu = 0.0
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            try:
                cpu = cpu_seconds(process.pid)
                for name, mib in memory.sample(process.pid).items():
                    peaks[name] = max(peaks.get(name, 0.0), mib)
            except (OSError, IndexError):
                break  # It has just ended.
            time.sleep(LOOK_SECONDS)
        process.wait()
        seconds = time.perf_counter() - began
        if process.returncode:
            output.seek(0)
            sys.exit(f"Swathe ended with {process.returncode}:\n{output.read()[-4000:]}")
    ended = ends(home / "mlflow.db")
    if len(ended) != trials:
        sys.exit(f"{len(ended)} of {trials} trials are ended in MLflow.")
    tenth = trials // 10
    return {
        "seconds": round(seconds, 3),
        "ms_per_trial": round(1000 * seconds / trials, 3),
        "driver_cpu_ms_per_trial": round(1000 * cpu / trials, 3),
        "early_ms_per_trial": round(1000 * (ended[2 * tenth - 1] - ended[tenth - 1]) / tenth, 3),
        "late_ms_per_trial": round(1000 * (ended[-1] - ended[-1 - tenth]) / tenth, 3),
        "peak_mib": peaks,
    }


def ends(database: Path) -> list[float]:
    """Return when the trials ended (unix time, seconds), in order."""
    query = """
        SELECT end_time FROM runs WHERE end_time IS NOT NULL
        AND run_uuid NOT IN (SELECT run_uuid FROM tags WHERE key = 'swathe.kind' AND value = 'sweep') ORDER BY end_time
    """
    with sqlite3.connect(database) as connection:
        return [row[0] / 1000 for row in connection.execute(query)]


def row(kind: str, trials: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of a size, and print their line."""
    middle = {
        name: round(median(run[name] for run in runs), 3)
        for name in ("seconds", "ms_per_trial", "driver_cpu_ms_per_trial", "early_ms_per_trial", "late_ms_per_trial")
    }
    together = [sum(run["peak_mib"].values()) for run in runs]
    print(
        f"{kind}, {trials:,} trials: {said([run['ms_per_trial'] for run in runs], 'ms')} a trial, the driver's CPU "
        f"{middle['driver_cpu_ms_per_trial']:.2f} ms a trial, memory {median(together):.0f} MiB",
        flush=True,
    )
    driver = round(median(run["peak_mib"].get("driver", 0.0) for run in runs), 1)
    return {
        "kind": kind,
        "trials": trials,
        "runs": runs,
        "mib": round(median(together), 1),
        "driver_mib": driver,
    } | middle


def figures(rows: list[dict[str, Any]], peers: list[dict[str, Any]], smallest: int) -> dict[str, Any]:
    """Return the figures of the book: each size's cost a trial, and how much dearer the last trials were."""
    found = {}
    for one in rows:
        theirs = []
        if one["kind"] == "noop":
            seconds = [overhead.carried_on(peer, smallest, one["trials"]) for peer in peers]
            theirs = [1000 * each / one["trials"] for each in seconds]
        ours = [run["ms_per_trial"] for run in one["runs"]]
        note = "Ray Tune carried on from fewer trials" if theirs and one["trials"] > smallest else ""
        found[f"size-{one['kind']}-{one['trials']}"] = figure("ms a trial", ours, theirs, PEER, note)
        if one["trials"] == max(each["trials"] for each in rows):
            dearer = [100 * (run["late_ms_per_trial"] / run["early_ms_per_trial"] - 1) for run in one["runs"]]
            early = one["early_ms_per_trial"]
            note = f"{one['late_ms_per_trial']:.2f} ms a trial, {early:.2f} ms in the second tenth"
            found[f"late-{one['kind']}"] = figure("% dearer", dearer, note=note)
            print(f"{one['kind']}: the last tenth of {one['trials']:,} trials is {said(dearer, '%')} dearer; {note}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--repeat", type=int, default=commands.REPEATS, metavar="N")
    options = parser.parse_args()
    sizes = sorted(options.trials)
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    peers = []
    with tempfile.TemporaryDirectory(prefix="sizes-") as name:
        homes = {kind: Path(name) / kind for kind in SWEEPS}
        for kind, home in homes.items():
            # The first launch prepares data and programs.
            measure(kind, sizes[0], home)
        for _ in range(options.repeat):
            for size in sizes:
                for kind, home in homes.items():
                    runs.setdefault((kind, size), []).append(measure(kind, size, home))
            peers.append(overhead.measure("recorded", sizes[0]))
    rows = [row(kind, size, found) for (kind, size), found in sorted(runs.items())]
    content = {
        "what": __doc__.splitlines()[0],
        "rows": rows,
        "figures": figures(rows, peers, sizes[0]),
        "machine": machine.describe("ray", "optuna", "mlflow", "torch"),
    }
    machine.keep("sizes", content, whole=tuple(sizes) == SIZES and options.repeat >= commands.REPEATS)


if __name__ == "__main__":
    main()
