"""A search on digits with everything in MLflow, and with pruning: whole commands, Swathe beside Ray Tune.

    python benchmarks/digits.py                                     # medians of five; some 28 minutes
    python benchmarks/digits.py --trials 8 --epochs 2 --repeat 1    # a quick look, which writes no results

The network is 64-128-10, batch 64, AdamW, a log-uniform learning rate. Ray Tune runs with its MLflow callback and,
faster, without any record; Swathe records in both comparisons. 1,000 trials with pruning are Swathe's alone. Ray Tune
with its callback takes some four minutes a run, which is most of what this takes.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks import commands  # noqa: E402 - the script runs from anywhere
from benchmarks.commands import Work  # noqa: E402

WORK = Work(
    sweep=ROOT / "benchmarks" / "digits.yaml",
    data={"name": "digits"},
    hidden=[128],
    batch=64,
    epochs=20,
    trials=200,
    lr=(1e-4, 1e-1),
)
PRUNED_TRIALS = 1000


def compare(work: Work, folder: Path, repeats: int) -> dict[str, Any]:
    """Measure a cold launch, then both tools with warm caches; prints a line for each comparison."""
    home = folder / "home"
    cold = commands.run_swathe(work, home, "sweep.name=cold")
    commands.warm(work, home)
    peers = {
        "ray_tune": partial(commands.run_peer, work, home / "data", record=True),
        "ray_tune_without_tracking": partial(commands.run_peer, work, home / "data", record=False),
    }
    rows = commands.compare(work, home, peers, repeats, "sweep.name=digits")
    ours = rows["swathe"]
    ours["cold_seconds"] = cold["seconds"]
    for name, words in (("ray_tune", "with MLflow"), ("ray_tune_without_tracking", "without any record")):
        peer = rows[name]
        peer["ratio"] = round(peer["seconds"] / ours["seconds"], 2)
        print(
            f"digits, {work.trials} trials x {work.epochs} epochs: Ray Tune {words} {peer['seconds']:.1f} s (best "
            f"val_loss {peer['best_val_loss']:.4f}), Swathe with MLflow {ours['seconds']:.1f} s (best "
            f"{ours['best_val_loss']:.4f}; the first time, caches cold, {cold['seconds']:.1f} s): {peer['ratio']:.1f}x",
            flush=True,
        )
    return {"trials": work.trials, "epochs": work.epochs, "repeats": repeats, **rows}


def prune(work: Work, folder: Path, repeats: int) -> dict[str, Any]:
    """Measure Swathe's search with ASHA, from cold caches and from warm ones."""
    home = folder / "pruned"
    words = ("sweep.name=pruned", "pruner=asha")
    cold = commands.run_swathe(work, home, *words)
    commands.warm(work, home)
    ours = commands.compare(work, home, {}, repeats, *words)["swathe"]
    print(
        f"digits, {work.trials} trials with pruning (ASHA, at most {work.epochs} epochs; {ours['reports']} epochs "
        f"trained): Swathe {ours['seconds']:.1f} s, caches cold {cold['seconds']:.1f} s, best val_loss "
        f"{ours['best_val_loss']:.4f}",
        flush=True,
    )
    return {"trials": work.trials, "epochs": work.epochs, "cold_seconds": cold["seconds"], **ours}


def measure(options: argparse.Namespace, work: Work, folder: Path) -> dict[str, Any]:
    pruned = WORK.small(options.trials or PRUNED_TRIALS, options.epochs)
    return {**compare(work, folder, options.repeat), "pruned": prune(pruned, folder, options.repeat)}


if __name__ == "__main__":
    commands.main("digits", __doc__, WORK, measure, f"{WORK.trials} and {PRUNED_TRIALS}")
