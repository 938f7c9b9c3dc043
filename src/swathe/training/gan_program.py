"""The program of lanes of GANs: both networks of each lane, a step with an update of each, and what is made by then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from swathe.training.augment import Augment
from swathe.training.gan import both, compared
from swathe.training.lane_graph import traced
from swathe.training.lane_layout import Layout
from swathe.training.lane_modules import LaneDropout
from swathe.training.lane_optim import Coefficient
from swathe.training.lane_program import Network
from swathe.training.lane_stack import Geometry, LaneNetworks, Tensors
from swathe.training.recipe import GAN
from swathe.training.solo import WHOLE_ROWS


@dataclass(frozen=True, slots=True)
class _Rows:
    """The pieces of one network's parameters and moments, which a step changes in place."""

    parameters: Tensors
    first: Tensors
    second: Tensors


class Adversaries(LaneNetworks):
    """The generator and the discriminator of each lane, the rows of one beside those of the other.

    Of a geometry, `rows` is the examples of validation that generated ones are compared with. A step is that of
    `gan.Adversarial`: of its two rows of coefficients the first is the generator's.
    """

    def __init__(self, geometry: Geometry) -> None:
        assert isinstance(geometry.model, GAN)
        self.geometry = geometry
        self.latent = geometry.model.latent
        made, judged = both(geometry.model)
        plain = replace(geometry, image_shape=None, sequence=None, layers=False)
        self._generator = Network(
            replace(plain, model=made, features=self.latent, classes=geometry.features, dropout=False)
        )
        self._discriminator = Network(replace(plain, model=judged, classes=0))
        networks = {"generator": self._generator, "discriminator": self._discriminator}
        self.names = [f"{network}.{name}" for network, one in networks.items() for name in one.names]
        self.parameters = Layout.beside({name: one.parameters for name, one in networks.items()})
        self.buffers = Layout.beside({name: one.buffers for name, one in networks.items()})
        self.augment = Augment((), None, None)
        self.units = self._generator.units
        self.layers = []
        self.stages = len(networks)

    @property
    def made(self) -> int:
        """How many examples are generated for an evaluation."""
        return max(compared(self.geometry.examples), self.geometry.rows)

    @property
    def dropouts(self) -> list[LaneDropout]:
        return self._discriminator.dropouts

    @property
    def working_set(self) -> int:
        generator, discriminator = self._generator.activations, self._discriminator.activations
        # The discriminator sees what is real and what is made, and then what is made once more.
        step = 3 * self.geometry.batch * (generator + 3 * discriminator)
        made = self.made * (self.latent + generator)
        return step + made + 2 * self.geometry.rows * (self.geometry.features + discriminator)

    def sample(self, rows: Tensor) -> Tensor:
        # The generator's columns come first.
        return self._generator.sample(rows)

    def step(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Train a step of the `pieces` of a stack on examples `x` `[examples, features]` and `noise`.

        `noise` is `[K, 2 * batch, latent]`, first that of the discriminator's step. Returns the discriminator's and the
        generator's loss `[K, 2]` and the gradient's norms `[K, 3]`: of both, and of the generator's first and last
        weights.
        """
        parameters, first, second, buffers, others = self.taken(tensors)
        thresholds, scales, x, rows, table, words, noise = others
        # The generator's pieces come first.
        count, batch = len(self._generator.parameters.pieces), self.geometry.batch
        making = _Rows(parameters[:count], first[:count], second[:count])
        judging = _Rows(parameters[count:], first[count:], second[count:])
        running = self._generator.buffers.split(buffers)
        masks = self._discriminator.masks(words, thresholds, scales)
        real = x[rows.flatten()].view(rows.shape[0], batch, -1)
        with torch.no_grad():
            own = self._generator.parameters.split(making.parameters)
            made, statistics, _ = self._generator.forward(own, running, {}, noise[:, :batch], training=True)
        # Of batch norm: each of the two batches that are made moves the running statistics.
        running = self._generator.moved(running, statistics)
        judged, norm = self._train_discriminator(judging, torch.cat([real, made], 1), masks, table)
        # By the discriminator as it is now.
        judge = self._discriminator.parameters.split(judging.parameters)
        fooled, norms, statistics = self._train_generator(making, judge, running, noise[:, batch:], masks, table)
        moved = self._generator.buffers.join(self._generator.moved(running, statistics))
        for place, value in zip(buffers, moved, strict=True):
            place.copy_(value)
        whole = torch.sqrt(norm.square() + norms[:, 0].square())
        return torch.stack([judged, fooled], 1), torch.cat([whole[:, None], norms[:, 1:]], 1)

    def _train_discriminator(
        self, rows: _Rows, x: Tensor, masks: dict[str, Tensor], table: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Train on `x` `[K, 2 * batch, features]`, what is real, then what is made; returns loss and norm `[K]`."""
        coefficients, batch = table[:, len(Coefficient) :], self.geometry.batch
        real = (1 - coefficients[:, Coefficient.SMOOTHING, None]).expand(-1, batch)
        # Both halves have the same masks.
        twice = {name: torch.cat([mask, mask], 1) if name.endswith(".keep") else mask for name, mask in masks.items()}
        with torch.enable_grad():
            leaves = _leaves(self._discriminator.parameters.split(rows.parameters))
            logits = self._judged(leaves, twice, x)
            losses, slopes = _losses(logits, torch.cat([real, torch.zeros_like(real)], 1))
            gradients = torch.autograd.grad(logits, leaves, slopes / batch)
        norms = self._discriminator.update(rows.parameters, rows.first, rows.second, gradients, coefficients)
        return losses.sum(1) / batch, norms[:, 0]

    def _train_generator(
        self, rows: _Rows, judge: Tensors, running: Tensors, noise: Tensor, masks: dict[str, Tensor], table: Tensor
    ) -> tuple[Tensor, Tensor, Tensors]:
        """Train to fool a discriminator of these parameters; returns loss `[K]`, norms `[K, 3]` and statistics."""
        coefficients, batch = table[:, : len(Coefficient)], self.geometry.batch
        with torch.enable_grad():
            leaves = _leaves(self._generator.parameters.split(rows.parameters))
            made, statistics, _ = self._generator.forward(leaves, running, {}, noise, training=True)
            logits = self._judged(judge, masks, made)
            losses, slopes = _losses(logits, torch.ones_like(logits))
            gradients = torch.autograd.grad(logits, leaves, slopes / batch)
        norms = self._generator.update(rows.parameters, rows.first, rows.second, gradients, coefficients)
        return losses.mean(1), norms, statistics

    def evaluate(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return what each lane's generator makes of `noise` `[K, made, latent]`, how often the discriminator is right.

        It is asked of all `x` `[rows, features]`, which are real, and of as many that are made. Then come the shares of
        `units`.
        """
        parameters, buffers, noise, x = tensors
        width = self._generator.parameters.width
        generator = self._generator.parameters.tensors(parameters[:, :width])
        discriminator = self._discriminator.parameters.tensors(parameters[:, width:])
        running = self._generator.buffers.tensors(buffers)
        made, _, units = self._generator.forward(generator, running, {}, noise, training=False)
        seen = torch.cat([x.expand(made.shape[0], *x.shape), made[:, : self.geometry.rows]], 1)
        logits = self._discriminator.forward(discriminator, [], {}, seen, training=False)[0].squeeze(2)
        real, fake = logits[:, : self.geometry.rows], logits[:, self.geometry.rows :]
        return made, (real > 0).sum(1) + (fake <= 0).sum(1), *units

    def graphs(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        geometry, stack = self.geometry, self.new_stack(2)
        device, dtype = geometry.device, geometry.dtype

        def blank(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        pieces, examples = self.pieces(stack), blank(geometry.examples, geometry.features)
        rows = blank(2, geometry.batch, dtype=torch.int64)
        words = blank(2, len(self.dropouts), 2, dtype=torch.int32)
        noise = blank(2, 2 * geometry.batch, self.latent)
        given = [*pieces, examples, rows, blank(2, self.coefficients), words, noise]
        step = traced(self.step, given, [*(True for _ in pieces), False, True, True, True, True])
        validation = blank(geometry.rows, geometry.features)
        evaluation = [stack.parameters, stack.buffers, blank(2, self.made, self.latent), validation]
        return step, traced(self.evaluate, evaluation, [True, True, True, False])

    def _judged(self, parameters: Tensors, masks: dict[str, Tensor], x: Tensor) -> Tensor:
        """Return logits `[K, rows]` of `x` `[K, rows, features]`."""
        return self._discriminator.forward(parameters, [], masks, x, training=True)[0].squeeze(2)


def _leaves(tensors: Tensors) -> Tensors:
    return [tensor.detach().requires_grad_() for tensor in tensors]


@torch.no_grad()
def _losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return each example's binary cross-entropy `[K, rows]` and its derivative by the logits."""
    rows = logits.shape[1]
    # One number an example, of which a lane may have too few for torch to take its code for many, see `WHOLE_ROWS`.
    whole = F.pad(logits, (0, -rows % WHOLE_ROWS))
    losses = F.binary_cross_entropy_with_logits(whole, F.pad(targets, (0, -rows % WHOLE_ROWS)), reduction="none")
    return losses[:, :rows], whole.sigmoid()[:, :rows] - targets
