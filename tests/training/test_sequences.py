"""Networks for sequences: against torch's own layers, and as lanes against themselves alone."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swathe.errors import BadInputError
from swathe.training import health
from swathe.training.lanes import LaneBlock
from swathe.training.lstm import Cell
from swathe.training.models import build, dropouts
from swathe.training.optim import Update
from swathe.training.recipe import (
    GPT,
    INITS,
    LSTM,
    TIMING_METRICS,
    Model,
    Recipe,
    SequenceShape,
    Transformer,
    recipe_from_config,
)
from swathe.training.sequences import Rows, Waves, shape_from_state
from swathe.training.solo import Solo
from swathe.training.structure import can_lane, is_slow_to_trace
from swathe.training.transformer import Attention, Block

SERIES = SequenceShape(6, variables=3)
TEXT = SequenceShape(6, vocabulary=11)
LANGUAGE = SequenceShape(6, vocabulary=11, every_step=True)


def made(
    model: Model, sequence: SequenceShape | None = SERIES, outputs: int = 4, dropout: float = 0.0
) -> nn.Sequential:
    generator = torch.Generator().manual_seed(1)
    inputs = 64 if sequence is None else sequence.length * sequence.variables
    return build(model, inputs, outputs, None if sequence else (1, 8, 8), dropout, generator, sequence).double()


def tokens(rows: int, length: int = 6) -> Tensor:
    """Return tokens of which the first is `1`, the second `2` ..., without padding."""
    return torch.randint(1, 11, (rows, length), generator=torch.Generator().manual_seed(2))


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def assert_same_gradients(ours: Tensor, theirs: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    weights = drawn(*ours.shape)
    mine = torch.autograd.grad((ours * weights).sum(), [one for one, _ in pairs])
    other = torch.autograd.grad((theirs * weights).sum(), [other for _, other in pairs])
    torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


# Steps.


def test_an_image_is_read_row_by_row_with_all_its_channels() -> None:
    image = torch.arange(24).view(1, 2, 3, 4)
    rows = Rows((2, 3, 4))(image.flatten(1))
    assert rows.shape == (1, 3, 8)
    assert rows[0, 1].tolist() == [*image[0, 0, 1].tolist(), *image[0, 1, 1].tolist()]


def test_a_series_is_an_image_with_a_channel_a_variable() -> None:
    series = torch.arange(6).view(1, 6)
    assert Rows((2, 3, 1))(series).tolist() == [[[0, 3], [1, 4], [2, 5]]]


@pytest.mark.parametrize("width", [8, 7])
def test_positions_are_sines_and_cosines(width: int) -> None:
    waves = Waves()(torch.zeros(1, 5, width, dtype=torch.float64))[0]
    for step in range(5):
        for unit in range(width):
            angle = step / 10_000 ** (unit // 2 * 2 / width)
            assert waves[step, unit].item() == pytest.approx(
                math.cos(angle) if unit % 2 else math.sin(angle), abs=1e-12
            )


def test_data_without_an_order_is_refused() -> None:
    with pytest.raises(BadInputError, match="as the data is no sequence"):
        build(LSTM(), 4, 2, None, 0.0, None)


# Against torch's layers.


def torch_lstm(
    network: nn.Sequential, inputs: int, width: int, layers: int
) -> tuple[nn.LSTM, list[tuple[Tensor, Tensor]]]:
    """Return torch's LSTM with a network's weights, and the pairs of weights."""
    oracle, pairs = nn.LSTM(inputs, width, layers, batch_first=True).double(), []
    for layer in range(layers):
        cell = network.get_submodule(f"lstm{layer + 1}")
        assert isinstance(cell, Cell)
        theirs = [getattr(oracle, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih")]
        mine = [cell.weight_ih, cell.weight_hh, cell.bias]
        pairs += list(zip(mine, theirs, strict=True))
        with torch.no_grad():
            getattr(oracle, f"bias_hh_l{layer}").zero_()
            for one, other in zip(mine, theirs, strict=True):
                other.copy_(one)
    return oracle, pairs


@pytest.mark.parametrize("layers", [1, 2])
def test_an_lstm_is_torch_s(layers: int) -> None:
    network = made(LSTM(layers=layers, width=5))
    oracle, pairs = torch_lstm(network, 3, 5, layers)
    x = drawn(7, 18)
    states, _ = oracle(Rows((3, 6, 1))(x))
    assert_same_gradients(network(x), network.get_submodule("output")(states[:, -1]), pairs)


def test_a_language_model_s_lstm_has_outputs_at_each_step() -> None:
    network = made(LSTM(width=5), LANGUAGE, 11)
    oracle, pairs = torch_lstm(network, 5, 5, 1)
    x = tokens(7)
    states, _ = oracle(network.get_submodule("embedding")(x))
    assert_same_gradients(network(x), network.get_submodule("output")(states), pairs)


def test_padding_leaves_an_lstm_as_it_was() -> None:
    network = made(LSTM(width=5, layers=2), TEXT)
    x = tokens(7)
    short = torch.cat([torch.zeros(7, 2, dtype=torch.int64), x[:, :4]], dim=1)
    alone = made(LSTM(width=5, layers=2), SequenceShape(4, vocabulary=11))
    torch.testing.assert_close(network(short), alone(x[:, :4]))


def torch_block(block: Block, *, norm_first: bool, activation: str) -> tuple[nn.TransformerEncoderLayer, list[Any]]:
    width, inner = block.linear1.in_features, block.linear1.out_features
    oracle = nn.TransformerEncoderLayer(
        width, block.attention.heads, inner, 0.0, activation, batch_first=True, norm_first=norm_first
    ).double()
    state = oracle.state_dict()
    places = {
        "self_attn.in_proj_weight": block.attention.projection.weight,
        "self_attn.in_proj_bias": block.attention.projection.bias,
        "self_attn.out_proj.weight": block.attention.output.weight,
        "self_attn.out_proj.bias": block.attention.output.bias,
        **{
            f"{layer}.{what}": block.get_parameter(f"{layer}.{what}")
            for layer in ("linear1", "linear2", "norm1", "norm2")
            for what in ("weight", "bias")
        },
    }
    assert set(places) == set(state)
    oracle.load_state_dict({name: value.detach() for name, value in places.items()})
    return oracle, [(places[name], parameter) for name, parameter in oracle.named_parameters()]


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("kind", [Transformer, GPT])
def test_a_block_is_torch_s_encoder_layer(kind: type[Transformer], norm_first: bool) -> None:
    model = kind(width=8, heads=2, expansion=3, norm_first=norm_first, activation="gelu")
    block = made(model, LANGUAGE if kind is GPT else SERIES, 11).get_submodule("block1")
    assert isinstance(block, Block)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * drawn(*parameter.shape))
    oracle, pairs = torch_block(block, norm_first=norm_first, activation="gelu")
    x = drawn(5, 6, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64) if kind is GPT else None
    assert_same_gradients(block(x, None), oracle(x, src_mask=mask, is_causal=kind is GPT), pairs)


def test_attention_passes_over_padding_as_torch_s() -> None:
    attention = made(Transformer(width=8, heads=4)).get_submodule("block1").get_submodule("attention")
    assert isinstance(attention, Attention)
    oracle = nn.MultiheadAttention(8, 4, batch_first=True).double()
    with torch.no_grad():
        oracle.in_proj_weight.copy_(attention.projection.weight)
        oracle.out_proj.weight.copy_(attention.output.weight)
    x, counts = drawn(3, 6, 8), torch.tensor([[True] * 6, [False] * 2 + [True] * 4, [False] * 5 + [True]])
    expected, _ = oracle(x, x, x, key_padding_mask=~counts)
    torch.testing.assert_close(attention(x, counts), expected)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_is_its_blocks_and_their_mean(norm_first: bool, positions: str) -> None:
    network = made(Transformer(width=8, heads=2, norm_first=norm_first, positions=positions))
    x = drawn(5, 18)
    hidden = network.get_submodule("input")(Rows((3, 6, 1))(x))
    hidden = hidden + (
        network.get_parameter("positions.weight") if positions == "learned" else Waves()(torch.zeros_like(hidden))
    )
    for index in (1, 2):
        hidden = network.get_submodule(f"block{index}")(hidden, None)
    if norm_first:
        hidden = F.layer_norm(hidden, (8,))
    torch.testing.assert_close(network(x), network.get_submodule("output")(hidden.mean(1)))


def test_padding_has_no_part_in_a_transformer_s_answer() -> None:
    network = made(Transformer(width=8, heads=2, positions="sinusoidal"), TEXT)
    x = tokens(4)
    x[:, :2] = 0
    before = network(x)
    with torch.no_grad():
        network.get_parameter("embedding.weight")[0] += 1.0
    torch.testing.assert_close(network(x), before)


def test_a_gpt_sees_nothing_of_what_is_to_come() -> None:
    network = made(GPT(width=8, heads=2), LANGUAGE, 11)
    x = tokens(4)
    other = x.clone()
    other[:, 3:] = (other[:, 3:] + 1) % 11
    torch.testing.assert_close(network(other)[:, :3], network(x)[:, :3])
    assert not torch.allclose(network(other)[:, 3:], network(x)[:, 3:])


# Weights.


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("model", [LSTM(), Transformer(), GPT()])
def test_every_init_draws_every_weight(model: Model, init: str) -> None:
    sequence = LANGUAGE if isinstance(model, GPT) else TEXT
    first, again = (made(dataclasses.replace(model, init=init), sequence).state_dict() for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert value.isfinite().all()
        assert "weight" not in name or value.std() > 0 or "norm" in name
        assert init == "default" or "bias" not in name or value.abs().sum() == 0


def test_gpt2_s_deviations() -> None:
    network = made(GPT(width=64, depth=8), LANGUAGE)
    assert network.get_parameter("block1.linear1.weight").std().item() == pytest.approx(0.02, rel=0.05)
    assert network.get_parameter("block1.linear2.weight").std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert network.get_parameter("block1.attention.output.weight").std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert network.get_parameter("embedding.weight").std().item() == pytest.approx(0.02, rel=0.1)


def test_an_lstm_s_weights_are_torch_s_by_default_and_orthogonal_gate_by_gate() -> None:
    cell = made(LSTM(width=25)).get_submodule("lstm1")
    assert all(0.19 < parameter.abs().max() <= 0.2 for parameter in cell.parameters())
    for gate in made(LSTM(width=6, init="orthogonal")).get_parameter("lstm1.weight_hh").chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", [LSTM(layers=2), Transformer()])
def test_names_do_not_depend_on_dropout(model: Model) -> None:
    assert list(made(model).state_dict()) == list(made(model, dropout=0.3).state_dict())


def test_dropout_is_between_the_layers_and_in_the_branches() -> None:
    assert [layer.shape for layer in dropouts(made(LSTM(layers=2, width=5), dropout=0.3))] == [(6, 5)] * 2
    assert [layer.shape for layer in dropouts(made(Transformer(depth=2, width=8), dropout=0.3))] == [(6, 8)] * 5


# Health.


def test_a_unit_is_dead_that_never_fires_at_any_step() -> None:
    network = nn.Sequential(nn.ReLU())
    units = health.Units(network)
    x = -torch.ones(4, 6, 8)
    x[2, 5, :2] = 1.0
    units.begin()
    network(x)
    assert units.take()["dead_units"].item() == 6 / 8


# Alone and as lanes.

CONFIGS: dict[str, dict[str, Any]] = {
    "lstm": {"model": {"name": "lstm", "width": 3}, "data": "language"},
    "transformer": {"model": {"name": "transformer", "depth": 1, "width": 4, "heads": 2}, "data": "text"},
    "rows": {"model": {"name": "lstm", "width": 3, "layers": 2}, "data": "digits", "regularization": {"dropout": 0.5}},
    "post": {
        "model": {
            "name": "transformer",
            "depth": 2,
            "width": 4,
            "heads": 2,
            "norm_first": False,
            "positions": "sinusoidal",
        },
        "data": "series",
        "regularization": {"dropout": 0.5, "clip_norm": 1.0},
    },
    "gpt": {
        "model": {"name": "gpt", "depth": 2, "width": 4, "heads": 2},
        "data": "language",
        "regularization": {"dropout": 0.5, "label_smoothing": 0.1},
    },
    "mlp": {"model": {"hidden": [4]}, "data": "series"},
    "texts": {"model": {"name": "lstm", "width": 3}, "data": "text"},
}


def data_of(kind: str, folder: Path) -> dict[str, Any]:
    if kind == "language":
        (folder / "book.txt").write_text("".join(chr(97 + index * index % 23) for index in range(400)))
        return {"name": "text", "task": "language_model", "path": str(folder / "book.txt"), "length": 4, "limit": 48}
    if kind == "text":
        rows = [f"{'ab' * (index % 4 + 1)}{index % 7},{index % 2}" for index in range(75)]
        (folder / "t.csv").write_text("\n".join(["text,label", *rows]))
        return {"name": "text", "path": str(folder / "t.csv"), "length": 4, "limit": 48}
    if kind == "series":
        rows = [f"{index * index % 17},{math.sin(index)}" for index in range(80)]
        (folder / "s.csv").write_text("\n".join(["a,y", *rows]))
        return {"name": "series", "path": str(folder / "s.csv"), "target": "y", "length": 4, "limit": 48}
    return {"limit": 48, "val_fraction": 0.02}


def recipe_of(name: str, folder: Path, seed: int = 0) -> Recipe:
    config = CONFIGS[name]
    rest = {"optim": {"name": "momentum", "lr": 0.05}, "batch_size": 16, "epochs": 2, "seed": seed}
    return recipe_from_config({**rest, **config, "data": data_of(config["data"], folder)})


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in TIMING_METRICS}


def in_double(recipe: Recipe, cache: Path) -> Solo:
    """Return a run alone in double precision, from weights drawn in single precision, as lanes of that type do."""
    solo = Solo(recipe, "cpu", cache)
    solo._update = Update(solo.network.double(), recipe.optim, recipe.regularization)
    data = solo._data
    if data.train_x.is_floating_point():
        data = dataclasses.replace(data, train_x=data.train_x.double(), val_x=data.val_x.double())
    if not data.classes:
        data = dataclasses.replace(data, train_y=data.train_y.double(), val_y=data.val_y.double())
    solo._data, solo._examples = data, data.train_x
    return solo


def check_lanes(name: str, tmp_path: Path) -> None:
    recipes = [recipe_of(name, tmp_path, seed) for seed in range(2)]
    assert can_lane(recipes[0]) is None
    block = LaneBlock(recipes[0], 3, "cpu", tmp_path / "cache", compiled=False, dtype=torch.float64)
    for tag, recipe in enumerate(recipes):
        block.admit(recipe, tag)
    histories: list[list[dict[str, float]]] = [[], []]
    while block.tags:
        for report in block.epoch(lambda tag: False):
            histories[report.tag].append(untimed(report.metrics))
    for tag, recipe in enumerate(recipes):
        solo = in_double(recipe, tmp_path / "cache")
        for ours, (_, metrics, _) in zip(histories[tag], solo.reports(lambda: False), strict=True):
            assert ours == pytest.approx(untimed(metrics), rel=1e-8, abs=1e-10)
        lane = block.state_dict(tag)
        assert list(lane) == list(solo.state_dict())
        for key, value in solo.state_dict().items():
            # Dropout at 0.5 scales what it keeps by 2: alone it is by a number that is rounded to single precision.
            torch.testing.assert_close(lane[key], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_lanes_are_what_a_network_is_alone(name: str, tmp_path: Path) -> None:
    check_lanes(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("lstm", "transformer")])
def test_lanes_of_every_kind_are_what_a_network_is_alone(name: str, tmp_path: Path) -> None:
    check_lanes(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gpt"])
def test_compiled_lanes_too(name: str, tmp_path: Path) -> None:
    recipes = [recipe_of(name, tmp_path, seed) for seed in (0, 1, 0)]
    block = LaneBlock(recipes[0], 4, "cpu", tmp_path / "cache")
    assert (block.compiled, block.note) == (True, "")
    for tag, recipe in enumerate(recipes):
        block.admit(recipe, tag)
    reports = {report.tag: untimed(report.metrics) for report in block.epoch(lambda tag: False)}
    assert reports[0] == reports[2]
    for tag, recipe in enumerate(recipes[:2]):
        _, metrics, _ = next(Solo(recipe, "cpu", tmp_path / "cache").reports(lambda: False))
        assert reports[tag] == pytest.approx(untimed(metrics), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", ["gpt", "texts", "post"])
def test_a_trained_network_is_built_from_its_state(name: str, tmp_path: Path) -> None:
    solo = Solo(recipe_of(name, tmp_path), "cpu", tmp_path / "cache")
    state, data = solo.state_dict(), solo.dataset
    sequence = shape_from_state(solo.recipe.data, data.train_x.shape[1], state)
    assert sequence == data.sequence
    network = build(solo.recipe.model, data.train_x.shape[1], data.classes or 1, None, 0.0, None, sequence)
    network.load_state_dict(state)
    assert torch.equal(network.eval()(data.val_x), solo.network.eval()(data.val_x))


@pytest.mark.parametrize(("layers", "slow"), [(16, False), (17, True)])
def test_lanes_of_many_cells_one_after_the_other_are_slow_to_trace(layers: int, slow: bool) -> None:
    assert is_slow_to_trace(recipe_from_config({"model": {"name": "lstm", "layers": layers}})) == slow


def test_a_language_model_s_metrics_are_means_over_characters(tmp_path: Path) -> None:
    solo = Solo(recipe_of("gpt", tmp_path), "cpu", tmp_path / "cache")
    assert solo.dataset.val_y.shape[1] == 4
    *_, (_, metrics, _) = solo.reports(lambda: False)
    outputs = solo.network.eval()(solo.dataset.val_x).detach()
    losses = F.cross_entropy(outputs.flatten(0, 1), solo.dataset.val_y.flatten())
    assert metrics["val_loss"] == pytest.approx(losses.item(), rel=1e-5)
    assert metrics["val_bits_per_character"] == pytest.approx(losses.item() / math.log(2), rel=1e-5)
    right = (outputs.argmax(-1) == solo.dataset.val_y).double().mean().item()
    assert metrics["val_accuracy"] == pytest.approx(right)
    assert (
        "val_bits_per_character"
        not in next(Solo(recipe_of("texts", tmp_path), "cpu", tmp_path / "cache").reports(lambda: False))[1]
    )


def test_a_gpt_learns_what_comes_next(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("abcdefg " * 200)
    recipe = recipe_from_config(
        {
            "model": {"name": "gpt", "width": 16, "heads": 2, "depth": 1},
            "data": {"name": "text", "task": "language_model", "path": str(tmp_path / "book.txt"), "length": 8},
            "optim": {"lr": 0.01},
            "batch_size": 16,
            "epochs": 12,
        }
    )
    *_, (_, metrics, _) = Solo(recipe, "cpu", tmp_path / "cache").reports(lambda: False)
    assert metrics["val_accuracy"] == 1.0
