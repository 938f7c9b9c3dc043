"""What copying brings: populations beside the very same trials that never copy each other, at equal epochs.

    python benchmarks/population.py              # some two minutes: 15 sweeps of each on digits
    python benchmarks/population.py --sweeps 5   # a quick look

A sweep are two populations of eight trials of 20 epochs each: 64-128-10 on digits, SGD with momentum, rates over four
decades, momentum, dropout and label smoothing. The peer's trials have the same draws and seeds, in a block of the same
size: random search. Compared are the validation losses that the best of 16 trials ends with, and the median trial, and
the time of an epoch.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import optuna  # noqa: E402 - the script runs from anywhere
import torch  # noqa: E402
from benchmarks import machine  # noqa: E402

from swathe import samplers  # noqa: E402
from swathe.config import compose_sweep  # noqa: E402
from swathe.events import Value  # noqa: E402
from swathe.population import PopulationJob  # noqa: E402
from swathe.population_block import PopulationBlock  # noqa: E402
from swathe.population_sweep import Populations, shared  # noqa: E402
from swathe.runtime import trial_config  # noqa: E402
from swathe.space import Space, TrialComposer  # noqa: E402
from swathe.training.beside import beside  # noqa: E402
from swathe.training.lanes import LaneBlock, LaneReport  # noqa: E402
from swathe.training.recipe import recipe_from_config  # noqa: E402

SWEEP = """
defaults: [/model: mlp, /data: digits, /optim: momentum, /sampler: random, _self_]
model: {hidden: [128]}
epochs: 20
sweep:
  trials: 16
  population: {size: 8, perturbation_interval: 2}
  space:
    optim.lr: tag(log, interval(1e-4, 1.0))
    optim.momentum: interval(0.0, 0.98)
    regularization.dropout: interval(0.05, 0.6)
    regularization.label_smoothing: interval(0.0, 0.2)
"""
TRIALS, SIZE = 16, 8


@dataclass(frozen=True, slots=True)
class Ended:
    """The best and the median of the losses that a sweep's trials end with, if finite; the time of all (seconds)."""

    best: float
    middle: float
    seconds: float


Make = Callable[[PopulationJob, Path], Callable[[], list[LaneReport]]]


def jobs(sweep: Path, seed: int) -> list[PopulationJob]:
    """Return the populations of a sweep with this seed."""
    composed = compose_sweep(str(sweep), [f"sweep.seed={seed}", f"seed={seed}"])
    space = Space.parse(composed)
    composer = TrialComposer(composed, space)
    drawing = samplers.build({"name": "random"}, space, seed, samplers.Groups(SIZE, shared(space)))
    study = optuna.create_study()

    def params_of(number: int) -> dict[str, Value]:
        assert isinstance(drawing, samplers.RandomDraw)
        return space.sample(drawing.suggest(number, study))

    populations = Populations(composed, space, params_of, lambda params, number: trial_config(composer, params, number))
    return [populations.job(head) for head in range(0, TRIALS, SIZE)]


def block_of(job: PopulationJob, cache: Path) -> LaneBlock:
    recipe = recipe_from_config(job.members[0].config)
    return beside(recipe, SIZE, "cpu", cache, compiled=False)


def copying(job: PopulationJob, cache: Path) -> Callable[[], list[LaneReport]]:
    """Return what trains an epoch of a population."""
    block = PopulationBlock(job, block_of(job, cache))
    for member in job.members:
        block.admit(recipe_from_config(member.config), member.number)
    return lambda: block.epoch(lambda number: False)


def apart(job: PopulationJob, cache: Path) -> Callable[[], list[LaneReport]]:
    """Return what trains an epoch of the same trials, each on its own."""
    block = block_of(job, cache)
    for member in job.members:
        block.admit(recipe_from_config(member.config), member.number)
    return lambda: block.epoch(lambda number: False)


def run(make: Make, all_jobs: list[PopulationJob], cache: Path) -> Ended:
    """Train a sweep to its end."""
    losses: list[float] = []
    seconds = 0.0
    for job in all_jobs:
        epoch = make(job, cache)
        began = time.perf_counter()
        while reports := epoch():
            last = (report.metrics["val_loss"] for report in reports if report.finished)
            losses += [loss for loss in last if math.isfinite(loss)]
        seconds += time.perf_counter() - began
    return Ended(min(losses), median(losses), seconds)


KINDS: dict[str, Make] = {"population": copying, "random": apart}


def measure(sweep: Path, seed: int) -> dict[str, Any]:
    """Train a sweep both ways, in turns by its seed: who comes first has the colder caches."""
    found = jobs(sweep, seed)
    order = [*KINDS] if seed % 2 else [*reversed(KINDS)]
    return {"seed": seed} | {kind: asdict(run(KINDS[kind], found, sweep.parent / "data")) for kind in order}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="population-") as name:
        sweep = Path(name) / "population.yaml"
        sweep.write_text(SWEEP)
        rows = [measure(sweep, seed) for seed in range(options.sweeps)]
    for what in ("best", "middle", "seconds"):
        pairs = [(row["population"][what], row["random"][what]) for row in rows]
        ours, theirs = (median(values) for values in zip(*pairs, strict=True))
        ratio, less = median(one / other for one, other in pairs), sum(one < other for one, other in pairs)
        print(f"{what}: {ours:.4f} with copies, {theirs:.4f} without, {ratio:.3f}x, less in {less} of {len(rows)}")
    content = {"what": __doc__.splitlines()[0], "sweep": SWEEP, "rows": rows}
    facts = machine.describe("torch", "optuna")
    print(f"Written to {machine.write('population', content | {'machine': facts}).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
