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
from swathe.training import lane_compiler, lane_widths, streams
from swathe.training.augment import Augment
from swathe.training.cuda_graph import CudaGraphs
from swathe.training.data import Dataset, load
from swathe.training.gan import compared
from swathe.training.health import gradient_metrics, peak_memory, update_ratios
from swathe.training.lane_optim import coefficients, stage_coefficients
from swathe.training.lane_program import Geometry, Program, Stack, Step, compiled_program, eager_program
from swathe.training.models import build
from swathe.training.own import lane_buffers
from swathe.training.precision import set_products
from swathe.training.recipe import GAN, FineTune, Own, Recipe
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


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What the steps of an epoch are given, each `[steps, K, ...]`."""

    order: Tensor
    table: Tensor
    words: Tensor

    def of(self, lanes: list[int]) -> Given:
        """Return what these lanes are given, in this order."""
        return Given(self.order[:, lanes], self.table[:, lanes], self.words[:, lanes])


@dataclass(slots=True, eq=False)
class Lane:
    """A trial in a block, which trains or has `finished`."""

    tag: int
    recipe: Recipe
    rate: LearningRate
    stopping: EarlyStopping
    epoch: int = 0
    seconds: float = 0.0
    finished: bool = False
    # Its rows, once it is finished and its lane in the stack is another's.
    kept: tuple[Tensor, ...] = ()


# The lanes of one step, their losses `[K]` or `[K, losses]`, and their gradients' norms `[K, 3 + between]`.
_Step = tuple[list[Lane], Tensor, Tensor]


class LaneBlock:
    """At most K lanes on one device for trials whose recipes have one structural key, trained an epoch at a time.

    A trial's numbers are a function of its recipe, and in their last bits of the program, compiled or not: they do not
    depend on its lane, on when it was admitted, or on what its neighbours do (uncompiled on a CPU: with one thread, as
    torch then splits tensors among threads wherever it likes), and on a CPU not on K. They are those of `Solo` up to
    rounding. A step costs what its live lanes cost, on a GPU those of the next of its `lane_widths`.

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
        if not (compiled and lane_compiler.is_compiled(self._geometry, cache)) and (
            reason := can_lane(recipe, self._geometry)
        ):
            raise BadInputError(reason)
        self._steps = self._geometry.examples // self._geometry.batch
        self._train = self._training_part(recipe)
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
        self._on_gpu = torch.device(device).type == "cuda"
        # Torch's own code on a CPU is other code in two cases.
        by_torch = not self.compiled and not self._on_gpu
        # One lane more, which no trial gets, has the end of every tensor.
        self._spare = int(by_torch and any(rows % WHOLE_ROWS for rows in self._passes()))
        # One matrix times a vector is not computed as several at once are, on some CPUs (by MKL, seen on AMD's):
        # a network that has a matrix of one row or column is computed in two lanes where one trains.
        vectors = any(len(shape) == 2 and 1 in shape for shape in self._network.parameters.shapes)
        self._fewest = 2 if by_torch and vectors else 1
        self._permutations = streams.Permutations(ahead=self._on_gpu)
        # Those that train, each by its row in the stack, and those that are finished.
        self._live: list[Lane] = []
        self._finished: list[Lane] = []
        self._resize(lanes)

    def _resize(self, lanes: int) -> None:
        if lanes < 1:
            raise bad_value("lanes", lanes, "an integer, at least 1")
        self._capacity = lanes
        self._stack: Stack = self._network.new_stack(max(lanes + self._spare, self._fewest))
        self._graphs = CudaGraphs() if self._on_gpu else None
        # Of a GPU's steps; not looked for yet.
        self._widths: list[int] = []

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
    def size(self) -> int:
        """The number of parameters of one lane's network."""
        return self._network.parameters.size

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
            lane = Lane(tag, recipe, rate, stopping)
            self._initialise(recipe, index)
        else:
            rate, stopping = replace(state.rate), replace(state.stopping)
            lane = Lane(tag, recipe, rate, stopping, state.epoch, state.seconds, state.finished, state.tensors)
            if lane.finished:
                self._finished.append(lane)
                return
            for place, value in zip(stack.saved(), state.tensors, strict=True):
                place[index] = value
        self._set_dropout(recipe, index)
        self._live.append(lane)

    def exploit(self, tag: int, source: int, recipe: Recipe) -> None:
        """Let a trial go on from where another one is, by a recipe of its own (Jaderberg et al. 2017, section 4.1.1).

        It has a copy of that one's parameters, moments, buffers, and of what its schedule and its early stopping have
        seen; its own are forgotten. Both must have done the same epochs. Raises `BadInputError` when one of them does
        not train, and for a recipe of another structural key.
        """
        check(recipe)
        if structural_key(recipe) != self.key:
            raise BadInputError(f"trial {tag} has another structural key than the block: {structural_key(recipe)}.")
        lane, other = self._lane(tag), self._lane(source)
        if lane.finished or other.finished or lane.epoch != other.epoch:
            raise BadInputError(f"trial {tag} cannot go on from trial {source}, which is not beside it.")
        index, place = self._live.index(lane), self._live.index(other)
        for rows in self._stack.saved():
            rows[index] = rows[place]
        self._set_dropout(recipe, index)
        lane.recipe = recipe
        lane.rate = replace(other.rate, schedule=recipe.schedule, lr=recipe.optim.lr)
        lane.stopping = replace(other.stopping)

    def epoch(self, should_stop: Callable[[int], bool]) -> list[LaneReport]:
        """Train every live lane for one epoch, evaluate it, and report.

        `should_stop(tag)` is asked before every step: a lane that is told to stop has no report and is free at once.
        A lane whose report says `finished` keeps its state until its release.
        """
        epoch = list(self._live)
        if not epoch:
            return []
        set_products(self._precision, self._geometry.device)
        self._begin(epoch)
        began = time.perf_counter()
        for lane in epoch:
            lane.epoch += 1
        trace, moved = self._train_epoch(should_stop)
        history = _by_lane(trace)
        trained = [lane for lane in epoch if lane in self._live or lane in self._finished]
        if not trained:
            return []
        training_seconds = time.perf_counter() - began
        validation = dict(zip(self.tags, self._evaluate(), strict=True)) if self._live else {}
        spent = (time.perf_counter() - began) / len(trained)
        reports, memory = [], peak_memory(self._geometry.device)
        for lane in trained:
            losses, norms = history[lane.tag]
            lane.seconds += spent
            steps = len(losses)
            rate = lane.rate.at((lane.epoch - 1) * self._steps + steps - 1)
            metrics = {
                **self._scores(lane, losses, rate, validation.get(lane.tag)),
                "lr": rate,
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
            lanes, given, train = list(self._live), self._given(self._live), self._stepper()
            for step in range(min(self._steps, steps - len(losses))):
                loss, _ = train(*self._given_in(step, lanes, given))
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
        return self._network.as_state(state)

    def cut(self, tag: int) -> LaneState:
        """Return a copy of a trial's state, which `admit` continues from bit for bit; its lane stays taken."""
        lane = self._lane(tag)
        rate, stopping = replace(lane.rate), replace(lane.stopping)
        return LaneState(lane.epoch, lane.seconds, lane.finished, rate, stopping, self._rows(lane))

    def shrink(self, lanes: int) -> None:
        """Give the block another number of lanes; raises `BadInputError` when its trials do not fit.

        On a GPU, where those would give other bits, it keeps those that it has.
        """
        taken = len(self._live) + len(self._finished)
        if taken > lanes:
            raise bad_value("lanes", lanes, f"at least {taken}, as so many trials are in the block")
        if self._on_gpu and lanes not in self._widths:
            return
        before, live, widths = self._stack, len(self._live), self._widths
        self._resize(lanes)
        self._widths = [width for width in widths if width <= lanes]
        for rows, old in zip(self._stack.all(), before.all(), strict=True):
            rows[:live] = old[:live]

    def step_to_time(self) -> Callable[[], object]:
        """Return a function that trains the live lanes for a step of their first epoch: only its time counts."""
        lanes = list(self._live)
        for lane in lanes:
            lane.epoch = 1
        given, train, steps = self._given(lanes), self._stepper(), itertools.cycle(range(self._steps))
        return lambda: train(*self._given_in(next(steps), lanes, given))

    def _lane(self, tag: int) -> Lane:
        for lane in (*self._live, *self._finished):
            if lane.tag == tag:
                return lane
        raise BadInputError(f"trial {tag} is not in the block.")

    def _rows(self, lane: Lane) -> tuple[Tensor, ...]:
        """Return a copy of a lane's rows, on the CPU."""
        if lane.finished:
            return lane.kept
        index = self._live.index(lane)
        return tuple(rows[index].cpu().clone() for rows in self._stack.saved())

    def _finish(self, lane: Lane) -> None:
        """Take a lane out of those that train and keep what it ended with."""
        lane.kept = self._rows(lane)
        lane.finished = True
        self._take_out(lane)
        self._finished.append(lane)

    def _take_out(self, lane: Lane) -> None:
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

    def _begin(self, lanes: list[Lane]) -> None:
        """Make ready for an epoch of these lanes, before its time counts."""

    def _scores(self, lane: Lane, losses: Array, rate: float, validation: dict[str, float] | None) -> dict[str, float]:
        """Return what a report says of an epoch's losses `[steps, losses]` and of what was found after it, if it was.

        `rate` is that of the last step.
        """
        own = losses[:, 0]
        first = {"first_loss": float(own[0])} if lane.epoch == 1 else {}
        found = validation or {"val_loss": math.nan, "val_accuracy": math.nan}
        return {**first, **self._scored(float(own.mean()), **found)}

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

    def _training_part(self, recipe: Recipe) -> tuple[Tensor, ...]:
        """Return what a step takes its batches from: features and targets."""
        examples = Augment.of(recipe, self._data).examples(self._data)
        return self._inputs(examples), self._typed(self._data.train_y)

    def _passes(self) -> list[int]:
        """Return how many examples are in a pass, where that is not a multiple of `WHOLE_ROWS` already."""
        return [self._geometry.batch]

    def _validation_parts(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield features, targets and which rows count, of each part."""
        data = self._data
        for rows, counted in evaluation_parts(len(data.val_y), self._geometry.device, data.length):
            x = self._inputs(self._data.val_x[rows])
            yield x, self._typed(self._data.val_y[rows]), torch.arange(len(rows), device=rows.device) < counted

    def _first_state(self, recipe: Recipe) -> dict[str, Tensor]:
        """Return the parameters and buffers that `Solo` starts from."""
        geometry, generator = self._geometry, streams.generator(recipe.seed, Stream.INIT)
        shapes = geometry.image_shape, 0.0, generator, geometry.sequence
        network = build(recipe.model, geometry.features, geometry.classes or 1, *shapes)
        if isinstance(recipe.model, Own):
            return {**dict(network.named_parameters()), **lane_buffers(network)}
        state = network.state_dict()
        if isinstance(recipe.transfer, FineTune):
            state = initial_state(recipe.transfer, state, self._cache)
        return state

    def _set_dropout(self, recipe: Recipe, index: int) -> None:
        for position, layer in enumerate(self._network.dropouts):
            p = recipe.regularization.dropout if layer.p is None else layer.p
            self._stack.thresholds[index, position] = streams.dropout_threshold(p)
            self._stack.scales[index, position] = 1 / (1 - p)

    def _initialise(self, recipe: Recipe, index: int) -> None:
        stack, network, state = self._stack, self._network, self._first_state(recipe)
        for rows in stack.saved():
            rows[index] = 0
        for layout, rows in ((network.parameters, stack.parameters), (network.buffers, stack.buffers)):
            for name, place in zip(layout.names, layout.tensors(rows[index : index + 1]), strict=True):
                place[0] = state[name].detach()

    def _train_epoch(self, should_stop: Callable[[int], bool]) -> tuple[list[_Step], dict[int, float]]:
        """Train the live lanes; lanes that are to stop are free at once.

        Returns what each step gave, and by its tag how far the last step moved each lane that has made it.
        """
        history: list[_Step] = []
        moved: dict[int, float] = {}
        lanes = list(self._live)
        given, train = self._given(lanes), self._stepper()
        for lane in lanes:
            if lane.epoch < lane.recipe.epochs:
                self._permutations.expect(lane.recipe.seed, lane.epoch + 1, self._geometry.examples)
        for step in range(self._steps):
            for lane in [lane for lane in self._live if should_stop(lane.tag)]:
                self._take_out(lane)
            if len(lanes) != len(self._live):
                # What is left of the epoch, for the lanes that are left, in the order in which they now lie.
                places = [lanes.index(lane) for lane in self._live]
                lanes = list(self._live)
                if not lanes:
                    break
                # What a spare lane is given does not matter.
                last = given.table.shape[1] - 1
                given = given.of(places + [last] * self._spares(len(lanes)))
                train = self._stepper()
            before = self._weights(len(lanes)) if step == self._steps - 1 else None
            loss, norms = train(*self._given_in(step, lanes, given))
            history.append((lanes, loss, norms))
            if before is not None:
                moves = self._network.trained(given.table[step], before, self._sample(len(lanes)))
                ratios = update_ratios(*moves)
                moved = dict(zip((lane.tag for lane in lanes), ratios, strict=True))
            if step % CHECK_STEPS == CHECK_STEPS - 1:
                finite = loss.isfinite().reshape(len(loss), -1).all(1).tolist()
                for lane in [lane for lane, fine in zip(lanes, finite, strict=False) if not fine]:
                    self._finish(lane)
        return history, moved

    def _weights(self, lanes: int) -> Tensor | None:
        """Return what tells how far a step moves the first lanes; None: that is not asked for."""
        return self._sample(lanes)

    def _sample(self, lanes: int) -> Tensor:
        return self._network.sample(self._stack.parameters[:lanes])

    def _spares(self, live: int) -> int:
        """Return how many lanes a step of so many live ones computes beyond them."""
        if not self._on_gpu:
            return max(self._spare, self._fewest - live)
        return next(width for width in self._equal_widths() if width >= live) - live

    def _equal_widths(self) -> list[int]:
        """Return the widths of a GPU's steps, the smallest first, measured once with a trial of the block."""
        if not self._widths:
            # Enough for what that trial alone is given.
            self._widths = [1]
            lane = replace(self._live[0], epoch=max(1, self._live[0].epoch))
            given = self._given([lane])
            steps = [
                [one[:1] for one in self._given_in(step, [lane], given)]
                for step in range(min(lane_widths.STEPS, self._steps))
            ]
            saved = [rows.clone() for rows in self._stack.saved()]

            def compute(width: int) -> list[Tensor]:
                """Train that trial for some steps in so many lanes, and evaluate it."""
                stack = self._stack.first(width)
                for rows, old in zip(stack.saved(), saved, strict=True):
                    rows.copy_(old[:1].expand_as(rows))
                train = self._program.stepper(stack, self._train, self._constants)
                trained = []
                for step in steps:
                    found = train(*(one.expand(width, *one.shape[1:]).contiguous() for one in step))
                    # Compiled code may write the next step's numbers into the same memory.
                    trained += [tensor.clone() for tensor in found]
                return [*trained, *self._evaluated(lane, stack), *stack.saved()]

            self._widths = lane_widths.same_bits(self._capacity, compute)
            for rows, old in zip(self._stack.saved(), saved, strict=True):
                rows.copy_(old)
        return self._widths

    def _evaluated(self, lane: Lane, stack: Stack) -> list[Tensor]:
        """Return what the program finds in the first part of the validation, each lane of the stack being that one."""
        return self._program.evaluate(stack, *self._validation[0])

    def _stepper(self) -> Step:
        lanes = len(self._live) + self._spares(len(self._live))
        stack = self._stack.first(lanes)
        step = self._program.stepper(stack, self._train, self._constants)
        return step if self._graphs is None else self._graphs.stepper(lanes, step, stack.saved())

    def _given(self, lanes: list[Lane]) -> Given:
        return Given(self._order(lanes), self._table(lanes), self._words(lanes))

    def _given_in(self, step: int, lanes: list[Lane], given: Given) -> tuple[Tensor, ...]:
        """Return what a step of these lanes is given, besides the stack and the data."""
        return given.order[step], given.table[step], given.words[step]

    def _order(self, lanes: list[Lane]) -> Tensor:
        """Return the examples of each step, `[steps, K, batch]`; a spare lane repeats the first one."""
        batch, examples = self._geometry.batch, self._geometry.examples
        order = torch.empty(len(lanes) + self._spares(len(lanes)), self._steps, batch, dtype=torch.int64)
        order[len(lanes) :] = 0
        for index, lane in enumerate(lanes):
            permutation = self._permutations.of(lane.recipe.seed, lane.epoch, examples)
            order[index] = permutation[: self._steps * batch].view(self._steps, batch)
        return order.to(self._geometry.device).transpose(0, 1).contiguous()

    def _table(self, lanes: list[Lane]) -> Tensor:
        """Return the coefficients of each step and lane, `[steps, K, Coefficient + strengths]`."""
        augment = self._network.augment
        width = len(lanes) + self._spares(len(lanes))
        table = np.zeros((self._steps, width, self._network.coefficients + len(augment.names)))
        for index, lane in enumerate(lanes):
            first, rates = (lane.epoch - 1) * self._steps, lane.rate.of_epoch(lane.epoch)
            table[:, index, : self._network.coefficients] = self._coefficients(lane, first, rates)
            if augment.names:
                table[:, index, self._network.coefficients :] = augment.strengths(lane.recipe, lane.epoch, self._steps)
        return torch.from_numpy(table).to(self._geometry.device, self._geometry.dtype)

    def _coefficients(self, lane: Lane, first: int, rates: Array) -> Array:
        transfer = lane.recipe.transfer
        if not isinstance(transfer, FineTune):
            return coefficients(lane.recipe, first, rates)
        by_stage = stage_coefficients(lane.recipe, transfer, self._network.stages, lane.epoch, self._steps, rates)
        return by_stage.reshape(len(rates), -1)

    def _words(self, lanes: list[Lane]) -> Tensor:
        """Return what each step draws from, as `Solo` has it: `[steps, K, layers + draws, 2]`.

        For the masks of the dropout layers, and then for augmentation.
        """
        layers, augment = len(self._network.dropouts), self._network.augment
        width = len(lanes) + self._spares(len(lanes))
        words = np.zeros((self._steps, width, layers + len(augment.draws), 2), dtype=np.int32)
        for index, lane in enumerate(lanes if words.size else ()):
            words[:, index, :layers] = streams.dropout_words(lane.recipe.seed, lane.epoch, self._steps, layers)
            words[:, index, layers:] = augment.words(lane.recipe.seed, lane.epoch, self._steps)
        return torch.from_numpy(words).to(self._geometry.device)

    def _evaluate(self) -> list[dict[str, float]]:
        """Return the metrics of each lane that trains on the validation part."""
        stack = self._stack.first(len(self._live) + self._spares(len(self._live)))
        parts = [self._program.evaluate(stack, *part) for part in self._validation]
        # `[parts, columns, K]` at once: each operation on so few numbers costs more than they do.
        # Added up on the CPU: a GPU would share the sum out by the number of lanes.
        totals = torch.stack([torch.stack([column.double() for column in part]) for part in parts]).cpu().sum(0)
        names = ("val_loss", "val_accuracy", *self._network.units.names)
        counts = np.array([self._data.val_y.numel()] * 2 + [len(parts)] * (len(names) - 2))
        lanes = (totals.numpy() / counts[:, None]).T[: len(self._live)].tolist()
        return [dict(zip(names, lane, strict=True)) for lane in lanes]


def _by_lane(history: list[_Step]) -> dict[int, tuple[Array, Array]]:
    """Return each lane's losses `[steps, losses]` and norms `[steps, 3 + between]` by its tag."""
    found: dict[int, list[Array]] = {}
    count = 1
    # As long as the lanes stay the same, so does the list.
    for _, steps in itertools.groupby(history, key=lambda step: id(step[0])):
        lanes, losses, norms = zip(*steps, strict=True)
        own = torch.stack(losses) if losses[0].dim() > 1 else torch.stack(losses)[:, :, None]
        count, values = own.shape[2], torch.cat([own, torch.stack(norms)], dim=2).cpu().double().numpy()
        for index, lane in enumerate(lanes[0]):
            found.setdefault(lane.tag, []).append(values[:, index])
    whole = {tag: np.concatenate(parts) for tag, parts in found.items()}
    return {tag: (values[:, :count], values[:, count:]) for tag, values in whole.items()}


def geometry_of(
    recipe: Recipe, dataset: Dataset, device: str, dtype: torch.dtype = torch.float32, *, layers: bool = False
) -> Geometry:
    """Return what the program of a recipe's blocks depends on; `layers` as `LaneBlock` has it."""
    data = dataset.to(device)
    examples, features = data.train_x.shape
    # Those of a GAN are compared at once, and its reports have no other layers than the ends of the generator.
    gan = isinstance(recipe.model, GAN)
    rows = compared(len(data.val_y)) if gan else len(next(evaluation_parts(len(data.val_y), device, data.length))[0])
    return Geometry(
        key=structural_key(recipe),
        model=recipe.model,
        dropout=recipe.regularization.dropout > 0,
        alters_gradient=recipe.regularization.alters_gradient,
        precision=recipe.precision,
        batch=recipe.batch_of(examples),
        rows=rows,
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
        layers=layers and not gan,
    )
