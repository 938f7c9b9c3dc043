"""What guessing costs on a dataset."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from swathe.training.data import Dataset, load
from swathe.training.diagnose_facts import dataset_facts
from swathe.training.recipe import Data


def made(train: list[float], val: list[float], classes: int) -> Dataset:
    kind = torch.int64 if classes else torch.float32
    x, nothing = torch.zeros(1, 1), torch.zeros(0, dtype=kind)
    train_y, val_y = torch.tensor(train, dtype=kind), torch.tensor(val, dtype=kind)
    return Dataset("made", "", x, train_y, x, val_y, x, nothing, classes, None)


def test_classes_of_different_sizes_are_guessed_by_their_shares() -> None:
    facts = dataset_facts(made([0, 0, 0, 1], [0, 1, 1, 1, 1], 2), steps_per_report=7, label_smoothing=0.1)
    assert facts.baseline_loss == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert facts.val_guess_loss == pytest.approx(-0.2 * math.log(0.2) - 0.8 * math.log(0.8))
    assert facts.guess_accuracy == 0.8
    assert (facts.classes, facts.steps_per_report, facts.label_smoothing) == (2, 7, 0.1)


def test_a_regression_is_guessed_by_its_mean() -> None:
    facts = dataset_facts(made([1.0, 3.0], [0.0, 1.0, 2.0], 0))
    assert (facts.baseline_loss, facts.guess_accuracy, facts.classes) == (1.0, None, None)
    assert facts.val_guess_loss == pytest.approx(2 / 3)


def test_targets_that_are_all_alike_measure_nothing() -> None:
    assert dataset_facts(made([2.0, 2.0], [2.0], 0)).guess_loss is None
    assert dataset_facts(made([1, 1], [1], 3)).guess_loss == math.log(3)


def test_the_digits_are_all_but_evenly_many(tmp_path: Path) -> None:
    facts = dataset_facts(load(Data(), tmp_path))
    assert facts.baseline_loss == pytest.approx(math.log(10), rel=1e-3)
