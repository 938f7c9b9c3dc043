"""What Optuna's own pruner says to the reports of a simulated sweep, in the order in which the study got them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swathe.events import Direction, TrialState
from tests.test_pruners import Peer, Step


def disagreement(options: Mapping[str, Any], direction: Direction, log: Sequence[tuple[Any, ...]]) -> str | None:
    """Return where the sweep has decided otherwise than Optuna would have; None where it has not.

    `log` has ("report", trial, step, value), ("tell", trial, state, reason) and ("session",), where a driver began: a
    verdict that the one before had not written is given anew, and not compared.
    """
    peer = Peer(options, direction)
    # The trials that Optuna would stop at their last report, and those whose last report a later session came after.
    stops: dict[int, int] = {}
    for kind, *rest in log:
        match kind:
            case "session":
                stops.clear()
            case "report":
                trial, step, value = rest
                if trial in stops:
                    return f"Optuna stops trial {trial} at step {stops[trial]}, and it went on"
                if peer.decide(Step(trial, step, value)):
                    stops[trial] = step
            case "tell":
                trial, state, reason = rest[:3]
                if state is TrialState.PRUNED and reason.startswith("pruned") and stops.pop(trial, None) is None:
                    return f"trial {trial} was {reason}, and Optuna lets it go on"
                stops.pop(trial, None)
                peer.finish(Step(trial, state=state))
    return None
