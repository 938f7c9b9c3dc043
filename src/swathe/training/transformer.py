"""Transformers (Vaswani et al. 2017, "Attention is all you need"): one that classifies, and the causal one of GPT."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from swathe.training.models import BranchEnd, Dropout, activation, empty, linear, normalisation
from swathe.training.recipe import GPT, SequenceShape, Transformer
from swathe.training.sequences import Positions, Steps, Waves, embedding, shape_of


class Attention(nn.Module):
    """Self-attention with several heads (section 3.2), `[batch, length, width] -> [batch, length, width]`.

    In a GPT a step sees itself and those before it. The weights are those of torch's `nn.MultiheadAttention`:
    `projection` of queries, keys and values in this order, and `output`.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        width = model.width
        self.heads = model.heads
        self.causal = isinstance(model, GPT)
        self.projection = linear(width, 3 * width)
        # A layer of its own, whose outputs count where memory is reckoned.
        self.softmax = nn.Softmax(dim=-1)
        self.output = empty(BranchEnd(width, width, 2 * model.depth))

    def forward(self, x: Tensor, counts: Tensor | None) -> Tensor:
        """Attend to steps that count alone, by `counts` `[batch, length]`; None: all do."""
        batch, length, width = x.shape
        by_head = self.projection(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = by_head.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query / math.sqrt(width // self.heads)) @ key.transpose(-2, -1)
        if self.causal:
            step = torch.arange(length, device=x.device)
            scores = scores.masked_fill(step > step[:, None], -math.inf)
        if counts is not None:
            scores = scores.masked_fill(~counts[:, None, None], -math.inf)
        attended = (self.softmax(scores) @ value).transpose(1, 2).reshape(batch, length, width)
        outputs: Tensor = self.output(attended)
        return outputs


class Block(nn.Module):
    """Attention and two linear layers, each with a skip around it, and with a norm before it or after the addition."""

    def __init__(self, model: Transformer, length: int, dropout: float) -> None:
        super().__init__()
        width, inner = model.width, model.expansion * model.width
        self.norm_first = model.norm_first
        self.attention = Attention(model)
        self.linear1 = linear(width, inner)
        self.activation = activation(model)
        self.linear2 = empty(BranchEnd(inner, width, 2 * model.depth))
        self.norm1, self.norm2 = (_norm(model) for _ in range(2))
        self.dropout1, self.dropout2 = (_dropout(model, length, dropout) for _ in range(2))

    def forward(self, x: Tensor, counts: Tensor | None) -> Tensor:
        if self.norm_first:
            x = x + self.dropout1(self.attention(self.norm1(x), counts))
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x + self.dropout1(self.attention(x, counts)))
        outputs: Tensor = self.norm2(x + self._feed_forward(x))
        return outputs

    def _feed_forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.dropout2(self.linear2(self.activation(self.linear1(x))))
        return outputs


def transformer_network(
    model: Transformer,
    sequence: SequenceShape | None,
    image_shape: tuple[int, int, int] | None,
    outputs: int,
    dropout: float,
) -> nn.Sequential:
    """Return a transformer `[batch, features] -> [batch, outputs]`, a GPT `[batch, length, outputs]`.

    Of tokens, a vector each is learned; values go through a linear layer. Dropout is where section 5.4 has it: of the
    inputs with their positions, and of what attention and linear layers give. With the norm first there is one more
    before the output, as in Radford et al. 2019.
    """
    shape, layers = shape_of(model, sequence, image_shape)
    if shape.vocabulary:
        layers.append(("embedding", embedding(shape, model.width)))
    else:
        layers.append(("input", linear(shape.variables, model.width)))
    learned = model.positions == "learned"
    layers.append(("positions", empty(Positions(shape.length, model.width)) if learned else Waves()))
    layers.append(("dropout", _dropout(model, shape.length, dropout)))
    layers += [(f"block{index}", Block(model, shape.length, dropout)) for index in range(1, model.depth + 1)]
    if model.norm_first:
        layers.append(("norm", _norm(model)))
    return Steps([*layers, ("output", linear(model.width, outputs))], shape, Block, _mean)


def _norm(model: Transformer) -> nn.Module:
    layers = normalisation("norm", model, model.width, image=False)
    return layers[0][1] if layers else nn.Identity()


def _dropout(model: Transformer, length: int, dropout: float) -> nn.Module:
    return Dropout(dropout, (length, model.width)) if dropout else nn.Identity()


def _mean(x: Tensor, counts: Tensor | None) -> Tensor:
    """Return the mean `[batch, width]` of `[batch, length, width]` over the steps that count."""
    if counts is None:
        return x.mean(1)
    weights = counts.to(x.dtype).unsqueeze(-1)
    return (x * weights).sum(1) / weights.sum(1)
