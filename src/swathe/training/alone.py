"""Whoever trains one recipe alone asks here for the loop that its model needs."""

from __future__ import annotations

from pathlib import Path

from swathe.training.gan import Adversarial
from swathe.training.recipe import GAN, Recipe
from swathe.training.solo import Solo


def alone(recipe: Recipe, device: str, cache: Path, *, layers: bool = False) -> Solo | Adversarial:
    """Return a run of one recipe on one device; raises `BadInputError` for a recipe or data that is refused.

    With `layers` its reports have the gradient's norm of every layer; a GAN's have those of its generator's ends.
    """
    if isinstance(recipe.model, GAN):
        return Adversarial(recipe, device, cache)
    return Solo(recipe, device, cache, layers=layers)
