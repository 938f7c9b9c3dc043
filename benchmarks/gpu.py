"""Lanes on one GPU: Fashion-MNIST with 784-128-10, trial-epochs a second beside processes that share the GPU.

    python benchmarks/gpu.py                 # some five minutes on an H100
    python benchmarks/gpu.py --device cpu --trials 4 --epochs 1    # a rehearsal where there is none; writes no results

First the program alone: microseconds of one step of one lane over the number of lanes, beside the bare products and
AdamW's pass (as benchmarks/lanes.py has them) and beside the time that the memory needs for what a step must move: the
weights are read for the products, the gradient is written, AdamW reads four numbers a parameter and writes three, and
the batch is read. The memory's rate is that of a copy of 1 GiB on this card.

Then whole sweeps, Swathe's recorded in MLflow, Ray Tune's without any record, which is its best: one process a trial,
and as many processes as there are cores that share the GPU, in turns or under NVIDIA's MPS. A tool's trial-epochs a
second are from the start of its first trial to its last report; Swathe has as many trials as fill its lanes, the
processes some each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402 - the script runs from anywhere
from benchmarks import commands, lanes, machine  # noqa: E402
from benchmarks.fashion_mnist import WORK  # noqa: E402

from swathe.training.data import load  # noqa: E402
from swathe.training.lanes import LaneBlock  # noqa: E402
from swathe.training.models import build  # noqa: E402
from swathe.training.recipe import MLP, Adam, Data, Recipe, Regularization, Schedule  # noqa: E402

LANES = (1, 8, 32, 64, 128, 256)
# Steps between two looks at the clock, and how many looks.
STEPS, TURNS = 50, 5
# Passes over the parameters in a step: AdamW's seven, the gradient's way out of the products, the weights' way in.
PASSES = 9
COPIED = 2**30


def recipe(seed: int) -> Recipe:
    """Return a trial of the sweep that is launched."""
    data = Data(**WORK.data)
    return Recipe(
        MLP(hidden=WORK.hidden), data, Adam("adamw", 1e-3), Schedule(), Regularization(), WORK.batch, 1_000_000, seed
    )


def lane_steps(device: str, cache: Path) -> dict[str, Any]:
    """Measure a step of K lanes, its parts and its limits; prints a table."""
    dataset = load(recipe(0).data, cache).to(device)
    features = dataset.train_x.shape[1]
    shapes = dataset.classes, dataset.image_shape, 0.0, torch.Generator().manual_seed(0)
    module = build(recipe(0).model, features, *shapes).to(device)
    parameters = sum(one.numel() for one in module.parameters())
    moved = 4 * (PASSES * parameters + WORK.batch * features)
    rate = _copy_rate(device)
    traffic = round(1e6 * moved / rate, 3)
    print(f"A copy moves {rate / 1e12:.2f} TB/s; a step of a lane must move {moved / 1e6:.2f} MB: {traffic:.2f} us")
    print(f"{'K':>4} {'eager':>9} {'compiled':>9} {'bare':>9}   us a lane-step; share of the memory's limit")
    rows = []
    for count in LANES if device == "cuda" else LANES[:2]:
        row: dict[str, Any] = {"lanes": count}
        for program in ("eager", "compiled"):
            block = LaneBlock(recipe(0), count, device, cache, compiled=program == "compiled")
            for tag in range(count):
                block.admit(recipe(tag), tag)
            row[program] = _us(block.step_to_time(), device, count)
            notes = block.note, "" if block._graphs is None else block._graphs.note
            row |= {f"{program}_note": note for note in notes if note}
        parts = {name: _us(run, device, count) for name, run in lanes.limits(module, dataset, count, 1, device)}
        products = min(us for name, us in parts.items() if name != "AdamW")
        row |= {"products": products, "adamw": parts["AdamW"], "bare": round(products + parts["AdamW"], 3)}
        best = min(row["eager"], row["compiled"])
        row["share_of_memory_limit"] = round(traffic / best, 3)
        rows.append(row)
        words = " ".join(f"{row[name]:>9.2f}" for name in ("eager", "compiled", "bare"))
        print(f"{count:>4} {words}   {row['share_of_memory_limit']:.0%}", flush=True)
    return {"copy_bytes_per_second": rate, "bytes_per_lane_step": moved, "memory_us": traffic, "by_lanes": rows}


def sweeps(device: str, folder: Path, trials: int, epochs: int, peers: int) -> Iterator[dict[str, Any]]:
    """Run whole sweeps of both tools; yields what is known after each, and prints a line for it."""
    home = folder / "home"
    began = time.perf_counter()
    commands.warm(WORK, home, device)
    print(f"The sweep that fills the caches: {time.perf_counter() - began:.1f} s", flush=True)
    size = WORK.small(trials, epochs)
    ours = _rated(size, lambda work: commands.run_swathe(work, home, "sweep.name=gpu", device=device))
    _say("Swathe, recorded", ours, ours)
    forms: dict[str, dict[str, Any]] = {}
    yield {"swathe": ours, "ray_tune": forms}

    def add(form: str, count: int, workers: int) -> None:
        share = 1 / workers if device == "cuda" else 0.0
        forms[form] = _rated(
            WORK.small(count, epochs),
            lambda work: commands.run_peer(work, home / "data", record=False, workers=workers, gpu=share),
        )
        _say(f"Ray Tune, {form}", forms[form], ours)

    cores = commands.CORES
    add("one process a trial", max(2, peers // 8), 1)
    yield {"swathe": ours, "ray_tune": forms}
    with commands.mps() as reason:
        if reason:
            print(f"MPS is left out: {reason}.", flush=True)
        else:
            add(f"{cores} processes under MPS", peers, cores)
            yield {"swathe": ours, "ray_tune": forms}
    add(f"{cores} processes that share it", peers, cores)
    yield {"swathe": ours, "ray_tune": forms}


def _rated(work: commands.Work, run: Callable[[commands.Work], dict[str, Any]]) -> dict[str, Any]:
    row = run(work)
    rate = round(work.trials * work.epochs / row["training_seconds"], 3)
    return {"trials": work.trials, "epochs": work.epochs, **row, "trial_epochs_per_second": rate}


def _say(name: str, row: dict[str, Any], ours: dict[str, Any]) -> None:
    ratio = ours["trial_epochs_per_second"] / row["trial_epochs_per_second"]
    print(
        f"{name}: {row['trials']} trials x {row['epochs']} epochs, "
        f"{row['trial_epochs_per_second']:.2f} trial-epochs a second "
        f"({row['training_seconds']:.1f} s of {row['seconds']:.1f} s), best val_loss {row['best_val_loss']:.4f}; "
        f"Swathe is {ratio:.1f}x",
        flush=True,
    )


def _copy_rate(device: str) -> float:
    """Return bytes a second of a copy, those that are read and those that are written."""
    source = torch.empty(COPIED // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED / (_us(lambda: target.copy_(source), device, 1) / 1e6)


def _us(run: Callable[[], object], device: str, count: int) -> float:
    """Return microseconds of a call for each of `count` lanes: the median of some turns."""
    turns = []
    steps = STEPS if device == "cuda" else 3
    for _ in range(4):
        run()
    for _ in range(TURNS):
        lanes._synchronise(device)
        began = time.perf_counter()
        for _ in range(steps):
            run()
        lanes._synchronise(device)
        turns.append(1e6 * (time.perf_counter() - began) / steps / count)
    return round(median(turns), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--trials", type=int, default=256, help="of Swathe's sweep")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--peers", type=int, default=32, help="trials of the sweeps of Ray Tune with many processes")
    parser.add_argument("--only", choices=("steps", "sweeps"), help="one of the two parts; the results keep the other")
    parser.add_argument("--folder", type=Path, help="where sweeps and caches stay; else they are thrown away")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("No GPU here; --device cpu is a rehearsal.")
    torch.set_num_threads(1)
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else None
    before = machine.RESULTS / "gpu.json"
    content: dict[str, Any] = json.loads(before.read_text()) if options.only and before.exists() else {}
    content |= {"what": __doc__.splitlines()[0], "gpu": gpu, "batch": WORK.batch}
    content["machine"] = machine.describe("ray", "optuna", "mlflow", "torch")
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        folder = options.folder or Path(name)
        if options.only != "sweeps":
            content["steps"] = lane_steps(options.device, folder / "home" / "data")
            _keep(content)
        if options.only != "steps":
            for found in sweeps(options.device, folder, options.trials, options.epochs, options.peers):
                content["sweeps"] = found
                _keep(content)
    if gpu is None:
        print(json.dumps(content, indent=2))


def _keep(content: dict[str, Any]) -> None:
    """Write the results so far: a machine that is lent may be taken back at any time."""
    if content["gpu"]:
        machine.write("gpu", content)


if __name__ == "__main__":
    main()
