"""The highest learning rate, with and without normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scripts.results.charts import Axis, Chart, Series
from scripts.results.finding import Claim, Finding, Part
from scripts.results.statistics import above, interval, paired
from scripts.results.trials import Trial, accuracy, by_seed, grouped

# What a network must reach for its rate to count.
TRAINED = 0.9
NORMS = ("none", "batch", "layer")


def read(trials: Sequence[Trial]) -> Finding:
    """Judge the highest rate of each seed with which the network reaches the accuracy."""
    scores: dict[str, dict[float, Mapping[int, float]]] = {norm: {} for norm in NORMS}
    for (norm, rate), group in grouped(trials, "model.norm", "optim.lr").items():
        scores[str(norm)][float(str(rate))] = by_seed(group, accuracy)
    rates = sorted(scores["none"])
    highest = {norm: highest_rates(scores[norm]) for norm in NORMS}
    gained = paired(highest["batch"], highest["none"])
    parts = [
        Part(
            "batch norm allows higher learning rates",
            above(gained, 0.0),
            f"log10 of the highest rate, batch norm less none: {gained.shown(2)}",
        )
    ]
    rows = [[f"{rate:g}", *(interval(scores[norm][rate].values()).shown() for norm in NORMS)] for rate in rates]
    rows.append(
        [f"log10 of the highest with {TRAINED:g}", *(interval(highest[norm].values()).shown(2) for norm in NORMS)]
    )
    series = [Series(norm, {rate: interval(scores[norm][rate].values()) for rate in rates}) for norm in NORMS]
    axes = Axis("learning rate", log=True), Axis("validation accuracy")
    chart = Chart("Accuracy after the last epoch", *axes, series, {f"{TRAINED:g}": TRAINED})
    remarks = [
        f"The highest rate of the sweep is {rates[-1]:g}: a norm that still reaches {TRAINED:g} there may go beyond."
    ]
    return Finding(parts, ["learning rate", *NORMS], rows, {"": chart}, remarks)


def highest_rates(scores: Mapping[float, Mapping[int, float]]) -> dict[int, float]:
    """Return log10 of the highest rate with which each seed is trained, half a decade below the lowest if none is."""
    lowest = min(scores) / math.sqrt(10)
    seeds = scores[min(scores)]
    return {
        seed: math.log10(max((rate for rate in scores if scores[rate][seed] >= TRAINED), default=lowest))
        for seed in seeds
    }


CLAIM = Claim(
    name="normalization",
    title="Normalisation and the learning rate",
    text="Batch normalisation allows higher learning rates.",
    rule=(
        f"For each seed, the highest rate at which the accuracy after the last epoch is {TRAINED:g} or more. Batch "
        "norm allows higher rates if log10 of it, by seed, is higher than without a norm. Layer norm is beside it "
        "for comparison."
    ),
    read=read,
)
