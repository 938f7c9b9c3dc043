"""What a notebook shows of a sweep that runs: a table in its cell, drawn anew in place by IPython alone."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Sequence
from typing import Any

from swathe.diagnosis import counts_text
from swathe.events import TrialState
from swathe.overview import Progress
from swathe.view import eta, finished, front_words, latest_line, short, spent

# The cell is drawn anew at most so often (seconds): each drawing stays in the notebook's traffic.
DRAW_SECONDS = 0.5
# The curve of the best value so far: its size in pixels, and the most points that it is drawn with.
WIDTH, HEIGHT, POINTS = 360, 60, 200
_STATES = {TrialState.COMPLETE: "#2e7d32", TrialState.PRUNED: "#b7791f", TrialState.FAILED: "#c62828"}


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel, which shows HTML."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


class NotebookView:
    """A cell's output that follows the sweep: progress, counts, the best value so far as a curve, the best config.

    It needs IPython, which every notebook has, and no widgets. As the last state stays in the notebook's file, nothing
    in it needs a script or a style sheet, and its colours are those of the page, light or dark.
    """

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html: Any = HTML
        self._handle: Any = display(HTML(""), display_id=True)
        self._drawn = -math.inf
        self._best: list[tuple[int, float]] = []
        self._said: list[str] = []
        self._last: Progress | None = None

    def show(self, progress: Progress) -> None:
        """Note the state, and draw it unless that was done just now."""
        self._last = progress
        if progress.best is not None:
            point = finished(progress), progress.best[1]
            if not self._best or self._best[-1] != point:
                self._best = thinned([*self._best, point])
        if time.monotonic() - self._drawn >= DRAW_SECONDS:
            self.draw()

    def say(self, message: str) -> None:
        """Show a line under the table, for good."""
        self._said.append(message)
        self.draw()

    def draw(self) -> None:
        """Draw the last state, also where it was passed over."""
        self._drawn = time.monotonic()
        table = "" if self._last is None else cell(self._last, self._best)
        lines = "".join(f"<div>{html.escape(line)}</div>" for line in self._said)
        self._handle.update(self._html(f"{table}<div style='opacity:.75;font-size:90%'>{lines}</div>"))


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most POINTS of these, every other one of all but the last once there are more."""
    return [*points[:-1:2], points[-1]] if len(points) > POINTS else list(points)


def cell(progress: Progress, best: Sequence[tuple[int, float]]) -> str:
    """Return the state of a sweep as HTML; `best` are the best values so far by how many trials were over."""
    over, counts = finished(progress), progress.counts
    share = min(1.0, over / progress.trials) if progress.trials else 0.0
    head = [f"{over}/{progress.trials} trials", f"{progress.elapsed:.0f} s", eta(progress)]
    shares = [
        f"<span style='color:{color}'>{counts.get(state, 0)} {state.value}</span>"
        for state, color in _STATES.items()
        if counts.get(state, 0)
    ]
    work = [f"{progress.workers} workers", f"{progress.running} running"]
    if progress.lanes is not None:
        work.append(f"lanes {progress.lanes[0]:.0f}/{progress.lanes[1]:.0f}")
    lines = [
        f"<b>{html.escape(progress.name)}</b> &ensp; {html.escape(' · '.join(word for word in head if word))}",
        f"<div style='height:6px;max-width:{WIDTH}px;background:rgba(128,128,128,.25);border-radius:3px'>"
        f"<div style='height:6px;width:{share:.1%};background:#3b82f6;border-radius:3px'></div></div>",
        " · ".join([html.escape(" · ".join(work)), *shares]),
        html.escape(" · ".join(spent(progress))),
    ]
    if progress.diagnosis:
        lines.append(html.escape(f"diagnosis: {counts_text(progress.diagnosis)}"))
    if progress.latest:
        lines.append(html.escape(latest_line(progress.latest)))
    if progress.best is not None:
        number, value = progress.best
        params = "&ensp;".join(
            f"{html.escape(key)}=<b>{html.escape(short(shown))}</b>" for key, shown in progress.best_params.items()
        )
        lines.append(f"best so far: trial {number}, {html.escape(progress.metric)} <b>{value:.5g}</b>")
        lines.append(f"<code style='background:none'>{params}</code>")
    if progress.front:
        lines.append(html.escape(front_words(progress.front)))
    if curve := _curve(best):
        lines.append(curve)
    return "".join(line if line.startswith("<div") else f"<div>{line}</div>" for line in lines)


def _curve(best: Sequence[tuple[int, float]]) -> str:
    """Return the best value over the trials that are over, as steps in an SVG; nothing where there are no two."""
    points = [(over, value) for over, value in best if math.isfinite(value)]
    if len(points) < 2 or points[0][0] == points[-1][0]:
        return ""
    first, last = points[0][0], points[-1][0]
    low, high = min(value for _, value in points), max(value for _, value in points)
    span = (high - low) or 1.0
    steps, before = [], None
    for over, value in points:
        x = (over - first) / (last - first) * WIDTH
        y = 2 + (high - value) / span * (HEIGHT - 4)
        steps += [f"{x:.1f},{y:.1f}"] if before is None else [f"{x:.1f},{before:.1f}", f"{x:.1f},{y:.1f}"]
        before = y
    label = f"best value so far, from {points[0][1]:.5g} to {points[-1][1]:.5g}"
    return (
        f"<svg width='{WIDTH}' height='{HEIGHT}' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
        f"aria-label='{html.escape(label)}'><title>{html.escape(label)}</title>"
        f"<polyline points='{' '.join(steps)}' fill='none' stroke='#3b82f6' stroke-width='1.5'/></svg>"
    )


def result_cell(
    name: str,
    reason: str,
    seconds: float,
    best: dict[str, Any] | None,
    failures: Sequence[tuple[str, int]] = (),
) -> str:
    """Return how a session ended as HTML, for `Result`; `failures`: why trials failed, and how many for each reason."""
    lines = [f"Sweep <b>{html.escape(name)}</b>: {html.escape(reason)}, after {seconds:.1f} s."]
    lines += [f"{count} failed: {html.escape(why)}" for why, count in failures]
    if best is not None:
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(key)}</td>"
            f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
            for key, value in best["params"].items()
        )
        lines.append(f"Best: trial {best['trial']}, value <b>{best['value']:.6g}</b><table>{rows}</table>")
    words = html.escape(name)
    lines.append(f"<code style='background:none'>swathe ui {words}</code> opens MLflow's UI, ")
    lines[-1] += f"<code style='background:none'>swathe reproduce {words}</code> trains the best trial again."
    return "".join(f"<div>{line}</div>" for line in lines)
