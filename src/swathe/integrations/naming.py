"""What a library calls the sweep's metric."""

from __future__ import annotations

from swathe import function
from swathe.errors import SwatheError


def name_objective(values: dict[str, float], metric: str, integration: str, how: str) -> None:
    """Add the value of `metric` under the name that the sweep has for it.

    Raises `SwatheError`, in the words of an integration, where it is not among what was `how` (logged, evaluated).
    """
    if metric not in values:
        there = ", ".join(values) or "which is nothing"
        raise SwatheError(f"{integration}: metric: {metric!r} is not allowed; allowed: what is {how}, {there}.")
    values[function.objective() or metric] = values[metric]
