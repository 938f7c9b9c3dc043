"""Whoever trains recipes side by side asks here for the block of lanes that their model needs."""

from __future__ import annotations

from pathlib import Path

import torch

from swathe.training.gan_lanes import AdversarialBlock
from swathe.training.lanes import LaneBlock
from swathe.training.recipe import GAN, Recipe


def beside(
    recipe: Recipe,
    lanes: int,
    device: str,
    cache: Path,
    *,
    compiled: bool = True,
    dtype: torch.dtype = torch.float32,
    layers: bool = False,
) -> LaneBlock:
    """Return a block of lanes for trials of one structural key; the arguments are those of `LaneBlock`."""
    block = AdversarialBlock if isinstance(recipe.model, GAN) else LaneBlock
    return block(recipe, lanes, device, cache, compiled=compiled, dtype=dtype, layers=layers)
