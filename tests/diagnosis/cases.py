"""A run with a planted fault, or without: what it trains on, how the fault is planted, and what may be found.

Faults that a recipe cannot express are planted in the table that the run reads, or in the network before it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn import datasets
from torch import nn

from swathe.training.diagnose import Diagnosis, Facts, Symptom, Thresholds, diagnose_one_batch
from swathe.training.diagnose_facts import dataset_facts
from swathe.training.recipe import CSV, Adam, Data, Recipe, Regularization, Schedule
from swathe.training.solo import Solo

Table = tuple[NDArray[np.float64], NDArray[Any]]
# Makes the data of a run, in a folder for what it writes.
Source = Callable[[Path], Data]
Plant = Callable[[Solo], None]

REGRESSIONS = ("diabetes", "friedman", "plane", "steps")


@dataclass(frozen=True, slots=True)
class Case:
    """A run; `right` are the symptoms one of which must be found, none for a run in good health."""

    fault: str
    name: str
    recipe: Recipe
    source: Source
    right: frozenset[Symptom] = frozenset()
    plants: tuple[Plant, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the reports of a run say, by the report at which each symptom showed first, and what one batch said."""

    case: Case
    reported: Mapping[Symptom, int]
    refused: bool
    history: list[dict[str, float]] = field(repr=False)

    @property
    def found(self) -> set[Symptom]:
        """All that was found."""
        return {*self.reported, *([Symptom.BROKEN_SETUP] if self.refused else [])}

    @property
    def as_it_should(self) -> bool:
        """Say whether a fault has been found, or nothing where there is none."""
        return is_right(self.case, self.found)


def is_right(case: Case, found: Iterable[Symptom]) -> bool:
    """Say whether these findings are what a case should have."""
    return not case.right.isdisjoint(found) if case.right else not set(found)


def train(case: Case, folder: Path) -> Outcome:
    """Learn one batch of a case by heart, then train it to its end, whatever is found, and diagnose its reports."""
    recipe = replace(case.recipe, data=case.source(folder))
    solo = _planted(case, recipe, folder)
    facts = facts_of(solo)
    diagnosis = Diagnosis(facts)
    found: dict[Symptom, int] = {}
    history = []
    for epoch, metrics, _ in solo.reports(lambda: False):
        history.append(metrics)
        found |= {finding.symptom: epoch for finding in diagnosis.add(metrics)}
    refused = diagnose_one_batch(_one_batch(case, recipe, folder), facts)
    return Outcome(case, found, refused is not None, history)


def _planted(case: Case, recipe: Recipe, folder: Path) -> Solo:
    solo = Solo(recipe, "cpu", folder / "cache")
    for plant in case.plants:
        plant(solo)
    return solo


def _one_batch(case: Case, recipe: Recipe, folder: Path) -> list[float]:
    """Return the loss before each step of learning one batch by heart, of at most 64 examples, without penalties."""
    thresholds = Thresholds()
    rows = min(64, int(recipe.batch_size) if recipe.batch_size != "full" else 64, recipe.data.limit or 64)
    alone = replace(
        recipe,
        data=replace(recipe.data, limit=rows),
        optim=Adam(lr=thresholds.broken_lr),
        schedule=Schedule(),
        regularization=Regularization(),
        batch_size="full",
    )
    return list(_planted(case, alone, folder).train_steps([thresholds.broken_lr] * thresholds.broken_steps))


def facts_of(solo: Solo) -> Facts:
    """Return what is known of a run before it begins."""
    smoothing = solo.recipe.regularization.label_smoothing
    return dataset_facts(solo.dataset, label_smoothing=smoothing, steps_per_report=solo.steps)


# Data.


def read(name: str, seed: int = 0) -> Table:
    """Return a dataset that scikit-learn has or makes."""
    match name:
        case "friedman":
            x, y = datasets.make_friedman1(800, random_state=seed)
        case "plane":
            x, y = datasets.make_regression(600, 12, n_informative=8, noise=20.0, random_state=seed)
        case "blobs":
            x, y = datasets.make_classification(
                1200, 20, n_informative=8, n_classes=4, class_sep=1.5, random_state=seed
            )
        case "rare":
            # One example in five is of the second class.
            x, y = datasets.make_classification(700, 15, n_informative=6, weights=[0.8], random_state=seed)
        case "circles":
            x, y = datasets.make_circles(600, noise=0.1, factor=0.5, random_state=seed)
        case "steps":
            x, y = datasets.make_friedman2(500, noise=50.0, random_state=seed)
        case "moons":
            x, y = datasets.make_moons(800, noise=0.2, random_state=seed)
        case _:
            x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    if name in REGRESSIONS:
        y = (y - y.mean()) / y.std()
    return x, y


def table(name: str, *changes: Callable[[Table, NDArray[np.intp]], Table], seed: int = 0, **options: Any) -> Source:
    """Return the source of a scikit-learn dataset as a CSV file, with changes made to it.

    A change is given the table and which of its rows will be those of validation.
    """

    def write(folder: Path) -> Data:
        data = CSV(target="target", **options)
        x, y = read(name, seed)
        validation = _validation_rows(data, len(x))
        for change in changes:
            x, y = change((x, y), validation)
        frame = pd.DataFrame(x, columns=[f"x{column}" for column in range(x.shape[1])])
        path = folder / f"{name}-{abs(hash(x.tobytes() + y.tobytes())):x}.csv"
        frame.assign(target=y).to_csv(path, index=False)
        task = "regression" if name in REGRESSIONS else "classification"
        return replace(data, path=str(path), task=task)

    return write


def _validation_rows(data: Data, rows: int) -> NDArray[np.intp]:
    """Return the rows that `swathe.training.data` sets apart for validation."""
    order = np.random.Generator(np.random.PCG64(data.split_seed)).permutation(rows)
    tests = round(rows * data.test_fraction)
    return order[tests : tests + round(rows * data.val_fraction)]


def images(name: str, **options: Any) -> Source:
    """Return the source of images."""
    return lambda folder: Data(name, **options)


def shuffled(given: Table, validation: NDArray[np.intp]) -> Table:
    """Give every row the target of another one."""
    x, y = given
    return x, np.random.default_rng(1).permutation(y)


def shifted(given: Table, validation: NDArray[np.intp]) -> Table:
    """Give every row the target of a neighbour, as a reader that is off by one does; the rows are in no order."""
    x, y = given
    order = np.random.default_rng(2).permutation(len(x))
    return x[order], np.roll(y[order], 1)


def validation_shuffled(given: Table, validation: NDArray[np.intp]) -> Table:
    """Give the rows of validation alone each other's targets."""
    x, y = given
    y = y.copy()
    y[validation] = y[np.random.default_rng(3).permutation(validation)]
    return x, y


def validation_rescaled(factor: float, given: Table, validation: NDArray[np.intp]) -> Table:
    """Prepare the rows of validation in another way: by another scale, and from the other end."""
    x, y = given
    x = x.copy()
    x[validation] = x.mean(axis=0) - factor * (x[validation] - x.mean(axis=0))
    return x, y


def validation_relabelled(given: Table, validation: NDArray[np.intp]) -> Table:
    """Number the classes of the rows of validation from another one on."""
    x, y = given
    y = y.copy()
    y[validation] = (y[validation] + 1) % (y.max() + 1)
    return x, y


def rescaled(factor: float, given: Table, validation: NDArray[np.intp]) -> Table:
    """Give the features another unit, with a mean that is not 0."""
    x, y = given
    return factor * (1 + (x - x.mean(axis=0)) / x.std(axis=0)), y


def multiplied(factor: float, given: Table, validation: NDArray[np.intp]) -> Table:
    """Give the features another unit, in which 0 is still 0."""
    x, y = given
    return factor * x / np.abs(x).max(), y


def retargeted(shift: float, factor: float, given: Table, validation: NDArray[np.intp]) -> Table:
    """Give a regression's targets another unit."""
    x, y = given
    return x, shift + factor * y


def constant(given: Table, validation: NDArray[np.intp]) -> Table:
    """Make all inputs alike, as a reader that gives the same row again and again."""
    x, y = given
    return np.repeat(x[:1], len(x), axis=0), y


# Networks.


def layers(solo: Solo) -> list[nn.Module]:
    """Return the layers with a weight matrix, from the first to the last."""
    return [layer for layer in solo.network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


def scale_weights(factor: float, solo: Solo) -> None:
    """Start from weights that are too large."""
    with torch.no_grad():
        for layer in layers(solo):
            layer.weight *= factor


def set_biases(value: float, solo: Solo) -> None:
    """Start from biases that no input overcomes, in all layers but the last."""
    with torch.no_grad():
        for layer in layers(solo)[:-1]:
            layer.bias.fill_(value)


def freeze(which: slice, solo: Solo) -> None:
    """Train nothing of some of the layers, as with parameters that were forgotten or outputs that were detached."""
    for layer in layers(solo)[which]:
        for parameter in layer.parameters():
            parameter.register_hook(torch.zeros_like)


def flip_gradients(solo: Solo) -> None:
    """Climb instead of descending, as with a sign that is wrong."""
    for parameter in solo.network.parameters():
        parameter.register_hook(torch.neg)


def spoil(solo: Solo) -> None:
    """Start with a weight that is not a number."""
    with torch.no_grad():
        layers(solo)[0].weight.view(-1)[0] = torch.nan


def zero_weights(solo: Solo) -> None:
    """Start with all weights 0, so that the hidden units are all alike."""
    scale_weights(0.0, solo)
