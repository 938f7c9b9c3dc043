"""One update rule with coefficients a lane, which covers every optimiser of `optim.Update`.

The parameters p of a lane are a row in a few pieces, so that a step is one pass over memory however many layers there
are. With the gradient g, in the order of `Update`: g += l1 * sign(p); clipping of g, by its norm or by value;
p *= decay; g += l2 * p; then

    m = m_keep * m + m_take * g
    v = v_keep * v + v_take * g * g
    p -= rate * (nesterov * m + g  if nesterov else  m) / (v_scale * sqrt(v) + eps  if adaptive else  1)

| optimiser | m_keep | m_take | v_keep | v_take | nesterov | v_scale | rate |
|---|---|---|---|---|---|---|---|
| sgd | 0 | 1 | 0 | 0 | | | lr |
| momentum, nesterov | mu | 1 | 0 | 0 | mu | | lr |
| rmsprop | 0 | 1 | alpha | 1 - alpha | | 1 | lr |
| adagrad | 0 | 1 | 1 | 1 | | 1 | lr |
| adam, adamw | b1 | 1 - b1 | b2 | 1 - b2 | | 1 / sqrt(1 - b2^t) | lr / (1 - b1^t) |

With stages of its own rates (`training.transfer`) a lane has such a row of coefficients for each of them, as torch's
optimisers have for each parameter group; a stage that is frozen has M_TAKE 0, DECAY 1 and
no penalty.

The forms are those of torch.optim (Sutskever et al. 2013; Tieleman & Hinton 2012; Duchi et al. 2011; Kingma & Ba
2015, algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import IntEnum, auto
from functools import partial, reduce

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from swathe.training.optim import decoupled_decay
from swathe.training.recipe import Adagrad, Adam, FineTune, Momentum, Recipe, RMSprop
from swathe.training.transfer import first_epoch, frozen_stages, rate_factors

# A GPU adds up a row from its first multiple of so many elements on, which may be elsewhere in each row.
_ALIGNED = 4


class Coefficient(IntEnum):
    """The columns of a table of coefficients."""

    L1 = 0
    CLIP_NORM = auto()
    CLIP_VALUE = auto()
    DECAY = auto()
    L2 = auto()
    M_KEEP = auto()
    M_TAKE = auto()
    V_KEEP = auto()
    V_TAKE = auto()
    NESTEROV = auto()
    V_SCALE = auto()
    EPS = auto()
    RATE = auto()
    SMOOTHING = auto()


# Of a piece's columns from the first to the last: in which stage they are, and how many of them.
Runs = Sequence[tuple[int, int]]
# Gives a coefficient for the columns of a piece, `[K, 1]` or `[K, columns]`.
Columns = Callable[[Coefficient], Tensor]


def coefficients(recipe: Recipe, first: int, rates: ArrayLike) -> NDArray[np.float64]:
    """Return the coefficients `[steps, Coefficient]` of steps that have these rates, the first of them counted from 0.

    A V_SCALE of 0 says that the optimiser is not adaptive, a NESTEROV of 0 that it takes m as it is.
    """
    regularization, rate = recipe.regularization, np.asarray(rates, dtype=np.float64)
    table = np.zeros((len(rate), len(Coefficient)))
    table[:, Coefficient.L1] = regularization.l1
    table[:, Coefficient.L2] = regularization.l2
    table[:, Coefficient.CLIP_NORM] = math.inf if regularization.clip_norm is None else regularization.clip_norm
    table[:, Coefficient.CLIP_VALUE] = math.inf if regularization.clip_value is None else regularization.clip_value
    table[:, Coefficient.DECAY] = 1 - rate * decoupled_decay(recipe.optim, regularization)
    table[:, Coefficient.M_TAKE] = 1
    table[:, Coefficient.RATE] = rate
    table[:, Coefficient.SMOOTHING] = regularization.label_smoothing
    match recipe.optim:
        case Adam(beta1=beta1, beta2=beta2, eps=eps):
            step = np.arange(first + 1, first + 1 + len(rate))
            table[:, Coefficient.M_KEEP] = beta1
            table[:, Coefficient.M_TAKE] = 1 - beta1
            table[:, Coefficient.V_KEEP] = beta2
            table[:, Coefficient.V_TAKE] = 1 - beta2
            table[:, Coefficient.V_SCALE] = (1 - beta2**step) ** -0.5
            table[:, Coefficient.EPS] = eps
            table[:, Coefficient.RATE] = rate / (1 - beta1**step)
        case RMSprop(alpha=alpha, eps=eps):
            table[:, Coefficient.V_KEEP] = alpha
            table[:, Coefficient.V_TAKE] = 1 - alpha
            table[:, Coefficient.V_SCALE] = 1
            table[:, Coefficient.EPS] = eps
        case Adagrad(eps=eps):
            table[:, [Coefficient.V_KEEP, Coefficient.V_TAKE, Coefficient.V_SCALE]] = 1
            table[:, Coefficient.EPS] = eps
        case Momentum(name=name, momentum=momentum):
            table[:, Coefficient.M_KEEP] = momentum
            table[:, Coefficient.NESTEROV] = momentum if name == "nesterov" else 0
    return table


def stage_coefficients(
    recipe: Recipe, transfer: FineTune, stages: int, epoch: int, steps: int, rates: ArrayLike
) -> NDArray[np.float64]:
    """Return the coefficients `[steps, stages, Coefficient]` of an epoch, counted from 1, of `steps` steps.

    `rates` are the schedule's. What depends on how many steps there were counts those of the stage itself.
    """
    frozen, rate = frozen_stages(transfer, epoch), np.asarray(rates, dtype=np.float64)
    table = np.zeros((len(rate), stages, len(Coefficient)))
    table[:, :frozen, Coefficient.DECAY] = 1
    table[:, :, Coefficient.SMOOTHING] = recipe.regularization.label_smoothing
    factors = rate_factors(transfer, stages)
    for stage in range(frozen, stages):
        first = (epoch - first_epoch(transfer, stage)) * steps
        table[:, stage] = coefficients(recipe, first, list(rate * factors[stage]))
    return table


def update(
    p: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    g: list[Tensor],
    table: Tensor,
    watched: Sequence[tuple[int, slice]] = (),
    *,
    alter: bool = True,
) -> Tensor:
    """Update the pieces `[K, columns]` of K rows in place, the gradient's too.

    Returns the gradient's norms before clipping, `[K, 1 + watched]`: of all of it, and of each part that is `watched`,
    a piece and its columns. `table` is `[K, Coefficient]`. Without `alter` there is neither an L1 penalty nor clipping,
    and the gradient is read once less: a quarter of the time of a small network's step. Nothing is reduced over lanes,
    and what does not apply to a lane is chosen away, not multiplied by 0: what is not finite in one lane stays there.
    """
    return _update(p, m, v, g, table, [partial(_column, table)] * len(p), watched, alter=alter, stages=False)


def update_by_stage(
    p: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    g: list[Tensor],
    table: Tensor,
    runs: Sequence[Runs],
    watched: Sequence[tuple[int, slice]],
    *,
    alter: bool = True,
) -> Tensor:
    """Do what `update` does, with coefficients a stage: `table` is `[K, stages, Coefficient]`.

    `runs` say which stages the columns of each piece are in. `watched` is a part in each stage, and one in the last:
    returned are the norms `[K, 3]` of all that is trained, of the part in the first stage that is, and of the last.
    """
    columns = [partial(_spread, table, piece) for piece in runs]
    norms = _update(p, m, v, g, table[:, -1], columns, watched, alter=alter, stages=True)
    whole, parts = norms[:, :1], norms[:, 1:]
    frozen = (table[:, :, Coefficient.M_TAKE] == 0).sum(1, keepdim=True)
    return torch.cat([whole, parts.gather(1, frozen), parts[:, -1:]], dim=1)


def _column(table: Tensor, coefficient: Coefficient) -> Tensor:
    """Return a coefficient `[K, 1]` of `table` `[K, Coefficient]`, the same for all columns of a piece."""
    return table[:, coefficient, None]


def _spread(table: Tensor, runs: Runs, coefficient: Coefficient) -> Tensor:
    """Return a coefficient of `table` `[K, stages, Coefficient]` for each column of a piece, `[K, 1]` if all are one's.

    A row of blocks and no look-up, which compiled code would do element by element.
    """
    if len(runs) == 1:
        return table[:, runs[0][0], coefficient, None]
    return torch.cat([table[:, stage, coefficient, None].expand(-1, size) for stage, size in runs], dim=1)


def _update(
    p: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    g: list[Tensor],
    table: Tensor,
    columns: Sequence[Columns],
    watched: Sequence[tuple[int, slice]],
    *,
    alter: bool,
    stages: bool,
) -> Tensor:
    if stages:
        g = _trained(g, columns)
    for parameters, gradient, column in zip(p, g, columns, strict=True) if alter else ():
        gradient.addcmul_(parameters.sign(), column(Coefficient.L1))
    squares = [_square_sums(gradient) for gradient in g]
    # One after the other: a sum over a stack takes the pieces in an order that depends on the lane's place.
    norm = reduce(torch.add, squares).sqrt()
    norms = [norm, *(_norm(g[piece], places, squares[piece]) for piece, places in watched)]
    if alter:
        _clip(g, norm, table)
        # A norm that is not finite makes numbers of zeros that are none.
        g = _trained(g, columns) if stages else g
    for piece in zip(p, m, v, g, columns, strict=True):
        _update_piece(*piece)
    return torch.stack(norms, dim=1)


def _trained(g: list[Tensor], columns: Sequence[Columns]) -> list[Tensor]:
    """Return the gradient with zeros for what is frozen: no products with 0, as a lane's numbers may not be finite."""
    return [torch.where(column(Coefficient.M_TAKE) > 0, one, 0.0) for column, one in zip(columns, g, strict=True)]


def _norm(gradient: Tensor, columns: slice, square: Tensor) -> Tensor:
    # Often it is the whole piece, whose sum is there already.
    whole = columns == slice(0, gradient.shape[1])
    return (square if whole else _square_sums(gradient[:, columns])).sqrt()


def _square_sums(rows: Tensor) -> Tensor:
    """Return the sum of the squares of each row, whose last bits do not depend on which row it is."""
    squares = rows.square()
    rest = -rows.shape[1] % _ALIGNED
    if rest and rows.device.type != "cpu":
        # In this form the number of rows stays open in a graph that is traced, as in `lane_layout`.
        squares = torch.cat([squares, squares.new_zeros(rows.shape[0], rest)], dim=1)
    return squares.sum(1)


def _clip(g: list[Tensor], norm: Tensor, table: Tensor) -> None:
    bound, value = table[:, Coefficient.CLIP_NORM], table[:, Coefficient.CLIP_VALUE, None]
    scale = torch.where(bound.isinf(), 1.0, (bound / (norm + 1e-6)).clamp(max=1.0))[:, None]
    for gradient in g:
        gradient.mul_(scale).clamp_(-value, value)


def _update_piece(p: Tensor, m: Tensor, v: Tensor, g: Tensor, column: Columns) -> None:
    p.mul_(column(Coefficient.DECAY))
    g = torch.addcmul(g, p, column(Coefficient.L2))
    m.mul_(column(Coefficient.M_KEEP)).addcmul_(g, column(Coefficient.M_TAKE))
    v.mul_(column(Coefficient.V_KEEP)).addcmul_(g * g, column(Coefficient.V_TAKE))
    nesterov, v_scale = column(Coefficient.NESTEROV), column(Coefficient.V_SCALE)
    direction = torch.where(nesterov > 0, torch.addcmul(g, m, nesterov), m)
    denominator = v.sqrt().mul_(v_scale).add_(column(Coefficient.EPS))
    p.sub_(direction.div_(torch.where(v_scale > 0, denominator, 1.0)).mul_(column(Coefficient.RATE)))
