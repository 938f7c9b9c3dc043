"""Plain data, as JSON can carry it."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> Any:
    """Return plain data without NaN and infinities, which JSON has not: they become null, as in Plotly and pandas."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): finite(item) for key, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
        case _:
            return value


def put(config: dict[str, Any], name: str, value: Any) -> None:
    """Set a dotted key of a plain config."""
    *parents, last = name.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    place[last] = value
