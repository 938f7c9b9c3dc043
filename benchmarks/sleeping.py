"""Ray's published scalability rows, scaled to this machine: trials that sleep, so that all time beyond is the tool's.

    python benchmarks/sleeping.py                           # medians of five, in turns; some 12 minutes
    python benchmarks/sleeping.py --shorter 8 --repeat 1    # a quick look, which writes no results

Ray publishes three rows, which need 16 to 1,000 cores. Sleeping needs none, so that here trials share the cores:

* 10,000 trials of 1 s on 16 CPUs (published: 715 s, 625 s is the minimum): 160 trials of 1 s in 16 slots;
* 1,000 concurrent trials of 100 s (168 s): 32 concurrent trials of 8 s, one report each second;
* 96 concurrent trials of 100 s with 10 results a second each (169 s): 16 concurrent trials of 8 s with that rate.

A trial notes from when to when it ran, and in which process. The overhead is the time in which the slots did not sleep:
of each process from its first trial's begin to its last one's end, beyond what it had to sleep, in percent of the
latter. That leaves out the start of processes, 16 or 32 of which start on few cores here and on one each at Ray; the
clock from the first begin to the last end, which has them in it, is in the file and in the note. Ray Tune runs with
`reuse_actors=True` and without any record; Swathe records in MLflow.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks import commands, machine, naps  # noqa: E402 - the script runs from anywhere
from benchmarks.overhead import QUIET, RAY_TUNE_ENVIRONMENT  # noqa: E402
from benchmarks.spread import figure, said  # noqa: E402


@dataclass(frozen=True, slots=True)
class Row:
    """So many trials, so many at a time, which sleep so long and report so often."""

    name: str
    trials: int
    slots: int
    seconds: float
    reports: int

    @property
    def minimum(self) -> float:
        """The least seconds that all trials can take."""
        return -(-self.trials // self.slots) * self.seconds


ROWS = (
    Row("many", 160, 16, 1.0, 1),
    Row("concurrent", 32, 32, 8.0, 8),
    Row("results", 16, 16, 8.0, 80),
)


def run_ray_tune(folder: Path, row: Row) -> None:
    """Run the peer in this process, at its best settings."""
    import ray
    from ray import tune

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    process = tune.with_resources(naps.sleep_in_ray_tune, {"cpu": commands.CORES / row.slots})
    tuner = tune.Tuner(
        process,
        param_space={"x": tune.uniform(0.0, 1.0), "seconds": row.seconds, "reports": row.reports},
        tune_config=tune.TuneConfig(metric="val_loss", mode="min", num_samples=row.trials, reuse_actors=True),
        run_config=tune.RunConfig(name="naps", storage_path=str(folder), verbose=0),
    )
    failed = tuner.fit().num_errors
    ray.shutdown()
    if failed:
        sys.exit(f"{failed} trials of Ray Tune failed.")


def swathe_words(row: Row) -> list[str]:
    words = ["launch", str(ROOT / "benchmarks" / "naps.yaml"), "--quiet", "sweep.name=naps"]
    words += [f"sweep.trials={row.trials}", f"params.seconds={row.seconds}", f"params.reports={row.reports}"]
    return [*words, f"cluster.workers={row.slots}", f"cluster.cpus_per_worker={commands.CORES / row.slots}"]


def measure(tool: str, row: Row) -> dict[str, float]:
    """Run one tool in a new folder; returns the command's seconds, those of the trials, and the overhead in percent."""
    with tempfile.TemporaryDirectory(prefix="naps-") as name:
        notes = Path(name) / "notes"
        environment = QUIET | {naps.NOTES: str(notes), "SWATHE_HOME": str(Path(name) / "home")}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        if tool == "swathe":
            command = [sys.executable, "-m", "swathe.cli", *swathe_words(row)]
        else:
            environment |= RAY_TUNE_ENVIRONMENT
            command = [sys.executable, __file__, "--run-ray-tune", name, json.dumps(asdict(row))]
        seconds, _ = commands.timed(tool, command, environment)
        ran = [line.split() for line in notes.read_text().splitlines()]
    if len(ran) != row.trials:
        sys.exit(f"{tool}: {len(ran)} of {row.trials} trials are over.")
    begins, ends = [float(began) for _, began, _ in ran], [float(ended) for *_, ended in ran]
    return {
        "seconds": seconds,
        "slots": len({process for process, *_ in ran}),
        "first_to_last_seconds": round(max(ends) - min(begins), 3),
        "overhead_percent": round(overhead(ran, row.trials * row.seconds), 3),
    }


def overhead(ran: list[list[str]], slept: float) -> float:
    """Return how much longer than what they slept (seconds, together) the slots were in use, percent."""
    slots: dict[str, tuple[float, float]] = {}
    for process, began, ended in ran:
        first, last = slots.get(process, (float(began), float(ended)))
        slots[process] = (min(first, float(began)), max(last, float(ended)))
    return 100 * (sum(last - first for first, last in slots.values()) / slept - 1)


def compared(row: Row, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the row's figure, and print its line."""
    ours, peer = ([run["overhead_percent"] for run in runs[tool]] for tool in ("swathe", "ray_tune"))
    clocks = [median(run["first_to_last_seconds"] for run in runs[tool]) for tool in ("swathe", "ray_tune")]
    note = f"first begin to last end {clocks[0]:.1f} s, Ray Tune {clocks[1]:.1f} s, at least {row.minimum:g} s"
    print(
        f"{row.trials} trials of {row.seconds:g} s, {row.slots} at a time, {row.reports} reports each: "
        f"Swathe {said(ours, '%')}, Ray Tune {said(peer, '%')} over what they slept; {note}",
        flush=True,
    )
    return figure("% over the minimum", ours, peer, "Ray Tune without any record", note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shorter", type=int, default=1, metavar="N", help="divide trials or their seconds")
    parser.add_argument("--repeat", type=int, default=commands.REPEATS, metavar="N")
    parser.add_argument("--run-ray-tune", nargs=2, metavar=("FOLDER", "ROW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run_ray_tune:
        run_ray_tune(Path(options.run_ray_tune[0]), Row(**json.loads(options.run_ray_tune[1])))
        return
    rows = [
        replace(row, trials=row.trials // options.shorter)
        if row.trials > row.slots
        else replace(row, seconds=row.seconds / options.shorter, reports=row.reports // options.shorter)
        for row in ROWS
    ]
    runs: dict[str, dict[str, list[dict[str, float]]]] = {row.name: {"swathe": [], "ray_tune": []} for row in rows}
    for _ in range(options.repeat):
        for row in rows:
            for tool, found in runs[row.name].items():
                found.append(measure(tool, row))
    content = {
        "what": __doc__.splitlines()[0],
        "figures": {f"sleeping-{row.name}": compared(row, runs[row.name]) for row in rows},
        "rows": [asdict(row) | {"minimum_seconds": row.minimum} for row in rows],
        "runs": runs,
        "machine": machine.describe("ray", "optuna", "mlflow"),
    }
    machine.keep("sleeping", content, whole=options.shorter == 1 and options.repeat >= commands.REPEATS)


if __name__ == "__main__":
    main()
