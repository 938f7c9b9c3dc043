"""What a user's own process sends to workers: pickled, with the folders in which its modules are."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

from swathe.errors import BadInputError


def pack(content: Any, what: str) -> bytes:
    """Return what `unpack` gives back in another process; functions of a script or a notebook go along as they are.

    Raises `BadInputError` for what cannot be pickled, which it calls `what`.
    """
    import cloudpickle

    folders = [os.path.abspath(folder) for folder in sys.path]
    try:
        return bytes(cloudpickle.dumps(folders) + cloudpickle.dumps(content))
    except Exception as error:  # Of whatever cannot be pickled, in whatever way.
        reason = f"{type(error).__name__}: {error}"
        raise BadInputError(
            f"{what} cannot be sent to workers ({reason}); allowed: what cloudpickle pickles."
        ) from error


def unpack(path: Path) -> Any:
    """Return what was packed into a file, with its modules' folders on the path; only of files of the user's own."""
    with path.open("rb") as file:
        # Before the rest: that is unpickled with the modules that are found there.
        sys.path[:0] = [folder for folder in pickle.load(file) if folder not in sys.path]
        return pickle.load(file)
