"""How many lanes: measured, remembered, bounded by memory; compiled as soon as that pays."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from swathe.training import lane_compiler, lane_plan
from swathe.training.data import load
from swathe.training.lane_plan import LanePlan, Planner, lane_bytes
from swathe.training.lanes import LaneBlock, geometry_of
from swathe.training.recipe import Recipe, recipe_from_config

DEADLINE = 240.0


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "data"


def recipe(hidden: int = 5, **config: Any) -> Recipe:
    return recipe_from_config({"data": {"limit": 90}, "batch_size": 32, "model": {"hidden": [hidden]}, **config})


def planner(cache: Path, **options: Any) -> Planner:
    given = {"slots": None, "compile": "never", "memory_fraction": 0.5, **options}
    some = Planner("cpu", cache, **given)
    if given["slots"] is None:
        # Long enough alone to be worth lanes.
        some.trained(recipe(), 4.0)
    return some


def test_the_first_trials_of_a_structure_are_trained_alone(cache: Path) -> None:
    some = Planner("cpu", cache, slots=None, compile="auto", memory_fraction=0.5)
    assert some.plan(recipe()) == LanePlan(1, "solo")
    some.trained(recipe(), 1.0)
    assert some.plan(recipe()) == LanePlan(1, "solo")
    assert some.plan(recipe(hidden=6)) == LanePlan(1, "solo")
    some.trained(recipe(), 3.0)
    assert some.plan(recipe()).program == "eager"


def test_the_number_of_lanes_is_measured_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planner(cache).plan(recipe())
    assert plan.program == "eager"
    assert plan.lanes >= lane_plan.BLOCKS
    assert plan.note == ""
    # What was measured lies on disk, for every later worker.
    monkeypatch.setattr(Planner, "_probe", lambda *_: pytest.fail("measured again"))
    assert planner(cache).plan(recipe(optim={"name": "sgd"})) == plan


def test_what_lies_on_disk_and_is_damaged_is_measured_again(cache: Path) -> None:
    plan = planner(cache).plan(recipe())
    (file,) = (cache.parent / "programs").glob("lanes-*.json")
    file.write_text("{")
    assert planner(cache).plan(recipe()).program == plan.program
    assert '"lanes"' in file.read_text()


def test_lanes_that_do_not_pay_are_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # However many lanes a step trains.
    monkeypatch.setattr(lane_plan, "_seconds_a_step", lambda *steps: [1e9, 1.0])
    plan = planner(cache).plan(recipe())
    assert (plan.lanes, plan.program) == (1, "solo")
    assert "slower" in plan.note


def test_a_resnet_is_trained_alone_unless_lanes_are_asked_for(cache: Path) -> None:
    deep = recipe_from_config({"data": {"limit": 90}, "model": {"name": "resnet_cifar", "depth": 8, "width": 2}})
    some = planner(cache)
    some.trained(deep, 4.0)
    plan = some.plan(deep)
    assert (plan.lanes, plan.program) == (1, "solo")
    assert "lanes.slots" in plan.note
    assert planner(cache, slots=3).plan(deep).lanes == 3


def test_one_slot_trains_everything_alone(cache: Path) -> None:
    assert planner(cache, slots=1).plan(recipe()) == LanePlan(1, "solo")


def test_a_fixed_number_of_slots_is_not_measured(cache: Path) -> None:
    plan = planner(cache, slots=6).plan(recipe())
    assert (plan.lanes, plan.program) == (6, "eager")


def test_memory_bounds_the_lanes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if a step took the same time with any number of lanes.
    monkeypatch.setattr(lane_plan, "_seconds_a_step", lambda *steps: [1.0, 1.0])
    one = lane_bytes(geometry_of(recipe(), load(recipe().data, cache), "cpu"))
    monkeypatch.setattr(lane_plan, "_free_bytes", lambda device: 10 * one)
    assert planner(cache).plan(recipe()).lanes == 4
    monkeypatch.setattr(lane_plan, "_free_bytes", lambda device: 3 * one)
    alone = planner(cache).plan(recipe())
    assert (alone.lanes, alone.program) == (1, "solo")
    assert "lanes.memory_fraction" in alone.note


def test_out_of_memory_halves(cache: Path) -> None:
    some = planner(cache, slots=16)
    assert some.out_of_memory(recipe(), 16).lanes == 8
    assert some.out_of_memory(recipe(), 8).lanes == 4
    assert some.plan(recipe()).lanes == 4
    assert some.plan(recipe(hidden=6)).lanes == 16


def test_without_a_compiler_lanes_are_eager_and_say_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_compiler, "no_compiler", lambda: "no C++ compiler")
    plan = planner(cache, slots=4, compile="always").plan(recipe())
    assert (plan.program, plan.note) == ("eager", "no C++ compiler")


@pytest.mark.slow
def test_lanes_that_train_for_long_are_compiled_beside(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = planner(cache, slots=4, compile="auto")
    assert some.plan(recipe()).program == "eager"
    some.trained(recipe(), 1.0)
    assert some.plan(recipe()).program == "eager"
    some.trained(recipe(), 100.0)
    deadline = time.monotonic() + DEADLINE
    while some.plan(recipe()).program == "eager":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # In another process the program is there from the beginning, in one of its own it loads.
    assert planner(cache, slots=4, compile="auto").plan(recipe()).program == "compiled"
    block = LaneBlock(recipe(), 2, "cpu", cache, compiled=True)
    assert block.compiled
    assert not block.note


@pytest.mark.slow
def test_a_compiler_that_fails_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    plan = planner(cache, slots=4, compile="always").plan(recipe())
    assert plan.program == "eager"
    assert "could not be compiled" in plan.note
    assert "\n" not in plan.note
