"""The highest learning rate of a transformer, with and without a warm-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.results.charts import Axis, Chart, Series
from scripts.results.claims.normalization import TRAINED, highest_rates
from scripts.results.finding import Claim, Finding, Part
from scripts.results.statistics import above, interval, paired
from scripts.results.trials import Trial, accuracy, by_seed, grouped

# Whether the norm comes first, and whether there is a warm-up.
Setting = tuple[bool, bool]
SETTINGS: Mapping[Setting, str] = {
    (False, False): "norm last, no warm-up",
    (False, True): "norm last, warm-up",
    (True, False): "norm first, no warm-up",
    (True, True): "norm first, warm-up",
}


def read(trials: Sequence[Trial]) -> Finding:
    """Judge the highest rate of each seed with which the transformer reaches the accuracy, with the norm last."""
    scores: dict[Setting, dict[float, Mapping[int, float]]] = {setting: {} for setting in SETTINGS}
    names = ("model.norm_first", "schedule.warmup_steps", "optim.lr")
    for (first, steps, rate), group in grouped(trials, *names).items():
        scores[bool(first), bool(steps)][float(str(rate))] = by_seed(group, accuracy)
    rates = sorted(scores[False, False])
    highest = {setting: highest_rates(scores[setting]) for setting in SETTINGS}
    gained = paired(highest[False, True], highest[False, False])
    beside = paired(highest[True, True], highest[True, False])
    parts = [
        Part(
            "with warm-up a transformer trains at higher rates than without",
            above(gained, 0.0),
            f"log10 of the highest rate, with warm-up less without: {gained.shown(2)}",
        )
    ]
    rows = [
        [f"{rate:g}", *(interval(scores[setting][rate].values()).shown() for setting in SETTINGS)] for rate in rates
    ]
    rows.append(
        [f"log10 of the highest with {TRAINED:g}", *(interval(highest[one].values()).shown(2) for one in SETTINGS)]
    )
    series = [
        Series(name, {rate: interval(scores[setting][rate].values()) for rate in rates})
        for setting, name in SETTINGS.items()
    ]
    axes = Axis("learning rate", log=True), Axis("validation accuracy")
    chart = Chart("Accuracy after the last epoch", *axes, series, {f"{TRAINED:g}": TRAINED})
    remarks = [
        "With the norm first, log10 of the highest rate with warm-up less that without is "
        f"{beside.shown(2)}. Rates are half a decade apart, from {rates[0]:g} to {rates[-1]:g}.",
        "A pilot with one seed, of 8 epochs, was seen before the sweep got its 12 epochs, for time alone.",
    ]
    return Finding(parts, ["learning rate", *SETTINGS.values()], rows, {"": chart}, remarks)


CLAIM = Claim(
    name="warmup",
    title="Warm-up of a transformer",
    text="A warm-up of the learning rate lets a transformer train at rates at which it fails without.",
    rule=(
        f"For each seed, the highest rate at which the accuracy after the last epoch is {TRAINED:g} or more; half a "
        "decade below the lowest rate where there is none. The transformer of the claim is the one that warm-up was "
        "introduced with (Vaswani et al. 2017), which has its norm after each addition. Warm-up lets it train at "
        "higher rates if log10 of the highest rate, by seed, is higher with it than without. The norm before each "
        "branch is beside it for comparison."
    ),
    read=read,
)
