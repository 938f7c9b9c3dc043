"""What the commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TextIO

from rich.console import Console

from swathe.plain import finite

# See the table of exit codes in the README.
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_DIFFERENT = 3
EXIT_INTERRUPTED = 130


def console() -> Console:
    """Return what prints tables and lines: folded in a terminal, as they are in a pipe."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def print_json(value: object) -> None:
    """Print plain data as one JSON document."""
    print(json.dumps(finite(value), indent=2, default=str, allow_nan=False))


def print_line(value: object, file: TextIO) -> None:
    """Print plain data as JSON in one line, at once."""
    print(json.dumps(finite(value), default=str, allow_nan=False), file=file, flush=True)
