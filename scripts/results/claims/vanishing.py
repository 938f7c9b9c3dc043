"""Gradients that vanish on their way to the first of ten hidden layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scripts.results.charts import Axis, Chart, Series
from scripts.results.finding import Claim, Finding, Part
from scripts.results.statistics import Interval, above, below, interval, paired, within
from scripts.results.trials import Trial, accuracy, by_seed, grouped

# Largest slope of a sigmoid, by the number of hidden layers.
PRODUCT = 0.25**10
# Below this the gradient has vanished (shared with the diagnosis of a trial).
VANISHED = 1e-4
FACTOR = 10.0
# The smallest number above 0 in float32, for a gradient of 0.
SMALLEST = 1.4e-45

Setting = tuple[str, str, str, bool]
PLAIN: Setting = ("sigmoid", "none", "xavier_uniform", False)
RELU: Setting = ("relu", "none", "he_normal", False)
NORMALISED: Setting = ("sigmoid", "batch", "xavier_uniform", False)
SKIPPING: Setting = ("sigmoid", "none", "xavier_uniform", True)


def read(trials: Sequence[Trial]) -> Finding:
    """Judge the gradient's ratio after the first epoch, and the accuracy after the last."""
    names = ("model.activation", "model.norm", "model.init", "model.residual")
    groups = {_setting(key): group for key, group in grouped(trials, *names).items()}
    ratios = {setting: by_seed(group, log_ratio) for setting, group in sorted(groups.items())}
    scores = {setting: by_seed(group, accuracy) for setting, group in sorted(groups.items())}
    rows = [
        [
            *setting[:3],
            "yes" if setting[3] else "no",
            f"{10 ** interval(ratios[setting].values()).mean:.1e}",
            interval(ratios[setting].values()).shown(2),
            interval(scores[setting].values()).shown(),
        ]
        for setting in ratios
    ]
    charts = {
        "": _chart("Gradient of the first layer by that of the last", "log10 of the ratio", ratios, lines=True),
        "_accuracy": _chart("Accuracy after the last epoch", "validation accuracy", scores),
    }
    header = ["activation", "norm", "init", "skips", "ratio", "its log10", "accuracy"]
    others = (setting for setting in ratios if setting[0] == "sigmoid" and setting[1] == "none" and not setting[3])
    by_init = ", ".join(f"{setting[2]} {10 ** interval(ratios[setting].values()).mean:.1e}" for setting in others)
    remark = f"How far it vanishes is a matter of the initialisation, too. Sigmoids, no norm, no skips: {by_init}."
    return Finding(_parts(ratios, scores), header, rows, charts, [remark])


def log_ratio(trial: Trial) -> float:
    """Return log10 of the first weight matrix's gradient norm by the last one's, in the first epoch's last step.

    A gradient of 0 counts as the smallest number of float32; where both are 0 nothing vanishes on its way.
    """
    first, last = trial.first("grad_norm_first"), trial.first("grad_norm_last")
    return math.log10(max(first, SMALLEST)) - math.log10(max(last, SMALLEST))


def _setting(key: tuple[object, ...]) -> Setting:
    activation, norm, init, residual = key
    return str(activation), str(norm), str(init), bool(residual)


def _parts(ratios: Mapping[Setting, Mapping[int, float]], scores: Mapping[Setting, Mapping[int, float]]) -> list[Part]:
    plain = interval(ratios[PLAIN].values())
    bound, product, width = math.log10(VANISHED), math.log10(PRODUCT), math.log10(FACTOR)
    gained = paired(scores[RELU], scores[PLAIN])
    parts = [
        Part("with sigmoids the gradient vanishes", below(plain, bound), f"log10 of the ratio: {plain.shown(2)}"),
        Part(
            f"it does as 0.25^10 says, within a factor of {FACTOR:g}",
            within(plain, product - width, product + width),
            f"log10 of the ratio: {plain.shown(2)}, of 0.25^10: {product:.2f}",
        ),
    ]
    cures = {"ReLU, he_normal": RELU, "batch norm, sigmoids": NORMALISED, "skips, sigmoids": SKIPPING}
    for name, setting in cures.items():
        found = interval(ratios[setting].values())
        parts.append(Part(f"it does not with {name}", above(found, bound), f"log10 of the ratio: {found.shown(2)}"))
    numbers = f"accuracy with ReLU and he_normal less that with sigmoids: {gained.shown()}"
    return [*parts, Part("the network with sigmoids learns less", above(gained, 0.0), numbers)]


def _chart(title: str, label: str, values: Mapping[Setting, Mapping[int, float]], *, lines: bool = False) -> Chart:
    places = [(norm, skips) for skips in (False, True) for norm in ("none", "batch", "layer")]
    found: dict[str, dict[float, Interval]] = {}
    for (activation, norm, init, skips), seeds in values.items():
        place = float(places.index((norm, skips)))
        found.setdefault(f"{activation}, {init}", {})[place] = interval(seeds.values())
    names = [("no norm" if norm == "none" else f"{norm} norm") + ("\nskips" if skips else "") for norm, skips in places]
    marks = {"0.25^10": math.log10(PRODUCT), "vanished": math.log10(VANISHED)} if lines else {}
    return Chart(title, Axis("", names=names), Axis(label), [Series(*pair) for pair in found.items()], marks)


CLAIM = Claim(
    name="vanishing",
    title="Vanishing gradients in ten hidden layers",
    text=(
        "A sigmoid's slope is at most 0.25, so that ten of them leave 0.25^10 = 9.5e-7 of a gradient (the article "
        "prints 0.0000095, ten times too much); ReLU, batch normalisation and skips avoid it."
    ),
    rule=(
        "The ratio is the gradient norm of the first weight matrix by that of the last, in the first epoch's last "
        f"step; its intervals are of log10. Vanished is below {VANISHED:g}, not vanished above. Sigmoids are judged "
        f"with xavier_uniform, no norm and no skips; as 0.25^10 says is within a factor of {FACTOR:g} of it. A "
        "network learns less if its accuracy by seed is lower."
    ),
    read=read,
)
