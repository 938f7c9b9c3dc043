"""Time to quality: the seconds until Swathe has the validation loss that Ray Tune's ASHA with Optuna ends with.

    python benchmarks/quality.py                               # three tasks, ten seeds; some 25 minutes
    python benchmarks/quality.py --seeds 0-4 --minutes 20      # no seed is begun after 20 minutes; go on later
    python benchmarks/quality.py --seeds 0 --tiny              # a quick look, which writes no results

The tasks: 64-128-10 on digits, 784-128-10 on Fashion-MNIST, a small convolutional network on digits. Both tools search
the same space (rate and weight decay of AdamW) with TPE and ASHA (rungs from the first epoch on, a factor of 4), in two
processes. Ray Tune runs first, without any record; its best loss is what Swathe is launched with as `sweep.target`.
Both clocks begin with the command; Ray Tune's ends when it reported that loss, not when it was over. Swathe may train
`MOST` times the epochs of Ray Tune; how many it took, and whether it got there within the same number, is in the file.

Each seed of a task is a file of benchmarks/results/quality/, so that a run that is broken off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks import commands, machine  # noqa: E402 - the script runs from anywhere
from benchmarks.overhead import QUIET, RAY_TUNE_ENVIRONMENT  # noqa: E402
from benchmarks.peer import PeerSweep  # noqa: E402
from benchmarks.spread import figure  # noqa: E402

SWEEP = ROOT / "benchmarks" / "quality.yaml"
LR, DECAY, BATCH = (1e-4, 1e-1), (1e-6, 1e-1), 64
# Swathe's budget, in epochs of Ray Tune's search.
MOST = 8
TOOL = "Ray Tune, ASHA and Optuna"


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained: the words for Swathe, the same for the peer, and the size of Ray Tune's search."""

    name: str
    words: tuple[str, ...]
    data: dict[str, Any]
    hidden: tuple[int, ...]
    channels: tuple[int, ...]
    trials: int
    epochs: int


FASHION = {"name": "fashion_mnist", "val_fraction": 10_000 / 60_000}
TASKS = (
    Task("digits", (), {"name": "digits"}, (128,), (), 100, 20),
    Task("fashion_mnist", ("data=fashion_mnist",), FASHION, (128,), (), 24, 6),
    Task("cnn", ("model=cnn", "model.hidden=[64]"), {"name": "digits"}, (64,), (16, 32), 40, 12),
)


def ray_tune(task: Task, seed: int, cache: Path) -> dict[str, Any]:
    """Run the peer; returns its best loss, the seconds to it and in all, and its epochs."""
    with tempfile.TemporaryDirectory(prefix="quality-") as name:
        sweep, outcome = Path(name) / "sweep.json", Path(name) / "outcome.json"
        PeerSweep(
            data=task.data,
            cache=str(cache),
            folder=name,
            hidden=list(task.hidden),
            batch=BATCH,
            epochs=task.epochs,
            trials=task.trials,
            lr=LR,
            workers=commands.CORES,
            record=False,
            seed=seed,
            decay=DECAY,
            channels=task.channels,
        ).write(sweep)
        began = time.time()
        command = [sys.executable, str(ROOT / "benchmarks" / "peer.py"), str(sweep), str(outcome)]
        seconds, _ = commands.timed("Ray Tune", command, QUIET | RAY_TUNE_ENVIRONMENT)
        found = json.loads(outcome.read_text())
    at, loss = found["improvements"][-1]
    return {"val_loss": loss, "seconds": at - began, "whole_seconds": seconds, "epochs": found["reports"]}


def launch(task: Task, home: Path, *words: str) -> None:
    environment = QUIET | {"SWATHE_HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    fixed = [*task.words, f"epochs={task.epochs}", "device=cpu", "sweep.name=quality"]
    command = [sys.executable, "-m", "swathe.cli", "launch", str(SWEEP), "--quiet", *fixed, *words]
    commands.timed("Swathe", command, environment)


def warm(task: Task, home: Path) -> None:
    """Fill the caches of a home: prepared data, the compiled program, the measured number of lanes."""
    launch(task, home, "epochs=1", f"sweep.trials={commands.WARM_TRIALS}", "lanes.compile=always")
    commands.forget(home)


def swathe(task: Task, seed: int, home: Path, target: float, epochs: int) -> dict[str, Any]:
    """Launch until the loss is reached; returns the seconds to it (None: it was not) and in all, and the epochs."""
    commands.forget(home)
    began = time.time()
    budget = [f"sweep.epochs={MOST * epochs}", f"sweep.trials={MOST * max(epochs, task.trials)}"]
    launch(task, home, f"sweep.seed={seed}", f"seed={seed}", f"sweep.target={target!r}", *budget)
    whole = time.time() - began
    with sqlite3.connect(home / "mlflow.db") as connection:
        reached = "SELECT MIN(timestamp) FROM metrics WHERE key = 'val_loss' AND value <= ?"
        at = connection.execute(reached, [target]).fetchone()[0]
        until = "SELECT COUNT(*), MIN(value) FROM metrics WHERE key = 'val_loss' AND timestamp <= ?"
        count, best = connection.execute(until, [at or 1e15]).fetchone()
    return {
        "val_loss": best,
        "seconds": None if at is None else at / 1000 - began,
        "whole_seconds": whole,
        "epochs": count,
        "within_the_same_epochs": at is not None and count <= epochs,
    }


def measure(task: Task, seed: int, home: Path) -> dict[str, Any]:
    """Run both tools with one seed, and print their line."""
    peer = ray_tune(task, seed, home / "data")
    ours = swathe(task, seed, home, peer["val_loss"], peer["epochs"])
    got = "not reached" if ours["seconds"] is None else f"{ours['seconds']:.1f} s"
    print(
        f"{task.name}, seed {seed}: Ray Tune has {peer['val_loss']:.4f} after {peer['seconds']:.1f} s "
        f"({peer['epochs']} epochs, {peer['whole_seconds']:.1f} s in all), Swathe: {got} ({ours['epochs']} epochs)",
        flush=True,
    )
    return {"task": task.name, "seed": seed, "ray_tune": peer, "swathe": ours}


def summarise(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all seeds there are; where a loss was not reached, the whole run counts, as a note says."""
    figures = {}
    for task in TASKS:
        rows = [row for row in found if row["task"] == task.name]
        if not rows:
            continue
        ours = [row["swathe"]["seconds"] or row["swathe"]["whole_seconds"] for row in rows]
        peer = [row["ray_tune"]["seconds"] for row in rows]
        reached = sum(row["swathe"]["seconds"] is not None for row in rows)
        same = sum(row["swathe"]["within_the_same_epochs"] for row in rows)
        more = median(row["swathe"]["epochs"] / row["ray_tune"]["epochs"] for row in rows)
        note = f"reached with {reached} of {len(rows)} seeds, {same} within the same epochs (median {more:.1f} times)"
        key = f"quality-{task.name}"
        figures[key] = figure("s", ours, peer, TOOL, note)
        figures[key]["ratios"] = [round(theirs / mine, 2) for mine, theirs in zip(ours, peer, strict=True)]
        whole = [row["ray_tune"]["whole_seconds"] for row in rows]
        epochs = median(row["ray_tune"]["epochs"] for row in rows)
        figures[f"asha-{task.name}"] = figure("s", peer=whole, name=TOOL, note=f"{epochs:.0f} trial-epochs (median)")
        print(f"{task.name}: Ray Tune {median(peer):.1f} s, Swathe {median(ours):.1f} s (medians); {note}")
    return figures


def seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds, default=seeds("0-9"), metavar="FIRST-LAST")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no seed after so long")
    parser.add_argument("--task", choices=[task.name for task in TASKS], nargs="+", help="instead of all")
    parser.add_argument("--tiny", action="store_true", help="eight trials of two epochs; writes no results")
    options = parser.parse_args()
    ended = time.monotonic() + 60 * options.minutes
    tasks = [task for task in TASKS if options.task is None or task.name in options.task]
    if options.tiny:
        tasks = [replace(task, trials=8, epochs=2) for task in tasks]
    with tempfile.TemporaryDirectory(prefix="quality-") as made:
        place = Path(made) / "results" if options.tiny else machine.RESULTS / "quality"
        place.mkdir(exist_ok=True)
        homes: dict[str, Path] = {}
        for seed in options.seeds:
            for task in tasks:
                file = place / f"{task.name}-{seed}.json"
                if file.exists() or time.monotonic() > ended:
                    continue
                if task.name not in homes:
                    homes[task.name] = Path(made) / task.name
                    warm(task, homes[task.name])
                file.write_text(json.dumps(measure(task, seed, homes[task.name]), indent=2) + "\n")
        found = [json.loads(file.read_text()) for file in sorted(place.glob("*.json"))]
        figures = summarise(found)
    content = {
        "what": __doc__.splitlines()[0],
        "most_epochs": MOST,
        "figures": figures,
        "machine": machine.describe("ray", "optuna", "mlflow", "torch"),
    }
    if options.tiny:
        print(json.dumps(content, indent=2))
    else:
        print(f"Written to {machine.write('quality', content).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
