"""When a sweep's best value has stopped becoming better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from swathe.events import TrialState, Value

# The ends that say something of the space: a trial that failed says nothing of how good its point is.
_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
# How the reason of a trial begins that its sweep's own end has stopped: that says nothing of it either.
STOPPED = "stopped at step"


class Ended(Protocol):
    """A trial of an earlier session: when it ended (seconds of unix time), how, and with what."""

    @property
    def number(self) -> int: ...
    @property
    def state(self) -> TrialState: ...
    @property
    def value(self) -> float | None: ...
    @property
    def feasible(self) -> bool: ...
    @property
    def ended(self) -> float | None: ...
    @property
    def attrs(self) -> Mapping[str, Value]: ...


@dataclass(slots=True)
class Stagnation:
    """How many trials have ended `since` the best loss fell by more than `least`; failed ones are not counted.

    It falls against what it was when the count last began, so that many small steps are one large one. Counted from the
    first trial that completes.
    """

    least: float = 0.0
    reference: float = math.inf
    since: int = 0

    def end(self, state: TrialState, best: float | None) -> None:
        """Take in that a trial is over, and the best loss by now; None while no trial is complete."""
        if best is None or state not in _COUNTED:
            return
        if best < self.reference - self.least:
            self.reference, self.since = best, 0
        else:
            self.since += 1

    def restore(self, history: Iterable[Ended], sign: float) -> None:
        """Take in the trials of earlier sessions, in the order in which they ended; a loss is `sign` times a value."""
        best: float | None = None
        over = [past for past in history if past.state.final]
        for past in sorted(over, key=lambda past: (past.ended or 0.0, past.number)):
            if past.state is TrialState.COMPLETE and past.value is not None and past.feasible:
                best = sign * past.value if best is None else min(best, sign * past.value)
            if not str(past.attrs.get("reason", "")).startswith(STOPPED):
                self.end(past.state, best)


def reason(patience: int, least: float) -> str:
    """Say that the best is the best for so long, as the reason of a sweep's end."""
    by = f" by more than {least:g}" if least else ""
    return f"no better best{by} in {patience} trials"
