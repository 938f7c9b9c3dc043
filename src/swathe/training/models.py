"""The networks of recipes: plain `nn.Sequential`s whose randomness comes from explicit generators."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swathe.errors import bad_value
from swathe.training.recipe import CNN, LSTM, MLP, MODELS, DeepMLP, Model, Own, ResNet, SequenceShape, Transformer
from swathe.training.streams import dropout_threshold, keeps

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
# Standard deviations of `small_normal`, and of `gpt2`.
_SMALL, _GPT2 = 0.01, 0.02

Layer = tuple[str, nn.Module]
Module = TypeVar("Module", bound=nn.Module)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) over all axes but the second, `[batch, features, ...]`.

    As torch's with its default momentum, without its counter of batches; the running statistics are plain buffers,
    which a caller may replace.
    """

    momentum = 0.1
    eps = 1e-5
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        state = (self.running_mean, self.running_var, self.weight, self.bias)
        return F.batch_norm(x, *state, self.training, self.momentum, self.eps)


class Masked(nn.Module):
    """A layer that drops by a mask, which is drawn before each step of training."""

    def draw(self, batch: int, words: Tensor) -> None:
        """Draw the next step's mask from its words; see `streams`."""
        raise NotImplementedError


class Dropout(Masked):
    """Inverted dropout (Srivastava et al. 2014) by a mask that is drawn before the step, so that `forward` is pure.

    `shape` is one example's: `[features]`, or `[channels, 1, 1]` to drop whole channels of a convolution, whose
    neighbouring pixels say the same (Tompson et al. 2015).
    """

    mask: Tensor

    def __init__(self, p: float, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.p = p
        self.shape = shape
        self.register_buffer("mask", torch.ones(1, *shape), persistent=False)

    def draw(self, batch: int, words: Tensor) -> None:
        """Draw the mask `[batch, *shape]` of the next step: 0 with probability p, else 1 / (1 - p); see `streams`."""
        keep = keeps(words, dropout_threshold(self.p), (batch, *self.shape))
        self.mask = keep.to(torch.get_default_dtype()) * (1 / (1 - self.p))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask if self.training else x


class Drawn(nn.Module):
    """A layer of several weights, or of one that is no matrix, which draws them itself."""

    def draw(self, init: str, generator: torch.Generator) -> None:
        """Draw the weights as `initialise` says."""
        raise NotImplementedError


class BranchEnd(nn.Linear):
    """A linear layer whose outputs are added to what skips it; `branches` is how often that is done in a network."""

    def __init__(self, inputs: int, outputs: int, branches: int) -> None:
        super().__init__(inputs, outputs, device="meta")
        self.branches = branches


class Residual(nn.Sequential):
    """A sequence in which some runs of layers F are added to what they are given: x + F(x) (He et al. 2016, eq. 1).

    `skips` has the name of each run's last layer by the name of its first. Nothing is applied after the addition, so
    that the skips are an identity from the first to the last (He et al. 2016, "Identity Mappings", section 2).
    """

    def __init__(self, layers: OrderedDict[str, nn.Module], skips: Mapping[str, str]) -> None:
        super().__init__(layers)
        self._skips = dict(skips)

    def forward(self, x: Tensor) -> Tensor:
        given, last = x, None
        for name, layer in self.named_children():
            if name in self._skips:
                given, last = x, self._skips[name]
            x = layer(x)
            if name == last:
                x = given + x
        return x


def build(
    model: Model,
    inputs: int,
    outputs: int,
    image_shape: tuple[int, int, int] | None,
    dropout: float,
    generator: torch.Generator | None,
    sequence: SequenceShape | None = None,
) -> nn.Module:
    """Build a network `[batch, inputs] -> [batch, outputs]` on the CPU, initialised from `generator` alone.

    Without a generator the weights are memory that nobody has written to. `image_shape` is [channels, height, width]
    of an example, None for a table; `sequence` is that of a text or of a series, and where it has a target at every
    step, the outputs are `[batch, length, outputs]`. The layers' names, and so their keys in the state, do not depend
    on norm, activation, dropout and residual. Raises `BadInputError` for convolutions without an image, or with more
    poolings than its sides allow, and for a network of steps without an order. One of the user's own is made by
    `training.own`.
    """
    skips: dict[str, str] = {}
    match model:
        case CNN():
            layers = _cnn(model, _needed(model, image_shape), outputs, dropout)
        case ResNet():
            # It is made of the layers of this module.
            from swathe.training.resnet import residual_network

            layers = residual_network(model, _needed(model, image_shape), outputs, dropout)
        case LSTM() | Transformer():
            return _initialised(_sequence_network(model, outputs, image_shape, dropout, sequence), model, generator)
        case Own():
            # It is made fit for lanes by what is made of this module.
            from swathe.training.own import own_network

            return own_network(model, inputs, outputs, image_shape, generator, sequence)
        case MLP() | DeepMLP():
            layers = [*_dense(model, model.hidden, inputs, dropout)]
            layers.append(("output", linear([inputs, *model.hidden][-1], outputs)))
            skips = _skips(model.hidden, dropout) if model.residual else {}
        case _:
            raise bad_value("model.name", model.name, ", ".join(MODELS))
    network = Residual(OrderedDict(layers), skips) if skips else nn.Sequential(OrderedDict(layers))
    return _initialised(network, model, generator)


def initialise(network: nn.Module, init: str, generator: torch.Generator) -> None:
    """Draw the weights of all layers, in order; biases are 0 but for torch's default.

    `default`: weight and bias uniform within 1 / sqrt(fan in), as torch does. `xavier_*`: Glorot & Bengio 2010.
    `he_*`: He et al. 2015, for ReLU. `orthogonal`: Saxe et al. 2014. `small_normal`: standard deviation 0.01. `gpt2`:
    0.02, divided by the square root of the number of skips in layers that end before one (Radford et al. 2019, section
    2.3). Vectors of tokens and positions, see `draw_vectors`, have no fan in.
    """
    for layer in network.modules():
        match layer:
            case nn.Linear() | nn.Conv2d():
                _draw_layer(layer, init, generator)
            case nn.Embedding():
                draw_vectors(layer.weight, init, generator)
            case Drawn():
                layer.draw(init, generator)


def draw_weight(weight: Tensor, init: str, generator: torch.Generator, *, branches: int = 1) -> None:
    """Draw a weight `[outputs, inputs, ...]` by any `init` but `default`, as `initialise` says."""
    match init:
        case "xavier_uniform":
            nn.init.xavier_uniform_(weight, generator=generator)
        case "xavier_normal":
            nn.init.xavier_normal_(weight, generator=generator)
        case "he_uniform":
            nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
        case "he_normal":
            nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        case "orthogonal":
            nn.init.orthogonal_(weight, generator=generator)
        case "small_normal":
            nn.init.normal_(weight, std=_SMALL, generator=generator)
        case "gpt2":
            nn.init.normal_(weight, std=_GPT2 * branches**-0.5, generator=generator)
        case _:
            raise bad_value("model.init", init, "one of swathe.training.recipe.INITS")


def draw_vectors(weight: Tensor, init: str, generator: torch.Generator) -> None:
    """Draw vectors that are looked up `[count, width]`: with the deviation of `init` where it names one, else 1.

    1 is what torch gives an `nn.Embedding`.
    """
    nn.init.normal_(weight, std={"small_normal": _SMALL, "gpt2": _GPT2}.get(init, 1.0), generator=generator)


def _draw_layer(layer: nn.Linear | nn.Conv2d, init: str, generator: torch.Generator) -> None:
    weight, bias = layer.weight, layer.bias
    if init != "default":
        draw_weight(weight, init, generator, branches=layer.branches if isinstance(layer, BranchEnd) else 1)
        # A convolution before a normalisation, which would subtract it again, may have none.
        if bias is not None:
            nn.init.zeros_(bias)
        return
    bound = weight[0].numel() ** -0.5
    nn.init.uniform_(weight, -bound, bound, generator=generator)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound, generator=generator)


def _initialised(network: nn.Sequential, model: Model, generator: torch.Generator | None) -> nn.Sequential:
    if generator is not None:
        initialise(network, model.init, generator)
    return network


def _sequence_network(
    model: LSTM | Transformer,
    outputs: int,
    image_shape: tuple[int, int, int] | None,
    dropout: float,
    sequence: SequenceShape | None,
) -> nn.Sequential:
    # They are made of the layers of this module.
    from swathe.training.lstm import recurrent_network
    from swathe.training.transformer import transformer_network

    if isinstance(model, LSTM):
        return recurrent_network(model, sequence, image_shape, outputs, dropout)
    return transformer_network(model, sequence, image_shape, outputs, dropout)


def dropouts(network: nn.Module) -> list[Masked]:
    """Return the layers whose masks must be drawn before each step of training."""
    return [layer for layer in network.modules() if isinstance(layer, Masked)]


def activation(model: Model) -> nn.Module:
    """Return a model's activation."""
    return _ACTIVATIONS[model.activation]()


def normalisation(name: str, model: Model, features: int, *, image: bool) -> list[Layer]:
    """Return a model's normalisation of `[batch, features]`, or of an `image` `[batch, features, height, width]`.

    No layer for `none`, else one of the given name: `batch` is that of `BatchNorm`, `layer` of Ba et al. 2016, `group`
    of Wu & He 2018 with `model.groups`. Each has a weight and a bias a feature.
    """
    match model.norm:
        case "batch":
            return [(name, BatchNorm(features))]
        case "layer" if image:
            # One group is layer normalisation over channels, height and width, with a weight a channel.
            return [(name, nn.GroupNorm(1, features))]
        case "layer":
            return [(name, nn.LayerNorm(features))]
        case "group":
            return [(name, nn.GroupNorm(model.groups, features))]
    return []


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a fully connected layer whose weights `initialise` draws."""
    return empty(nn.Linear(inputs, outputs, device="meta"))


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, bias: bool = True) -> nn.Conv2d:
    """Return a convolution with a square kernel of odd size whose weights `initialise` draws.

    Of a side it makes side / stride, rounded up.
    """
    return empty(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias, device="meta"))


def empty(layer: Module) -> Module:
    """Give a layer that was made on no device its memory; `initialise` draws its weights.

    On a device torch would draw them first, from its global stream. Its own `to_empty` imports all of SymPy.
    """
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, nn.Parameter(torch.empty(parameter.shape)))
    return layer


def _needed(model: Model, image_shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    if image_shape is None:
        raise bad_value("model.name", model.name, "mlp, deep_mlp, as the data is no image")
    return image_shape


def _dense(model: Model, hidden: list[int], inputs: int, dropout: float) -> Iterable[Layer]:
    for index, (fan_in, width) in enumerate(zip([inputs, *hidden], hidden, strict=False), start=1):
        yield f"linear{index}", linear(fan_in, width)
        yield from normalisation(f"norm{index}", model, width, image=False)
        yield f"activation{index}", activation(model)
        if dropout:
            yield f"dropout{index}", Dropout(dropout, (width,))


def _skips(hidden: list[int], dropout: float) -> dict[str, str]:
    """Return the runs of `_dense` that are skipped: each hidden layer but the first whose width is that before it."""
    last = "dropout" if dropout else "activation"
    pairs = enumerate(itertools.pairwise(hidden), start=2)
    return {f"linear{index}": f"{last}{index}" for index, (before, width) in pairs if before == width}


def _cnn(model: CNN, image_shape: tuple[int, int, int], outputs: int, dropout: float) -> list[Layer]:
    layers: list[Layer] = [("image", nn.Unflatten(1, image_shape))]
    fan_in, height, width = image_shape
    for index, channels in enumerate(model.channels, start=1):
        layers.append((f"conv{index}", convolution(fan_in, channels)))
        layers += normalisation(f"conv_norm{index}", model, channels, image=True)
        layers.append((f"conv_activation{index}", activation(model)))
        layers.append((f"pool{index}", nn.MaxPool2d(2)))
        if dropout:
            layers.append((f"conv_dropout{index}", Dropout(dropout, (channels, 1, 1))))
        fan_in, height, width = channels, height // 2, width // 2
        if min(height, width) < 1:
            allowed = f"fewer than {index} entries for images of {image_shape[1]}x{image_shape[2]}"
            raise bad_value("model.channels", model.channels, allowed)
    features = fan_in * height * width
    layers.append(("flatten", nn.Flatten()))
    layers += _dense(model, model.hidden, features, dropout)
    layers.append(("output", linear([features, *model.hidden][-1], outputs)))
    return layers
