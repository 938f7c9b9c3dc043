"""Numbers of fewer bits: that they are used, that lanes use them as a trial alone does, and fp16's loss scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from swathe.training.lanes import LaneBlock, can_lane
from swathe.training.optim import Update
from swathe.training.precision import LossScale, autocast
from swathe.training.recipe import TIMING_METRICS, Optim, Recipe, Regularization, recipe_from_config
from swathe.training.solo import Solo

MODELS: list[dict[str, Any]] = [
    {"hidden": [16], "norm": "batch"},
    {"hidden": [16], "norm": "layer", "activation": "gelu"},
    {"name": "cnn", "channels": [4], "hidden": [8], "norm": "batch"},
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision") / "data"


def recipe(precision: str, model: dict[str, Any] | None = None, seed: int = 0) -> Recipe:
    config = {
        "data": {"limit": 256},
        "model": model or {"hidden": [16]},
        "epochs": 3,
        "regularization": {"dropout": 0.2},
    }
    return recipe_from_config({**config, "precision": precision, "seed": seed})


def history(one: Recipe, cache: Path) -> list[dict[str, float]]:
    return [untimed(metrics) for _, metrics, _ in Solo(one, "cpu", cache).reports(lambda: False)]


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in TIMING_METRICS}


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_products_have_the_type_and_the_parameters_stay_float32(
    cache: Path, precision: str, dtype: torch.dtype
) -> None:
    solo = Solo(recipe(precision), "cpu", cache)
    seen: list[torch.dtype] = []
    layer = next(layer for layer in solo.network.modules() if isinstance(layer, nn.Linear))
    layer.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    for _ in solo.reports(lambda: False):
        pass
    assert set(seen) == {dtype}
    assert {value.dtype for value in solo.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_what_is_learned_is_close_to_float32(cache: Path, precision: str) -> None:
    whole, mixed = history(recipe("fp32"), cache), history(recipe(precision), cache)
    assert whole != mixed
    assert [report["val_loss"] for report in mixed] == pytest.approx([report["val_loss"] for report in whole], rel=0.02)


def test_on_a_cpu_tf32_is_fp32(cache: Path) -> None:
    assert history(recipe("tf32"), cache) == history(recipe("fp32"), cache)


@pytest.mark.parametrize("model", MODELS)
def test_lanes_are_close_to_a_trial_alone_and_their_bits_are_their_own(cache: Path, model: dict[str, Any]) -> None:
    one = recipe("bf16", model)
    alone, beside = (LaneBlock(one, lanes, "cpu", cache, compiled=False) for lanes in (1, 3))
    alone.admit(one, 2)
    for tag in range(3):
        # The same trial in the last lane.
        beside.admit(recipe("bf16", model, seed=2 - tag), tag)
    solo = history(one, cache)
    for epoch in range(3):
        (expected,) = alone.epoch(lambda tag: False)
        found = next(report for report in beside.epoch(lambda tag: False) if report.tag == 2)
        assert untimed(found.metrics) == untimed(expected.metrics)
        assert found.metrics["val_loss"] == pytest.approx(solo[epoch]["val_loss"], rel=0.02)


def test_fp16_is_no_lane() -> None:
    reason = can_lane(recipe("fp16"))
    assert reason is not None
    assert "precision: 'fp16'" in reason
    assert can_lane(recipe("bf16")) is None


def test_a_step_with_an_infinite_gradient_changes_only_the_scale() -> None:
    torch.manual_seed(0)
    network, scale = nn.Linear(3, 1), LossScale()
    update = Update(network, Optim(), Regularization(l2=0.1, weight_decay=0.1), scale)
    before, first = update.parameters.clone(), scale.value
    norm = update.step(network(torch.full((4, 3), 1e38)).sum() * 1e38, 0.1)
    assert not norm.isfinite()
    assert torch.equal(update.parameters, before)
    assert scale.value == first / 2
    update.step(network(torch.ones(4, 3)).sum(), 0.1)
    assert not torch.equal(update.parameters, before)


def test_the_scale_and_the_steps_are_those_of_torch_s_scaler() -> None:
    """A run in fp16 that overflows at first, beside the loop that torch documents."""
    examples = torch.randn(6, 8, 5, generator=torch.Generator().manual_seed(1)) * 30
    ours, theirs = (network_from(3) for _ in range(2))
    scale = LossScale()
    update = Update(ours, Optim(), Regularization(), scale)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale.value)
    for x in examples:
        update.step(loss_of(ours, x), 0.01)
        optimizer.zero_grad()
        scaler.scale(loss_of(theirs, x)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale.value
    assert scale.value < LossScale().value
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def network_from(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))


def loss_of(network: nn.Module, x: Tensor) -> Tensor:
    with autocast("fp16", "cpu"):
        outputs = network(x)
    return outputs.float().square().mean()
