"""What networks for sequences share: how an example becomes steps, which steps are padding, and where a step stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from swathe.errors import bad_value
from swathe.training.models import Drawn, Layer, draw_vectors, empty
from swathe.training.recipe import Data, Model, SequenceShape, Series, Text, is_language_model
from swathe.training.text import PADDING

# The base of the wavelengths in section 3.5 of Vaswani et al. 2017.
_BASE = 10_000.0


class Steps(nn.Sequential):
    """Layers that take the steps of a sequence `[batch, length, *]`, and an output.

    Those of the class `told` are told, too, which steps are no padding. Before the output `pool` makes one vector of
    all steps, with the same, unless there is a target at each.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        sequence: SequenceShape,
        told: type[nn.Module],
        pool: Callable[[Tensor, Tensor | None], Tensor],
    ) -> None:
        super().__init__()
        for name, layer in layers:
            self.add_module(name, layer)
        self._sequence = sequence
        self._told = told
        self._pool = pool

    def forward(self, x: Tensor) -> Tensor:
        counts = is_token(x, self._sequence)
        for name, layer in self.named_children():
            if name == "output" and not self._sequence.every_step:
                x = self._pool(x, counts)
            x = layer(x, counts) if isinstance(layer, self._told) else layer(x)
        return x


class Rows(nn.Module):
    """The rows of an image one after the other: `[batch, channels * height * width] -> [batch, height, width']`.

    A row has the pixels of all channels, width' = channels * width. A series is an image of this kind, with a channel a
    variable and rows of one pixel.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = self.shape
        return x.reshape(-1, channels, height, width).transpose(1, 2).reshape(-1, height, channels * width)


class Positions(Drawn):
    """Adds to each step `[batch, length, width]` a vector that is learned."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length, width, device="meta"))

    def draw(self, init: str, generator: torch.Generator) -> None:
        draw_vectors(self.weight, init, generator)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class Waves(nn.Module):
    """Adds to each step `[batch, length, width]` sines and cosines of its number (Vaswani et al. 2017, section 3.5)."""

    def forward(self, x: Tensor) -> Tensor:
        length, width = x.shape[-2:]
        step = torch.arange(length, dtype=x.dtype, device=x.device)[:, None]
        pair = torch.arange(0, width, 2, dtype=x.dtype, device=x.device)
        angle = step * torch.exp(pair * (-math.log(_BASE) / width))
        waves = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
        return x + waves[:, :width]


def shape_of(
    model: Model, sequence: SequenceShape | None, image_shape: tuple[int, int, int] | None
) -> tuple[SequenceShape, list[Layer]]:
    """Return the shape of the steps that a network sees, and the layer that makes them of values; of tokens, none.

    Raises `BadInputError` for data without an order, which has neither shape.
    """
    if sequence is not None and sequence.vocabulary:
        return sequence, []
    if sequence is not None:
        return sequence, [("steps", Rows((sequence.variables, sequence.length, 1)))]
    if image_shape is None:
        raise bad_value("model.name", model.name, "mlp, deep_mlp, as the data is no sequence")
    channels, height, width = image_shape
    return SequenceShape(height, channels * width), [("steps", Rows(image_shape))]


def shape_from_state(data: Data, features: int, state: Mapping[str, Tensor]) -> SequenceShape | None:
    """Return the shape of the steps that a trained network takes as `[batch, features]`; None where they are images."""
    match data:
        case Text():
            vocabulary = state["embedding.weight"].shape[0]
            return SequenceShape(features, vocabulary=vocabulary, every_step=is_language_model(data))
        case Series(length=length):
            return SequenceShape(length, features // length)
    return None


def embedding(sequence: SequenceShape, width: int) -> nn.Embedding:
    """Return the layer that gives each token a vector, `[batch, length] -> [batch, length, width]`."""
    return empty(nn.Embedding(sequence.vocabulary, width, device="meta"))


def is_token(x: Tensor, sequence: SequenceShape) -> Tensor | None:
    """Return which steps of `[batch, length]` are no padding; None where there can be none."""
    return x != PADDING if sequence.vocabulary and not sequence.every_step else None
