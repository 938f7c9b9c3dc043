"""A population on its worker: copies are bits, and what a member comes to depends on nothing but its population."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swathe.errors import BadInputError
from swathe.events import Decision, Failed, Finished, Report
from swathe.population import COPIES, LINEAGE, Dimension, Member, Options, Population, PopulationJob, with_values
from swathe.training.lanes import LaneBlock
from swathe.training.recipe import recipe_from_config
from swathe.worker import Job
from tests.test_lane_worker import Fixed, Plan, Played, untimed

Make = Callable[..., dict[str, Any]]
SIZE, EPOCHS = 4, 6
DIMENSIONS = {"optim.lr": Dimension(1e-4, 10.0, log=True), "regularization.dropout": Dimension(0.05, 0.6)}
NAMES = tuple(DIMENSIONS)
RATES = (0.5, 1e-3, 0.1, 0.02)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return what makes configs of a small network on a table that it learns in an instant."""
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    rows = [f"{i % 7},{(3 * i) % 11},{(5 * i) % 13},{int(i % 7 + (3 * i) % 11 > 8)}" for i in range(160)]
    path.write_text("\n".join(["a,b,c,target", *rows]) + "\n")

    def make(seed: int = 0, *, lr: float = 0.05, epochs: int = 4, hidden: int = 8, **more: Any) -> dict[str, Any]:
        return {
            "model": {"name": "mlp", "hidden": [hidden]},
            "data": {"name": "csv", "path": str(path), "target": "target"},
            "optim": {"name": "sgd", "lr": lr},
            "batch_size": 32,
            "epochs": epochs,
            "seed": seed,
            **more,
        }

    return make


def job_of(make: Make, head: int = 0, rates: Iterable[float] = RATES, **more: Any) -> PopulationJob:
    plan = Population(head, 7, "val_loss", True, Options(size=SIZE, perturbation_interval=2), DIMENSIONS)
    optim = more.pop("optim", {"name": "momentum"})
    regularization = more.pop("regularization", {"dropout": 0.2})
    members = (
        Member(
            number,
            make(number, epochs=EPOCHS, optim={**optim, "lr": rate}, regularization=regularization, **more),
            NAMES,
        )
        for number, rate in zip(plan.numbers, rates, strict=True)
    )
    return PopulationJob(plan, tuple(members))


def play(home: Path, job: PopulationJob, numbers: Iterable[int] | None = None, **more: Any) -> Played:
    """Train the members with these numbers, or all."""
    played = Played(home, Fixed(Plan(SIZE)), **more)
    wanted = set(job.plan.numbers if numbers is None else numbers)
    played.run(*(Job(one.number, one.config, population=job) for one in job.members if one.number in wanted))
    return played


def history(played: Played, number: int) -> list[tuple[int, dict[str, float]]]:
    return [(report.step, untimed(report.metrics)) for report in played.reports(number)]


@pytest.fixture(scope="module")
def whole(home: Path, config: Make) -> tuple[PopulationJob, Played]:
    job = job_of(config)
    return job, play(home, job)


@pytest.mark.parametrize(
    "more",
    [
        {"regularization": {"dropout": 0.3}},
        {"model": {"name": "mlp", "hidden": [8], "norm": "batch"}, "optim": {"name": "adam", "lr": 0.05}},
    ],
    ids=["dropout", "moments and running statistics"],
)
def test_a_copy_has_the_bits_of_its_source(home: Path, config: Make, more: dict[str, Any]) -> None:
    schedule = {"name": "plateau", "factor": 0.5, "patience": 0, "threshold": 0.9}
    recipes = [recipe_from_config(config(seed, epochs=6, schedule=schedule, **more)) for seed in range(3)]
    block = LaneBlock(recipes[0], 3, "cpu", home / "data", compiled=False)
    for tag, recipe in enumerate(recipes):
        block.admit(recipe, tag)
    for _ in range(3):
        block.epoch(lambda tag: False)
    block.exploit(0, 2, recipes[2])
    block.exploit(1, 2, replace(recipes[2], optim=replace(recipes[2].optim, lr=0.01)))
    states = [block.cut(tag) for tag in range(3)]
    for state in states[:2]:
        assert all(one.equal(other) for one, other in zip(state.tensors, states[2].tensors, strict=True))
    # Of the same recipe and seed, all that follows is the same: masks, order, momentum, and where the plateau stands.
    for _ in range(3):
        same, other, source = (untimed(report.metrics) for report in block.epoch(lambda tag: False))
        assert same == source
        assert other["lr"] < source["lr"]
        assert other != source


def test_what_cannot_be_copied_is_refused(home: Path, config: Make) -> None:
    first, second, third = (recipe_from_config(config(seed, epochs=epochs)) for seed, epochs in enumerate((4, 4, 1)))
    block = LaneBlock(first, 4, "cpu", home / "data", compiled=False)
    block.admit(first, 0)
    block.epoch(lambda tag: False)
    block.admit(second, 1)
    block.admit(third, 2)
    with pytest.raises(BadInputError, match="not beside it"):
        block.exploit(0, 1, first)
    block.epoch(lambda tag: False)
    with pytest.raises(BadInputError, match="not beside it"):
        block.exploit(1, 2, first)
    with pytest.raises(BadInputError, match="structural key"):
        block.exploit(0, 1, recipe_from_config(config(hidden=9)))
    with pytest.raises(BadInputError, match="not in the block"):
        block.exploit(0, 9, first)


def test_members_copy_each_other_and_say_so(whole: tuple[PopulationJob, Played]) -> None:
    _, played = whole
    said = {number: json.loads(played.tags(number).get(COPIES, "[]")) for number in range(SIZE)}
    steps = sorted(step["step"] for copies in said.values() for step in copies)
    # One of four, after the second and the fourth epoch, and none after the last.
    assert steps == [2, 4]
    for number in range(SIZE):
        reports = played.reports(number)
        assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
        now = dict(zip(NAMES, (RATES[number], 0.2), strict=True))
        for report in reports:
            assert {name: report.metrics[f"hp/{name}"] for name in NAMES} == now
            assert report.metrics["lr"] == now["optim.lr"]
            copied = [step for step in said[number] if step["step"] == report.step]
            now = copied[0]["params"] if copied else now
    assert {end.trial for end in played.of(Finished)} == set(range(SIZE))
    assert json.loads(played.tags(0)["swathe.geometry"])["lanes"] == str(SIZE)


def test_the_lineage_says_by_which_values_a_members_parameters_came_about(
    whole: tuple[PopulationJob, Played],
) -> None:
    _, played = whole
    lineages = {number: json.loads(played.tags(number).get(LINEAGE, "[]")) for number in range(SIZE)}
    assert any(lineages.values())
    for number, lineage in lineages.items():
        if lineage:
            origin = lineage[0]["from"]
            assert lineage[0] == {"step": 0, "from": origin, "params": {"optim.lr": RATES[origin], NAMES[1]: 0.2}}
            assert [step["step"] for step in lineage] == sorted({step["step"] for step in lineage})
            assert lineage[-1] == json.loads(played.tags(number)[COPIES])[-1]


def test_a_lineage_alone_gives_what_the_member_came_to_until_its_source_was_copied(
    whole: tuple[PopulationJob, Played], home: Path
) -> None:
    # The copy of epoch 2, played by hand: the source's two epochs, and then the copy's own recipe and seed.
    job, played = whole
    copier = next(n for n in range(SIZE) if [s for s in json.loads(played.tags(n).get(COPIES, "[]")) if s["step"] == 2])
    (step, *_) = json.loads(played.tags(copier)[COPIES])
    source = job.members[step["from"]].config
    block = LaneBlock(recipe_from_config(source), 1, "cpu", home / "data", compiled=False)
    block.admit(recipe_from_config(source), 0)
    for _ in range(2):
        block.epoch(lambda tag: False)
    state = block.cut(0)
    block.release(0)
    recipe = recipe_from_config({**with_values(source, step["params"]), "seed": copier})
    rate = replace(state.rate, lr=recipe.optim.lr)
    block.admit(recipe, copier, replace(state, rate=rate))
    (report,) = block.epoch(lambda tag: False)
    expected = untimed(played.reports(copier)[2].metrics)
    assert untimed(report.metrics) == {name: value for name, value in expected.items() if not name.startswith("hp/")}


def test_the_same_population_gives_the_same_bits(whole: tuple[PopulationJob, Played], home: Path) -> None:
    job, played = whole
    again = play(home, job)
    for number in range(SIZE):
        assert history(again, number) == history(played, number)
        assert again.tags(number) == played.tags(number)


@pytest.mark.parametrize("number", range(SIZE))
def test_members_that_nobody_asks_for_are_trained_all_the_same(
    whole: tuple[PopulationJob, Played], home: Path, number: int
) -> None:
    job, played = whole
    one = play(home, job, [number])
    assert history(one, number) == history(played, number)
    assert [end.trial for end in one.of(Finished)] == [number]
    assert all(not one.reports(other) for other in range(SIZE) if other != number)


def test_a_member_that_is_stopped_changes_nothing_for_the_others(
    whole: tuple[PopulationJob, Played], home: Path
) -> None:
    job, played = whole

    def judge(report: Report) -> Decision | None:
        return Decision(2, 3, stop=True) if (report.trial, report.step) == (2, 3) else None

    broken = play(home, job, judge=judge)
    assert [report.step for report in broken.reports(2)] == [1, 2, 3]
    for number in (0, 1, 3):
        assert history(broken, number) == history(played, number)
    assert sorted(end.trial for end in broken.of(Finished)) == [0, 1, 2, 3]


def test_all_that_are_stopped_end_the_population(whole: tuple[PopulationJob, Played], home: Path) -> None:
    job, _ = whole

    def judge(report: Report) -> Decision | None:
        return Decision(report.trial, 3, stop=True, suspend=True) if report.step == 3 else None

    broken = play(home, job, judge=judge, checkpoint_folder=str(home / "kept"), checkpoint_seconds=1e-9)
    assert sorted(end.trial for end in broken.of(Finished)) == [0, 1, 2, 3]
    assert {len(broken.reports(number)) for number in range(SIZE)} == {3}
    # It begins anew, so that nothing is kept.
    assert not [*home.glob("kept/*")]


def test_a_member_whose_loss_is_not_finite_leaves_and_the_others_go_on(home: Path, config: Make) -> None:
    job = job_of(config, 8, rates=(1e30, 1e-3, 0.1, 0.02))
    played = play(home, job)
    lost = played.reports(8)
    assert math.isnan(lost[-1].metrics["val_loss"])
    assert len(lost) < EPOCHS
    assert {len(played.reports(number)) for number in (9, 10, 11)} == {EPOCHS}
    assert all(step["from"] != 8 for n in (9, 10, 11) for step in json.loads(played.tags(n).get(LINEAGE, "[]")))
    # Somebody who comes to one of the others alone finds the same.
    again = play(home, job, [9])
    assert history(again, 9) == history(played, 9)


def test_members_of_several_structures_fail_in_one_sentence(home: Path, config: Make) -> None:
    job = job_of(config)
    odd = replace(job.members[2], config={**job.members[2].config, "batch_size": 16})
    played = play(home, replace(job, members=(*job.members[:2], odd, *job.members[3:])))
    failures = played.of(Failed)
    assert [failed.trial for failed in failures] == [0, 1, 2, 3]
    assert all("another structural key" in failed.reason for failed in failures)


def test_a_member_whose_values_do_not_go_together_fails_alone(home: Path, config: Make) -> None:
    job = job_of(config)
    odd = replace(job.members[1], config={**job.members[1].config, "optim": {"name": "momentum", "momentum": 2.0}})
    played = play(home, replace(job, members=(job.members[0], odd, *job.members[2:])))
    assert [failed.trial for failed in played.of(Failed)] == [1]
    assert {len(played.reports(number)) for number in (0, 2, 3)} == {EPOCHS}
    assert any(COPIES in played.tags(number) for number in (0, 2, 3))


def test_a_population_that_cannot_lane_fails_with_the_reason(home: Path, config: Make) -> None:
    job = job_of(config)
    played = Played(home, Fixed(Plan(1, "solo", "no lanes here.")))
    played.run(*(Job(one.number, one.config, population=job) for one in job.members))
    assert [failed.reason for failed in played.of(Failed)] == [
        "BadInputError: sweep.population: the members of a population train as lanes of one block; no lanes here."
    ] * SIZE


def test_two_populations_after_one_another_leave_no_block(home: Path, config: Make) -> None:
    first, second = job_of(config), job_of(config, 4)
    played = Played(home, Fixed(Plan(SIZE)))
    for job in (first, second):
        played.run(*(Job(one.number, one.config, population=job) for one in job.members))
        assert not played.engine._blocks
    assert len(played.of(Finished)) == 2 * SIZE
