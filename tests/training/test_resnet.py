"""Residual networks: their published sizes and shapes, their parts against torch's, and lanes against solo."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from swathe.errors import BadInputError
from swathe.training import lanes, recipe
from swathe.training.lane_program import Geometry, Network, Program
from swathe.training.lanes import LaneBlock
from swathe.training.models import build, dropouts
from swathe.training.optim import Update
from swathe.training.recipe import TIMING_METRICS, CifarResNet, Recipe, ResNet, recipe_from_config
from swathe.training.resnet import Block, PaddedShortcut
from swathe.training.solo import Solo
from swathe.training.structure import can_lane, structural_key

IMAGENET, CIFAR = (3, 224, 224), (3, 32, 32)
SMALL: list[dict[str, Any]] = [
    {"name": "resnet18", "width": 4},
    {"name": "resnet50", "width": 4},
    {"name": "resnet_cifar", "depth": 8, "width": 4},
]


def made(model: ResNet, image: tuple[int, int, int] = (1, 8, 8), outputs: int = 10, dropout: float = 0.0) -> nn.Module:
    inputs = image[0] * image[1] * image[2]
    return build(model, inputs, outputs, image, dropout, torch.Generator().manual_seed(1))


def model_of(config: dict[str, Any]) -> ResNet:
    model = recipe_from_config({"model": config}).model
    assert isinstance(model, ResNet)
    return model


def parameters(model: ResNet, image: tuple[int, int, int], outputs: int) -> int:
    network = build(model, image[0] * image[1] * image[2], outputs, image, 0.0, None)
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "count"), [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_the_forms_for_imagenet_have_torchvision_s_parameters(name: str, count: int) -> None:
    assert parameters(ResNet(name=name), IMAGENET, 1000) == count


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_the_forms_for_small_images_have_the_paper_s_parameters(depth: int, millions: float) -> None:
    # Table 6 of He et al. 2016, to the digits that it gives.
    digits = 1 if depth == 110 else 2
    assert round(parameters(CifarResNet(depth=depth), CIFAR, 10) / 1e6, digits) == millions


@pytest.mark.parametrize("depth", recipe.CIFAR_DEPTHS)
def test_depth_counts_the_layers_with_weights(depth: int) -> None:
    network = build(CifarResNet(depth=depth, width=1), 64, 10, (1, 8, 8), 0.0, None)
    assert sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in network.modules()) == depth


@pytest.mark.parametrize(("name", "depth"), [("resnet18", 18), ("resnet50", 50)])
def test_so_does_the_name_but_for_projections(name: str, depth: int) -> None:
    layers = build(ResNet(name=name, width=1), 64, 10, (1, 8, 8), 0.0, None).named_modules()
    weighted = [name for name, layer in layers if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert len([name for name in weighted if "shortcut" not in name]) == depth


@pytest.mark.parametrize(
    ("model", "image", "shapes"),
    [
        # Table 1: a stem of 56x56, then 56, 28, 14 and 7.
        (ResNet(width=2), IMAGENET, [(2, 56, 56), (2, 56, 56), (4, 28, 28), (8, 14, 14), (16, 7, 7)]),
        (
            ResNet(name="resnet50", width=1),
            IMAGENET,
            [(1, 56, 56), (4, 56, 56), (8, 28, 28), (16, 14, 14), (32, 7, 7)],
        ),
        # Section 4.2: 32, 32, 16 and 8.
        (CifarResNet(depth=8, width=2), CIFAR, [(2, 32, 32), (2, 32, 32), (4, 16, 16), (8, 8, 8)]),
        (CifarResNet(depth=8, width=2), (1, 7, 5), [(2, 7, 5), (2, 7, 5), (4, 4, 3), (8, 2, 2)]),
    ],
)
def test_sides_of_every_stage(model: ResNet, image: tuple[int, int, int], shapes: list[tuple[int, ...]]) -> None:
    network, seen = made(model, image), []
    for name, layer in network.named_children():
        if name.startswith("st"):
            layer.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[1:])))
    with torch.no_grad():
        network(torch.randn(2, image[0] * image[1] * image[2]))
    assert seen == shapes


def test_a_block_is_the_activation_of_branch_and_shortcut() -> None:
    network = made(CifarResNet(depth=8, width=4))
    block = network.get_submodule("stage1.block1")
    assert isinstance(block, Block)
    x = torch.randn(3, 4, 8, 8)
    first, second = (block.get_parameter(f"branch.conv{index}.weight") for index in (1, 2))

    def normalised(x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, None, None, training=True)

    oracle = normalised(F.conv2d(x, first, padding=1)).relu()
    oracle = (normalised(F.conv2d(oracle, second, padding=1)) + x).relu()
    torch.testing.assert_close(block(x), oracle)


def test_a_padded_shortcut_takes_every_second_pixel_and_adds_zeros() -> None:
    x = torch.randn(2, 3, 5, 4)
    wide = PaddedShortcut(3, 2)(x)
    assert torch.equal(wide[:, :3], F.max_pool2d(x, 1, 2))
    assert wide.shape == (2, 6, 3, 2)
    assert not wide[:, 3:].any()
    assert not list(PaddedShortcut(3, 2).parameters())


@pytest.mark.parametrize("norm", recipe.NORMS)
@pytest.mark.parametrize("config", SMALL, ids=lambda config: str(config["name"]))
def test_every_form_gives_outputs_and_gradients(config: dict[str, Any], norm: str) -> None:
    network = made(model_of({**config, "norm": norm, "groups": 2, "activation": "gelu"}), dropout=0.5)
    for layer in dropouts(network):
        layer.draw(4, torch.tensor([3, 5], dtype=torch.int32))
    outputs = network(torch.randn(4, 64))
    assert outputs.shape == (4, 10)
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_convolutions_have_a_bias_only_without_norm() -> None:
    for norm in recipe.NORMS:
        convolutions = [layer for layer in made(ResNet(width=8, norm=norm)).modules() if isinstance(layer, nn.Conv2d)]
        assert {layer.bias is None for layer in convolutions} == {norm != "none"}


@pytest.mark.parametrize("init", recipe.INITS)
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_weights_come_from_the_generator_alone(init: str, norm: str) -> None:
    model = CifarResNet(depth=8, width=4, init=init, norm=norm)
    before = torch.random.get_rng_state()
    first = made(model).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    again = made(model).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert all(value.unique().numel() > 4 for name, value in first.items() if value.dim() > 1)


def test_it_needs_an_image() -> None:
    with pytest.raises(BadInputError, match=r"model\.name: 'resnet18' is not allowed; allowed: mlp, deep_mlp, as"):
        build(ResNet(), 64, 10, None, 0.0, None)


def test_every_option_is_structure_but_the_initialisation() -> None:
    models: list[dict[str, Any]] = [
        {"name": "resnet18"},
        {"name": "resnet50"},
        {"name": "resnet18", "width": 32},
        {"name": "resnet18", "norm": "group"},
        {"name": "resnet18", "norm": "group", "groups": 4},
        {"name": "resnet_cifar"},
        {"name": "resnet_cifar", "depth": 8},
        {"name": "deep_mlp"},
        {"name": "deep_mlp", "depth": 11},
        {"name": "deep_mlp", "width": 32},
        {"name": "deep_mlp", "residual": True},
        {"name": "mlp"},
        {"name": "mlp", "residual": True},
    ]
    keys = {structural_key(recipe_from_config({"model": model})) for model in models}
    assert len(keys) == len(models)
    assert {structural_key(recipe_from_config({"model": {**model, "init": "orthogonal"}})) for model in models} == keys


@pytest.mark.parametrize("norm", recipe.NORMS)
def test_every_norm_can_be_in_a_lane(norm: str) -> None:
    model = {**SMALL[2], "norm": norm, "groups": 2}
    assert can_lane(recipe_from_config({"model": model, "regularization": {"dropout": 0.1}})) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "deep_mlp"])
def test_the_published_sizes_can_be_lanes(name: str) -> None:
    assert can_lane(recipe_from_config({"model": {"name": name}})) is None


TRAINED: list[dict[str, Any]] = [
    {"name": "resnet18", "width": 2},
    # With fifty layers of ReLUs on so few examples, a change of the inputs by 1e-15 is one of the gradients by 1e-11.
    {"name": "resnet50", "width": 2, "activation": "tanh"},
    {"name": "resnet_cifar", "depth": 8, "width": 2},
    {"name": "resnet_cifar", "depth": 8, "width": 2, "norm": "group", "groups": 2, "activation": "silu"},
    {"name": "deep_mlp", "depth": 6, "width": 4, "norm": "group", "groups": 2, "residual": True},
    {"name": "cnn", "channels": [4], "hidden": [4], "norm": "group", "groups": 2},
]


@pytest.mark.parametrize("config", TRAINED, ids=lambda config: f"{config['name']}-{config.get('norm', 'batch')}")
def test_a_lane_is_its_solo_run(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untraced(geometry: Geometry) -> Program:
        network = Network(geometry)

        def step(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
            return list(network.step(*tensors))

        def evaluation(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
            return list(network.evaluate(*tensors))

        return Program(network, torch.no_grad()(step), torch.no_grad()(evaluation), compiled=False)

    # What is traced into a program, run as it stands: tracing so many layers takes longer than a test may.
    monkeypatch.setattr(lanes, "eager_program", untraced)
    monkeypatch.setattr(lanes, "can_lane", lambda *of: None)
    check_lanes(config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("config", TRAINED[:3], ids=lambda config: str(config["name"]))
def test_so_is_a_lane_of_a_traced_program(config: dict[str, Any], tmp_path: Path) -> None:
    check_lanes(config, tmp_path)


def check_lanes(config: dict[str, Any], cache: Path) -> None:
    given = {
        "model": config,
        "data": {"limit": 48, "val_fraction": 0.01},
        "optim": {"name": "momentum", "lr": 1e-5},
        "regularization": {"dropout": 0.5},
        "batch_size": 24,
        "epochs": 1,
    }
    recipes = [recipe_from_config({**given, "seed": seed}) for seed in range(2)]
    block = LaneBlock(recipes[0], 3, "cpu", cache, compiled=False, dtype=torch.float64)
    for tag, one in enumerate(recipes):
        block.admit(one, tag)
    reports = {report.tag: report.metrics for report in block.epoch(lambda tag: False)}
    for tag, one in enumerate(recipes):
        metrics, state = trained_in_double(one, cache)
        assert untimed(reports[tag]) == pytest.approx(untimed(metrics), rel=1e-10)
        lane = block.state_dict(tag)
        assert list(lane) == list(state)
        for name, value in state.items():
            torch.testing.assert_close(lane[name], value, rtol=1e-10, atol=1e-10)


def trained_in_double(one: Recipe, cache: Path) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Train solo in double precision from weights drawn in single precision, as lanes of that type do."""
    solo = Solo(one, "cpu", cache)
    solo._update = Update(solo.network.double(), one.optim, one.regularization)
    data = solo._data
    solo._data = dataclasses.replace(data, train_x=data.train_x.double(), val_x=data.val_x.double())
    solo._examples = solo._data.train_x
    [(_, metrics, _)] = solo.reports(lambda: False)
    return metrics, solo.state_dict()


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in TIMING_METRICS}
