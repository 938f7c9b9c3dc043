"""The one family of exceptions that Swathe raises on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SwatheError(Exception):
    """Base of every error that Swathe raises; its text is one sentence for the user."""


class BadInputError(SwatheError):
    """The user gave something that Swathe refuses: the command line ends with exit code 2."""


class PreflightError(BadInputError):
    """What was tried before a sweep's first trial went wrong, so that the sweep does not begin."""


def bad_value(key: str, value: object, allowed: str) -> BadInputError:
    """Build the refusal of one value: its key, what was given and what is allowed."""
    return BadInputError(f"{key}: {value!r} is not allowed; allowed: {allowed}.")


@contextmanager
def writing(key: str, file: object, allowed: str = "a file in an existing folder") -> Iterator[None]:
    """Turn an `OSError` of what writes a file that the user has named into the refusal of that name."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInputError(f"{key}: {str(file)!r} cannot be written ({reason}); allowed: {allowed}.") from error
