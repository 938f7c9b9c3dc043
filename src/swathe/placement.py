"""Where the service has a command run: overrides of its own, which the sweep's recorded command does not have."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence

_VARIABLE = "SWATHE_PLACEMENT"


def placement() -> tuple[str, ...]:
    """Return the overrides that this process was given beside those of its command."""
    return tuple(shlex.split(os.environ.get(_VARIABLE, "")))


def with_placement(environment: Mapping[str, str], overrides: Sequence[str]) -> dict[str, str]:
    """Return an environment in which a command has these overrides."""
    return {**environment, _VARIABLE: shlex.join(overrides)}
