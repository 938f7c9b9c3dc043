"""The numbers that a step computes with: fp32, tf32, bf16 and fp16, as `torch.autocast` mixes them.

Parameters, moments, losses and penalties stay float32 (Micikevicius et al. 2018, "Mixed precision training"); matrix
products and convolutions are computed in the type that is asked for.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# As torch.amp.GradScaler begins and goes on.
_FIRST_SCALE, _GROWTH, _BACKOFF, _GROWTH_STEPS = 2.0**16, 2.0, 0.5, 2000


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """Return the context in which a forward pass has a recipe's precision."""
    if precision not in _AUTOCAST:
        return nullcontext()
    # Each weight is used once in a pass: a copy that is kept would only be another to forget.
    return torch.autocast(torch.device(device).type, _AUTOCAST[precision], cache_enabled=False)


def widened(x: Tensor) -> Tensor:
    """Return in float32 what was computed in fewer bits; anything else as it is."""
    return x.float() if x.dtype in _AUTOCAST.values() else x


def outputs_of(network: nn.Module, x: Tensor, precision: str, device: str) -> Tensor:
    """Return what a network gives for `x` in a recipe's precision, in float32 at least."""
    with autocast(precision, device):
        outputs: Tensor = network(x)
    return widened(outputs)


def set_products(precision: str, device: str) -> None:
    """Let a GPU round the factors of float32 products to tf32, or not; torch itself does it for convolutions alone.

    It holds for the whole process, so that whoever trains says it before each epoch. A CPU has no such numbers.
    """
    if torch.device(device).type == "cuda":
        chosen = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = chosen
        torch.backends.cudnn.conv.fp32_precision = chosen  # type: ignore[attr-defined]


class LossScale:
    """The factor of fp16's loss, without which small gradients would be 0 (Micikevicius et al. 2018, section 3.2).

    A step whose gradient is not finite is to be skipped, and halves the factor; 2,000 good ones in a row double it, as
    in `torch.amp.GradScaler`.
    """

    def __init__(self) -> None:
        self.value = _FIRST_SCALE
        self._good = 0

    def note(self, *, finite: bool) -> None:
        """Take note of whether a step's gradient was finite."""
        self._good = self._good + 1 if finite else 0
        if not finite:
            self.value *= _BACKOFF
        elif self._good == _GROWTH_STEPS:
            self.value *= _GROWTH
            self._good = 0


def loss_scale(precision: str) -> LossScale | None:
    """Return the factor that a run of this precision begins with, None where its loss needs none."""
    return LossScale() if precision == "fp16" else None
