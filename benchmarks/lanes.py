"""What a step of one lane costs, over the number of lanes, beside a trial alone and the bare arithmetic.

    python benchmarks/lanes.py                        # every network; some ten minutes on two cores
    python benchmarks/lanes.py --network mlp-digits --lanes 1 4 --repeat 2    # a quick look, which writes no results

A network's variants (lanes eager and compiled for every K, `Solo`, a plain torch.optim loop, the limit) are timed an
epoch each in turn, again and again, so that a slow phase of the machine hits all alike: medians, with least and most.
Times are microseconds of one step of one trial, forward, backward and AdamW, on one thread or on a GPU.

The limit is what no program of these PyTorch kernels passes: the matrix products (for a CNN the convolutions too) of
forward and backward alone, for K lanes at once or one by one, whichever is faster, and one pass of the fused AdamW over
all parameters as one vector. No autograd, no activations, no loss, no gathering of the batch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402 - the script runs from anywhere
from benchmarks import machine, peer  # noqa: E402

from swathe.training.data import load  # noqa: E402
from swathe.training.lanes import LaneBlock  # noqa: E402
from swathe.training.models import build  # noqa: E402
from swathe.training.recipe import CNN, MLP, Adam, Data, Model, Recipe, Regularization, Schedule  # noqa: E402
from swathe.training.solo import Solo  # noqa: E402

BATCH = 64
LANES = (1, 2, 4, 8, 16, 32, 64)
# So few examples for validation that a step's figure is a step's: evaluation is measured by the whole commands.
VALIDATION = 64
# An epoch that nobody reaches: no trial of a measurement ends.
ENDLESS = 1_000_000
PROGRAMS = ("eager", "compiled")

# Trains so many steps of so many trials; called again and again.
Run = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Network:
    """What is trained: `examples` bound an epoch, so that one with many lanes does not take minutes."""

    model: Model
    data: str
    rows: int
    examples: int | None
    lanes: tuple[int, ...] = LANES

    def recipe(self, seed: int) -> Recipe:
        """Return the trial of that seed."""
        data = Data(self.data, val_fraction=VALIDATION / self.rows, limit=self.examples)
        return Recipe(self.model, data, Adam("adamw", 1e-3), Schedule(), Regularization(), BATCH, ENDLESS, seed)


NETWORKS = {
    "mlp-digits": Network(MLP(hidden=[128]), "digits", 1797, None),
    "mlp-fashion": Network(MLP(hidden=[128]), "fashion_mnist", 60_000, 200 * BATCH),
    "cnn-digits": Network(CNN(channels=[16, 32], hidden=[64]), "digits", 1797, None, (1, 2, 4, 8, 16)),
    "cnn-fashion": Network(CNN(channels=[16, 32], hidden=[64]), "fashion_mnist", 60_000, 16 * BATCH, (1, 4, 8)),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One thing to time: `run` trains `steps` steps of each of `lanes` trials."""

    name: str
    lanes: int
    steps: int
    run: Run


def variants(network: Network, device: str, cache: Path) -> list[Variant]:
    """Return everything that is timed for a network, warmed up; prints a line for lanes that cannot be compiled."""
    solo = Solo(network.recipe(0), device, cache)
    dataset = solo.dataset.to(device)
    steps = len(dataset.train_x) // BATCH
    reports = solo.reports(lambda: False)
    module = build(network.model, dataset.train_x.shape[1], dataset.classes, dataset.image_shape, 0.0, _generator())
    loop = peer.Loop(dataset, module, BATCH, 1e-3, 0, device)
    found = [
        Variant("solo", 1, steps, lambda: _ignore(next(reports))),
        Variant("torch.optim", 1, steps, lambda: _ignore(loop.epoch())),
    ]
    for program in PROGRAMS:
        for lanes in network.lanes:
            block = LaneBlock(network.recipe(0), lanes, device, cache, compiled=program == "compiled")
            if block.note:
                print(f"Left out: {block.note}", flush=True)
                break
            for tag in range(lanes):
                block.admit(network.recipe(tag), tag)
            found.append(Variant(program, lanes, steps, _epochs(block)))
    for lanes in network.lanes:
        found += [Variant(name, lanes, steps, run) for name, run in limits(module, dataset, lanes, steps, device)]
    for variant in found:
        variant.run()
    return found


def limits(module: Any, dataset: Any, lanes: int, steps: int, device: str) -> list[tuple[str, Run]]:
    """Return the bare arithmetic of `steps` steps of `lanes` trials: the products in both ways, and AdamW's pass."""
    shapes = _shapes(module, dataset, device)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    flat = torch.zeros(lanes * parameters, device=device, requires_grad=True)
    flat.grad = torch.full_like(flat, 1e-3)
    optimizer = torch.optim.AdamW([flat], lr=1e-3, fused=True)
    one_by_one = [[layer(1) for layer in shapes] for _ in range(lanes)]
    together = [layer(lanes) for layer in shapes]

    def products(calls: list[Run]) -> Run:
        def run() -> None:
            for _ in range(steps):
                for call in calls:
                    call()
            _synchronise(device)

        return run

    def update() -> None:
        for _ in range(steps):
            optimizer.step()
        _synchronise(device)

    separate = [call for layers in one_by_one for call in layers]
    return [
        ("products, all lanes at once", products(together)),
        ("products, lane by lane", products(separate)),
        ("AdamW", update),
    ]


def _shapes(module: Any, dataset: Any, device: str) -> list[Callable[[int], Run]]:
    """Return, for each layer of a network that computes products, what makes its forward and backward for K lanes."""
    layers: list[Callable[[int], Run]] = []
    sizes: list[tuple[Any, torch.Size]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: sizes.append((layer, inputs[0].shape)))
        for layer in module.modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    ]
    with torch.no_grad():
        module(dataset.train_x[:BATCH])
    for hook in hooks:
        hook.remove()
    for index, (layer, shape) in enumerate(sizes):
        # The gradient of the images themselves is nobody's.
        make = _linear if isinstance(layer, torch.nn.Linear) else _convolution
        layers.append(make(layer, shape, device, first=index == 0))
    return layers


def _linear(layer: Any, shape: torch.Size, device: str, *, first: bool) -> Callable[[int], Run]:
    fan_out, fan_in = layer.weight.shape

    def make(lanes: int) -> Run:
        x = torch.randn(lanes, shape[0], fan_in, device=device)
        weight, weight_gradient = (torch.randn(lanes, fan_out, fan_in, device=device) for _ in range(2))
        output, gradient = (torch.randn(lanes, shape[0], fan_out, device=device) for _ in range(2))
        back = torch.empty_like(x)
        product = torch.bmm
        if lanes == 1:
            x, weight, weight_gradient, output, gradient, back = (
                tensor[0] for tensor in (x, weight, weight_gradient, output, gradient, back)
            )
            product = torch.mm

        def run() -> None:
            product(x, weight.mT, out=output)
            product(gradient.mT, x, out=weight_gradient)
            if not first:
                product(gradient, weight, out=back)

        return run

    return make


def _convolution(layer: Any, shape: torch.Size, device: str, *, first: bool) -> Callable[[int], Run]:
    channels, fan_in = layer.weight.shape[:2]

    def make(lanes: int) -> Run:
        # Lanes side by side are the groups of one convolution.
        x = torch.randn(shape[0], lanes * fan_in, *shape[2:], device=device)
        weight = torch.randn(lanes * channels, *layer.weight.shape[1:], device=device)
        gradient = torch.randn(shape[0], lanes * channels, *shape[2:], device=device)
        geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], lanes)
        wanted = [not first, True, True]

        def run() -> None:
            torch.ops.aten.convolution(x, weight, None, *geometry)
            torch.ops.aten.convolution_backward(gradient, x, weight, [lanes * channels], *geometry, wanted)

        return run

    return make


def measure(found: list[Variant], repeats: int) -> list[dict[str, Any]]:
    """Time all variants in turn, `repeats` times over; returns microseconds a lane-step: median, least and most."""
    seconds: dict[int, list[float]] = {index: [] for index in range(len(found))}
    for _ in range(repeats):
        for index, variant in enumerate(found):
            start = time.perf_counter()
            variant.run()
            seconds[index].append(time.perf_counter() - start)
    rows = []
    for index, variant in enumerate(found):
        us = [1e6 * value / (variant.steps * variant.lanes) for value in seconds[index]]
        figures = {"us": round(median(us), 2), "least": round(min(us), 2), "most": round(max(us), 2)}
        rows.append({"variant": variant.name, "lanes": variant.lanes, **figures})
    return rows


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return solo's and the plain loop's time, and for each K the lanes' beside the limit (microseconds)."""

    def of(name: str, lanes: int) -> float | None:
        return next((row["us"] for row in rows if (row["variant"], row["lanes"]) == (name, lanes)), None)

    table = []
    for lanes in sorted({row["lanes"] for row in rows}):
        products = [of(name, lanes) for name in ("products, all lanes at once", "products, lane by lane")]
        update = of("AdamW", lanes)
        if update is None:
            continue
        limit = round(min(us for us in products if us is not None) + update, 2)
        table.append({"lanes": lanes, "eager": of("eager", lanes), "compiled": of("compiled", lanes), "limit": limit})
    return {"solo": of("solo", 1), "torch_optim": of("torch.optim", 1), "by_lanes": table}


def show(name: str, device: str, summary: dict[str, Any]) -> None:
    """Print a network's table."""
    solo, loop = summary["solo"], summary["torch_optim"]
    print(f"{name} on {device}, us a lane-step: a plain torch.optim loop {loop:.0f}, alone (Solo) {solo:.0f}")
    print(f"{'K':>4} {'eager':>9} {'compiled':>9} {'limit':>9}   best against alone, against the limit")
    for row in summary["by_lanes"]:
        best = min(us for us in (row["eager"], row["compiled"]) if us is not None)
        words = " ".join(f"{'-' if row[key] is None else format(row[key], '.1f'):>9}" for key in (*PROGRAMS, "limit"))
        print(f"{row['lanes']:>4} {words}   {solo / best:.2f}x, {best / row['limit']:.2f}", flush=True)


def bare_step(network: Network, cache: Path, repeats: int = 15) -> float:
    """Return the limit of one trial alone on this process's device and thread, microseconds a step."""
    dataset = load(network.recipe(0).data, cache)
    module = build(network.model, dataset.train_x.shape[1], dataset.classes, dataset.image_shape, 0.0, _generator())
    found = [Variant(name, 1, 50, run) for name, run in limits(module, dataset, 1, 50, "cpu")]
    for variant in found:
        variant.run()
    return float(summarise(measure(found, repeats))["by_lanes"][0]["limit"])


def _epochs(block: LaneBlock) -> Run:
    return lambda: _ignore(block.epoch(lambda tag: False))


def _ignore(result: object) -> None:
    """Take a result that only its time matters of."""


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--lanes", type=int, nargs="+", help="instead of each network's own numbers of lanes")
    parser.add_argument("--repeat", type=int, default=7, metavar="N", help="take medians of N epochs")
    parser.add_argument("--bare-step", metavar="CACHE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.bare_step:
        print(bare_step(NETWORKS[options.network[0]], Path(options.bare_step)))
        return
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if len(devices) == 1:
        print("No GPU here: the same on device=cuda is left out.", flush=True)
    results = []
    with tempfile.TemporaryDirectory(prefix="lanes-") as name:
        for device in devices:
            for network_name in options.network:
                network = NETWORKS[network_name]
                if options.lanes:
                    network = replace(network, lanes=tuple(sorted(options.lanes)))
                rows = measure(variants(network, device, Path(name) / "data"), options.repeat)
                summary = summarise(rows)
                show(network_name, device, summary)
                results.append({"network": network_name, "device": device, **summary, "rows": rows})
    content = {
        "what": __doc__.splitlines()[0],
        "batch": BATCH,
        "repeats": options.repeat,
        "networks": results,
        "gpu": torch.cuda.get_device_name() if len(devices) > 1 else None,
        "machine": machine.describe("torch", "numpy"),
    }
    if options.lanes or options.network != list(NETWORKS):
        print(json.dumps(content, indent=2))
    else:
        print(f"Written to {machine.write('lanes', content).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
