"""Optimisers at equal tuning budgets, by epochs to a target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scripts.results.charts import Axis, Chart, Series
from scripts.results.finding import Claim, Finding, Part, at_the_edge, curve
from scripts.results.statistics import Interval, above, earliest, interval, paired, sooner
from scripts.results.trials import Trial, accuracy, by_seed, epochs_to, grouped

TARGET = 0.95
ORDER = ("sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw")


def read(trials: Sequence[Trial]) -> Finding:
    """Compare the optimisers, each at the rate with which it is at the target first."""
    groups: dict[str, dict[float, list[Trial]]] = {name: {} for name in ORDER}
    for (name, rate), group in sorted(
        grouped(trials, "optim", "optim.lr").items(), key=lambda item: float(str(item[0][1]))
    ):
        groups[str(name)][float(str(rate))] = group
    epochs = {name: {rate: by_seed(group, _epochs) for rate, group in groups[name].items()} for name in ORDER}
    best = {name: earliest(epochs[name]) for name in ORDER}
    tuned = {name: epochs[name][best[name]] for name in ORDER}
    arriving = {name: rates_that_arrive(epochs[name]) for name in ORDER}
    scores = {
        name: {rate: interval(by_seed(group, accuracy).values()) for rate, group in groups[name].items()}
        for name in ORDER
    }
    rows = [
        [
            name,
            f"{best[name]:g}",
            f"{sum(map(math.isfinite, tuned[name].values()))} of {len(tuned[name])}",
            _arrived(tuned[name]).shown(1),
            interval(arriving[name].values()).shown(1),
            scores[name][best[name]].shown(),
        ]
        for name in ORDER
    ]
    header = [
        "optimiser",
        "its learning rate",
        "seeds at the target",
        "epochs to it",
        "rates that get there",
        "accuracy",
    ]
    curves = [curve(f"{name}, {best[name]:g}", groups[name][best[name]], "val_accuracy") for name in ORDER]
    axes = Axis("learning rate", log=True), Axis("validation accuracy")
    charts = {
        "": Chart("Accuracy after the last epoch", *axes, [Series(name, scores[name]) for name in ORDER]),
        "_curves": Chart("Accuracy at each one's rate", Axis("epoch"), Axis("validation accuracy"), curves),
    }
    return Finding(_parts(tuned, arriving), header, rows, charts, at_the_edge(best, list(epochs["sgd"])))


def rates_that_arrive(epochs: Mapping[float, Mapping[int, float]]) -> dict[int, float]:
    """Return how many of the rates reach the target, for each seed."""
    seeds = next(iter(epochs.values()))
    return {seed: float(sum(math.isfinite(of_rate[seed]) for of_rate in epochs.values())) for seed in seeds}


def _epochs(trial: Trial) -> float:
    return epochs_to(trial, TARGET)


def _arrived(values: Mapping[int, float]) -> Interval:
    return interval(value for value in values.values() if math.isfinite(value))


def _parts(tuned: Mapping[str, Mapping[int, float]], arriving: Mapping[str, Mapping[int, float]]) -> list[Part]:
    parts = []
    for fast, slow in (("momentum", "sgd"), ("adam", "momentum"), ("adamw", "momentum")):
        difference = paired(tuned[fast], tuned[slow])
        numbers = f"epochs of {fast} less those of {slow}: {difference.shown(1)}"
        parts.append(Part(f"{fast} is faster than {slow}", sooner(tuned[fast], tuned[slow]), numbers))
    for stable in ("adam", "adamw"):
        more = paired(arriving[stable], arriving["sgd"])
        numbers = f"rates that get there, {stable} less sgd: {more.shown(1)}"
        parts.append(Part(f"{stable} is more stable than sgd", above(more, 0.0), numbers))
    return parts


CLAIM = Claim(
    name="optimizers_compared",
    title="Optimisers at equal tuning budgets",
    text="SGD is slow, momentum moderate, Adam and AdamW are fast and stable.",
    rule=(
        f"The target is a validation accuracy of {TARGET:g}. Equal tuning: every optimiser has the same nine rates "
        "and five seeds, and is judged at the rate with which the most seeds reach the target, in the fewest "
        "epochs. Faster is fewer epochs by seed; more stable is more of the nine rates with which a seed reaches "
        "the target. All parts must hold."
    ),
    read=read,
)
