"""Epochs and seconds to a target by batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scripts.results.charts import Axis, Chart, Series
from scripts.results.finding import Claim, Finding, Part, at_the_edge
from scripts.results.statistics import Interval, earliest, interval, paired, sooner
from scripts.results.trials import Trial, by_seed, epochs_to, grouped, seconds_to

TARGET = 0.95
MINI = "64"
# The order of the table and of the charts.
SIZES = ("1", "32", "64", "128", "256", "full")


def read(trials: Sequence[Trial]) -> Finding:
    """Compare each batch size at the rate with which it is at the target in the fewest epochs."""
    epochs: dict[str, Mapping[int, float]] = {}
    seconds: dict[str, Mapping[int, float]] = {}
    rates: dict[str, float] = {}
    by_size = {str(size): group for (size,), group in grouped(trials, "batch_size").items()}
    for size in SIZES:
        groups = grouped(by_size[size], "optim.lr")
        ordered = sorted(groups, key=lambda rate: float(str(rate[0])))
        best = earliest({rate: by_seed(groups[rate], _epochs) for rate in ordered})
        rates[size] = float(str(best[0]))
        epochs[size] = by_seed(groups[best], _epochs)
        seconds[size] = by_seed(groups[best], _seconds)
    every = [float(str(rate)) for (rate,) in grouped(trials, "optim.lr")]
    rows = [
        [
            size,
            f"{rates[size]:g}",
            f"{sum(value < float('inf') for value in epochs[size].values())} of {len(epochs[size])}",
            _arrived(epochs[size]).shown(1),
            _arrived(seconds[size]).shown(2),
        ]
        for size in SIZES
    ]
    parts = [
        _part(f"batches of {MINI} take fewer epochs than the full batch", epochs, "full", "epochs"),
        _part(f"batches of {MINI} take fewer seconds than the full batch", seconds, "full", "seconds"),
        _part(f"batches of {MINI} take fewer seconds than single examples", seconds, "1", "seconds"),
    ]
    header = ["batch size", "its learning rate", "seeds at the target", "epochs to it", "seconds to it"]
    charts = {"": _chart("Epochs", epochs), "_seconds": _chart("Seconds", seconds)}
    remark = "Seconds are of the machine below, one trial a core on one thread; other work on it makes them more."
    return Finding(parts, header, rows, charts, [remark, *at_the_edge(rates, every)])


def _epochs(trial: Trial) -> float:
    return epochs_to(trial, TARGET)


def _seconds(trial: Trial) -> float:
    return seconds_to(trial, TARGET)


def _arrived(values: Mapping[int, float]) -> Interval:
    return interval(value for value in values.values() if math.isfinite(value))


def _part(statement: str, values: Mapping[str, Mapping[int, float]], other: str, unit: str) -> Part:
    verdict = sooner(values[MINI], values[other])
    difference = paired(values[MINI], values[other])
    return Part(statement, verdict, f"{unit} of {MINI} less those of {other}: {difference.shown(2)}")


def _chart(unit: str, values: Mapping[str, Mapping[int, float]]) -> Chart:
    points = {float(place): _arrived(values[size]) for place, size in enumerate(SIZES)}
    axis = Axis("batch size", names=SIZES)
    title = f"{unit} to a validation accuracy of {TARGET:g}"
    return Chart(title, axis, Axis(unit.lower(), log=True), [Series("its best rate", points)])


CLAIM = Claim(
    name="batch_size",
    title="Batch size: full, single examples, mini-batches",
    text="Mini-batches reach a target in fewer epochs than the full batch, in less time than it or single examples.",
    rule=(
        f"The target is a validation accuracy of {TARGET:g}. Each batch size has the rate with which the most seeds "
        f"reach it, in the fewest epochs. Batches of {MINI} stand for mini-batches: less by seed than the other size"
        " confirms, more refutes; a size of which no seed gets there takes longer than one of which all do."
    ),
    read=read,
)
