"""What trials must have in common to be lanes of one block."""

from __future__ import annotations

import json
from dataclasses import asdict

from swathe.training.recipe import MODELS, Recipe

# Of a model's options, those that change values and not the program.
_VALUES = ("init",)


def structural_key(recipe: Recipe) -> str:
    """Return a text that is equal for recipes that one program can train side by side.

    It holds the architecture with its shapes, norm and activation, the batch size, and the dataset with its options.
    Initialisation, optimiser, rate, schedule, regularisation, seed and epochs are a lane's own.
    """
    model = {key: value for key, value in asdict(recipe.model).items() if key not in _VALUES}
    structure = {"model": model, "batch_size": recipe.batch_size, "data": asdict(recipe.data)}
    return json.dumps(structure, sort_keys=True, separators=(",", ":"))


def can_lane(recipe: Recipe) -> str | None:
    """Return None when a recipe can be trained as a lane, else one line that says why it cannot."""
    if type(recipe.model) is not MODELS.get(recipe.model.name):
        return f"model.name: {recipe.model.name!r} has no form for lanes, so the trial is trained alone."
    return None
