"""The report as HTML: sections, each with a sentence that says what it shows; every text is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swathe.reporting.charts import script

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 20px 24px 60px; background: #fff; color: #1b2733;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.2em 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2em 0 0.2em; padding-top: 0.7em; border-top: 1px solid #dbe1e8; }
h3 { font-size: 1rem; margin: 0.8em 0 0; overflow-wrap: anywhere; }
p { margin: 0.3em 0 0.7em; max-width: 75ch; overflow-wrap: anywhere; }
p.small { font-size: 0.87rem; color: #52606d; margin-top: 0.1em; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 1em 0; }
.card { background: #f3f6f9; border-radius: 8px; padding: 10px 14px; min-width: 0; }
.card b { display: block; font-size: 1.35rem; line-height: 1.25; overflow-wrap: anywhere; }
.card span { font-size: 0.87rem; color: #52606d; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 8px 28px; }
.grid > div { min-width: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92rem; margin: 0.4em 0; }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid #e6ebf0; vertical-align: top; }
td { overflow-wrap: break-word; }
th { color: #52606d; font-weight: 600; }
td.n, th.n { text-align: right; }
td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
th { vertical-align: bottom; }
.row { display: flex; flex-wrap: wrap; gap: 0 48px; }
pre { background: #f3f6f9; border-radius: 8px; padding: 12px 14px; overflow-x: auto; font-size: 0.87rem;
  line-height: 1.4; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
nav { font-size: 0.9rem; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0.6em 0; }
a { color: #2563a8; }
@media (max-width: 600px) { body { padding: 14px 14px 40px; } th, td { padding-right: 9px; } }
@media print { h2 { break-after: avoid; } .grid > div { break-inside: avoid; } }
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence in plain text, and a body in HTML."""

    title: str
    sentence: str
    body: str = ""

    @property
    def anchor(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


def page(title: str, head: str, sections: Sequence[Section], foot: str) -> str:
    """Return the whole page, plotly.js in it once; `head` is HTML, the rest plain text."""
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections)
    parts = "".join(
        f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>\n'
        f"<p>{escape(section.sentence)}</p>\n{section.body}</section>\n"
        for section in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n{script()}\n</head><body>\n"
        f"<h1>{escape(title)}</h1>\n{head}<nav>{links}</nav>\n{parts}{small(foot)}</body></html>\n"
    )


def escape(text: object) -> str:
    """Return anything as text in which no letter means something to HTML."""
    return html.escape(str(text))


def paragraph(text: str) -> str:
    """Return plain text as a paragraph."""
    return f"<p>{escape(text)}</p>\n"


def small(text: str) -> str:
    """Return plain text as a note."""
    return f'<p class="small">{escape(text)}</p>\n'


def code(text: str) -> str:
    """Return plain text as it is typed."""
    return f"<pre><code>{escape(text)}</code></pre>\n"


def cards(facts: Iterable[tuple[str, str]]) -> str:
    """Return large words, each with what it is."""
    inner = "".join(f'<div class="card"><b>{escape(word)}</b><span>{escape(what)}</span></div>' for word, what in facts)
    return f'<div class="cards">{inner}</div>\n'


def table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    """Return a table; the columns `numbers` are flush right."""

    def cell(kind: str, column: int, value: object) -> str:
        css = ' class="n"' if column in numbers else ""
        return f"<{kind}{css}>{escape(value)}</{kind}>"

    head = "".join(cell("th", column, name) for column, name in enumerate(header))
    body = "".join(f"<tr>{''.join(cell('td', column, value) for column, value in enumerate(row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n'


def row(parts: Iterable[str]) -> str:
    """Return pieces of HTML beside each other where there is room."""
    return f'<div class="row">{"".join(parts)}</div>\n'


def grid(charts: Iterable[tuple[str, str, str]]) -> str:
    """Return charts beside each other where there is room: (title, sentence, chart in HTML)."""
    inner = "".join(
        f"<div><h3>{escape(title)}</h3>{small(sentence) if sentence else ''}{chart}</div>\n"
        for title, sentence, chart in charts
    )
    return f'<div class="grid">{inner}</div>\n'
