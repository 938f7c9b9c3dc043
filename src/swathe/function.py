"""What a user's own training function calls: `swathe.report` and `swathe.trial`."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, SupportsFloat

from swathe.errors import SwatheError


class TrialStopped(BaseException):
    """Ends a function that reports on after its stop; no `Exception`, so that `except Exception` lets it pass."""


@dataclass(frozen=True, slots=True)
class TrialInfo:
    """The trial that runs in this process: its number, its seed and its whole config."""

    number: int
    seed: int
    config: Mapping[str, Any]


class Session(Protocol):
    """Where reports go; the worker installs one for the time of a trial."""

    info: TrialInfo

    def report(self, step: int, metrics: Mapping[str, float]) -> bool: ...


# One trial at a time runs user code in a process, and it may report from threads of its own: hence not a ContextVar.
_session: Session | None = None
_last_step: int | None = None
_stopped = False


def install(session: Session | None) -> None:
    """Make `session` the one that `report` speaks to (None: no trial runs)."""
    global _session, _last_step, _stopped
    _session, _last_step, _stopped = session, None, False


def trial() -> TrialInfo | None:
    """Return the running trial, or None outside of a sweep."""
    return None if _session is None else _session.info


def report(values: Mapping[str, Any] | None = None, /, *, step: int | None = None, **metrics: Any) -> bool:
    """Report metrics at a step and say whether the trial should stop now.

    `step` must grow from report to report; without it, reports count 1, 2, 3 ... Values are real numbers (Python,
    NumPy or one-element tensors). Outside of a sweep nothing happens and the answer is False, so that the same
    function runs alone. Raises `SwatheError` for values that are no numbers and for steps that do not grow.

        for epoch in range(10):
            ...
            if swathe.report(val_loss=loss):
                break
    """
    global _last_step, _stopped
    if _session is None:
        return False
    if _stopped:
        raise TrialStopped
    if step is None:
        step = 1 if _last_step is None else _last_step + 1
    if isinstance(step, bool) or not isinstance(step, numbers.Integral):
        raise SwatheError(f"swathe.report: step: {step!r} is not allowed; allowed: an integer.")
    if _last_step is not None and step <= _last_step:
        raise SwatheError(f"swathe.report: step: {step} is not allowed; allowed: above the last step, {_last_step}.")
    numbers_by_name = {name: _number(name, value) for name, value in {**(values or {}), **metrics}.items()}
    _last_step = int(step)
    _stopped = _session.report(_last_step, numbers_by_name)
    return _stopped


def _number(name: str, value: Any) -> float:
    if isinstance(value, (str, bytes)) or not isinstance(value, SupportsFloat):
        raise SwatheError(f"swathe.report: {name}: {value!r} is not allowed; allowed: a real number.")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SwatheError(f"swathe.report: {name}: {value!r} is not allowed; allowed: a real number.") from error
