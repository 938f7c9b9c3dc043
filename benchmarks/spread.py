"""What repeated measurements were like: their median, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

# Fewer runs have no quartiles worth the name: the least and the most are all that can be said.
QUARTILES_FROM = 4


def spread(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """Return the median, the least and the most of some runs, their quartiles where there are enough, and all runs."""
    found: dict[str, Any] = {
        "median": round(median(values), digits),
        "least": round(min(values), digits),
        "most": round(max(values), digits),
        "runs": len(values),
    }
    if len(values) >= QUARTILES_FROM:
        low, _, high = quantiles(values, n=4, method="inclusive")
        found |= {"low_quartile": round(low, digits), "high_quartile": round(high, digits)}
    return found | {"all": [round(value, digits) for value in values]}


def figure(
    unit: str, swathe: Sequence[float] = (), peer: Sequence[float] = (), name: str = "", note: str = ""
) -> dict[str, Any]:
    """Return a figure as the book reads it: Swathe's and the peer's runs, the peer's name, and what is to be said."""
    found: dict[str, Any] = {"unit": unit}
    if swathe:
        found["swathe"] = spread(swathe)
    if peer:
        found["peer"] = {"name": name, **spread(peer)}
    if note:
        found["note"] = note
    return found


def said(values: Sequence[float], unit: str) -> str:
    """Return runs in words: `1.23 s [1.10, 1.40]`."""
    found = spread(values)
    return f"{found['median']:.3g} {unit} [{found['least']:.3g}, {found['most']:.3g}]"
