"""What the site has beyond the text of docs/*.md: its navigation, the reference of the API, of the commands, of HTTP.

The same pages are read on GitHub, so what only the site can show stands in comments there: `<!-- site` and `-->` on
lines of their own, with MyST's directives between them. `{commands}` and `{http}` in them are filled from the program.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from itertools import cycle, groupby
from pathlib import Path
from textwrap import dedent
from typing import Any

import typer
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
_COMMENT = re.compile(r"^<!-- site\n(.*?)^-->\n", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(([^()#:\s]+)\)")
_VERBS = ("get", "post", "put", "patch", "delete")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_lexer("mermaid", TextLexer)
    app.connect("source-read", _fill)
    app.connect("autodoc-process-docstring", _as_rst)
    app.connect("build-finished", _add_openapi)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    text = source[0]
    if page == "readme":
        # It is a page of the site, beside the others.
        text = re.sub(r"\]\((?!https?:|#)", "](../", (ROOT / "README.md").read_text()).replace("](../docs/", "](")
    text = _COMMENT.sub(lambda found: found[1], text)
    text = text.replace("](../README.md", "](readme.md").replace("](../../README.md", "](../readme.md")
    folder = (ROOT / "docs" / page).parent
    text = _LINK.sub(lambda found: found[1] if _is_elsewhere(folder / found[2]) else found[0], text)
    if "{commands}" in text:
        text = text.replace("{commands}", "\n".join(commands()))
    if "{http}" in text:
        text = text.replace("{http}", "\n".join(http()))
    source[0] = text


def _is_elsewhere(path: Path) -> bool:
    """Whether a link leads to what the site does not have: a folder, or a page outside of docs/."""
    outside = (ROOT / "docs") not in path.resolve().parents
    return path.is_dir() or (outside and path.suffix == ".md" and path.is_file())


# Docstrings.


def _as_rst(app: Sphinx, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def as_rst(lines: list[str]) -> list[str]:
    """Return a docstring of the house as reStructuredText.

    `name` is code, stars are stars, and lines that are indented further than the first paragraph are code.
    """
    made: list[str] = []
    inside = False
    for line in lines:
        code = line.startswith("    ") or (inside and not line)
        if code and not inside:
            made += [".. code-block:: python", ""]
        elif inside and not code:
            made.append("")
        made.append(line if code else _text_as_rst(line))
        inside = code
    return made


def _text_as_rst(line: str) -> str:
    parts = line.split("`")
    if len(parts) % 2 == 0:  # Code that goes on in the next line.
        return line
    return "".join(
        f"``{part}``" if odd else re.sub(r"([*|])", r"\\\1", part) for odd, part in zip(cycle((0, 1)), parts)
    )


# The commands. Typer has them in a Click of its own since 0.26, so that they are told by what they have.


def commands() -> Iterator[str]:
    """Yield the help of every command as Markdown."""
    from swathe.cli import app

    yield from _commands("swathe", typer.main.get_command(app))


def _commands(path: str, group: Any) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(f"{path} {name}", command)
        else:
            yield from _command(f"{path} {name}", command)


def _command(path: str, command: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=path)
    yield f"## {path}\n"
    yield from _help_text(command.help or "")
    shown = [one for one in command.get_params(context) if not getattr(one, "hidden", False)]
    arguments = [_argument(one) for one in shown if one.param_type_name == "argument"]
    yield f"```text\n{' '.join([path, '[OPTIONS]', *arguments])}\n```\n"
    yield "| | |\n|---|---|"
    yield from (_row(one) for one in shown)
    yield ""


def _help_text(text: str) -> Iterator[str]:
    """Yield a help text: paragraphs as they are, and those that are indented, its examples, as one block of code."""
    for code, paragraphs in groupby(text.split("\n\n"), lambda paragraph: paragraph.startswith("  ")):
        if code:
            yield "```text\n" + "\n".join(dedent(one) for one in paragraphs) + "\n```\n"
        else:
            yield "\n\n".join(_plain(one) for one in paragraphs) + "\n"


def _row(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.param_type_name == "argument":
        names = f"`{option.name.upper()}`"
    return f"| {names} | {_plain(option.help or '')} |"


def _argument(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _plain(text: str) -> str:
    """Return a text that Markdown leaves as it is, also in a table."""
    return re.sub(r"([<|*_])", r"\\\1", text)


# HTTP.


def openapi() -> dict[str, Any]:
    """Return the description of the service's API, as a server of this version gives it."""
    from fastapi import FastAPI

    from swathe.home import Home
    from swathe.service.app import create_app

    with tempfile.TemporaryDirectory(prefix="swathe-site-") as folder:
        app: Any = create_app(Home(Path(folder)))
        while not isinstance(app, FastAPI):
            app = app._app
        return app.openapi()


def http() -> Iterator[str]:
    """Yield the table of the API's paths as Markdown."""
    yield "| | | |\n|---|---|---|"
    for path, verbs in sorted(openapi()["paths"].items()):
        for verb in _VERBS:
            if verb in verbs:
                said = " ".join(str(verbs[verb].get("description") or verbs[verb].get("summary", "")).split())
                yield f"| {verb.upper()} | `{path}` | {_plain(said)} |"


def _add_openapi(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        (Path(app.outdir) / "openapi.json").write_text(json.dumps(openapi(), indent=1, sort_keys=True) + "\n")
