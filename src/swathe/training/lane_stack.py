"""What lanes have rows of, whatever they train: a stack of tensors, and the networks whose tensors lie in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from swathe.training import health, streams
from swathe.training.augment import Augment
from swathe.training.lane_layout import Layout
from swathe.training.lane_modules import LaneDropout
from swathe.training.lane_optim import Coefficient
from swathe.training.recipe import Model, SequenceShape

Tensors = list[Tensor]
Graph = Callable[[Tensors], Tensors]


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a program depends on: sizes, device and type, but no recipe's values and not the number of lanes.

    `key` stands for `model`; `batch` is the examples of a step, `rows` those of an evaluation. `classes` is 0 for a
    regression. `threads` is torch's number, for which code is generated. `layers`: a step gives the gradient's norm of
    every weight matrix, and not of the first and the last alone, which takes another look at each.
    """

    key: str
    model: Model = field(compare=False)
    dropout: bool
    alters_gradient: bool
    precision: str
    batch: int
    rows: int
    examples: int
    features: int
    classes: int
    image_shape: tuple[int, int, int] | None
    device: str
    dtype: torch.dtype
    threads: int
    augmentation: tuple[str, ...] = ()
    transfer: bool = False
    sequence: SequenceShape | None = None
    layers: bool = False

    @property
    def tokens(self) -> bool:
        """Whether examples are numbers of tokens, and not values."""
        return self.sequence is not None and self.sequence.vocabulary > 0

    @property
    def targets(self) -> int:
        """How many targets an example has."""
        return 1 if self.sequence is None else self.sequence.targets


@dataclass(slots=True)
class Stack:
    """The tensors of K lanes: `parameters` and the two moments `[K, width]`, `buffers` `[K, width]`.

    Of the dropout layers, `thresholds` `[K, layers]` are what `streams.keeps` takes, and `scales` are 1 / (1 - p).
    """

    parameters: Tensor
    first_moment: Tensor
    second_moment: Tensor
    buffers: Tensor
    thresholds: Tensor
    scales: Tensor

    def saved(self) -> Tensors:
        """Return what a lane's state consists of."""
        return [self.parameters, self.first_moment, self.second_moment, self.buffers]

    def all(self) -> Tensors:
        """Return everything that a lane has a row of."""
        return [*self.saved(), self.thresholds, self.scales]

    def first(self, lanes: int) -> Stack:
        """Return the first `lanes` of them, as views."""
        return Stack(*(rows[:lanes] for rows in self.all()))

    def copied(self, lanes: list[int]) -> Stack:
        """Return a copy of these lanes."""
        return Stack(*(rows[lanes] for rows in self.all()))


class LaneNetworks(ABC):
    """What a lane trains, one network or several, and where the tensors of all lie in its rows.

    `names` are those of all tensors in the order that a state dictionary has; `layers` what stands in a step's norms
    after that of all, in order of depth, or nothing. A lane's step takes a row of `Coefficient` for each of `stages`.
    """

    geometry: Geometry
    names: list[str]
    parameters: Layout
    buffers: Layout
    augment: Augment
    units: health.Units
    layers: list[str]
    stages: int

    @property
    @abstractmethod
    def dropouts(self) -> list[LaneDropout]:
        """The layers whose masks are drawn, in order."""

    @property
    @abstractmethod
    def working_set(self) -> int:
        """About how many numbers a lane takes in a step and in an evaluation together, besides its rows."""

    @abstractmethod
    def graphs(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """Return the traced graphs of a step and of an evaluation, each with fake tensors for its inputs."""

    @abstractmethod
    def sample(self, rows: Tensor) -> Tensor:
        """Return a copy of what `health.sampled` takes of the lanes' rows of parameters, or of all of them."""

    def as_state(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a lane's tensors, which are of the stack's type, as its state dictionary."""
        return {name: tensors[name] for name in self.names}

    def trained(self, table: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        """Return such copies with 0 for what a step by this table, which may have spare lanes, has not trained."""
        return rows

    @property
    def coefficients(self) -> int:
        """How many coefficients a step of a lane takes."""
        return self.stages * len(Coefficient)

    def new_stack(self, lanes: int) -> Stack:
        """Return the tensors of K lanes: parameters and moments 0, nothing dropped."""
        device, dtype = self.geometry.device, self.geometry.dtype

        def zeros(layout: Layout) -> Tensor:
            return torch.zeros(lanes, layout.width, dtype=dtype, device=device)

        parameters, first, second = (zeros(self.parameters) for _ in range(3))
        layers = (lanes, len(self.dropouts))
        thresholds = torch.full(layers, streams.dropout_threshold(0.0), dtype=torch.int32, device=device)
        scales = torch.ones(layers, dtype=dtype, device=device)
        return Stack(parameters, first, second, zeros(self.buffers), thresholds, scales)

    def pieces(self, stack: Stack) -> Tensors:
        """Return what a step takes of a stack, and changes in place: the pieces of its rows, as views."""
        rows = [stack.parameters, stack.first_moment, stack.second_moment]
        cut = [piece for tensor in rows for piece in self.parameters.cut(tensor)]
        return [*cut, *self.buffers.cut(stack.buffers), stack.thresholds, stack.scales]

    def taken(self, tensors: tuple[Tensor, ...]) -> tuple[Tensors, Tensors, Tensors, Tensors, Tensors]:
        """Return what a step is given: the pieces of parameters, both moments and buffers; and all that follows."""
        counts = [len(self.parameters.pieces)] * 3 + [len(self.buffers.pieces)]
        given, found = list(tensors), []
        for count in counts:
            found.append(given[:count])
            given = given[count:]
        parameters, first, second, buffers = found
        return parameters, first, second, buffers, given
