"""What a user's own training function calls: `swathe.report`, `swathe.trial`, `swathe.checkpoint`, `swathe.restore`."""

from __future__ import annotations

import numbers
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, SupportsFloat

from swathe.errors import SwatheError


class TrialStopped(BaseException):
    """Ends a function that reports on after its stop; no `Exception`, so that `except Exception` lets it pass."""


@dataclass(frozen=True, slots=True)
class TrialInfo:
    """The trial that runs in this process: its number, its seed and its whole config.

    `rank`: which of the trial's `world_size` processes this one is, see `swathe.integrations.ray_train`.
    """

    number: int
    seed: int
    config: Mapping[str, Any]
    rank: int = 0
    world_size: int = 1


class Session(Protocol):
    """Where reports go; the worker installs one for the time of a trial."""

    info: TrialInfo

    @property
    def metric(self) -> str:
        """The sweep's metric."""

    def report(self, step: int, metrics: Mapping[str, float]) -> bool: ...
    def checkpoint(self, state: Any) -> bool: ...
    def checkpoint_due(self) -> bool: ...
    def restore(self) -> Any: ...


# One trial at a time runs user code in a process, and it may report from threads of its own: hence not a ContextVar.
_session: Session | None = None
_last_step: int | None = None
_last_values: Mapping[str, float] = {}
_stopped = False
_muted = False
# A process that is forked from the trial's has a copy of everything here, which nobody listens to.
_process = os.getpid()
# Threads that were there before the trial, and those that began in one which is over: what these still report is not of
# the one that runs now.
_before: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_left_behind: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

# Optuna keeps steps in databases as integers of 32 bits; MLflow takes names of so many letters.
MAX_STEP = 2**31 - 1
MAX_NAME = 250


def install(session: Session | None, last_step: int | None = None) -> None:
    """Make `session` the one that `report` speaks to (None: no trial runs), after a step that it has seen before."""
    global _session, _last_step, _last_values, _stopped, _process, _before
    if session is not None:
        _before = weakref.WeakSet(threading.enumerate())
    elif _session is not None:
        _left_behind.update(thread for thread in threading.enumerate() if thread not in _before)
    _session, _last_step, _last_values, _stopped, _process = session, last_step, {}, False, os.getpid()


def trial() -> TrialInfo | None:
    """Return the running trial, or None outside of a sweep."""
    return None if _session is None else _session.info


def report(values: Mapping[str, Any] | SupportsFloat | None = None, /, step: int | None = None, **metrics: Any) -> bool:
    """Report metrics at a step and say whether the trial should stop now.

    `values` are metrics by name, or one number, which is the sweep's metric. Who goes on after the stop ends at the
    next report. `step` must grow from report to report; without it, reports count 1, 2, 3 ... Values are real numbers
    (Python, NumPy or one-element tensors). Outside of a sweep nothing happens and the answer is False, so that the same
    function runs alone. Raises `SwatheError` for values that are no numbers, for steps that do not grow, in a process
    that the trial has forked, and in a thread that has outlived its trial.

        for epoch in range(10):
            ...
            if swathe.report(val_loss=loss):
                break
    """
    global _last_step, _last_values, _stopped
    _refuse_strangers("swathe.report")
    if _session is None or _muted:
        return False
    if _stopped:
        raise TrialStopped
    if step is None:
        step = 1 if _last_step is None else _last_step + 1
    if isinstance(step, bool) or not isinstance(step, numbers.Integral):
        raise SwatheError(f"swathe.report: step: {_shown(step)} is not allowed; allowed: an integer.")
    if not 0 <= step <= MAX_STEP:
        raise SwatheError(f"swathe.report: step: {_shown(step)} is not allowed; allowed: 0 to {MAX_STEP}.")
    if _last_step is not None and step <= _last_step:
        raise SwatheError(f"swathe.report: step: {step} is not allowed; allowed: above the last step, {_last_step}.")
    named = {} if values is None else values if isinstance(values, Mapping) else {_session.metric: values}
    numbers_by_name = {name: _number(name, value) for name, value in {**named, **metrics}.items()}
    _last_step, _last_values = int(step), numbers_by_name
    _stopped = _session.report(_last_step, numbers_by_name)
    return _stopped


@contextmanager
def muted() -> Iterator[None]:
    """Let `report` do nothing meanwhile, as outside of a sweep: whoever calls a function so reports in its place."""
    global _muted
    _muted = True
    try:
        yield
    finally:
        _muted = False


def last_report() -> tuple[int | None, float | None]:
    """Return the step of the running trial's last report, and the sweep's metric there if this process has made it."""
    return _last_step, None if _session is None else _last_values.get(_session.metric)


def checkpoint(state: Any) -> bool:
    """Keep the trial's state as of its last report, if it is time to; return whether it was kept.

    `state` is anything that can be pickled, such as a dictionary of state dictionaries, or a function without
    arguments that returns it and is called only when it is time. To be called after the report of the same step: a
    trial whose worker or machine dies goes on from there, see `restore`. At most one in `checkpoints.seconds` is
    written. When the sweep is stopped, the state is kept at once and the function ends here. Outside of a sweep nothing
    happens. Raises `SwatheError` for a state that cannot be pickled, and where `report` does for its caller.

        state = swathe.restore() or {"epoch": 0, "weights": start()}
        for epoch in range(state["epoch"], 10):
            ...
            if swathe.report(val_loss=loss):
                break
            swathe.checkpoint({"epoch": epoch + 1, "weights": weights})
    """
    _refuse_strangers("swathe.checkpoint")
    return False if _session is None else _session.checkpoint(state)


def checkpoint_due() -> bool:
    """Whether a `checkpoint` now would be kept; for libraries that must be told to save before they do."""
    _refuse_strangers("swathe.checkpoint")
    return _session is not None and _session.checkpoint_due()


def objective() -> str | None:
    """Return the name of the sweep's metric, None outside of a sweep."""
    return None if _session is None else _session.metric


def restore() -> Any:
    """Return the state of the trial's last `checkpoint`, or None where it begins: reports then count on from there."""
    return None if _session is None else _session.restore()


def _refuse_strangers(what: str) -> None:
    """Raise `SwatheError` in a thread or a process that does not belong to the trial that runs."""
    if threading.current_thread() in _left_behind:
        raise SwatheError(f"{what}: the trial in which this thread began is over; allowed: threads of the running one.")
    if _session is not None and os.getpid() != _process:
        raise SwatheError(f"{what}: this process was forked from the trial's; allowed: the trial's own process.")


def _number(name: str, value: Any) -> float:
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_NAME:
        allowed = f"1 to {MAX_NAME} printable letters"
        raise SwatheError(f"swathe.report: {_shown(name)} is not allowed as a metric's name; allowed: {allowed}.")
    if isinstance(value, (str, bytes)) or not isinstance(value, SupportsFloat):
        raise _no_number(name, value)
    try:
        # PyTorch warns of a number that is taken from a tensor with a gradient.
        return float(value.detach() if hasattr(value, "detach") else value)
    except Exception as error:  # Whatever an object's own `__float__` does.
        raise _no_number(name, value) from error


def _no_number(name: str, value: object) -> SwatheError:
    return SwatheError(f"swathe.report: {name}: {_shown(value)} is not allowed; allowed: a real number.")


def _shown(value: object) -> str:
    """Return a value for a sentence: at most 100 letters, and of one that cannot show itself its type."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:100]}..."
