"""What trials must have in common to be lanes of one block."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from swathe.training.own_source import source_digest
from swathe.training.recipe import (
    GAN,
    IMAGE_SHAPES,
    LSTM,
    MODELS,
    Data,
    FineTune,
    Own,
    Recipe,
    ResNet,
    SequenceShape,
    Series,
    Text,
    data_options,
    is_language_model,
)

if TYPE_CHECKING:
    from torch import nn

    from swathe.training.lane_stack import Geometry

# Of a model's options, those that change values and not the program.
MODEL_VALUES = ("init", "discriminator_optim", "discriminator_lr")
# Answers of `can_lane` that a process keeps.
_STRUCTURES = 1024
# Cells of an LSTM one after the other, layers by steps, whose lanes are traced in some twenty seconds.
_MOST_CELLS = 128
# Layers of a network of the user's own whose lanes are traced in some twenty seconds.
_MOST_LAYERS = 50
# Sizes of the trial that `can_lane` makes, where the recipe does not say.
_EXAMPLES, _COLUMNS, _CLASSES = 5, 3, 2


def structural_key(recipe: Recipe) -> str:
    """Return a text that is equal for recipes that one program can train side by side.

    It holds the architecture with its shapes, norm and activation, whether there is dropout, whether there is an L1
    penalty or clipping, which augmentations there are, whether there is transfer, the batch size, the precision, and
    the dataset with its options. Initialisation, probability of dropout, strengths of augmentations, optimiser, rate,
    schedule, regularisation, seed and epochs are a lane's own; so are loaded weights, frozen stages and their rates.
    """
    model = {key: value for key, value in asdict(recipe.model).items() if key not in MODEL_VALUES}
    if isinstance(recipe.model, Own):
        # Its code may have become other code since a program was made of it.
        model = {"own": [recipe.model.target, source_digest(recipe.model.target), recipe.model.arguments]}
    structure: dict[str, object] = {
        "model": model,
        "batch_size": recipe.batch_size,
        "precision": recipe.precision,
        "data": data_options(recipe.data),
        "dropout": recipe.regularization.dropout > 0,
        "alters_gradient": recipe.regularization.alters_gradient,
    }
    # Keys of recipes without it are those of before there was any.
    if names := recipe.augmentation.names:
        structure["augmentation"] = [*names, *_files(recipe)]
    if isinstance(recipe.transfer, FineTune):
        structure["transfer"] = True
    return json.dumps(structure, sort_keys=True, separators=(",", ":"))


def _files(recipe: Recipe) -> list[str | None]:
    """Return what names are of the augmentation of texts, whose values all lanes share."""
    of = recipe.augmentation
    files = {"synonym_replacement": of.synonyms, "back_translation": of.translator}
    return [files[name] for name in of.names if name in files]


def can_lane(recipe: Recipe, geometry: Geometry | None = None) -> str | None:
    """Return None when a recipe can be trained as a lane, else one line that says why it cannot.

    Its network is traced without being computed, in some tens of milliseconds (a ResNet's: in seconds), once for each
    structural key. A network of the user's own needs the `geometry`, as its sizes may be those of its data.
    """
    if isinstance(recipe.model, Own):
        if geometry is None:
            raise ValueError("a network of the user's own has no sizes without its data")
        return _not_as_fp16(recipe) or _why_not_own(geometry)
    if type(recipe.model) is not MODELS.get(recipe.model.name):
        return f"model.name: {recipe.model.name!r} has no form for lanes, so the trial is trained alone."
    return _not_as_fp16(recipe) or _why_not(_Structure(structural_key(recipe), recipe))


def _not_as_fp16(recipe: Recipe) -> str | None:
    if recipe.precision != "fp16":
        return None
    return "precision: 'fp16' skips steps, which a lane cannot do beside others, so the trial is trained alone."


def is_slow_to_trace(recipe: Recipe, geometry: Geometry | None = None) -> bool:
    """Whether tracing lanes costs more than a sweep's lanes save: a ResNet's take a minute, as do a long LSTM's.

    Of a network of the user's own, its layers are counted if there is a `geometry`.
    """
    model = recipe.model
    if isinstance(model, Own):
        return geometry is not None and _layers(geometry) > _MOST_LAYERS
    if isinstance(model, LSTM):
        image_shape = IMAGE_SHAPES.get(recipe.data.name)
        steps = image_shape[1] if image_shape is not None else getattr(recipe.data, "length", 1)
        return model.layers * steps > _MOST_CELLS
    return isinstance(model, ResNet)


@dataclass(frozen=True, slots=True)
class _Structure:
    key: str
    recipe: Recipe = field(compare=False)


@lru_cache(maxsize=_STRUCTURES)
def _why_not_own(geometry: Geometry) -> str | None:
    import torch

    from swathe.training.lane_modules import why_not_lane
    from swathe.training.own import why_no_lane

    network = _own(geometry)
    kind = torch.int64 if geometry.tokens else torch.get_default_dtype()
    return why_no_lane(network) or why_not_lane(network, torch.empty(_EXAMPLES, geometry.features, dtype=kind))


@lru_cache(maxsize=_STRUCTURES)
def _layers(geometry: Geometry) -> int:
    """Return how many layers a network of the user's own has that have no others in them."""
    return sum(1 for layer in _own(geometry).modules() if not list(layer.children()))


def _own(geometry: Geometry) -> nn.Module:
    from swathe.training.models import build

    outputs, shape = geometry.classes or 1, geometry.image_shape
    return build(geometry.model, geometry.features, outputs, shape, 0.0, None, geometry.sequence)


@lru_cache(maxsize=_STRUCTURES)
def _why_not(structure: _Structure) -> str | None:
    # Whoever only compares keys needs no PyTorch.
    import torch

    from swathe.training.lane_modules import why_not_lane
    from swathe.training.models import build

    recipe = structure.recipe
    # How many columns a table has, and how many classes, makes no difference to whether it can be done.
    image_shape, sequence = IMAGE_SHAPES.get(recipe.data.name), _sequence(recipe.data)
    inputs, kind = _COLUMNS if image_shape is None else math.prod(image_shape), torch.float32
    if sequence is not None:
        inputs = sequence.length * sequence.variables
        kind = torch.int64 if sequence.vocabulary else kind
    dropout = recipe.regularization.dropout
    if isinstance(recipe.model, GAN):
        from swathe.training.gan import networks

        both = networks(recipe.model, inputs, dropout, None)
        sizes = {"generator": recipe.model.latent, "discriminator": inputs}
        reasons = (why_not_lane(both[name], torch.empty(_EXAMPLES, size)) for name, size in sizes.items())
        return next((reason for reason in reasons if reason is not None), None)
    network = build(recipe.model, inputs, _CLASSES, image_shape, dropout, None, sequence)
    return why_not_lane(network, torch.empty(_EXAMPLES, inputs, dtype=kind))


def _sequence(data: Data) -> SequenceShape | None:
    match data:
        case Text(length=length):
            return SequenceShape(length, 1, _CLASSES, every_step=is_language_model(data))
        case Series(length=length):
            return SequenceShape(length, _COLUMNS)
    return None


def is_structural(name: str) -> bool:
    """Whether a config key, dotted, can change the structural key; a group's own name swaps the whole group."""
    group, _, option = name.partition(".")
    whole = ("batch_size", "precision", "augmentation", "transfer")
    return name in whole or (group == "model" and option not in MODEL_VALUES) or group == "data"
