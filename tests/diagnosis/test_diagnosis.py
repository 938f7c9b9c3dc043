"""Planted faults are found, and nothing is said of runs in good health: all of them trained."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.diagnosis import measured, tuning, tuning_second
from tests.diagnosis.measure import Measurement, measure, page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measurement(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measurement]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield measure(tmp_path_factory.mktemp("diagnosis"))
    torch.set_num_threads(threads)


def test_at_least_95_percent_of_the_planted_faults_have_a_right_tag(measurement: Measurement) -> None:
    missed = [f"{one.case.fault}: {one.case.name}" for one in measurement.faults if not one.as_it_should]
    assert len(measurement.faults) >= 40
    assert measurement.tagged >= 0.95 * len(measurement.faults), missed


def test_at_most_5_percent_of_the_runs_in_good_health_have_a_tag(measurement: Measurement) -> None:
    false = [f"{one.case.name}: {one.found}" for one in measurement.healthy if not one.as_it_should]
    assert len(measurement.healthy) >= 40
    assert measurement.false <= 0.05 * len(measurement.healthy), false


def test_what_only_a_sweep_shows_is_said_of_the_right_trials_and_ends(measurement: Measurement) -> None:
    wrong = [f"{sweep.name}: {found}" for sweep, found in measurement.sweeps if not sweep.is_right(found)]
    assert len(wrong) <= 0.1 * len(measurement.sweeps), wrong


def test_the_page_names_every_run(measurement: Measurement) -> None:
    text = page(measurement)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(any(f"| {case.name} |" in row for row in rows) for case in measured.FAULTS + measured.HEALTHY)


def test_no_run_is_measured_that_thresholds_were_chosen_by() -> None:
    chosen = [case.recipe for part in (tuning, tuning_second) for case in part.FAULTS + part.HEALTHY]
    assert all(case.recipe not in chosen for case in measured.FAULTS + measured.HEALTHY)


def test_no_two_runs_have_one_name() -> None:
    for cases in (measured.FAULTS, measured.HEALTHY):
        names = [(case.fault, case.name) for case in cases]
        assert len(set(names)) == len(names)
