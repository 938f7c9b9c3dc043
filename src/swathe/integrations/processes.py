"""Which processes of a trial may report."""

from __future__ import annotations

import swathe
from swathe.errors import SwatheError


def refuse_strange_processes(what: str, processes: int) -> None:
    """Raise `SwatheError` for a training of several processes of which the trial does not know."""
    trial = swathe.trial()
    known = 1 if trial is None else trial.world_size
    if trial is not None and processes != known:
        raise SwatheError(
            f"{what}: {processes} processes are not allowed; allowed: {known}, as many as the trial has (for more: "
            "swathe.integrations.ray_train)."
        )
