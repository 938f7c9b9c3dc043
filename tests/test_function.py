"""What user functions call: `swathe.report` and `swathe.trial`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch

import swathe
from swathe import function
from swathe.errors import SwatheError


class Collected:
    metric = "val_loss"

    def __init__(self, stop_at: int | None = None) -> None:
        self.info = function.TrialInfo(7, 11, {"params": {}})
        self.reports: list[tuple[int, dict[str, float]]] = []
        self._stop_at = stop_at

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        self.reports.append((step, dict(metrics)))
        return step == self._stop_at


@pytest.fixture
def collected() -> Iterator[Collected]:
    session = Collected(stop_at=3)
    function.install(session)
    yield session
    function.install(None)


def test_outside_of_a_sweep_nothing_happens() -> None:
    assert swathe.report(loss=1.0) is False
    assert swathe.trial() is None


def test_steps_count_from_one_and_values_become_floats(collected: Collected) -> None:
    swathe.report(loss=np.float32(0.5))
    swathe.report({"loss": torch.tensor(0.25)}, accuracy=1)
    assert collected.reports == [(1, {"loss": 0.5}), (2, {"loss": 0.25, "accuracy": 1.0})]
    info = swathe.trial()
    assert info is not None
    assert (info.number, info.seed) == (7, 11)


def test_a_number_alone_is_the_sweep_s_metric(collected: Collected) -> None:
    swathe.report(0.5)
    swathe.report(np.float32(0.25), 4)
    swathe.report(torch.tensor(0.125), 5, accuracy=1)
    assert collected.reports == [
        (1, {"val_loss": 0.5}),
        (4, {"val_loss": 0.25}),
        (5, {"val_loss": 0.125, "accuracy": 1.0}),
    ]


def test_who_goes_on_after_the_stop_is_stopped(collected: Collected) -> None:
    assert swathe.report(loss=1.0, step=3) is True
    with pytest.raises(function.TrialStopped):
        swathe.report(loss=1.0)


@pytest.mark.parametrize(
    ("values", "step", "words"),
    [
        ("low", None, "val_loss: 'low' is not allowed; allowed: a real number"),
        ([0.5], None, "val_loss: [0.5] is not allowed"),
        ({"loss": "low"}, None, "loss: 'low' is not allowed; allowed: a real number"),
        ({"loss": torch.zeros(2)}, None, "loss: tensor"),
        ({"loss": 1.0}, 0.5, "step: 0.5 is not allowed; allowed: an integer"),
        ({"loss": 1.0}, True, "step: True is not allowed"),
    ],
)
def test_bad_reports_are_refused_in_words(collected: Collected, values: object, step: int, words: str) -> None:
    with pytest.raises(SwatheError, match=r"swathe\.report") as refused:
        swathe.report(values, step=step)
    assert words in str(refused.value)


def test_steps_must_grow(collected: Collected) -> None:
    swathe.report(loss=1.0, step=2)
    with pytest.raises(SwatheError, match=r"above the last step, 2"):
        swathe.report(loss=1.0, step=2)
