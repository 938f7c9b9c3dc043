"""What early stopping saves, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.results.charts import Axis, Chart, Series
from scripts.results.finding import Claim, Finding, Part, curve
from scripts.results.statistics import above, below, interval, paired
from scripts.results.trials import Trial, accuracy, by_seed, grouped

SAVED, LOST = 0.10, 0.01
# That of conf/regularization/early_stopping.yaml.
PATIENCE = 5


def read(trials: Sequence[Trial]) -> Finding:
    """Judge the usual patience by the share of epochs saved and the accuracy lost."""
    groups = {patience: group for (patience,), group in grouped(trials, "regularization.patience").items()}
    without = groups.pop(None)
    patiences = sorted(int(str(patience)) for patience in groups)
    budget = max(map(_epochs, without))
    whole = by_seed(without, accuracy)
    saved = {p: by_seed(groups[p], lambda trial: 1 - _epochs(trial) / budget) for p in patiences}
    scores = {p: by_seed(groups[p], accuracy) for p in patiences}
    cost = interval(saved[PATIENCE].values())
    loss = paired(whole, scores[PATIENCE])
    parts = [
        Part(f"it saves {SAVED:.0%} or more of the epochs", above(cost, SAVED), f"saved: {cost.shown()}"),
        Part(f"it loses less than {LOST:.0%} of accuracy", below(loss, LOST), f"lost: {loss.shown(4)}"),
    ]
    rows = [["none", interval([0.0] * len(without)).shown(), interval(whole.values()).shown(), ""]]
    for p in patiences:
        lost = paired(whole, scores[p])
        found = interval(saved[p].values()).shown(), interval(scores[p].values()).shown(), lost.shown(4)
        rows.append([str(p), *found])
    header = ["patience", "share of epochs saved", "accuracy at the end", "accuracy lost"]
    return Finding(parts, header, rows, {"": _savings(saved), "_curves": _curves(without)})


def _epochs(trial: Trial) -> int:
    return len(trial.history["val_loss"])


def _savings(saved: Mapping[int, Mapping[int, float]]) -> Chart:
    points = {float(place): interval(values.values()) for place, values in enumerate(saved.values())}
    axis = Axis("patience (epochs)", names=[str(patience) for patience in saved])
    series = [Series("early stopping", points)]
    return Chart("Share of the epochs saved", axis, Axis("share saved"), series, {"10 %": SAVED})


def _curves(without: Sequence[Trial]) -> Chart:
    series = [
        curve(name, without, metric)
        for name, metric in (("validation loss", "val_loss"), ("training loss", "train_loss"))
    ]
    return Chart("Losses without early stopping", Axis("epoch"), Axis("loss (nats)"), series)


CLAIM = Claim(
    name="early_stopping",
    title="Early stopping: cost saved against accuracy lost",
    text="Early stopping saves 10 % of the training for less than 1 % of accuracy.",
    rule=(
        f"Judged at a patience of {PATIENCE} epochs, that of `regularization=early_stopping`, within a budget of 30:"
        f" the share of epochs saved must be above {SAVED:g}, and the accuracy at the end, by seed, less than "
        f"{LOST:g} below that of the whole run. The network kept is that of the last epoch trained, in both."
    ),
    read=read,
)
