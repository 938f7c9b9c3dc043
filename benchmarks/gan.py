"""What a step of a GAN costs as a lane, over the number of lanes, beside a GAN that trains alone.

    python benchmarks/gan.py              # some two minutes, with the compilation
    python benchmarks/gan.py --repeat 3   # a quick look

Two networks of 128 units on digits (16 numbers of noise, batch 64, Adam for both), one thread. Variants are timed in
turns, some steps each: microseconds of a step of one trial, medians with least and most. The noise is drawn within it.
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

from swathe.training.alone import alone  # noqa: E402
from swathe.training.beside import beside  # noqa: E402
from swathe.training.recipe import GAN, Adam, Data, Recipe, Regularization, Schedule  # noqa: E402

LANES = (1, 2, 4, 8, 16, 32)
# Steps of a turn, and turns.
STEPS, TURNS = 22, 25


def recipe(seed: int) -> Recipe:
    """Return a trial."""
    model = GAN(hidden=[128], discriminator_hidden=[128], latent=16)
    return Recipe(model, Data("digits"), Adam("adam", 1e-3), Schedule(), Regularization(), 64, 1_000_000, seed)


def variants(cache: Path) -> dict[tuple[str, int], Callable[[], object]]:
    """Return a step of each variant by its program and its number of lanes."""
    found: dict[tuple[str, int], Callable[[], object]] = {("alone", 1): alone(recipe(0), "cpu", cache).step_to_time()}
    for program in ("compiled", "eager"):
        for lanes in LANES:
            block = beside(recipe(0), lanes, "cpu", cache, compiled=program == "compiled")
            if block.note:
                print(f"Left out: {block.note}", flush=True)
                break
            for tag in range(lanes):
                block.admit(recipe(tag), tag)
            found[program, lanes] = block.step_to_time()
    return found


def measure(steps: dict[tuple[str, int], Callable[[], object]], turns: int) -> list[dict[str, Any]]:
    """Time all variants in turns; returns microseconds of a step of one trial."""
    us: dict[tuple[str, int], list[float]] = {variant: [] for variant in steps}
    for turn in range(turns + 1):
        for variant, step in steps.items():
            began = time.perf_counter()
            for _ in range(STEPS):
                step()
            # The first turn is for caches and one-time work.
            if turn:
                us[variant].append(1e6 * (time.perf_counter() - began) / STEPS / variant[1])
    return [
        {
            "program": program,
            "lanes": lanes,
            "us": round(median(found), 1),
            "least": round(min(found), 1),
            "most": round(max(found), 1),
        }
        for (program, lanes), found in us.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=TURNS, metavar="N", help="turns of each variant")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="gan-") as name:
        rows = measure(variants(Path(name) / "home" / "data"), options.repeat)
    solo = rows[0]["us"]
    for row in rows:
        print(f"{row['program']:>9} {row['lanes']:>3} {row['us']:>8.1f} us   {solo / row['us']:.1f}x")
    content = {"what": __doc__.splitlines()[0], "repeats": options.repeat, "rows": rows}
    print(f"Written to {machine.write('gan', content | {'machine': machine.describe('torch')}).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
