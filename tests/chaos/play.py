"""Plays sweeps one after another and checks each against an undisturbed one of its sort."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.compare import Outcome, read, violations
from tests.chaos.killer import Killer
from tests.chaos.plan import Plan
from tests.chaos.servers import Surroundings
from tests.chaos.sweep import Sort, Sweep, Violation

Say = Callable[[str], None]


@dataclass(slots=True)
class Tally:
    """What was played by now; a violation is one sentence that begins with its seed."""

    kills: Counter[str] = field(default_factory=Counter)
    sweeps: int = 0
    sessions: int = 0
    # Trials that went on from a checkpoint.
    continued: int = 0
    # Faults upon which a driver gave up, with one sentence.
    gave_up: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    # Seeds whose sweeps broke a promise.
    broken: list[int] = field(default_factory=list)


class Player:
    """Sweeps in one set of surroundings, which the faults leave as they were."""

    def __init__(self, around: Surroundings, say: Say, tally: Tally) -> None:
        self._around = around
        self._say = say
        self._undisturbed: dict[Sort, tuple[int, Outcome]] = {}
        self._names = 0
        self.tally = tally

    def play(self, seed: int) -> None:
        """Play a seed's sweep; what is violated is in the tally."""
        plan = Plan.drawn(seed)
        total, undisturbed = self.undisturbed(plan.sort)
        self._say(f"seed {seed}: a sweep of sort {plan.sort}")
        sweep = self._sweep(plan.sort, f"seed-{seed}")
        killer = Killer(sweep, plan, total, self._say)
        found: list[str] = []
        try:
            killer.play()
            self._around.cluster.wait_until_idle()
            seen = read(sweep)
            self.tally.continued += sum("swathe.resumed_from" in run.tags for _, run in seen.runs)
            found += violations(sweep, undisturbed, seen)
        except (Violation, TimeoutError) as error:
            found.append(str(error))
        finally:
            sweep.stop_driver()
            self._around.mend()
        self.tally.kills.update(fault.kind for fault in killer.played)
        self.tally.sweeps += 1
        self.tally.sessions += sweep.sessions
        self.tally.gave_up.update(killer.gave_up)
        for sentence in found:
            self._say(f"  VIOLATION {sentence}")
        self.tally.violations += [f"seed {seed}: {sentence}" for sentence in found]
        if found:
            self.tally.broken.append(seed)
        else:
            self._forget(sweep)

    def undisturbed(self, sort: Sort) -> tuple[int, Outcome]:
        """Return how often the undisturbed sweep of a sort reports, and what is kept of it; it runs once."""
        if sort not in self._undisturbed:
            self._say(f"an undisturbed sweep of sort {sort}")
            sweep = self._sweep(sort, f"undisturbed-{sort}")
            try:
                sweep.launch()
                sweep.wait_for_end()
                assert sweep.code == 0, sweep.said()
            finally:
                sweep.stop_driver()
            self._undisturbed[sort] = sweep.counter()(), read(sweep)
        return self._undisturbed[sort]

    def _sweep(self, sort: Sort, name: str) -> Sweep:
        # A seed may be played again: each sweep has a name, and so a study and an experiment, of its own.
        self._names += 1
        return Sweep.made(sort, f"{name}-{self._names}", self._around)

    def _forget(self, sweep: Sweep) -> None:
        """Make room on the small disk; a sweep that broke a promise stays."""
        shutil.rmtree(sweep.home, ignore_errors=True)
