"""A trial that only reports, ten times a second: a sweep with a steady rate of events that needs next to no CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import swathe

REPORTS = 50
SECONDS = 0.1


def train(params: Mapping[str, Any]) -> None:
    """Report every `SECONDS` seconds."""
    for step in range(1, REPORTS + 1):
        time.sleep(SECONDS)
        if swathe.report(val_loss=params["x"] / step, step=step):
            return
