"""The function that is swept over under chaos: what it reports depends on all its steps before."""

from __future__ import annotations

from typing import Any

import numpy as np

import swathe

STEPS = 10
SIZE = 260
# So many in a step: together some tens of milliseconds.
PRODUCTS = 800


def walk(params: Any) -> None:
    """Multiply a matrix into a vector, again and again; a lost or repeated step would change every later report."""
    info = swathe.trial()
    assert info is not None
    numbers = np.random.default_rng(info.seed)
    matrix = numbers.normal(size=(SIZE, SIZE)) / np.sqrt(SIZE)
    kept = swathe.restore() or {"step": 0, "vector": numbers.normal(size=SIZE)}
    vector = kept["vector"]
    for step in range(kept["step"] + 1, STEPS + 1):
        for _ in range(PRODUCTS):
            vector = np.tanh(matrix @ vector * (1.0 + params.x))
        if swathe.report(step=step, val_loss=float(np.square(vector).mean()) / step, first=float(vector[0])):
            return
        swathe.checkpoint({"step": step, "vector": vector})
