"""How full the lanes of a sweep were, from what its workers say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swathe.occupancy import MOMENTS, Occupancy
from swathe.worker import LaneUse


def test_without_lanes_nothing_is_said() -> None:
    assert Occupancy().metrics() == {}
    assert Occupancy().means(10) == {}


def test_the_workers_count_together() -> None:
    occupancy = Occupancy()
    occupancy.take(LaneUse("a", 0.0, 1.0, 4.0, 8.0), 1)
    occupancy.take(LaneUse("b", 0.0, 2.0, 6.0, 8.0), 2)
    assert occupancy.metrics() == {"occupancy": 10 / 16, "lanes_live": 10.0, "lanes": 16.0}
    # In lane-seconds: the second one said it of twice the time.
    assert occupancy.means(2)["occupancy_mean"] == (4 + 12) / (8 + 16)
    occupancy.forget("a")
    assert occupancy.metrics()["occupancy"] == 6 / 8


def test_the_tail_begins_when_all_but_a_tenth_of_the_reports_are_in() -> None:
    occupancy = Occupancy()
    for reports in range(10, 100, 10):
        occupancy.take(LaneUse("a", 0.0, 1.0, 8.0, 8.0), reports)
    for _ in range(9):
        occupancy.take(LaneUse("a", 0.0, 1.0, 0.0, 8.0), 99)
    occupancy.take(LaneUse("a", 0.0, 1.0, 0.0, 8.0), 100)
    means = occupancy.means(100)
    assert means["occupancy_until_tail"] == 1.0
    assert means["occupancy_mean"] == pytest.approx(9 / 19)


def test_a_sweep_shorter_than_its_first_word_has_means() -> None:
    occupancy = Occupancy()
    occupancy.take(LaneUse("a", 0.0, 0.5, 2.0, 4.0), 100)
    assert occupancy.means(100) == {"occupancy_mean": 0.5, "occupancy_until_tail": 0.5}


def test_a_long_sweep_takes_no_more_memory() -> None:
    occupancy = Occupancy()
    for second in range(3 * MOMENTS):
        occupancy.take(LaneUse("a", 0.0, 1.0, float(second < 2.7 * MOMENTS), 1.0), second)
    assert len(occupancy._sums) <= MOMENTS
    means = occupancy.means(3 * MOMENTS)
    assert means["occupancy_mean"] == pytest.approx(0.9, abs=1e-3)
    assert means["occupancy_until_tail"] == pytest.approx(1.0, abs=1e-3)


@given(st.lists(st.tuples(st.floats(0.01, 9), st.integers(0, 8), st.integers(0, 5)), min_size=1, max_size=40))
def test_means_lie_between_none_and_all(said: list[tuple[float, int, int]]) -> None:
    occupancy, reports = Occupancy(), 0
    for seconds, live, more in said:
        reports += more
        occupancy.take(LaneUse("a", 0.0, seconds, float(live), 8.0), reports)
    means = occupancy.means(reports)
    assert all(0.0 <= mean <= 1.0 + 1e-9 for mean in means.values())
