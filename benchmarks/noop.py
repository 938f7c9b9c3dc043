"""The trial that does nothing but report ten times: what is left is the tool's own cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

REPORTS = 10


def losses(params: Mapping[str, Any]) -> Iterator[float]:
    """Yield ten losses that keep the trials' order, so that a pruner has something to decide."""
    for step in range(1, REPORTS + 1):
        yield params["x"] / step


def train(params: Mapping[str, Any]) -> None:
    """Run the trial under Swathe."""
    import swathe

    for loss in losses(params):
        if swathe.report(val_loss=loss):
            return


def train_in_ray_tune(config: dict[str, Any]) -> None:
    """Run the trial under Ray Tune, which ends the function itself when its scheduler says so."""
    from ray import tune

    for loss in losses(config):
        tune.report({"val_loss": loss})
