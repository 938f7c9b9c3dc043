"""Many trials trained side by side: each is a lane of one vectorised program, refilled as soon as it is free."""

from __future__ import annotations

import itertools
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
from swathe.training import lane_compiler, streams
from swathe.training.augment import Augment
from swathe.training.cuda_graph import CudaGraphs
from swathe.training.data import Dataset, load
from swathe.training.health import gradient_metrics, peak_memory, sampled, update_ratios
from swathe.training.lane_optim import coefficients, stage_coefficients
from swathe.training.lane_program import Geometry, Program, Stack, Step, compiled_program, eager_program
from swathe.training.models import build
from swathe.training.precision import set_products
from swathe.training.recipe import FineTune, Recipe
from swathe.training.recipe_check import check
from swathe.training.schedule import EarlyStopping, LearningRate
from swathe.training.solo import CHECK_STEPS, WHOLE_ROWS, bits_per_character, evaluation_parts
from swathe.training.streams import Stream
from swathe.training.structure import can_lane, structural_key
from swathe.training.transfer import initial_state
from swathe.training.wording import worded

__all__ = ["LaneBlock", "LaneReport", "LaneState", "can_lane", "geometry_of", "structural_key"]

Array = NDArray[np.float64]


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
    buffers, each one row.
    """

    epoch: int
    seconds: float
    finished: bool
    rate: LearningRate
    stopping: EarlyStopping
    tensors: tuple[Tensor, ...]


@dataclass(slots=True, eq=False)
class _Lane:
    tag: int
    recipe: Recipe
    rate: LearningRate
    stopping: EarlyStopping
    epoch: int = 0
    seconds: float = 0.0
    finished: bool = False
    # Its rows, once it is finished and its lane in the stack is another's.
    kept: tuple[Tensor, ...] = ()


# The lanes of one step, their losses `[K]` and their gradients' norms `[K, 3 + between]`.
_Step = tuple[list[_Lane], Tensor, Tensor]


class LaneBlock:
    """At most K lanes on one device for trials whose recipes have one structural key, trained an epoch at a time.

    A trial's numbers are a function of its recipe, and in their last bits of the program, compiled or not: they do not
    depend on K, on its lane, on when it was admitted, or on what its neighbours do (uncompiled on a CPU: with one
    thread, as torch then splits tensors among threads wherever it likes). They are those of `Solo` up to rounding.
    A step costs what its live lanes cost: a lane that is free takes no time.

    Compiled, the program is made when it is not on disk yet, which takes some twenty seconds; `note` is one line when
    lanes were to be compiled and are not, else "". With `layers` reports have the gradient's norm of every layer.
    Raises `BadInputError` for a recipe or data that is refused.
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
        layers: bool = False,
    ) -> None:
        check(recipe)
        self.key = structural_key(recipe)
        self._cache = cache
        self._precision = recipe.precision
        self.dataset = worded(load(recipe.data, cache), recipe, cache)
        self._data = self.dataset.to(device)
        self._geometry = geometry_of(recipe, self.dataset, device, dtype, layers=layers)
        # What is compiled has been found good.
        if not (compiled and lane_compiler.is_compiled(self._geometry, cache)) and (reason := can_lane(recipe)):
            raise BadInputError(reason)
        self._steps = self._geometry.examples // self._geometry.batch
        examples = Augment.of(recipe, self._data).examples(self._data)
        self._train = (self._inputs(examples), self._typed(self._data.train_y))
        self._validation = list(self._validation_parts())
        self.note = ""
        if compiled:
            self.note = lane_compiler.no_compiler() or lane_compiler.compile_now(self._geometry, cache)
        self._program: Program
        if compiled and not self.note:
            folder = lane_compiler.program_folder(self._geometry, cache)
            self._program = compiled_program(self._geometry, folder)
        else:
            self._program = eager_program(self._geometry)
        self._network = self._program.network
        self._constants = self._network.augment.constants(self._data, device, dtype)
        layout = self._network.parameters
        self._sampled = torch.tensor(layout.columns(sampled(sum(layout.sizes))), device=device)
        # One lane more, which no trial gets, has the end of every tensor.
        self._spare = 1 if self._geometry.batch % WHOLE_ROWS and not self.compiled else 0
        # Those that train, each by its row in the stack, and those that are finished.
        self._live: list[_Lane] = []
        self._finished: list[_Lane] = []
        self._resize(lanes)

    def _resize(self, lanes: int) -> None:
        if lanes < 1:
            raise bad_value("lanes", lanes, "an integer, at least 1")
        self._capacity = lanes
        self._stack: Stack = self._network.new_stack(lanes + self._spare)
        on_gpu = torch.device(self._geometry.device).type == "cuda"
        self._graphs = CudaGraphs() if on_gpu else None

    @property
    def compiled(self) -> bool:
        """Whether the lanes run a compiled program."""
        return self._program.compiled

    @property
    def lanes(self) -> int:
        """The number of lanes, K."""
        return self._capacity

    @property
    def steps(self) -> int:
        """The steps of an epoch."""
        return self._steps

    @property
    def free(self) -> int:
        """How many trials can be admitted."""
        return self._capacity - len(self._live) - len(self._finished)

    @property
    def tags(self) -> list[int]:
        """The trials that the next epoch trains."""
        return [lane.tag for lane in self._live]

    @property
    def occupancy(self) -> float:
        """The share of lanes that the next epoch trains."""
        return len(self._live) / self._capacity

    def admit(self, recipe: Recipe, tag: int, state: LaneState | None = None) -> None:
        """Put a trial into a free lane, from its start or from `state`.

        Raises `BadInputError` when no lane is free, the tag is taken, or the recipe has another structural key.
        """
        check(recipe)
        if structural_key(recipe) != self.key:
            raise BadInputError(f"trial {tag} has another structural key than the block: {structural_key(recipe)}.")
        if any(lane.tag == tag for lane in (*self._live, *self._finished)):
            raise BadInputError(f"trial {tag} is in the block already.")
        if not self.free:
            raise BadInputError(f"trial {tag} finds no free lane of {self.lanes}.")
        index, stack = len(self._live), self._stack
        if state is None:
            regularization = recipe.regularization
            rate = LearningRate(recipe.schedule, recipe.optim.lr, self._steps, recipe.epochs)
            stopping = EarlyStopping(regularization.patience, regularization.min_delta)
            lane = _Lane(tag, recipe, rate, stopping)
            self._initialise(recipe, index)
        else:
            rate, stopping = replace(state.rate), replace(state.stopping)
            lane = _Lane(tag, recipe, rate, stopping, state.epoch, state.seconds, state.finished, state.tensors)
            if lane.finished:
                self._finished.append(lane)
                return
            for place, value in zip(stack.saved(), state.tensors, strict=True):
                place[index] = value
        for position, layer in enumerate(self._network.dropouts):
            p = recipe.regularization.dropout if layer.p is None else layer.p
            stack.thresholds[index, position] = streams.dropout_threshold(p)
            stack.scales[index, position] = 1 / (1 - p)
        self._live.append(lane)

    def epoch(self, should_stop: Callable[[int], bool]) -> list[LaneReport]:
        """Train every live lane for one epoch, evaluate it, and report.

        `should_stop(tag)` is asked before every step: a lane that is told to stop has no report and is free at once.
        A lane whose report says `finished` keeps its state until its release.
        """
        epoch = list(self._live)
        if not epoch:
            return []
        began = time.perf_counter()
        set_products(self._precision, self._geometry.device)
        for lane in epoch:
            lane.epoch += 1
        trace, moved = self._train_epoch(should_stop)
        history = _by_lane(trace)
        trained = [lane for lane in epoch if lane in self._live or lane in self._finished]
        if not trained:
            return []
        training_seconds = time.perf_counter() - began
        nothing = {"val_loss": math.nan, "val_accuracy": math.nan}
        validation = dict(zip(self.tags, self._evaluate(), strict=True)) if self._live else {}
        spent = (time.perf_counter() - began) / len(trained)
        reports, memory = [], peak_memory(self._geometry.device)
        for lane in trained:
            losses, norms = history[lane.tag]
            lane.seconds += spent
            steps = len(losses)
            metrics = {
                **({"first_loss": float(losses[0])} if lane.epoch == 1 else {}),
                **self._scored(float(losses.mean()), **validation.get(lane.tag, nothing)),
                "lr": lane.rate.at((lane.epoch - 1) * self._steps + steps - 1),
                "grad_norm": float(norms[:, 0].mean()),
                "grad_norm_max": float(norms[:, 0].max()),
                **self._last_step(norms, moved.get(lane.tag)),
                "examples_per_second": steps * self._geometry.batch * len(trained) / training_seconds,
                "seconds": lane.seconds,
                "peak_memory": memory,
            }
            val_loss = metrics["val_loss"]
            # In this order as in `Solo`: what is not finite never reaches the schedule.
            over = not math.isfinite(val_loss) or lane.stopping.is_over(val_loss)
            if not over:
                lane.rate.end_epoch(val_loss)
            if not lane.finished and (over or lane.epoch == lane.recipe.epochs):
                self._finish(lane)
            reports.append(LaneReport(lane.tag, lane.epoch, metrics, spent, lane.finished))
        return reports

    def train_steps(self, steps: int) -> Tensor:
        """Train the live lanes for so many steps, and return their losses `[steps, K]` in the order of `tags`.

        They begin with a new epoch, go through as many as that takes, and are not evaluated: none is finished, and one
        whose loss is not finite goes on to the end, as do its neighbours.
        """
        losses: list[Tensor] = []
        set_products(self._precision, self._geometry.device)
        while len(losses) < steps:
            for lane in self._live:
                lane.epoch += 1
            order, table, words = self._order(self._live), self._table(self._live), self._words(self._live)
            train = self._stepper()
            for step in range(min(self._steps, steps - len(losses))):
                loss, _ = train(order[step], table[step], words[step])
                losses.append(loss[: len(self._live)])
        return torch.stack(losses).cpu().double()

    def release(self, tag: int) -> None:
        """Free a trial's lane; raises `BadInputError` when it has none, as do all that take a tag."""
        lane = self._lane(tag)
        if lane in self._live:
            self._take_out(lane)
        else:
            self._finished.remove(lane)

    def state_dict(self, tag: int) -> dict[str, Tensor]:
        """Return a copy of a trial's parameters and buffers on the CPU, by the names that `Solo.state_dict` has."""
        network = self._network
        parameters, _, _, buffers = self._rows(self._lane(tag))
        state: dict[str, Tensor] = {}
        for layout, row in ((network.parameters, parameters), (network.buffers, buffers)):
            tensors = zip(layout.names, layout.tensors(row[None]), strict=True)
            state |= {name: tensor[0].clone() for name, tensor in tensors}
        return {name: state[name] for name in network.names}

    def cut(self, tag: int) -> LaneState:
        """Return a copy of a trial's state, which `admit` continues from bit for bit; its lane stays taken."""
        lane = self._lane(tag)
        rate, stopping = replace(lane.rate), replace(lane.stopping)
        return LaneState(lane.epoch, lane.seconds, lane.finished, rate, stopping, self._rows(lane))

    def shrink(self, lanes: int) -> None:
        """Give the block another number of lanes; raises `BadInputError` when its trials do not fit."""
        taken = len(self._live) + len(self._finished)
        if taken > lanes:
            raise bad_value("lanes", lanes, f"at least {taken}, as so many trials are in the block")
        before, live = self._stack, len(self._live)
        self._resize(lanes)
        for rows, old in zip(self._stack.all(), before.all(), strict=True):
            rows[:live] = old[:live]

    def step_to_time(self) -> Callable[[], object]:
        """Return a function that trains the live lanes for a step of their first epoch: only its time counts."""
        lanes = list(self._live)
        for lane in lanes:
            lane.epoch = 1
        train = self._stepper()
        steps = itertools.cycle(zip(self._order(lanes), self._table(lanes), self._words(lanes), strict=True))
        return lambda: train(*next(steps))

    def _lane(self, tag: int) -> _Lane:
        for lane in (*self._live, *self._finished):
            if lane.tag == tag:
                return lane
        raise BadInputError(f"trial {tag} is not in the block.")

    def _rows(self, lane: _Lane) -> tuple[Tensor, ...]:
        """Return a copy of a lane's rows, on the CPU."""
        if lane.finished:
            return lane.kept
        index = self._live.index(lane)
        return tuple(rows[index].cpu().clone() for rows in self._stack.saved())

    def _finish(self, lane: _Lane) -> None:
        """Take a lane out of those that train and keep what it ended with."""
        lane.kept = self._rows(lane)
        lane.finished = True
        self._take_out(lane)
        self._finished.append(lane)

    def _take_out(self, lane: _Lane) -> None:
        """Give a lane's row to the last one, so that those that train lie side by side."""
        index, last = self._live.index(lane), len(self._live) - 1
        for rows in self._stack.all():
            rows[index] = rows[last]
        self._live[index] = self._live[last]
        self._live.pop()

    def _last_step(self, norms: Array, moved: float | None) -> dict[str, float]:
        """Return what is measured in an epoch's last step; nothing when the epoch was cut short."""
        if moved is None:
            return {}
        return {**gradient_metrics(norms[-1].tolist(), self._network.layers), "update_ratio": moved}

    def _scored(self, train_loss: float, val_loss: float, val_accuracy: float, **units: float) -> dict[str, float]:
        if not math.isfinite(train_loss):
            # As in `Solo`, which does not validate then.
            val_loss, units = math.nan, {}
        if not math.isfinite(val_loss):
            val_loss = val_accuracy = math.nan
        scores = {"train_loss": train_loss, "val_loss": val_loss, "generalization_gap": val_loss - train_loss}
        return {
            **scores,
            **({"val_accuracy": val_accuracy} if self._data.classes else {}),
            **bits_per_character(self._data, val_loss),
            **units,
        }

    def _inputs(self, x: Tensor) -> Tensor:
        return x if self._geometry.tokens else x.to(self._geometry.dtype)

    def _typed(self, targets: Tensor) -> Tensor:
        return targets if self._data.classes else targets.to(self._geometry.dtype)

    def _validation_parts(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield features, targets and which rows count, of each part."""
        data = self._data
        for rows, counted in evaluation_parts(len(data.val_y), self._geometry.device, data.length):
            x = self._inputs(self._data.val_x[rows])
            yield x, self._typed(self._data.val_y[rows]), torch.arange(len(rows), device=rows.device) < counted

    def _initialise(self, recipe: Recipe, index: int) -> None:
        """Give a lane the parameters that `Solo` starts from."""
        geometry, stack, network = self._geometry, self._stack, self._network
        generator = streams.generator(recipe.seed, Stream.INIT)
        shapes = geometry.image_shape, 0.0, generator, geometry.sequence
        module = build(recipe.model, geometry.features, geometry.classes or 1, *shapes)
        state = module.state_dict()
        if isinstance(recipe.transfer, FineTune):
            state = initial_state(recipe.transfer, state, self._cache)
        for rows in stack.saved():
            rows[index] = 0
        for layout, rows in ((network.parameters, stack.parameters), (network.buffers, stack.buffers)):
            for name, place in zip(layout.names, layout.tensors(rows[index : index + 1]), strict=True):
                place[0] = state[name]

    def _train_epoch(self, should_stop: Callable[[int], bool]) -> tuple[list[_Step], dict[int, float]]:
        """Train the live lanes; lanes that are to stop are free at once.

        Returns what each step gave, and by its tag how far the last step moved each lane that has made it.
        """
        history: list[_Step] = []
        moved: dict[int, float] = {}
        lanes = list(self._live)
        order, table, words = self._order(lanes), self._table(lanes), self._words(lanes)
        train = self._stepper()
        for step in range(self._steps):
            for lane in [lane for lane in self._live if should_stop(lane.tag)]:
                self._take_out(lane)
            if len(lanes) != len(self._live):
                # What is left of the epoch, for the lanes that are left, in the order in which they now lie.
                places = [lanes.index(lane) for lane in self._live]
                lanes = list(self._live)
                if not lanes:
                    break
                spared = places + list(range(order.shape[1] - self._spare, order.shape[1]))
                order, table, words = order[:, spared], table[:, spared], words[:, spared]
                train = self._stepper()
            before = self._weights(len(lanes)) if step == self._steps - 1 else None
            loss, norms = train(order[step], table[step], words[step])
            history.append((lanes, loss, norms))
            if before is not None:
                ratios = update_ratios(*self._trained(table[step], before, self._sample(len(lanes))))
                moved = dict(zip((lane.tag for lane in lanes), ratios, strict=True))
            if step % CHECK_STEPS == CHECK_STEPS - 1:
                finite = loss.isfinite().tolist()
                for lane in [lane for lane, fine in zip(lanes, finite, strict=False) if not fine]:
                    self._finish(lane)
        return history, moved

    def _weights(self, lanes: int) -> Tensor | None:
        """Return what tells how far a step moves the first lanes; None: that is not asked for."""
        return self._sample(lanes)

    def _sample(self, lanes: int) -> Tensor:
        """Return a copy of what `health.sampled` takes of the first lanes' parameters; with stages, of all."""
        rows = self._stack.parameters[:lanes]
        return rows.clone() if self._geometry.transfer else rows.index_select(1, self._sampled)

    def _trained(self, table: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        """Return rows of parameters with 0 for those that a step by this table has not trained."""
        if not self._geometry.transfer:
            return rows
        trained = self._network.trained(table[: len(rows[0])])
        return tuple(torch.where(trained, one, 0.0) for one in rows)

    def _stepper(self) -> Step:
        lanes = len(self._live) + self._spare
        stack = self._stack.first(lanes)
        step = self._program.stepper(stack, *self._train, self._constants)
        return step if self._graphs is None else self._graphs.stepper(lanes, step, stack.saved())

    def _order(self, lanes: list[_Lane]) -> Tensor:
        """Return the examples of each step, `[steps, K, batch]`; a spare lane repeats the first one."""
        batch, examples = self._geometry.batch, self._geometry.examples
        order = torch.zeros(self._steps, len(lanes) + self._spare, batch, dtype=torch.int64)
        for index, lane in enumerate(lanes):
            permutation = streams.permutation(lane.recipe.seed, lane.epoch, examples)
            order[:, index] = permutation[: self._steps * batch].view(self._steps, batch)
        return order.to(self._geometry.device)

    def _table(self, lanes: list[_Lane]) -> Tensor:
        """Return the coefficients of each step and lane, `[steps, K, Coefficient + strengths]`."""
        augment = self._network.augment
        table = np.zeros((self._steps, len(lanes) + self._spare, self._network.coefficients + len(augment.names)))
        for index, lane in enumerate(lanes):
            first = (lane.epoch - 1) * self._steps
            rates = [lane.rate.at(step) for step in range(first, first + self._steps)]
            table[:, index, : self._network.coefficients] = self._coefficients(lane, first, rates)
            if augment.names:
                table[:, index, self._network.coefficients :] = augment.strengths(lane.recipe, lane.epoch, self._steps)
        return torch.from_numpy(table).to(self._geometry.device, self._geometry.dtype)

    def _coefficients(self, lane: _Lane, first: int, rates: list[float]) -> Array:
        transfer = lane.recipe.transfer
        if not isinstance(transfer, FineTune):
            return coefficients(lane.recipe, first, rates)
        by_stage = stage_coefficients(lane.recipe, transfer, self._network.stages, lane.epoch, self._steps, rates)
        return by_stage.reshape(len(rates), -1)

    def _words(self, lanes: list[_Lane]) -> Tensor:
        """Return what each step draws from, as `Solo` has it: `[steps, K, layers + draws, 2]`.

        For the masks of the dropout layers, and then for augmentation.
        """
        layers, augment = len(self._network.dropouts), self._network.augment
        words = np.zeros((self._steps, len(lanes) + self._spare, layers + len(augment.draws), 2), dtype=np.int32)
        for index, lane in enumerate(lanes if words.size else ()):
            words[:, index, :layers] = streams.dropout_words(lane.recipe.seed, lane.epoch, self._steps, layers)
            words[:, index, layers:] = augment.words(lane.recipe.seed, lane.epoch, self._steps)
        return torch.from_numpy(words).to(self._geometry.device)

    def _evaluate(self) -> list[dict[str, float]]:
        """Return the metrics of each lane that trains on the validation part."""
        stack = self._stack.first(len(self._live) + self._spare)
        parts = [self._program.evaluate(stack, *part) for part in self._validation]
        # `[parts, columns, K]` at once: each operation on so few numbers costs more than they do.
        totals = torch.stack([torch.stack([column.double() for column in part]) for part in parts]).sum(0)
        names = ("val_loss", "val_accuracy", *self._network.units.names)
        counts = np.array([self._data.val_y.numel()] * 2 + [len(parts)] * (len(names) - 2))
        lanes = (totals.cpu().numpy() / counts[:, None]).T[: len(self._live)].tolist()
        return [dict(zip(names, lane, strict=True)) for lane in lanes]


def _by_lane(history: list[_Step]) -> dict[int, tuple[Array, Array]]:
    """Return each lane's losses `[steps]` and norms `[steps, 3 + between]` by its tag."""
    found: dict[int, list[Array]] = {}
    # As long as the lanes stay the same, so does the list.
    for _, steps in itertools.groupby(history, key=lambda step: id(step[0])):
        lanes, losses, norms = zip(*steps, strict=True)
        values = torch.cat([torch.stack(losses)[:, :, None], torch.stack(norms)], dim=2).cpu().double().numpy()
        for index, lane in enumerate(lanes[0]):
            found.setdefault(lane.tag, []).append(values[:, index])
    whole = {tag: np.concatenate(parts) for tag, parts in found.items()}
    return {tag: (values[:, 0], values[:, 1:]) for tag, values in whole.items()}


def geometry_of(
    recipe: Recipe, dataset: Dataset, device: str, dtype: torch.dtype = torch.float32, *, layers: bool = False
) -> Geometry:
    """Return what the program of a recipe's blocks depends on; `layers` as `LaneBlock` has it."""
    data = dataset.to(device)
    examples, features = data.train_x.shape
    return Geometry(
        key=structural_key(recipe),
        model=recipe.model,
        dropout=recipe.regularization.dropout > 0,
        alters_gradient=recipe.regularization.alters_gradient,
        precision=recipe.precision,
        batch=recipe.batch_of(examples),
        rows=len(next(evaluation_parts(len(data.val_y), device, data.length))[0]),
        examples=examples,
        features=features,
        classes=data.classes,
        image_shape=data.image_shape,
        device=device,
        dtype=dtype,
        threads=torch.get_num_threads(),
        augmentation=recipe.augmentation.names,
        transfer=isinstance(recipe.transfer, FineTune),
        sequence=data.sequence,
        layers=layers,
    )
