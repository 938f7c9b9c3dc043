"""Layers whose state a lane must own: the forms of `models.BatchNorm` and `models.Dropout` that `vmap` can carry.

Each is written for one lane; `vmap` gives its tensors the leading axis [K]. None of them draws or writes anything.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swathe.training.models import BatchNorm, Dropout

# As in `models.BatchNorm`.
BATCH_NORM_MOMENTUM = 0.1
_EPS = 1e-5


class LaneBatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) that leaves its batch's statistics to be taken by the caller.

    After a forward pass in training mode, `statistics` is the batch's mean and its unbiased variance `[features]`,
    which the running ones are to be moved towards.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.statistics: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training:
            axes = [axis for axis in range(x.dim()) if axis != 1]
            # In double precision, as torch's kernel has it: activations whose squares overflow are normalised too.
            variance, mean = torch.var_mean(x.double(), axes, correction=0)
            count = x.numel() // x.shape[1]
            unbiased = variance.detach() * (count / (count - 1))
            mean = mean.to(x.dtype)
            self.statistics = (mean.detach(), unbiased.to(x.dtype))
        shape = (-1,) + (1,) * (x.dim() - 2)
        scale = self.weight * torch.rsqrt(variance + _EPS).to(x.dtype)
        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)


class LaneDropout(nn.Module):
    """Inverted dropout by a mask from outside: `keep` `[batch, *shape]` of 0 and 1, `scale` the lane's 1 / (1 - p)."""

    keep: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("keep", torch.ones(1, *shape, dtype=torch.bool), persistent=False)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.keep.to(x.dtype) * self.scale) if self.training else x


def replace_layers(network: nn.Module) -> None:
    """Put lane forms in the place of a network's `BatchNorm` and `Dropout` layers; their state's names stay."""
    for name, layer in list(network.named_modules()):
        match layer:
            case BatchNorm():
                network.set_submodule(name, LaneBatchNorm(layer.weight.numel()))
            case Dropout():
                network.set_submodule(name, LaneDropout(layer.shape))
