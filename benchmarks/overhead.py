"""What a trial costs that does nothing: ten reports, pruning and MLflow on, Swathe beside Ray Tune.

    python benchmarks/overhead.py                      # 200 and 2,000 trials of both; Ray Tune takes some ten minutes
    python benchmarks/overhead.py --trials 50          # a quick look
    python benchmarks/overhead.py --peer-at-most 200   # its larger rows are taken from its 200 (marked)

Both are timed as whole commands, from the start of the process to its end with everything in MLflow (SQLite, a new
database). The two sizes also give the cost of one further trial, in which no start is left.
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
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks import machine, noop  # noqa: E402 - the script runs from anywhere

# Ray Tune's own switches that make it faster here (measured): no CSV, JSON and TensorBoard files beside MLflow, and the
# plain progress output, which verbose=0 then silences.
RAY_TUNE_ENVIRONMENT = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "GIT_PYTHON_REFRESH": "quiet", "PYTHONWARNINGS": "ignore"}


def run_ray_tune(folder: Path, trials: int) -> None:
    """Run the peer in this process, at its best settings: warm actors, quiet, nothing synchronised."""
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    record = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="noop")
    tuner = tune.Tuner(
        noop.train_in_ray_tune,
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            num_samples=trials,
            reuse_actors=True,
            scheduler=ASHAScheduler(max_t=noop.REPORTS, grace_period=1, reduction_factor=4),
        ),
        run_config=tune.RunConfig(name="noop", storage_path=str(folder), verbose=0, callbacks=[record]),
    )
    failed = tuner.fit().num_errors
    ray.shutdown()
    if failed:
        sys.exit(f"{failed} trials of Ray Tune failed.")


def ray_tune_command(folder: Path, trials: int) -> list[str]:
    return [sys.executable, __file__, "--run-ray-tune", str(folder), str(trials)]


def swathe_command(folder: Path, trials: int) -> list[str]:
    sweep = ROOT / "benchmarks" / "noop.yaml"
    return [sys.executable, "-m", "swathe.cli", "launch", str(sweep), f"sweep.trials={trials}", "sweep.name=noop"]


def measure(tool: str, trials: int) -> dict[str, Any]:
    """Run one tool in a new folder; returns seconds of wall time and what is in MLflow afterwards."""
    command = swathe_command if tool == "swathe" else ray_tune_command
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder = Path(name)
        environment = os.environ | QUIET | {"SWATHE_HOME": name}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        if tool == "ray-tune":
            environment |= RAY_TUNE_ENVIRONMENT
        start = time.perf_counter()
        done = subprocess.run(
            command(folder, trials), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(f"{tool} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        recorded = count_recorded(folder / "mlflow.db")
    if recorded["trials"] != trials:
        sys.exit(f"{tool}: {recorded['trials']} of {trials} trials are ended in MLflow.")
    return {"seconds": round(seconds, 3), "ms_per_trial": round(1000 * seconds / trials, 2), **recorded}


def count_recorded(database: Path) -> dict[str, int]:
    """Count the trials that ended and the reports (values of val_loss) in MLflow, leaving parent runs out."""
    trials = """
        SELECT COUNT(*) FROM runs WHERE end_time IS NOT NULL
        AND run_uuid NOT IN (SELECT run_uuid FROM tags WHERE key = 'swathe.kind' AND value = 'sweep')
    """
    reports = "SELECT COUNT(*) FROM metrics WHERE key = 'val_loss'"
    with sqlite3.connect(database) as connection:
        return {
            "trials": connection.execute(trials).fetchone()[0],
            "reports": connection.execute(reports).fetchone()[0],
        }


def extrapolate(row: dict[str, Any], trials: int) -> dict[str, Any]:
    """Carry the peer's cost a trial over to more trials (it grows with their number, so this flatters the peer)."""
    return {
        "seconds": round(row["ms_per_trial"] * trials / 1000, 3),
        "ms_per_trial": row["ms_per_trial"],
        "extrapolated": True,
    }


def further_trial(small: dict[str, Any], large: dict[str, Any], sizes: tuple[int, int]) -> float:
    """Return what one more trial costs (milliseconds), from two sizes: the start of both runs is the same."""
    return round(1000 * (large["seconds"] - small["seconds"]) / (sizes[1] - sizes[0]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[200, 2000])
    parser.add_argument(
        "--peer-at-most", type=int, default=None, metavar="N", help="run Ray Tune with at most N trials"
    )
    parser.add_argument("--run-ray-tune", nargs=2, metavar=("FOLDER", "TRIALS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run_ray_tune:
        run_ray_tune(Path(options.run_ray_tune[0]), int(options.run_ray_tune[1]))
        return
    rows = [compare(trials, options.peer_at_most) for trials in sorted(options.trials)]
    content: dict[str, Any] = {"what": __doc__.splitlines()[0], "reports_per_trial": noop.REPORTS, "rows": rows}
    if len(rows) > 1:
        content["ms_per_further_trial"] = compare_further(rows)
    content["machine"] = machine.describe("ray", "optuna", "mlflow", "torch")
    print(f"Written to {machine.write('overhead', content).relative_to(ROOT)}")


def compare(trials: int, peer_at_most: int | None) -> dict[str, Any]:
    """Measure both tools at one size, one after the other, and print their line."""
    ours = measure("swathe", trials)
    run = min(trials, peer_at_most or trials)
    peer = measure("ray-tune", run)
    if run < trials:
        peer = extrapolate(peer, trials)
    ratio = round(peer["seconds"] / ours["seconds"], 2)
    mark = " (extrapolated)" if run < trials else ""
    print(
        f"{trials:>6} trials: Ray Tune {peer['ms_per_trial']:.1f} ms a trial{mark}, "
        f"Swathe {ours['ms_per_trial']:.1f} ms a trial: {ratio:.1f} times less",
        flush=True,
    )
    return {"trials": trials, "ray_tune": peer, "swathe": ours, "ratio": ratio}


def compare_further(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Compare what one further trial costs, between the smallest and the largest size."""
    small, large = rows[0], rows[-1]
    sizes = (small["trials"], large["trials"])
    peer = further_trial(small["ray_tune"], large["ray_tune"], sizes)
    ours = further_trial(small["swathe"], large["swathe"], sizes)
    ratio = round(peer / ours, 2)
    print(f"A further trial: Ray Tune {peer:.1f} ms, Swathe {ours:.1f} ms: {ratio:.1f} times less")
    return {"ray_tune": peer, "swathe": ours, "ratio": ratio}


if __name__ == "__main__":
    main()
