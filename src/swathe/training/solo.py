"""One recipe trained alone: the plain loop, with the tensors in memory and no DataLoader."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from swathe.training import streams
from swathe.training.data import load
from swathe.training.health import Units, peak_memory, update_ratios
from swathe.training.models import build, dropouts
from swathe.training.optim import Update
from swathe.training.precision import LossScale, autocast, set_products, widened
from swathe.training.recipe import Recipe, check
from swathe.training.schedule import EarlyStopping, LearningRate
from swathe.training.streams import Stream

# How often a run looks whether it should stop (seconds).
POLL_SECONDS = 0.005
# A loss that is not finite is noticed at every so many steps: by count and not by time, so that a run that diverges
# gives the same numbers again; and seldom enough that a GPU is not kept waiting.
CHECK_STEPS = 32
# Validation examples in one forward pass, at most.
EVALUATION_ROWS = 1024
# Uncompiled, torch computes what fills no vector of elements by other code, at the end of a tensor and so in the last
# lane only. No lane has such an end when its examples are a multiple of this.
WHOLE_ROWS = 32


def evaluation_parts(examples: int, device: str) -> Iterator[tuple[Tensor, int]]:
    """Yield the rows of each part of validation `[rows]`, and how many of them count.

    All parts have one size, a multiple of 32, and the last one is filled up with the last example.
    """
    parts = -(-examples // EVALUATION_ROWS)
    rows = -(-examples // (parts * WHOLE_ROWS)) * WHOLE_ROWS
    for begin in range(0, examples, rows):
        places = torch.arange(begin, begin + rows, device=device)
        yield places.clamp(max=examples - 1), min(rows, examples - begin)


class Solo:
    """One training run on one device.

    Every epoch goes once through a new permutation of the training part in whole batches; the rest that fills no
    batch is left out of that epoch, and a batch larger than the part is the part. All randomness is a function of
    (recipe.seed, epoch, step), see `streams`. Raises `BadInputError` for a recipe or data that is refused.
    """

    def __init__(self, recipe: Recipe, device: str, cache: Path) -> None:
        check(recipe)
        self.recipe = recipe
        self.dataset = load(recipe.data, cache)
        self._data = self.dataset.to(device)
        self._device = device
        examples, inputs = self._data.train_x.shape
        dropout = recipe.regularization.dropout
        generator = streams.generator(recipe.seed, Stream.INIT)
        outputs = self._data.classes or 1
        self.network = build(recipe.model, inputs, outputs, self._data.image_shape, dropout, generator).to(device)
        self._dropouts = dropouts(self.network)
        self._units = Units(self.network)
        self._words: tuple[int, Tensor] | None = None
        scale = LossScale() if recipe.precision == "fp16" else None
        self._update = Update(self.network, recipe.optim, recipe.regularization, scale)
        self._smoothing = recipe.regularization.label_smoothing
        self._batch = examples if recipe.batch_size == "full" else min(int(recipe.batch_size), examples)
        self._steps = examples // self._batch
        self._rate = LearningRate(recipe.schedule, recipe.optim.lr, self._steps, recipe.epochs)
        self._stopping = EarlyStopping(recipe.regularization.patience, recipe.regularization.min_delta)
        self._should_stop: Callable[[], bool] = lambda: False
        self._next_poll = 0.0

    def reports(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, dict[str, float], float]]:
        """Train, and yield (epoch from 1, metrics, seconds spent on the epoch) after each epoch; to be called once.

        Metrics: train_loss (mean over the epoch's steps, without penalties), first_loss (of the run's first step; in
        the first report alone), val_loss, val_accuracy (classification), generalization_gap (val_loss - train_loss), lr
        (of the last step), grad_norm and grad_norm_max (over the steps, before clipping), examples_per_second (in
        training), seconds (of training and validation so far), and those of `training.health`. Ends in mid-epoch,
        without a report, once `should_stop()`; after an early stop; and after an epoch whose loss was not finite, which
        is cut short and whose val_loss and val_accuracy are NaN.
        """
        self._should_stop = should_stop
        seconds = 0.0
        for epoch in range(1, self.recipe.epochs + 1):
            began = time.perf_counter()
            trained = self._train(epoch)
            if trained is None:
                return
            losses, norms, health = trained
            train_loss = losses.mean().item()
            training_seconds = time.perf_counter() - began
            nothing = {"val_loss": math.nan, "val_accuracy": math.nan}
            validation = self._evaluate() if math.isfinite(train_loss) else nothing
            val_loss = validation["val_loss"]
            spent = time.perf_counter() - began
            seconds += spent
            metrics = {
                "train_loss": train_loss,
                **({"first_loss": losses[0].item()} if epoch == 1 else {}),
                **validation,
                "generalization_gap": val_loss - train_loss,
                "lr": self._rate.at((epoch - 1) * self._steps + len(losses) - 1),
                "grad_norm": norms.mean().item(),
                "grad_norm_max": norms.max().item(),
                **health,
                "examples_per_second": len(losses) * self._batch / training_seconds,
                "seconds": seconds,
                "peak_memory": peak_memory(self._device),
            }
            if not self._data.classes:
                del metrics["val_accuracy"]
            yield epoch, metrics, spent
            if not math.isfinite(val_loss) or self._stopping.is_over(val_loss):
                return
            self._rate.end_epoch(val_loss)

    def train_steps(self, rates: Sequence[float]) -> Iterator[float]:
        """Train a step at each of these learning rates, and yield its loss; to be called once, and not after `reports`.

        The schedule, early stopping and validation have no part in it. Whoever has seen enough reads no further.
        """
        set_products(self.recipe.precision, self._device)
        self.network.train()
        for epoch, first in enumerate(range(0, len(rates), self._steps), start=1):
            order = self._order(epoch)
            for step, lr in enumerate(rates[first : first + self._steps]):
                rows = order[step * self._batch : (step + 1) * self._batch]
                loss = self._loss_of(epoch, step, rows)
                self._update.step(loss, lr)
                yield loss.item()

    @property
    def steps(self) -> int:
        """The steps of an epoch."""
        return self._steps

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the network's parameters and buffers, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}

    def step_to_time(self) -> Callable[[], object]:
        """Return a function that trains for a step of a first epoch: only its time counts."""
        order = torch.randperm(len(self._data.train_x)).to(self._device)
        batches = itertools.cycle(order[: self._steps * self._batch].view(self._steps, self._batch))
        self.network.train()
        return lambda: self._step(1, 0, next(batches))

    def _step(self, epoch: int, step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Train one step on the examples `rows`; returns the loss and the gradient norm, left on the device.

        In an epoch's last step, the norm is three: of all, of the first and of the last weights.
        """
        loss = self._loss_of(epoch, step, rows)
        descend = self._update.step_by_depth if step == self._steps - 1 else self._update.step
        norm = descend(loss, self._rate.at((epoch - 1) * self._steps + step))
        return loss.detach(), norm

    def _loss_of(self, epoch: int, step: int, rows: Tensor) -> Tensor:
        """Return the loss on the examples `rows` of a step, to descend from."""
        data = self._data
        self._draw_masks(epoch, step)
        outputs = self._outputs(data.train_x.index_select(0, rows))
        return self._loss(outputs, data.train_y.index_select(0, rows), smoothing=self._smoothing)

    def _outputs(self, x: Tensor) -> Tensor:
        with autocast(self.recipe.precision, self._device):
            outputs: Tensor = self.network(x)
        return widened(outputs)

    def _order(self, epoch: int) -> Tensor:
        """Return the examples in the order in which an epoch takes them, `[examples]`."""
        shuffle = streams.generator(self.recipe.seed, Stream.ORDER, epoch)
        return torch.randperm(len(self._data.train_x), generator=shuffle).to(self._device)

    def _train(self, epoch: int) -> tuple[Tensor, Tensor, dict[str, float]] | None:
        """Train one epoch; None when stopped.

        Returns the loss and the gradient norm of each step `[steps]`, and what is measured in the last one.
        """
        batch = self._batch
        order = self._order(epoch)
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        health: dict[str, float] = {}
        set_products(self.recipe.precision, self._device)
        self.network.train()
        for step in range(self._steps):
            if self._told_to_stop():
                return None
            rows = order[step * batch : (step + 1) * batch]
            if step < self._steps - 1:
                loss, norm = self._step(epoch, step, rows)
            else:
                before = self._update.parameters.clone()
                loss, by_depth = self._step(epoch, step, rows)
                norm, first, last = by_depth
                (moved,) = update_ratios(before[None], self._update.parameters[None])
                health = {"grad_norm_first": first.item(), "grad_norm_last": last.item(), "update_ratio": moved}
            losses.append(loss)
            norms.append(norm)
            if step % CHECK_STEPS == CHECK_STEPS - 1 and not math.isfinite(losses[-1].item()):
                break
        return torch.stack(losses).double(), torch.stack(norms).double(), health

    @torch.inference_mode()
    def _evaluate(self) -> dict[str, float]:
        """Return the metrics of the validation part; loss and accuracy are NaN when the loss is not finite."""
        data = self._data
        self.network.eval()
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        right = torch.zeros((), dtype=torch.int64, device=self._device)
        units: list[list[Tensor]] = []
        for rows, counted in evaluation_parts(len(data.val_y), self._device):
            self._units.begin()
            outputs = self._outputs(data.val_x[rows])[:counted]
            units.append(list(self._units.take().values()))
            y = data.val_y[rows[:counted]]
            loss += self._loss(outputs, y, reduction="sum")
            right += (outputs.argmax(dim=1) == y).sum()
        mean = loss.item() / len(data.val_y)
        finite = math.isfinite(mean)
        scores = {"val_loss": mean if finite else math.nan}
        scores["val_accuracy"] = right.item() / len(data.val_y) if finite else math.nan
        shares = (torch.stack(values).double().mean().item() for values in zip(*units, strict=True))
        return scores | dict(zip(self._units.names, shares, strict=True))

    def _loss(self, outputs: Tensor, targets: Tensor, *, reduction: str = "mean", smoothing: float = 0.0) -> Tensor:
        if self._data.classes:
            return F.cross_entropy(outputs, targets, reduction=reduction, label_smoothing=smoothing)
        return F.mse_loss(outputs.squeeze(1), targets, reduction=reduction)

    def _draw_masks(self, epoch: int, step: int) -> None:
        if not self._dropouts:
            return
        if self._words is None or self._words[0] != epoch:
            words = streams.dropout_words(self.recipe.seed, epoch, self._steps, len(self._dropouts))
            self._words = epoch, torch.from_numpy(words).to(self._device)
        for layer, words_of_layer in zip(self._dropouts, self._words[1][step], strict=True):
            layer.draw(self._batch, words_of_layer)

    def _told_to_stop(self) -> bool:
        now = time.perf_counter()
        if now < self._next_poll:
            return False
        self._next_poll = now + POLL_SECONDS
        return self._should_stop()
