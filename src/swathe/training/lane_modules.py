"""What makes an `nn.Module` a lane: forms of the layers that `vmap` cannot carry, and the test of what it still cannot.

Each form is written for one lane; `vmap` gives its tensors the leading axis [K]. None of them draws or writes anything.
A form holds the very parameters and buffers of the layer it stands for, by the same names, so that tied weights stay
tied and a state dictionary fits both networks. The one exception is `num_batches_tracked` of torch's batch
normalisation: with a momentum that count has no effect, and `load_state_dict` does without it.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import math
import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensorMode,
)
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.overrides import TorchFunctionMode

from swathe.errors import BadInputError
from swathe.training import streams
from swathe.training.models import BatchNorm, Dropout, Masked
from swathe.training.precision import widened

# Of SELU's fixed point, times -1: scale * alpha (Klambauer et al. 2017, section 2).
_SELU_FLOOR = 1.7580993408473766
# Letters of another error's text that fit into a line.
_MOST_TEXT = 160


class CannotLaneError(BadInputError):
    """A module cannot be a lane; the text is one line with its path and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path or 'the network'}: {reason}, so the trial is trained alone.")


class LaneBatchNorm(BatchNorm):
    """Batch normalisation (Ioffe & Szegedy 2015) that leaves its batch's statistics to be taken by the caller.

    After a forward pass in training mode, `statistics` is the batch's mean and its unbiased variance `[features]`,
    which the running ones are to be moved towards: `running * (1 - momentum) + statistics * momentum`. After
    `may_freeze` it has a flag `frozen` `[]` with which it normalises by the running ones instead, as in evaluation.
    """

    def __init__(self, layer: BatchNorm | _BatchNorm) -> None:
        nn.Module.__init__(self)
        _take_over(layer, self)
        self._buffers.pop("num_batches_tracked", None)
        self.statistics: tuple[Tensor, Tensor] | None = None

    def may_freeze(self) -> None:
        """Have a flag for each lane that says whether it is frozen."""
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # In which torch's kernel has the statistics too.
        wide = widened(x)
        if not self.training:
            return _normalised(self, wide, self.running_mean, self.running_var).to(x.dtype)
        mean, variance = _moments(wide)
        count = x.numel() // x.shape[1]
        unbiased = variance.detach() * (count / (count - 1))
        self.statistics = (mean.detach(), unbiased.to(wide.dtype))
        if (frozen := self._buffers.get("frozen")) is not None:
            mean = torch.where(frozen, self.running_mean, mean)
            variance = torch.where(frozen, self.running_var.double(), variance)
        return _normalised(self, wide, mean, variance).to(x.dtype)


class LaneUntrackedBatchNorm(nn.Module):
    """Batch normalisation without running statistics: by those of its batch, in evaluation too."""

    eps: float

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        _take_over(layer, self)

    def forward(self, x: Tensor) -> Tensor:
        wide = widened(x)
        return _normalised(self, wide, *_moments(wide)).to(x.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean, and variance in double precision, over all axes but the second."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    # In double precision, as torch's kernel has it: activations whose squares overflow are normalised too.
    variance, mean = torch.var_mean(x.double(), axes, correction=0)
    return mean.to(x.dtype), variance


def _normalised(layer: LaneBatchNorm | LaneUntrackedBatchNorm, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    shape = (-1,) + (1,) * (x.dim() - 2)
    scale = torch.rsqrt(variance + layer.eps).to(x.dtype)
    # Torch's layers have neither when they are not affine.
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    if weight is not None:
        scale = weight * scale
    normalised = (x - mean.view(shape)) * scale.view(shape)
    return normalised if bias is None else normalised + bias.view(shape)


class LaneDropout(nn.Module):
    """Inverted dropout by a mask from outside: `keep` `[batch, *shape]` of 0 and 1, `scale` the lane's 1 / (1 - p).

    `p` is the probability of dropping, None for the recipe's.
    """

    keep: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], p: float | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.p = p
        self.register_buffer("keep", torch.ones(1, *shape, dtype=torch.bool), persistent=False)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.keep.to(x.dtype) * self.scale) if self.training else x


class LaneDropoutCalls(LaneDropout, Masked):
    """Torch's dropout layers: a part of the mask for each call in a forward pass, wherever the batch's axis is.

    `sizes` are the calls' elements of the mask for each example, and `shape` is their sum; `axes` is the number of x's
    leading axes whose elements are dropped one by one, None for all: 2 of Dropout2d, which drops whole channels. With
    `alpha`, what is dropped has SELU's least value, and mean and variance are kept (Klambauer et al. 2017, "alpha
    dropout").
    """

    def __init__(self, p: float, sizes: list[int], axes: int | None, alpha: bool) -> None:
        super().__init__((sum(sizes),), p)
        self._p, self._sizes, self._axes, self._alpha = p, sizes, axes, alpha
        self._call = 0

    def draw(self, batch: int, words: Tensor) -> None:
        """Draw the next step's mask of a trial that is trained alone: what its lane would have."""
        self.keep = streams.keeps(words, streams.dropout_threshold(self._p), (batch, *self.shape))
        self.scale = torch.full_like(self.scale, 1 / (1 - self._p))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.split(self.keep, self._sizes, dim=1)[self._call].reshape(_mask_shape(x, self._axes)).to(x.dtype)
        self._call = (self._call + 1) % len(self._sizes)
        if not self._alpha:
            return x * (keep * self.scale)
        gain = 1 / math.sqrt((1 - self._p) * (1 + self._p * _SELU_FLOOR**2))
        return gain * (x * keep + _SELU_FLOOR * (keep - 1 + self._p))


class LaneEmbedding(nn.Module):
    """nn.Embedding, whose padding has no gradient in any lane: by `vmap`'s rule, torch spares only the first lane's."""

    weight: nn.Parameter
    padding_idx: int | None
    scale_grad_by_freq: bool

    def __init__(self, layer: nn.Embedding) -> None:
        super().__init__()
        _take_over(layer, self)

    def forward(self, x: Tensor) -> Tensor:
        def stacked(x: Tensor, weight: Tensor) -> Tensor:
            first = torch.arange(weight.shape[0], device=x.device) * weight.shape[1]
            rows = x + first.view(-1, *(1,) * (x.dim() - 1))
            return F.embedding(rows, weight.flatten(0, 1), scale_grad_by_freq=self.scale_grad_by_freq)

        embedded = _over_lanes(stacked, x, self.weight)
        if self.padding_idx is None:
            return embedded
        return torch.where((x == self.padding_idx).unsqueeze(-1), embedded.detach(), embedded)


class LaneConvolution(nn.Module):
    """nn.Conv1d, 2d, 3d and their transposes.

    A convolution is a product of the patches of x and the kernels (Chellapilla et al. 2006, section 3.1), which leaves
    the number of lanes open in a compiled program. What has groups already, or is transposed, is one convolution for
    all lanes, of which each is a group of channels.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    transposed: bool
    output_padding: tuple[int, ...]
    _reversed_padding_repeated_twice: list[int]

    def __init__(self, layer: _ConvNd) -> None:
        super().__init__()
        _take_over(layer, self)

    def forward(self, x: Tensor) -> Tensor:
        sides = self.weight.dim() - 2
        if x.dim() != sides + 2:
            raise TypeError(f"takes a tensor [batch, channels] with {sides} more axes only")
        outputs = _over_lanes(self._stacked, x, self.weight)
        return outputs if self.bias is None else outputs + self.bias.view(-1, *(1,) * sides)

    def _stacked(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return `[K, batch, channels, ...]` of x `[K, batch, channels, ...]` and a weight a lane."""
        if not self.transposed and self.groups == 1:
            return self._by_patches(x, weight)
        lanes, batch, sides = x.shape[0], x.shape[1], weight.dim() - 3
        channels, kernels = x.transpose(0, 1).flatten(1, 2), weight.flatten(0, 1)
        groups, padding = lanes * self.groups, cast(tuple[int, ...], self.padding)
        if self.padding_mode != "zeros":
            channels = F.pad(channels, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0,) * sides
        if self.transposed:
            transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[sides - 1]
            outputs = transpose(
                channels, kernels, None, self.stride, padding, self.output_padding, groups, self.dilation
            )
        else:
            convolve = (F.conv1d, F.conv2d, F.conv3d)[sides - 1]
            outputs = convolve(channels, kernels, None, self.stride, padding, self.dilation, groups)
        return outputs.view(batch, lanes, -1, *outputs.shape[2:]).transpose(0, 1)

    def _by_patches(self, x: Tensor, weight: Tensor) -> Tensor:
        lanes, batch, channels, kernel = x.shape[0], x.shape[1], x.shape[2], weight.shape[3:]
        pads = self._reversed_padding_repeated_twice
        if any(pads):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x.flatten(0, 1), pads, mode=mode).view(lanes, batch, channels, *_padded(x.shape[3:], pads))
        sizes = [
            (size - dilation * (width - 1) - 1) // stride + 1
            for size, width, stride, dilation in zip(x.shape[3:], kernel, self.stride, self.dilation, strict=True)
        ]
        # [K, batch, channels, *sizes] for each place in the kernel.
        every = (slice(None),) * 3
        patches = [x[every + slices] for slices in self._slices(kernel, sizes)]
        # [K, batch * places, channels * kernel] by [K, channels * kernel, outputs].
        rows = torch.stack(patches, dim=3).flatten(4).permute(0, 1, 4, 2, 3)
        rows = rows.reshape(lanes, -1, channels * math.prod(kernel))
        outputs = torch.bmm(rows, weight.flatten(2).transpose(1, 2))
        return outputs.view(lanes, batch, math.prod(sizes), -1).transpose(2, 3).reshape(lanes, batch, -1, *sizes)

    def _slices(self, kernel: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[slice, ...]]:
        """Yield, for each place in the kernel, which elements of x it meets."""
        for place in itertools.product(*map(range, kernel)):
            starts = [start * dilation for start, dilation in zip(place, self.dilation, strict=True)]
            yield tuple(
                slice(start, start + stride * (size - 1) + 1, stride)
                for start, stride, size in zip(starts, self.stride, sizes, strict=True)
            )


def _padded(sizes: Sequence[int], pads: Sequence[int]) -> list[int]:
    """Return sizes after padding; `pads` begins with both ends of the last one."""
    ends = zip(pads[::2], pads[1::2], strict=True)
    return [size + before + after for size, (before, after) in zip(reversed(sizes), ends, strict=True)][::-1]


class LaneNorm(nn.Module):
    """nn.LayerNorm (Ba et al. 2016), nn.GroupNorm (Wu & He 2018), nn.InstanceNorm: all lanes' examples at once."""

    def __init__(self, layer: nn.LayerNorm | nn.GroupNorm | _InstanceNorm) -> None:
        super().__init__()
        _take_over(layer, self)
        self._normalise: Callable[[Tensor], Tensor]
        match layer:
            case nn.LayerNorm():
                self._normalise = partial(F.layer_norm, normalized_shape=layer.normalized_shape, eps=layer.eps)
            case nn.GroupNorm():
                self._normalise = partial(F.group_norm, num_groups=layer.num_groups, eps=layer.eps)
            case _:
                self._normalise = partial(F.instance_norm, eps=layer.eps)
        self._by_channel = not isinstance(layer, nn.LayerNorm)

    def forward(self, x: Tensor) -> Tensor:
        normalised = _examples_at_once(self._normalise, x)
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        # The norms of channels have a weight for each, on the second axis.
        shape = (-1, *(1,) * (x.dim() - 2)) if self._by_channel else None
        if weight is not None:
            normalised = normalised * (weight if shape is None else weight.view(shape))
        if bias is not None:
            normalised = normalised + (bias if shape is None else bias.view(shape))
        return normalised


class LaneExamples(nn.Module):
    """A layer without parameters that treats each example by itself: all examples of all lanes at once."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        _take_over(layer, self)
        self._forward = layer.forward

    def forward(self, x: Tensor) -> Tensor:
        return _examples_at_once(self._forward, x)


class LaneWeightNorm(nn.Module):
    """Weight normalisation (Salimans & Kingma 2016, equation 2): a vector's length and direction as parameters."""

    def __init__(self, layer: _WeightNorm) -> None:
        super().__init__()
        self._dim = layer.dim

    def forward(self, length: Tensor, direction: Tensor) -> Tensor:
        # Of the dimension that is kept, each index has a length; -1 stands for one of the whole.
        rows = direction.flatten()[None] if self._dim == -1 else direction.movedim(self._dim, 0).flatten(1)
        return direction * (length / rows.square().sum(1).sqrt().view(length.shape))


class LaneRecurrent(nn.Module):
    """nn.LSTM (Hochreiter & Schmidhuber 1997), nn.GRU (Cho et al. 2014) and nn.RNN, one operation after the other.

    The equations are those of torch's documentation. Takes `[batch, time, features]`, or with time first, and an
    initial state, and returns what torch's layers do.
    """

    mode: str
    bias: bool
    batch_first: bool
    bidirectional: bool
    hidden_size: int
    num_layers: int

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        _take_over(layer, self)
        # Weak references for cuDNN, which cannot be pickled.
        vars(self).pop("_flat_weight_refs", None)
        self.between = nn.Dropout(layer.dropout if layer.num_layers > 1 else 0.0)

    def flatten_parameters(self) -> None:
        """Do nothing: torch's layers have it for cuDNN."""

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(x, Tensor) or x.dim() != 3:
            raise TypeError("takes a tensor [batch, time, features] only")
        x = x.transpose(0, 1) if self.batch_first else x
        directions = ("", "_reverse") if self.bidirectional else ("",)
        given = None if hx is None else list(zip(*hx, strict=True)) if self.mode == "LSTM" else [(h,) for h in hx]
        ends: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            x = self.between(x) if layer else x
            outputs = []
            for direction in directions:
                zeros = x.new_zeros(x.shape[1], self.hidden_size)
                start = (zeros, zeros)[: 2 if self.mode == "LSTM" else 1] if given is None else given[len(ends)]
                output, end = self._run(x, start, f"l{layer}{direction}", backwards=bool(direction))
                outputs.append(output)
                ends.append(end)
            x = torch.stack(outputs, dim=2).flatten(2)
        states = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
        return x.transpose(0, 1) if self.batch_first else x, states if self.mode == "LSTM" else states[0]

    def _run(
        self, x: Tensor, state: tuple[Tensor, ...], name: str, *, backwards: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the outputs `[time, batch, hidden]` of one layer in one direction, and its last state."""
        weight_ih, weight_hh = getattr(self, f"weight_ih_{name}"), getattr(self, f"weight_hh_{name}")
        bias_ih, bias_hh = (getattr(self, f"bias_{what}_{name}") if self.bias else None for what in ("ih", "hh"))
        # Of all times at once: one large product in the place of many small ones.
        from_inputs = F.linear(x, weight_ih, bias_ih).unbind(0)
        outputs = []
        for from_input in reversed(from_inputs) if backwards else from_inputs:
            state = self._step(from_input, F.linear(state[0], weight_hh, bias_hh), state)
            outputs.append(state[0])
        return torch.stack(outputs[::-1] if backwards else outputs), state

    def _step(self, from_input: Tensor, from_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        match self.mode:
            case "LSTM":
                i, f, g, o = (from_input + from_state).chunk(4, dim=1)
                cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
                return o.sigmoid() * cell.tanh(), cell
            case "GRU":
                (r, z, n), (hidden_r, hidden_z, hidden_n) = from_input.chunk(3, dim=1), from_state.chunk(3, dim=1)
                new = (n + (r + hidden_r).sigmoid() * hidden_n).tanh()
                return (new + (z + hidden_z).sigmoid() * (state[0] - new),)
            case "RNN_TANH":
                return ((from_input + from_state).tanh(),)
            case _:
                return ((from_input + from_state).relu(),)


class LaneAttention(nn.Module):
    """nn.MultiheadAttention (Vaswani et al. 2017, section 3.2) without torch's fused kernels.

    Takes and returns what torch's layer does, with a batch axis.
    """

    batch_first: bool
    num_heads: int
    out_proj: nn.Module
    _qkv_same_embed_dim: bool
    in_proj_weight: Tensor
    in_proj_bias: Tensor | None

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        _take_over(layer, self)
        self.weights_dropout = nn.Dropout(layer.dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.dim() != 3:
            raise TypeError("takes tensors with three axes only")
        if is_causal and attn_mask is None:
            raise TypeError("takes is_causal only beside attn_mask")
        query, key, value = (self._project(which, x) for which, x in enumerate((query, key, value)))
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        if attn_mask is not None:
            mask = _additive(attn_mask, scores)
            scores = scores + (mask.view(-1, self.num_heads, *mask.shape[1:]) if mask.dim() == 3 else mask)
        if key_padding_mask is not None:
            scores = scores + _additive(key_padding_mask, scores)[:, None, None]
        weights = self.weights_dropout(scores.softmax(-1))
        outputs: Tensor = self.out_proj((weights @ value).transpose(1, 2).flatten(2))
        outputs = outputs if self.batch_first else outputs.transpose(0, 1)
        if not need_weights:
            return outputs, None
        return outputs, weights.mean(1) if average_attn_weights else weights

    def _project(self, which: int, x: Tensor) -> Tensor:
        """Return the queries, keys or values by head, `[batch, heads, time, features]`."""
        if self._qkv_same_embed_dim:
            weight = self.in_proj_weight.chunk(3)[which]
        else:
            weight = getattr(self, ("q_proj_weight", "k_proj_weight", "v_proj_weight")[which])
        bias = None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[which]
        projected = F.linear(x if self.batch_first else x.transpose(0, 1), weight, bias)
        return projected.view(*projected.shape[:2], self.num_heads, -1).transpose(1, 2)


class _OverLanes(torch.autograd.Function):
    """Calls a function of stacked tensors where `vmap` stands, whose own rules may fix the number of lanes."""

    @staticmethod
    def forward(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        return function(*(tensor[None] for tensor in tensors))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, axes: tuple[int | None, ...], function: Callable[..., Tensor], *tensors: Tensor
    ) -> tuple[Tensor, int]:
        stacked = [
            tensor.expand(info.batch_size, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
            for tensor, axis in zip(tensors, axes[1:], strict=True)
        ]
        return function(*stacked), 0


def _over_lanes(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return one lane's part of what `function` gives for stacked tensors `[K, ...]`."""
    if torch._C._functorch.maybe_current_level() is None:
        return function(*(tensor[None] for tensor in tensors))[0]
    outputs: Tensor = _OverLanes.apply(function, *tensors)  # type: ignore[no-untyped-call]
    return outputs


def _examples_at_once(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return what `function` gives for x `[batch, ...]`, which it is called on for all lanes' examples together."""

    def stacked(x: Tensor) -> Tensor:
        outputs = function(x.flatten(0, 1))
        return outputs.reshape(*x.shape[:2], *outputs.shape[1:])

    return _over_lanes(stacked, x)


def replace_layers(network: nn.Module, example: Tensor | None = None) -> None:
    """Put lane forms in the place of a network's layers, as far as there are any; their state's names stay.

    `example` `[batch, ...]` is a network's input, which is needed when torch's dropout layers are in it: the shapes of
    their masks are found by one forward pass without data. Raises `CannotLaneError`.
    """
    forms: dict[int, nn.Module] = {}
    for path, layer in network.named_modules():
        if reason := _refusal(layer):
            raise CannotLaneError(path, reason)
        if (form := _form(layer)) is not None:
            if not path:
                raise CannotLaneError(
                    path, f"is a lone {type(layer).__name__}, which cannot be replaced within a network"
                )
            forms[id(layer)] = form
    _put(network, forms)
    drops = {path: layer for path, layer in network.named_modules() if type(layer) in _DROPOUTS}
    active = {path: layer for path, layer in drops.items() if layer.p > 0}
    calls = _calls(network, active, example) if active else {}
    _put(network, {id(layer): _dropout(path, layer, calls, example) for path, layer in drops.items()})


def mask_sizes(network: nn.Module, example: Tensor) -> dict[str, list[int]] | None:
    """Return what `put_masks` takes, found by one forward pass without data; None where lanes could not have it.

    The network is copied for it, without its values.
    """
    try:
        with _undisturbed():
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            with FakeCopyMode(mode):
                lane = copy.deepcopy(network)
            _open_layers(lane)
            drops = {path: layer for path, layer in lane.named_modules() if type(layer) in _DROPOUTS and layer.p > 0}
            sizes = _calls(lane, drops, example) if drops else {}
            return None if any(size % len(example) for calls in sizes.values() for size in calls) else sizes
    # What a module raises here it raises again where it is trained, or it cannot be a lane, and that is said there.
    except Exception:
        return None


def put_masks(network: nn.Module, sizes: dict[str, list[int]], example: Tensor) -> None:
    """Put lane forms in the place of all layers that drop, so that the trial's seed alone says what they drop.

    `models.dropouts` then has them. `sizes` are the elements of the masks of each one's calls for such an `example`.
    """
    _open_layers(network)
    drops = {path: layer for path, layer in network.named_modules() if type(layer) in _DROPOUTS}
    _put(network, {id(layer): _dropout(path, layer, sizes, example) for path, layer in drops.items()})


def _open_layers(network: nn.Module) -> None:
    """Put lane forms in the place of layers that drop within themselves: those have the dropout as a layer."""
    inside = {
        id(layer): layer
        for layer in network.modules()
        if (isinstance(layer, nn.RNNBase) and layer.dropout > 0 and layer.num_layers > 1)
        or (type(layer) is nn.MultiheadAttention and layer.dropout > 0)
    }
    forms = {key: form for key, layer in inside.items() if (form := _form(layer)) is not None}
    if forms:
        for layer in network.modules():
            if isinstance(layer, (nn.TransformerEncoderLayer, nn.TransformerEncoder)):
                # Else they look into the layers that are replaced.
                _form(layer)
        _put(network, forms)


def why_not_lane(network: nn.Module, example: Tensor) -> str | None:
    """Return None when a plain network can be a lane, else one line with a module's path and the reason.

    `example` `[batch, ...]` stands for the network's input. The network is copied without its values, and two lanes
    of it are traced forward and backward, in training and in evaluation, without computing anything: nothing that
    depends on values, draws random numbers, keeps a state or runs lane by lane passes.
    """
    trail: list[str] = []
    try:
        with _undisturbed():
            _check_parameters(network)
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            with FakeCopyMode(mode):
                lane = copy.deepcopy(network)
            with mode:
                blank = torch.empty(example.shape, dtype=example.dtype, device=example.device)
                with _followed(lane, trail):
                    replace_layers(lane, blank)
                for training in (True, False):
                    trail.clear()
                    with _followed(lane, trail):
                        _try_lanes(lane.train(training), blank)
    except CannotLaneError as refusal:
        return str(refusal)
    except KeyboardInterrupt:
        raise
    # A module may raise anything, and may want to end the process.
    except BaseException as error:
        return str(CannotLaneError(trail[-1] if trail else "", _words(error)))
    return None


@contextlib.contextmanager
def lane_operations() -> Iterator[None]:
    """Trace lanes under this: attention by operations that `vmap` carries, and an error where it would loop over lanes.

    Where an operator has no batching rule, `vmap` calls it once a lane, which is slower than training alone.
    """
    functorch: Any = torch._C._functorch
    before = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _PaddingRefused():
            yield
    finally:
        functorch._set_vmap_fallback_enabled(before)


class _PaddingRefused(TorchFunctionMode):
    """Refuses embeddings with padding, of which `vmap` spares only the first lane's gradient."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is F.embedding and given.get("padding_idx") is not None:
            raise NotImplementedError("F.embedding with padding_idx; nn.Embedding has it")
        return func(*args, **given)


_BY_EXAMPLE: tuple[type[nn.Module], ...] = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.LPPool1d, nn.LPPool2d, nn.LPPool3d),
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
    *(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
    *(nn.LocalResponseNorm, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    *(nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold, nn.Fold),
)
_FORMS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    BatchNorm: LaneBatchNorm,
    nn.LSTM: LaneRecurrent,
    nn.GRU: LaneRecurrent,
    nn.RNN: LaneRecurrent,
    nn.MultiheadAttention: LaneAttention,
    _WeightNorm: LaneWeightNorm,
    nn.Embedding: LaneEmbedding,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), LaneConvolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), LaneConvolution),
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm), LaneNorm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), LaneNorm),
    **dict.fromkeys(_BY_EXAMPLE, LaneExamples),
    Dropout: lambda layer: LaneDropout(layer.shape),
}
# The leading axes of their input whose elements are dropped one by one, None for all, and whether SELU's way.
_DROPOUTS: dict[type[nn.Module], tuple[int | None, bool]] = {
    nn.Dropout: (None, False),
    nn.Dropout1d: (2, False),
    nn.Dropout2d: (2, False),
    nn.Dropout3d: (2, False),
    nn.AlphaDropout: (None, True),
    nn.FeatureAlphaDropout: (2, True),
}
# The axes of a batch, where torch would take fewer as an example without one.
_DIMENSIONS: dict[type[nn.Module], int] = {nn.Dropout1d: 3, nn.Dropout2d: 4, nn.Dropout3d: 5}


def _form(layer: nn.Module) -> nn.Module | None:
    """Return what stands for a layer; a subclass with a forward pass of its own is not taken for its parent."""
    match layer:
        case nn.TransformerEncoderLayer():
            # Else torch takes a fused kernel in evaluation.
            layer.activation_relu_or_gelu = 0
        case nn.TransformerEncoder():
            layer.use_nested_tensor = False
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d():
            if type(layer) in _BATCH_NORMS:
                return LaneBatchNorm(layer) if layer.track_running_stats else LaneUntrackedBatchNorm(layer)
    # The places of maxima are a second result.
    make = None if getattr(layer, "return_indices", False) else _FORMS.get(type(layer))
    return None if make is None else make(layer)


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _refusal(layer: nn.Module) -> str | None:
    """Return why a layer is known not to be a lane's."""
    match layer:
        case nn.Embedding(max_norm=float() | int()):
            return "writes to its weight in forward (max_norm)"
        case nn.Embedding(sparse=True):
            return "has sparse gradients"
        case nn.RNNBase(proj_size=size) if size:
            return "has projections (proj_size)"
        case nn.MultiheadAttention() if layer.bias_k is not None or layer.add_zero_attn:
            return "has keys and values of its own (add_bias_kv, add_zero_attn)"
        case _BatchNorm(momentum=None, track_running_stats=True):
            return "takes a cumulative average (momentum is None)"
        case _InstanceNorm(track_running_stats=True):
            return "writes its running statistics in forward (track_running_stats)"
        case _SpectralNorm():
            return "writes its estimate of the singular vectors in forward (spectral_norm)"
        case _DropoutNd(p=1):
            return "drops everything (p is 1)"
        case nn.RReLU():
            return "draws random numbers of its own"
    return None


def _take_over(layer: nn.Module, form: nn.Module) -> None:
    """Give a form all that a layer has: parameters, buffers, parts, options and hooks."""
    vars(form).update({**vars(layer), "_buffers": dict(layer._buffers), "_modules": dict(layer._modules)})


def _put(network: nn.Module, forms: dict[int, nn.Module]) -> None:
    """Put forms, by the layers' ids, wherever the layers are: one may be in several places."""
    for parent in list(network.modules()):
        for name, layer in parent._modules.items():
            parent._modules[name] = forms.get(id(layer), layer)


def _calls(network: nn.Module, drops: dict[str, nn.Module], example: Tensor | None) -> dict[str, list[int]]:
    """Return, for each dropout layer, the elements of the masks of its calls in one forward pass."""
    if example is None:
        raise CannotLaneError(next(iter(drops)), "has a mask whose shape only an example shows")
    sizes: dict[str, list[int]] = {path: [] for path in drops}

    def count(path: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        axes, x = _DROPOUTS[type(layer)][0], inputs[0]
        if x.dim() != _DIMENSIONS.get(type(layer), x.dim()):
            raise CannotLaneError(path, f"drops channels of {list(x.shape)}, which has no batch axis")
        sizes[path].append(math.prod(_mask_shape(x, axes)))

    hooks = [layer.register_forward_pre_hook(partial(count, path)) for path, layer in drops.items()]
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    mode = detect_fake_mode(list(state.values())) or FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.no_grad():
        shapes = {
            name: torch.empty(value.shape, dtype=value.dtype, device=value.device) for name, value in state.items()
        }
        blank = torch.empty(example.shape, dtype=example.dtype, device=example.device)
        functional_call(network.train(), shapes, (blank,))
    for hook in hooks:
        hook.remove()
    return sizes


def _dropout(path: str, layer: _DropoutNd, calls: dict[str, list[int]], example: Tensor | None) -> nn.Module:
    sizes = calls.get(path)
    if not sizes or example is None:
        # It drops nothing, or is never called.
        return nn.Identity()
    batch = len(example)
    if any(size % batch for size in sizes):
        raise CannotLaneError(
            path, f"has a mask of {sizes} elements, which are not a whole number for each of {batch} examples"
        )
    axes, alpha = _DROPOUTS[type(layer)]
    return LaneDropoutCalls(layer.p, [size // batch for size in sizes], axes, alpha)


def _mask_shape(x: Tensor, axes: int | None) -> tuple[int, ...]:
    return tuple(x.shape) if axes is None else (*x.shape[:axes], *(1,) * (x.dim() - axes))


def _additive(mask: Tensor, scores: Tensor) -> Tensor:
    """Return a mask as what is added to scores; of a mask of booleans, True is what gets no attention."""
    if mask.dtype is not torch.bool:
        return mask.to(scores.dtype)
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -math.inf)


def _check_parameters(network: nn.Module) -> None:
    parameters = list(network.named_parameters())
    for name, parameter in parameters:
        if isinstance(parameter, UninitializedParameter):
            raise CannotLaneError(name, "has no shape before the first forward pass")
        if not parameter.is_floating_point():
            raise CannotLaneError(name, f"is of {parameter.dtype}, which is no floating-point type")
        if not parameter.requires_grad:
            raise CannotLaneError(name, "is frozen (requires_grad is False)")
    if not parameters:
        raise CannotLaneError("", "has no parameters to train")


def _try_lanes(network: nn.Module, example: Tensor) -> None:
    """Trace lanes, forward and in training backward; raises `CannotLaneError`, or whatever the network does."""

    def stacked(like: Tensor) -> Tensor:
        return torch.empty(2, *like.shape, dtype=like.dtype, device=like.device)

    training, batch = network.training, len(example)
    parameters = {name: stacked(value).requires_grad_(training) for name, value in network.named_parameters()}
    x = stacked(example)
    tensors = {**parameters, **{name: stacked(value) for name, value in network.named_buffers()}, "its input": x}
    for path, layer in network.named_modules():
        if isinstance(layer, LaneDropout):
            tensors[f"{path}.keep"] = stacked(layer.keep.expand(batch, *layer.shape))
    versions = {name: value._version for name, value in tensors.items()}
    attributes, draws = _attributes(network), _draws()

    def one(tensors: dict[str, Tensor]) -> Tensor:
        given = dict(tensors)
        outputs = functional_call(network, given, (given.pop("its input"),))
        for name, value in given.items():
            if value is not tensors[name]:
                raise CannotLaneError(name, "is replaced in forward")
        if not isinstance(outputs, Tensor):
            raise CannotLaneError("", f"returns {type(outputs).__name__}, not one tensor [batch, ...]")
        if not outputs.dim() or outputs.shape[0] != batch:
            raise CannotLaneError("", f"returns the shape {list(outputs.shape)} for {batch} examples, not [batch, ...]")
        return outputs

    with lane_operations(), torch.set_grad_enabled(training):
        outputs: Tensor = vmap(one)(tensors)
    for name, value in tensors.items():
        if value._version != versions[name]:
            raise CannotLaneError(name, "is written to in forward")
    for place, what in _attributes(network).items():
        if place not in attributes or not _same(attributes[place], what):
            raise CannotLaneError(place[0], f"changes its attribute {place[1]!r} in forward")
    if _draws() != draws:
        raise CannotLaneError("", "draws from Python's or NumPy's random numbers")
    if not training:
        return
    gradients = torch.autograd.grad(outputs.sum(), list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            raise CannotLaneError(name, "has no effect on the outputs")


def _attributes(network: nn.Module) -> dict[tuple[str, str], tuple[object, int]]:
    """Return what modules hold, and the lengths of their collections; lane forms may change theirs."""
    held = {}
    for path, layer in network.named_modules():
        if type(layer).__module__ != __name__:
            for name, value in vars(layer).items():
                held[path, name] = (value, len(value) if isinstance(value, (list, dict, set)) else 0)
    return held


def _same(one: tuple[object, int], other: tuple[object, int]) -> bool:
    return one[0] is other[0] and one[1] == other[1]


def _draws() -> tuple[Any, ...]:
    """Return where the global generators of Python and NumPy stand."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), name, keys.tobytes(), rest  # type: ignore[union-attr]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep warnings and logs to itself, and leave the global generators as they were."""
    own, numpy_s, logger = random.getstate(), np.random.get_state(), logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled
        random.setstate(own)
        np.random.set_state(numpy_s)


@contextlib.contextmanager
def _followed(network: nn.Module, trail: list[str]) -> Iterator[None]:
    """Keep the paths of the modules whose forward passes are under way; one that fails stays the last."""
    norms: set[str] = set()

    def enter(path: str, layer: nn.Module, inputs: Any) -> None:
        trail.append(path)
        if isinstance(layer, LaneBatchNorm):
            if path in norms:
                raise CannotLaneError(path, "is called more than once in a forward pass")
            norms.add(path)

    def leave(path: str, layer: nn.Module, inputs: Any, outputs: Any) -> None:
        while trail and trail.pop() != path:
            pass

    hooks = []
    for path, layer in network.named_modules():
        hooks.append(layer.register_forward_pre_hook(partial(enter, path)))
        hooks.append(layer.register_forward_hook(partial(leave, path)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _words(error: BaseException) -> str:
    """Return in some words why a network's forward pass failed under `vmap`."""
    try:
        text = " ".join(str(error).split())
    # The error is another's, and so is its text.
    except Exception:
        text = ""
    operator = re.search(r"aten::\w+", text)
    match error:
        case DataDependentOutputException():
            return "takes decisions on values (data-dependent control flow)"
        case DynamicOutputShapeException():
            return "has shapes that depend on values"
        case SystemExit():
            return "ends the process (SystemExit)"
        case RuntimeError() if ".item()" in text or "data-dependent control flow" in text:
            return "takes decisions on values (data-dependent control flow)"
        case RuntimeError() if "dynamic shape" in text:
            return "has shapes that depend on values"
        case RuntimeError() if "random operation" in text:
            return "draws random numbers of its own"
        case RuntimeError() if "data pointer" in text:
            return "hands values to other code (NumPy, pointers)"
        case RuntimeError() if operator and ("fallback" in text or "not yet support" in text):
            return f"uses {operator.group()}, which has no batching rule"
    return f"raises {type(error).__name__}" + (f" ({text[:_MOST_TEXT]})" if text else "")
