"""The real controller and study among simulated workers and faults: no promise is broken, and one that is is seen."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS, mutant
from tests.simulation.runner import play, play_one
from tests.simulation.shape import Shape

# Every mutation must be found within so many sweeps.
SEEDS = 1000


@pytest.mark.parametrize("first", range(0, 100, 50))
def test_sweeps_keep_their_promises(first: int) -> None:
    assert play((first, first + 50)).violations == []


def test_populations_are_never_split() -> None:
    assert play((0, 20), drawn=Shape.with_populations).violations == []


@pytest.mark.slow
def test_many_sweeps_of_populations_keep_their_promises() -> None:
    assert play((20, 200), drawn=Shape.with_populations).violations == []


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 1000, 100))
def test_many_sweeps_keep_their_promises(first: int) -> None:
    assert play((first, first + 100)).violations == []


def test_a_seed_plays_the_same_sweep_again() -> None:
    # One with several sessions, lost workers and a journal.
    (one, first), (other, second) = (play_one(Shape.drawn(112), mutant_free(), compared=False) for _ in range(2))
    assert one == other
    assert (first.log, first.events, first.clock.now) == (second.log, second.events, second.clock.now)
    assert first.sessions > 1


def mutant_free() -> type:
    from swathe.controller import Controller

    return Controller


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_bug_is_found(name: str) -> None:
    outcome = play((0, SEEDS), mutant(name), until_broken=True)
    assert outcome.violations, f"{outcome.sweeps} sweeps, and nothing was seen"
