"""The program of a lane block: forward, backward and update of K lanes as one graph, traced once and compiled.

The graph is traced by `make_fx` down to plain tensor operations, so that a step has no `vmap`, no autograd and no
module left in it; TorchInductor turns it into C++ or Triton, and without a compiler it is run as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from swathe.training.lane_modules import BATCH_NORM_MOMENTUM, LaneBatchNorm, LaneDropout, replace_layers
from swathe.training.lane_optim import Coefficient, update
from swathe.training.models import build
from swathe.training.recipe import Model

# A lane's part of every stacked tensor begins at a multiple of so many bytes: matrix products may depend on alignment
# in their last bits, and a trial's numbers must not depend on its lane.
_ALIGNMENT = 64
# Programs kept by a process: the structures of one sweep, each in a few sizes.
_PROGRAMS = 16

Tensors = list[Tensor]


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a program depends on: sizes, device and type, but no recipe's values.

    `key` stands for `model`; `batch` is the examples of a step, `rows` those of an evaluation. `classes` is 0 for a
    regression. `threads` is torch's number, for which code is generated.
    """

    key: str
    model: Model = field(compare=False)
    lanes: int
    batch: int
    rows: int
    examples: int
    features: int
    classes: int
    image_shape: tuple[int, int, int] | None
    device: str
    dtype: torch.dtype
    threads: int


@dataclass(slots=True)
class Stack:
    """The tensors of K lanes, each `[K, ...]`, which steps update in place.

    `masks` and `scales` are of the dropout layers: `keep` `[K, batch, *shape]` and 1 / (1 - p) `[K]`.
    """

    parameters: Tensors
    first_moments: Tensors
    second_moments: Tensors
    buffers: Tensors
    masks: Tensors
    scales: Tensors

    def saved(self) -> list[Tensors]:
        """Return what a lane's state consists of."""
        return [self.parameters, self.first_moments, self.second_moments, self.buffers]


class Program:
    """The two graphs of a geometry, and the names of a lane's tensors; `note` says why they are not compiled."""

    def __init__(self, geometry: Geometry, compiled: bool) -> None:
        self.geometry = geometry
        self._network = _template(geometry)
        # In the order that a state dictionary has.
        self.names = list(self._network.state_dict())
        self.parameters = [name for name, _ in self._network.named_parameters()]
        layers = list(self._network.named_modules())
        self._norms = [layer for _, layer in layers if isinstance(layer, LaneBatchNorm)]
        norms = [name for name, layer in layers if isinstance(layer, LaneBatchNorm)]
        self.buffers = [f"{name}.{what}" for name in norms for what in ("running_mean", "running_var")]
        self.dropouts = [name for name, layer in layers if isinstance(layer, LaneDropout)]
        self.shapes = [layer.shape for _, layer in layers if isinstance(layer, LaneDropout)]
        self.note = ""
        stack = self.new_stack()
        examples = _examples(geometry)
        self._network.train()
        step = [*self._flat(stack), *stack.masks, *stack.scales, *examples.step]
        step_graph = _traced(self._step_graph, step)
        self._network.eval()
        evaluation = [*stack.parameters, *stack.buffers, *examples.evaluation]
        evaluation_graph = _traced(self._evaluation_graph, evaluation)
        self._step: Callable[..., Any] = step_graph
        self._evaluation: Callable[..., Any] = evaluation_graph
        if compiled:
            try:
                self._step = _compiled(step_graph, step, geometry.threads)
                self._evaluation = _compiled(evaluation_graph, evaluation, geometry.threads)
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:200]
                self.note = f"lanes run uncompiled, as their program could not be compiled: {reason}"

    def new_stack(self) -> Stack:
        """Return the tensors of K lanes: parameters and moments 0, every dropout mask full."""
        geometry, state = self.geometry, dict(self._network.state_dict())
        lanes, device, dtype = geometry.lanes, geometry.device, geometry.dtype

        def zeros(names: Sequence[str]) -> Tensors:
            return [_aligned(lanes, state[name].shape, dtype, device) for name in names]

        keep = [torch.ones(lanes, geometry.batch, *shape, dtype=torch.bool, device=device) for shape in self.shapes]
        scales = [torch.ones(lanes, dtype=dtype, device=device) for _ in self.shapes]
        first, second = zeros(self.parameters), zeros(self.parameters)
        return Stack(zeros(self.parameters), first, second, zeros(self.buffers), keep, scales)

    def step(
        self, stack: Stack, x: Tensor, y: Tensor, rows: Tensor, table: Tensor, active: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Train a step on the examples `rows` `[K * batch]` of `x` and `y`; returns losses and gradient norms `[K]`.

        `table` is `[K, Coefficient]`. The parameters and buffers of a lane that is not `active` `[K]` stay as they are.
        """
        loss, norm = self._step(*self._flat(stack), *stack.masks, *stack.scales, x, y, rows, table, active)
        return loss, norm

    def evaluate(self, stack: Stack, x: Tensor, y: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Return each lane's sum of losses and number of right answers, over the rows that are `counted` `[rows]`."""
        loss, right = self._evaluation(*stack.parameters, *stack.buffers, x, y, counted)
        return loss, right

    def _flat(self, stack: Stack) -> Tensors:
        return [tensor for tensors in stack.saved() for tensor in tensors]

    def _step_graph(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        rest = list(tensors)
        parameters, first, second = (_take(rest, len(self.parameters)) for _ in range(3))
        buffers = _take(rest, len(self.buffers))
        masks, scales = (_take(rest, len(self.dropouts)) for _ in range(2))
        x, y, rows, table, active = rest
        batch = (self.geometry.lanes, self.geometry.batch)
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in parameters]
            outputs, statistics = self._forward(leaves, buffers, masks, scales, x[rows].view(*batch, -1))
            loss = self._losses(outputs, y[rows].view(batch)).mean(1)
            gradients = torch.autograd.grad(loss.sum(), leaves)
        norm = update(parameters, first, second, gradients, table, active)
        for running, of_batch in zip(buffers, statistics, strict=True):
            moved = running * (1 - BATCH_NORM_MOMENTUM) + of_batch * BATCH_NORM_MOMENTUM
            running.copy_(torch.where(active[:, None], moved, running))
        return loss.detach(), norm

    def _evaluation_graph(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        rest = list(tensors)
        parameters, buffers = _take(rest, len(self.parameters)), _take(rest, len(self.buffers))
        x, y, counted = rest
        outputs, _ = self._forward(parameters, buffers, [], [], x.expand(self.geometry.lanes, *x.shape))
        losses = self._losses(outputs, y.expand(self.geometry.lanes, *y.shape))
        loss = torch.where(counted, losses, 0.0).double().sum(1)
        return loss, ((outputs.argmax(2) == y) & counted).sum(1)

    def _forward(
        self, parameters: Tensors, buffers: Tensors, masks: Tensors, scales: Tensors, x: Tensor
    ) -> tuple[Tensor, Tensors]:
        """Return the outputs `[K, rows, outputs]` of `x` `[K, rows, features]`, and batch norm's statistics."""
        names = [*self.parameters, *self.buffers]
        for what, given in (("keep", masks), ("scale", scales)):
            names += [f"{name}.{what}" for name, _ in zip(self.dropouts, given, strict=False)]

        def one(tensors: Tensors, x: Tensor) -> tuple[Tensor, Tensors]:
            outputs = functional_call(self._network, dict(zip(names, tensors, strict=True)), (x,))
            statistics = [norm.statistics for norm in self._norms if norm.training]
            return outputs, [tensor for pair in statistics if pair is not None for tensor in pair]

        outputs, statistics = vmap(one)([*parameters, *buffers, *masks, *scales], x)
        return outputs, statistics

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each example `[K, rows]`."""
        if not self.geometry.classes:
            return (outputs.squeeze(2) - targets).square()
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


@lru_cache(maxsize=_PROGRAMS)
def program(geometry: Geometry, compiled: bool) -> Program:
    """Return the program of a geometry; the last few of the process are kept."""
    return Program(geometry, compiled)


def no_compiler(cache: Path) -> str:
    """Return one line when nothing can be compiled here, else "", with compiled artefacts to be kept beside `cache`."""
    # Before the import, which may settle on a folder of its own.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.absolute().parent / "compiled"))
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return (
            "lanes run uncompiled, as there is no C++ compiler on this machine; with g++ they are several times faster."
        )
    return ""


@dataclass(frozen=True, slots=True)
class _Examples:
    """Tensors of the right shape for what a step and an evaluation are given."""

    step: Tensors
    evaluation: Tensors


def _examples(geometry: Geometry) -> _Examples:
    device, dtype, lanes = geometry.device, geometry.dtype, geometry.lanes
    target = torch.int64 if geometry.classes else dtype

    def part(rows: int) -> Tensors:
        x = torch.zeros(rows, geometry.features, dtype=dtype, device=device)
        return [x, torch.zeros(rows, dtype=target, device=device)]

    rows = torch.zeros(lanes * geometry.batch, dtype=torch.int64, device=device)
    table = torch.zeros(lanes, len(Coefficient), dtype=dtype, device=device)
    active, counted = (torch.ones(size, dtype=torch.bool, device=device) for size in (lanes, geometry.rows))
    return _Examples([*part(geometry.examples), rows, table, active], [*part(geometry.rows), counted])


def _template(geometry: Geometry) -> nn.Module:
    outputs, generator = geometry.classes or 1, torch.Generator()
    # Any dropout: the layers are there for all lanes, and a lane without dropout has masks of ones.
    network = build(geometry.model, geometry.features, outputs, geometry.image_shape, 0.5, generator)
    replace_layers(network)
    return network.to(geometry.device, geometry.dtype)


def _aligned(lanes: int, shape: torch.Size, dtype: torch.dtype, device: str) -> Tensor:
    unit = _ALIGNMENT // dtype.itemsize
    stride = -(-shape.numel() // unit) * unit
    whole = torch.zeros(lanes, stride, dtype=dtype, device=device)
    return whole[:, : shape.numel()].view(lanes, *shape)


def _take(tensors: Tensors, count: int) -> Tensors:
    taken = tensors[:count]
    del tensors[:count]
    return taken


@torch.no_grad()
def _traced(graph: Callable[..., Any], examples: Tensors) -> GraphModule:
    return make_fx(graph, tracing_mode="fake")(*examples)


@torch.no_grad()
def _compiled(graph: GraphModule, examples: Tensors, threads: int) -> Callable[..., Any]:
    import torch._inductor
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # Inductor's cache on disk takes only graphs that were traced with an environment of shapes.
    context = TracingContext(FakeTensorMode(shape_env=ShapeEnv()))
    # The number of threads is written into the code, so it must be part of what the cache knows it by.
    with tracing(context), config.patch({"cpp.threads": threads, "compile_threads": 1}):
        compiled: Callable[..., Any] = torch._inductor.compile(graph, list(examples))
    return compiled
