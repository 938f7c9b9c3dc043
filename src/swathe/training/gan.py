"""Generative adversarial networks: two networks, two optimisers and two gradients a step (Goodfellow et al. 2014)."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swathe.training import streams
from swathe.training.data import Dataset, load
from swathe.training.health import Units, peak_memory, update_ratios
from swathe.training.models import build, dropouts
from swathe.training.optim import Update
from swathe.training.precision import loss_scale, outputs_of, set_products
from swathe.training.progress import Progress, Resumable
from swathe.training.recipe import GAN, MLP, OPTIMIZERS, Optim, Recipe
from swathe.training.recipe_check import check
from swathe.training.schedule import EarlyStopping, LearningRate
from swathe.training.solo import CHECK_STEPS, Poll
from swathe.training.streams import Stream

# Examples that a generator's are compared with, of training and of validation, at most: distances cost their square.
_MOST_COMPARED = 1024


def compared(examples: int) -> int:
    """Return with how many of so many examples a generator's are compared."""
    return min(_MOST_COMPARED, examples)


def both(model: GAN) -> tuple[MLP, MLP]:
    """Return the generator and the discriminator as networks of their own."""
    made = MLP("mlp", model.activation, model.norm, model.groups, model.init, model.hidden)
    return made, replace(made, norm="none", hidden=model.discriminator_hidden)


def networks(model: GAN, features: int, dropout: float, generator: torch.Generator | None) -> nn.ModuleDict:
    """Return `generator` `[batch, latent] -> [batch, features]` and `discriminator` `[batch, features] -> [batch, 1]`.

    The norm is the generator's alone: in a discriminator, the examples of a batch would be judged by one another.
    Dropout is the discriminator's alone, as all that a generator draws is its noise.
    """
    made, judged = both(model)
    return nn.ModuleDict(
        {
            "generator": build(made, model.latent, features, None, 0.0, generator),
            "discriminator": build(judged, features, 1, None, dropout, generator),
        }
    )


def mean_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean Euclidean distance of all pairs of rows of `[n, features]` and `[m, features]`, in float64."""
    return torch.cdist(x.double(), y.double()).mean()


def energy_distance(x: Tensor, y: Tensor, within_y: Tensor | None = None, within_x: Tensor | None = None) -> float:
    """Return the energy distance of two samples `[n, features]`, `[m, features]` (Székely & Rizzo 2013, eq. 6.1).

    2 E|X - Y| - E|X - X'| - E|Y - Y'| over all pairs: 0 when the samples are the same and never below. It needs no
    trained network and no choice of a kernel. `within_y` is the last mean and `within_x` the one before, for whoever
    has them already.
    """
    within_x = mean_distance(x, x) if within_x is None else within_x
    within_y = mean_distance(y, y) if within_y is None else within_y
    distance = 2 * mean_distance(x, y) - within_x - within_y
    # Rounding alone makes it negative.
    return max(0.0, distance.item()) if math.isfinite(distance.item()) else math.nan


class Comparison:
    """Says how far generated examples are from those of training and of validation, at most 1,024 of each."""

    def __init__(self, dataset: Dataset) -> None:
        parts = {"train_loss": dataset.train_x, "val_loss": dataset.val_x}
        self._parts = {name: rows[: compared(len(rows))] for name, rows in parts.items()}
        self._within = {name: mean_distance(rows, rows) for name, rows in self._parts.items()}

    @property
    def rows(self) -> int:
        """How many generated examples it takes."""
        return max(map(len, self._parts.values()))

    @property
    def validation(self) -> Tensor:
        """The examples of validation, `[n, features]`."""
        return self._parts["val_loss"]

    def distances(self, made: Tensor) -> dict[str, float]:
        """Return train_loss and val_loss, the energy distances of generated examples `[rows, features]`."""
        # Of data that is not small both parts have as many rows.
        within = {count: mean_distance(made[:count], made[:count]) for count in set(map(len, self._parts.values()))}
        return {
            name: energy_distance(made[: len(rows)], rows, self._within[name], within[len(rows)])
            for name, rows in self._parts.items()
        }


def noise(seed: int, epoch: int, step: int, rows: int, latent: int) -> Tensor:
    """Return what a generator makes so many examples of in a step, `[rows, latent]`, on the CPU."""
    return torch.randn(rows, latent, generator=streams.generator(seed, Stream.NOISE, epoch, step))


def rate_ratio(recipe: Recipe) -> float:
    """Return the discriminator's rate by the generator's, whose schedule it has."""
    return discriminator_optim(recipe).lr / recipe.optim.lr


def discriminator_optim(recipe: Recipe) -> Optim:
    """Return the discriminator's optimiser: the generator's, but for what `model.discriminator_*` says of it.

    A name of its own brings the defaults of that optimiser; two rates are the rule of Heusel et al. 2017.
    """
    model, optim = recipe.model, recipe.optim
    assert isinstance(model, GAN)
    if model.discriminator_optim is not None and model.discriminator_optim != optim.name:
        optim = OPTIMIZERS[model.discriminator_optim](name=model.discriminator_optim, lr=optim.lr)
    return optim if model.discriminator_lr is None else replace(optim, lr=model.discriminator_lr)


class Adversarial(Resumable):
    """One training run of a GAN on one device, with the words of `solo.Solo`.

    A step of the discriminator on a batch and on as many generated examples, then one of the generator with noise of
    its own (Goodfellow et al. 2014, algorithm 1 with k = 1), whose loss is the one that does not saturate (the same,
    section 3). Penalties, decay and clipping are those of both; label smoothing takes its share from the target of real
    examples alone (Salimans et al. 2016, section 3.4). Labels of the data have no part in it. Raises `BadInputError`
    for a recipe or data that is refused.
    """

    def __init__(self, recipe: Recipe, device: str, cache: Path) -> None:
        check(recipe)
        assert isinstance(recipe.model, GAN)
        self.recipe = recipe
        self.dataset = load(recipe.data, cache)
        self._data = self.dataset.to(device)
        self._device = device
        self._latent = recipe.model.latent
        examples, features = self._data.train_x.shape
        first = streams.generator(recipe.seed, Stream.INIT)
        self.network = networks(recipe.model, features, recipe.regularization.dropout, first).to(device)
        self._generator, self._discriminator = self.network["generator"], self.network["discriminator"]
        self._dropouts = dropouts(self._discriminator)
        self._units = Units(self._generator)
        optim = discriminator_optim(recipe)
        self._updates = {
            "generator": Update(self._generator, recipe.optim, recipe.regularization, loss_scale(recipe.precision)),
            "discriminator": Update(self._discriminator, optim, recipe.regularization, loss_scale(recipe.precision)),
        }
        self._rate_ratio = rate_ratio(recipe)
        self._smoothing = recipe.regularization.label_smoothing
        self._batch = recipe.batch_of(examples)
        self._steps = examples // self._batch
        rate = LearningRate(recipe.schedule, recipe.optim.lr, self._steps, recipe.epochs)
        stopping = EarlyStopping(recipe.regularization.patience, recipe.regularization.min_delta)
        self._progress = Progress(self.network, list(self._updates.values()), rate, stopping)
        self._comparison = Comparison(self._data)

    @property
    def steps(self) -> int:
        """The steps of an epoch."""
        return self._steps

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of both networks' parameters and buffers, on the CPU: `generator.*` and `discriminator.*`."""
        return {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}

    def reports(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, dict[str, float], float]]:
        """Train, and yield (epoch from 1, metrics, seconds spent on the epoch) after each epoch; to be called once.

        Metrics: train_loss and val_loss, the energy distance of generated examples to those of training and of
        validation, at most 1,024 of each, which is what there is to compare GANs by; first_loss, that of training
        before the first step; discriminator_loss and generator_loss (means over the steps); discriminator_accuracy (on
        validation and as many generated examples); lr, discriminator_lr; grad_norm and grad_norm_max, of both networks
        together; the others as `Solo.reports` has them, those of `training.health` of the generator. It ends as
        `Solo.reports` does.
        """
        told_to_stop = Poll(should_stop)
        first = {} if self._progress.epoch else {"first_loss": self._evaluate()["train_loss"]}
        for epoch in range(self._progress.epoch + 1, self.recipe.epochs + 1):
            began = time.perf_counter()
            trained = self._train(epoch, told_to_stop)
            if trained is None:
                return
            losses, norms, health = trained
            training_seconds = time.perf_counter() - began
            # A loss that is not finite leaves no generator to compare.
            nothing = {"train_loss": losses.sum().item(), "val_loss": math.nan}
            validation = self._evaluate() if losses.isfinite().all() else nothing
            spent = time.perf_counter() - began
            rate = self._progress.rate.at((epoch - 1) * self._steps + len(losses) - 1)
            over = self._progress.end_epoch(epoch, spent, validation["val_loss"])
            yield (
                epoch,
                {
                    **validation,
                    **(first if epoch == 1 else {}),
                    "generalization_gap": validation["val_loss"] - validation["train_loss"],
                    "discriminator_loss": losses[:, 0].mean().item(),
                    "generator_loss": losses[:, 1].mean().item(),
                    "lr": rate,
                    "discriminator_lr": rate * self._rate_ratio,
                    "grad_norm": norms.mean().item(),
                    "grad_norm_max": norms.max().item(),
                    **health,
                    "examples_per_second": len(losses) * self._batch / training_seconds,
                    "seconds": self._progress.seconds,
                    "peak_memory": peak_memory(self._device),
                },
                spent,
            )
            if over:
                return

    def step_to_time(self) -> Callable[[], object]:
        """Return a function that trains for a step of a first epoch: only its time counts."""
        order = torch.randperm(len(self._data.train_x)).to(self._device)
        batches = itertools.cycle(order[: self._steps * self._batch].view(self._steps, self._batch))
        self.network.train()
        self._draw_masks(1)
        return lambda: self._step(1, 0, self._data.train_x.index_select(0, next(batches)))

    def _train(self, epoch: int, told_to_stop: Poll) -> tuple[Tensor, Tensor, dict[str, float]] | None:
        """Train one epoch; None when stopped.

        Returns the two losses of each step `[steps, 2]`, its gradient norm `[steps]`, and what is measured in the last.
        """
        order = streams.permutation(self.recipe.seed, epoch, len(self._data.train_x)).to(self._device)
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        health: dict[str, float] = {}
        set_products(self.recipe.precision, self._device)
        self.network.train()
        self._draw_masks(epoch)
        for step in range(self._steps):
            if told_to_stop():
                return None
            rows = order[step * self._batch : (step + 1) * self._batch]
            sample = self._updates["generator"].sample
            before = sample() if step == self._steps - 1 else None
            both, by_depth = self._step(epoch, step, self._data.train_x.index_select(0, rows))
            losses.append(both)
            norms.append(by_depth[0])
            if before is not None:
                (moved,) = update_ratios(before[None], sample()[None])
                first, last = by_depth[1:].tolist()
                health = {"grad_norm_first": first, "grad_norm_last": last, "update_ratio": moved}
            if step % CHECK_STEPS == CHECK_STEPS - 1 and not losses[-1].isfinite().all().item():
                break
        return torch.stack(losses).double(), torch.stack(norms).double(), health

    def _step(self, epoch: int, step: int, real: Tensor) -> tuple[Tensor, Tensor]:
        """Train both networks for a step on real examples `[batch, features]`.

        Returns the discriminator's and the generator's loss `[2]`, and the gradient's norm `[3]`: of both, and of the
        generator's first and last weights; all left on the device.
        """
        for layer, words in zip(self._dropouts, self._words[step] if self._dropouts else (), strict=True):
            layer.draw(len(real), words)
        drawn = self._noise(epoch, step, 2 * len(real))
        rate = self._progress.rate.at((epoch - 1) * self._steps + step)
        with torch.no_grad():
            made = self._made(drawn[: len(real)])
        loss = self._judged(real, 1 - self._smoothing) + self._judged(made, 0.0)
        norm = self._updates["discriminator"].step(loss, rate * self._rate_ratio)
        fooled = self._judged(self._made(drawn[len(real) :]), 1.0)
        norms = self._updates["generator"].step_by_depth(fooled, rate)
        whole = torch.linalg.vector_norm(torch.stack([norm, norms[0]]))
        return torch.stack([loss.detach(), fooled.detach()]), torch.cat([whole[None], norms[1:]])

    def _noise(self, epoch: int, step: int, rows: int) -> Tensor:
        return noise(self.recipe.seed, epoch, step, rows, self._latent).to(self._device)

    def _made(self, noise: Tensor) -> Tensor:
        return outputs_of(self._generator, noise, self.recipe.precision, self._device)

    def _logits(self, x: Tensor) -> Tensor:
        return outputs_of(self._discriminator, x, self.recipe.precision, self._device)

    def _judged(self, x: Tensor, target: float) -> Tensor:
        logits = self._logits(x)
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    @torch.inference_mode()
    def _evaluate(self) -> dict[str, float]:
        self.network.eval()
        self._units.begin()
        # Epochs of training count from 1: the noise of epoch 0 is nobody else's, and the same at each report.
        made = self._made(self._noise(0, 0, self._comparison.rows))
        units = {name: share.item() for name, share in self._units.take().items()}
        real = self._comparison.validation
        right = [self._logits(real) > 0, self._logits(made[: len(real)]) <= 0]
        accuracy = torch.cat(right).double().mean().item()
        return {**self._comparison.distances(made), "discriminator_accuracy": accuracy, **units}

    def _draw_masks(self, epoch: int) -> None:
        if self._dropouts:
            words = streams.dropout_words(self.recipe.seed, epoch, self._steps, len(self._dropouts))
            self._words = torch.from_numpy(words).to(self._device)
