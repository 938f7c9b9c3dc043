"""What a command line in the documentation must be: one that its program understands."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import typer
from hydra.core.override_parser.overrides_parser import OverridesParser

from swathe import cli
from tests.docs.snippets import ROOT

SHELL = ("cd", "export", "source", "mkdir", "cat")
# Commands of Swathe that compose a sweep, or a training run.
COMPOSING = ("launch", "config", "check")
TRAINING = ("train", "lr-find")
_SEPARATORS = ("|", "&&", ";")


class NotUnderstoodError(Exception):
    """A command line that could not run as it is printed."""


def parts(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield the commands of a line: without the variables before them, and without what follows a `>`."""
    part: list[str] = []
    for word in [*words, ";"]:
        if word in _SEPARATORS:
            if part:
                yield part
            part = []
        elif part or not re.match(r"[A-Z_]+=", word):
            part.append(word)


def understand(words: list[str], files: Sequence[str]) -> None:
    """Raise `NotUnderstoodError` for a command that cannot be run; `files` are those that its page has."""
    if ">" in words:
        words = words[: words.index(">")]
    match words:
        case ["swathe", *rest]:
            parsed(rest)
        case ["python", "-m", module, *_]:
            if importlib.util.find_spec(module) is None:
                raise NotUnderstoodError(f"there is no module {module}")
        case ["python", file, *rest]:
            if file not in files and not (ROOT / file).is_file():
                raise NotUnderstoodError(f"there is no file {file}")
            if "-m" in rest or "--multirun" in rest:
                OverridesParser.create().parse_overrides([word for word in rest if not word.startswith("-")])
        case ["make", target, *_]:
            if not re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE):
                raise NotUnderstoodError(f"the Makefile has no {target}")
        case ["curl", *rest]:
            _request(rest)
        case [word, *_] if word in SHELL or (ROOT / word).is_file():
            pass
        case _:
            raise NotUnderstoodError(
                "no rule is known for it; a block that cannot run here says why: <!-- not run: ... -->"
            )


def parsed(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return a command of Swathe by its name, and its arguments by theirs."""
    group, name, rest = _all_commands(), "swathe", list(cli._server_first(list(words)))
    try:
        while hasattr(group, "commands"):
            context = group.make_context(name, rest)
            name, group, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        return name, dict(group.make_context(name, rest).params)
    except (typer.TyperException, typer.Exit) as error:
        raise NotUnderstoodError(f"swathe does not take it: {error}") from error


@cache
def _all_commands() -> Any:
    return typer.main.get_command(cli.app)


def _request(words: Sequence[str]) -> None:
    path = next(urlparse(word).path for word in words if word.startswith("http"))
    verb = "post" if "-d" in words or "--data" in words else "get"
    for known, verbs in paths().items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), path) and verb in verbs:
            return
    raise NotUnderstoodError(f"the API has no {verb.upper()} {path}")


@cache
def site_pages() -> Any:
    """Return the module that fills the site's pages."""
    sys.path.append(str(ROOT / "docs" / "site"))
    try:
        return importlib.import_module("site_pages")
    finally:
        sys.path.remove(str(ROOT / "docs" / "site"))


@cache
def paths() -> dict[str, Any]:
    """Return the paths of the service's API."""
    found: dict[str, Any] = site_pages().openapi()["paths"]
    return found


def written(folder: Path, files: dict[str, str]) -> None:
    """Write a page's files into a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
