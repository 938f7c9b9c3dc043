"""The links of README.md and docs/ as GitHub follows them: to files of the repository and to headings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlparse

from markdown_it.token import Token

from tests.docs.snippets import ROOT, tokens

LOCAL = ("localhost", "127.0.0.1")


@cache
def headings(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    count: Counter[str] = Counter()
    found = set()
    parsed = tokens(page.read_text())
    for opening, inline in pairwise(parsed):
        if opening.type == "heading_open":
            said = "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))
            anchor = re.sub(r"[^\w\- ]", "", said.lower()).replace(" ", "-")
            found.add(f"{anchor}-{count[anchor]}" if count[anchor] else anchor)
            count[anchor] += 1
    return frozenset(found)


def links(page: Path) -> Iterator[str]:
    """Yield where the links and the pictures of a page go to."""

    def within(parsed: list[Token]) -> Iterator[str]:
        for token in parsed:
            target = token.attrGet("href") or token.attrGet("src")
            if target is not None:
                yield str(target)
            yield from within(token.children or [])

    yield from within(tokens(page.read_text()))


def broken(page: Path, target: str) -> str | None:
    """Return what is wrong with a link of a page, or None. A site elsewhere is not asked: its address has the form."""
    url = urlparse(target)
    if url.scheme:
        host = url.hostname or ""
        good = url.scheme in ("http", "https") and ("." in host or host in LOCAL) and not re.search(r"\s", target)
        return None if good else "is no address"
    there = (page.parent / unquote(url.path)).resolve() if url.path else page
    if ROOT not in there.parents or not there.exists():
        return "is not there"
    if url.fragment and there.suffix == ".md" and url.fragment not in headings(there):
        return f"has no heading {url.fragment}"
    return None
