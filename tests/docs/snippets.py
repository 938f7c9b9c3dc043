"""The code in the documentation: every block of README.md and docs/, its language, and what it cannot be run for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
# A comment before a block, which no reader sees.
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
# A block that is a file begins with its name.
_FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml|yml))\n")
# What is shown and nothing more.
SHOWN = ("text", "diff", "mermaid")
LANGUAGES = ("python", "yaml", "sh", *SHOWN)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code of a page; an indented one is a shell's."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def file(self) -> str | None:
        """The name of the file that it is."""
        found = _FILE.match(self.text)
        return found[1] if found else None

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of each line of a shell's block, without comments."""
        assert self.language == "sh"
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def pages() -> list[Path]:
    """Return the files of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def tokens(text: str) -> list[Token]:
    """Return a page in Markdown's parts."""
    return MarkdownIt("commonmark").enable("table").parse(text)


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    name = str(page.relative_to(ROOT))
    found: list[Block] = []
    marker: str | None = None
    for token in tokens(page.read_text()):
        if token.type in ("fence", "code_block"):
            language = "sh" if token.type == "code_block" else token.info.strip()
            line = (token.map or [0])[0] + 1
            found.append(Block(name, line, language, token.content, marker))
        comment = _NOT_RUN.search(token.content) if token.type == "html_block" else None
        marker = comment[1] if comment else None
    return found


def all_blocks() -> list[Block]:
    """Return the blocks of all pages."""
    return [block for page in pages() for block in blocks(page)]
