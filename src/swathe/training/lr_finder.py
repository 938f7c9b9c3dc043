"""The learning-rate range test (Smith 2017, section 3.3): which rates a recipe learns at, told by a short training.

All rates are trained side by side as lanes, from the same weights and on the same batches, and beside them a network
that stands still: what its loss does is the batches' doing. Where lanes do not pay, the classic test is run instead:
one training whose rate rises at every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from swathe.training import lane_compiler
from swathe.training.data import load
from swathe.training.lane_plan import lane_bytes
from swathe.training.lanes import LaneBlock, geometry_of
from swathe.training.lr_range import Array, Finding, Method, RangeTest
from swathe.training.recipe import Recipe, Schedule
from swathe.training.solo import Solo
from swathe.training.structure import can_lane, is_slow_to_trace

# A rate at which nothing moves, in float32 too.
STILL = 1e-30
# What a block's lanes may take (bytes): on a CPU more is found in no cache, and a lane's step gets dearer.
_BLOCK_BYTES = {"cpu": 64 * 2**20, "cuda": 2**31}
# The share of a training's steps that its end is.
_END = 0.25
# Shares of the best rate's fall: of one that learns at all, and of one that is worth a search.
_LEARNS, _WORTH = 0.1, 0.5
# The loss must fall by this share of itself at some rate, or none learns; so far above itself, it has diverged.
_LEAST_FALL, _DIVERGED = 0.02, 0.1
# A ramp ends where its loss is so many times the first one (as fastai, which takes the best one).
_RAMP_ENDS = 4.0
# The share of a ramp's steps that its loss is averaged over, and that it is held to be untrained in.
_RAMP_WINDOW, _RAMP_BEGINS = 0.05, 0.1


def why_ramp(recipe: Recipe, device: str, cache: Path) -> str | None:
    """Return None when a recipe's rates are best tried as lanes, else one line that says why they are not.

    Raises `BadInputError` for a recipe or data that is refused.
    """
    geometry = geometry_of(recipe, load(recipe.data, cache), device)
    if is_slow_to_trace(recipe, geometry):
        return "lanes of this network take a minute to trace"
    if reason := can_lane(recipe, geometry):
        return reason.rstrip(".")
    needed = lane_bytes(geometry)
    if needed > _block_bytes(device):
        return f"a lane of this network takes {needed / 1e6:.0f} MB, with which lanes are slower than trials alone"
    return None


def try_as_lanes(recipe: Recipe, rates: Sequence[float], steps: int, device: str, cache: Path) -> Array:
    """Train a lane at each constant rate; return the losses `[steps, rates]`, each as it was before the step.

    All have the weights, the batches and the dropout masks of the recipe's seed. The recipe's schedule, warm-up
    included, has no part in it. A lane is NaN from where its training broke down. Lanes that do not fit into one block
    follow one another; the program is a compiled one where that is on disk.
    """
    geometry = geometry_of(recipe, load(recipe.data, cache), device)
    width = min(len(rates), max(1, _block_bytes(device) // lane_bytes(geometry)))
    # As even as can be.
    width = math.ceil(len(rates) / math.ceil(len(rates) / width))
    block = LaneBlock(recipe, width, device, cache, compiled=lane_compiler.is_compiled(geometry, cache))
    parts = []
    for first in range(0, len(rates), width):
        for tag, lr in enumerate(rates[first : first + width], start=first):
            block.admit(replace(recipe, optim=replace(recipe.optim, lr=lr), schedule=Schedule()), tag)
        parts.append(block.train_steps(steps))
        for tag in list(block.tags):
            block.release(tag)
    return torch.cat(parts, dim=1).numpy()


def try_as_ramp(recipe: Recipe, rates: Sequence[float], device: str, cache: Path) -> Array:
    """Train one run for a step at each rate; return the losses `[rates]`, each as it was before the step.

    It ends where the loss is not finite or four times as large as at first; from there on they are NaN.
    """
    losses = np.full(len(rates), np.nan)
    for step, loss in enumerate(Solo(recipe, device, cache).train_steps(rates)):
        if not loss <= _RAMP_ENDS * (losses[0] if step else loss):
            break
        losses[step] = loss
    return losses


def of_lanes(rates: Sequence[float], losses: Array, untrained: Array) -> RangeTest:
    """Take the last quarter's mean of the losses `[steps, rates]`, and of the `untrained` ones `[steps]`."""
    last = math.ceil(_END * len(losses))
    means = losses[-last:].mean(axis=0)
    return RangeTest(Method.LANES, np.asarray(rates), _infinite(means), float(untrained[-last:].mean()))


def of_ramp(rates: Sequence[float], losses: Array) -> RangeTest:
    """Take the mean over a window of a twentieth of the steps around each of the losses `[rates]` of a ramp.

    A window that reaches past the end of a ramp that broke down is of the steps before; the first tenth is untrained.
    """
    half = max(1, round(_RAMP_WINDOW * len(losses) / 2))
    whole = int(np.isfinite(losses).sum())
    means = np.full(len(losses), np.inf)
    for step in range(whole):
        means[step] = losses[max(0, step - half) : min(whole, step + half + 1)].mean()
    begin = max(1, min(whole, round(_RAMP_BEGINS * len(losses))))
    return RangeTest(Method.RAMP, np.asarray(rates), means, float(losses[:begin].mean()))


def find(test: RangeTest) -> Finding:
    """Say which rates learn, and suggest one and a range.

    A rate's fall is that of its loss from the untrained one, as a share of the best rate's. Going from the best rate
    down, rates learn as long as they have a tenth of it; going up, they are stable as long as they have half of it.

    Of lanes, a third of the best rate is suggested, as a longer training wants less than the first steps; and the range
    from the lowest rate with half of the fall to the highest stable one, each moved half way to the next that was
    tried, as the edge is somewhere between them. A ramp is late, since its loss at a rate is the work of those before:
    a tenth of its best rate (fastai's `minimum`, Howard & Gugger 2020), and from a hundredth of it to itself.
    """
    losses, start = test.losses, test.untrained
    # What is not finite is above anything.
    diverged = tuple(not loss <= start + _DIVERGED * abs(start) for loss in losses.tolist())
    best = int(np.argmin(losses))
    gain = start - losses[best]
    if not gain > _LEAST_FALL * abs(start):
        return Finding(diverged)
    fall = ((start - losses) / gain).tolist()
    lowest = _while_above(fall, best, -1, _LEARNS)
    highest = _while_above(fall, best, 1, _WORTH)
    rate = float(test.rates[best])
    if test.method is Method.RAMP:
        low, high, lr = rate / 100, rate, rate / 10
    else:
        first = _while_above(fall, best, -1, _WORTH)
        low, high, lr = _between(test.rates, first, -1), _between(test.rates, highest, 1), rate / 3
    return Finding(diverged, lowest, best, highest, _rounded(max(lr, low)), _rounded(low), _rounded(high))


def _while_above(fall: Sequence[float], index: int, step: int, share: float) -> int:
    """Return how far one can go from `index` before a fall is below `share`."""
    while 0 <= index + step < len(fall) and fall[index + step] >= share:
        index += step
    return index


def _between(rates: Array, index: int, step: int) -> float:
    """Return the rate half way, by ratio, from one to the next; the last one of all stays."""
    other = min(max(index + step, 0), len(rates) - 1)
    return math.sqrt(float(rates[index]) * float(rates[other]))


def _infinite(losses: Array) -> Array:
    return np.where(np.isfinite(losses), losses, np.inf)


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def _block_bytes(device: str) -> int:
    return _BLOCK_BYTES["cuda" if device.startswith("cuda") else "cpu"]
