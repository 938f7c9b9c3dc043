"""What it costs an epoch of lanes to measure their health: with and without it, in turns, in one process.

    python benchmarks/health.py                         # three networks, some two minutes
    python benchmarks/health.py --repeat 5 --lanes 4    # a quick look, which writes no results

Without: no first, last and other layers' norms in a step, no ratio of the last update, no dead and saturated units in
evaluation. Both blocks are compiled, on one thread; an epoch is training and evaluation. The difference is the median
of those of the turns, as neighbours in time have the same machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402 - the script runs from anywhere
from benchmarks import machine  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from swathe.training import lane_compiler  # noqa: E402
from swathe.training.health import Units  # noqa: E402
from swathe.training.lane_program import Geometry, Network, Program  # noqa: E402
from swathe.training.lanes import LaneBlock  # noqa: E402
from swathe.training.recipe import MLP, Adam, Data, DeepMLP, Recipe  # noqa: E402

LANES = 16
# An epoch that nobody reaches: no trial of a measurement ends.
ENDLESS = 1_000_000
NETWORKS = {
    "64-128-10 on digits": Recipe(MLP(hidden=[128]), Data("digits"), Adam("adamw", 1e-3), epochs=ENDLESS),
    "ten layers of 64 on digits": Recipe(DeepMLP(), Data("digits"), Adam("adamw", 1e-3), epochs=ENDLESS),
    "784-128-10 on 12,800 images of Fashion-MNIST": Recipe(
        MLP(hidden=[128]), Data("fashion_mnist", val_fraction=0.05, limit=12_800), Adam("adamw", 1e-3), epochs=ENDLESS
    ),
}


class _BareNetwork(Network):
    """A network of which a program has losses and the whole gradient's norm alone."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.units = Units(nn.Identity())
        self.layers, self._watched = [], []


class _BareBlock(LaneBlock):
    """A block whose reports say nothing of health."""

    def bare(self, folder: Path) -> None:
        """Take a program without health, compiled to `folder`."""
        network = _BareNetwork(self._geometry)
        for name, (graph, inputs) in zip(("step.so", "evaluation.so"), network.graphs(), strict=True):
            lane_compiler._compile_graph(graph, inputs, folder / name, self._geometry)
        self._program = Program(network, *lane_compiler.load(folder, "cpu"), compiled=True)
        self._network = network

    def _weights(self, lanes: int) -> Tensor | None:
        return None


def blocks(recipe: Recipe, lanes: int, folder: Path) -> tuple[LaneBlock, LaneBlock]:
    """Return a block with and one without health, full of trials and warmed up."""
    whole, bare = (kind(recipe, lanes, "cpu", folder / "data") for kind in (LaneBlock, _BareBlock))
    assert isinstance(bare, _BareBlock)
    programs = Path(tempfile.mkdtemp(dir=folder))
    bare.bare(programs)
    for block in (whole, bare):
        for seed in range(lanes):
            block.admit(Recipe(recipe.model, recipe.data, recipe.optim, epochs=ENDLESS, seed=seed), seed)
        for _ in range(3):
            block.epoch(lambda tag: False)
    return whole, bare


def measure(whole: LaneBlock, bare: LaneBlock, repeats: int) -> dict[str, Any]:
    """Return the milliseconds of an epoch with and without health, and the difference in percent."""
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(repeats):
        # Whoever comes second finds the other's data in the caches.
        pair = [("with", whole), ("without", bare)]
        for name, block in pair if turn % 2 else reversed(pair):
            began = time.perf_counter()
            block.epoch(lambda tag: False)
            seconds[name].append(time.perf_counter() - began)
    shares = [100 * (ours / theirs - 1) for ours, theirs in zip(seconds["with"], seconds["without"], strict=True)]
    return {
        **{f"{name}_ms": round(1e3 * median(found), 3) for name, found in seconds.items()},
        "percent": round(median(shares), 2),
        "quartiles": [round(sorted(shares)[place * (len(shares) - 1) // 4], 2) for place in (1, 3)],
        "steps": whole.steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--lanes", type=int, default=LANES)
    parser.add_argument("--repeat", type=int, default=101, metavar="N", help="take medians of N epochs of each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="health-") as name:
        for network in options.network:
            row = measure(*blocks(NETWORKS[network], options.lanes, Path(name)), options.repeat)
            rows.append({"network": network, "lanes": options.lanes, **row})
            print(
                f"{network}, {options.lanes} lanes: an epoch of {row['steps']} steps takes {row['with_ms']:.2f} ms, "
                f"{row['without_ms']:.2f} without health: {row['percent']:+.1f} % (quartiles {row['quartiles']})",
                flush=True,
            )
    content = {
        "what": __doc__.splitlines()[0],
        "repeats": options.repeat,
        "rows": rows,
        "machine": machine.describe("torch", "numpy"),
    }
    if options.network != list(NETWORKS) or options.lanes != LANES:
        print(json.dumps(content, indent=2))
    else:
        print(f"Written to {machine.write('health', content).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
