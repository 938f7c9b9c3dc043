"""Checking a sweep as `swathe launch` does before it starts anything, in a process of its own.

Hydra has one state for a whole process and a launch imports PyTorch and the user's modules: none of that is for the
server's process. `python -m swathe.service.validation` reads a request as JSON and writes the answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shlex
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from swathe.errors import BadInputError, SwatheError, bad_value
from swathe.service.problems import ProblemError
from swathe.service.screening import screen_composed, screen_request, screen_values

# What a check may take: seconds in all, and of memory beyond what PyTorch reserves without using it (bytes).
SECONDS = 120
_ADDRESS_SPACE = 64 * 2**30


async def validate(
    home: Path, sweep: str | None, text: str | None, overrides: Sequence[str], allowed_modules: Sequence[str]
) -> dict[str, Any]:
    """Check a sweep and return its name, trials and space; raises `BadInputError` with the command line's sentence."""
    if (sweep is None) == (text is None):
        raise bad_value("sweep", sweep, "either the name of a sweep or its yaml, and not both")
    await asyncio.to_thread(screen_request, text, overrides)
    request = {"sweep": sweep, "yaml": text, "overrides": list(overrides), "allowed_modules": list(allowed_modules)}
    answer = await _asked(request, {**os.environ, "SWATHE_HOME": str(home)})
    match answer:
        case {"found": dict() as found}:
            return found
        case {"refused": str(sentence)}:
            raise BadInputError(sentence)
        case {"failed": str(sentence)}:
            raise SwatheError(sentence)
    raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "The check of the sweep ended without an answer.")


async def _asked(request: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    # A session of its own, so that what an allowed module starts is ended with it.
    process = await asyncio.create_subprocess_exec(
        # As for the command, the working folder is looked in for the user's modules alone.
        *(sys.executable, "-P", "-m", "swathe.service.validation"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=dict(environment),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(SECONDS):
            output, _ = await process.communicate(json.dumps(request).encode())
    except TimeoutError:
        detail = f"The check of the sweep takes more than {SECONDS} s; allowed: one that is quicker."
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail) from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(ValueError):
        return json.loads(output)
    return None


# The process of its own.


def _check(request: Mapping[str, Any]) -> dict[str, Any]:
    from swathe.config import compose_sweep, parse_overrides
    from swathe.home import open_home
    from swathe.preflight import check
    from swathe.runtime import prepare
    from swathe.space import Space
    from swathe.tables import space_dict
    from swathe.weights import with_weights

    overrides, home = request["overrides"], open_home(create=True)
    screen_request(request["yaml"], overrides)
    for override in parse_overrides(overrides):
        screen_values(json.loads(json.dumps(override.value(), default=str)))
    with tempfile.TemporaryDirectory() as folder:
        sweep = request["sweep"] or _written(Path(folder), request["yaml"])
        composed = compose_sweep(sweep, overrides)
        searches = [*composed.space.items(), *_leaves(composed.when)]
        screen_composed(composed.values, searches, request["allowed_modules"])
        command = shlex.join(["swathe", "launch", sweep, *overrides])
        plan = with_weights(prepare(composed, Space.parse(composed), home, command), home)
        check(plan, home.data)
    return {"name": plan.card.name, "trials": plan.card.trials, "space": space_dict(plan.space)}


def _written(folder: Path, text: str) -> str:
    path = folder / "request" / "sweep.yaml"
    path.parent.mkdir()
    path.write_text(text)
    return str(path)


def _leaves(values: Any, key: str = "") -> list[tuple[str, str]]:
    """Return the searches under conditions, each with its key."""
    if isinstance(values, Mapping):
        return [leaf for name, item in values.items() for leaf in _leaves(item, str(name))]
    return [(key, str(values))]


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    request = json.loads(sys.stdin.buffer.read())
    # What an allowed module prints while it is imported must not come between.
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        try:
            said: dict[str, Any] = {"found": _check(request)}
        except BadInputError as error:
            said = {"refused": str(error)}
        except SwatheError as error:
            said = {"failed": str(error)}
        answer.write(json.dumps(said))


if __name__ == "__main__":
    _main()
