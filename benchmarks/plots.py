"""The plots of the benchmark book, as SVG of this house (scripts/results/charts.py), on white in any theme."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from scripts.results.charts import Axis, Chart, Series, svg
from scripts.results.statistics import Interval

Read = Callable[[str], Mapping[str, Any]]
TOOLS = {"Swathe": "swathe", "Ray Tune": "peer"}


def all_of(read: Read) -> dict[str, tuple[str, str]]:
    """Return each plot whose results are there, by the name of its file: what it shows, and the picture."""
    made = {
        "cost": lambda: _sizes(read("sizes"), "ms_per_trial", "Wall time a trial", "milliseconds a trial"),
        "cpu": lambda: _sizes(
            read("sizes"), "driver_cpu_ms_per_trial", "The driver's CPU time", "milliseconds a trial"
        ),
        "memory": lambda: _sizes(read("sizes"), "driver_mib", "The driver's memory", "MiB at most"),
        "others": lambda: _others(read("others")),
        "quality": lambda: _quality(read("quality")),
        "processes": lambda: _processes(read("memory")),
    }
    found = {f"benchmark-{name}.svg": next(draw(), None) for name, draw in made.items()}
    return {name: (chart.title, svg(chart)) for name, chart in found.items() if chart is not None}


def _between(found: Mapping[str, Any]) -> Interval:
    return Interval(found["median"], found["least"], found["most"], found["runs"])


def _exact(value: float) -> Interval:
    return Interval(value, value, value, 1)


def _sizes(content: Mapping[str, Any], name: str, what: str, unit: str) -> Iterator[Chart]:
    """Yield one of the numbers of benchmarks/sizes.py over the size of the sweep."""
    if not content:
        return
    kinds = {"noop": "trials that do nothing", "digits": "digits, one epoch"}
    series = []
    for kind, words in kinds.items():
        rows = [row for row in content["rows"] if row["kind"] == kind]
        series.append(Series(words, {row["trials"]: _exact(row[name]) for row in rows}))
    if name == "ms_per_trial":
        peer = {
            row["trials"]: _between(content["figures"][f"size-noop-{row['trials']}"]["peer"])
            for row in content["rows"]
            if row["kind"] == "noop"
        }
        series.append(Series("Ray Tune, doing nothing", peer))
    yield Chart(f"{what} over the size of the sweep", Axis("trials", log=True), Axis(unit, log=True), series)


def _others(content: Mapping[str, Any]) -> Iterator[Chart]:
    """Yield the seconds of every tool for the same trials."""
    if not content:
        return
    found = content["figures"]
    tools = ("threads", "processes", "hydra", "syne_tune")
    names = ["Swathe", "Optuna\nthreads", "Optuna\nprocesses", "Hydra\nsweeper", "Syne\nTune"]
    series = []
    for kind, words in (("digits", "digits, 200 trials"), ("noop", "200 that do nothing")):
        figures = [found[f"{kind}-{tool}"] for tool in tools]
        places = [figures[0]["swathe"], *(figure["peer"] for figure in figures)]
        series.append(Series(words, {float(at): _between(place) for at, place in enumerate(places)}, joined=False))
    yield Chart("Whole commands, the same trials", Axis("", names=names), Axis("seconds", log=True), series)


def _quality(content: Mapping[str, Any]) -> Iterator[Chart]:
    """Yield the seconds to the same validation loss, of all seeds."""
    keys = [key for key in content.get("figures", {}) if key.startswith("quality-")]
    if not keys:
        return
    series = [
        Series(name, {float(at): _between(content["figures"][key][tool]) for at, key in enumerate(keys)}, joined=False)
        for name, tool in TOOLS.items()
    ]
    names = [key.removeprefix("quality-") for key in keys]
    title = "Seconds to the loss that Ray Tune ends with (median, least and most of the seeds)"
    yield Chart(title, Axis("", names=names), Axis("seconds", log=True), series)


def _processes(content: Mapping[str, Any]) -> Iterator[Chart]:
    """Yield the memory of a long sweep's processes."""
    if not content:
        return
    names = list(content["rows"][0]["mib"])
    series = [
        Series(name, {row["trials"]: _exact(row["mib"][name]) for row in content["rows"] if name in row["mib"]})
        for name in names
    ]
    title = f"Resident memory over a sweep of {content['trials']:,} trials"
    yield Chart(title, Axis("trials"), Axis("MiB"), series)
