"""How many lanes a step of a GPU's block computes, so that a trial's numbers do not depend on how many are live.

A GPU's libraries choose their kernels by the sizes of a product, and thus by the number of lanes: the same lane may get
other last bits among eight than among nine. So a step computes one of a few widths, which have been seen to give every
lane the very bits that a full block gives; those lanes that no trial has are computed and thrown away. A few widths are
also few CUDA graphs. (On a CPU the products of a batch are computed lane by lane.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# A step of fewer lanes takes no less time: launching its kernels does.
NARROWEST = 8
# So many steps are compared: a number or two, such as a gradient's norm, may be the same in one by chance.
STEPS = 8


def candidates(lanes: int) -> list[int]:
    """Return the widths below `lanes` that are worth a look, the largest first: powers of two."""
    widths = []
    width = NARROWEST
    while width < lanes:
        widths.append(width)
        width *= 2
    return widths[::-1]


def same_bits(lanes: int, compute: Callable[[int], Sequence[Tensor]]) -> list[int]:
    """Return the widths up to `lanes` with the bits of `lanes`, the smallest first.

    `compute` returns what it computes with so many lanes, each tensor `[width, ...]`.
    """
    full = [tensor.clone() for tensor in compute(lanes)]
    good = [
        width for width in candidates(lanes) if all(map(_equal, compute(width), (tensor[:width] for tensor in full)))
    ]
    return [*good[::-1], lanes]


def _equal(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8))
