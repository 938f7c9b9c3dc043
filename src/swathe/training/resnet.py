"""Residual networks (He et al. 2016, "Deep Residual Learning for Image Recognition"), for ImageNet and small images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from swathe.training.models import Dropout, Layer, activation, convolution, linear, normalisation
from swathe.training.recipe import CifarResNet, ResNet

# Outputs of a bottleneck for each channel of its 3x3 convolution.
_EXPANSION = 4
# Blocks of each stage (table 1).
_STAGES = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}

Branch = Callable[[ResNet, int, int, int], nn.Sequential]


class Block(nn.Module):
    """A residual block: activation(F(x) + x), x as the shortcut gives it (equations 1 and 2)."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.activation(self.branch(x) + self.shortcut(x))
        return outputs


class PaddedShortcut(nn.Module):
    """An identity without parameters (option A of section 4.1): every `stride`th pixel, and zeros for new channels."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def residual_network(
    model: ResNet, image_shape: tuple[int, int, int], outputs: int, dropout: float
) -> list[tuple[str, nn.Module]]:
    """Return the layers of a residual network `[batch, channels * height * width] -> [batch, outputs]`.

    For ImageNet: a stem of a 7x7 convolution and 3x3 max-pooling, each with stride 2, and four stages with projections
    as shortcuts where shapes change (option B of section 4.1); resnet50 of bottlenecks, whose stride is in the 3x3
    convolution (as torchvision has it; in the paper it is in the first 1x1). For small images: a 3x3 stem and three
    stages of n blocks each, with `PaddedShortcut`. Every stage but the first halves the sides, rounded up.

    Convolutions have a bias only without norm. With dropout, whole channels of the pooled features are dropped.
    """
    blocks = ((model.depth - 2) // 6,) * 3 if isinstance(model, CifarResNet) else _STAGES[model.name]
    branch, expansion = (_bottleneck, _EXPANSION) if model.name == "resnet50" else (_basic, 1)
    layers: list[Layer] = [("image", nn.Unflatten(1, image_shape)), ("stem", _stem(model, image_shape[0]))]
    inputs = model.width
    for stage, count in enumerate(blocks):
        width, stride = model.width * 2**stage, 1 if stage == 0 else 2
        channels = (inputs, width, width * expansion)
        layers.append((f"stage{stage + 1}", _stage(model, branch, count, channels, stride)))
        inputs = width * expansion
    layers += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    if dropout:
        layers.append(("dropout", Dropout(dropout, (inputs,))))
    return [*layers, ("output", linear(inputs, outputs))]


def _stem(model: ResNet, inputs: int) -> nn.Sequential:
    small = isinstance(model, CifarResNet)
    layers = _normalised("", model, inputs, model.width, *((3, 1) if small else (7, 2)))
    layers.append(("activation", activation(model)))
    if not small:
        layers.append(("pool", nn.MaxPool2d(3, 2, 1)))
    return nn.Sequential(OrderedDict(layers))


def _stage(model: ResNet, branch: Branch, count: int, channels: tuple[int, int, int], stride: int) -> nn.Sequential:
    """Return `count` blocks with `channels` (inputs, within a block, outputs), the stride in the first."""
    inputs, width, outputs = channels
    blocks: list[Layer] = []
    for index in range(1, count + 1):
        shortcut = _shortcut(model, inputs, outputs, stride)
        block = Block(branch(model, inputs, width, stride), shortcut, activation(model))
        blocks.append((f"block{index}", block))
        inputs, stride = outputs, 1
    return nn.Sequential(OrderedDict(blocks))


def _basic(model: ResNet, inputs: int, width: int, stride: int) -> nn.Sequential:
    layers = [
        *_normalised("1", model, inputs, width, 3, stride),
        ("activation1", activation(model)),
        *_normalised("2", model, width, width),
    ]
    return nn.Sequential(OrderedDict(layers))


def _bottleneck(model: ResNet, inputs: int, width: int, stride: int) -> nn.Sequential:
    layers = [
        *_normalised("1", model, inputs, width, 1),
        ("activation1", activation(model)),
        *_normalised("2", model, width, width, 3, stride),
        ("activation2", activation(model)),
        *_normalised("3", model, width, width * _EXPANSION, 1),
    ]
    return nn.Sequential(OrderedDict(layers))


def _shortcut(model: ResNet, inputs: int, outputs: int, stride: int) -> nn.Module:
    if (inputs, stride) == (outputs, 1):
        return nn.Identity()
    if isinstance(model, CifarResNet):
        return PaddedShortcut(outputs - inputs, stride)
    return nn.Sequential(OrderedDict(_normalised("", model, inputs, outputs, 1, stride)))


def _normalised(suffix: str, model: ResNet, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[Layer]:
    """Return a convolution and its norm; a bias before a norm would be subtracted again."""
    conv = convolution(inputs, outputs, kernel, stride, bias=model.norm == "none")
    return [(f"conv{suffix}", conv), *normalisation(f"norm{suffix}", model, outputs, image=True)]
