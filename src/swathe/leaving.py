"""The end of a program at once: to take PyTorch, Ray and MLflow down object by object takes Python over a second."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn


def end_with(program: Callable[[], int]) -> NoReturn:
    """Run a program and end this process with the code that it returns.

    What libraries have registered to run at the end still runs; objects that are alive then are not taken down.
    """
    codes: list[int] = []
    # The first to be registered is the last to be called.
    atexit.register(_leave, codes)
    codes.append(program())
    sys.exit(codes[0])


def _leave(codes: Sequence[int]) -> None:
    # None where the program has raised: Python is to say so.
    if not codes:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        # Closed, or its reader went away.
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(codes[0])
