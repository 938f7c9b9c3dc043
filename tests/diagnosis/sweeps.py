"""Sweeps with a fault that only many trials show, and without: all trials are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from swathe.training.diagnose import Diagnosis, Range, SweepDiagnosis, SweepTrial, diagnose_sweep
from swathe.training.recipe import MLP, Adam, Momentum, Optim, Recipe
from swathe.training.solo import Solo
from tests.diagnosis.cases import Source, facts_of, images, table
from tests.diagnosis.faults import run


@dataclass(frozen=True, slots=True)
class Sweep:
    """Trials of one dataset, and which of them underfit, or which ends of a range are too narrow.

    Where there is a range, trials may well underfit: by rates that are too low for it, say.
    """

    name: str
    source: Source
    params: list[dict[str, float]]
    recipe: Callable[[Mapping[str, float]], Recipe]
    ranges: Mapping[str, Range]
    underfitting: frozenset[int] = frozenset()
    narrow: frozenset[tuple[str, str]] = frozenset()

    def is_right(self, found: SweepDiagnosis) -> bool:
        """Say whether that, and nothing else, was found."""
        return narrow_ends(found) == self.narrow if self.ranges else set(found.underfitting) == self.underfitting


def narrow_ends(found: SweepDiagnosis) -> set[tuple[str, str]]:
    """Return the ends of ranges that are said to be too narrow."""
    return {(side.parameter, "lower" if side.low else "upper") for side in found.narrow}


def diagnosed(sweep: Sweep, folder: Path) -> SweepDiagnosis:
    """Train all trials and diagnose the sweep by its validation loss."""
    trials = [_trained(sweep, number, params, folder) for number, params in enumerate(sweep.params)]
    return diagnose_sweep(trials, sweep.ranges)


def _trained(sweep: Sweep, number: int, params: Mapping[str, float], folder: Path) -> SweepTrial:
    solo = Solo(replace(sweep.recipe(params), data=sweep.source(folder)), "cpu", folder / "cache")
    diagnosis = Diagnosis(facts_of(solo))
    value = None
    for _, metrics, _ in solo.reports(lambda: False):
        diagnosis.add(metrics)
        value = metrics["val_loss"]
    return SweepTrial(number, params, value, summary=diagnosis.summary())


def _drawn(name: str, span: Range, trials: int = 24) -> list[dict[str, float]]:
    """Return values drawn from a range, as a random search draws them."""
    generator = np.random.default_rng(7)
    low, high = (np.log(span.low), np.log(span.high)) if span.log else (span.low, span.high)
    draws = generator.uniform(low, high, trials)
    return [{name: float(np.exp(draw) if span.log else draw)} for draw in draws]


def _rates(name: str, source: Source, low: float, high: float, make: Callable[[float], Recipe], *ends: str) -> Sweep:
    span = Range(low, high, log=True)
    narrow = frozenset(("lr", end) for end in ends)
    return Sweep(name, source, _drawn("lr", span), lambda params: make(params["lr"]), {"lr": span}, narrow=narrow)


def _widths(name: str, source: Source, widths: Iterable[int], make: Callable[[int], Recipe], *small: int) -> Sweep:
    params = [{"width": float(width)} for width in widths]
    underfitting = frozenset(number for number, one in enumerate(params) if one["width"] in small)
    return Sweep(name, source, params, lambda one: make(int(one["width"])), {}, underfitting=underfitting)


_CANCER = table("breast_cancer", split_seed=51)
_DIGITS = images("digits", limit=450, split_seed=52)
_RARE = table("rare", seed=53)
_DIABETES = table("diabetes", split_seed=54)
_CIRCLES = table("circles", seed=55)


def _tanh(width: int, epochs: int, batch_size: int = 32) -> Recipe:
    return run(MLP(hidden=[width], activation="tanh"), Adam(lr=0.01), epochs, batch_size=batch_size)


def _relu(optim: Optim, epochs: int) -> Recipe:
    return run(MLP(hidden=[20]), optim, epochs, batch_size=32)


SWEEPS = [
    _rates("cancer, sgd, rates that end too low", _CANCER, 1e-5, 2e-3, lambda lr: _relu(Optim(lr=lr), 6), "upper"),
    _rates("diabetes, adam, rates that end too low", _DIABETES, 1e-6, 2e-4, lambda lr: _relu(Adam(lr=lr), 6), "upper"),
    _rates("rare, adam, rates that end too low", _RARE, 3e-6, 1e-4, lambda lr: _relu(Adam(lr=lr), 5), "upper"),
    _rates("digits, sgd, rates that begin too high", _DIGITS, 0.5, 50.0, lambda lr: _relu(Optim(lr=lr), 5), "lower"),
    _rates("cancer, adam, rates in range", _CANCER, 1e-5, 1.0, lambda lr: _relu(Adam(lr=lr), 6)),
    _rates("diabetes, sgd, rates in range", _DIABETES, 1e-4, 3.0, lambda lr: _relu(Optim(lr=lr), 8)),
    _rates("rare, momentum, rates in range", _RARE, 1e-4, 10.0, lambda lr: _relu(Momentum(lr=lr), 5)),
    _widths("digits, one with two units", _DIGITS, [24, 32, 48, 2], lambda width: _tanh(width, 60), 2),
    _widths("circles, one with two units", _CIRCLES, [24, 32, 48, 2], lambda width: _tanh(width, 60), 2),
    _widths("digits, all large enough", _DIGITS, [24, 32, 48, 64], lambda width: _tanh(width, 30)),
    _widths("cancer, all large enough", _CANCER, [16, 24, 32, 48], lambda width: _tanh(width, 10)),
]
