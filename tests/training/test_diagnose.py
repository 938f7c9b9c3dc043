"""What is said of faulty runs, what must not be said of healthy ones, and that a report at a time says the same."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from swathe.errors import BadInputError
from swathe.training.diagnose import (
    Action,
    Diagnosis,
    Facts,
    Finding,
    Range,
    SweepTrial,
    Symptom,
    Thresholds,
    diagnose,
    diagnose_one_batch,
    diagnose_sweep,
)

Report = dict[str, float]
TEN = Facts(classes=10)
GUESS = math.log(10)
NAN, INF = math.nan, math.inf


def reports(train: Iterable[float], val: Iterable[float] | None = None, **others: Any) -> list[Report]:
    """Make reports of the training losses, the validation losses (as the training ones) and other metrics.

    Another metric is a number, the same in all, or a list with one for each.
    """
    losses = list(train)
    columns: dict[str, list[float]] = {"train_loss": losses, "val_loss": losses if val is None else list(val)}
    for name, given_value in others.items():
        columns[name] = list(given_value) if isinstance(given_value, list) else [given_value] * len(losses)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def learning(n: int, start: float = 2.3, end: float = 0.2, pace: float = 3.0) -> list[float]:
    return [end + (start - end) * math.exp(-report / pace) for report in range(n)]


def noisy(losses: Sequence[float], share: float, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [loss * (1 + share * generator.gauss(0, 1)) for loss in losses]


def every_third(history: Sequence[Report]) -> list[Report]:
    """Leave the validation out of all reports but each third."""
    return [
        report if number % 3 == 0 else {"train_loss": report["train_loss"]} for number, report in enumerate(history)
    ]


def healthy(n: int = 20, **others: Any) -> list[Report]:
    """Make a run in good health that reports everything."""
    train = others.pop("train", noisy(learning(n), 0.01))
    val = others.pop("val", noisy(learning(n, end=0.25), 0.015, seed=1))
    statistics: dict[str, Any] = {
        "val_accuracy": [0.1 + 0.85 * (1 - math.exp(-report / 2)) for report in range(n)],
        "lr": 1e-3,
        "grad_norm": [0.2 + math.exp(-report / 5) for report in range(n)],
        "grad_norm_max": [0.5 + 2 * math.exp(-report / 5) for report in range(n)],
        "grad_norm_first": 0.3,
        "grad_norm_last": 0.5,
        "update_ratio": 2e-3,
        "dead_units": 0.1,
        "saturated_units": 0.05,
        "first_loss": 2.33,
    }
    return reports(train, val, **(statistics | others))


def said(history: Iterable[Mapping[str, float]], facts: Facts = TEN, **thresholds: Any) -> list[Symptom]:
    return [finding.symptom for finding in diagnose(history, facts, Thresholds(**thresholds))]


def found(symptom: Symptom, history: Iterable[Mapping[str, float]], facts: Facts = TEN) -> Finding:
    (finding,) = [one for one in diagnose(history, facts) if one.symptom is symptom]
    return finding


def first_at(symptom: Symptom, history: Sequence[Mapping[str, float]], facts: Facts = TEN) -> int | None:
    """Return the report, from 1, at which a symptom is found."""
    diagnosis = Diagnosis(facts)
    for number, report in enumerate(history, start=1):
        if symptom in [finding.symptom for finding in diagnosis.add(report)]:
            return number
    return None


# Runs in good health: nothing at all may be said of them.

SMOOTH = Facts(classes=10, label_smoothing=0.1)
CALM = Facts(classes=10, steps_per_report=100)
BLIPS = [0.2 + 0.009 * (-1) ** report for report in range(30)]
HEALTHY: dict[str, tuple[list[Report], Facts]] = {
    "everything reported": (healthy(), TEN),
    "long": (healthy(400), TEN),
    "one report": (healthy(1), TEN),
    "two reports": (healthy(2), TEN),
    "three reports": (healthy(3), TEN),
    "nothing reported": ([{} for _ in range(30)], TEN),
    "no facts": (healthy(), Facts()),
    "no validation": ([{"train_loss": loss} for loss in learning(20)], TEN),
    "only validation": ([{"val_loss": loss} for loss in learning(20)], TEN),
    "converged, mere noise below a tenth of the mean": (reports(learning(10) + BLIPS), TEN),
    "converged to almost nothing, where noise is as large as the loss": (
        reports(learning(10, end=1e-4) + noisy([1e-4] * 40, 0.9), noisy([0.05] * 50, 0.05, seed=2)),
        TEN,
    ),
    "up and down at almost nothing, without validation": (
        [{"train_loss": loss} for loss in [*learning(10), *[0.01, 0.02] * 10]],
        TEN,
    ),
    "a good run at a rate that could be lower": (
        healthy(40, train=[*learning(10), *[0.05, 0.1] * 15], val=[*learning(10), *[0.06, 0.12] * 15]),
        TEN,
    ),
    "exactly 0": (reports([*learning(10), *[0.0] * 20], [*learning(10), *[0.0] * 20], grad_norm=0.0), TEN),
    "noisy validation that goes on falling": (healthy(60, val=noisy(learning(60, end=0.3, pace=12), 0.08)), TEN),
    "noisy validation that stays": (healthy(100, val=noisy(learning(100, end=0.4), 0.05)), TEN),
    "few steps a report, so that training is noisy and validation is not": (
        healthy(40, train=learning(10, end=0.4) + noisy([0.4] * 30, 0.2), val=learning(40, end=0.45)),
        TEN,
    ),
    "validation loss doubles, at a thousandth of guessing": (
        healthy(40, train=learning(40, end=1e-5), val=[*learning(20, end=1e-3), *[1e-3 + 5e-5 * i for i in range(20)]]),
        TEN,
    ),
    "cosine to 0, whose last updates are tiny": (
        healthy(
            30,
            train=noisy(learning(30, end=0.9), 0.005),
            val=noisy(learning(30, end=1.0), 0.005, seed=3),
            lr=[1e-3 * 0.5 * (1 + math.cos(math.pi * report / 30)) for report in range(30)],
            update_ratio=[2e-3 * 0.5 * (1 + math.cos(math.pi * report / 30)) ** 3 for report in range(30)],
        ),
        TEN,
    ),
    "a warm-up of eight reports in which nothing moves yet": (
        healthy(
            30,
            train=[2.31, 2.31, 2.31, 2.31, 2.309, 2.308, 2.305, 2.3, *learning(22)],
            val=[2.32, 2.32, 2.32, 2.32, 2.319, 2.315, 2.31, 2.3, *learning(22, end=0.25)],
            lr=[1e-7 + 1e-3 * report / 8 for report in range(8)] + [1e-3] * 22,
            update_ratio=[2e-7 + 2e-3 * report / 80 for report in range(8)] + [2e-3] * 22,
        ),
        TEN,
    ),
    "losses that rise a little while the rate warms up": (
        healthy(
            20,
            train=[2.31, 2.35, 2.42, 2.46, 2.40, *learning(15)],
            val=[2.31, 2.36, 2.45, 2.50, 2.41, *learning(15, end=0.25)],
            lr=[2e-4, 4e-4, 6e-4, 8e-4, *[1e-3] * 16],
        ),
        CALM,
    ),
    "one-cycle: validation is worse while the rate is at its peak": (
        healthy(
            24,
            train=[
                2.3,
                1.4,
                0.9,
                0.7,
                0.6,
                0.58,
                0.57,
                0.56,
                0.55,
                0.54,
                0.53,
                0.52,
                *learning(12, start=0.5, end=0.1),
            ],
            val=[2.3, 1.4, 0.9, 0.6, 0.5, 0.6, 0.7, 0.75, 0.8, 0.8, 0.75, 0.7, *learning(12, start=0.5, end=0.3)],
            lr=[1e-4 * report for report in range(1, 11)] + [1e-3 * 0.8**report for report in range(14)],
        ),
        TEN,
    ),
    "a rate lowered on a plateau": (
        healthy(
            30,
            train=[*learning(15, end=0.8), *learning(15, start=0.8, end=0.6)],
            val=[*learning(15, end=0.9), *learning(15, start=0.9, end=0.75)],
            lr=[0.1] * 15 + [1e-4] * 15,
            update_ratio=[2e-3] * 15 + [4e-6] * 15,
        ),
        TEN,
    ),
    "full batch, converged above good: the gradient is gone, the updates with it": (
        healthy(
            60,
            train=learning(60, end=1.1, pace=6),
            val=learning(60, end=1.2, pace=6),
            grad_norm=[math.exp(-report / 6) for report in range(60)],
            grad_norm_max=[math.exp(-report / 6) for report in range(60)],
            update_ratio=[2e-3 * math.exp(-report / 6) for report in range(60)],
        ),
        TEN,
    ),
    "label smoothing, whose training loss has a floor": (
        healthy(40, train=noisy([0.5 + loss for loss in learning(40, start=1.8, end=0.02)], 0.01)),
        SMOOTH,
    ),
    "as good as smoothed labels let it be, and flat": (
        healthy(20, train=[SMOOTH.floor_loss + 0.01] * 20, grad_norm_first=1e-9),
        SMOOTH,
    ),
    "a plateau that the run leaves with a gradient a thousand times as large": (
        healthy(
            20,
            train=[2.303] * 5 + learning(15, start=2.0),
            val=[2.303] * 5 + learning(15, start=1.8),
            grad_norm=[1e-5] * 5 + [0.5] * 15,
            grad_norm_max=[2e-5] * 5 + [2.0] * 15,
            first_loss=2.303,
        ),
        TEN,
    ),
    "a clipped gradient as high as a cliff, after which all goes on": (
        healthy(20, grad_norm_max=[2.0] * 9 + [1e5] + [2.0] * 10),
        TEN,
    ),
    "a hard example in a converged run": (
        healthy(
            40,
            train=[*learning(30, end=1e-5), 0.3, *[1e-5] * 9],
            val=learning(40, end=0.2),
            grad_norm=[1.0, *[1e-6] * 29, 5e-3, *[1e-6] * 9],
            grad_norm_max=[2.0, *[2e-6] * 29, 0.2, *[2e-6] * 9],
        ),
        TEN,
    ),
    "fine-tuning from a loss near 0": (
        healthy(10, train=[0.01, 0.05, *[0.02] * 8], val=[0.1] * 10, first_loss=4e-3),
        TEN,
    ),
    "one bad report": (healthy(20, dead_units=[0.1] * 9 + [0.6] + [0.1] * 10), TEN),
    "a regression whose targets are large": (
        reports(learning(40, start=29000, end=2900), learning(40, start=28000, end=3000), first_loss=31900.0),
        Facts(baseline_loss=5900.0),
    ),
    "a regression whose targets are large, learned slowly": (
        reports([29000 * 0.9**i for i in range(30)], [29500 * 0.905**i for i in range(30)], first_loss=31900.0),
        Facts(baseline_loss=5900.0),
    ),
    "a slow start, in which accuracy is still that of guessing": (
        healthy(
            20,
            train=[2.33 - 0.02 * i for i in range(20)],
            val=[2.37 - 0.02 * i for i in range(20)],
            val_accuracy=0.1,
        ),
        TEN,
    ),
    "a regression of which nothing is known": (reports(learning(40, start=3.0, end=0.6)), Facts()),
    "two classes of which little can be known": (
        healthy(
            30,
            train=noisy(learning(30, start=0.70, end=0.675), 0.002),
            val=noisy([0.684] * 30, 0.003),
            val_accuracy=0.56,
            first_loss=0.70,
        ),
        Facts(classes=2),
    ),
    "statistics that are not finite": (
        healthy(
            20,
            grad_norm_first=NAN,
            grad_norm_last=0.0,
            update_ratio=INF,
            dead_units=NAN,
            val_accuracy=NAN,
            first_loss=NAN,
        ),
        TEN,
    ),
    "fp16, whose loss scaling skips steps": (
        healthy(20, grad_norm=[0.5, INF, *[0.5] * 18], grad_norm_max=[1.0, INF, NAN, *[1.0] * 17]),
        Facts(classes=10, loss_scaling=True),
    ),
    "a game of two networks": (
        healthy(30, train=[0.7, 4.0, 8.0, 2.0, 9.0, 1.0] * 5, val=[0.7, 5.0] * 15, first_loss=0.7),
        Facts(adversarial=True),
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_run_in_good_health(name: str) -> None:
    history, facts = HEALTHY[name]
    assert diagnose(history, facts) == ()


# Faults.

FLAT = noisy([2.304] * 20, 5e-4)
SWING = [1.2 + 0.3 * (-1) ** report for report in range(20)]
CRAWL = noisy([2.33 - 0.002 * report for report in range(20)], 5e-5)
RISING = [0.5 + 0.03 * report for report in range(30)]
FAULTS: dict[Symptom, dict[str, tuple[list[Report], Facts]]] = {
    Symptom.DIVERGED: {
        "a loss that is NaN": (healthy(8, train=[*learning(7), NAN]), TEN),
        "an infinite loss at once": (reports([INF], [NAN]), Facts()),
        "validation that is NaN": (healthy(8, val=[*learning(7), NAN]), TEN),
        "a gradient that is NaN": (healthy(8, grad_norm=[0.5] * 7 + [NAN]), TEN),
        "a gradient that overflows": (healthy(8, grad_norm_max=[0.5] * 7 + [INF]), TEN),
        "a loss ten times its first value": (healthy(5, train=[2.3, 1.9, 2.5, 7.0, 24.0]), TEN),
        "a first report ten times what the run began with": (healthy(1, train=[200.0], val=[2.6]), TEN),
        "a regression that blows up": (reports([3.0, 2.9, 31.0]), Facts(baseline_loss=2.5)),
        "a gradient that jumps with the loss": (
            healthy(6, train=[2.3, 1.5, 1.0, 0.8, 0.7, 2.4], grad_norm=[1.0, 0.9, 0.8, 0.7, 0.6, 900.0]),
            TEN,
        ),
        "one step whose gradient jumps, seen in validation": (
            healthy(
                6,
                train=[2.3, 1.5, 1.0, 0.8, 0.7, 0.69],
                val=[2.3, 1.5, 1.0, 0.8, 0.7, 3.0],
                grad_norm_max=[1.0, 0.9, 0.8, 0.7, 0.6, 5e4],
            ),
            TEN,
        ),
        "a game of two networks that ends in NaN": (reports([0.7, NAN]), Facts(adversarial=True)),
        "a loss that is NaN in fp16": (reports([2.3, NAN]), Facts(classes=10, loss_scaling=True)),
    },
    Symptom.VANISHING: {
        "ten sigmoid layers": (healthy(20, train=FLAT, val=FLAT, grad_norm_first=1e-8), TEN),
        "three reports": (healthy(3, train=FLAT[:3], val=FLAT[:3], grad_norm_first=4e-5), TEN),
        "no gradient at all": (healthy(20, train=FLAT, val=FLAT, grad_norm_first=0.0), TEN),
        "a start that moves": (
            healthy(10, train=[2.6, 2.4, 2.33, *FLAT[:7]], grad_norm_first=1e-7, first_loss=2.7),
            TEN,
        ),
        "two classes": (reports(noisy([0.693] * 9, 1e-3), grad_norm_first=1e-9, grad_norm_last=0.2), Facts(classes=2)),
        "a regression": (reports([1.0] * 5, grad_norm_first=1e-9, grad_norm_last=0.2), Facts(baseline_loss=1.0)),
        "half way": (healthy(20, train=[2.3, 1.9, *[1.5] * 18], val=[1.5] * 20, grad_norm_first=1e-6), TEN),
    },
    Symptom.DEAD_RELU: {
        "from the start": (healthy(20, dead_units=0.8), TEN),
        "later": (healthy(20, dead_units=[0.1] * 10 + [0.51] * 10), TEN),
        "all": (healthy(20, train=FLAT, val=FLAT, dead_units=1.0, grad_norm_first=0.0), TEN),
        "two reports": (healthy(2, dead_units=0.7), TEN),
        "seen every other report": (
            [*healthy(1, dead_units=0.7), {"train_loss": 2.0}, *healthy(1, dead_units=0.7)],
            TEN,
        ),
    },
    Symptom.LR_TOO_HIGH: {
        "up and down": (healthy(20, train=SWING, val=SWING), TEN),
        "up and down in six reports": (healthy(6, train=SWING[:6], val=SWING[:6]), TEN),
        "up and down without validation": ([{"train_loss": loss} for loss in SWING], TEN),
        "up and down after a good start": (
            healthy(30, train=[*learning(10), *SWING], val=[*learning(10), *SWING]),
            TEN,
        ),
        "up and down just above the floor of smoothed labels": (
            healthy(20, train=[SMOOTH.floor_loss + 0.3 + 0.03 * (-1) ** i for i in range(20)], val=SWING),
            SMOOTH,
        ),
        "up and down in a regression": (reports([30.0, 20.0] * 10), Facts(baseline_loss=50.0)),
        "above the start": (healthy(4, train=[6.0, 1.2, 0.9, 0.8], val=[1.5, 1.2, 0.9, 0.8]), CALM),
        "above the start, steps unknown": (healthy(4, train=[6.0, 1.2, 0.9, 0.8], val=[1.5, 1.2, 0.9, 0.8]), TEN),
        "above the start for as many steps": (
            healthy(12, train=[2.33, *[4.0] * 11], val=[4.0] * 12),
            Facts(classes=10, steps_per_report=1),
        ),
    },
    Symptom.LR_TOO_LOW: {
        "crawling": (healthy(20, train=CRAWL, val=CRAWL, update_ratio=2e-6), TEN),
        "not moving": (healthy(20, train=FLAT, val=FLAT, update_ratio=1e-7), TEN),
        "six reports": (healthy(6, train=CRAWL[:6], val=CRAWL[:6], update_ratio=9e-6), TEN),
        "cosine from a rate that is too low": (
            healthy(
                20,
                train=CRAWL,
                val=CRAWL,
                update_ratio=[8e-6 * math.cos(i / 20) for i in range(20)],
                lr=[1e-5 * math.cos(i / 20) for i in range(20)],
            ),
            TEN,
        ),
        "Adam at a hundredth of its rate: a straight line": (
            healthy(20, train=noisy([2.33 - 0.02 * i for i in range(20)], 1e-4), val=[2.3] * 20, update_ratio=9e-5),
            TEN,
        ),
        "a regression": (reports([100 - 0.01 * i for i in range(9)], update_ratio=1e-6), Facts(baseline_loss=90.0)),
    },
    Symptom.OVERFITTING: {
        "rising steadily": (healthy(30, train=learning(30, end=0.01, pace=5), val=RISING), TEN),
        "rising after ten reports": (
            healthy(40, train=learning(40, end=0.005), val=[*learning(10, end=0.5), *RISING]),
            TEN,
        ),
        "rising under noise": (
            healthy(40, train=noisy(learning(40, end=0.005), 0.02), val=noisy([*learning(10, end=0.5), *RISING], 0.03)),
            TEN,
        ),
        "under a falling rate": (
            healthy(
                40,
                train=learning(40, end=0.005),
                val=[*learning(10, end=0.5), *RISING],
                lr=[0.1 * 0.95**i for i in range(40)],
            ),
            TEN,
        ),
        "validated every third report": (
            every_third(healthy(60, train=learning(60, end=0.01, pace=15), val=[0.5 + 0.02 * i for i in range(60)])),
            TEN,
        ),
        "a regression": (
            reports(learning(30, start=50, end=1, pace=8), [30 - i for i in range(10)] + [20 + i for i in range(20)]),
            Facts(baseline_loss=55.0),
        ),
    },
    Symptom.BROKEN_SETUP: {
        "inputs out of scale": (healthy(3, first_loss=120.0, train=[60.0, 20.0, 9.0], val=[30.0, 12.0, 8.0]), TEN),
        "weights out of scale": (healthy(10, first_loss=7.5), TEN),
        "a hundred classes": (healthy(10, first_loss=15.0, train=[4.0] * 10), Facts(classes=100)),
        "shuffled labels": (
            healthy(
                20,
                train=[2.32 - 0.02 * i for i in range(20)],
                val=[2.31 + 0.01 * i for i in range(20)],
                val_accuracy=0.1,
            ),
            TEN,
        ),
        "labels of other inputs": (healthy(8, val=[3.0] * 8, val_accuracy=0.08), TEN),
        "a regression on shuffled targets": (
            reports(learning(10, start=1.0, end=0.3), [1.1 + 0.02 * i for i in range(10)]),
            Facts(baseline_loss=1.0),
        ),
    },
}
# What is true of them as well.
ALSO = {
    "shuffled labels": {Symptom.OVERFITTING},
    "a regression on shuffled targets": {Symptom.OVERFITTING},
    "a loss ten times its first value": {Symptom.LR_TOO_HIGH},
}
CASES = [(symptom, name) for symptom, cases in FAULTS.items() for name in cases]


@pytest.mark.parametrize(("symptom", "name"), CASES)
def test_a_fault_has_its_symptom(symptom: Symptom, name: str) -> None:
    history, facts = FAULTS[symptom][name]
    finding = found(symptom, history, facts)
    assert any(character.isdigit() for character in finding.evidence)
    assert finding.evidence.endswith(".")
    assert finding.advice.endswith(".")
    assert set(said(history, facts)) == {symptom} | ALSO.get(name, set())


ACTIONS = {Symptom.DIVERGED: Action.STOP, Symptom.OVERFITTING: Action.EARLY_STOP}


@pytest.mark.parametrize(("symptom", "name"), CASES)
def test_only_divergence_and_overfitting_end_a_trial(symptom: Symptom, name: str) -> None:
    history, facts = FAULTS[symptom][name]
    assert found(symptom, history, facts).action is ACTIONS.get(symptom, Action.TAG)


# What a detector needs, and what keeps it quiet.


@pytest.mark.parametrize("symptom", [one for one in FAULTS if one is not Symptom.DIVERGED])
def test_a_detector_without_its_evidence_says_nothing(symptom: Symptom) -> None:
    needs = {
        Symptom.VANISHING: {"grad_norm_first"},
        Symptom.DEAD_RELU: {"dead_units"},
        Symptom.LR_TOO_HIGH: {"train_loss"},
        Symptom.LR_TOO_LOW: {"update_ratio"},
        Symptom.OVERFITTING: {"val_loss"},
        Symptom.BROKEN_SETUP: {"first_loss", "val_loss"},
    }[symptom]
    for history, facts in FAULTS[symptom].values():
        for worthless in (None, NAN):
            without = [
                {
                    name: NAN if name in needs else value
                    for name, value in report.items()
                    if worthless is not None or name not in needs
                }
                for report in history
            ]
            assert symptom not in said(without, facts)


def test_divergence_is_said_at_the_very_report() -> None:
    assert first_at(Symptom.DIVERGED, healthy(12, train=[*learning(7), NAN, *learning(4)])) == 8
    assert first_at(Symptom.DIVERGED, healthy(5, train=[2.3, 1.9, 2.5, 7.0, 24.0])) == 5


def test_ten_times_is_of_what_the_run_began_with() -> None:
    # The mean of the first report is of a run that has blown up already.
    blown = reports([200.0, 150.0, 90.0])
    assert said(blown, Facts()) == []
    assert said([{**report, "first_loss": 2.3} for report in blown], Facts()) == [Symptom.DIVERGED]
    # Nothing is ten times a loss that is not above 0, as a density's may be.
    assert said(reports([-3.0, -1.0, 2.0, 9.0]), Facts()) == []


def test_a_diverged_run_also_says_that_it_was_broken_from_the_start() -> None:
    history = healthy(1, train=[NAN], val=[NAN], first_loss=5000.0)
    assert said(history) == [Symptom.DIVERGED, Symptom.BROKEN_SETUP]


def test_dead_units_explain_a_gradient_that_vanishes_and_updates_that_are_small() -> None:
    history = healthy(20, train=FLAT, val=FLAT, grad_norm_first=0.0, update_ratio=1e-7, dead_units=0.95)
    assert said(history) == [Symptom.DEAD_RELU]


def test_a_vanishing_gradient_explains_updates_that_are_small() -> None:
    history = healthy(20, train=FLAT, val=FLAT, grad_norm_first=1e-9, update_ratio=1e-7)
    assert said(history) == [Symptom.VANISHING]
    saturated = healthy(20, train=FLAT, val=FLAT, grad_norm_first=1e-9, saturated_units=0.93)
    assert "93 % of the sigmoid and tanh outputs are saturated" in found(Symptom.VANISHING, saturated).evidence


@pytest.mark.parametrize(
    "changed",
    [
        {"lr": [1e-7 * 1.5**report for report in range(20)]},
        {"lr": [1e-2] * 3 + [1e-4] * 17, "update_ratio": [2e-3] * 3 + [2e-6] * 17},
        {"grad_norm": [1.0] + [0.01] * 19},
        {"train": [0.2 - 1e-4 * report for report in range(20)], "val": [0.3] * 20},
        {"train": learning(20, end=1.0), "val": learning(20, end=1.1)},
        {"train": [2.3 + 0.02 * report for report in range(20)]},
    ],
    ids=["rate rises", "rate was higher", "gradient has shrunk", "loss is good", "loss bends", "loss rises"],
)
def test_small_updates_alone_are_no_rate_that_is_too_low(changed: dict[str, Any]) -> None:
    history = healthy(20, **({"train": CRAWL, "val": CRAWL, "update_ratio": 2e-6} | changed))
    # A loss that bends does so until it is flat.
    history = history[:10]
    assert Symptom.LR_TOO_LOW not in said(history)


def test_between_too_low_and_healthy_only_a_straight_line_from_the_start_counts() -> None:
    line = [2.33 - 0.02 * report for report in range(20)]
    late = [2.33] * 12 + [2.33 - 0.1 * report for report in range(8)]
    bent = learning(20, end=1.4)
    # Down to less than half of guessing before there are reports enough to judge by.
    quick = [2.33 - 0.3 * report for report in range(7)]
    for train, expected in ((line, True), (late, False), (bent, False), (FLAT, False), (quick, False)):
        history = healthy(len(train), train=train, val=train, update_ratio=9e-5)
        assert (Symptom.LR_TOO_LOW in said(history)) is expected


@pytest.mark.parametrize(
    "history",
    [
        healthy(20, train=[0.3 + 0.012 * (-1) ** report for report in range(20)]),
        healthy(20, train=SWING, val=[1.2] * 20),
        healthy(20, train=SWING, val=SWING, lr=[1e-3 * 1.1**report for report in range(20)]),
        healthy(5, train=SWING[:5], val=SWING[:5]),
        healthy(20, train=[2.4 - 0.1 * report for report in range(20)]),
    ],
    ids=["small swing", "validation is calm", "rate rises", "five reports", "no swing"],
)
def test_not_all_that_turns_is_a_rate_that_is_too_high(history: list[Report]) -> None:
    assert Symptom.LR_TOO_HIGH not in said(history)


def test_a_full_batch_may_overshoot_for_a_few_steps() -> None:
    train = [2.33, 2.9, 3.1, 2.8, 2.4, *learning(20)]
    history = healthy(25, train=train, val=train)
    assert said(history, Facts(classes=10, steps_per_report=1)) == []
    assert said(history, Facts(classes=10, steps_per_report=100)) == [Symptom.LR_TOO_HIGH]


def test_overshooting_now_and_then_does_not_add_up() -> None:
    history = healthy(5, train=[4.0, 1.0] * 2 + [4.0], val=[4.0, 1.0] * 2 + [4.0])
    assert said(history, Facts(classes=10, steps_per_report=4)) == []
    assert said(history, Facts(classes=10, steps_per_report=10)) == [Symptom.LR_TOO_HIGH]


@pytest.mark.parametrize(
    ("changed", "action"),
    [
        ({"objective": "val_loss"}, Action.EARLY_STOP),
        ({"objective": "val_accuracy"}, Action.TAG),
        ({"objective": "f1"}, Action.TAG),
    ],
)
def test_overfitting_ends_only_what_is_past_its_best(changed: dict[str, Any], action: Action) -> None:
    history = healthy(
        40,
        train=learning(40, end=0.005),
        val=[*learning(10, end=0.5), *RISING],
        val_accuracy=[0.5 + 0.01 * report for report in range(40)],
    )
    assert found(Symptom.OVERFITTING, history, Facts(classes=10, **changed)).action is action
    worse = [{**report, "val_accuracy": 1 - report["val_accuracy"]} for report in history]
    if changed["objective"] == "val_accuracy":
        assert found(Symptom.OVERFITTING, worse, Facts(classes=10, **changed)).action is Action.EARLY_STOP


@pytest.mark.parametrize(
    "changed",
    [
        {"train": [0.5] * 40},
        {"train": [0.3 + 0.01 * report for report in range(40)]},
        {"train": [0.5 - 1e-4 * report for report in range(40)]},
        {"train": noisy([0.5 - 2e-3 * report for report in range(40)], 0.1, seed=5)},
        {"val": [*learning(10, end=0.5), *[0.515] * 30]},
        {"lr": [1e-4] * 12 + [1e-3] * 28},
        {"val": noisy([*learning(10, end=0.5), *[0.5 + 0.002 * report for report in range(30)]], 0.1, seed=4)},
    ],
    ids=[
        "training stays",
        "training rises",
        "training hardly falls",
        "training falls in noise",
        "rise below 5 %",
        "higher rate",
        "lost in noise",
    ],
)
def test_not_all_that_rises_is_overfitting(changed: dict[str, Any]) -> None:
    usual = {"train": learning(40, end=0.005), "val": [*learning(10, end=0.5), *RISING]}
    assert said(healthy(40, **usual)) == [Symptom.OVERFITTING]
    assert Symptom.OVERFITTING not in said(healthy(40, **(usual | changed)))


def test_overfitting_names_the_minimum() -> None:
    history = healthy(40, train=learning(40, end=0.005), val=[*learning(10, end=0.5), *RISING])
    evidence = found(Symptom.OVERFITTING, history).evidence
    smoothed = [median(report["val_loss"] for report in history[end - 3 : end]) for end in range(3, 41)]
    assert f"from its minimum {min(smoothed):.3g} at report {smoothed.index(min(smoothed)) + 3}" in evidence


def test_a_broken_setup_is_said_as_soon_as_it_can_be_known() -> None:
    assert first_at(Symptom.BROKEN_SETUP, FAULTS[Symptom.BROKEN_SETUP]["weights out of scale"][0]) == 1
    assert first_at(Symptom.BROKEN_SETUP, FAULTS[Symptom.BROKEN_SETUP]["labels of other inputs"][0]) == 6


LEARNED = learning(20)
STUCK = [1.39 - 0.001 * report for report in range(20)]
FOUR = Facts(classes=4)


@pytest.mark.parametrize(
    ("history", "facts", "report"),
    [
        # Frozen layers, whose gradient is no small one.
        (healthy(20, grad_norm_first=0.0), TEN, 3),
        (healthy(20, grad_norm_last=0.0), TEN, 3),
        (
            healthy(20, train=FLAT, val=FLAT, grad_norm_first=0.0, grad_norm_last=0.0, grad_norm=0.0, dead_units=0.0),
            TEN,
            3,
        ),
        # Shuffled labels that are slow to learn by heart.
        (reports(STUCK, [1.42] * 20, val_accuracy=0.25), FOUR, 14),
        # Of classes of different sizes, naming the commonest is right in two of three.
        (
            reports([0.64 - 0.01 * report for report in range(20)], [0.66] * 20, val_accuracy=0.66),
            Facts(classes=2, baseline_loss=0.64, val_baseline_loss=0.64, base_accuracy=0.66),
            6,
        ),
        # Targets of validation that are nearer to their mean.
        (
            reports([1.0 - 0.02 * report for report in range(20)], [0.81 + 0.01 * report for report in range(20)]),
            Facts(baseline_loss=1.0, val_baseline_loss=0.8),
            6,
        ),
        # What bounded activations hide.
        (healthy(20, saturated_units=0.7, first_loss=2.31), TEN, 1),
        # A regression whose targets are far from 0.
        (reports([90.0, 80.0, 70.0], first_loss=95.0), Facts(baseline_loss=1.0), 1),
    ],
)
def test_a_setup_is_broken_in_training(history: list[Report], facts: Facts, report: int) -> None:
    assert first_at(Symptom.BROKEN_SETUP, history, facts) == report


@pytest.mark.parametrize(
    ("history", "facts"),
    [
        # A layer of dead or saturated units has no gradient either.
        (healthy(20, train=FLAT, val=FLAT, grad_norm_first=0.0, dead_units=0.3), TEN),
        (healthy(20, train=FLAT, val=FLAT, grad_norm_first=0.0, saturated_units=0.3), TEN),
        # Nothing is left to learn.
        (reports([0.0] * 20, [0.1] * 20, grad_norm_first=0.0, grad_norm_last=0.0, grad_norm=0.0), TEN),
        # Two reports may be so by chance.
        (healthy(20, grad_norm_first=[0.3, 0.0, 0.0] + [0.3] * 17), TEN),
        # A rate that is too high saturates as well, and the loss tells.
        (healthy(3, train=[8.0, 8.0, 8.0], val=[8.0] * 3, saturated_units=0.9), TEN),
        # Saturated later, by learning.
        (healthy(20, saturated_units=[0.1] + [0.9] * 19), TEN),
        # One batch is too few to know a regression's loss by.
        (reports(LEARNED, first_loss=95.0), Facts(baseline_loss=2.0)),
        # Classes of different sizes: untrained, a network costs more than the guess that knows their shares.
        (reports([0.2, 0.1, 0.05], first_loss=0.72), Facts(classes=2, baseline_loss=0.1)),
    ],
)
def test_a_setup_is_not_broken(history: list[Report], facts: Facts) -> None:
    assert Symptom.BROKEN_SETUP not in said(history, facts)


def test_small_weights_that_let_only_the_bias_learn_vanish() -> None:
    history = healthy(5, train=FLAT[:5], val=FLAT[:5], grad_norm=0.11, grad_norm_first=4e-7, grad_norm_last=6e-4)
    assert first_at(Symptom.VANISHING, history) == 3


def test_layers_say_by_how_much_a_gradient_shrinks() -> None:
    by_layer = {"grad_norm/01.linear1": 1e-9, "grad_norm/02.linear2": 1e-5, "grad_norm/03.linear3": 0.25}
    by_layer |= {"grad_norm/04.linear4": 0.5, "grad_norm/05.output": 1.0}
    flat = healthy(5, train=FLAT[:5], val=FLAT[:5], grad_norm_first=1e-9)
    evidence = found(Symptom.VANISHING, [{**report, **by_layer} for report in flat]).evidence
    assert "; in each layer it is 0.25 times that of the next one (median), least in 02.linear2 (4e-05)." in evidence
    broken = [{**report, **by_layer, "grad_norm/05.output": math.nan} for report in flat]
    assert "in each layer" not in found(Symptom.VANISHING, broken).evidence


def test_a_slope_is_that_of_validation_where_training_is_noisier() -> None:
    val = [1.1 - 0.0006 * report for report in range(20)]
    history = reports(noisy([1.1] * 20, 0.01), val, update_ratio=2.5e-5, grad_norm=0.9)
    assert Symptom.LR_TOO_LOW in said(history, Facts(classes=3))
    assert Symptom.LR_TOO_LOW not in said(reports(noisy([1.1] * 20, 0.01), update_ratio=2.5e-5), Facts(classes=3))


def test_confident_mistakes_are_no_broken_setup() -> None:
    history = healthy(20, val=[3.0] * 20, val_accuracy=0.6)
    assert Symptom.BROKEN_SETUP not in said(history)


def test_advice_names_the_rate() -> None:
    swing = healthy(20, train=SWING, val=SWING, lr=0.2)
    assert found(Symptom.LR_TOO_HIGH, swing).advice == "Lower the learning rate from 0.2 to 0.02."
    crawl = healthy(20, train=CRAWL, val=CRAWL, update_ratio=1e-6, lr=1e-5)
    assert found(Symptom.LR_TOO_LOW, crawl).advice == "Raise the learning rate from 1e-05 to 0.0001."
    unknown = reports(SWING)
    assert found(Symptom.LR_TOO_HIGH, unknown).advice == "Lower the learning rate by a factor of 10."


# One batch by heart.


def test_a_batch_that_is_learned_by_heart() -> None:
    assert diagnose_one_batch(learning(200, end=0.0, pace=20), TEN) is None
    # Dropout: now and then is enough.
    assert diagnose_one_batch(noisy([2.0, *[0.02] * 199], 0.4), TEN) is None
    assert diagnose_one_batch([SMOOTH.floor_loss + loss for loss in learning(200, end=0.0, pace=20)], SMOOTH) is None
    assert diagnose_one_batch(learning(200, start=5000, end=0.0, pace=20), Facts(baseline_loss=4000.0)) is None
    # Sigmoids and small networks are slow; a linear one comes only half way.
    assert diagnose_one_batch(learning(200, end=0.0, pace=150), TEN) is None
    assert diagnose_one_batch(noisy(learning(200, end=0.5, pace=100), 0.1), TEN) is None
    assert diagnose_one_batch(learning(200, start=1.0, end=0.4, pace=20), Facts(baseline_loss=1.0)) is None
    assert diagnose_one_batch([], TEN) is None
    assert diagnose_one_batch([2.3] * 199, TEN) is None


@pytest.mark.parametrize(
    ("losses", "facts"),
    [
        ([2.3] * 200, TEN),
        (learning(300, end=1.5, pace=20), TEN),
        ([2.3] * 200 + [0.0], TEN),
        (noisy([2.3] * 200, 0.01), TEN),
        ([2.3, NAN], TEN),
        ([INF], Facts()),
        ([0.7] * 200, Facts(classes=2)),
        (learning(200, start=1.0, end=0.6, pace=20), Facts(baseline_loss=1.0)),
    ],
)
def test_a_batch_that_is_not_learned_refuses_the_sweep(losses: list[float], facts: Facts) -> None:
    finding = diagnose_one_batch(losses, facts)
    assert finding is not None
    assert (finding.symptom, finding.action) == (Symptom.BROKEN_SETUP, Action.REFUSE)


def test_the_floor_is_the_entropy_of_smoothed_labels() -> None:
    # 0.91 for the class itself and 0.01 for each of nine others.
    assert SMOOTH.floor_loss == pytest.approx(-0.91 * math.log(0.91) - 9 * 0.01 * math.log(0.01), rel=1e-12)
    assert Facts(classes=10, label_smoothing=1e-323).floor_loss == pytest.approx(0.0, abs=1e-12)
    assert Facts(label_smoothing=0.1).floor_loss == 0.0


# A sweep.


def ran(train: Sequence[float], val: Sequence[float] | None = None, facts: Facts = TEN, **others: Any) -> Any:
    diagnosis = Diagnosis(facts)
    for report in reports(train, val, **others):
        diagnosis.add(report)
    return diagnosis.summary()


def trial(number: int, summary: Any = None, value: float | None = None, **params: Any) -> SweepTrial:
    complete = params.pop("complete", True)
    return SweepTrial(number, params, value, complete=complete, summary=summary)


def underfitting(*summaries: Any) -> list[int]:
    trials = [trial(number, summary) for number, summary in enumerate(summaries)]
    return list(diagnose_sweep(trials, {}).underfitting)


def test_a_summary_is_above_what_the_losses_can_be() -> None:
    losses = [SMOOTH.floor_loss + 0.1] * 8
    summary = ran([9.0, *losses], [8.0, 0.3, 0.2, 0.1, *[0.4] * 5], SMOOTH)
    assert summary.train_loss == pytest.approx(0.1)
    assert summary.val_loss == 0.2
    assert (summary.plateaued, summary.unit) == (True, GUESS)


BEST = ran(learning(20, end=0.2), learning(20, end=0.25))


@pytest.mark.parametrize(
    "summary",
    [
        ran(learning(20, end=0.5), learning(20, end=0.5)),
        ran(noisy(learning(20, end=0.3), 0.002), noisy(learning(20, end=0.35), 0.002)),
        ran(learning(20, end=2.0), learning(20, end=2.0)),
        ran(learning(20, end=0.5) + [0.51] * 10, [0.5] * 30),
        ran(
            [loss + 0.5 for loss in learning(20, start=1.8, end=0.3)],
            learning(20, end=0.4),
            SMOOTH,
        ),
    ],
)
def test_a_plateau_above_the_best_is_underfitting(summary: Any) -> None:
    assert underfitting(BEST, summary) == [1]
    finding = diagnose_sweep([trial(3, BEST), trial(7, summary)], {}).underfitting[7]
    assert finding.action is Action.TAG
    assert "the sweep's best is 0.205" in finding.evidence


@pytest.mark.parametrize(
    "summary",
    [
        BEST,
        ran(learning(20, end=0.22), learning(20, end=0.25)),
        # Well regularised: only its training loss is higher.
        ran(learning(20, end=0.5), learning(20, end=0.26)),
        # Still falling.
        ran([2.3 - 0.05 * report for report in range(20)]),
        ran(learning(5, end=0.5)),
        ran(
            [loss + SMOOTH.floor_loss for loss in learning(20, end=0.2)],
            learning(20, end=0.25),
            SMOOTH,
        ),
        # Explained by what was found in the run itself.
        ran([2.3, 1.9, *[1.5] * 18], grad_norm_first=1e-8, grad_norm_last=1.0),
        ran([2.3, NAN]),
        ran([]),
    ],
)
def test_no_underfitting(summary: Any) -> None:
    assert underfitting(BEST, summary) == []
    assert underfitting(summary) == []


def test_a_trial_that_knows_its_data_by_heart_does_not_make_the_others_underfit() -> None:
    by_heart = ran(learning(20, end=1e-4), [0.5] * 20)
    assert underfitting(by_heart, ran(learning(20, end=0.3), learning(20, end=0.28)), BEST) == []
    assert underfitting(by_heart, ran(learning(20, end=0.8), learning(20, end=0.8)), BEST) == [1]


def test_a_sweep_whose_trials_say_nothing() -> None:
    empty = diagnose_sweep([], {"lr": Range(1e-5, 1.0, log=True)})
    assert (dict(empty.underfitting), empty.narrow) == ({}, ())
    assert underfitting(None, None) == []


LR = Range(1e-5, 1e-1, log=True)
DROPOUT = Range(0.0, 0.5, most=0.9)


def sides(trials: Sequence[SweepTrial], span: Range, **options: Any) -> list[tuple[bool, float]]:
    return [(side.low, side.bound) for side in diagnose_sweep(trials, {"x": span}, **options).narrow]


def sweep(places: Sequence[float], span: Range) -> list[SweepTrial]:
    """Make trials, best first, at places from 0 to 1 of a range."""
    low, high = (math.log(span.low), math.log(span.high)) if span.log else (span.low, span.high)
    at = [low + place * (high - low) for place in places]
    return [trial(i, value=float(i), x=math.exp(one) if span.log else one) for i, one in enumerate(at)]


SPREAD = [(0.37 * index) % 1 for index in range(1, 98)]


@pytest.mark.parametrize(
    ("best", "rest", "span", "expected"),
    [
        ([0.98, 0.99, 0.97], SPREAD[:17], LR, (False, 10.0)),
        ([0.01, 0.0, 0.03], SPREAD[:17], LR, (True, 1e-7)),
        ([1.0, 0.96, 0.99], SPREAD[:40], Range(-1.0, 1.0), (False, 2.0)),
        ([0.02, 0.01, 0.04, 0.5, 0.03], SPREAD[:95], Range(-1.0, 1.0), (True, -2.0)),
        ([0.99] * 3, SPREAD[:17], DROPOUT, (False, 0.75)),
        ([0.99] * 3, SPREAD[:17], Range(0.0, 0.8, most=0.9), (False, 0.9)),
        ([0.0] * 3, SPREAD[:17], Range(0.1, 0.5), (True, 0.0)),
        ([1.0] * 8 + [0.5] * 2, SPREAD + SPREAD[:93], Range(1, 10, step=1), (False, 14.0)),
        ([1.0] * 5, SPREAD[:80], Range(32, 256, step=32), (False, 384.0)),
    ],
)
def test_the_best_at_an_edge_make_a_narrow_space(
    best: list[float], rest: list[float], span: Range, expected: tuple[bool, float]
) -> None:
    trials = sweep([*best, *rest], span)
    assert sides(trials, span) == [expected]
    worse = [SweepTrial(one.trial, one.params, -(one.value or 0.0)) for one in trials]
    assert sides(worse, span, maximize=True) == [expected]
    (side,) = diagnose_sweep(trials, {"x": span}).narrow
    assert (side.parameter, side.finding.symptom, side.finding.action) == ("x", Symptom.SPACE_TOO_NARROW, Action.TAG)
    assert "x" in side.finding.advice


@pytest.mark.parametrize(
    ("best", "rest", "span"),
    [
        ([0.98, 0.99, 0.97], SPREAD[:16], LR),
        ([0.98, 0.99, 0.5], SPREAD[:17], LR),
        ([0.98, 0.01, 0.99], SPREAD[:17], LR),
        ([0.9, 0.93, 0.94], SPREAD[:17], LR),
        # Nothing below 0, or beyond what makes sense.
        ([0.0] * 3, SPREAD[:17], DROPOUT),
        ([1.0] * 3, SPREAD[:17], Range(0.0, 0.9, most=0.9)),
        ([0.0] * 3, SPREAD[:17], Range(1, 50, step=1, least=1)),
        # An end of three values is nothing special.
        ([1.0] * 3, SPREAD[:17], Range(1, 3, step=1)),
        ([0.0] * 3, SPREAD[:17], Range(2, 8, log=True, step=1)),
    ],
)
def test_no_narrow_space(best: list[float], rest: list[float], span: Range) -> None:
    assert sides(sweep([*best, *rest], span), span) == []


def test_only_values_that_can_be_compared_count() -> None:
    trials = sweep([0.99] * 3 + SPREAD[:17], LR)
    # Better, but pruned, diverged or without a value.
    noise = [
        trial(100, value=-5.0, x=1e-3, complete=False),
        trial(101, value=NAN, x=1e-3),
        trial(102, value=-INF, x=1e-3),
        trial(103, x=1e-3),
        trial(104, value=-9.0, x="adam"),
        trial(105, value=-9.0, x=True),
        trial(106, value=-9.0),
    ]
    assert sides(trials + noise, LR) == [(False, 10.0)]
    assert sides([trial(i, x=1e-5) for i in range(50)], LR) == []


def test_a_parameter_of_some_trials_is_judged_among_them() -> None:
    with_it = sweep([0.99] * 3 + SPREAD[:17], LR)
    assert sides(with_it + [trial(100 + i, value=-1.0) for i in range(500)], LR) == [(False, 10.0)]
    assert sides(with_it[:19] + [trial(100 + i, value=-1.0) for i in range(500)], LR) == []


def test_a_large_sweep() -> None:
    generator = random.Random(0)
    trials = sweep([1 - 0.04 * generator.random() if i < 2400 else generator.random() for i in range(50000)], LR)
    assert sides(trials, LR) == [(False, 10.0)]


def test_the_chance_of_an_edge() -> None:
    generator = random.Random(1)
    assert LR.chance(0.05, low=True) == 0.05
    assert Range(1, 10, step=1).chance(0.05, low=True) == pytest.approx(0.1)
    assert Range(0, 100, step=1).chance(0.05, low=False) == pytest.approx(6 / 101)
    # Integers on a logarithmic scale, as Optuna draws them: rounded from a range wider by a half at both ends.
    span = Range(1, 64, log=True, step=1)
    for low in (True, False):
        drawn = [round(math.exp(generator.uniform(math.log(0.5), math.log(64.5)))) for _ in range(20000)]
        at_edge = sum(span.place(value) <= 0.05 if low else span.place(value) >= 0.95 for value in drawn) / len(drawn)
        assert span.chance(0.05, low=low) == pytest.approx(at_edge, abs=0.02)


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, numbers, st.booleans(), st.booleans())
def test_a_wider_end_is_farther_out(low: float, high: float, log: bool, side: bool) -> None:
    assume(low < high and math.isfinite(high - low) and (not log or (low > 0 and math.isfinite(high / low))))
    end = Range(low, high, log=log).wider(low=side)
    assert end is None or (math.isfinite(end) and (end < low if side else end > high))
    if log and end is not None:
        assert end > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 1.0, "high": 1.0}, "range: 1.0 to 1.0"),
        ({"low": 1.0, "high": NAN}, "range: 1.0 to nan"),
        ({"low": -1e308, "high": 1e308}, "range:"),
        ({"low": 0.0, "high": 1.0, "log": True}, r"range\.low: 0\.0"),
        ({"low": 1, "high": 5, "step": 0}, r"range\.step: 0 "),
        ({"low": 1, "high": 5, "step": 9}, r"range\.step: 9 "),
        ({"low": 1, "high": 5, "step": NAN}, r"range\.step: nan"),
    ],
)
def test_a_range_that_is_none_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Range(**arguments)


# Thresholds and facts.


def test_the_defaults_are_those_of_the_definitions() -> None:
    given_ones = Thresholds()
    assert (given_ones.diverged_gradient, given_ones.diverged_loss) == (1e3, 10)
    assert (given_ones.vanishing_ratio, given_ones.flat) == (1e-4, 0.01)
    assert (given_ones.lr_too_high_changes, given_ones.lr_too_high_amplitude) == (0.6, 0.1)
    assert given_ones.lr_too_low_ratio == 1e-5
    assert given_ones.overfitting_rise == 0.05
    assert given_ones.underfitting_excess == 0.2
    assert given_ones.dead_share == 0.5
    assert (given_ones.broken_loss, given_ones.broken_steps, given_ones.broken_lr) == (0.01, 200, 1e-3)
    assert (given_ones.narrow_best, given_ones.narrow_edge, given_ones.narrow_finished_trials) == (0.05, 0.05, 20)
    assert (given_ones.clip_norm, given_ones.lr_factor) == (5.0, 10.0)


@pytest.mark.parametrize("name", [item.name for item in fields(Thresholds)])
@pytest.mark.parametrize("value", [0, NAN, "1"])
def test_a_threshold_that_makes_no_sense_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadInputError, match=rf"^diagnosis\.{name}: "):
        Thresholds(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flat": INF}, r"diagnosis\.flat: inf is not allowed; allowed: a finite number above 0"),
        ({"window": True}, r"diagnosis\.window: True "),
        ({"good": None}, r"diagnosis\.good: None "),
        ({"dead_share": 1.5}, r"diagnosis\.dead_share: 1\.5 is not allowed; allowed: a share above 0, at most 1"),
        ({"lr_too_high_reports": 5}, r"diagnosis\.lr_too_high_reports: 5 .*at least 6"),
        ({"dead_reports": 1.5}, r"diagnosis\.dead_reports: 1\.5 "),
        ({"window": 9}, r"diagnosis\.window: 9 is not allowed; allowed: at least 10"),
    ],
)
def test_thresholds_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Thresholds(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"classes": 1},
        {"classes": 2.5},
        {"classes": True},
        {"baseline_loss": 0.0},
        {"baseline_loss": NAN},
        {"label_smoothing": 1.0},
        {"label_smoothing": NAN},
        {"label_smoothing": -0.1},
        {"steps_per_report": 0},
    ],
)
def test_facts_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(BadInputError, match=rf"^facts\.{name}: "):
        Facts(**arguments)


def test_thresholds_are_heeded() -> None:
    swing = healthy(20, train=SWING, val=SWING)
    assert said(swing, lr_too_high_amplitude=0.9) == []
    assert said(healthy(20, dead_units=0.4), dead_share=0.3) == [Symptom.DEAD_RELU]
    assert said(healthy(20, dead_units=0.8), dead_reports=21) == []
    assert said(healthy(5, train=[2.3, 1.9, 2.5, 7.0, 24.0]), diverged_loss=20.0, lr_too_high_rise=100.0) == []
    assert said(healthy(20, train=FLAT, val=FLAT, grad_norm_first=1e-8), vanishing_ratio=1e-9) == []
    assert (
        said(healthy(20, train=CRAWL, val=CRAWL, update_ratio=2e-6), lr_too_low_ratio=1e-6, lr_too_low_slow=1e-6) == []
    )
    assert said(healthy(30, train=learning(30, end=0.01), val=RISING), overfitting_rise=9.0) == []
    assert said(healthy(10, first_loss=7.5), broken_start=4.0) == []


# Report by report, and whatever is reported.

KEYS = [*healthy(1)[0]]
values = (
    st.floats()
    | st.sampled_from([NAN, INF, -INF, 0.0, -0.0, 1e308, -1e308, 5e-324, 1e-6, 0.5, 1.0, 2.3, 24.0])
    | st.floats(0.0, 3.0)
)
anything = st.lists(st.dictionaries(st.sampled_from(KEYS), values), max_size=40)
some_facts = st.builds(
    Facts,
    classes=st.none() | st.sampled_from([2, 10, 1000]),
    baseline_loss=st.none() | st.floats(1e-6, 1e6),
    label_smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    steps_per_report=st.none() | st.integers(1, 50),
    objective=st.sampled_from(["val_loss", "val_accuracy", "f1"]),
    adversarial=st.booleans(),
    loss_scaling=st.booleans(),
)


@st.composite
def plausible(draw: st.DrawFn, *, whole: bool = False) -> list[Report]:
    """Draw a run that goes through phases, healthy and other, with some metrics left out unless it is to be whole."""
    history: list[Report] = []
    level = draw(st.sampled_from([2.3, 30.0, 0.69]))
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 15))
        pace, share = draw(st.sampled_from([0.0, -0.02, -0.2, 0.02, 0.2, 2.0])), draw(st.sampled_from([0.0, 0.01, 0.3]))
        gap = draw(st.sampled_from([0.0, 0.02, -0.02]))
        constant = {
            "lr": draw(st.sampled_from([1e-5, 1e-3, 1.0])),
            "grad_norm": draw(st.sampled_from([1e-6, 1.0, 1e4])),
            "grad_norm_max": draw(st.sampled_from([1e-6, 2.0, 1e7])),
            "grad_norm_first": draw(st.sampled_from([0.0, 1e-7, 0.5])),
            "grad_norm_last": draw(st.sampled_from([0.0, 1e-7, 0.5])),
            "update_ratio": draw(st.sampled_from([1e-8, 1e-4, 1e-2])),
            "dead_units": draw(st.sampled_from([0.0, 0.3, 0.9])),
            "val_accuracy": draw(st.sampled_from([0.1, 0.5, 0.9])),
            "first_loss": draw(st.sampled_from([2.3, 30.0])),
        }
        generator = random.Random(draw(st.integers(0, 99)))
        left_out = set() if whole else draw(st.sets(st.sampled_from(KEYS), max_size=3))
        for report in range(length):
            loss = level * math.exp(pace * report)
            train = loss * (1 + share * generator.gauss(0, 1))
            val = loss * (1 + gap * report) * (1 + share * generator.gauss(0, 1))
            report_of_all = {"train_loss": train, "val_loss": val, **constant}
            history.append({name: value for name, value in report_of_all.items() if name not in left_out})
        level = min(loss, 1e12)
    return history


histories = anything | plausible()


@given(histories, some_facts)
def test_a_report_at_a_time_says_what_the_whole_says(history: list[Report], facts: Facts) -> None:
    diagnosis = Diagnosis(facts)
    so_far: list[Finding] = []
    for number, report in enumerate(history, start=1):
        so_far += diagnosis.add(report)
        assert tuple(so_far) == diagnosis.findings == diagnose(history[:number], facts)
        # It may move to another process between any two reports.
        diagnosis = pickle.loads(pickle.dumps(diagnosis))
    assert len({finding.symptom for finding in so_far}) == len(so_far)
    diagnosis.summary()


@given(histories, histories, some_facts)
def test_nothing_counts_after_a_divergence(before: list[Report], after: list[Report], facts: Facts) -> None:
    history = [*before, {"train_loss": NAN}]
    findings = diagnose(history, facts)
    assert Symptom.DIVERGED in [finding.symptom for finding in findings]
    assert diagnose([*history, *after], facts) == findings


@given(histories, some_facts, st.integers(10, 60))
def test_findings_of_one_report_come_in_the_order_of_the_symptoms(
    history: list[Report], facts: Facts, window: int
) -> None:
    order = list(Symptom)
    diagnosis = Diagnosis(facts, Thresholds(window=window))
    for report in history:
        new = [order.index(finding.symptom) for finding in diagnosis.add(report)]
        assert new == sorted(new)


@given(st.lists(values), some_facts, st.integers(1, 8))
def test_any_losses_of_one_batch_can_be_judged(losses: list[float], facts: Facts, steps: int) -> None:
    finding = diagnose_one_batch(losses, facts, Thresholds(broken_steps=steps))
    if any(not math.isfinite(loss) for loss in losses[:steps]):
        assert finding is not None


@given(st.lists(st.tuples(st.none() | values, values, st.booleans(), histories), max_size=4), st.booleans())
def test_any_sweep_can_be_diagnosed(drawn: list[tuple[Any, float, bool, list[Report]]], maximize: bool) -> None:
    trials = []
    for number, (value, x, complete, history) in enumerate(drawn * 7):
        diagnosis = Diagnosis(TEN)
        for report in history:
            diagnosis.add(report)
        trials.append(SweepTrial(number, {"x": x, "y": x}, value, complete, diagnosis.summary()))
    diagnose_sweep(trials, {"x": LR, "y": Range(-1.0, 1.0), "z": LR}, maximize=maximize)


def test_memory_does_not_grow() -> None:
    def size(reports: int) -> int:
        diagnosis = Diagnosis(TEN)
        for report in healthy(reports):
            diagnosis.add(report)
        return len(pickle.dumps(diagnosis))

    assert size(2000) < 1.1 * size(200)


# The definitions once more, each straight from all reports so far.


def of(history: Sequence[Report], name: str) -> list[float]:
    return [report[name] for report in history]


def has_diverged(history: Sequence[Report]) -> bool:
    now, before = history[-1], history[:-1]
    if any(not math.isfinite(now[name]) for name in ("train_loss", "val_loss", "grad_norm", "grad_norm_max")):
        return True
    if now["train_loss"] > 10 * max(history[0]["first_loss"], 0.01 * GUESS):
        return True
    if not before:
        return False
    jump = max(now[name] - before[-1][name] for name in ("train_loss", "val_loss"))
    highest = max(now["grad_norm"], now["grad_norm_max"])
    usual = median(of(before[-50:], "grad_norm"))
    return jump > 0.1 * GUESS and highest > 1e3 * usual and highest > history[0]["grad_norm"]


def has_dead_units(history: Sequence[Report]) -> bool:
    return len(history) > 1 and min(of(history[-2:], "dead_units")) > 0.5


def vanishes(history: Sequence[Report]) -> bool:
    last = history[-3:]
    wholes = [max(one["grad_norm_last"], one["grad_norm"]) for one in last]
    ratios = [one["grad_norm_first"] / whole if whole else INF for one, whole in zip(last, wholes, strict=True)]
    losses = of(last, "train_loss")
    moves = max(losses) - min(losses) >= 0.01 * GUESS or losses[-1] <= 0.1 * GUESS
    return len(last) == 3 and max(ratios) < 1e-4 and not moves and history[-1]["dead_units"] <= 0.5


def oscillates(history: Sequence[Report]) -> bool:
    last = history[-10:]
    train, val = of(last, "train_loss"), of(last, "val_loss")
    slopes = [after - before for before, after in pairwise(train)]
    turns = [first * second < 0 for first, second in pairwise(slopes)]
    if len(turns) < 4 or sum(turns) <= 0.6 * len(turns) or last[-1]["lr"] > 1.01 * last[0]["lr"]:
        return False
    swings = [abs(after - before) for before, after in pairwise(val)]
    if sum(train) / len(train) <= 0.1 * GUESS:
        return False
    return all(
        median(amplitudes) > max(0.01 * GUESS, 0.1 * sum(losses) / len(losses))
        for amplitudes, losses in ((list(map(abs, slopes)), train), (swings, val))
    )


def overfits(history: Sequence[Report]) -> bool:
    ends = range(3, len(history) + 1)
    val = [median(of(history[end - 3 : end], "val_loss")) for end in ends]
    train = [median(of(history[end - 3 : end], "train_loss")) for end in ends]
    if not val or min(val) <= 0:
        return False
    lowest = val.index(min(val))
    rise, fall = val[-1] - val[lowest], train[lowest] - train[-1]
    if len(val) - 1 - lowest < 3 or rise <= max(0.05 * val[lowest], 0.01 * GUESS) or fall <= 0.01 * train[lowest]:
        return False
    if history[-1]["lr"] > 1.01 * history[lowest + 2]["lr"]:
        return False
    for change, name in ((rise, "val_loss"), (fall, "train_loss")):
        kept = of(history[-50:], name)
        sigma = median(abs(x - 2 * y + z) for x, y, z in zip(kept, kept[1:], kept[2:], strict=False)) / 1.652
        if change <= 1.5 * math.sqrt(2 * math.log(len(history))) * sigma:
            return False
    return True


@given(plausible(whole=True))
def test_each_symptom_is_found_when_its_definition_first_holds(history: list[Report]) -> None:
    prefixes = [history[:end] for end in range(1, len(history) + 1)]
    diverged = next((len(prefix) for prefix in prefixes if has_diverged(prefix)), None)
    assert first_at(Symptom.DIVERGED, history, CALM) == diverged
    if diverged is not None:
        prefixes = prefixes[: diverged - 1]
    for symptom, holds in (
        (Symptom.DEAD_RELU, has_dead_units),
        (Symptom.VANISHING, vanishes),
        (Symptom.OVERFITTING, overfits),
    ):
        expected = next((len(prefix) for prefix in prefixes if holds(prefix)), None)
        assert first_at(symptom, history, CALM) == expected, symptom
    # The other way to be too high is left out by a start that nothing is above.
    high = [{**report, "first_loss": 1e13} for report in history]
    expected = next((len(prefix) for prefix in prefixes if oscillates(prefix)), None)
    seen = first_at(Symptom.LR_TOO_HIGH, high[: len(prefixes)], CALM)
    assert seen == expected
