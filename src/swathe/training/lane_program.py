"""The program of a lane block: a step of K lanes (forward, backward, update) as one graph, evaluation as another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from swathe.training import health, streams
from swathe.training.augment import Augment, mixed
from swathe.training.lane_graph import traced
from swathe.training.lane_layout import Layout
from swathe.training.lane_modules import LaneBatchNorm, LaneDropout, lane_operations, replace_layers
from swathe.training.lane_optim import Coefficient, update, update_by_stage
from swathe.training.lane_stack import Geometry, Graph, LaneNetworks, Stack, Tensors
from swathe.training.models import build
from swathe.training.own import lane_buffers
from swathe.training.precision import autocast, widened
from swathe.training.recipe import GAN, Own
from swathe.training.transfer import first_weights, stages

__all__ = ["Geometry", "Graph", "LaneNetworks", "Network", "Program", "Stack", "Step", "network_of"]

# Programs kept by a process: the structures of one sweep.
_PROGRAMS = 16

# Trains a step on the examples `rows` `[K, batch]`, with coefficients `[K, Coefficient]`, followed by the strengths of
# augmentations, and the words `[K, layers, 2]` that dropout masks are drawn from, followed by those of augmentations;
# returns losses `[K]` and gradient norms `[K, 3 + between]`: of all, of the first and of the last weights, and, without
# stages of their own, of those between. Two networks against each other (`gan_program`) take their noise besides.
Step = Callable[..., tuple[Tensor, Tensor]]


class Network(LaneNetworks):
    """The network of a geometry in the form that lanes take, and where its tensors lie."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self._module = _template(geometry)
        state = self._module.state_dict()
        # In the order that a state dictionary has.
        self.names = list(state)
        layers = list(self._module.named_modules())
        self._norms = [layer for _, layer in layers if isinstance(layer, LaneBatchNorm)]
        norms = [name for name, layer in layers if isinstance(layer, LaneBatchNorm)]
        buffers = [f"{name}.{what}" for name in norms for what in ("running_mean", "running_var")]
        # Those that a step leaves as they are, in the stack's type; a network of ours has none.
        others = lane_buffers(self._module) if isinstance(geometry.model, Own) else {}
        self._kinds = {name: value.dtype for name, value in others.items() if name not in buffers}
        kept = {name: value.to(geometry.dtype) for name, value in others.items() if name in self._kinds}
        self.parameters = Layout.of(dict(self._module.named_parameters()))
        self.buffers = Layout.of({**{name: state[name] for name in buffers}, **kept})
        self.augment = Augment(geometry.augmentation, geometry.image_shape, geometry.sequence)
        self._dropouts = {name: layer for name, layer in layers if isinstance(layer, LaneDropout)}
        self.units = health.Units(self._module)
        stage_of = stages(self.names) if geometry.transfer else dict.fromkeys(self.names, 0)
        columns = self.parameters.columns(health.sampled(sum(self.parameters.sizes)))
        self._sampled = torch.tensor(columns, device=geometry.device)
        # One without transfer, which knows none.
        self.stages = 1 + max(stage_of.values())
        self._norm_stages = {name: stage_of[f"{name}.running_mean"] for name in norms}
        own = [stage_of[name] for name in self.parameters.names]
        self._runs = self.parameters.runs(own)
        first, last = health.first_and_last_weights(self.parameters.shapes)
        firsts = first_weights(self.parameters.shapes, own) if geometry.transfer else [first]
        every = geometry.layers and not geometry.transfer
        between = health.layers_between(self.parameters.shapes) if every else []
        self._watched = [self.parameters.place(index) for index in (*firsts, last, *between)]
        # With stages, the first may be any.
        self.layers = health.layer_metrics(self.parameters.names, self.parameters.shapes) if every else []

    @property
    def dropouts(self) -> list[LaneDropout]:
        return list(self._dropouts.values())

    def as_state(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensors[name].to(self._kinds.get(name, tensors[name].dtype)) for name in self.names}

    def sample(self, rows: Tensor) -> Tensor:
        # Those of a stage are only some of all.
        return rows.clone() if self.geometry.transfer else rows.index_select(1, self._sampled)

    def trained(self, table: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        if not self.geometry.transfer:
            return rows
        lanes = len(rows[0])
        by_stage = self._by_stage(table[:lanes])[:, :, Coefficient.M_TAKE] > 0
        found = torch.zeros(lanes, self.parameters.width, dtype=torch.bool, device=table.device)
        for piece, runs in zip(self.parameters.cut(found), self._runs, strict=True):
            parts = torch.split(piece, [size for _, size in runs], dim=1)
            for part, (stage, _) in zip(parts, runs, strict=True):
                part[:] = by_stage[:, stage, None]
        return tuple(torch.where(found, one, 0.0) for one in rows)

    def _by_stage(self, table: Tensor) -> Tensor:
        """Return the coefficients of a step's table, `[K, stages, Coefficient]`."""
        return torch.unflatten(table[:, : self.coefficients], 1, (self.stages, len(Coefficient)))

    @property
    def working_set(self) -> int:
        return self.activations * (3 * self.geometry.batch + self.geometry.rows)

    @cached_property
    def activations(self) -> int:
        """How many numbers the layers give for one example."""
        found: list[int] = []
        leaves = [layer for layer in self._module.modules() if not list(layer.children())]
        hooks = [layer.register_forward_hook(lambda _, __, out: found.append(out.numel())) for layer in leaves]
        self._module.eval()
        with torch.no_grad():
            self._module(_no_examples(self.geometry, 1))
        for hook in hooks:
            hook.remove()
        return sum(found)

    def step(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Train a step of the `pieces` of a stack on `_examples().step`; returns what `Step` does."""
        parameters, first, second, buffers, others = self.taken(tensors)
        thresholds, scales, x, y, rows, table, words, *constants = others
        batch = (rows.shape[0], self.geometry.batch)
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in self.parameters.split(parameters)]
            draws, strengths = words[:, len(self._dropouts) :], table[:, self.coefficients :]
            taken = self.augment.rows(rows, draws, strengths, self.geometry.examples)
            examples = x[taken.flatten()].view(*batch, -1)
            if self.augment.names:
                examples = self.augment(examples, draws, strengths, constants)
            share = self.augment.share(strengths)
            masks = self.masks(words, thresholds, scales)
            frozen = self._frozen_norms(table)
            masks |= {f"{name}.frozen": flag for name, flag in frozen.items()}
            old = self.buffers.split(buffers)
            outputs, statistics, _ = self.forward(leaves, old, masks, examples, training=True)
            targets = y[rows.flatten()].view(batch[0], batch[1] * self.geometry.targets)
            smoothing = table[:, Coefficient.SMOOTHING, None, None]
            with torch.no_grad():
                losses, slopes = self._losses(outputs, targets, smoothing, share)
            gradients = torch.autograd.grad(outputs, leaves, slopes / (self.geometry.batch * self.geometry.targets))
        norms = self.update(parameters, first, second, gradients, table)
        if statistics:
            moved = self.moved(old, statistics)
            if frozen:
                flags = [flag[:, None] for flag in frozen.values() for _ in ("mean", "variance")]
                moved = [torch.where(*one) for one in zip(flags, old, moved, strict=True)]
            for place, value in zip(buffers, self.buffers.join(moved), strict=True):
                place.copy_(value)
        return losses.mean(1), norms

    def evaluate(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return each lane's sum of losses and right answers over the rows that count, then the shares of `units`."""
        parameters, buffers, x, y, counted = tensors
        lanes = parameters.shape[0]
        split = self.parameters.tensors(parameters), self.buffers.tensors(buffers)
        outputs, _, units = self.forward(*split, {}, x.expand(lanes, *x.shape), training=False)
        y = y.flatten()
        if self.geometry.targets > 1:
            counted = counted[:, None].expand(-1, self.geometry.targets).flatten()
        losses, _ = self._losses(outputs, y.expand(lanes, *y.shape), None)
        loss = torch.where(counted, losses, 0.0).double().sum(1)
        return loss, ((outputs.argmax(2) == y) & counted).sum(1), *units

    def update(self, p: Tensors, m: Tensors, v: Tensors, gradients: Sequence[Tensor], table: Tensor) -> Tensor:
        """Update the pieces of parameters and moments by the tensors' gradients; returns norms, as a `Step` does."""
        g, alter = self.parameters.join(list(gradients)), self.geometry.alters_gradient
        if not self.geometry.transfer:
            return update(p, m, v, g, table, self._watched, alter=alter)
        return update_by_stage(p, m, v, g, self._by_stage(table), self._runs, self._watched, alter=alter)

    def moved(self, buffers: Tensors, statistics: Tensors) -> Tensors:
        """Return the running statistics after those of a batch, as `forward` gives them."""
        momenta = [norm.momentum for norm in self._norms for _ in ("mean", "variance")]
        moves = zip(buffers[: len(momenta)], statistics, momenta, strict=True)
        moved = [old * (1 - momentum) + new * momentum for old, new, momentum in moves]
        return [*moved, *buffers[len(momenta) :]]

    def _frozen_norms(self, table: Tensor) -> dict[str, Tensor]:
        """Return which lanes' batch norms are frozen, `[K]` of each by its name; none where none can be."""
        if not self.geometry.transfer:
            return {}
        takes = self._by_stage(table)[:, :, Coefficient.M_TAKE]
        return {name: takes[:, stage] == 0 for name, stage in self._norm_stages.items()}

    def masks(self, words: Tensor, thresholds: Tensor, scales: Tensor) -> dict[str, Tensor]:
        """Return what each dropout layer takes by its full name; a layer's own p comes before the recipe's."""
        masks: dict[str, Tensor] = {}
        for index, (name, layer) in enumerate(self._dropouts.items()):
            shape = (self.geometry.batch, *layer.shape)
            masks[f"{name}.keep"] = vmap(partial(streams.keeps, shape=shape))(words[:, index], thresholds[:, index])
            masks[f"{name}.scale"] = scales[:, index]
        return masks

    def forward(
        self, parameters: Tensors, buffers: Tensors, masks: dict[str, Tensor], x: Tensor, *, training: bool
    ) -> tuple[Tensor, Tensors, Tensors]:
        """Return the outputs `[K, rows, outputs]` of `x` `[K, rows, features]`, batch norm's statistics and shares.

        Where an example has several targets, the outputs for each are a row. The statistics are of training, the shares
        of `units` of evaluation.
        """
        self._module.train(training)
        names = [*self.parameters.names, *self.buffers.names]
        tensors = {**dict(zip(names, [*parameters, *buffers], strict=True)), **masks}
        tensors |= {name: tensors[name].to(kind) for name, kind in self._kinds.items()}

        def one(tensors: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensors, Tensors]:
            if not training:
                self.units.begin()
            outputs = functional_call(self._module, tensors, (x,))
            statistics = [norm.statistics for norm in self._norms if norm.training]
            units = [] if training else list(self.units.take().values())
            return outputs, [tensor for pair in statistics if pair is not None for tensor in pair], units

        with lane_operations(), autocast(self.geometry.precision, self.geometry.device):
            outputs, statistics, units = vmap(one)(tensors, x)
        return widened(outputs).flatten(1, -2), statistics, units

    def _losses(
        self, outputs: Tensor, targets: Tensor, smoothing: Tensor | None, share: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return each example's loss `[K, rows]` and its derivative by the outputs `[K, rows, outputs]`.

        `smoothing` `[K, 1, 1]` is the share of the target that is spread over all classes (Szegedy et al. 2016, section
        7, as torch's cross entropy has it). The derivative of the cross entropy of softmax p to a target q is p - q:
        written down, a step has no gathering and scattering of classes in it. With mixup, q is made of two examples'
        targets, the example's own with the `share` `[K, 1]` (Zhang et al. 2018, equation 1).
        """
        if not self.geometry.classes:
            targets = targets if share is None else mixed(targets, share, 1)
            error = outputs - targets.unsqueeze(2)
            return error.squeeze(2).square(), 2 * error
        classes = torch.arange(self.geometry.classes, device=outputs.device)
        target = (targets.unsqueeze(2) == classes).to(outputs.dtype)
        if share is not None:
            target = mixed(target, share[..., None], 1)
        if smoothing is not None:
            target = target * (1 - smoothing) + smoothing / self.geometry.classes
        logs = F.log_softmax(outputs, dim=2)
        # What is not finite has weight 0 nowhere but in classes that are no target.
        losses = -torch.where(target > 0, logs * target, 0.0).sum(2)
        return losses, logs.exp() - target

    def graphs(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        stack, examples = self.new_stack(2), self._examples()
        pieces = self.pieces(stack)
        laned = [*(True for _ in pieces), False, False, True, True, True, *(False for _ in examples.step[5:])]
        step = traced(self.step, [*pieces, *examples.step], laned)
        evaluation = [stack.parameters, stack.buffers, *examples.evaluation]
        return step, traced(self.evaluate, evaluation, [True, True, False, False, False])

    def _examples(self) -> _Examples:
        geometry = self.geometry
        device, dtype = geometry.device, geometry.dtype
        target = torch.int64 if geometry.classes else dtype

        def part(rows: int, targets: int) -> Tensors:
            shape = (targets, geometry.targets) if geometry.targets > 1 else (targets,)
            return [_no_examples(geometry, rows), torch.zeros(shape, dtype=target, device=device)]

        rows = torch.zeros(2, geometry.batch, dtype=torch.int64, device=device)
        table = torch.zeros(2, self.coefficients + len(self.augment.names), dtype=dtype, device=device)
        draws = len(self._dropouts) + len(self.augment.draws)
        words = torch.zeros(2, draws, 2, dtype=torch.int32, device=device)
        constants = self.augment.blank_constants(device, dtype)
        counted = torch.ones(geometry.rows, dtype=torch.bool, device=device)
        training = part(self.augment.example_rows(geometry.examples), geometry.examples)
        validation = part(geometry.rows, geometry.rows)
        return _Examples([*training, rows, table, words, *constants], [*validation, counted])


@dataclass(frozen=True, slots=True)
class _Examples:
    """Tensors of the right shape for what a step and an evaluation are given."""

    step: Tensors
    evaluation: Tensors


class Program:
    """The two graphs of a geometry, ready to be run; `compiled` says by what."""

    def __init__(self, network: LaneNetworks, step: Graph, evaluation: Graph, *, compiled: bool) -> None:
        self.network = network
        self.compiled = compiled
        self._step = step
        self._evaluation = evaluation

    def stepper(self, stack: Stack, examples: Sequence[Tensor], constants: Tensors) -> Step:
        """Return a function that trains a step of the stack's lanes on examples: features, and what they are to be.

        `constants` are those of `Augment.constants`.
        """
        fixed = [*self.network.pieces(stack), *examples]

        def step(*given: Tensor) -> tuple[Tensor, Tensor]:
            loss, norms = self._step([*fixed, *given, *constants])
            return loss, norms

        return step

    def evaluate(self, stack: Stack, *given: Tensor) -> Tensors:
        """Return what the networks' `evaluate` does of the stack's lanes: `[K]` each, or with more axes."""
        return self._evaluation([stack.parameters, stack.buffers, *given])


def network_of(geometry: Geometry) -> LaneNetworks:
    """Return what lanes of a geometry train."""
    if isinstance(geometry.model, GAN):
        # They are made of two networks of this module.
        from swathe.training.gan_program import Adversaries

        return Adversaries(geometry)
    return Network(geometry)


@lru_cache(maxsize=_PROGRAMS)
def eager_program(geometry: Geometry) -> Program:
    """Return the program of a geometry as torch runs it, operation by operation; tracing takes a second."""
    network = network_of(geometry)
    (step, _), (evaluation, _) = network.graphs()

    def run(graph: Any) -> Graph:
        @torch.no_grad()
        def call(tensors: Tensors) -> Tensors:
            return list(graph(*tensors))

        return call

    return Program(network, run(step), run(evaluation), compiled=False)


@lru_cache(maxsize=_PROGRAMS)
def compiled_program(geometry: Geometry, folder: Path) -> Program:
    """Return the compiled program of a geometry, which `lane_compiler` has put into `folder`."""
    from swathe.training.lane_compiler import load

    step, evaluation = load(folder)
    return Program(network_of(geometry), step, evaluation, compiled=True)


def _no_examples(geometry: Geometry, rows: int) -> Tensor:
    dtype = torch.int64 if geometry.tokens else geometry.dtype
    return torch.zeros(rows, geometry.features, dtype=dtype, device=geometry.device)


def _template(geometry: Geometry) -> nn.Module:
    outputs, generator = geometry.classes or 1, torch.Generator()
    # Which p does not matter: a lane's own is in its masks.
    dropout = 0.5 if geometry.dropout else 0.0
    shapes = geometry.image_shape, dropout, generator, geometry.sequence
    network = build(geometry.model, geometry.features, outputs, *shapes)
    replace_layers(network)
    if geometry.transfer:
        for layer in network.modules():
            if isinstance(layer, LaneBatchNorm):
                layer.may_freeze()
    return network.to(geometry.device, geometry.dtype)
