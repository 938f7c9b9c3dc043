"""The U curve of the learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.results.charts import Axis, Chart, Series
from scripts.results.finding import Claim, Finding, Part
from scripts.results.statistics import Verdict, above, below, highest, interval, paired
from scripts.results.trials import Trial, accuracy, by_seed, grouped, worse_than_a_guess

TOO_SMALL, TOO_LARGE = 1e-5, 1.0
RIGHT = (1e-3, 1e-2)
# Accuracy that a rate may be behind the best one and still be right.
MARGIN = 0.01


def read(trials: Sequence[Trial]) -> Finding:
    """Judge the three rates that the claim names, for each optimiser."""
    parts: list[Part] = []
    rows = []
    series = []
    for (optimiser,), of_one in sorted(grouped(trials, "optim").items(), key=str):
        rates = {float(str(rate)): group for (rate,), group in grouped(of_one, "optim.lr").items()}
        scores = {rate: by_seed(rates[rate], accuracy) for rate in sorted(rates)}
        lost = {rate: sum(map(worse_than_a_guess, rates[rate])) for rate in scores}
        parts += _parts(str(optimiser), scores, lost[TOO_LARGE])
        errors = {rate: interval(1 - score for score in seeds.values()) for rate, seeds in scores.items()}
        series.append(Series(str(optimiser), errors))
        rows += [
            [str(optimiser), f"{rate:g}", errors[rate].shown(), f"{lost[rate]} of {len(scores[rate])}"]
            for rate in scores
        ]
    chart = Chart(
        "Validation error by learning rate", Axis("learning rate", log=True), Axis("validation error", log=True), series
    )
    return Finding(parts, ["optimiser", "learning rate", "validation error", "worse than a guess"], rows, {"": chart})


def _parts(optimiser: str, scores: Mapping[float, Mapping[int, float]], lost: int) -> list[Part]:
    best = highest(scores)
    behind = paired(scores[best], scores[TOO_SMALL])
    inside = {rate: seeds for rate, seeds in scores.items() if RIGHT[0] <= rate <= RIGHT[1]}
    outside = {rate: seeds for rate, seeds in scores.items() if rate not in inside}
    right, other = highest(inside), highest(outside)
    missed = paired(outside[other], inside[right])
    count = len(scores[TOO_LARGE])
    all_or_none = Verdict.CONFIRMED if lost == count else Verdict.REFUTED if lost == 0 else Verdict.NOT_SHOWN
    return [
        Part(
            f"{optimiser}: {TOO_SMALL:g} is too small",
            above(behind, 0.0),
            f"accuracy at {best:g} less that at {TOO_SMALL:g}: {behind.shown()}",
        ),
        Part(
            f"{optimiser}: {RIGHT[0]:g} to {RIGHT[1]:g} is right",
            below(missed, MARGIN),
            f"accuracy at {other:g} (best outside) less that at {right:g} (best inside): {missed.shown()}",
        ),
        Part(f"{optimiser}: {TOO_LARGE:g} diverges", all_or_none, f"{lost} of {count} seeds end worse than a guess"),
    ]


CLAIM = Claim(
    name="learning_rate",
    title="Learning rate: the U curve",
    text="A learning rate of 1e-5 is too small, 1e-3 to 1e-2 are right, and 1.0 diverges.",
    rule=(
        "For each optimiser: 1e-5 is too small if the accuracy at the best rate is higher; 1e-3 to 1e-2 are right "
        f"if the best rate among them is less than {MARGIN:g} of accuracy behind the best one outside; 1.0 diverges "
        "if every seed ends with a validation loss that is not finite or above that of a guess (ln 10), and does "
        "not if none does."
    ),
    read=read,
)
