"""The networks: shapes, initialisation from explicit generators, and the layers of our own against torch's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from swathe.errors import BadInputError
from swathe.training import recipe
from swathe.training.models import BatchNorm, Dropout, Residual, build, dropouts
from swathe.training.recipe import CNN, MLP, DeepMLP, Model

IMAGE = (1, 8, 8)


def made(model: Model, dropout: float = 0.0, seed: int = 0) -> nn.Sequential:
    return build(model, 64, 10, IMAGE, dropout, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", recipe.NORMS)
@pytest.mark.parametrize("activation", recipe.ACTIVATIONS)
@pytest.mark.parametrize("kind", [MLP, CNN, DeepMLP])
def test_every_network_gives_outputs_and_gradients(kind: type[Model], activation: str, norm: str) -> None:
    network = made(kind(activation=activation, norm=norm), dropout=0.5)
    for layer in dropouts(network):
        layer.draw(4, torch.tensor([3, 5], dtype=torch.int32))
    outputs = network(torch.randn(4, 64))
    assert outputs.shape == (4, 10)
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_article_s_network_has_its_weights() -> None:
    network = build(MLP(hidden=[128]), 784, 10, None, 0.0, torch.Generator())
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    assert sizes["linear1.weight"] + sizes["output.weight"] == 101_632
    assert sizes["linear1.bias"] + sizes["output.bias"] == 138


def test_no_hidden_layer_is_a_linear_model() -> None:
    assert [name for name, _ in made(MLP(hidden=[])).named_parameters()] == ["output.weight", "output.bias"]


def test_names_do_not_depend_on_norm_and_dropout() -> None:
    plain = set(made(MLP(hidden=[8, 8])).state_dict())
    assert plain <= set(made(MLP(hidden=[8, 8], norm="batch", residual=True), dropout=0.1).state_dict())


def test_a_deep_mlp_is_an_mlp() -> None:
    deep, plain = made(DeepMLP(depth=3, width=8, norm="layer")), made(MLP(hidden=[8, 8, 8], norm="layer"))
    x = torch.randn(4, 64)
    assert torch.equal(deep(x), plain(x))
    assert len([name for name in made(DeepMLP(depth=50, width=2)).state_dict() if name.endswith("weight")]) == 51


def test_a_skip_leads_around_each_hidden_layer_that_keeps_the_width() -> None:
    network = made(MLP(hidden=[64, 64, 6, 6], norm="layer", activation="tanh", residual=True), dropout=0.5)
    for layer in dropouts(network):
        layer.draw(5, torch.tensor([3, 5], dtype=torch.int32))

    def hidden(index: int, x: torch.Tensor) -> torch.Tensor:
        for name in ("linear", "norm", "activation", "dropout"):
            x = network.get_submodule(f"{name}{index}")(x)
        return x

    given = torch.randn(5, 64)
    x = hidden(1, given)
    x = x + hidden(2, x)
    x = hidden(3, x)
    x = x + hidden(4, x)
    assert torch.equal(network(given), network.get_submodule("output")(x))


def test_skips_have_no_parameters() -> None:
    plain, skipping = (made(DeepMLP(depth=4, width=8, residual=residual)) for residual in (False, True))
    assert isinstance(skipping, Residual)
    state = skipping.state_dict()
    assert list(state) == list(plain.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    assert not isinstance(made(MLP(hidden=[8, 9, 8], residual=True)), Residual)


def test_the_first_layer_s_gradient_comes_through_the_skips() -> None:
    # Of sigmoids each layer leaves at most a quarter of it (Glorot & Bengio 2010): here less than 0.25^18.
    norms = {}
    for residual in (False, True):
        network = made(DeepMLP(depth=20, width=8, activation="sigmoid", residual=residual))
        network(torch.randn(4, 64)).square().sum().backward()
        first, last = (network.get_parameter(f"linear{index}.weight").grad for index in (1, 20))
        assert first is not None
        assert last is not None
        norms[residual] = (first.norm() / last.norm()).item()
    assert norms[False] < 0.25**18
    assert norms[True] > 1e-2


@pytest.mark.parametrize("init", recipe.INITS)
@pytest.mark.parametrize("kind", [MLP, CNN, DeepMLP])
def test_weights_come_from_the_generator_alone(kind: type[Model], init: str) -> None:
    before = torch.random.get_rng_state()
    first = made(kind(init=init), seed=1).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    again, other = made(kind(init=init), seed=1).state_dict(), made(kind(init=init), seed=2).state_dict()
    for name, value in first.items():
        assert torch.equal(value, again[name])
        if name.endswith("weight"):
            assert not torch.equal(value, other[name])
        elif init != "default":
            assert not value.any()


@pytest.mark.parametrize(
    ("init", "deviation"),
    [
        ("default", 1 / math.sqrt(3 * 400)),
        ("xavier_uniform", math.sqrt(2 / 700)),
        ("xavier_normal", math.sqrt(2 / 700)),
        ("he_uniform", math.sqrt(2 / 400)),
        ("he_normal", math.sqrt(2 / 400)),
        ("small_normal", 0.01),
    ],
)
def test_deviation_of_the_weights(init: str, deviation: float) -> None:
    network = build(MLP(hidden=[300], init=init), 400, 2, None, 0.0, torch.Generator().manual_seed(3))
    weight = network.get_parameter("linear1.weight")
    # 120,000 draws: the deviation's own error is about 0.2 %.
    assert weight.std().item() == pytest.approx(deviation, rel=0.01)
    assert abs(weight.mean().item()) < 4 * deviation / math.sqrt(weight.numel())


def test_orthogonal_weights_are_orthogonal() -> None:
    weight = made(MLP(hidden=[32], init="orthogonal")).get_parameter("linear1.weight")
    torch.testing.assert_close(weight @ weight.T, torch.eye(32), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4, 3)])
def test_batch_norm_is_torch_s(shape: tuple[int, ...]) -> None:
    ours, oracle = BatchNorm(5), (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(5)
    for _ in range(3):
        x = torch.randn(shape)
        assert torch.equal(ours(x), oracle(x))
    assert torch.equal(ours.eval()(x), oracle.eval()(x))
    assert torch.equal(ours.running_var, oracle.running_var)


def test_layer_norm_of_a_convolution_is_over_channels_and_pixels() -> None:
    network = made(CNN(norm="layer", channels=[4]))
    x = torch.randn(3, 4, 8, 8)
    oracle = F.layer_norm(x, (4, 8, 8))
    torch.testing.assert_close(network.get_submodule("conv_norm1")(x), oracle)


@pytest.mark.parametrize("kind", [MLP, CNN])
def test_group_norm_has_mean_0_and_variance_1_in_each_group(kind: type[Model]) -> None:
    network = made(kind(norm="group", groups=4))
    name, features, image = ("norm1", 128, ()) if kind is MLP else ("conv_norm1", 16, (8, 8))
    grouped = network.get_submodule(name)(3 + 2 * torch.randn(5, features, *image)).view(5, 4, -1)
    torch.testing.assert_close(grouped.mean(2), torch.zeros(5, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(grouped.var(2, correction=0), torch.ones(5, 4), rtol=0, atol=1e-4)
    order = [layer for layer, _ in network.named_children()]
    assert order.index(name) == order.index(name.replace("norm", "activation")) - 1


def test_dropout_scales_what_it_keeps_and_rests_in_evaluation() -> None:
    layer = Dropout(0.25, (1000,))
    layer.draw(50, torch.tensor([3, 5], dtype=torch.int32))
    kept = layer(torch.ones(50, 1000))
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    # 50,000 draws of probability 0.25: five standard deviations are 0.0097.
    assert (kept == 0).double().mean().item() == pytest.approx(0.25, abs=0.0097)
    assert torch.equal(layer.eval()(torch.ones(50, 1000)), torch.ones(50, 1000))


def test_dropout_of_a_convolution_drops_channels() -> None:
    network = made(CNN(channels=[16]), dropout=0.5)
    layer = network.get_submodule("conv_dropout1")
    assert isinstance(layer, Dropout)
    layer.draw(3, torch.tensor([3, 5], dtype=torch.int32))
    per_channel = layer(torch.ones(3, 16, 4, 4)).flatten(2)
    assert torch.equal(per_channel.amin(2), per_channel.amax(2))


def test_masks_can_be_a_lane_s_own() -> None:
    network = made(MLP(hidden=[8]), dropout=0.5)
    state = {name: value.expand(3, *value.shape) for name, value in network.named_parameters()}
    masks = torch.stack([torch.zeros(4, 8), torch.ones(4, 8), 2 * torch.ones(4, 8)])
    x = torch.randn(4, 64)

    def lane(parameters: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = torch.func.functional_call(network, {**parameters, "dropout1.mask": mask}, (x,))
        return outputs

    outputs = torch.vmap(lane)(state, masks)
    bias = network.get_parameter("output.bias")
    torch.testing.assert_close(outputs[0], bias.expand(4, 10))
    torch.testing.assert_close(outputs[2] - bias, 2 * (outputs[1] - bias))


def test_convolutions_need_an_image_that_is_large_enough() -> None:
    with pytest.raises(BadInputError, match=r"model\.name"):
        build(CNN(), 64, 10, None, 0.0, torch.Generator())
    with pytest.raises(BadInputError, match=r"model\.channels: .* allowed: fewer than 4 entries for images of 8x8"):
        made(CNN(channels=[2, 2, 2, 2]))
