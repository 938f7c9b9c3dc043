"""Schedules against a constant learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.results.charts import Axis, Chart, Series
from scripts.results.finding import Claim, Finding, Part, at_the_edge, curve
from scripts.results.statistics import above, highest, interval, paired
from scripts.results.trials import Trial, accuracy, by_seed, grouped

CONSTANT = "constant"


def read(trials: Sequence[Trial]) -> Finding:
    """Compare each schedule at its best rate with the constant one at its own."""
    scores: dict[str, dict[float, Mapping[int, float]]] = {}
    groups: dict[tuple[str, float], list[Trial]] = {}
    for (name, rate), group in sorted(grouped(trials, "schedule", "optim.lr").items(), key=str):
        groups[str(name), float(str(rate))] = group
        scores.setdefault(str(name), {})[float(str(rate))] = by_seed(group, accuracy)
    names = [CONSTANT, *(name for name in scores if name != CONSTANT)]
    best = {name: highest(scores[name]) for name in names}
    parts = []
    for name in names[1:]:
        gained = paired(scores[name][best[name]], scores[CONSTANT][best[CONSTANT]])
        parts.append(
            Part(f"{name} ends better than constant", above(gained, 0.0), f"accuracy gained: {gained.shown(4)}")
        )
    rates = sorted(scores[CONSTANT])
    rows = [
        [name, f"{best[name]:g}", *(interval(scores[name][rate].values()).shown() for rate in rates)] for name in names
    ]
    header = ["schedule", "best rate", *(f"accuracy at {rate:g}" for rate in rates)]
    by_rate = [Series(name, {rate: interval(scores[name][rate].values()) for rate in rates}) for name in names]
    curves = [curve(f"{name}, {best[name]:g}", groups[name, best[name]], "val_accuracy") for name in names]
    charts = {
        "": Chart(
            "Accuracy after the last epoch", Axis("learning rate", log=True), Axis("validation accuracy"), by_rate
        ),
        "_curves": Chart("Accuracy at each one's best rate", Axis("epoch"), Axis("validation accuracy"), curves),
    }
    return Finding(parts, header, rows, charts, at_the_edge(best, rates))


CLAIM = Claim(
    name="schedules",
    title="Learning rate schedules",
    text="A schedule that lowers the learning rate ends better than a constant rate.",
    rule=(
        "Equal tuning: every schedule has the same rates and seeds, and is judged at the rate with its highest mean"
        " accuracy after the last epoch. By seed, its accuracy must be higher than the constant one's. All parts "
        "must hold."
    ),
    read=read,
)
