"""Plays a range of seeds, in a process of its own if need be."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from swathe.controller import Controller
from tests.simulation.rungs import disagreement
from tests.simulation.shape import Shape
from tests.simulation.world import ViolationError, World

# Optuna's own pruners look through all trials at each report: every so manieth sweep is compared with them.
COMPARED = 5


@dataclass(slots=True)
class Outcome:
    """How a range of seeds went; a violation is one sentence that begins with its seed."""

    sweeps: int = 0
    events: int = 0
    sessions: int = 0
    violations: list[str] = field(default_factory=list)


def play(
    seeds: tuple[int, int],
    controller: type[Controller] = Controller,
    *,
    until_broken: bool = False,
    drawn: Callable[[int], Shape] = Shape.drawn,
) -> Outcome:
    """Play the seeds from the first to below the last; `drawn` gives the sweep of each."""
    outcome = Outcome()
    for seed in range(*seeds):
        violation, world = play_one(drawn(seed), controller, compared=seed % COMPARED == 0)
        outcome.sweeps += 1
        outcome.events += world.events
        outcome.sessions += world.sessions
        if violation is not None:
            outcome.violations.append(violation)
            if until_broken:
                break
    return outcome


def play_one(shape: Shape, controller: type[Controller], *, compared: bool) -> tuple[str | None, World]:
    """Play one sweep; return the promise that it broke, if any, and the world in which it was played."""
    world = World(shape, controller)
    try:
        world.play()
        # Of the repeats of a point the pruner looks at the first.
        log = [entry for entry in world.log if entry[0] == "session" or entry[1] == shape.repetition.head(entry[1])]
        if compared and (words := disagreement(shape.pruner, shape.direction, log)) is not None:
            return f"seed {shape.seed}: {words}", world
    except ViolationError as violation:
        return str(violation), world
    except Exception as error:
        # What the code itself finds wrong is broken, too.
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"seed {shape.seed}: {type(error).__name__} in {where.name}: {error}", world
    return None, world
