"""GANs as lanes: a block with the words, the metrics and the numbers of `gan.Adversarial`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from swathe.training import streams
from swathe.training.gan import Comparison, discriminator_optim, networks, noise, rate_ratio
from swathe.training.gan_program import Adversaries
from swathe.training.lane_optim import coefficients
from swathe.training.lane_stack import Stack
from swathe.training.lanes import Array, Given, Lane, LaneBlock
from swathe.training.recipe import GAN, Recipe
from swathe.training.streams import Stream


class AdversarialBlock(LaneBlock):
    """A block of GANs: each lane trains a generator and a discriminator against each other.

    What is said of `LaneBlock` holds, with `gan.Adversarial` in the place of `Solo`.
    """

    _network: Adversaries

    def _training_part(self, recipe: Recipe) -> tuple[Tensor, ...]:
        self._comparison = Comparison(self._data)
        # Before its first epoch, what a lane makes is compared already; by its tag.
        self._first: dict[int, float] = {}
        return (self._inputs(self._data.train_x),)

    def _validation_parts(self) -> Iterator[tuple[Tensor, ...]]:
        yield (self._inputs(self._comparison.validation),)

    def _passes(self) -> list[int]:
        return [self._geometry.batch, self._network.made, self._geometry.rows]

    def _first_state(self, recipe: Recipe) -> dict[str, Tensor]:
        model, generator = recipe.model, streams.generator(recipe.seed, Stream.INIT)
        assert isinstance(model, GAN)
        return networks(model, self._geometry.features, 0.0, generator).state_dict()

    def _coefficients(self, lane: Lane, first: int, rates: Array) -> Array:
        judging = replace(lane.recipe, optim=discriminator_optim(lane.recipe))
        ratio = rate_ratio(lane.recipe)
        both = coefficients(lane.recipe, first, rates), coefficients(judging, first, rates * ratio)
        return np.concatenate(both, axis=1)

    def _given_in(self, step: int, lanes: list[Lane], given: Given) -> tuple[Tensor, ...]:
        drawn = self._noise([(lane, lane.epoch) for lane in lanes], step, 2 * self._geometry.batch)
        return *super()._given_in(step, lanes, given), drawn

    def _noise(self, lanes: list[tuple[Lane, int]], step: int, rows: int) -> Tensor:
        """Return what each lane makes examples of in a step of an epoch, `[K, rows, latent]`."""
        latent = self._network.latent
        drawn = torch.zeros(len(lanes) + self._spares(len(lanes)), rows, latent)
        for place, (lane, epoch) in zip(drawn, lanes, strict=False):
            place.copy_(noise(lane.recipe.seed, epoch, step, rows, latent))
        return drawn.to(self._geometry.device, self._geometry.dtype)

    def _begin(self, lanes: list[Lane]) -> None:
        fresh = [(at, lane) for at, lane in enumerate(lanes) if not lane.epoch]
        if not fresh:
            return
        stack = self._stack.copied([at for at, _ in fresh] + [0] * self._spares(len(fresh)))
        found = self._compared([lane for _, lane in fresh], stack)
        self._first = {lane.tag: one["train_loss"] for (_, lane), one in zip(fresh, found, strict=True)}

    def _evaluate(self) -> list[dict[str, float]]:
        live = len(self._live)
        return self._compared(self._live, self._stack.first(live + self._spares(live)))

    def _evaluated(self, lane: Lane, stack: Stack) -> list[Tensor]:
        drawn = self._noise([(lane, 0)], 0, self._network.made)[:1]
        given = drawn.expand(len(stack.parameters), *drawn.shape[1:]).contiguous()
        return self._program.evaluate(stack, given, *self._validation[0])

    def _compared(self, lanes: list[Lane], stack: Stack) -> list[dict[str, float]]:
        """Return what there is to say of the lanes of a stack: distances, accuracies and shares of units."""
        # Epochs of training count from 1.
        drawn = self._noise([(lane, 0) for lane in lanes], 0, self._network.made)
        made, right, *units = self._program.evaluate(stack, drawn, *self._validation[0])
        shares = zip(*(share.tolist() for share in units), strict=True) if units else iter([()] * len(made))
        counted = zip(made, right.tolist(), shares, strict=True)
        return [
            {
                **self._comparison.distances(one),
                "discriminator_accuracy": count / (2 * self._geometry.rows),
                **dict(zip(self._network.units.names, of_units, strict=True)),
            }
            for _, (one, count, of_units) in zip(lanes, counted, strict=False)
        ]

    def _scores(self, lane: Lane, losses: Array, rate: float, validation: dict[str, float] | None) -> dict[str, float]:
        if not np.isfinite(losses).all() or validation is None:
            # A loss that is not finite leaves no generator to compare.
            validation = {"train_loss": float(losses.sum()), "val_loss": math.nan}
        first = {"first_loss": self._first.pop(lane.tag)} if lane.epoch == 1 else {}
        return {
            **validation,
            **first,
            "generalization_gap": validation["val_loss"] - validation["train_loss"],
            "discriminator_loss": float(losses[:, 0].mean()),
            "generator_loss": float(losses[:, 1].mean()),
            "discriminator_lr": rate * rate_ratio(lane.recipe),
        }
