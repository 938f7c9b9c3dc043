"""Half precision: the time that it saves, and the accuracy that it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.results.charts import Axis, Chart
from scripts.results.finding import Claim, Finding, Part, curve
from scripts.results.statistics import Interval, Verdict, above, below, interval, paired, within
from scripts.results.trials import Trial, accuracy, by_seed, grouped

FULL, OF_THE_CLAIM = "fp32", "fp16"
SPEEDUP, FACTOR = 2.0, 1.25
LOST = 0.005


def read(trials: Sequence[Trial]) -> Finding:
    """Judge seconds and accuracy by seed; only fp16, which takes a GPU, shows what is said of it."""
    groups = {str(precision): group for (precision,), group in grouped(trials, "precision").items()}
    full = groups[FULL]
    (half,) = (precision for precision in groups if precision != FULL)
    faster = interval(speedups(by_seed(full, _seconds), by_seed(groups[half], _seconds)).values())
    lost = paired(by_seed(full, accuracy), by_seed(groups[half], accuracy))
    said = f"seconds with {FULL} by those with {half}: {faster.shown(2)}"
    parts = [
        Part(f"{half} takes less time than {FULL}", above(faster, 1.0), said),
        Part(f"{OF_THE_CLAIM} on a GPU takes half the time", speed_verdict(half, faster), said),
        Part(f"{half} loses less than {LOST:.1%} of accuracy", below(lost, LOST), f"lost: {lost.shown(4)}"),
    ]
    rows = [_row(precision, group) for precision, group in groups.items()]
    header = ["precision", "seconds", "accuracy", "validation loss", "training loss", "gradient norm at the end"]
    remark = (
        "Seconds are of the machine below, training and validation, one trial a core on one thread. A GPU's units for "
        "half precision, which the claim is about, are no part of it."
    )
    return Finding(parts, header, rows, {"": _curves(groups)}, [remark])


def speedups(full: Mapping[int, float], half: Mapping[int, float]) -> dict[int, float]:
    """Return by seed how many times as long full precision takes."""
    return {seed: full[seed] / half[seed] for seed in full.keys() & half.keys()}


def speed_verdict(half: str, faster: Interval) -> Verdict:
    """Judge the factor of two; another type than fp16 shows nothing of it."""
    if half != OF_THE_CLAIM:
        return Verdict.NOT_SHOWN
    return within(faster, SPEEDUP / FACTOR, SPEEDUP * FACTOR)


def _seconds(trial: Trial) -> float:
    return trial.last("seconds")


def _row(precision: str, group: Sequence[Trial]) -> list[str]:
    numbers = [interval(map(_seconds, group)).shown(2), interval(map(accuracy, group)).shown(4)]
    metrics = ("val_loss", "train_loss", "grad_norm")
    return [precision, *numbers, *(interval(trial.last(metric) for trial in group).shown(4) for metric in metrics)]


def _curves(groups: Mapping[str, Sequence[Trial]]) -> Chart:
    series = [curve(precision, group, "val_loss") for precision, group in groups.items()]
    return Chart("Validation loss by epoch", Axis("epoch"), Axis("validation loss (nats)"), series)


CLAIM = Claim(
    name="mixed_precision",
    title="Mixed precision: half the time?",
    text="FP16 trains a network twice as fast as FP32, at the same accuracy.",
    rule=(
        f"The sweep runs on a CPU, with bf16 in place of fp16. By seed: seconds with {FULL} by those with the other "
        f"type must be above 1; with fp16, on a GPU, within a factor of {FACTOR:g} of {SPEEDUP:g}, which bf16 on a CPU "
        f"does not show; and the accuracy at the end must be less than {LOST:g} below that with {FULL}."
    ),
    read=read,
)
