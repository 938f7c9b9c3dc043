"""Draw a sweep's lanes over time from its MLflow record: one row a lane, one bar a trial.

    python scripts/lanes_picture.py SWEEP docs/images/lanes.svg

Run it where the sweep was launched. A bar reaches from a trial's start to its end and has the colour of how it ended.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from swathe import analysis
from swathe.home import open_home
from swathe.mlflow_runs import connect, search

WIDTH, LEFT, TOP, ROW = 860, 92, 34, 9
COLOURS = {"complete": "#2b8a3e", "pruned": "#a5b4c4", "failed": "#c92a2a"}


@dataclass(frozen=True, slots=True)
class Bar:
    """A trial on its lane: seconds since the sweep's first trial."""

    worker: str
    lane: int
    number: str
    state: str
    start: float
    end: float


def bars(sweep: str) -> list[Bar]:
    """Return the bars of a sweep's trials that were lanes, from its record."""
    uri, experiment = analysis.experiment(open_home(), sweep)
    query = f"tags.`swathe.sweep` = '{sweep}' and tags.`swathe.kind` = 'trial'"
    client = connect(uri)
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    runs = [run for run in search(client, experiment_id, query) if "swathe.lane" in run.data.tags]
    first = min(run.info.start_time for run in runs)
    found = []
    for run in runs:
        worker, _, lane = run.data.tags["swathe.lane"].rpartition("/")
        state = re.split(r"[ :]", run.data.tags["swathe.state"], maxsplit=1)[0]
        start, end = ((moment - first) / 1000 for moment in (run.info.start_time, run.info.end_time))
        found.append(Bar(worker, int(lane), run.data.tags["swathe.trial"], state, start, end))
    return found


def drawing(sweep: str, found: Sequence[Bar]) -> str:
    """Return the picture as SVG."""
    rows = {place: row for row, place in enumerate(sorted({(bar.worker, bar.lane) for bar in found}))}
    last = max(bar.end for bar in found)
    scale = (WIDTH - LEFT - 12) / last
    height = TOP + ROW * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" font-size="13" fill="#222222">{escape(sweep)}: {len(found)} trials on {len(rows)} '
        f"lanes; a bar is a trial</text>",
    ]
    for place, (state, colour) in enumerate(COLOURS.items()):
        x = WIDTH - 270 + 90 * place
        parts.append(f'<rect x="{x}" y="9" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14}" y="18" font-size="11" fill="#222222">{state}</text>')
    for (worker, lane), row in rows.items():
        y = TOP + ROW * row
        if lane == 0:
            parts.append(f'<text x="4" y="{y + 8}" font-size="10" fill="#222222">{escape(worker)}</text>')
    for bar in found:
        x, y = LEFT + bar.start * scale, TOP + ROW * rows[bar.worker, bar.lane]
        width = max(1.0, (bar.end - bar.start) * scale - 0.6)
        title = f"trial {bar.number}, {bar.state}: {bar.start:.2f} to {bar.end:.2f} s"
        colour = COLOURS.get(bar.state, "#868e96")
        place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 2}"'
        parts.append(f'<rect {place} fill="{colour}"><title>{title}</title></rect>')
    bottom = TOP + ROW * len(rows)
    parts.append(f'<line x1="{LEFT}" y1="{bottom + 3}" x2="{WIDTH - 12}" y2="{bottom + 3}" stroke="#666666"/>')
    for tick in range(6):
        x = LEFT + tick * (WIDTH - LEFT - 12) / 5
        anchor = "end" if tick == 5 else "middle"
        parts.append(
            f'<text x="{x:.0f}" y="{bottom + 18}" font-size="10" text-anchor="{anchor}" fill="#222222">'
            f"{last * tick / 5:.1f} s</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep")
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    given.file.write_text(drawing(given.sweep, bars(given.sweep)))


if __name__ == "__main__":
    main()
