"""Gradients that explode: initialisation against clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scripts.results.charts import Axis, Chart, Series
from scripts.results.finding import Claim, Finding, Part
from scripts.results.statistics import Interval, above, below, interval, paired, share
from scripts.results.trials import Trial, accuracy, by_seed, grouped

# A network with a lower accuracy has not been trained.
TRAINED = 0.5
INITS = ("default", "xavier_uniform", "orthogonal", "he_normal")
CLIPPING = ("none", "clip_norm", "clip_value")
LARGE, SMALL = "he_normal", "default"


def read(trials: Sequence[Trial]) -> Finding:
    """Judge by the accuracy after the last epoch, and by how many seeds trained at all."""
    groups = {(str(init), str(clip)): g for (init, clip), g in grouped(trials, "model.init", "regularization").items()}
    scores = {setting: by_seed(groups[setting], accuracy) for setting in _settings()}
    failed = {
        setting: share(sum(score < TRAINED for score in seeds.values()), len(seeds))
        for setting, seeds in scores.items()
    }
    rows = [
        [
            *setting,
            f"{failed[setting].mean * failed[setting].count:.0f} of {failed[setting].count}",
            interval(scores[setting].values()).shown(),
            _largest_norm(groups[setting]),
        ]
        for setting in _settings()
    ]
    header = ["init", "clipping", "not trained", "accuracy", "largest gradient norm, first epoch"]
    series = [
        Series(clip, {float(place): interval(scores[init, clip].values()) for place, init in enumerate(INITS)})
        for clip in CLIPPING
    ]
    chart = Chart("Accuracy after the last epoch", Axis("", names=INITS), Axis("validation accuracy"), series)
    return Finding(_parts(scores, failed), header, rows, {"": chart})


def _settings() -> list[tuple[str, str]]:
    return [(init, clip) for init in INITS for clip in CLIPPING]


def _largest_norm(trials: Sequence[Trial]) -> str:
    """Return the median over the seeds of what was largest in the first epoch; what is not finite is above all."""
    norms = [trial.first("grad_norm_max") for trial in trials]
    middle = sorted(norm if math.isfinite(norm) else math.inf for norm in norms)[len(norms) // 2]
    return f"{middle:.2g}" if math.isfinite(middle) else "not finite"


def _parts(
    scores: Mapping[tuple[str, str], Mapping[int, float]], failed: Mapping[tuple[str, str], Interval]
) -> list[Part]:
    def counted(setting: tuple[str, str]) -> str:
        return f"share of seeds not trained: {failed[setting].shown(2)}"

    gained = paired(scores[LARGE, "clip_norm"], scores[LARGE, "none"])
    return [
        Part(
            f"with {LARGE} and no clipping training fails", above(failed[LARGE, "none"], 0.5), counted((LARGE, "none"))
        ),
        Part(
            "clipping by the global norm, 5.0, prevents it",
            below(failed[LARGE, "clip_norm"], 0.5),
            counted((LARGE, "clip_norm")),
        ),
        Part("and is more accurate than without", above(gained, 0.0), f"accuracy gained by clipping: {gained.shown()}"),
        Part(
            "clipping by value, 0.5, prevents it",
            below(failed[LARGE, "clip_value"], 0.5),
            counted((LARGE, "clip_value")),
        ),
        Part(
            f"a smaller initialisation ({SMALL}) prevents it without clipping",
            below(failed[SMALL, "none"], 0.5),
            counted((SMALL, "none")),
        ),
    ]


CLAIM = Claim(
    name="exploding",
    title="Exploding gradients: initialisation and clipping",
    text=(
        "Gradients that grow from layer to layer make training diverge; clipping the gradient (by its norm at 5.0, "
        "or by value) or a smaller initialisation prevents it."
    ),
    rule=(
        f"A seed is not trained if its accuracy after the last epoch is below {TRAINED:g}, that of a diverged one "
        "being 0.1. Training fails if more than half of the seeds are not trained, by Wilson's interval, and is "
        "prevented from failing if fewer are. All parts must hold."
    ),
    read=read,
)
