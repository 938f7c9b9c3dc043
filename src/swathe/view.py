"""What the user sees of a running sweep: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from swathe.diagnosis import counts_text
from swathe.events import TrialState
from swathe.overview import Progress

LINE_SECONDS = 5.0
EVENT_SECONDS = 1.0


class PlainView:
    """One line every few seconds, and at each change of the best trial: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = 0.0
        self._best: tuple[int, float] | None = None

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._said >= LINE_SECONDS or (progress.best != self._best and now - self._said >= 1.0):
            self._said, self._best = now, progress.best
            self._console.print(headline(progress), highlight=False, soft_wrap=True)

    def say(self, message: str) -> None:
        self._console.print(message, highlight=False, soft_wrap=True)


class LiveView:
    """A table that is drawn anew in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, progress: Progress) -> None:
        self._live.update(panel(progress))

    def say(self, message: str) -> None:
        self._live.console.print(message, highlight=False)


@contextmanager
def open_view(console: Console, *, quiet: bool, live: bool = True) -> Iterator[PlainView | LiveView | SilentView]:
    """Choose the view that fits where the output goes."""
    if quiet:
        yield SilentView()
    elif live and (console.is_terminal or console.is_jupyter):
        with Live(console=console, refresh_per_second=4, transient=True) as table:
            yield LiveView(table)
    else:
        yield PlainView(console)


class EventView:
    """A JSON object a line, for programs: `progress` at most once a second and only where it has changed, `message`."""

    def __init__(self, write: Callable[[Mapping[str, Any]], None]) -> None:
        self._write = write
        self._said = -math.inf
        self._last: dict[str, Any] = {}

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        fresh = event(progress)
        unchanged = {**fresh, "seconds": 0} == {**self._last, "seconds": 0}
        if unchanged or (now - self._said < EVENT_SECONDS and finished(progress) < progress.trials):
            return
        self._said, self._last = now, fresh
        self._write(fresh)

    def say(self, message: str) -> None:
        self._write({"event": "message", "text": message})


class SilentView:
    """Shows nothing: `--quiet` and `--json`."""

    def show(self, progress: Progress) -> None:
        """Nothing."""

    def say(self, message: str) -> None:
        """Nothing."""


def finished(progress: Progress) -> int:
    """Return how many trials are over."""
    return sum(progress.counts.values())


def event(progress: Progress) -> dict[str, Any]:
    """Return the state of a sweep as `--events` prints it; times in seconds."""
    best = progress.best
    return {
        "event": "progress",
        "name": progress.name,
        "trials": progress.trials,
        "counts": {state.value: count for state, count in progress.counts.items()},
        "running": progress.running,
        "workers": progress.workers,
        "epochs": progress.epochs,
        "lanes": None if progress.lanes is None else {"live": progress.lanes[0], "all": progress.lanes[1]},
        "best": None if best is None else {"trial": best[0], progress.metric: best[1], **progress.best_params},
        **({"front": progress.front} if progress.front else {}),
        "diagnosis": dict(progress.diagnosis),
        "latest": [{"trial": number, "diagnosis": list(symptoms)} for number, symptoms in progress.latest],
        "device_seconds": round(progress.device_seconds, 3),
        "cost": progress.cost or None,
        "seconds": round(progress.elapsed, 3),
    }


def headline(progress: Progress) -> str:
    """Return the state of a sweep in one line."""
    counts = progress.counts
    words = [
        f"{finished(progress)}/{progress.trials} trials",
        f"{counts.get(TrialState.COMPLETE, 0)} complete",
        f"{counts.get(TrialState.PRUNED, 0)} pruned",
    ]
    if counts.get(TrialState.FAILED, 0):
        words.append(f"{counts[TrialState.FAILED]} failed")
    words.append(f"{progress.running} running")
    if progress.best is not None:
        words.append(f"best {progress.metric} {progress.best[1]:.5g} (trial {progress.best[0]})")
    if progress.front:
        words.append(front_words(progress.front))
    words.append(f"{progress.elapsed:.0f} s")
    if progress.cost:
        words.append(f"cost {progress.cost}")
    return ", ".join(words)


def panel(progress: Progress) -> Group:
    """Return the live table: progress, counts, pace and the best config so far."""
    bar = Table.grid(padding=(0, 1))
    over = finished(progress)
    bar.add_row(
        Text(progress.name, style="bold"),
        ProgressBar(total=progress.trials, completed=over, width=30),
        f"{over}/{progress.trials} trials",
        f"{progress.elapsed:.0f} s",
        eta(progress),
    )
    counts = Text(f"{progress.workers} workers   {progress.running} running   ")
    if progress.lanes is not None:
        live, lanes = progress.lanes
        counts.append(f"lanes {live:.0f}/{lanes:.0f}   ")
    counts.append(f"{progress.counts.get(TrialState.COMPLETE, 0)} complete   ", style="green")
    counts.append(f"{progress.counts.get(TrialState.PRUNED, 0)} pruned   ", style="yellow")
    counts.append(f"{progress.counts.get(TrialState.FAILED, 0)} failed", style="red")
    lines: list[Table | Text] = [bar, counts, Text("   ".join(spent(progress)), style="dim")]
    if progress.diagnosis:
        lines.append(Text(f"diagnosis: {counts_text(progress.diagnosis)}", style="yellow"))
    if progress.latest:
        lines.append(Text(latest_line(progress.latest), style="yellow"))
    if progress.best is not None:
        number, value = progress.best
        params = "  ".join(f"{key}={short(shown)}" for key, shown in progress.best_params.items())
        lines.append(Text(f"best so far: trial {number}, {progress.metric} {value:.5g}"))
        lines.append(Text(params, style="dim"))
    if progress.front:
        lines.append(Text(front_words(progress.front)))
    return Group(*lines)


def front_words(count: int) -> str:
    """Say how many trials no other dominates."""
    return f"a front of {count} trial{'' if count == 1 else 's'}"


def latest_line(latest: Sequence[tuple[int, Sequence[str]]]) -> str:
    """Return the trials that ended last with symptoms, in one line."""
    return "latest: " + ", ".join(f"trial {number} {' '.join(symptoms)}" for number, symptoms in latest)


def spent(progress: Progress) -> list[str]:
    """Return the session's pace and what it has taken of the devices, in words."""
    words = [f"{progress.device_seconds:.0f} device-seconds"]
    if progress.cost:
        words.append(f"cost {progress.cost}")
    if (ended := finished(progress) - progress.begun) and progress.elapsed > 0:
        words.insert(0, f"{ended / progress.elapsed:.2g} trials a second")
    return words


def eta(progress: Progress) -> str:
    """Return how long the rest of the trials will take at the pace so far."""
    over = finished(progress)
    ended = over - progress.begun
    if ended < 3 or progress.elapsed <= 0:
        return ""
    return f"about {progress.elapsed / ended * (progress.trials - over):.0f} s to go"


def short(value: object) -> str:
    """Return a value as people read it: three digits of a float."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
