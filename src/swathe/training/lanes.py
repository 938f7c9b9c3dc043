"""Many trials trained side by side: each is a lane of one vectorised program, refilled as soon as it is free."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swathe.errors import BadInputError, bad_value
from swathe.training import streams
from swathe.training.data import load
from swathe.training.lane_optim import Coefficient, coefficients
from swathe.training.lane_program import Geometry, Stack, no_compiler, program
from swathe.training.models import build
from swathe.training.recipe import Recipe, check
from swathe.training.schedule import EarlyStopping, LearningRate
from swathe.training.solo import CHECK_STEPS, EVALUATION_ROWS
from swathe.training.streams import Stream
from swathe.training.structure import can_lane, structural_key

# Uncompiled, torch computes what fills no vector of elements by other code, at the end of a tensor and so in the last
# lane only. No lane has such an end when its examples are a multiple of this.
_WHOLE_ROWS = 32

__all__ = ["LaneBlock", "LaneReport", "LaneState", "can_lane", "structural_key"]


@dataclass(frozen=True, slots=True)
class LaneReport:
    """One epoch of one trial: metrics as `Solo.reports` has them, `seconds` the trial's share of the device's.

    `finished`: it was the last, as all epochs are done, early stopping ended the run, or its loss is not finite.
    """

    tag: int
    epoch: int
    metrics: dict[str, float]
    seconds: float
    finished: bool


@dataclass(frozen=True, slots=True, eq=False)
class LaneState:
    """A trial between two epochs: all that goes on with it, on the CPU, in any block of its structural key.

    `epoch` is the last one done and `seconds` what they took; `tensors` are the parameters, the two moments and the
    buffers.
    """

    epoch: int
    seconds: float
    finished: bool
    rate: LearningRate
    stopping: EarlyStopping
    tensors: tuple[Tensor, ...]


@dataclass(slots=True)
class _Lane:
    tag: int
    recipe: Recipe
    rate: LearningRate
    stopping: EarlyStopping
    epoch: int = 0
    seconds: float = 0.0
    finished: bool = False


class LaneBlock:
    """K lanes on one device for trials whose recipes have one structural key, trained an epoch at a time.

    A trial's numbers are a function of its recipe, and in their last bits of K and the program: not of its lane, of
    when it was admitted, or of what its neighbours do (uncompiled on a CPU: with one thread, as torch then splits
    tensors among threads wherever it likes). They are those of `Solo` up to rounding. `note` is one line
    when the lanes are not compiled although they were to be, else "". Constructing a block traces and compiles its
    program, unless the process has it. Raises `BadInputError` for a recipe or data that is refused.
    """

    def __init__(
        self,
        recipe: Recipe,
        lanes: int,
        device: str,
        cache: Path,
        *,
        compiled: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        check(recipe)
        if reason := can_lane(recipe):
            raise BadInputError(reason)
        self.key = structural_key(recipe)
        self.dataset = load(recipe.data, cache)
        self.note = no_compiler(cache) if compiled else ""
        self._compiled = compiled and not self.note
        self._data = self.dataset.to(device)
        examples, features = self._data.train_x.shape
        validation = len(self._data.val_x)
        self._geometry = Geometry(
            key=self.key,
            model=recipe.model,
            lanes=lanes,
            batch=examples if recipe.batch_size == "full" else min(int(recipe.batch_size), examples),
            # Parts of one size, so that one program evaluates them all.
            rows=_whole(math.ceil(validation / math.ceil(validation / EVALUATION_ROWS))),
            examples=examples,
            features=features,
            classes=self._data.classes,
            image_shape=self._data.image_shape,
            device=device,
            dtype=dtype,
            threads=torch.get_num_threads(),
        )
        self._steps = examples // self._geometry.batch
        self._train = (self._data.train_x.to(dtype), self._typed(self._data.train_y))
        self._validation = list(self._validation_parts())
        self._resize(lanes)

    def _resize(self, lanes: int) -> None:
        if lanes < 1:
            raise bad_value("lanes", lanes, "an integer, at least 1")
        self._geometry = replace(self._geometry, lanes=lanes)
        if self._compiled:
            self._program = program(self._geometry, True)
            self.note = self._program.note
            self._compiled = not self.note
        if not self._compiled:
            # Where it takes one lane more, which no trial gets, has the end of every tensor.
            spare = 1 if self._geometry.batch % _WHOLE_ROWS else 0
            self._geometry = replace(self._geometry, lanes=lanes + spare)
            self._program = program(self._geometry, False)
        self._stack: Stack = self._program.new_stack()
        self._lanes: list[_Lane | None] = [None] * lanes
        self._active = torch.zeros(self._geometry.lanes, dtype=torch.bool, device=self._geometry.device)

    @property
    def lanes(self) -> int:
        """The number of lanes, K."""
        return len(self._lanes)

    @property
    def free(self) -> int:
        """How many trials can be admitted."""
        return self._lanes.count(None)

    @property
    def tags(self) -> list[int]:
        """The trials that the next epoch trains, by lane."""
        return [lane.tag for _, lane in self._live()]

    @property
    def occupancy(self) -> float:
        """The share of lanes that the next epoch trains."""
        return len(self.tags) / self.lanes

    def admit(self, recipe: Recipe, tag: int, state: LaneState | None = None) -> None:
        """Put a trial into a free lane, from its start or from `state`.

        Raises `BadInputError` when no lane is free, the tag is taken, or the recipe has another structural key.
        """
        check(recipe)
        if structural_key(recipe) != self.key:
            raise BadInputError(f"trial {tag} has another structural key than the block: {structural_key(recipe)}.")
        if any(lane is not None and lane.tag == tag for lane in self._lanes):
            raise BadInputError(f"trial {tag} is in the block already.")
        if None not in self._lanes:
            raise BadInputError(f"trial {tag} finds no free lane of {self.lanes}.")
        index, stack = self._lanes.index(None), self._stack
        if state is None:
            regularization = recipe.regularization
            rate = LearningRate(recipe.schedule, recipe.optim.lr, self._steps, recipe.epochs)
            stopping = EarlyStopping(regularization.patience, regularization.min_delta)
            self._lanes[index] = _Lane(tag, recipe, rate, stopping)
            self._initialise(recipe, index)
        else:
            rate, stopping = replace(state.rate), replace(state.stopping)
            self._lanes[index] = _Lane(tag, recipe, rate, stopping, state.epoch, state.seconds, state.finished)
            places = [tensor for tensors in stack.saved() for tensor in tensors]
            for place, value in zip(places, state.tensors, strict=True):
                place[index] = value
        # By the operation that `models.Dropout` uses, for the same bits.
        scale = torch.ones(1, dtype=self._geometry.dtype).div_(1 - recipe.regularization.dropout)
        for keep, scales in zip(stack.masks, stack.scales, strict=True):
            keep[index] = True
            scales[index] = scale[0]

    def epoch(self, should_stop: Callable[[int], bool]) -> list[LaneReport]:
        """Train every live lane for one epoch, evaluate it, and report.

        `should_stop(tag)` is asked at every `CHECK_STEPS`th step, from the first on: a lane that is told to stop has
        no report and is free afterwards. A lane whose report says `finished` keeps its state until its release.
        """
        live = self._live()
        if not live:
            return []
        began = time.perf_counter()
        self._active.fill_(False)
        for index, lane in live:
            lane.epoch += 1
            self._active[index] = True
        losses, norms, lengths = self._train_epoch(live, should_stop)
        training_seconds = time.perf_counter() - began
        validation = self._evaluate()
        spent = (time.perf_counter() - began) / len(live)
        reports = []
        for index, lane in live:
            length = lengths.get(index, self._steps)
            if length == 0:
                self.release(lane.tag)
                continue
            lane.seconds += spent
            train_loss = float(losses[index, :length].mean())
            val_loss, val_accuracy = validation[index]
            if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
                val_loss = val_accuracy = math.nan
            metrics = {
                "train_loss": train_loss,
                "val_loss": val_loss,
                "lr": lane.rate.at((lane.epoch - 1) * self._steps + length - 1),
                "grad_norm": float(norms[index, :length].mean()),
                "grad_norm_max": float(norms[index, :length].max()),
                "examples_per_second": length * self._geometry.batch * len(live) / training_seconds,
                "seconds": lane.seconds,
            }
            if self._data.classes:
                metrics["val_accuracy"] = val_accuracy
            # In this order as in `Solo`: what is not finite never reaches the schedule.
            over = not math.isfinite(val_loss) or lane.stopping.is_over(val_loss)
            if not over:
                lane.rate.end_epoch(val_loss)
            lane.finished = over or lane.epoch == lane.recipe.epochs
            reports.append(LaneReport(lane.tag, lane.epoch, metrics, spent, lane.finished))
        return reports

    def release(self, tag: int) -> None:
        """Free a trial's lane; raises `BadInputError` when it has none, as do all that take a tag."""
        self._lanes[self._index(tag)] = None

    def state_dict(self, tag: int) -> dict[str, Tensor]:
        """Return a copy of a trial's parameters and buffers on the CPU, by the names that `Solo.state_dict` has."""
        index = self._index(tag)
        named = [*zip(self._program.parameters, self._stack.parameters, strict=True)]
        named += zip(self._program.buffers, self._stack.buffers, strict=True)
        state = {name: stacked[index].cpu().clone() for name, stacked in named}
        return {name: state[name] for name in self._program.names}

    def cut(self, tag: int) -> LaneState:
        """Return a copy of a trial's state, which `admit` continues from bit for bit; its lane stays taken."""
        index = self._index(tag)
        lane = self._lanes[index]
        assert lane is not None
        tensors = tuple(stacked[index].cpu().clone() for part in self._stack.saved() for stacked in part)
        return LaneState(lane.epoch, lane.seconds, lane.finished, replace(lane.rate), replace(lane.stopping), tensors)

    def shrink(self, lanes: int) -> None:
        """Move all trials into a block of fewer lanes; raises `BadInputError` when they do not fit."""
        taken = [lane for lane in self._lanes if lane is not None]
        if len(taken) > lanes:
            raise bad_value("lanes", lanes, f"at least {len(taken)}, as so many trials are in the block")
        moved = [(lane, self.cut(lane.tag)) for lane in taken]
        self._resize(lanes)
        for lane, state in moved:
            self.admit(lane.recipe, lane.tag, state)

    def _live(self) -> list[tuple[int, _Lane]]:
        return [(index, lane) for index, lane in enumerate(self._lanes) if lane is not None and not lane.finished]

    def _index(self, tag: int) -> int:
        for index, lane in enumerate(self._lanes):
            if lane is not None and lane.tag == tag:
                return index
        raise BadInputError(f"trial {tag} is not in the block.")

    def _typed(self, targets: Tensor) -> Tensor:
        return targets if self._data.classes else targets.to(self._geometry.dtype)

    def _validation_parts(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield features, targets and which rows count, in parts of one size: the last one is filled up."""
        rows, total = self._geometry.rows, len(self._data.val_x)
        for start in range(0, total, rows):
            places = torch.arange(start, start + rows, device=self._geometry.device)
            taken = places.clamp(max=total - 1)
            x = self._data.val_x[taken].to(self._geometry.dtype)
            yield x, self._typed(self._data.val_y[taken]), places < total

    def _initialise(self, recipe: Recipe, index: int) -> None:
        """Give a lane the parameters that `Solo` starts from."""
        geometry, stack = self._geometry, self._stack
        generator = streams.generator(recipe.seed, Stream.INIT)
        network = build(recipe.model, geometry.features, geometry.classes or 1, geometry.image_shape, 0.0, generator)
        state = network.state_dict()
        named = [*zip(self._program.parameters, stack.parameters, strict=True)]
        named += zip(self._program.buffers, stack.buffers, strict=True)
        for name, stacked in named:
            stacked[index] = state[name]
        for moment in (*stack.first_moments, *stack.second_moments):
            moment[index] = 0

    def _train_epoch(
        self, live: list[tuple[int, _Lane]], should_stop: Callable[[int], bool]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[int, int]]:
        """Return losses and norms `[K, steps]`, and how many steps count of the lanes that did not do all."""
        order, table = self._order(live), self._table(live)
        x, y = self._train
        lengths: dict[int, int] = {}
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        draws = [(index, lane) for index, lane in live if lane.recipe.regularization.dropout and self._stack.masks]
        for step in range(self._steps):
            if step % CHECK_STEPS == 0:
                for index, lane in live:
                    if lengths.get(index) != 0 and should_stop(lane.tag):
                        self._end(lengths, index, 0)
            for index, lane in draws:
                if index not in lengths:
                    self._draw_masks(index, lane, step)
            loss, norm = self._program.step(self._stack, x, y, order[step], table[step], self._active)
            losses.append(loss)
            norms.append(norm)
            if step % CHECK_STEPS == CHECK_STEPS - 1:
                finite = loss.isfinite().tolist()
                for index, _ in live:
                    if not finite[index] and index not in lengths:
                        self._end(lengths, index, step + 1)
            if len(lengths) == len(live):
                break
        whole = [torch.stack(values, dim=1).cpu().double().numpy() for values in (losses, norms)]
        return whole[0], whole[1], lengths

    def _end(self, lengths: dict[int, int], index: int, length: int) -> None:
        lengths[index] = length
        self._active[index] = False

    def _order(self, live: list[tuple[int, _Lane]]) -> Tensor:
        """Return the examples of each step, `[steps, K * batch]`; a lane that is not live repeats the first one."""
        batch, examples = self._geometry.batch, self._geometry.examples
        order = torch.zeros(self._steps, self._geometry.lanes, batch, dtype=torch.int64)
        for index, lane in live:
            shuffle = streams.generator(lane.recipe.seed, Stream.ORDER, lane.epoch)
            permutation = torch.randperm(examples, generator=shuffle)
            order[:, index] = permutation[: self._steps * batch].view(self._steps, batch)
        return order.flatten(1).to(self._geometry.device)

    def _table(self, live: list[tuple[int, _Lane]]) -> Tensor:
        """Return the coefficients of each step and lane, `[steps, K, Coefficient]`."""
        table = np.zeros((self._steps, self._geometry.lanes, len(Coefficient)))
        for index, lane in live:
            first = (lane.epoch - 1) * self._steps
            rates = [lane.rate.at(step) for step in range(first, first + self._steps)]
            table[:, index] = coefficients(lane.recipe, first, rates)
        return torch.from_numpy(table).to(self._geometry.device, self._geometry.dtype)

    def _draw_masks(self, index: int, lane: _Lane, step: int) -> None:
        """Draw a lane's masks as `Solo` does: all layers of a step from one stream, in order."""
        p, batch, device = lane.recipe.regularization.dropout, self._geometry.batch, self._geometry.device
        generator = streams.generator(lane.recipe.seed, Stream.DROPOUT, lane.epoch, step, device)
        for keep, shape in zip(self._stack.masks, self._program.shapes, strict=True):
            torch.ge(torch.rand(batch, *shape, generator=generator, device=device), p, out=keep[index])

    def _evaluate(self) -> list[tuple[float, float]]:
        """Return each lane's mean loss and accuracy on the validation part."""
        losses, right = zip(*(self._program.evaluate(self._stack, *part) for part in self._validation), strict=True)
        total = len(self._data.val_y)
        mean = (torch.stack(losses).sum(0) / total).tolist()
        accuracy = (torch.stack(right).sum(0).double() / total).tolist()
        return list(zip(mean, accuracy, strict=True))


def _whole(rows: int) -> int:
    return -(-rows // _WHOLE_ROWS) * _WHOLE_ROWS
