"""Checking a sweep as `swathe launch` does before it starts anything, in a process of its own.

Hydra has one state for a whole process and a launch imports PyTorch and the user's modules: none of that is for the
server's process. `python -m swathe.service.validation` reads a request as JSON and writes the answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
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

from swathe.errors import BadInputError, SwatheError
from swathe.service.problems import ProblemError
from swathe.service.screening import screen_composed, screen_request, screen_values
from swathe.tracking import shown

# What a check may take: seconds in all, and of memory beyond what PyTorch reserves without using it (bytes).
SECONDS = 120
_ADDRESS_SPACE = 64 * 2**30


async def examine(home: Path, request: Mapping[str, Any], allowed_modules: Sequence[str]) -> dict[str, Any]:
    """Check what a job would run, by its `kind`; raises `BadInputError` with the command line's sentence.

    launch: `sweep` or `yaml`, `overrides`; resume: `name`, `overrides`; train and lr-find: `yaml` (a config) and
    `overrides`, with the `options` of a search for the learning rate.
    """
    await asyncio.to_thread(screen_request, request.get("yaml"), request["overrides"])
    asked = {**request, "allowed_modules": list(allowed_modules)}
    answer = await _asked(asked, {**os.environ, "SWATHE_HOME": str(home)})
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
    from swathe.config import parse_overrides

    screen_request(request.get("yaml"), request["overrides"])
    for override in parse_overrides(request["overrides"]):
        screen_values(json.loads(json.dumps(override.value(), default=str)))
    with tempfile.TemporaryDirectory() as folder:
        text = request.get("yaml")
        written = None if text is None else _written(Path(folder), text)
        try:
            return _check_kind(request, written)
        except BadInputError as error:
            # Where it was written for this says nothing to who asked.
            raise BadInputError(str(error).replace(f"{folder}{os.sep}request{os.sep}", "")) from error


def _check_kind(request: Mapping[str, Any], written: str | None) -> dict[str, Any]:
    """Check a request whose YAML, if it has any, was written to a file."""
    match request["kind"]:
        case "launch":
            sweep = str(request["sweep"] or written)
            return _check_launch(sweep, request["overrides"], request["allowed_modules"], new="new" in request)
        case "resume":
            return _check_resume(request["name"], request["overrides"], request["allowed_modules"])
    return _check_run(written, request)


def _check_sweep(sweep: str, overrides: Sequence[str], allowed_modules: Sequence[str] | None) -> dict[str, Any]:
    """Check a sweep; `allowed_modules` None: whatever it names was allowed before."""
    from swathe.config import compose_sweep
    from swathe.home import open_home
    from swathe.preflight import made_ready
    from swathe.runtime import prepare
    from swathe.space import Space
    from swathe.tables import space_dict

    home = open_home(create=True)
    composed = compose_sweep(sweep, overrides)
    searches = [*composed.space.items(), *_leaves(composed.when)]
    if allowed_modules is not None:
        screen_composed(composed.values, searches, allowed_modules)
    command = shlex.join(["swathe", "launch", sweep, *overrides])
    plan = made_ready(prepare(composed, Space.parse(composed), home, command), home)
    return {
        "name": plan.card.name,
        "trials": plan.card.trials,
        "config": _without_passwords(json.loads(json.dumps(dict(plan.composed.values), default=str))),
        "space": space_dict(plan.space),
    }


def _check_launch(sweep: str, overrides: Sequence[str], allowed_modules: Sequence[str], *, new: bool) -> dict[str, Any]:
    """Check a sweep; one that must be `new` and has the name of another is found, and that its name is taken."""
    from swathe.config import compose_sweep
    from swathe.home import open_home

    if new and open_home().sweep(name := compose_sweep(sweep, overrides).name).card() is not None:
        return {"taken": name}
    return _check_sweep(sweep, overrides, allowed_modules)


def _check_resume(name: str, overrides: Sequence[str], allowed_modules: Sequence[str]) -> dict[str, Any]:
    """Check the command that launched a sweep, once more, with further overrides."""
    from swathe.config import parse_overrides
    from swathe.home import open_home

    _, card = open_home().existing(name)
    words = shlex.split(card.command)
    if words[:2] != ["swathe", "launch"]:
        raise BadInputError(f"SWEEP: {name!r} is not allowed; allowed: what goes on with it, {shown(card.command)}")
    for override in parse_overrides(overrides):
        # What was launched here may name what it did; what comes now may not.
        key, search = override.key_or_group, str(override.input_line).partition("=")[2]
        value = json.loads(json.dumps(override.value(), default=str))
        screen_composed({key.rpartition(".")[2]: value}, [(key, search)], allowed_modules)
    return _check_sweep(words[2], [*words[3:], f"sweep.name={name}", *overrides], None)


def _check_run(config_file: str | None, request: Mapping[str, Any]) -> dict[str, Any]:
    """Check a run without a search, or a search for its learning rate."""
    from swathe import lr_find, standalone
    from swathe.config import parse_overrides

    if request["kind"] == "lr-find":
        lr_find.check(lr_find.Options(**request["options"]), None)
    overrides = request["overrides"]
    config, settings = standalone.composed(None if config_file is None else Path(config_file), overrides)
    screen_composed(config, [], request["allowed_modules"])
    standalone.checked(config, settings)
    device = {one.key_or_group: one.value() for one in parse_overrides(overrides)}.get("device")
    return {"threads": settings.threads, "device": device}


def _without_passwords(values: Any) -> Any:
    """Return plain data whose texts show no password of a URL: the server's own conf/ may hold some."""
    match values:
        case str():
            return re.sub(r"(password=)[^&\s]*", r"\1***", shown(values))
        case dict():
            return {key: _without_passwords(item) for key, item in values.items()}
        case list():
            return [_without_passwords(item) for item in values]
    return values


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
    from swathe.training import sources

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    # A question must not fill the disk, nor make the server ask others.
    sources.never_download()
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
