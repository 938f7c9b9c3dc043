"""The rule for all optimisers against torch's own, each a lane beside the others."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from swathe.training.lane_layout import Layout
from swathe.training.lane_optim import Coefficient, coefficients, update
from swathe.training.recipe import OPTIMIZERS, Recipe, Regularization

STEPS = 100
SHAPES = [(3, 5), (3,), (2, 3)]
REGULARIZATIONS = {
    "none": Regularization(),
    "l1": Regularization(l1=1e-2),
    "l2": Regularization(l2=1e-2),
    "decoupled": Regularization(weight_decay=0.1),
    "clipping": Regularization(clip_norm=1.0),
    "clipping by value": Regularization(clip_value=0.5),
    "all": Regularization(l1=1e-2, l2=1e-2, weight_decay=0.1, clip_norm=1.0),
}
RECIPES = [
    Recipe(optim=kind(name=name, lr=0.01), regularization=regularization)
    for name, kind in OPTIMIZERS.items()
    for regularization in REGULARIZATIONS.values()
]


def torch_optimizer(optim: Any, parameters: list[nn.Parameter], l2: float) -> torch.optim.Optimizer:
    match optim.name:
        case "sgd":
            return torch.optim.SGD(parameters, optim.lr, weight_decay=l2)
        case "momentum" | "nesterov":
            nesterov = optim.name == "nesterov"
            return torch.optim.SGD(parameters, optim.lr, optim.momentum, weight_decay=l2, nesterov=nesterov)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, optim.lr, optim.alpha, optim.eps, weight_decay=l2)
        case "adagrad":
            return torch.optim.Adagrad(parameters, optim.lr, eps=optim.eps, weight_decay=l2)
        case _:
            betas = (optim.beta1, optim.beta2)
            return torch.optim.Adam(parameters, optim.lr, betas, optim.eps, weight_decay=l2)


def draws(dtype: torch.dtype) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Return start values and the gradients of each step, some of them large."""
    draw = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in SHAPES]
    steps = [
        [(1 + step % 3) * torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in SHAPES]
        for step in range(STEPS)
    ]
    return start, steps


def oracle(recipe: Recipe, dtype: torch.dtype) -> list[Tensor]:
    start, steps = draws(dtype)
    parameters = [nn.Parameter(value.clone()) for value in start]
    regularization = recipe.regularization
    optimizer = torch_optimizer(recipe.optim, parameters, regularization.l2)
    decay = regularization.weight_decay
    if decay is None:
        decay = 0.01 if recipe.optim.name == "adamw" else 0.0
    for gradients in steps:
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient + regularization.l1 * parameter.sign()
            if regularization.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, regularization.clip_norm)
            if regularization.clip_value is not None:
                nn.utils.clip_grad_value_(parameters, regularization.clip_value)
            for parameter in parameters:
                parameter.mul_(1 - recipe.optim.lr * decay)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def lanes(recipes: list[Recipe], dtype: torch.dtype, spoilt: int | None = None) -> list[Tensor]:
    start, steps = draws(dtype)
    count = len(recipes)
    layout = Layout.of({str(index): value for index, value in enumerate(start)})
    rows = layout.join([value.expand(count, *value.shape) for value in start])
    first, second = ([torch.zeros_like(piece) for piece in rows] for _ in range(2))
    tables = torch.stack(
        [torch.from_numpy(coefficients(recipe, 0, [recipe.optim.lr] * STEPS)) for recipe in recipes], dim=1
    ).to(dtype)
    for step, gradients in enumerate(steps):
        given = [value.expand(count, *value.shape).clone() for value in gradients]
        if spoilt is not None:
            given[0][spoilt] = math.nan if step % 2 else math.inf
        update(rows, first, second, layout.join(given), tables[step])
    return layout.split(rows)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_every_optimiser_with_every_penalty_is_torch_s(dtype: torch.dtype, tolerance: float) -> None:
    stacked = lanes(RECIPES, dtype)
    for index, recipe in enumerate(RECIPES):
        for ours, theirs in zip(stacked, oracle(recipe, dtype), strict=True):
            assert float((ours[index] - theirs).norm() / theirs.norm()) < tolerance, recipe


def test_what_is_not_finite_in_a_lane_stays_there() -> None:
    clean = lanes(RECIPES, torch.float32)
    for spoilt in range(0, len(RECIPES), 7):
        others = [index for index in range(len(RECIPES)) if index != spoilt]
        for one, other in zip(clean, lanes(RECIPES, torch.float32, spoilt), strict=True):
            assert torch.equal(one[others], other[others])


def test_the_norm_is_each_lane_s_own_before_clipping() -> None:
    recipe = Recipe(regularization=Regularization(clip_norm=0.1))
    gradient = torch.tensor([[3.0, 0.0, 4.0], [6.0, 0.0, 8.0]])
    rows = [[torch.zeros(2, 2), torch.zeros(2, 1)] for _ in range(3)]
    table = torch.from_numpy(coefficients(recipe, 0, [0.1])).float().expand(2, -1)
    norms = update(*rows, list(gradient.split(2, dim=1)), table, [(0, slice(0, 2)), (1, slice(0, 1)), (0, slice(1, 2))])
    assert norms.tolist() == [[5.0, 3.0, 4.0, 0.0], [10.0, 6.0, 8.0, 0.0]]


@pytest.mark.parametrize("pieces", [3, 9, 14])
def test_the_bits_of_the_norm_depend_neither_on_the_lane_s_place_nor_on_its_neighbours(pieces: int) -> None:
    draw = torch.Generator().manual_seed(2)
    gradients = [torch.randn(33, 7, generator=draw) for _ in range(pieces)]
    table = torch.from_numpy(coefficients(Recipe(), 0, [0.1])).float()

    def norms(lanes: slice) -> Tensor:
        g = [gradient[lanes].clone() for gradient in gradients]
        rows = [[torch.zeros_like(gradient) for gradient in g] for _ in range(3)]
        return update(*rows, g, table.expand(len(g[0]), -1))

    together = norms(slice(None))
    for begin in range(33):
        for width in (1, 2, 8, 17):
            assert torch.equal(norms(slice(begin, begin + width)), together[begin : begin + width])


def test_bias_correction_goes_on_from_the_first_step() -> None:
    recipe = Recipe()
    whole = coefficients(recipe, 0, [0.1] * 10)
    assert (coefficients(recipe, 6, [0.1] * 4) == whole[6:]).all()
    assert whole.shape == (10, len(Coefficient))
