"""The article's first network: its accuracy and its seconds an epoch."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.results.charts import Axis, Chart
from scripts.results.finding import Claim, Finding, Part, curve
from scripts.results.statistics import Interval, Verdict, interval, within
from scripts.results.trials import Trial, accuracy, by_seed

ACCURACY, NEAR = 0.98, 0.005
SECONDS, FACTOR = 25.0, 2.0


def read(trials: Sequence[Trial]) -> Finding:
    """Judge the accuracy on MNIST alone, and the seconds an epoch on this machine."""
    data = str(trials[0].config["data"]["name"])
    scores = interval(by_seed(trials, accuracy).values())
    seconds = interval(by_seed(trials, _seconds_an_epoch).values())
    parts = [
        Part(
            f"it reaches {ACCURACY:.0%} on MNIST",
            accuracy_verdict(data, scores),
            f"accuracy on {data}: {scores.shown(4)}",
        ),
        Part(
            f"an epoch takes {SECONDS:g} s, within a factor of {FACTOR:g}",
            within(seconds, SECONDS / FACTOR, SECONDS * FACTOR),
            f"seconds an epoch: {seconds.shown(2)}",
        ),
    ]
    rows = [_row(trial) for trial in sorted(trials, key=lambda trial: trial.seed)]
    losses = [interval(trial.last(metric) for trial in trials) for metric in ("val_loss", "train_loss")]
    rows.append(["mean", scores.shown(4), *(loss.shown(4) for loss in losses), seconds.shown(2)])
    header = ["seed", "accuracy", "validation loss", "training loss", "seconds an epoch"]
    series = [curve(data, trials, "val_accuracy")]
    chart = Chart("Accuracy by epoch", Axis("epoch"), Axis("validation accuracy"), series)
    remark = "Seconds are of the machine below, one trial a core on one thread; other work on it makes them more."
    return Finding(parts, header, rows, {"": chart}, [remark])


def accuracy_verdict(data: str, scores: Interval) -> Verdict:
    """Judge the accuracy; another dataset than MNIST shows nothing of it."""
    if data != "mnist":
        return Verdict.NOT_SHOWN
    return within(scores, ACCURACY - NEAR, ACCURACY + NEAR)


def _row(trial: Trial) -> list[str]:
    numbers = (accuracy(trial), trial.last("val_loss"), trial.last("train_loss"))
    return [str(trial.seed), *(f"{number:.4f}" for number in numbers), f"{_seconds_an_epoch(trial):.2f}"]


def _seconds_an_epoch(trial: Trial) -> float:
    return trial.last("seconds") / len(trial.history["seconds"])


CLAIM = Claim(
    name="mnist_headline",
    title="The first network: 784-128-10, batches of 64, 20 epochs",
    text="The network reaches 98 % on MNIST, at 25 seconds an epoch.",
    rule=(
        f"The accuracy must be within {NEAR:g} of {ACCURACY:g}, on MNIST: the sweep runs on Fashion-MNIST, which is "
        "harder, so that this part is not shown unless it is launched with data=mnist. Seconds of training and "
        f"validation by the epochs of a trial must be within a factor of {FACTOR:g} of {SECONDS:g}."
    ),
    read=read,
)
