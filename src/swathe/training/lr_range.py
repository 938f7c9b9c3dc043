"""What a learning-rate range test measures and says; needs NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Method(Enum):
    """How the rates were tried: each by a lane of its own, or by one run that goes through them."""

    LANES = "lanes"
    RAMP = "ramp"


@dataclass(frozen=True, slots=True, eq=False)
class RangeTest:
    """What a range test measured: the loss `[N]` at the end of each of the `rates` `[N]`, which ascend.

    A loss is infinite where the training broke down. `untrained` is what the network as it was has on the same batches.
    """

    method: Method
    rates: Array
    losses: Array
    untrained: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What a range test says; rates by their index in it, None where no rate learns.

    `lowest` is the lowest rate that learns at all, `best` the one with the lowest loss, `highest` the highest stable
    one. `lr` is the rate to train with, `low` and `high` the range to search.
    """

    diverged: tuple[bool, ...]
    lowest: int | None = None
    best: int | None = None
    highest: int | None = None
    lr: float | None = None
    low: float | None = None
    high: float | None = None
