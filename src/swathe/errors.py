"""The one family of exceptions that Swathe raises on purpose."""


class SwatheError(Exception):
    """Base of every error that Swathe raises; its text is one sentence for the user."""


class BadInputError(SwatheError):
    """The user gave something that Swathe refuses: the command line ends with exit code 2."""


class PreflightError(BadInputError):
    """What was tried before a sweep's first trial went wrong, so that the sweep does not begin."""


def bad_value(key: str, value: object, allowed: str) -> BadInputError:
    """Build the refusal of one value: its key, what was given and what is allowed."""
    return BadInputError(f"{key}: {value!r} is not allowed; allowed: {allowed}.")
