"""The first sweep that a user runs: how good what it finds is, and what pruning spares."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.results.charts import Axis, Chart, Series
from scripts.results.finding import Claim, Finding, Part
from scripts.results.statistics import above, interval
from scripts.results.trials import Trial, grouped

ACCURACY, SPARED = 0.97, 0.5


def read(trials: Sequence[Trial]) -> Finding:
    """Judge the best trial of each sweep, and the epochs that its trials were trained together."""
    sweeps = {int(seed): group for (seed,), group in grouped(trials, "sweep.seed").items()}  # type: ignore[arg-type]
    best = {seed: min(_complete(group), key=_loss) for seed, group in sweeps.items()}
    scores = interval(trial.last("val_accuracy") for trial in best.values())
    spared = interval(1 - _epochs(group) / _whole(group) for group in sweeps.values())
    parts = [
        Part(
            f"the network that it finds is right on more than {ACCURACY:.0%} of the validation part",
            above(scores, ACCURACY),
            f"accuracy of the best of {len(trials) // len(sweeps)}: {scores.shown(4)}",
        ),
        Part(
            f"pruning spares more than {SPARED:.0%} of the epochs",
            above(spared, SPARED),
            f"share of the epochs of whole trials that was not trained: {spared.shown(3)}",
        ),
    ]
    rows = [
        [
            str(seed),
            f"{_loss(best[seed]):.4f}",
            f"{best[seed].last('val_accuracy'):.4f}",
            ", ".join(f"{key}={_short(value)}" for key, value in best[seed].params.items() if key != "sweep.seed"),
            f"{_epochs(group)} of {_whole(group)}",
        ]
        for seed, group in sorted(sweeps.items())
    ]
    header = ["sweep.seed", "best validation loss", "its accuracy", "its parameters", "epochs trained"]
    so_far = [_best_so_far(group) for group in sweeps.values()]
    points = {float(number + 1): interval(curve[number] for curve in so_far) for number in range(len(so_far[0]))}
    chart = Chart(
        "Best validation loss so far",
        Axis("trials"),
        Axis("validation loss", log=True),
        [Series(f"{len(sweeps)} sweeps", {at: found for at, found in points.items() if found.count == len(so_far)})],
    )
    remark = (
        "The best of many trials by their validation loss looks better there than it is: `swathe report` trains it "
        "with other seeds."
    )
    return Finding(parts, header, rows, {"": chart}, [remark])


def _complete(group: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in group if trial.state == "complete"]


def _loss(trial: Trial) -> float:
    return trial.last("val_loss")


def _epochs(group: Sequence[Trial]) -> int:
    return sum(len(trial.history.get("val_loss", {})) for trial in group)


def _whole(group: Sequence[Trial]) -> int:
    return sum(int(trial.config["epochs"]) for trial in group)


def _best_so_far(group: Sequence[Trial]) -> list[float]:
    """Return the lowest loss of the trials up to each that ran to its end; infinity before there is one."""
    lowest, curve = float("inf"), []
    for trial in group:
        lowest = min(lowest, _loss(trial)) if trial.state == "complete" else lowest
        curve.append(lowest)
    return curve


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


CLAIM = Claim(
    name="quickstart",
    title="The first sweep: 40 trials on digits",
    text="Forty trials with TPE and ASHA find a good network for digits, for less than half of the training.",
    rule=(
        f"Over sweeps with five seeds: the 95 % interval of the best trial's accuracy on validation must lie above "
        f"{ACCURACY:g}, and that of the share of epochs that pruning spared above {SPARED:g}; the opposite refutes. "
        "The best trial is the complete one with the lowest validation loss."
    ),
    read=read,
    seeds=5,
)
