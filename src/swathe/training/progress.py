"""What goes on from epoch to epoch in a run that is trained alone, and how it is cut out and put in again."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from swathe.training.optim import Update
from swathe.training.schedule import EarlyStopping, LearningRate


@dataclass(frozen=True, slots=True, eq=False)
class SoloState:
    """A run between two epochs: all that goes on with it, on the CPU.

    `epoch` is the last one done and `seconds` what all took; `network` are parameters and buffers by their names,
    `updates` the state of each of its optimisers.
    """

    epoch: int
    seconds: float
    rate: LearningRate
    stopping: EarlyStopping
    network: dict[str, Tensor]
    updates: tuple[dict[str, Any], ...]


class Progress:
    """How far a run has come: the epochs done, their time (seconds), its rate, its networks and their optimisers.

    `over`: whether it is done before its last epoch, as it has stopped early or its loss is not finite.
    """

    def __init__(
        self, network: nn.Module, updates: Sequence[Update], rate: LearningRate, stopping: EarlyStopping
    ) -> None:
        self._network = network
        self._updates = tuple(updates)
        self.rate = rate
        self._stopping = stopping
        self.epoch = 0
        self.seconds = 0.0
        self.over = False

    @property
    def size(self) -> int:
        """The number of parameters of the network."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    def end_epoch(self, epoch: int, seconds: float, val_loss: float) -> bool:
        """Take in that an epoch is done, which took so long; return whether the run is over with it."""
        self.epoch = epoch
        self.seconds += seconds
        self.over = not math.isfinite(val_loss) or self._stopping.is_over(val_loss)
        if not self.over:
            self.rate.end_epoch(val_loss)
        return self.over

    def cut(self) -> SoloState:
        """Return a copy of the state, which `resume` goes on from bit for bit."""
        network = {name: value.detach().cpu().clone() for name, value in self._network.state_dict().items()}
        updates = tuple(update.state() for update in self._updates)
        return SoloState(self.epoch, self.seconds, replace(self.rate), replace(self._stopping), network, updates)

    def resume(self, state: SoloState) -> None:
        """Go on from a state of the same recipe."""
        self.epoch, self.seconds = state.epoch, state.seconds
        self.rate, self._stopping = replace(state.rate), replace(state.stopping)
        # In place: the optimiser's vector stays what the parameters are views of.
        self._network.load_state_dict(state.network)
        for update, saved in zip(self._updates, state.updates, strict=True):
            update.set_state(copy.deepcopy(saved))


class Resumable:
    """A run trained alone whose `_progress` can be cut out after a report, and put into another run of its recipe."""

    _progress: Progress

    def cut(self) -> SoloState:
        """Return a copy of the state after the last report, from which `resume` goes on bit for bit."""
        return self._progress.cut()

    @property
    def size(self) -> int:
        """The number of parameters of the network."""
        return self._progress.size

    @property
    def over(self) -> bool:
        """Whether the last report was the last one of all."""
        return self._progress.over or self._progress.epoch == self._progress.rate.epochs

    def resume(self, state: SoloState) -> None:
        """Let the reports begin after the last epoch of `state`, which is one of the same recipe."""
        self._progress.resume(state)
