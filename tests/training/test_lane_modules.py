"""Lanes of any module against plain networks of torch's own layers, and the modules that cannot be lanes."""

from __future__ import annotations

import copy
import math
import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrizations

from swathe.training.lane_graph import traced
from swathe.training.lane_modules import (
    CannotLaneError,
    LaneBatchNorm,
    LaneDropout,
    lane_operations,
    replace_layers,
    why_not_lane,
)
from swathe.training.models import build
from swathe.training.recipe import MLP

LANES, BATCH, CLASSES, STEPS, LR = 3, 4, 3, 3, 0.1
Tensors = list[Tensor]


class Calls(nn.Module):
    """A network whose forward pass is a function of it and its input."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Lanes:
    """K lanes of a plain network, and all that a step of SGD on them needs."""

    def __init__(self, networks: list[nn.Module], example: Tensor) -> None:
        self.network = copy.deepcopy(networks[0])
        replace_layers(self.network, example)
        states = [dict(network.named_parameters()) | dict(network.named_buffers()) for network in networks]

        def stacked(names: list[str]) -> Tensors:
            return [torch.stack([state[name].detach() for state in states]) for name in names]

        layers = dict(self.network.named_modules())
        self.norms = [layer for layer in layers.values() if isinstance(layer, LaneBatchNorm)]
        self.dropouts = {name: layer for name, layer in layers.items() if isinstance(layer, LaneDropout)}
        self.names = [name for name, _ in self.network.named_parameters()]
        drops = tuple(f"{name}." for name in self.dropouts)
        self.buffer_names = [name for name, _ in self.network.named_buffers() if not name.startswith(drops or "-")]
        self.parameters, self.buffers = stacked(self.names), stacked(self.buffer_names)

    def masks(self, generator: torch.Generator) -> Tensors:
        """Draw keep `[K, batch, *shape]` for each dropout layer, and return its scale `[K]` after it."""
        drawn = []
        for layer in self.dropouts.values():
            p = 0.5 if layer.p is None else layer.p
            drawn += [
                torch.rand(LANES, BATCH, *layer.shape, generator=generator) >= p,
                torch.full((LANES,), 1 / (1 - p), dtype=self.parameters[0].dtype),
            ]
        return drawn

    def outputs(self, parameters: Tensors, buffers: Tensors, masks: Tensors, x: Tensor) -> tuple[Tensor, Tensors]:
        names = [*self.names, *self.buffer_names]
        names += [f"{name}.{what}" for name in self.dropouts for what in ("keep", "scale")][: len(masks)]

        def one(tensors: Tensors, x: Tensor) -> tuple[Tensor, Tensors]:
            outputs = functional_call(self.network, dict(zip(names, tensors, strict=True)), (x,))
            return outputs, [value for norm in self.norms for value in norm.statistics or ()]

        with lane_operations():
            outputs, statistics = vmap(one)([*parameters, *buffers, *masks], x)
        return outputs, statistics

    def gradients(self, parameters: Tensors, buffers: Tensors, masks: Tensors, x: Tensor, y: Tensor) -> Any:
        """Return gradients and the statistics of batch norms: what a program is traced from."""
        self.network.train()
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in parameters]
            outputs, statistics = self.outputs(leaves, buffers, masks, x)
            logs = F.log_softmax(outputs, dim=2)
            loss = -logs.gather(2, y.unsqueeze(2)).mean((1, 2))
            return torch.autograd.grad(loss.sum(), leaves), statistics

    def step(self, x: Tensor, y: Tensor, masks: Tensors) -> None:
        gradients, statistics = self.gradients(self.parameters, self.buffers, masks, x, y)
        self.parameters = [p - LR * g for p, g in zip(self.parameters, gradients, strict=True)]
        state = dict(zip(self.buffer_names, self.buffers, strict=True))
        moved = iter(statistics)
        for name, norm in self.network.named_modules():
            if isinstance(norm, LaneBatchNorm):
                for what in ("running_mean", "running_var"):
                    running = state[f"{name}.{what}"]
                    state[f"{name}.{what}"] = running * (1 - norm.momentum) + next(moved) * norm.momentum
        self.buffers = list(state.values())

    def evaluated(self, x: Tensor) -> Tensor:
        self.network.eval()
        return self.outputs(self.parameters, self.buffers, [], x)[0]


def vectors(draw: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.randn(LANES, BATCH, 6, generator=draw, dtype=dtype)


def images(draw: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.randn(LANES, BATCH, 2, 6, 6, generator=draw, dtype=dtype)


def volumes(draw: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.randn(LANES, BATCH, 2, 4, 4, 4, generator=draw, dtype=dtype)


def sequences(draw: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.randn(LANES, BATCH, 5, 6, generator=draw, dtype=dtype)


def tokens(draw: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.randint(0, 7, (LANES, BATCH, 5), generator=draw)


def mlp(norm: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), norm(), nn.Tanh(), nn.Linear(5, CLASSES))


def cnn(*norms: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), *norms, nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, CLASSES)
    )


def recurrent(layer: nn.RNNBase) -> nn.Module:
    width = layer.hidden_size * (2 if layer.bidirectional else 1)
    return Calls(
        lambda self, x: self.output(self.recurrent(x)[0].mean(1 if layer.batch_first else 0)),
        recurrent=layer,
        output=nn.Linear(width, CLASSES),
    )


def last_state(layer: nn.RNNBase, start: bool = False) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        count = layer.num_layers * (2 if layer.bidirectional else 1)
        zero = x.mean((1, 2))[None, :, None].expand(count, -1, layer.hidden_size)
        hx = None if not start else (zero, 2 * zero) if isinstance(layer, nn.LSTM) else zero
        end = self.recurrent(x, hx)[1]
        parts = end if isinstance(end, tuple) else (end,)
        result: Tensor = self.output(torch.stack(parts).mean((0, 1)))
        return result

    return Calls(forward, recurrent=layer, output=nn.Linear(layer.hidden_size, CLASSES))


def transformer(batch_first: bool = True, **options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=batch_first, **options)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self: Any, x: Tensor) -> Tensor:
        outputs = self.encoder(x) if batch_first else self.encoder(x.transpose(0, 1)).transpose(0, 1)
        result: Tensor = self.output(outputs.mean(1))
        return result

    return Calls(forward, encoder=encoder, output=nn.Linear(6, CLASSES))


def attention(**options: Any) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
        padding = torch.zeros(len(x), 5, dtype=torch.bool)
        padding[:, -1] = True
        attended, weights = self.attention(x, x, x, attn_mask=causal, key_padding_mask=padding)
        result: Tensor = self.output(attended.mean(1)) + weights.square().sum((1, 2))[:, None]
        return result

    layer = nn.MultiheadAttention(6, 2, batch_first=True, **options)
    return Calls(forward, attention=layer, output=nn.Linear(6, CLASSES))


def cross_attention() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        mask = torch.linspace(0, 1, 15).view(1, 3, 5).expand(2 * len(x), 3, 5)
        query, keys, values = x[:, :3], x[..., :4], x[..., 1:]
        attended = self.attention(query, keys, values, need_weights=False, attn_mask=mask)[0]
        result: Tensor = self.output(attended.mean(1))
        return result

    layer = nn.MultiheadAttention(6, 2, batch_first=True, kdim=4, vdim=5)
    return Calls(forward, attention=layer, output=nn.Linear(6, CLASSES))


def causal_kernel() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (2, 3)).transpose(1, 2) for part in self.project(x).chunk(3, dim=2))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        result: Tensor = self.output(attended.transpose(1, 2).flatten(2).mean(1))
        return result

    return Calls(forward, project=nn.Linear(6, 18), output=nn.Linear(6, CLASSES))


def embedding(**options: Any) -> nn.Module:
    return Calls(
        lambda self, x: self.output(self.embedding(x).mean(1)),
        embedding=nn.Embedding(7, 6, **options),
        output=nn.Linear(6, CLASSES),
    )


def residual() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(inplace=True))
    return Calls(
        lambda self, x: self.output((x + self.block(x)).flatten(1)), block=block, output=nn.Linear(72, CLASSES)
    )


def tied() -> nn.Module:
    network = Calls(
        lambda self, x: self.decode(torch.tanh(self.mix(self.embed(x).mean(1))))[:, :CLASSES],
        embed=nn.Embedding(7, 6),
        mix=nn.Linear(6, 6),
        decode=nn.Linear(6, 7),
    )
    network.decode.weight = network.embed.weight  # type: ignore[union-attr, assignment]
    return network


def shared_layer() -> nn.Module:
    norm = nn.LayerNorm(6)
    return nn.Sequential(nn.Linear(6, 6), norm, nn.Tanh(), norm, nn.Linear(6, CLASSES))


def weight_normed(dim: int | None) -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5), dim=dim), nn.Tanh(), nn.Linear(5, CLASSES))  # type: ignore[arg-type]


def constants() -> nn.Module:
    network = Calls(lambda self, x: self.output(x * self.scale + self.place), output=nn.Linear(6, CLASSES))
    network.register_buffer("scale", torch.randn(6))
    network.register_buffer("place", torch.arange(6), persistent=False)
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.Generator, torch.dtype], Tensor]]] = {
    "mlp": (lambda: mlp(nn.Identity), vectors),
    "mlp, batch norm": (lambda: mlp(lambda: nn.BatchNorm1d(5)), vectors),
    "mlp, layer norm": (lambda: mlp(lambda: nn.LayerNorm(5)), vectors),
    "mlp, rms norm": (lambda: mlp(lambda: nn.RMSNorm(5)), vectors),
    "mlp, group norm": (lambda: mlp(lambda: nn.GroupNorm(1, 5)), vectors),
    "mlp, weight norm": (lambda: weight_normed(0), vectors),
    "mlp, weight norm of the whole": (lambda: weight_normed(None), vectors),
    "cnn": (lambda: cnn(), images),
    "cnn, batch norm": (lambda: cnn(nn.BatchNorm2d(4, eps=1e-3, momentum=0.3)), images),
    "cnn, batch norm, not affine": (lambda: cnn(nn.BatchNorm2d(4, affine=False)), images),
    "cnn, batch norm, untracked": (lambda: cnn(nn.BatchNorm2d(4, track_running_stats=False)), images),
    "cnn, group norm": (lambda: cnn(nn.GroupNorm(2, 4)), images),
    "cnn, instance norm": (lambda: cnn(nn.InstanceNorm2d(4)), images),
    "cnn, instance norm, affine": (lambda: cnn(nn.InstanceNorm2d(4, affine=True)), images),
    "batch norm of sequences": (
        lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Flatten(), nn.Linear(30, CLASSES)),
        sequences,
    ),
    "batch norm of volumes": (lambda: nn.Sequential(nn.BatchNorm3d(2), nn.Flatten(), nn.Linear(128, CLASSES)), volumes),
    "residual block": (residual, images),
    "embedding": (embedding, tokens),
    "embedding with padding": (lambda: embedding(padding_idx=2), tokens),
    "embedding by frequency": (lambda: embedding(scale_grad_by_freq=True), tokens),
    "tied weights": (tied, tokens),
    "a layer in two places": (shared_layer, vectors),
    "constant buffers": (constants, vectors),
    "transformer": (transformer, sequences),
    "transformer, time first": (lambda: transformer(False), sequences),
    "transformer, norm first": (lambda: transformer(norm_first=True, activation="gelu"), sequences),
    "attention with masks": (attention, sequences),
    "attention without bias": (lambda: attention(bias=False), sequences),
    "attention of other widths": (cross_attention, sequences),
    "attention by torch's kernel": (causal_kernel, sequences),
    "lstm": (lambda: recurrent(nn.LSTM(6, 4, batch_first=True)), sequences),
    "lstm, two layers": (lambda: recurrent(nn.LSTM(6, 4, 2, batch_first=True)), sequences),
    "lstm, two ways": (lambda: recurrent(nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True)), sequences),
    "lstm without bias": (lambda: recurrent(nn.LSTM(6, 4, bias=False, batch_first=True)), sequences),
    "lstm, last states": (lambda: last_state(nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True)), sequences),
    "lstm, given states": (lambda: last_state(nn.LSTM(6, 4, 2, batch_first=True), start=True), sequences),
    "gru": (lambda: recurrent(nn.GRU(6, 4, batch_first=True)), sequences),
    "gru, two ways": (lambda: recurrent(nn.GRU(6, 4, 2, batch_first=True, bidirectional=True)), sequences),
    "gru, given states": (lambda: last_state(nn.GRU(6, 4, 2, batch_first=True), start=True), sequences),
    "rnn": (lambda: recurrent(nn.RNN(6, 4, 2, batch_first=True)), sequences),
    "rnn, relu": (lambda: recurrent(nn.RNN(6, 4, nonlinearity="relu", batch_first=True)), sequences),
}
# Each alone in a network, as what it is between.
LAYERS: list[tuple[Callable[[], nn.Module], Callable[[torch.Generator, torch.dtype], Tensor]]] = [
    *((layer, vectors) for layer in (nn.ELU, nn.SELU, nn.PReLU, nn.GLU, nn.Softplus, nn.Hardswish, nn.LogSigmoid)),
    (lambda: nn.Conv1d(5, 4, 3, padding="same", padding_mode="circular"), sequences),
    (lambda: nn.Conv2d(2, 4, 3, 2, 1, 2, groups=2, padding_mode="reflect"), images),
    (lambda: nn.Conv3d(2, 3, 2, bias=False), volumes),
    (lambda: nn.ConvTranspose1d(5, 4, 3, 2, output_padding=1), sequences),
    (lambda: nn.ConvTranspose2d(2, 4, 3, 2, 1, groups=2), images),
    (lambda: nn.ConvTranspose3d(2, 3, 2), volumes),
    *((lambda layer=layer: layer(2), sequences) for layer in (nn.AvgPool1d, nn.MaxPool1d, nn.AdaptiveMaxPool1d)),
    *((lambda layer=layer: layer(3), images) for layer in (nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d)),
    *((lambda layer=layer: layer(2), volumes) for layer in (nn.AvgPool3d, nn.MaxPool3d, nn.AdaptiveMaxPool3d)),
    *((lambda layer=layer: layer(1), images) for layer in (nn.ReflectionPad2d, nn.ZeroPad2d, nn.CircularPad2d)),
    (lambda: nn.ConstantPad1d(1, 2.0), sequences),
    (lambda: nn.ReplicationPad3d(1), volumes),
    (lambda: nn.LPPool2d(2, 2), images),
    (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), images),
    (lambda: nn.LocalResponseNorm(2), images),
    (lambda: nn.PixelUnshuffle(2), images),
    (lambda: nn.Unfold(2), images),
    (lambda: nn.Unflatten(1, (2, 3)), vectors),
    (lambda: nn.InstanceNorm1d(5), sequences),
    (lambda: nn.InstanceNorm3d(2, affine=True), volumes),
    (lambda: nn.LayerNorm((2, 6, 6)), images),
    (lambda: nn.LayerNorm(6, elementwise_affine=False), vectors),
    (lambda: nn.GroupNorm(2, 2, affine=False), volumes),
]


def plain(make: Callable[[], nn.Module], dtype: torch.dtype) -> list[nn.Module]:
    """Return a network for each lane, each with parameters of its own, its zeros and ones too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        networks = [make().to(dtype) for _ in range(LANES)]
        for network in networks:
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter += 0.1 * torch.randn_like(parameter)
    return networks


def check_lanes(
    make: Callable[[], nn.Module],
    data: Callable[[torch.Generator, torch.dtype], Tensor],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    """Train lanes, and each lane's network by itself with torch alone; compare outputs and states."""
    draw = torch.Generator().manual_seed(2)
    networks = plain(make, dtype)
    lanes = Lanes(networks, data(draw, dtype)[0])
    for _ in range(STEPS):
        x, y = data(draw, dtype), torch.randint(0, CLASSES, (LANES, BATCH), generator=draw)
        lanes.step(x, y, [])
        for lane, network in enumerate(networks):
            network.train().zero_grad()
            F.cross_entropy(network(x[lane]), y[lane]).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for parameter in network.parameters():
                    assert parameter.grad is not None
                    parameter -= LR * parameter.grad
    x = data(draw, dtype)
    outputs = lanes.evaluated(x)
    for lane, network in enumerate(networks):
        # Torch's fused kernels of evaluation come in when nothing asks for gradients.
        with torch.no_grad():
            assert_close(outputs[lane], network.eval()(x[lane]), tolerance)
        state = dict(network.named_parameters()) | dict(network.named_buffers())
        ours = dict(zip([*lanes.names, *lanes.buffer_names], [*lanes.parameters, *lanes.buffers], strict=True))
        assert {*state} - {*ours} <= {name for name in state if name.endswith("num_batches_tracked")}
        for name, stacked in ours.items():
            assert_close(stacked[lane], state[name], tolerance)


def assert_close(one: Tensor, other: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_lane_is_what_torch_s_layers_are_alone(name: str, dtype: torch.dtype, tolerance: float) -> None:
    check_lanes(*NETWORKS[name], dtype, tolerance)


@pytest.mark.parametrize("index", range(len(LAYERS)))
def test_each_kind_of_layer_is_torch_s(index: int) -> None:
    make, data = LAYERS[index]

    def network() -> nn.Module:
        first = nn.Linear(data(torch.Generator(), torch.float32).shape[-1], 6)
        layer = nn.Sequential(first if data is not images else nn.Identity(), make(), nn.Flatten())
        wide = layer(data(torch.Generator(), torch.float32)[0])
        return nn.Sequential(*layer, nn.Linear(wide.shape[1], CLASSES))

    check_lanes(network, data, torch.float64, 1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_return_what_torch_s_do(kind: type[nn.RNNBase], dtype: torch.dtype, tolerance: float) -> None:
    layer = kind(6, 4, 2, bidirectional=True).to(dtype)
    network = nn.Sequential(copy.deepcopy(layer))
    replace_layers(network)
    x = torch.randn(5, BATCH, 6, dtype=dtype, generator=torch.Generator().manual_seed(1))
    (outputs, states), (expected, ends) = network(x), layer(x)
    assert_close(outputs, expected, tolerance)
    assert_close(torch.stack([*states]), torch.stack([*ends]), tolerance)


@st.composite
def stacks(draw: st.DrawFn) -> list[Callable[[], nn.Module]]:
    """Layers `[batch, width] -> [batch, width]`, each after a linear one."""
    width = draw(st.integers(2, 5))
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.BatchNorm1d(width),
        lambda: nn.BatchNorm1d(width, momentum=0.5, affine=False),
        lambda: nn.LayerNorm(width),
        lambda: nn.GroupNorm(1, width),
        nn.Tanh,
        nn.SiLU,
        nn.LeakyReLU,
        lambda: nn.Dropout(0.0),
        lambda: parametrizations.weight_norm(nn.Linear(width, width)),
    ]
    layers = draw(st.lists(st.sampled_from(kinds), max_size=4))
    return [lambda: nn.Linear(6, width), *layers, lambda: nn.Linear(width, CLASSES)]


@given(layers=stacks())
@settings(max_examples=10)
def test_any_stack_of_layers_is_torch_s(layers: list[Callable[[], nn.Module]]) -> None:
    check_lanes(lambda: nn.Sequential(*(layer() for layer in layers)), vectors, torch.float64, 1e-9)


class Given(nn.Module):
    """Dropout by a mask `[batch, n]` that is used up call by call, as `axes` says whole channels at a time."""

    def __init__(self, keep: Tensor, p: float, axes: int | None) -> None:
        super().__init__()
        self.keep, self.p, self.axes, self.used = keep, p, axes, 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = x.shape if self.axes is None else (*x.shape[: self.axes], *(1,) * (x.dim() - self.axes))
        taken = math.prod(shape) // BATCH
        keep = self.keep[:, self.used : self.used + taken].reshape(shape)
        self.used += taken
        return x * keep / (1 - self.p)


def dropping() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.channels(self.first(x))
        x = self.drop(x.flatten(1))
        result: Tensor = self.output(self.drop(torch.tanh(self.middle(x))))
        return result

    return Calls(
        forward,
        first=nn.Conv2d(2, 3, 3),
        channels=nn.Dropout2d(0.3),
        middle=nn.Linear(48, 5),
        drop=nn.Dropout(0.6),
        output=nn.Linear(5, CLASSES),
    )


def dropping_transformer(batch_first: bool) -> nn.Module:
    network = transformer(batch_first)
    for layer in network.encoder.layers:  # type: ignore[union-attr]
        for drop in (layer.dropout, layer.dropout1, layer.dropout2):  # type: ignore[union-attr]
            drop.p = 0.4  # type: ignore[union-attr, assignment]
    return network


DROPPING: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.Generator, torch.dtype], Tensor]]] = {
    "dropout used twice": (dropping, images),
    "dropout in a transformer": (lambda: dropping_transformer(True), sequences),
    "dropout, time first": (lambda: dropping_transformer(False), sequences),
}


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_has_its_own_probability_and_a_mask_for_each_call(name: str) -> None:
    make, data = DROPPING[name]
    draw = torch.Generator().manual_seed(4)
    networks, x = plain(make, torch.float64), data(draw, torch.float64)
    lanes = Lanes(networks, x[0])
    masks = lanes.masks(draw)
    lanes.network.train()
    outputs, _ = lanes.outputs(lanes.parameters, lanes.buffers, masks, x)
    assert all(layer.p is not None for layer in lanes.dropouts.values())
    for lane, network in enumerate(networks):
        for place, (path, layer) in enumerate(lanes.dropouts.items()):
            axes = 2 if path == "channels" else None
            assert layer.p is not None
            network.set_submodule(path, Given(masks[2 * place][lane], layer.p, axes))
        assert_close(outputs[lane], network.train()(x[lane]), 1e-10)
    lanes.evaluated(x)


def test_dropout_of_attention_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(4)
    networks, x = plain(lambda: attention(dropout=0.3), torch.float64), sequences(draw, torch.float64)
    lanes = Lanes(networks, x[0])
    keep, scale = lanes.masks(draw)
    lanes.network.train()
    outputs, _ = lanes.outputs(lanes.parameters, lanes.buffers, [keep, scale], x)
    for lane, network in enumerate(networks):
        # Torch has the weights as [batch * heads, time, time].
        mask = keep[lane].view(2 * BATCH, 5, 5).double() / 0.7
        monkeypatch.setattr(F, "dropout", lambda weights, p, training=True, mask=mask: weights * mask)
        assert_close(outputs[lane], network.train()(x[lane]), 1e-10)


def test_dropout_between_recurrent_layers() -> None:
    draw = torch.Generator().manual_seed(4)
    networks = plain(lambda: recurrent(nn.LSTM(6, 4, 2, dropout=0.3, batch_first=True)), torch.float64)
    x = sequences(draw, torch.float64)
    lanes = Lanes(networks, x[0])
    keep, scale = lanes.masks(draw)
    lanes.network.train()
    outputs, _ = lanes.outputs(lanes.parameters, lanes.buffers, [keep, scale], x)
    for lane, network in enumerate(networks):
        state = network.recurrent.state_dict()  # type: ignore[operator, union-attr]
        single = [nn.LSTM(width, 4, batch_first=True).double() for width in (6, 4)]
        for index, layer in enumerate(single):
            part = {name.replace(f"l{index}", "l0"): value for name, value in state.items() if f"l{index}" in name}
            layer.load_state_dict(part)
        # The form has time first.
        mask = keep[lane].view(5, BATCH, 4).transpose(0, 1).double() / 0.7
        hidden = single[1](single[0](x[lane])[0] * mask)[0]
        assert_close(outputs[lane], network.output(hidden.mean(1)), 1e-10)  # type: ignore[operator]


@pytest.mark.parametrize("kind", [nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_alpha_dropout_is_torch_s(kind: type[nn.Module]) -> None:
    layer = kind(0.4)
    x = torch.rand(BATCH, 3, 5, dtype=torch.float64) + 1
    network = nn.Sequential(nn.Identity(), layer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = layer(x)
    # What is dropped has one value, below all that is kept.
    keep = expected > expected.min() + 1e-9
    keep = keep[..., :1] if kind is nn.FeatureAlphaDropout else keep
    replace_layers(network, x)
    given = {"1.keep": keep.flatten(1), "1.scale": torch.tensor(1 / 0.6, dtype=torch.float64)}
    assert_close(functional_call(network.train(), given, (x,)), expected, 1e-10)


def test_what_drops_nothing_has_no_mask() -> None:
    network = nn.Sequential(nn.Dropout(0.0), nn.Linear(6, 2))
    replace_layers(network)
    assert not any(isinstance(layer, LaneDropout) for layer in network.modules())


def test_our_own_dropout_has_the_recipe_s_probability() -> None:
    network = build(MLP(hidden=[5], norm="batch"), 6, CLASSES, None, 0.3, torch.Generator())
    replace_layers(network)
    layer = network.get_submodule("dropout1")
    assert isinstance(layer, LaneDropout)
    assert (layer.p, layer.shape) == (None, (5,))
    assert isinstance(network.get_submodule("norm1"), LaneBatchNorm)


def test_torch_s_dropout_needs_an_example() -> None:
    with pytest.raises(CannotLaneError, match=r"^1: has a mask whose shape only an example shows"):
        replace_layers(nn.Sequential(nn.Linear(6, 2), nn.Dropout()))


def test_a_lane_s_state_fits_the_plain_network() -> None:
    network = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    lane = copy.deepcopy(network)
    replace_layers(lane, torch.zeros(BATCH, 6))
    assert {*network.state_dict()} - {*lane.state_dict()} == {"1.num_batches_tracked"}
    network.load_state_dict(dict(lane.state_dict()))


TRACED = [
    *("mlp", "mlp, batch norm", "mlp, layer norm", "mlp, weight norm", "cnn", "cnn, batch norm", "cnn, group norm"),
    *("cnn, instance norm", "residual block", "embedding with padding", "tied weights", "dropout used twice"),
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("transformer", "attention with masks", "attention by torch's kernel", "lstm, two ways", "gru")
    ),
]


@pytest.mark.parametrize("name", TRACED)
def test_one_graph_serves_any_number_of_lanes(name: str) -> None:
    make, data = (NETWORKS | DROPPING)[name]
    draw = torch.Generator().manual_seed(3)
    x, y = data(draw, torch.float64), torch.randint(0, CLASSES, (LANES, BATCH), generator=draw)
    lanes = Lanes(plain(make, torch.float64), x[0])
    masks = lanes.masks(draw)
    parts = (len(lanes.parameters), len(lanes.buffers), len(masks))

    def gradients(*tensors: Tensor) -> Tensors:
        rest = iter(tensors)
        groups = [[next(rest) for _ in range(count)] for count in parts]
        gradients, statistics = lanes.gradients(*groups, *rest)
        return [*gradients, *statistics]

    inputs = [*lanes.parameters, *lanes.buffers, *masks, x, y]
    graph, _ = traced(gradients, inputs, [True] * len(inputs))
    for node in graph.graph.nodes:
        tags = getattr(node.target, "tags", ())
        assert not {
            torch.Tag.data_dependent_output,
            torch.Tag.dynamic_output_shape,
            torch.Tag.nondeterministic_seeded,
        } & {*tags}
    for repeats in (1, 2):
        many = [torch.cat([tensor] * repeats) for tensor in inputs]
        for one, other in zip(graph(*many), gradients(*many), strict=True):
            assert_close(one, other, 1e-10)


@pytest.mark.parametrize("name", [*NETWORKS, *DROPPING])
def test_what_can_be_a_lane_is_found_to(name: str) -> None:
    make, data = (NETWORKS | DROPPING)[name]
    assert why_not_lane(make(), data(torch.Generator(), torch.float32)[0]) is None


class EvilError(Exception):
    def __str__(self) -> str:
        raise ValueError


def raising(error: BaseException) -> Callable[..., Tensor]:
    def forward(self: Any, x: Tensor) -> Tensor:
        raise error

    return forward


def replacing(self: Any, x: Tensor) -> Any:
    self.count = self.count + 1
    return self.linear(x)


def keeping(self: Any, x: Tensor) -> Any:
    self.seen = x
    return self.linear(x)


def collecting(self: Any, x: Tensor) -> Any:
    self.__dict__.setdefault("all", []).append(1)
    return self.linear(x)


def writing(self: Any, x: Tensor) -> Any:
    self.count.add_(1)
    return self.linear(x)


def overwriting(self: Any, x: Tensor) -> Any:
    with torch.no_grad():
        self.linear.weight.mul_(0.9)
    return self.linear(x)


def frozen() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 2))
    network.requires_grad_(False)
    return network


def normed_twice() -> nn.Module:
    norm = nn.BatchNorm1d(6)
    return nn.Sequential(nn.Linear(6, 6), norm, nn.Linear(6, 6), norm)


def within(function: Callable[..., Any]) -> nn.Module:
    """Return a network with a module `pool` of that forward pass."""
    pool = Calls(function, linear=nn.Linear(6, 6))
    pool.register_buffer("count", torch.zeros(()))
    return nn.Sequential(OrderedDict(linear=nn.Linear(6, 6), pool=pool))


DECIDES = "takes decisions on values (data-dependent control flow)"
DRAWS = "draws random numbers of its own"
IMAGE, SEQUENCE, VECTOR, TOKEN = (
    torch.zeros(BATCH, 2, 6, 6),
    torch.zeros(BATCH, 5, 6),
    torch.zeros(BATCH, 6),
    torch.zeros(BATCH, 5, dtype=torch.int64),
)
CANNOT: list[tuple[Callable[[], nn.Module], Tensor, str]] = [
    (lambda: within(lambda self, x: x * x.sum().item()), VECTOR, f"pool: {DECIDES}"),
    (lambda: within(lambda self, x: x if x.sum() > 0 else -x), VECTOR, f"pool: {DECIDES}"),
    (lambda: within(lambda self, x: x if self.count > 0 else -x), VECTOR, f"pool: {DECIDES}"),
    (lambda: within(lambda self, x: x if torch.ones(2).sum() > 0 else -x), VECTOR, f"pool: {DECIDES}"),
    (lambda: within(lambda self, x: x[x > 0]), VECTOR, "pool: has shapes that depend on values"),
    (lambda: within(lambda self, x: x.nonzero()), VECTOR, "pool: has shapes that depend on values"),
    (lambda: within(lambda self, x: x + torch.rand(6)), VECTOR, f"pool: {DRAWS}"),
    (lambda: within(lambda self, x: x + torch.randn_like(x)), VECTOR, f"pool: {DRAWS}"),
    (lambda: within(lambda self, x: F.dropout(x, training=self.training)), VECTOR, f"pool: {DRAWS}"),
    (lambda: within(lambda self, x: torch.bernoulli(x.sigmoid())), VECTOR, f"pool: {DRAWS}"),
    (lambda: nn.Sequential(nn.Linear(6, 6), nn.RReLU()), VECTOR, f"1: {DRAWS}"),
    (lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.FractionalMaxPool2d(2, 2)), IMAGE, f"1: {DRAWS}"),
    (
        lambda: within(lambda self, x: x * random.random()),
        VECTOR,
        "the network: draws from Python's or NumPy's random numbers",
    ),
    (
        lambda: within(lambda self, x: x * np.random.rand()),
        VECTOR,
        "the network: draws from Python's or NumPy's random numbers",
    ),
    (
        lambda: within(lambda self, x: x + torch.from_numpy(x.detach().numpy())),
        VECTOR,
        "pool: hands values to other code (NumPy, pointers)",
    ),
    (lambda: within(writing), VECTOR, "pool.count: is written to in forward"),
    (lambda: within(overwriting), VECTOR, "pool.linear.weight: is written to in forward"),
    (lambda: within(replacing), VECTOR, "pool.count: is replaced in forward"),
    (lambda: within(keeping), VECTOR, "pool: changes its attribute 'seen' in forward"),
    (lambda: within(collecting), VECTOR, "pool: changes its attribute 'all' in forward"),
    (lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.ReLU(inplace=True)), VECTOR, ""),
    (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 2)), VECTOR, "its input: is written to in forward"),
    (lambda: within(raising(SystemExit(3))), VECTOR, "pool: ends the process (SystemExit)"),
    (lambda: within(raising(GeneratorExit())), VECTOR, "pool: raises GeneratorExit"),
    (lambda: within(raising(EvilError())), VECTOR, "pool: raises EvilError"),
    (lambda: within(raising(ValueError("two\nlines"))), VECTOR, "pool: raises ValueError (two lines)"),
    (lambda: within(lambda self, x: (x, x)), VECTOR, "the network: returns tuple, not one tensor [batch, ...]"),
    (lambda: within(lambda self, x: None), VECTOR, "the network: returns NoneType, not one tensor [batch, ...]"),
    (
        lambda: within(lambda self, x: x.sum()),
        VECTOR,
        "the network: returns the shape [] for 4 examples, not [batch, ...]",
    ),
    (
        lambda: within(lambda self, x: x.T),
        VECTOR,
        "the network: returns the shape [6, 4] for 4 examples, not [batch, ...]",
    ),
    (lambda: within(lambda self, x: x), VECTOR, "pool.linear.weight: has no effect on the outputs"),
    (lambda: Calls(raising(ValueError()), linear=nn.Linear(6, 2)), VECTOR, "the network: raises ValueError"),
    (lambda: nn.Sequential(nn.Tanh()), VECTOR, "the network: has no parameters to train"),
    (frozen, VECTOR, "0.weight: is frozen (requires_grad is False)"),
    (lambda: nn.Sequential(nn.LazyLinear(2)), VECTOR, "0.weight: has no shape before the first forward pass"),
    (lambda: nn.LayerNorm(6), VECTOR, "the network: is a lone LayerNorm, which cannot be replaced within a network"),
    (normed_twice, VECTOR, "1: is called more than once in a forward pass"),
    (
        lambda: nn.Sequential(nn.BatchNorm1d(6, momentum=None)),
        VECTOR,
        "0: takes a cumulative average (momentum is None)",
    ),
    (
        lambda: nn.Sequential(nn.InstanceNorm2d(2, affine=True, track_running_stats=True)),
        IMAGE,
        "0: writes its running statistics in forward (track_running_stats)",
    ),
    (
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 2))),
        VECTOR,
        "0.parametrizations.weight.0: writes its estimate of the singular vectors in forward (spectral_norm)",
    ),
    (lambda: embedding(max_norm=1.0), TOKEN, "embedding: writes to its weight in forward (max_norm)"),
    (lambda: embedding(sparse=True), TOKEN, "embedding: has sparse gradients"),
    (
        lambda: Calls(lambda self, x: F.embedding(x, self.part.weight, padding_idx=1).mean(1), part=nn.Embedding(7, 2)),
        TOKEN,
        "the network: raises NotImplementedError (F.embedding with padding_idx; nn.Embedding has it)",
    ),
    (
        lambda: Calls(lambda self, x: self.bag(x), bag=nn.EmbeddingBag(7, 2)),
        TOKEN,
        "bag: uses aten::embedding_bag, which has no batching rule",
    ),
    (
        lambda: Calls(lambda self, x: self.cell(x), cell=nn.GRUCell(6, 2)),
        VECTOR,
        "cell: uses aten::gru_cell, which has no batching rule",
    ),
    (lambda: recurrent(nn.LSTM(6, 4, proj_size=2)), SEQUENCE, "recurrent: has projections (proj_size)"),
    (
        lambda: attention(add_zero_attn=True),
        SEQUENCE,
        "attention: has keys and values of its own (add_bias_kv, add_zero_attn)",
    ),
    (lambda: nn.Sequential(nn.Linear(6, 2), nn.Dropout(1.0)), VECTOR, "1: drops everything (p is 1)"),
    (
        lambda: nn.Sequential(nn.Linear(6, 2), nn.Dropout2d()),
        VECTOR,
        "1: drops channels of [4, 2], which has no batch axis",
    ),
]


@pytest.mark.parametrize("index", range(len(CANNOT)))
def test_what_cannot_be_a_lane_says_why_in_one_line(index: int) -> None:
    make, example, expected = CANNOT[index]
    with torch.random.fork_rng(devices=[]):
        network = make()
    reason = why_not_lane(network, example)
    assert reason is not None
    if expected:
        assert reason == f"{expected}, so the trial is trained alone."
    assert "\n" not in reason


def test_finding_out_leaves_everything_as_it_was() -> None:
    network = within(lambda self, x: F.dropout(self.linear(x)) * random.random() * np.random.rand())
    dropping = nn.Sequential(nn.Linear(6, 2), nn.Dropout())
    before = copy.deepcopy(network.state_dict())
    draws = (torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1])
    assert why_not_lane(network.eval(), VECTOR) is not None
    assert why_not_lane(dropping, VECTOR) is None
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
    assert torch.equal(draws[0], torch.random.get_rng_state())
    assert draws[1] == random.getstate()
    assert np.array_equal(draws[2], np.random.get_state()[1])
    assert torch._C._functorch._is_vmap_fallback_enabled()  # type: ignore[attr-defined]
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_an_interrupt_is_the_user_s() -> None:
    with pytest.raises(KeyboardInterrupt):
        why_not_lane(within(raising(KeyboardInterrupt())), VECTOR)


def test_a_large_network_needs_no_memory() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(10**6, 10**6), nn.Linear(10**6, 2))
    assert why_not_lane(network, torch.empty(BATCH, 10**6, device="meta")) is None
