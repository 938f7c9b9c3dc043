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

The forms are those of torch.optim (Sutskever et al. 2013; Tieleman & Hinton 2012; Duchi et al. 2011; Kingma & Ba
2015, algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum, auto

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swathe.training.optim import decoupled_decay
from swathe.training.recipe import Adagrad, Adam, Momentum, Recipe, RMSprop


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


def coefficients(recipe: Recipe, first: int, rates: Sequence[float]) -> NDArray[np.float64]:
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
    for parameters, gradient in zip(p, g, strict=True) if alter else ():
        gradient.addcmul_(parameters.sign(), table[:, Coefficient.L1, None])
    squares = [gradient.square().sum(1) for gradient in g]
    norm = torch.stack(squares).sum(0).sqrt()
    norms = [norm, *(_norm(g[piece], columns, squares[piece]) for piece, columns in watched)]
    if alter:
        _clip(g, norm, table)
    for piece in zip(p, m, v, g, strict=True):
        _update_piece(*piece, table)
    return torch.stack(norms, dim=1)


def _norm(gradient: Tensor, columns: slice, square: Tensor) -> Tensor:
    # Often it is the whole piece, whose sum is there already.
    whole = columns == slice(0, gradient.shape[1])
    return (square if whole else gradient[:, columns].square().sum(1)).sqrt()


def _clip(g: list[Tensor], norm: Tensor, table: Tensor) -> None:
    bound, value = table[:, Coefficient.CLIP_NORM], table[:, Coefficient.CLIP_VALUE, None]
    scale = torch.where(bound.isinf(), 1.0, (bound / (norm + 1e-6)).clamp(max=1.0))[:, None]
    for gradient in g:
        gradient.mul_(scale).clamp_(-value, value)


def _update_piece(p: Tensor, m: Tensor, v: Tensor, g: Tensor, table: Tensor) -> None:
    def column(coefficient: Coefficient) -> Tensor:
        return table[:, coefficient, None]

    p.mul_(column(Coefficient.DECAY))
    g = torch.addcmul(g, p, column(Coefficient.L2))
    m.mul_(column(Coefficient.M_KEEP)).addcmul_(g, column(Coefficient.M_TAKE))
    v.mul_(column(Coefficient.V_KEEP)).addcmul_(g * g, column(Coefficient.V_TAKE))
    nesterov, v_scale = column(Coefficient.NESTEROV), column(Coefficient.V_SCALE)
    direction = torch.where(nesterov > 0, torch.addcmul(g, m, nesterov), m)
    denominator = v.sqrt().mul_(v_scale).add_(column(Coefficient.EPS))
    p.sub_(direction.div_(torch.where(v_scale > 0, denominator, 1.0)).mul_(column(Coefficient.RATE)))
