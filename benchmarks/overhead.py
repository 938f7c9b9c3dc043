"""What a trial costs that does nothing: ten reports, pruning and MLflow on, Swathe beside Ray Tune.

    python benchmarks/overhead.py                               # medians of five, the tools in turn; some 8 minutes
    python benchmarks/overhead.py --trials 20 40 --repeat 1     # a quick look, which writes no results

Both are timed as whole commands, from the start of the process to its end with everything in MLflow (SQLite, a new
database). Swathe runs both sizes, which also gives the cost of one further trial, in which no start is left. Ray Tune
runs the smaller one in three forms: as it comes (new actors, no record), with `reuse_actors=True`, and so with its
MLflow callback, which is compared. Its larger size is carried on from the smaller one, by what the second half of its
trials cost: that cost grows with the trials (a little), so that this flatters it.
"""

from __future__ import annotations

import argparse
import json
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

from benchmarks import machine, noop  # noqa: E402 - the script runs from anywhere
from benchmarks.spread import figure, said  # noqa: E402

# Ray Tune's own switches that make it faster here (measured): no CSV, JSON and TensorBoard files beside MLflow, and the
# plain progress output, which verbose=0 then silences.
RAY_TUNE_ENVIRONMENT = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
SIZES = (200, 2000)
REPEATS = 5
# Ray Tune's forms, and of how many trials: with new actors each takes a second.
PEERS = {"default": 16, "reuse_actors": SIZES[0], "recorded": SIZES[0]}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "GIT_PYTHON_REFRESH": "quiet", "PYTHONWARNINGS": "ignore"}


def run_ray_tune(folder: Path, form: str, trials: int) -> None:
    """Run the peer in this process, quiet and with nothing synchronised; writes when each of its trials was over."""
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler

    class Clock(tune.Callback):
        """Notes when each trial was over."""

        def __init__(self) -> None:
            self.ended: list[float] = []

        def on_trial_complete(self, *args: Any, **facts: Any) -> None:
            self.ended.append(time.perf_counter())

    # Its own Ray: without the address it would join one that it finds on this machine.
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    clock = Clock()
    callbacks: list[Any] = [clock]
    if form == "recorded":
        callbacks.append(MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="noop"))
    tuner = tune.Tuner(
        noop.train_in_ray_tune,
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            num_samples=trials,
            reuse_actors=None if form == "default" else True,
            scheduler=ASHAScheduler(max_t=noop.REPORTS, grace_period=1, reduction_factor=4),
        ),
        run_config=tune.RunConfig(name="noop", storage_path=str(folder), verbose=0, callbacks=callbacks),
    )
    began = time.perf_counter()
    failed = tuner.fit().num_errors
    fit = time.perf_counter() - began
    ray.shutdown()
    if failed:
        sys.exit(f"{failed} trials of Ray Tune failed.")
    half = trials // 2
    second = clock.ended[-1] - clock.ended[half - 1]
    outcome = {"fit_seconds": fit, "ended": len(clock.ended), "ms_per_further_trial": 1000 * second / (trials - half)}
    (folder / "outcome.json").write_text(json.dumps(outcome))


def ray_tune_command(folder: Path, form: str, trials: int) -> list[str]:
    return [sys.executable, __file__, "--run-ray-tune", str(folder), form, str(trials)]


def swathe_command(folder: Path, trials: int) -> list[str]:
    sweep = ROOT / "benchmarks" / "noop.yaml"
    return [sys.executable, "-m", "swathe.cli", "launch", str(sweep), f"sweep.trials={trials}", "sweep.name=noop"]


def measure(form: str, trials: int) -> dict[str, Any]:
    """Run Swathe (`swathe`) or a form of Ray Tune in a new folder; returns its seconds and what is recorded."""
    tool = "Swathe" if form == "swathe" else f"Ray Tune ({form})"
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder = Path(name)
        environment = os.environ | QUIET | {"SWATHE_HOME": name}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        if form == "swathe":
            command = swathe_command(folder, trials)
        else:
            command = ray_tune_command(folder, form, trials)
            environment |= RAY_TUNE_ENVIRONMENT
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(f"{tool} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        outcome = {} if form == "swathe" else json.loads((folder / "outcome.json").read_text())
        recorded = count_recorded(folder / "mlflow.db") if form in ("swathe", "recorded") else {}
    if recorded.get("trials", outcome.get("ended")) != trials:
        sys.exit(f"{tool}: {recorded or outcome}, of {trials} trials.")
    return {"seconds": round(seconds, 3), "ms_per_trial": round(1000 * seconds / trials, 2), **recorded, **outcome}


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


def carried_on(peer: dict[str, Any], run: int, trials: int) -> float:
    """Return the seconds of the peer's command with more trials than it ran, each at the cost of its second half."""
    return float(peer["seconds"] + (trials - run) * peer["ms_per_further_trial"] / 1000)


def summary(seconds: list[float], trials: int, **more: Any) -> dict[str, Any]:
    middle = round(median(seconds), 3)
    all_seconds = [round(one, 3) for one in seconds]
    return {"seconds": middle, "ms_per_trial": round(1000 * middle / trials, 2), "all_seconds": all_seconds, **more}


def compare(trials: int, ours: list[dict[str, Any]], peer: list[dict[str, Any]], run: int) -> dict[str, Any]:
    """Compare both tools at one size, and print their line; the peer ran `run` trials."""
    more = {"extrapolated": True} if run < trials else {}
    theirs = summary([carried_on(one, run, trials) for one in peer], trials, **more)
    mine = summary([one["seconds"] for one in ours], trials, reports=ours[0]["reports"])
    ratio = round(theirs["seconds"] / mine["seconds"], 2)
    print(
        f"{trials:>6} trials: Ray Tune {theirs['ms_per_trial']:.1f} ms a trial{' (carried on)' if more else ''}, "
        f"Swathe {mine['ms_per_trial']:.1f} ms a trial: {ratio:.1f} times less",
        flush=True,
    )
    return {"trials": trials, "ray_tune": theirs, "swathe": mine, "ratio": ratio}


def summarise(runs: dict[str, list[dict[str, Any]]], sizes: tuple[int, int], peers: dict[str, int]) -> dict[str, Any]:
    """Return rows for both sizes, the cost of a further trial and the peer's forms; prints a line for each."""
    small, large = sizes
    ours = {size: runs[f"swathe {size}"] for size in sizes}
    rows = [compare(size, ours[size], runs["recorded"], peers["recorded"]) for size in sizes]
    further = [
        1000 * (many["seconds"] - few["seconds"]) / (large - small)
        for few, many in zip(ours[small], ours[large], strict=True)
    ]
    theirs = [one["ms_per_further_trial"] for one in runs["recorded"]]
    mine, peer = round(median(further), 2), round(median(theirs), 2)
    ratio = round(peer / mine, 2)
    print(f"A further trial: Ray Tune {said(theirs, 'ms')}, Swathe {said(further, 'ms')}: {ratio:.1f} times less")
    figures = {"noop-further": figure("ms a trial", further, theirs, "Ray Tune, actors reused, MLflow")}
    for form, words in (("default", "Ray Tune"), ("reuse_actors", "Ray Tune, actors reused"), ("recorded", "")):
        costs = [1000 * one["fit_seconds"] / peers[form] for one in runs[form]]
        name = words or "Ray Tune, actors reused, MLflow"
        print(f"{name}: {said(costs, 'ms')} a trial, without the start of Ray", flush=True)
        figures[f"noop-{form}"] = figure("ms a trial", peer=costs, name=name)
    return {
        "rows": rows,
        "ms_per_further_trial": {"ray_tune": peer, "swathe": mine, "ratio": ratio},
        "figures": figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs=2, default=list(SIZES), metavar=("FEW", "MANY"))
    parser.add_argument("--repeat", type=int, default=REPEATS, metavar="N")
    parser.add_argument("--run-ray-tune", nargs=3, metavar=("FOLDER", "FORM", "TRIALS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run_ray_tune:
        folder, form, trials = options.run_ray_tune
        run_ray_tune(Path(folder), form, int(trials))
        return
    sizes = (min(options.trials), max(options.trials))
    peers = {form: min(trials, sizes[0]) for form, trials in PEERS.items()}
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.repeat):
        for size in sizes:
            runs.setdefault(f"swathe {size}", []).append(measure("swathe", size))
        for form, trials in peers.items():
            runs.setdefault(form, []).append(measure(form, trials))
    content: dict[str, Any] = {
        "what": __doc__.splitlines()[0],
        "reports_per_trial": noop.REPORTS,
        "repeats": options.repeat,
        **summarise(runs, sizes, peers),
        "machine": machine.describe("ray", "optuna", "mlflow", "torch"),
    }
    machine.keep("overhead", content, whole=sizes == SIZES and options.repeat >= REPEATS)


if __name__ == "__main__":
    main()
