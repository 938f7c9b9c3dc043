"""What is tried before a sweep: faults are found, and networks in good health are not refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swathe.preflight_task import probe
from swathe.training.preflight import examine
from swathe.training.recipe import Recipe, recipe_from_config
from swathe.training.symptoms import DEFAULTS, Thresholds
from swathe.training.verdict import Check, Outcome, Verdict

HOPELESS = {"name": "deep_mlp", "activation": "sigmoid", "depth": 12, "width": 16}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def probes(*configs: dict[str, Any], thresholds: Thresholds = DEFAULTS) -> list[Recipe]:
    return [probe(recipe_from_config({"data": {"limit": 320}, **one}), thresholds) for one in configs]


def tried(tried: Sequence[Recipe], cache: Path, **options: Any) -> Verdict:
    given = {"thresholds": DEFAULTS, "seconds": 60.0, **options}
    return examine(tried, f"{len(tried)} structures", "cpu", cache, **given)


def of(verdict: Verdict, subject: str) -> list[Check]:
    return [check for check in verdict.checks if check.subject == subject]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model": {"hidden": [2]}},
        {"model": {"activation": "sigmoid", "norm": "batch"}, "regularization": {"dropout": 0.5}},
        {"model": {"name": "cnn", "channels": [4], "hidden": []}, "batch_size": 1},
        {"data": {"name": "diabetes"}},
        {"data": {"name": "iris"}, "batch_size": "full", "regularization": {"label_smoothing": 0.3}},
        {"optim": {"name": "sgd", "lr": 1e30}, "epochs": 500, "seed": 9},
    ],
    ids=["mlp", "narrow", "sigmoid", "cnn", "regression", "full batch", "rate"],
)
def test_what_can_learn_is_not_refused(config: dict[str, Any], cache: Path) -> None:
    verdict = tried(probes(config), cache)
    assert not verdict.errors
    assert {check.subject for check in verdict.checks} == {"data", "steps", "one batch"}
    assert of(verdict, "steps")[0].text == "1 of 1 structures trained a step."


def test_a_network_that_cannot_learn_one_batch_is_refused(cache: Path) -> None:
    (error,) = tried(probes({"model": HOPELESS}), cache).errors
    assert error.subject == "one batch"
    assert "still 2.2" in error.text
    assert "where 0.01 can be expected" in error.text
    assert "The network: deep_mlp activation=sigmoid depth=12 width=16 batch_size=64." in error.text


def test_a_search_for_what_can_learn_is_a_good_one(cache: Path) -> None:
    verdict = tried(probes({"model": HOPELESS}, {"model": {**HOPELESS, "activation": "relu"}}), cache)
    assert not verdict.errors
    (remark,) = verdict.remarks
    assert remark.text.startswith("Of 2 networks only one can learn one batch by heart.")


def test_a_rate_out_of_scale_is_refused(cache: Path) -> None:
    slow, wild = Thresholds(broken_lr=1e-12), Thresholds(broken_lr=1e38)
    (error,) = tried(probes({}, thresholds=slow), cache, thresholds=slow).errors
    assert "at learning rate 1e-12 and no longer falls" in error.text
    errors = tried(probes({}, thresholds=wild), cache, thresholds=wild).errors
    assert {error.subject for error in errors} == {"steps"}
    assert "in the first steps (mlp batch_size=64)" in errors[1].text


def table(path: Path, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Write a table, and return the config of a recipe on it."""
    columns = ",".join([*(f"x{at}" for at in range(x.shape[1])), "y"])
    np.savetxt(path, np.column_stack([x, y]), delimiter=",", header=columns, comments="", fmt="%.17g")
    return {"data": {"name": "csv", "path": str(path), "target": "y"}}


def test_equal_inputs_with_different_labels_are_refused(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = np.repeat(draw.normal(size=(1, 4)), 200, axis=0)
    x[:4] += 1e-3 * draw.normal(size=(4, 4))
    config = table(tmp_path / "table.csv", x, draw.integers(0, 4, 200))
    verdict = tried(probes({**config, "data": {**config["data"], "standardize": False}}), tmp_path)
    assert "have the features of an example with another label" in " ".join(check.text for check in verdict.remarks)
    assert [error.subject for error in verdict.errors] == ["one batch"]


def test_shuffled_labels_are_learned_by_heart_as_any(tmp_path: Path) -> None:
    # That validation learns nothing, only training tells.
    draw = np.random.default_rng(0)
    config = table(tmp_path / "table.csv", draw.normal(size=(200, 20)), draw.integers(0, 2, 200))
    assert not tried(probes(config), tmp_path).remarks


def test_features_that_are_all_constant_are_refused_before_anything_trains(tmp_path: Path) -> None:
    config = table(tmp_path / "table.csv", np.ones((50, 3)), np.arange(50) % 2)
    verdict = tried(probes(config), tmp_path)
    assert [check.subject for check in verdict.checks] == ["data"]
    assert verdict.errors[0].text.startswith("All 3 features are constant in training")


def test_data_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    config = {"data": {"name": "csv", "path": str(tmp_path / "none.csv"), "target": "y"}}
    (error,) = tried(probes(config), tmp_path).errors
    assert (error.subject, "none.csv" in error.text) == ("data", True)


def test_a_structure_that_cannot_be_trained_is_said_and_refuses_only_where_none_can(cache: Path) -> None:
    # More bytes than there are addresses for.
    huge = {"model": {"hidden": [10**13]}}
    verdict = tried(probes({}, huge), cache)
    assert of(verdict, "steps")[0].text == "1 of 2 structures trained a step."
    assert of(verdict, "steps")[1].outcome is Outcome.WARNING
    assert of(verdict, "steps")[1].text.startswith("1 not: RuntimeError:")
    assert {error.subject for error in tried(probes(huge), cache).errors} == {"steps"}


def test_what_time_does_not_allow_is_said(cache: Path) -> None:
    verdict = tried(probes({}, {"batch_size": 32}), cache, seconds=1e-9)
    assert of(verdict, "steps")[0].text == "1 of 2 structures trained a step."
    assert "as time allowed; 200 are asked for, so this shows nothing" in of(verdict, "one batch")[0].text


def test_lanes_are_counted_when_asked_for(cache: Path) -> None:
    fp16 = {"precision": "fp16"}
    found = of(tried(probes({}, fp16), cache, lanes=True), "steps")
    assert found[0].text == "2 of 2 structures trained a step, 1 can be lanes."
    assert found[1].text.startswith("1 no lane: precision: 'fp16' skips steps")


def test_two_networks_against_each_other_have_no_batch(cache: Path) -> None:
    verdict = tried(probes({"model": {"name": "gan"}}), cache)
    assert not verdict.errors
    assert of(verdict, "one batch")[0].text.startswith("two networks against each other")


def test_a_verdict_is_read_as_it_was_written(cache: Path) -> None:
    verdict = tried(probes({"model": HOPELESS}), cache)
    assert Verdict.from_dict(verdict.as_dict()) == verdict
