"""One update rule with coefficients a lane, which covers every optimiser of `optim.Update`.

With the gradient g, in the order of `Update`: g += l1 * sign(p); clipping of g's norm; p *= decay; g += l2 * p; then

    m = m_keep * m + m_take * g
    v = v_keep * v + v_take * g * g
    p -= rate * (nesterov * m + g  if nesterov else  m) / (v_scale * sqrt(v) + eps  if adaptive else  1)

| optimiser | m_keep | m_take | v_keep | v_take | nesterov | v_scale | rate |
|---|---|---|---|---|---|---|---|
| sgd | 0 | 1 | 0 | 0 | | | lr |
| momentum, nesterov | mu | 1 | 0 | 0 | mu | | lr |
| rmsprop | 0 | 1 | alpha | 1 - alpha | | 1 | lr |
| adam, adamw | b1 | 1 - b1 | b2 | 1 - b2 | | 1 / sqrt(1 - b2^t) | lr / (1 - b1^t) |

The forms are those of torch.optim (Sutskever et al. 2013; Tieleman & Hinton 2012; Kingma & Ba 2015, algorithm 1).
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
from swathe.training.recipe import Adam, Momentum, Recipe, RMSprop


class Coefficient(IntEnum):
    """The columns of a table of coefficients."""

    L1 = 0
    CLIP_NORM = auto()
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


def coefficients(recipe: Recipe, first: int, rates: Sequence[float]) -> NDArray[np.float64]:
    """Return the coefficients `[steps, Coefficient]` of steps that have these rates, the first of them counted from 0.

    A V_SCALE of 0 says that the optimiser is not adaptive, a NESTEROV of 0 that it takes m as it is.
    """
    regularization, rate = recipe.regularization, np.asarray(rates, dtype=np.float64)
    table = np.zeros((len(rate), len(Coefficient)))
    table[:, Coefficient.L1] = regularization.l1
    table[:, Coefficient.L2] = regularization.l2
    table[:, Coefficient.CLIP_NORM] = math.inf if regularization.clip_norm is None else regularization.clip_norm
    table[:, Coefficient.DECAY] = 1 - rate * decoupled_decay(recipe.optim, regularization)
    table[:, Coefficient.M_TAKE] = 1
    table[:, Coefficient.RATE] = rate
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
        case Momentum(name=name, momentum=momentum):
            table[:, Coefficient.M_KEEP] = momentum
            table[:, Coefficient.NESTEROV] = momentum if name == "nesterov" else 0
    return table


def update(
    parameters: Sequence[Tensor],
    first_moments: Sequence[Tensor],
    second_moments: Sequence[Tensor],
    gradients: Sequence[Tensor],
    table: Tensor,
    active: Tensor,
) -> Tensor:
    """Update stacked tensors `[K, ...]` in place, the gradients too; returns the norms `[K]` before clipping.

    `table` is `[K, Coefficient]`; the parameters of a lane that is not `active` `[K]` stay as they are. Nothing is
    reduced over lanes, and what does not apply to a lane is chosen away, not multiplied by 0: what is not finite in
    one lane stays there.
    """
    for p, g in zip(parameters, gradients, strict=True):
        g.addcmul_(p.sign(), _column(table, Coefficient.L1, p))
    norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients], dim=1).sum(1).sqrt()
    bound = table[:, Coefficient.CLIP_NORM]
    scale = torch.where(bound.isinf(), 1.0, (bound / (norm + 1e-6)).clamp(max=1.0))
    decay = torch.where(active, table[:, Coefficient.DECAY], 1.0)
    for p, m, v, g in zip(parameters, first_moments, second_moments, gradients, strict=True):
        shape = _shape(p)
        g.mul_(scale.view(shape))
        p.mul_(decay.view(shape))
        g.addcmul_(p, _column(table, Coefficient.L2, p))
        m.mul_(_column(table, Coefficient.M_KEEP, p)).addcmul_(g, _column(table, Coefficient.M_TAKE, p))
        v.mul_(_column(table, Coefficient.V_KEEP, p)).addcmul_(g * g, _column(table, Coefficient.V_TAKE, p))
        nesterov, v_scale = _column(table, Coefficient.NESTEROV, p), _column(table, Coefficient.V_SCALE, p)
        direction = torch.where(nesterov > 0, torch.addcmul(g, m, nesterov), m)
        denominator = v.sqrt().mul_(v_scale).add_(_column(table, Coefficient.EPS, p))
        change = direction.div_(torch.where(v_scale > 0, denominator, 1.0)).mul_(_column(table, Coefficient.RATE, p))
        p.sub_(torch.where(active.view(shape), change, 0.0))
    return norm


def _shape(like: Tensor) -> tuple[int, ...]:
    return (len(like),) + (1,) * (like.dim() - 1)


def _column(table: Tensor, column: Coefficient, like: Tensor) -> Tensor:
    return table[:, column].view(_shape(like))
