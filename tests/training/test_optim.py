"""The update against torch's own optimisers, penalties and clipping."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swathe.training.models import build
from swathe.training.optim import Update, decoupled_decay
from swathe.training.recipe import MLP, OPTIMIZERS, Adagrad, Adam, Momentum, Optim, Regularization, RMSprop

STEPS = 100
Parameters = list[nn.Parameter]
Oracle = Callable[[Parameters, float], torch.optim.Optimizer]

ORACLES: dict[str, tuple[Optim, Oracle]] = {
    "sgd": (Optim(lr=0.05), lambda p, l2: torch.optim.SGD(p, 0.05, weight_decay=l2)),
    "momentum": (Momentum(lr=0.02), lambda p, l2: torch.optim.SGD(p, 0.02, momentum=0.9, weight_decay=l2)),
    "nesterov": (
        Momentum(name="nesterov", lr=0.02),
        lambda p, l2: torch.optim.SGD(p, 0.02, momentum=0.9, nesterov=True, weight_decay=l2),
    ),
    "adagrad": (Adagrad(), lambda p, l2: torch.optim.Adagrad(p, 0.01, weight_decay=l2)),
    "rmsprop": (RMSprop(), lambda p, l2: torch.optim.RMSprop(p, 1e-3, alpha=0.99, eps=1e-8, weight_decay=l2)),
    "adam": (Adam(), lambda p, l2: torch.optim.Adam(p, 1e-3, weight_decay=l2)),
}


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return build(MLP(hidden=[16]), 12, 3, None, 0.0, torch.Generator().manual_seed(5)).to(dtype)


def losses(model: nn.Module, dtype: torch.dtype = torch.float64) -> Callable[[], Tensor]:
    draw = torch.Generator().manual_seed(6)

    def loss() -> Tensor:
        x = torch.randn(8, 12, generator=draw, dtype=torch.float64).to(dtype)
        y = torch.randint(0, 3, (8,), generator=draw)
        return F.cross_entropy(model(x), y)

    return loss


def ours(optim: Optim, regularization: Regularization, dtype: torch.dtype = torch.float64) -> Parameters:
    model = network(dtype)
    update, loss = Update(model, optim, regularization), losses(model, dtype)
    for _ in range(STEPS):
        update.step(loss(), optim.lr)
    return list(model.parameters())


def torchs(
    make: Oracle,
    l2: float = 0.0,
    prepare: Callable[[Parameters], object] = lambda parameters: None,
    penalty: Callable[[Parameters], Tensor | float] = lambda parameters: 0.0,
    dtype: torch.dtype = torch.float64,
) -> Parameters:
    model = network(dtype)
    parameters, loss = list(model.parameters()), losses(model, dtype)
    optimizer = make(parameters, l2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (loss() + penalty(parameters)).backward()  # type: ignore[no-untyped-call]
        prepare(parameters)
        optimizer.step()
    return parameters


def close(left: Parameters, right: Parameters, rtol: float = 1e-10) -> None:
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol * 1e-2)


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("l2", [0.0, 1e-2])
def test_optimisers_with_coupled_l2_are_torch_s(name: str, l2: float) -> None:
    optim, make = ORACLES[name]
    close(ours(optim, Regularization(l2=l2)), torchs(make, l2))


@pytest.mark.parametrize("name", ORACLES)
def test_optimisers_are_torch_s_in_single_precision(name: str) -> None:
    optim, make = ORACLES[name]
    left, right = ours(optim, Regularization(), torch.float32), torchs(make, dtype=torch.float32)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("decay", [None, 0.0, 0.1])
def test_adamw_is_torch_s(decay: float | None) -> None:
    weight_decay = {} if decay is None else {"weight_decay": decay}
    oracle = torchs(lambda parameters, l2: torch.optim.AdamW(parameters, 1e-3, **weight_decay))
    close(ours(Adam(name="adamw"), Regularization(weight_decay=decay)), oracle)


@pytest.mark.parametrize("name", ORACLES)
def test_decoupled_decay_shrinks_before_the_step(name: str) -> None:
    optim, make = ORACLES[name]

    def shrink(parameters: Parameters) -> None:
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(1 - optim.lr * 0.1)

    close(ours(optim, Regularization(weight_decay=0.1)), torchs(make, prepare=shrink))


def test_l1_is_the_gradient_of_the_sum_of_absolute_values() -> None:
    optim, make = ORACLES["adam"]
    oracle = torchs(make, penalty=lambda parameters: 1e-3 * sum(parameter.abs().sum() for parameter in parameters))
    close(ours(optim, Regularization(l1=1e-3)), oracle)


@pytest.mark.parametrize("bound", [0.1, 100.0])
def test_clipping_is_torch_s_and_the_norm_is_that_before_it(bound: float) -> None:
    optim, make = ORACLES["momentum"]
    oracle = torchs(make, prepare=lambda parameters: nn.utils.clip_grad_norm_(parameters, bound))
    close(ours(optim, Regularization(clip_norm=bound)), oracle)

    model = network()
    loss = losses(model)()
    gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    expected = nn.utils.get_total_norm(gradients)
    norm = Update(model, optim, Regularization(clip_norm=bound)).step(losses(model)(), 0.1)
    torch.testing.assert_close(norm, expected)


@pytest.mark.parametrize("bound", [0.01, 100.0])
def test_clipping_by_value_is_torch_s(bound: float) -> None:
    optim, make = ORACLES["momentum"]
    oracle = torchs(make, prepare=lambda parameters: nn.utils.clip_grad_value_(parameters, bound))
    close(ours(optim, Regularization(clip_value=bound)), oracle)


def test_the_rate_given_is_the_rate_used() -> None:
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    Update(model, Optim(lr=1.0), Regularization()).step(losses(model)(), 0.0)
    close([nn.Parameter(value) for value in before], list(model.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_default_decay_is_torch_s(name: str) -> None:
    optim = OPTIMIZERS[name](name=name)
    assert decoupled_decay(optim, Regularization()) == (0.01 if name == "adamw" else 0.0)
    assert decoupled_decay(optim, Regularization(weight_decay=0.5)) == 0.5
