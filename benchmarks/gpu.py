"""Lanes on one GPU: Fashion-MNIST with 784-128-10, trial-epochs a second beside processes that share the GPU.

    python benchmarks/gpu.py                 # medians of five, in turns; some 15 minutes on an H100
    python benchmarks/gpu.py --repeat 1      # some five minutes: what a shorter loan of a machine allows
    python benchmarks/gpu.py --device cpu --trials 4 --epochs 1 --peers 2 --repeat 1    # a rehearsal; writes no results

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
    rates = _copy_rates(device)
    rate = median(rates)
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
            turns = _turns(block.step_to_time(), device, count)
            row |= {program: round(median(turns), 3), f"{program}_all": turns}
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
    return {
        "copy_bytes_per_second": rate,
        "bytes_per_lane_step": moved,
        "memory_us": traffic,
        "memory_us_all": [round(1e6 * moved / one, 3) for one in rates],
        "by_lanes": rows,
    }


def sweeps(device: str, folder: Path, trials: int, epochs: int, peers: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Run whole sweeps of both tools in turns; yields what is known after each, and prints a line for it."""
    home = folder / "home"
    began = time.perf_counter()
    commands.warm(WORK, home, device)
    print(f"The sweep that fills the caches: {time.perf_counter() - began:.1f} s", flush=True)
    ours: list[dict[str, Any]] = []
    forms: dict[str, list[dict[str, Any]]] = {}

    def swathe(work: commands.Work) -> dict[str, Any]:
        commands.forget(home)
        return commands.run_swathe(work, home, "sweep.name=gpu", device=device)

    def add(form: str, count: int, workers: int) -> dict[str, Any]:
        share = 1 / workers if device == "cuda" else 0.0
        row = _rated(
            WORK.small(count, epochs),
            lambda work: commands.run_peer(work, home / "data", record=False, workers=workers, gpu=share),
        )
        forms.setdefault(form, []).append(row)
        _say(f"Ray Tune, {form}", row, ours[-1])
        return known()

    def known() -> dict[str, Any]:
        return {"swathe": _summary(ours), "ray_tune": {form: _summary(rows) for form, rows in forms.items()}}

    cores = commands.CORES
    for _ in range(repeats):
        ours.append(_rated(WORK.small(trials, epochs), swathe))
        _say("Swathe, recorded", ours[-1], ours[-1])
        yield known()
        yield add("one process a trial", max(2, peers // 8), 1)
        with commands.mps() as reason:
            if reason:
                print(f"MPS is left out: {reason}.", flush=True)
            else:
                yield add(f"{cores} processes under MPS", peers, cores)
        yield add(f"{cores} processes that share it", peers, cores)


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of a tool's runs, with all its rates."""
    rates = [row["trial_epochs_per_second"] for row in rows]
    return {
        **commands.summary(rows),
        "trial_epochs_per_second": round(median(rates), 3),
        "all_trial_epochs_per_second": rates,
    }


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


def _copy_rates(device: str) -> list[float]:
    """Return bytes a second of a copy, those that are read and those that are written, of some turns."""
    source = torch.empty(COPIED // 4, device=device)
    target = torch.empty_like(source)
    return [2 * COPIED / (us / 1e6) for us in _turns(lambda: target.copy_(source), device, 1)]


def _us(run: Callable[[], object], device: str, count: int) -> float:
    """Return microseconds of a call for each of `count` lanes: the median of some turns."""
    return round(median(_turns(run, device, count)), 3)


def _turns(run: Callable[[], object], device: str, count: int) -> list[float]:
    """Return microseconds of a call for each of `count` lanes, of some turns."""
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
        turns.append(round(1e6 * (time.perf_counter() - began) / steps / count, 3))
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--trials", type=int, default=256, help="of Swathe's sweep")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--peers", type=int, default=32, help="trials of the sweeps of Ray Tune with many processes")
    parser.add_argument("--repeat", type=int, default=commands.REPEATS, metavar="N", help="of each sweep")
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
            sizes = options.trials, options.epochs, options.peers
            for found in sweeps(options.device, folder, *sizes, options.repeat):
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
