"""The gap between validation and training loss on few images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.results.charts import Axis, Chart, Series
from scripts.results.finding import Claim, Finding, Part, curve
from scripts.results.statistics import above, highest, interval, paired
from scripts.results.trials import Trial, accuracy, by_seed, grouped

STRENGTH = {
    "l1": "regularization.l1",
    "l2": "regularization.l2",
    "dropout": "regularization.dropout",
    "early_stopping": "regularization.patience",
    "augmentation": "augmentation.crop",
}


def read(trials: Sequence[Trial]) -> Finding:
    """Compare each method, at the strength with the lowest validation loss, with none at all."""
    groups: dict[str, list[Trial]] = {}
    for (regularization, augmentation), group in grouped(trials, "regularization", "augmentation").items():
        method = "augmentation" if augmentation not in (None, "none") else str(regularization)
        groups.setdefault(method, []).extend(group)
    chosen: dict[str, list[Trial]] = {"none": groups["none"]}
    rows = [_row("none", "", groups["none"])]
    for method, name in STRENGTH.items():
        strengths = {float(str(value)): group for (value,), group in grouped(groups[method], name).items()}
        best = highest({value: by_seed(strengths[value], _negative_loss) for value in sorted(strengths)})
        chosen[method] = strengths[best]
        for value in sorted(strengths):
            rows.append(_row(method, f"{value:g}{' (chosen)' if value == best else ''}", strengths[value]))
    parts = []
    for method in STRENGTH:
        smaller = paired(by_seed(chosen["none"], gap), by_seed(chosen[method], gap))
        parts.append(Part(f"{method} makes the gap smaller", above(smaller, 0.0), f"by {smaller.shown()}"))
    gained = {
        method: paired(by_seed(chosen[method], accuracy), by_seed(chosen["none"], accuracy)).shown()
        for method in STRENGTH
    }
    numbers = "; ".join(f"{method} {difference}" for method, difference in gained.items())
    remark = f"A smaller gap is no better network by itself. Accuracy less that without any method, by seed: {numbers}."
    header = ["method", "strength", "gap", "validation loss", "accuracy"]
    return Finding(parts, header, rows, {"": _gaps(chosen), "_curves": _curves(chosen)}, [remark])


def gap(trial: Trial) -> float:
    """Return validation less training loss after the last epoch."""
    return trial.last("val_loss") - trial.last("train_loss")


def _negative_loss(trial: Trial) -> float:
    return -trial.last("val_loss")


def _row(method: str, strength: str, trials: Sequence[Trial]) -> list[str]:
    losses = by_seed(trials, lambda trial: trial.last("val_loss"))
    found = (by_seed(trials, gap), losses, by_seed(trials, accuracy))
    return [method, strength, *(interval(values.values()).shown() for values in found)]


def _gaps(chosen: Mapping[str, Sequence[Trial]]) -> Chart:
    points = {float(place): interval(by_seed(chosen[method], gap).values()) for place, method in enumerate(chosen)}
    axis = Axis("", names=[method.replace("_", " ") for method in chosen])
    return Chart(
        "Validation less training loss, last epoch", axis, Axis("gap (nats)"), [Series("chosen strength", points)]
    )


def _curves(chosen: Mapping[str, Sequence[Trial]]) -> Chart:
    series = [curve(method, group, "val_loss") for method, group in chosen.items()]
    return Chart("Validation loss, chosen strengths", Axis("epoch"), Axis("validation loss (nats)"), series)


CLAIM = Claim(
    name="regularization",
    title="Regularisation on 2,000 training images",
    text=(
        "L1, L2, dropout, early stopping and augmentation each make the gap between validation and training loss"
        " smaller."
    ),
    rule=(
        "The gap is the validation loss less the training loss after the last epoch. Each method has three "
        "strengths and is judged at the one with the lowest mean validation loss; its gap, by seed, must be smaller"
        " than without any method. Augmentation is half of the images mirrored, and all moved by at most 1, 2 or 4"
        " pixels each way. The training loss is measured in training mode, without penalties: under dropout it is"
        " higher than the network's own, and under augmentation it is that of changed images: the gap is lower."
    ),
    read=read,
)
