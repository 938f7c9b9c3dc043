"""Who starts next: the order, the shares, and that nobody waits for ever."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swathe.service.queue import HALF_LIFE, Decision, Devices, Needs, Start, Waiting, had, in_line, next_starts

OWNERS = ("ada", "bob", "eve")
CPU = Devices(1.0)


def job(name: str, owner: str = "ada", *, priority: int = 0, created: float = 0.0, workers: int | None = 1) -> Waiting:
    return Waiting(name, owner, priority, created, Needs(workers, CPU))


def starts(*pairs: tuple[str, int]) -> tuple[Start, ...]:
    return tuple(Start(name, workers) for name, workers in pairs)


def test_the_only_one_who_waits_gets_the_whole_machine() -> None:
    assert next_starts([job("a", workers=None)], {}, Devices(4), {}).starts == starts(("a", 4))
    assert next_starts([job("a", workers=3)], {}, Devices(4), {}).starts == starts(("a", 3))


def test_what_is_free_is_split_among_the_users_and_not_among_their_jobs() -> None:
    waiting = [job(f"a{n}", created=n, workers=None) for n in range(3)] + [job("b", "bob", created=9, workers=None)]
    assert next_starts(waiting, {}, Devices(4), {}) == Decision(starts(("a0", 2), ("b", 2)), "a1")
    # An odd one goes to who is first.
    assert next_starts(waiting[2:], {}, Devices(3), {}).starts == starts(("a2", 2), ("b", 1))
    # At least one device, as long as there are any.
    three = [job(owner, owner, workers=None) for owner in OWNERS]
    assert next_starts(three, {}, Devices(2), {}) == Decision(starts(("ada", 1), ("bob", 1)), "eve")


def test_the_order_is_priority_then_use_now_then_use_of_late_then_age() -> None:
    a, b = job("a", "ada", created=1), job("b", "bob", created=2)
    assert in_line([b, a], {}, {}) == ["a", "b"]
    assert in_line([a, b], {}, {"ada": 5.0, "bob": 4.0}) == ["b", "a"]
    assert in_line([a, b], {"bob": 1.0}, {"ada": 5.0}) == ["a", "b"]
    higher = job("c", "bob", created=3, priority=1)
    assert in_line([a, b, higher], {"bob": 9.0}, {}) == ["c", "a", "b"]
    # Who starts something has it, so that users take turns.
    waiting = [job(f"{owner}{n}", owner, created=n) for owner in ("ada", "bob") for n in range(3)]
    assert in_line(waiting, {}, {}) == ["ada0", "bob0", "ada1", "bob1", "ada2", "bob2"]


def test_nothing_is_let_past_the_first_in_line_and_that_keeps_its_place() -> None:
    large, small = job("large", workers=4, created=1), job("small", "bob", created=2)
    waits = next_starts([large, small], {}, Devices(3), {})
    assert waits == Decision((), "large")
    # By now bob has had less; the large one was first all the same.
    shares = {"ada": 100.0}
    assert next_starts([large, small], {}, Devices(3), shares).starts == starts(("small", 1))
    assert next_starts([large, small], {}, Devices(3), shares, waits.reserved) == Decision((), "large")
    assert next_starts([large, small], {}, Devices(4), shares, waits.reserved).starts == starts(("large", 4))
    # A higher priority is what it says.
    urgent = job("urgent", "eve", priority=1)
    assert next_starts([large, small, urgent], {}, Devices(3), shares, waits.reserved).starts == starts(("urgent", 1))


def test_gpus_and_their_cpus_are_both_taken() -> None:
    needs = Needs(None, Devices(2.0, 0.5))
    waiting = [Waiting("a", "ada", 0, 0.0, needs)]
    assert next_starts(waiting, {}, Devices(16, 1), {}).starts == starts(("a", 2))
    assert next_starts(waiting, {}, Devices(3, 1), {}).starts == starts(("a", 1))
    assert next_starts(waiting, {}, Devices(16, 0.25), {}) == Decision((), "a")
    # Ten tenths of a GPU are a whole one, whatever floats say.
    tenths = Needs(None, Devices(1.0, 0.1))
    assert tenths.fitting(Devices(16, 1) - Devices(0, 0.1) - Devices(0, 0.1) - Devices(0, 0.1)) == 7


def test_use_counts_half_after_a_day() -> None:
    assert had([(2.0, 0.0, 10.0)], 10.0) == pytest.approx(20.0, rel=1e-3)
    assert had([(2.0, 0.0, 10.0)], 10.0 + HALF_LIFE) == pytest.approx(10.0, rel=1e-3)
    assert had([], 0.0) == 0.0


amounts = st.builds(Needs, st.none() | st.integers(1, 4), st.builds(Devices, st.sampled_from([0.5, 1.0, 2.0])))
jobs = st.lists(
    st.builds(
        Waiting,
        st.uuids().map(str),
        st.sampled_from(OWNERS),
        st.integers(-2, 2),
        st.floats(0, 100),
        amounts,
    ),
    max_size=12,
    unique_by=lambda one: one.id,
)
uses = st.dictionaries(st.sampled_from(OWNERS), st.floats(0, 1000))


@given(jobs, uses, st.integers(0, 8), uses)
def test_no_device_is_given_twice_and_the_first_in_line_is_never_passed(
    waiting: list[Waiting], held: dict[str, float], free: int, shares: dict[str, float]
) -> None:
    found = next_starts(waiting, held, Devices(free), shares)
    by_id = {one.id: one for one in waiting}
    assert len({start.id for start in found.starts}) == len(found.starts)
    assert sum(by_id[start.id].needs.each.cpus * start.workers for start in found.starts) <= free + 1e-6
    for start in found.starts:
        assert start.workers == (by_id[start.id].needs.workers or start.workers) >= 1
    # All start, or the next one in line is named and does not fit.
    left = free - sum(by_id[start.id].needs.each.cpus * start.workers for start in found.starts)
    if found.reserved is None:
        assert len(found.starts) == len(waiting)
    else:
        needs = by_id[found.reserved].needs
        assert found.reserved not in {start.id for start in found.starts}
        assert needs.fitting(Devices(left)) < (needs.workers or 1)
    best = max((one.priority for one in waiting), default=0)
    if found.starts:
        assert by_id[found.starts[0].id].priority == best


@given(jobs, uses, uses)
def test_the_line_has_everybody_once_by_priority(
    waiting: list[Waiting], held: dict[str, float], shares: dict[str, float]
) -> None:
    order = in_line(waiting, held, shares)
    priorities = [next(one.priority for one in waiting if one.id == name) for name in order]
    assert sorted(order) == sorted(one.id for one in waiting)
    assert priorities == sorted(priorities, reverse=True)


@given(st.integers(2, 4), st.lists(st.integers(1, 2), min_size=20, max_size=60))
def test_a_large_job_is_not_overtaken_for_ever(size: int, others: list[int]) -> None:
    """Others of a user who always had less come all the time and run for some rounds each."""
    large = job("large", "ada", workers=size)
    waiting, running = {large.id: large}, dict[str, tuple[int, int]]()
    reserved: str | None = None
    shares = {"ada": 1e9}
    for round_, workers in enumerate(others):
        other = job(f"small{round_}", "bob", created=round_, workers=workers)
        waiting[other.id] = other
        running = {name: (end, count) for name, (end, count) in running.items() if end > round_}
        free = Devices(4.0 - sum(count for _, count in running.values()))
        held = {"bob": float(sum(count for _, count in running.values()))}
        found = next_starts(list(waiting.values()), held, free, shares, reserved)
        reserved = found.reserved
        for start in found.starts:
            if start.id == large.id:
                return
            running[start.id] = (round_ + 1 + math.ceil(start.workers), start.workers)
            del waiting[start.id]
    raise AssertionError("the large job never started")
