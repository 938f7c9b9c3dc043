"""The faults that are planted, and for each the symptoms one of which is a right answer."""

from __future__ import annotations

from typing import Any

from swathe.training.diagnose import Symptom
from swathe.training.recipe import Model, Optim, Recipe
from tests.diagnosis.cases import Case, Plant, Source

TOO_HIGH = "learning rate too high"
TOO_LOW = "learning rate too low"
VANISHES = "gradient vanishes"
WEIGHTS_X10 = "initial weights x 10"
EXPLODES = "explodes with depth"
SHUFFLED = "labels shuffled"
SHIFTED = "labels off by one row"
VALIDATION_SHUFFLED = "validation labels shuffled"
VALIDATION_RELABELLED = "validation labels renumbered"
VALIDATION_RESCALED = "validation prepared otherwise"
ALIKE = "inputs all alike"
DEAD = "dead units"
OVERFITS = "overfits"
INPUTS = "inputs not normalised"
TARGETS = "targets not normalised"
FROZEN = "layers frozen"
WRONG_SIGN = "gradient of the wrong sign"
WEIGHTS_0 = "weights all 0"
NOT_A_NUMBER = "a weight is not a number"

_BROKEN = Symptom.BROKEN_SETUP
RIGHT: dict[str, frozenset[Symptom]] = {
    # A rate that is too high kills ReLUs, and lowering it is the first advice for dead ones.
    TOO_HIGH: frozenset({Symptom.DIVERGED, Symptom.LR_TOO_HIGH, Symptom.DEAD_RELU}),
    TOO_LOW: frozenset({Symptom.LR_TOO_LOW}),
    VANISHES: frozenset({Symptom.VANISHING}),
    # What begins out of scale may blow up at once.
    WEIGHTS_X10: frozenset({_BROKEN, Symptom.DIVERGED}),
    EXPLODES: frozenset({_BROKEN, Symptom.DIVERGED}),
    SHUFFLED: frozenset({_BROKEN}),
    SHIFTED: frozenset({_BROKEN}),
    VALIDATION_SHUFFLED: frozenset({_BROKEN}),
    VALIDATION_RELABELLED: frozenset({_BROKEN}),
    VALIDATION_RESCALED: frozenset({_BROKEN}),
    ALIKE: frozenset({_BROKEN}),
    DEAD: frozenset({Symptom.DEAD_RELU}),
    OVERFITS: frozenset({Symptom.OVERFITTING}),
    INPUTS: frozenset({_BROKEN, Symptom.DIVERGED}),
    TARGETS: frozenset({_BROKEN, Symptom.DIVERGED}),
    # With nothing trained, updates are 0.
    FROZEN: frozenset({_BROKEN, Symptom.LR_TOO_LOW}),
    # To climb is to diverge, and looks like a rate that is too high until then.
    WRONG_SIGN: frozenset({_BROKEN, Symptom.DIVERGED, Symptom.LR_TOO_HIGH}),
    # Units that are all 0 pass nothing on.
    WEIGHTS_0: frozenset({_BROKEN, Symptom.VANISHING, Symptom.DEAD_RELU}),
    NOT_A_NUMBER: frozenset({Symptom.DIVERGED}),
}


def fault(kind: str, name: str, recipe: Recipe, source: Source, *plants: Plant) -> Case:
    """Return a run with a fault."""
    return Case(kind, name, recipe, source, RIGHT[kind], plants)


def healthy(name: str, recipe: Recipe, source: Source) -> Case:
    """Return a run without a fault."""
    return Case("", name, recipe, source)


def run(model: Model, optim: Optim, epochs: int = 12, **others: Any) -> Recipe:
    """Return a recipe whose data the case's source gives."""
    return Recipe(model=model, optim=optim, epochs=epochs, **others)
