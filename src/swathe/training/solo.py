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
from swathe.training.augment import Augment, mixed, partners
from swathe.training.data import Dataset, load
from swathe.training.health import Units, gradient_metrics, layer_metrics, peak_memory, update_ratios
from swathe.training.models import BatchNorm, build, dropouts
from swathe.training.optim import Update
from swathe.training.own import seed_everything
from swathe.training.precision import loss_scale, outputs_of, set_products
from swathe.training.progress import Progress, Resumable
from swathe.training.recipe import FineTune, Own, Recipe
from swathe.training.recipe_check import check
from swathe.training.schedule import EarlyStopping, LearningRate
from swathe.training.streams import Stream
from swathe.training.transfer import frozen_stages, initial_state, rate_factors, stages
from swathe.training.wording import worded

# How often a run looks whether it should stop (seconds).
POLL_SECONDS = 0.005
# A loss that is not finite is noticed at every so many steps: by count and not by time, so that a run that diverges
# gives the same numbers again; and seldom enough that a GPU is not kept waiting.
CHECK_STEPS = 32
# Validation examples in one forward pass, at most.
EVALUATION_ROWS = 1024
# The same of the steps of all its texts or series, each of which has outputs of its own.
EVALUATION_STEPS = 8192
# Uncompiled, torch computes what fills no vector of elements by other code, at the end of a tensor and so in the last
# lane only. No lane has such an end when its examples are a multiple of this.
WHOLE_ROWS = 32


def evaluation_parts(examples: int, device: str, length: int = 1) -> Iterator[tuple[Tensor, int]]:
    """Yield the rows of each part of validation `[rows]`, and how many of them count.

    All parts have one size, a multiple of 32, and the last one is filled up with the last example. An example has so
    many steps as `length` says.
    """
    most = max(WHOLE_ROWS, min(EVALUATION_ROWS, EVALUATION_STEPS // length))
    parts = -(-examples // most)
    rows = -(-examples // (parts * WHOLE_ROWS)) * WHOLE_ROWS
    for begin in range(0, examples, rows):
        places = torch.arange(begin, begin + rows, device=device)
        yield places.clamp(max=examples - 1), min(rows, examples - begin)


def bits_per_character(data: Dataset, val_loss: float) -> dict[str, float]:
    """Return the loss of a language model of characters, in bits; nothing of other data."""
    if data.sequence is None or not data.sequence.every_step:
        return {}
    return {"val_bits_per_character": val_loss / math.log(2)}


class Poll:
    """Asks `should_stop` as often as it makes sense, and is called before each step."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop
        self._next = 0.0

    def __call__(self) -> bool:
        """Return whether to stop now."""
        now = time.perf_counter()
        if now < self._next:
            return False
        self._next = now + POLL_SECONDS
        return self._should_stop()


class Solo(Resumable):
    """One training run on one device.

    Every epoch goes once through a new permutation of the training part in whole batches; the rest that fills no
    batch is left out of that epoch, and a batch larger than the part is the part. All randomness is a function of
    (recipe.seed, epoch, step), see `streams`. With `layers` reports have the gradient's norm of every layer. Raises
    `BadInputError` for a recipe or data that is refused.
    """

    def __init__(self, recipe: Recipe, device: str, cache: Path, *, layers: bool = False) -> None:
        check(recipe)
        self.recipe = recipe
        self.dataset = worded(load(recipe.data, cache), recipe, cache)
        self._data = self.dataset.to(device)
        self._device = device
        examples, inputs = self._data.train_x.shape
        dropout = recipe.regularization.dropout
        generator = streams.generator(recipe.seed, Stream.INIT)
        outputs = self._data.classes or 1
        shapes = self._data.image_shape, dropout, generator, self._data.sequence
        self.network = build(recipe.model, inputs, outputs, *shapes).to(device)
        self._dropouts = dropouts(self.network)
        self._units = Units(self.network)
        self._words: tuple[int, Tensor] | None = None
        self._augment = Augment.of(recipe, self._data)
        self._examples = self._augment.examples(self._data)
        self._constants = self._augment.constants(self._data, device, torch.get_default_dtype())
        # Words and strengths of an epoch's steps.
        self._draws: tuple[int, Tensor, Tensor] | None = None
        own: list[int] = []
        self._transfer = recipe.transfer if isinstance(recipe.transfer, FineTune) else None
        if self._transfer is not None:
            self._stage_of = stages(self.network.state_dict())
            own = [self._stage_of[name] for name, _ in self.network.named_parameters()]
            self.network.load_state_dict(initial_state(self._transfer, self.state_dict(), cache))
        scale, every = loss_scale(recipe.precision), layers and self._transfer is None
        self._update = Update(self.network, recipe.optim, recipe.regularization, scale, own, layers=every)
        named = [one for one in self.network.named_parameters() if one[1].requires_grad] if every else []
        self._layers = layer_metrics([name for name, _ in named], [parameter.shape for _, parameter in named])
        self._smoothing = recipe.regularization.label_smoothing
        self._batch = recipe.batch_of(examples)
        self._steps = examples // self._batch
        rate = LearningRate(recipe.schedule, recipe.optim.lr, self._steps, recipe.epochs)
        stopping = EarlyStopping(recipe.regularization.patience, recipe.regularization.min_delta)
        self._progress = Progress(self.network, [self._update], rate, stopping)

    def reports(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, dict[str, float], float]]:
        """Train, and yield (epoch from 1, metrics, seconds spent on the epoch) after each epoch; to be called once.

        Resumed, it begins with the next epoch. Metrics: train_loss (mean over the epoch's steps, without penalties),
        first_loss (of the run's first step; in the first report alone), val_loss, val_accuracy (classification),
        generalization_gap (val_loss - train_loss), lr (of the last step), grad_norm and grad_norm_max (over the steps,
        before clipping), examples_per_second (in training), seconds (of training and validation so far), and those of
        `training.health`. Ends in mid-epoch, without a report, once `should_stop()`; after an early stop; and after an
        epoch whose loss was not finite, which is cut short and whose val_loss and val_accuracy are NaN.
        """
        told_to_stop = Poll(should_stop)
        for epoch in range(self._progress.epoch + 1, self.recipe.epochs + 1):
            began = time.perf_counter()
            trained = self._train(epoch, told_to_stop)
            if trained is None:
                return
            losses, norms, health = trained
            train_loss = losses.mean().item()
            training_seconds = time.perf_counter() - began
            nothing = {"val_loss": math.nan, "val_accuracy": math.nan}
            validation = self._evaluate() if math.isfinite(train_loss) else nothing
            val_loss = validation["val_loss"]
            rate = self._progress.rate.at((epoch - 1) * self._steps + len(losses) - 1)
            spent = time.perf_counter() - began
            over = self._progress.end_epoch(epoch, spent, val_loss)
            metrics = {
                "train_loss": train_loss,
                **({"first_loss": losses[0].item()} if epoch == 1 else {}),
                **validation,
                **bits_per_character(self._data, val_loss),
                "generalization_gap": val_loss - train_loss,
                "lr": rate,
                "grad_norm": norms.mean().item(),
                "grad_norm_max": norms.max().item(),
                **health,
                "examples_per_second": len(losses) * self._batch / training_seconds,
                "seconds": self._progress.seconds,
                "peak_memory": peak_memory(self._device),
            }
            if not self._data.classes:
                del metrics["val_accuracy"]
            yield epoch, metrics, spent
            if over:
                return

    def train_steps(self, rates: Sequence[float]) -> Iterator[float]:
        """Train a step at each of these learning rates, and yield its loss; to be called once, and not after `reports`.

        The schedule, early stopping and validation have no part in it. Whoever has seen enough reads no further.
        """
        set_products(self.recipe.precision, self._device)
        for epoch, first in enumerate(range(0, len(rates), self._steps), start=1):
            self._begin(epoch)
            order = self._order(epoch)
            for step, lr in enumerate(rates[first : first + self._steps]):
                rows = order[step * self._batch : (step + 1) * self._batch]
                loss = self._loss_of(epoch, step, rows)
                self._update.step(loss, lr)
                yield loss.item()

    def train_one_batch(self, lr: float, steps: int) -> Iterator[float]:
        """Train on the first batch alone, so many steps at one rate, and yield its loss before each; called once."""
        set_products(self.recipe.precision, self._device)
        self._begin(1)
        rows = self._order(1)[: self._batch]
        for _ in range(steps):
            loss = self._loss_of(1, 0, rows)
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
        self._begin(1)
        return lambda: self._step(1, 0, next(batches))

    def _step(self, epoch: int, step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Train one step on the examples `rows`; returns the loss and the gradient norm, left on the device.

        In an epoch's last step, it is the norms of `Update.step_by_depth`.
        """
        loss = self._loss_of(epoch, step, rows)
        descend = self._update.step_by_depth if step == self._steps - 1 else self._update.step
        norm = descend(loss, self._progress.rate.at((epoch - 1) * self._steps + step))
        return loss.detach(), norm

    def _loss_of(self, epoch: int, step: int, rows: Tensor) -> Tensor:
        """Return the loss on the examples `rows` of a step, to descend from."""
        data = self._data
        self._draw_masks(epoch, step)
        y = data.train_y.index_select(0, rows)
        if not self._augment.names:
            return self._loss(self._outputs(self._examples.index_select(0, rows)), y, smoothing=self._smoothing)
        words, strengths = self._drawn(epoch, step)
        x = self._examples.index_select(0, self._augment.rows(rows, words, strengths, len(data.train_x)))
        outputs = self._outputs(self._augment(x, words, strengths, self._constants))
        share = self._augment.share(strengths)
        if share is None or not data.classes:
            return self._loss(outputs, y if share is None else mixed(y, share, 0), smoothing=self._smoothing)
        own, other = (self._loss(outputs, targets, smoothing=self._smoothing) for targets in (y, partners(y, 0)))
        return (share * own + (1 - share) * other).squeeze()

    def _outputs(self, x: Tensor) -> Tensor:
        return outputs_of(self.network, x, self.recipe.precision, self._device)

    def _order(self, epoch: int) -> Tensor:
        """Return the examples in the order in which an epoch takes them, `[examples]`."""
        return streams.permutation(self.recipe.seed, epoch, len(self._data.train_x)).to(self._device)

    def _begin(self, epoch: int) -> None:
        """Make ready for an epoch of training, in which the first stages may be frozen."""
        self.network.train()
        if isinstance(self.recipe.model, Own):
            # It may draw from the global streams.
            seed_everything(streams.stream_seed(self.recipe.seed, Stream.OWN, epoch))
        if self._transfer is None:
            return
        frozen, count = frozen_stages(self._transfer, epoch), 1 + max(self._stage_of.values())
        self._update.train(frozen, rate_factors(self._transfer, count))
        for name, layer in self.network.named_modules():
            if isinstance(layer, BatchNorm) and self._stage_of[f"{name}.running_mean"] < frozen:
                layer.eval()

    def _train(self, epoch: int, told_to_stop: Poll) -> tuple[Tensor, Tensor, dict[str, float]] | None:
        """Train one epoch; None when stopped.

        Returns the loss and the gradient norm of each step `[steps]`, and what is measured in the last one.
        """
        batch = self._batch
        order = self._order(epoch)
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        health: dict[str, float] = {}
        set_products(self.recipe.precision, self._device)
        self._begin(epoch)
        for step in range(self._steps):
            if told_to_stop():
                return None
            rows = order[step * batch : (step + 1) * batch]
            if step < self._steps - 1:
                loss, norm = self._step(epoch, step, rows)
            else:
                before = self._update.sample()
                loss, by_depth = self._step(epoch, step, rows)
                norm = by_depth[0]
                (moved,) = update_ratios(before[None], self._update.sample()[None])
                health = {**gradient_metrics(by_depth.tolist(), self._layers), "update_ratio": moved}
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
        for rows, counted in evaluation_parts(len(data.val_y), self._device, data.length):
            self._units.begin()
            outputs = self._outputs(data.val_x[rows])[:counted]
            units.append(list(self._units.take().values()))
            y = data.val_y[rows[:counted]]
            loss += self._loss(outputs, y, reduction="sum")
            right += (outputs.argmax(dim=-1) == y).sum()
        mean = loss.item() / data.val_y.numel()
        finite = math.isfinite(mean)
        scores = {"val_loss": mean if finite else math.nan}
        scores["val_accuracy"] = right.item() / data.val_y.numel() if finite else math.nan
        shares = (torch.stack(values).double().mean().item() for values in zip(*units, strict=True))
        return scores | dict(zip(self._units.names, shares, strict=True))

    def _loss(self, outputs: Tensor, targets: Tensor, *, reduction: str = "mean", smoothing: float = 0.0) -> Tensor:
        if self._data.classes:
            # Where an example has several targets, each counts as one.
            outputs, targets = outputs.flatten(0, -2), targets.flatten()
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

    def _drawn(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the words and the strengths of a step's augmentation."""
        if self._draws is None or self._draws[0] != epoch:
            words = torch.from_numpy(self._augment.words(self.recipe.seed, epoch, self._steps))
            strengths = torch.from_numpy(self._augment.strengths(self.recipe, epoch, self._steps))
            self._draws = epoch, words.to(self._device), strengths.to(self._device, torch.get_default_dtype())
        return self._draws[1][step], self._draws[2][step]
