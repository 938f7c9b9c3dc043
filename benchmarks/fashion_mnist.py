"""Fashion-MNIST, where the arithmetic itself costs something: trial-epochs a second, Swathe beside Ray Tune.

    python benchmarks/fashion_mnist.py                                    # medians of five; some 10 minutes
    python benchmarks/fashion_mnist.py --trials 2 --epochs 1 --repeat 1   # a quick look, which writes no results

The network is 784-128-10, batch 64, AdamW, on 50,000 examples with 10,000 for validation. Two clocks: from the start
of the first trial, when processes and data are ready, to the last report, and the whole command. Ray Tune runs without
any record, which is its best, and with MLflow; Swathe records. Beside them stands the limit of this machine: the bare
products and AdamW of one trial, on all cores at once (see benchmarks/lanes.py).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks import commands  # noqa: E402 - the script runs from anywhere
from benchmarks.commands import CORES, Work  # noqa: E402

EXAMPLES, VALIDATION = 60_000, 10_000
WORK = Work(
    sweep=ROOT / "benchmarks" / "fashion_mnist.yaml",
    data={"name": "fashion_mnist", "val_fraction": VALIDATION / EXAMPLES},
    hidden=[128],
    batch=64,
    epochs=3,
    trials=16,
    lr=(1e-4, 1e-2),
)
PEERS = {"ray_tune": "without any record", "ray_tune_with_mlflow": "with MLflow"}


def compare(work: Work, folder: Path, repeats: int) -> dict[str, Any]:
    """Measure a cold launch, then both tools with warm caches; prints a line for each comparison."""
    home = folder / "home"
    cold = commands.run_swathe(work, home, "sweep.name=cold")
    commands.warm(work, home)
    peers = {name: partial(commands.run_peer, work, home / "data", record=name != "ray_tune") for name in PEERS}
    rows = commands.compare(work, home, peers, repeats, "sweep.name=fashion")
    for row in rows.values():
        row["trial_epochs_per_second"] = round(work.trials * work.epochs / row["training_seconds"], 3)
        row["us_per_step"] = us_per_step(work, row["training_seconds"])
    ours = rows["swathe"]
    ours["cold_seconds"] = cold["seconds"]
    for name, words in PEERS.items():
        peer = rows[name]
        peer["ratio"] = round(ours["trial_epochs_per_second"] / peer["trial_epochs_per_second"], 2)
        peer["command_ratio"] = round(peer["seconds"] / ours["seconds"], 2)
        print(
            f"Fashion-MNIST, {work.trials} trials x {work.epochs} epochs, training: Ray Tune {words} "
            f"{peer['trial_epochs_per_second']:.2f} trial-epochs a second, Swathe with MLflow "
            f"{ours['trial_epochs_per_second']:.2f}: {peer['ratio']:.2f}x; whole command {peer['seconds']:.1f} s "
            f"and {ours['seconds']:.1f} s ({cold['seconds']:.1f} s cold): {peer['command_ratio']:.2f}x; best val_loss "
            f"{peer['best_val_loss']:.4f} and {ours['best_val_loss']:.4f}",
            flush=True,
        )
    return {"trials": work.trials, "epochs": work.epochs, "repeats": repeats, **rows, "limit": limit(rows, home)}


def us_per_step(work: Work, seconds: float) -> float:
    """Return what a core spends on a step of a trial, microseconds, validation and everything else included."""
    steps = (EXAMPLES - VALIDATION) // work.batch * work.epochs * work.trials
    return round(1e6 * seconds * CORES / steps, 1)


def limit(rows: dict[str, dict[str, Any]], home: Path) -> dict[str, float]:
    """Measure the bare step on all cores at once, and print how far it is from what was measured."""
    command = [sys.executable, str(ROOT / "benchmarks" / "lanes.py"), "--network", "mlp-fashion"]
    command += ["--bare-step", str(home / "data")]
    together = [
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"SWATHE_HOME": str(home)}
        )
        for _ in range(CORES)
    ]
    outputs = [process.communicate()[0] for process in together]
    if any(process.returncode for process in together):
        sys.exit("The bare step could not be measured.")
    bare = round(sum(float(output) for output in outputs) / CORES, 1)
    ours, peer = rows["swathe"]["us_per_step"], rows["ray_tune"]["us_per_step"]
    most = round(peer / bare, 2)
    print(
        f"A step on a core: Ray Tune {peer:.0f} us, Swathe {ours:.0f} us, the bare products and AdamW {bare:.0f} us: "
        f"the limit is {most:.2f}x, {peer / ours:.2f}x is reached, a factor of {ours / bare:.2f} remains",
        flush=True,
    )
    return {"us_per_step": bare, "ratio": most, "remaining": round(ours / bare, 2)}


def measure(options: argparse.Namespace, work: Work, folder: Path) -> dict[str, Any]:
    return compare(work, folder, options.repeat)


if __name__ == "__main__":
    commands.main("fashion_mnist", __doc__, WORK, measure, str(WORK.trials))
