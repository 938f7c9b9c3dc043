"""What it costs an epoch of lanes to measure their health: with and without it, in turns, on the very same tensors.

    python benchmarks/health.py                              # four networks, some ten minutes with compilation
    python benchmarks/health.py --seconds 5 --lanes 4        # a quick look, which writes no results
    python benchmarks/health.py --folder programs            # keeps what it compiles, for the next time

Without: no first, last and other layers' norms in a step, no ratio of the last update, no dead and saturated units in
evaluation. One block runs both programs in turns, epoch by epoch, so that where its tensors lie in memory is the same
for both; and as that changes what an epoch takes, there are several blocks, one after the other, with turns of each. In
every turn the program with health runs twice: by how much the two differ is what the benchmark cannot tell apart.

Both programs are compiled, on one thread; an epoch is training and evaluation, and its time the thread's own. The
difference is the median of those of the turns, as neighbours in time have the same machine; its interval of 95 % is by
the bootstrap, of blocks and of the turns of each (Davison & Hinkley 1997, section 3.8).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402 - the script runs from anywhere
from benchmarks import machine  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from swathe.training import lane_compiler  # noqa: E402
from swathe.training.health import Units  # noqa: E402
from swathe.training.lane_program import Geometry, Network, Program  # noqa: E402
from swathe.training.lanes import LaneBlock  # noqa: E402
from swathe.training.recipe import CNN, MLP, Adam, Data, DeepMLP, Recipe  # noqa: E402

LANES = 16
SECONDS = 30
# Blocks, each with tensors of its own.
PLACES = 8
RESAMPLES = 1000
# An epoch that nobody reaches: no trial of a measurement ends.
ENDLESS = 1_000_000
NETWORKS = {
    "64-128-10 on digits": Recipe(MLP(hidden=[128]), Data("digits"), Adam("adamw", 1e-3), epochs=ENDLESS),
    "ten layers of 64 on digits": Recipe(DeepMLP(), Data("digits"), Adam("adamw", 1e-3), epochs=ENDLESS),
    "CNN 16-32-64 on digits": Recipe(
        CNN(channels=[16, 32], hidden=[64]), Data("digits"), Adam("adamw", 1e-3), epochs=ENDLESS
    ),
    "784-128-10 on 12,800 images of Fashion-MNIST": Recipe(
        MLP(hidden=[128]), Data("fashion_mnist", val_fraction=0.05, limit=12_800), Adam("adamw", 1e-3), epochs=ENDLESS
    ),
}
# What a turn runs, in any order: with health, without it, and with it again.
WITH, WITHOUT, AGAIN = "with", "without", "again"
# Of each block, the seconds that each turn's epochs took.
Turns = list[list[dict[str, float]]]


class _BareNetwork(Network):
    """A network of which a program has losses and the whole gradient's norm alone."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.units = Units(nn.Identity())
        self.layers, self._watched = [], []


class _Block(LaneBlock):
    """A block whose reports say nothing of health where `healthy` is false, and whose program is another then."""

    healthy = True

    def prepare(self, folder: Path) -> None:
        """Compile the program without health to `folder`, if it is not there."""
        network, names = _BareNetwork(self._geometry), ("step.so", "evaluation.so")
        bare = folder / f"{lane_compiler.program_folder(self._geometry, folder).name}-bare"
        bare.mkdir(exist_ok=True)
        for name, (graph, inputs) in zip(names, network.graphs(), strict=True):
            if not (bare / name).exists():
                lane_compiler._compile_library(graph, inputs, bare / name, self._geometry)
        self._programs = {
            True: self._program,
            False: Program(network, *lane_compiler.load(bare), compiled=True),
        }

    def seconds(self, *, healthy: bool) -> float:
        """Return what an epoch of the live lanes takes of this thread's time."""
        self.healthy, self._program = healthy, self._programs[healthy]
        self._network = self._program.network
        began = time.thread_time()
        self.epoch(lambda tag: False)
        return time.thread_time() - began

    def _weights(self, lanes: int) -> Tensor | None:
        return super()._weights(lanes) if self.healthy else None

    def _last_step(self, norms: NDArray[Any], moved: float | None) -> dict[str, float]:
        return super()._last_step(norms, moved) if self.healthy else {}


def measure(recipe: Recipe, lanes: int, folder: Path, seconds: float) -> tuple[Turns, int]:
    """Return what the epochs of all turns took, of each block, in some `seconds`, and the steps of an epoch."""
    blocks: Turns = []
    orders = random.Random(0)
    for place in range(PLACES):
        block = _Block(recipe, lanes, "cpu", folder / "data")
        block.prepare(folder)
        for seed in range(lanes):
            block.admit(replace(recipe, seed=place * lanes + seed), seed)
        for healthy in (True, False):
            block.seconds(healthy=healthy)
        turns: list[dict[str, float]] = []
        began = time.monotonic()
        while len(turns) < 2 or time.monotonic() - began < seconds / PLACES:
            order = orders.sample((WITH, WITHOUT, AGAIN), 3)
            turns.append({name: block.seconds(healthy=name != WITHOUT) for name in order})
        blocks.append(turns)
    return blocks, block.steps


def percent(blocks: Turns, ours: Sequence[str], theirs: str) -> dict[str, Any]:
    """Return by how many percent an epoch of `ours` takes longer than one of `theirs`, and the interval."""
    shares = [[math.log(turn[name] / turn[theirs]) for turn in turns for name in ours] for turns in blocks]

    def centre(of: Sequence[Sequence[float]]) -> float:
        return 100 * math.expm1(median(share for block in of for share in block))

    draw = random.Random(0)
    resampled = sorted(
        centre([draw.choices(block, k=len(block)) for block in draw.choices(shares, k=len(shares))])
        for _ in range(RESAMPLES)
    )
    ends = resampled[RESAMPLES * 25 // 1000], resampled[RESAMPLES * 975 // 1000]
    return {"percent": round(centre(shares), 2), "interval": [round(end, 2) for end in ends]}


def row(network: str, lanes: int, folder: Path, seconds: float) -> dict[str, Any]:
    """Return the milliseconds of an epoch with and without health, the difference, and that of the same to itself."""
    blocks, steps = measure(NETWORKS[network], lanes, folder, seconds)
    taken = {name: [turn[name] for turns in blocks for turn in turns] for name in (WITH, WITHOUT)}
    return {
        "network": network,
        "lanes": lanes,
        **{f"{name}_ms": round(1e3 * median(found), 3) for name, found in taken.items()},
        **percent(blocks, (WITH, AGAIN), WITHOUT),
        "itself": percent(blocks, (AGAIN,), WITH),
        "turns": sum(map(len, blocks)),
        "steps": steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--lanes", type=int, default=LANES)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="measure a network for so long")
    parser.add_argument("--folder", type=Path, help="where data and programs are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="health-") as name:
        folder = (options.folder or Path(name)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for network in options.network:
            found = row(network, options.lanes, folder, options.seconds)
            rows.append(found)
            low, high = found["interval"]
            print(
                f"{network}, {options.lanes} lanes: an epoch of {found['steps']} steps takes {found['with_ms']:.2f} "
                f"ms, {found['without_ms']:.2f} without health: {found['percent']:+.1f} % [{low:+.1f}, {high:+.1f}]; "
                f"the same twice {found['itself']['percent']:+.1f} % {found['itself']['interval']}",
                flush=True,
            )
    content = {
        "what": __doc__.splitlines()[0],
        "seconds": options.seconds,
        "blocks": PLACES,
        "rows": rows,
        "machine": machine.describe("torch", "numpy"),
    }
    if options.network != list(NETWORKS) or (options.lanes, options.seconds) != (LANES, SECONDS):
        print(json.dumps(content, indent=2))
    else:
        print(f"Written to {machine.write('health', content).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
