"""What can be seen of a dataset without training: errors, warnings, and nothing where there is nothing to say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from swathe.training.data import Dataset, load
from swathe.training.data_checks import check_data
from swathe.training.recipe import Data
from swathe.training.verdict import Outcome


def dataset(rows: int = 120, classes: int = 3, features: int = 6, seed: int = 0) -> Dataset:
    """Return a dataset in which nothing is wrong: independent normal features, classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=generator)
    y = torch.arange(rows) % classes if classes else torch.randn(rows, generator=generator)
    ends = (rows // 2, 3 * rows // 4)
    (train_x, val_x, test_x), (train_y, val_y, test_y) = x.tensor_split(ends), y.tensor_split(ends)
    return Dataset("made", "digest", train_x, train_y, val_x, val_y, test_x, test_y, classes, None)


def found(data: Dataset, outcome: Outcome) -> list[str]:
    return [check.text for check in check_data(data) if check.outcome is outcome]


def changed(x: Tensor, index: object, value: float) -> Tensor:
    x = x.clone()
    x[index] = value  # type: ignore[index]
    return x


@pytest.mark.parametrize("classes", [0, 3])
def test_nothing_is_said_of_good_data(classes: int) -> None:
    (only,) = check_data(dataset(classes=classes))
    assert only.outcome is Outcome.OK
    assert "60 training, 30 validation, 30 test examples" in only.text


GOOD = dataset()
REGRESSION = dataset(classes=0)
ERRORS = {
    "a label too large": (replace(GOOD, train_y=changed(GOOD.train_y, 4, 3)), "1 training labels are out of range (3)"),
    "a label below 0": (replace(GOOD, val_y=changed(GOOD.val_y, 0, -1)), "1 validation labels are out of range (-1)"),
    "NaN": (replace(GOOD, train_x=changed(GOOD.train_x, (7, 2), float("nan"))), "1 of 60 training examples"),
    "infinite": (replace(GOOD, test_x=changed(GOOD.test_x, slice(0, 2), float("inf"))), "2 of 30 test examples"),
    "an infinite target": (
        replace(REGRESSION, train_y=changed(REGRESSION.train_y, 0, float("inf"))),
        "have targets that are NaN or infinite",
    ),
    "one class": (replace(GOOD, train_y=torch.ones_like(GOOD.train_y)), "All 60 training targets are 1"),
    "one value": (replace(REGRESSION, train_y=torch.ones(60)), "All 60 training targets are 1"),
    "nothing varies": (replace(GOOD, train_x=torch.ones_like(GOOD.train_x)), "All 6 features are constant"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_no_training_could_mend_is_an_error(name: str) -> None:
    data, text = ERRORS[name]
    errors = found(data, Outcome.ERROR)
    assert len(errors) == 1
    assert text in errors[0]


def test_a_sum_that_overflows_is_not_taken_for_infinite() -> None:
    assert not found(replace(GOOD, train_x=GOOD.train_x * 3e37), Outcome.ERROR)


WARNINGS = {
    "a class without examples": (
        replace(GOOD, train_y=GOOD.train_y.clamp(max=1)),
        "1 of 3 classes has no example in training (2)",
    ),
    "out of balance": (
        replace(GOOD, train_y=torch.tensor([0] * 55 + [1] * 3 + [2] * 2)),
        "2 to 55 training examples; naming the commonest is right for 91.7 %",
    ),
    "a constant column": (
        replace(GOOD, train_x=changed(GOOD.train_x, (slice(None), 4), 0.5)),
        "1 of 6 feature is constant in training, counted from 0: 4.",
    ),
    "rows of training in validation": (
        replace(GOOD, val_x=torch.cat([GOOD.train_x[:3], GOOD.val_x[3:]])),
        "3 of 30 validation examples (10 %) are in training as well",
    ),
    "rows of training in the test part": (
        replace(GOOD, test_x=torch.cat([GOOD.train_x[:3], GOOD.test_x[3:]])),
        "3 of 30 test examples (10 %) are in training as well",
    ),
    "two labels for one example": (
        replace(GOOD, train_x=torch.cat([GOOD.train_x[1:2], GOOD.train_x[1:]])),
        "2 of 60 training examples (3.3 %) have the features of an example with another label",
    ),
    "features too large": (replace(GOOD, train_x=GOOD.train_x * 500), "Features are not normalised: up to"),
    "features too small": (replace(GOOD, train_x=GOOD.train_x / 500), "Features are not normalised: only 0.002 large"),
    "targets too large": (replace(REGRESSION, train_y=REGRESSION.train_y + 150), "Targets are not normalised: 150"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_training_may_mend_is_a_warning(name: str) -> None:
    data, text = WARNINGS[name]
    assert not found(data, Outcome.ERROR)
    warnings = found(data, Outcome.WARNING)
    assert len(warnings) == 1
    assert text in warnings[0]


def test_the_sign_of_zero_makes_no_other_example() -> None:
    zeros = torch.zeros(1, 6)
    data = replace(GOOD, train_x=torch.cat([zeros, GOOD.train_x[1:]]), val_x=torch.cat([-zeros, GOOD.val_x[1:]]))
    (warning,) = found(data, Outcome.WARNING)
    assert warning.startswith("1 of 30 validation examples")


def test_dark_edges_of_images_are_no_news(tmp_path: Path) -> None:
    digits = load(Data(), tmp_path)
    assert (digits.train_x == digits.train_x[0]).all(dim=0).any()
    assert not found(digits, Outcome.WARNING)
    assert "constant" in found(replace(digits, image_shape=None), Outcome.WARNING)[0]


def test_tokens_are_compared_and_not_scaled() -> None:
    tokens = torch.arange(600).view(60, 10) % 50
    data = replace(GOOD, train_x=tokens + torch.arange(60)[:, None], val_x=tokens[:30] + 1000)
    assert not found(data, Outcome.WARNING)
    assert found(replace(data, val_x=data.train_x[:30]), Outcome.WARNING)[0].startswith("30 of 30 validation examples")


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_scikit_learn_s_tables_are_good(name: str, tmp_path: Path) -> None:
    assert not found(load(Data(name), tmp_path), Outcome.ERROR)
    assert not found(load(Data(name), tmp_path), Outcome.WARNING)
    raw = found(load(Data(name, standardize=False), tmp_path), Outcome.WARNING)
    assert all(text.startswith("Features are not normalised") for text in raw)
