"""Chaos with real parts, ten kills of it; `make chaos N=200` plays more. And that it would see what it looks for."""

from __future__ import annotations

import dataclasses
import math
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos.compare import Outcome, Run, Told, violations
from tests.chaos.plan import KINDS, Plan
from tests.chaos.play import Player, Tally
from tests.chaos.proxy import Proxy
from tests.chaos.servers import surroundings
from tests.chaos.sweep import TRIALS

# Two sweeps, one of each sort, with each kind of fault once, and none so late that the sweep may be over.
SEEDS = (306, 307)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_break_no_promise() -> None:
    tally = Tally()
    with surroundings() as around:
        player = Player(around, print, tally)
        for seed in SEEDS:
            player.play(seed)
    assert tally.violations == []
    wanted = set(KINDS) - ({"disk"} if around.disk.why_not else set())
    assert set(tally.kills) == wanted


def test_two_sweeps_have_each_kind_of_fault_once_and_a_seed_its_own_plan() -> None:
    for first in range(0, 40, 2):
        pair = Plan.drawn(first), Plan.drawn(first + 1)
        assert {plan.sort for plan in pair} == {"lanes", "function"}
        assert sorted(fault.kind for plan in pair for fault in plan.faults) == sorted(KINDS)
        assert Plan.drawn(first) == pair[0]


def undisturbed() -> Outcome:
    trials = {number: Told("COMPLETE", {"x": number / 7}, 0.5, {1: 0.75, 2: 0.5}) for number in range(TRIALS)}
    metrics = {("val_loss", 1): 0.75, ("val_loss", 2): 0.5, ("grad_norm", 1): math.nan}
    runs = tuple((number, Run("FINISHED", False, {}, {"swathe.state": "complete"}, metrics, ())) for number in trials)
    return Outcome(trials, runs, (Run("FINISHED", False, {}, {"swathe.best_trial": "3"}, {}, ()),))


def with_trial(outcome: Outcome, **changes: Any) -> Outcome:
    return dataclasses.replace(outcome, trials={**outcome.trials, 5: dataclasses.replace(outcome.trials[5], **changes)})


def with_run(outcome: Outcome, **changes: Any) -> Outcome:
    runs = tuple((number, dataclasses.replace(run, **changes) if number == 5 else run) for number, run in outcome.runs)
    return dataclasses.replace(outcome, runs=runs)


@dataclasses.dataclass
class Log:
    """Stands for a sweep, of which only the log is read."""

    twice: list[int]

    def ended_twice(self) -> list[int]:
        return self.twice


def broken() -> Iterator[tuple[str, Outcome, list[int]]]:
    """Yield each promise that may be broken, how that looks, and trials that the log says to be over twice."""
    whole = undisturbed()
    metrics = whole.runs[5][1].metrics
    off = math.nextafter(0.5, 1.0)
    yield "a trial is lost", dataclasses.replace(whole, trials={n: t for n, t in whole.trials.items() if n != 5}), []
    yield "a trial goes on for ever", with_trial(whole, state="RUNNING", value=None), []
    yield "a report is lost", with_trial(whole, reports={1: 0.75}), []
    yield "the study has another bit", with_trial(whole, reports={1: 0.75, 2: off}), []
    yield "a trial is told twice", whole, [5]
    yield "a run is lost", dataclasses.replace(whole, runs=whole.runs[:-1]), []
    yield "a run is doubled", dataclasses.replace(whole, runs=(*whole.runs, whole.runs[-1])), []
    yield "a run is left running", with_run(whole, status="RUNNING", without_end=True), []
    yield "a number is missing", with_run(whole, metrics={k: v for k, v in metrics.items() if k != ("val_loss", 1)}), []
    yield "a number has another bit", with_run(whole, metrics={**metrics, ("val_loss", 2): off}), []
    yield "a number is there twice", with_run(whole, repeated=(("val_loss", 2),)), []
    yield (
        "the parent is left running",
        dataclasses.replace(whole, parents=(dataclasses.replace(whole.parents[0], status="RUNNING"),)),
        [],
    )
    yield "there are two parents", dataclasses.replace(whole, parents=whole.parents * 2), []


@pytest.mark.parametrize(("seen", "twice"), [case[1:] for case in broken()], ids=[case[0] for case in broken()])
def test_each_promise_that_is_broken_is_seen(seen: Outcome, twice: list[int]) -> None:
    assert list(violations(Log(twice), undisturbed(), seen))


def test_what_is_as_in_an_undisturbed_sweep_is_no_violation() -> None:
    assert list(violations(Log([]), undisturbed(), undisturbed())) == []


def test_a_proxy_carries_both_ways_and_can_be_cut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = Proxy(server.getsockname()[1])

        def joined() -> tuple[socket.socket, socket.socket]:
            client = socket.create_connection(("127.0.0.1", proxy.port))
            return client, server.accept()[0]

        client, behind = joined()
        client.sendall(b"there")
        assert behind.recv(10) == b"there"
        behind.sendall(b"back")
        assert client.recv(10) == b"back"
        proxy.cut(away=False)
        assert client.recv(10) == behind.recv(10) == b""
        client, behind = joined()
        proxy.cut(away=True)
        assert client.recv(10) == b""
        refused = socket.create_connection(("127.0.0.1", proxy.port))
        assert refused.recv(10) == b""
        proxy.mend()
        client, behind = joined()
        client.sendall(b"again")
        assert behind.recv(10) == b"again"
        proxy.close()
