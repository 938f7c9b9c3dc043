"""How many lanes a device should train side by side, measured once for each structure and remembered on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from swathe.training import lane_compiler
from swathe.training.alone import alone
from swathe.training.beside import beside
from swathe.training.data import load
from swathe.training.lane_program import Geometry, eager_program, network_of
from swathe.training.lanes import geometry_of
from swathe.training.recipe import Own, Recipe
from swathe.training.structure import can_lane, is_slow_to_trace, structural_key

# The numbers of lanes that are tried, as long as each makes a step of a lane cheaper.
_TRIED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# A larger block must be so much cheaper a lane to be worth its memory, its cache misses and its longer epochs.
_WORTH = 0.95
# With so much more a lane, still larger blocks are not tried.
_WORSE = 1.25
# A step is timed in so many turns of at most so many runs, and for how long altogether (seconds).
_TURNS, _RUNS, _SECONDS = 3, 8, 0.12
# Blocks of one structure that a worker keeps: while the decisions on one's reports are under way, the other trains.
BLOCKS = 2
# Trials of a structure that have trained alone for so long (seconds) are worth the tracing and measuring of lanes.
_LANES_AFTER = 3.0
# Lanes that have trained uncompiled for so long (seconds) are worth a compilation of some twenty seconds: when to buy
# without knowing for how long one will rent (Karlin et al. 1988), for a program that is some four times faster.
_COMPILE_AFTER = 8.0
# Letters of an error that fit into a line.
_MOST_TEXT = 160
# Of a batch that is augmented, with the places of a rotation.
_COPIES = 12


@dataclass(frozen=True, slots=True)
class LanePlan:
    """How to train a structure: `lanes` trials side by side by `program`, compiled, eager, or solo with one lane.

    `note` is one line that says why trials are trained alone or uncompiled, else "".
    """

    lanes: int
    program: str
    note: str = ""


@dataclass(slots=True)
class _Structure:
    """What a planner knows of one structural key."""

    geometry: Geometry
    plans: dict[str, LanePlan] = field(default_factory=dict)
    most: int | None = None
    seconds: float = 0.0
    compiling: bool = False
    failed: str = ""


class Planner:
    """Plans for the structures of one worker.

    `slots` fixes the number of lanes (1: everything alone; None: measured), `compile` is auto, always or never, and
    `memory_fraction` bounds what lanes may take of the device's free memory. `layers` is as blocks have it.
    """

    def __init__(
        self,
        device: str,
        cache: Path,
        *,
        slots: int | None,
        compile: str,
        memory_fraction: float,
        layers: bool = False,
    ) -> None:
        self._device = device
        self._cache = cache
        self._slots = slots
        self._compile = compile
        self._memory_fraction = memory_fraction
        self._layers = layers
        self._structures: dict[str, _Structure] = {}

    def plan(self, recipe: Recipe) -> LanePlan:
        """Return how a recipe is best trained now; a trial that has begun stays in the block in which it did.

        The first trials of a structure are trained alone, unless its program is compiled already or `slots` is given: a
        search over many structures may have few trials of each. Takes about two seconds for a structure that was never
        measured on this device, and, where `compile` is always, the time of a compilation. Raises `BadInputError` for a
        recipe or data that is refused.
        """
        if self._slots == 1:
            return LanePlan(1, "solo")
        structure = self._structure(recipe)
        program = "compiled" if self._may_compile(structure) else "eager"
        plan = structure.plans.get(program)
        if plan is None and program == "eager":
            if self._slots is None and structure.seconds < _LANES_AFTER:
                return LanePlan(1, "solo")
            if reason := self._why_alone(recipe, structure):
                plan = structure.plans[program] = LanePlan(1, "solo", reason)
        if plan is None:
            plan = structure.plans[program] = self._measured(recipe, structure, program)
        if structure.most is not None and plan.lanes > structure.most:
            plan = replace(plan, lanes=structure.most)
        return plan

    def trained(self, recipe: Recipe, seconds: float) -> None:
        """Note that trials have trained alone or uncompiled for so long; a compilation begins as soon as it pays."""
        structure = self._structure(recipe)
        structure.seconds += seconds
        if "eager" not in structure.plans or structure.plans["eager"].lanes == 1:
            return
        if self._compile != "auto" or structure.compiling or structure.failed:
            return
        if structure.seconds >= _COMPILE_AFTER and not lane_compiler.no_compiler():
            structure.compiling = True
            lane_compiler.start(structure.geometry, self._cache)

    def out_of_memory(self, recipe: Recipe, lanes: int) -> LanePlan:
        """Take half of `lanes`, which were too many, from now on, and return the new plan."""
        self._structure(recipe).most = max(1, lanes // 2)
        return self.plan(recipe)

    def _why_alone(self, recipe: Recipe, structure: _Structure) -> str | None:
        """Return one line when a structure's trials cannot be lanes or should not be, else None."""
        reason = self._too_slow_to_trace(recipe, structure) or can_lane(recipe, structure.geometry)
        if reason is None and isinstance(recipe.model, Own):
            try:
                eager_program(structure.geometry)
            # The user's code may do anything there that a look at it does not tell.
            except Exception as error:
                words = " ".join(f"{type(error).__name__}: {error}".split())[:_MOST_TEXT]
                reason = f"lanes of this network cannot be traced ({words}), so its trials train alone."
        return reason

    def _too_slow_to_trace(self, recipe: Recipe, structure: _Structure) -> str:
        """Return one line when the tracing alone would cost more than a sweep's lanes save, else ""."""
        if self._slots is not None or not is_slow_to_trace(recipe, structure.geometry):
            return ""
        return "lanes of this network take a minute to trace, so its trials train alone; lanes.slots makes them lanes."

    def _structure(self, recipe: Recipe) -> _Structure:
        key = structural_key(recipe)
        if key not in self._structures:
            data = load(recipe.data, self._cache)
            self._structures[key] = _Structure(geometry_of(recipe, data, self._device, layers=self._layers))
        return self._structures[key]

    def _may_compile(self, structure: _Structure) -> bool:
        """Whether there is a compiled program, after making it where that is asked for."""
        if self._compile == "never":
            return False
        if structure.compiling and not structure.failed:
            structure.failed = lane_compiler.failure(structure.geometry, self._cache)
        if structure.failed or lane_compiler.no_compiler():
            return False
        if self._compile == "always":
            structure.failed = lane_compiler.compile_now(structure.geometry, self._cache)
            return not structure.failed
        return lane_compiler.is_compiled(structure.geometry, self._cache)

    def _measured(self, recipe: Recipe, structure: _Structure, program: str) -> LanePlan:
        note = "" if program == "compiled" or self._compile == "never" else lane_compiler.no_compiler()
        note = structure.failed or note
        if self._slots is not None:
            return LanePlan(self._slots, program, note)
        most = self._fitting(structure.geometry)
        if most < 2:
            return LanePlan(
                1, "solo", "lanes.memory_fraction leaves no room for two lanes, so trials are trained alone."
            )
        file = self._file(structure.geometry, program)
        lanes = _remembered(file)
        if lanes is None:
            lanes = self._probe(recipe, program, most)
            # That alone is faster is measured again by the next worker: a busy machine must not say it for ever.
            if lanes:
                _remember(file, lanes)
        if lanes == 0:
            return LanePlan(1, "solo", "lanes of this network are slower here than trials alone.")
        return LanePlan(min(BLOCKS * lanes, most), program, note)

    def _probe(self, recipe: Recipe, program: str, most: int) -> int:
        """Return the lanes of a block beyond which a step of a lane gets no cheaper; 0 when alone is cheapest."""
        best, lanes = self._solo_steps(recipe), 0
        for count in (count for count in _TRIED if BLOCKS * count <= max(most, BLOCKS)):
            try:
                step = self._lane_steps(recipe, count, program)
                cost = _relative_cost(step, count, best, max(lanes, 1))
                if cost < _WORTH:
                    # Once more: a slow moment of the machine must not pass for a merit of more lanes.
                    cost = max(cost, _relative_cost(step, count, best, max(lanes, 1)))
            except (MemoryError, torch.OutOfMemoryError):
                break
            if cost < _WORTH:
                best, lanes = step, count
            elif cost > _WORSE and lanes:
                break
        return lanes

    def _solo_steps(self, recipe: Recipe) -> Callable[[], object]:
        return alone(recipe, self._device, self._cache).step_to_time()

    def _lane_steps(self, recipe: Recipe, lanes: int, program: str) -> Callable[[], object]:
        block = beside(recipe, lanes, self._device, self._cache, compiled=program == "compiled", layers=self._layers)
        for tag in range(lanes):
            # Each with examples of its own.
            block.admit(replace(recipe, seed=tag), tag)
        return block.step_to_time()

    def _fitting(self, geometry: Geometry) -> int:
        """Return how many lanes fit into the part of the free memory that they may take."""
        return int(_free_bytes(self._device) * self._memory_fraction / lane_bytes(geometry))

    def _file(self, geometry: Geometry, program: str) -> Path:
        facts = [str(geometry), program, _device_name(self._device), torch.__version__]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
        return self._cache.absolute().parent / "programs" / f"lanes-{digest}.json"


def lane_bytes(geometry: Geometry) -> int:
    """Return about how many bytes one lane takes: its rows, its gradients, and what a pass keeps of each layer."""
    network = network_of(geometry)
    width, item = network.parameters.width, geometry.dtype.itemsize
    rows = (4 * width + network.buffers.width) * item
    # While a batch is augmented there are some copies of it, and of places in it, which are twice as wide.
    augmented = _COPIES * geometry.batch * geometry.features * item if geometry.augmentation else 0
    return rows + network.working_set * item + augmented


def _free_bytes(device: str) -> int:
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info()
        return int(free)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{torch.backends.cpu.get_cpu_capability()} {os.uname().machine}"


def _relative_cost(step: Callable[[], object], lanes: int, other: Callable[[], object], others: int) -> float:
    """Return what a lane of a step costs, as a multiple of what a lane of the other step does."""
    seconds, before = _seconds_a_step(step, other)
    return (seconds / lanes) / (before / others)


def _seconds_a_step(*steps: Callable[[], object]) -> list[float]:
    """Return the fastest of some runs of each step.

    They take turns, so that all have the machine's fast moments; but each runs a few times in a row and the first of
    them does not count, as it finds another's data in the caches.
    """
    seconds = [math.inf] * len(steps)
    for _ in range(_TURNS):
        for index, step in enumerate(steps):
            step()
            end = time.perf_counter() + _SECONDS / _TURNS
            for _ in range(_RUNS):
                seconds[index] = min(seconds[index], _seconds(step))
                if time.perf_counter() > end:
                    break
    return seconds


def _seconds(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _remembered(file: Path) -> int | None:
    try:
        lanes = json.loads(file.read_text())["lanes"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return lanes if isinstance(lanes, int) and lanes >= 0 else None


def _remember(file: Path, lanes: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as aside:
        json.dump({"lanes": lanes}, aside)
    Path(aside.name).replace(file)
