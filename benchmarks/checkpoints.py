"""What checkpoints cost: of each trial of a worker one a minute, and as often as the worker's bound lets it.

    python benchmarks/checkpoints.py

A row's block trains on one thread, as a worker's does; a checkpoint is cut out of its lane, pickled, hashed, written,
forced to the disk and renamed. `share`: of a worker's time with `checkpoints.seconds=60`, the default, all its lanes
taken. `restored`: how long it takes to read it back and put it into a lane. Then a worker trains for a while with a
checkpoint due after every epoch, and the share is what its clock says: the bound of 1 % is to hold there, too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402 - the script runs from anywhere
from benchmarks import machine  # noqa: E402

from swathe.checkpoints import SHARE, Checkpoints, History  # noqa: E402
from swathe.events import Direction, Report  # noqa: E402
from swathe.lane_worker import LaneEngine  # noqa: E402
from swathe.training.lane_plan import LanePlan  # noqa: E402
from swathe.training.lanes import LaneBlock  # noqa: E402
from swathe.training.recipe import CNN, MLP, Adam, Data, Recipe  # noqa: E402
from swathe.worker import InlineChannel, Job, WorkerSetup  # noqa: E402

SECONDS = 60.0
NETWORKS = {
    "64-128-10 on digits": (Recipe(MLP(hidden=[128]), Data("digits"), Adam("adamw", 1e-3), epochs=99), 16),
    "784-128-10 on 6,400 images": (
        Recipe(MLP(hidden=[128]), Data("fashion_mnist", limit=6_400), Adam("adamw", 1e-3), epochs=99),
        16,
    ),
    "784-1024-1024-10 on 1,280 images": (
        Recipe(MLP(hidden=[1024, 1024]), Data("fashion_mnist", limit=1_280), Adam("adamw", 1e-3), epochs=99),
        4,
    ),
    "a small CNN on 640 images": (
        Recipe(CNN(), Data("fashion_mnist", limit=640), Adam("adamw", 1e-3), epochs=99),
        4,
    ),
}
# What a worker of the second part trains: the configs of its trials differ in their seeds alone.
CONFIG = {
    "model": {"name": "mlp", "hidden": [128]},
    "data": {"name": "fashion_mnist", "limit": 6_400},
    "optim": {"name": "adamw", "lr": 1e-3},
    "epochs": 1_000_000,
}


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(recipe: Recipe, lanes: int, folder: Path, repeats: int) -> dict[str, Any]:
    """Return the milliseconds of a checkpoint and of going on from one, its size (MiB) and its share (percent)."""
    block = LaneBlock(recipe, lanes + 1, "cpu", folder / "data", compiled=False)
    for seed in range(lanes):
        block.admit(recipe, seed)
    history = History()
    for report in block.epoch(lambda tag: False):
        history.add(Report(report.tag, report.epoch, report.metrics, report.seconds, time.time()))
    store = Checkpoints(folder / "kept", SECONDS)
    saved = [timed(lambda: store.save(0, {}, lambda: history.checkpoint(None, block.cut(0)))) for _ in range(repeats)]

    def restore() -> None:
        found = store.load(0, lambda facts: True, 1)
        assert found is not None
        block.admit(recipe, lanes, found[1].state)

    restored = []
    for _ in range(repeats):
        restored.append(timed(restore))
        block.release(lanes)
    size = (folder / "kept" / "trial-0.ckpt").stat().st_size
    return {
        "lanes": lanes,
        "ms": round(1e3 * median(saved), 2),
        "slowest_ms": round(1e3 * max(saved), 2),
        "restored_ms": round(1e3 * median(restored), 2),
        "mib": round(size / 2**20, 3),
        "share_percent": round(100 * lanes * median(saved) / SECONDS, 3),
    }


class _Eager:
    """A plan of eager lanes, so that nothing is compiled meanwhile."""

    def __init__(self, lanes: int) -> None:
        self._plan = LanePlan(lanes, "eager", "")

    def plan(self, recipe: Recipe) -> LanePlan:
        return self._plan

    def trained(self, recipe: Recipe, seconds: float) -> None:
        """Nothing is to be learnt."""

    def out_of_memory(self, recipe: Recipe, lanes: int) -> LanePlan:
        raise MemoryError


def work(folder: Path, seconds: float) -> dict[str, Any]:
    """Let a worker train 16 lanes with checkpoints due at every report; return how many were written and the share."""
    setup = WorkerSetup(
        None, "val_loss", Direction.MINIMIZE, str(folder), (), "cpu", 1, checkpoint_folder=str(folder / "often"),
        checkpoint_seconds=1e-9,
    )  # fmt: skip
    channel = InlineChannel("w", lambda events: None)
    engine = LaneEngine(setup, channel, "w", _Eager(16))
    channel.put(tuple(Job(number, {**CONFIG, "seed": number}) for number in range(16)))
    written: list[float] = []
    save = engine._checkpoints.save
    engine._checkpoints.save = lambda *given: written.append(0.0) or save(*given)  # type: ignore[func-returns-value,method-assign]
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        engine.turn(wait=False)
    elapsed = time.perf_counter() - began
    share = round(100 * engine._checkpoints._spent / elapsed, 3)
    return {"seconds": round(elapsed, 1), "checkpoints": len(written), "share_percent": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=25, metavar="N", help="take medians of N checkpoints")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the worker of the last row trains")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="checkpoints-") as name:
        for index, (network, (recipe, lanes)) in enumerate(NETWORKS.items()):
            row = {"network": network, **measure(recipe, lanes, Path(name) / str(index), options.repeat)}
            rows.append(row)
            print(
                f"{network}: a checkpoint of {row['mib']} MiB takes {row['ms']} ms (the slowest {row['slowest_ms']}), "
                f"going on from it {row['restored_ms']}; of {lanes} lanes once a minute {row['share_percent']} %",
                flush=True,
            )
        busy = work(Path(name), options.seconds)
    print(f"Due at every report: {busy['checkpoints']} in {busy['seconds']} s, {busy['share_percent']} % of the time")
    content = {
        "what": __doc__.splitlines()[0],
        "repeats": options.repeat,
        "interval_seconds": SECONDS,
        "bound_percent": 100 * SHARE,
        "rows": rows,
        "due_at_every_report": busy,
        "machine": machine.describe("torch", "numpy"),
    }
    print(f"Written to {machine.write('checkpoints', content).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
