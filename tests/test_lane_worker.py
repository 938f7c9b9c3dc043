"""The engine of a worker: trials become lanes, wait for no decision in vain, and fail alone."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from swathe.diagnosis import Rule, recorded_facts
from swathe.events import Decision, Direction, Failed, Finished, Report, Reported, Slots
from swathe.lane_worker import LaneEngine, halves, is_out_of_memory
from swathe.training.diagnose import Action, Symptom, Thresholds, diagnose
from swathe.training.lanes import LaneBlock, LaneReport
from swathe.training.recipe import TIMING_METRICS, Recipe, recipe_from_config
from swathe.training.solo import Solo
from swathe.worker import Emitted, InlineChannel, Job, LaneUse, Note, ThreadChannel, WorkerSetup

EPOCHS = 3


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a task of 160 rows that a small network learns in an instant."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(160, 4, generator=generator)
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).long()
    lines = ["a,b,c,d,target"]
    lines += [",".join(f"{value:.4f}" for value in row) + f",{label}" for row, label in zip(x, y, strict=True)]
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def config(table: Path) -> Callable[..., dict[str, Any]]:
    def make(seed: int = 0, *, lr: float = 0.05, epochs: int = EPOCHS, hidden: int = 8, **more: Any) -> dict[str, Any]:
        return {
            "model": {"name": "mlp", "hidden": [hidden]},
            "data": {"name": "csv", "path": str(table), "target": "target"},
            "optim": {"name": "sgd", "lr": lr},
            "batch_size": 32,
            "epochs": epochs,
            "seed": seed,
            **more,
        }

    return make


@dataclass(frozen=True, slots=True)
class Plan:
    lanes: int
    program: str = "eager"
    note: str = ""


@dataclass(slots=True)
class Fixed:
    """Plans what the test says."""

    now: Plan
    halvings: list[int] = field(default_factory=list)
    epochs: int = 0

    def plan(self, recipe: Recipe) -> Plan:
        return self.now

    def trained(self, recipe: Recipe, seconds: float) -> None:
        assert seconds > 0
        self.epochs += 1

    def out_of_memory(self, recipe: Recipe, lanes: int) -> Plan:
        self.halvings.append(lanes)
        self.now = replace(self.now, lanes=max(1, lanes // 2))
        return self.now


class Played:
    """An engine whose driver is the test: `judge` answers each report for which a decision is waited for."""

    def __init__(
        self,
        home: Path,
        planner: Fixed,
        judge: Callable[[Report], Decision | None] = lambda report: None,
        **setup: Any,
    ) -> None:
        self.events: list[Emitted] = []
        self.batches: list[list[Emitted]] = []
        self.judge = judge
        self.channel = InlineChannel("w", self.take)
        settings = WorkerSetup(None, "val_loss", Direction.MINIMIZE, str(home), (), "cpu", 1)
        self.engine = LaneEngine(replace(settings, **setup), self.channel, "w", planner)

    def take(self, events: Sequence[Emitted]) -> None:
        self.batches.append(list(events))
        for event in events:
            self.events.append(event)
            if isinstance(event, Reported):
                for report in event.reports:
                    if (decision := self.judge(report)) is not None:
                        self.channel.put((decision,))

    def run(self, *jobs: Job) -> None:
        self.channel.put(jobs)
        self.turn()
        while self.engine.busy:
            self.turn()

    def turn(self) -> None:
        assert self.engine.turn(wait=False)

    def reports(self, trial: int) -> list[Report]:
        batches = (event.reports for event in self.events if isinstance(event, Reported))
        return [report for reports in batches for report in reports if report.trial == trial]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def tags(self, trial: int) -> Mapping[str, str]:
        return {key: tag for note in self.of(Note) if note.trial == trial for key, tag in note.tags.items()}


def untimed(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key not in TIMING_METRICS}


def alone(config: dict[str, Any], home: Path) -> list[dict[str, float]]:
    solo = Solo(recipe_from_config(config), "cpu", home / "data")
    return [untimed(metrics) for _, metrics, _ in solo.reports(lambda: False)]


def test_lanes_are_trained_in_two_halves() -> None:
    assert [halves(lanes) for lanes in (1, 2, 3, 4, 7, 8)] == [(1, 1), (1, 2), (1, 3), (2, 2), (2, 4), (2, 4)]


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_more_trials_than_lanes_all_give_what_they_give_alone(
    home: Path, config: Callable[..., dict[str, Any]], lanes: int
) -> None:
    played = Played(home, Fixed(Plan(lanes)))
    played.run(*(Job(number, config(number, lr=0.01 * (1 + number)), attempt=2) for number in range(11)))
    assert played.of(Slots) == [Slots("w", next(iter(played.of(Slots))).key, lanes)]
    for number in range(11):
        reports = played.reports(number)
        assert [report.step for report in reports] == [1, 2, 3]
        for report, expected in zip(reports, alone(config(number, lr=0.01 * (1 + number)), home), strict=True):
            assert untimed(report.metrics) == pytest.approx(expected, rel=1e-4)
    ends = played.of(Finished)
    assert Counter(end.trial for end in ends) == Counter(range(11))
    assert {end.attempt for end in ends} == {2}


@pytest.mark.parametrize("plan", [Plan(3), Plan(1, "solo")], ids=["lanes", "solo"])
def test_findings_stop_a_trial_that_diverges_and_no_other(
    home: Path, config: Callable[..., dict[str, Any]], plan: Plan
) -> None:
    played = Played(home, Fixed(plan), diagnosis=Rule())
    played.run(*(Job(number, config(number, lr=lr, epochs=6)) for number, lr in enumerate([0.05, 1e4, 0.05])))
    assert [len(played.reports(number)) for number in (0, 2)] == [6, 6]
    last = played.reports(1)[-1]
    assert (last.step < 6, last.ends) == (True, Action.STOP)
    assert Symptom.DIVERGED in {finding.symptom for finding in last.findings}
    (end,) = (end for end in played.of(Finished) if end.trial == 1)
    assert end.model is None
    # A function of its own reports: from its record the same is found, at the same report.
    facts = recorded_facts({**played.tags(1), "swathe.config": json.dumps(config())})
    assert (facts.classes, facts.steps_per_report) == (2, 4)
    found = diagnose([report.metrics for report in played.reports(1)], facts)
    assert found == tuple(finding for report in played.reports(1) for finding in report.findings)


@pytest.mark.parametrize("plan", [Plan(3), Plan(1, "solo")], ids=["lanes", "solo"])
def test_norms_of_every_layer_are_sent_if_asked_for(
    home: Path, config: Callable[..., dict[str, Any]], plan: Plan
) -> None:
    for layers in (False, True):
        played = Played(home, Fixed(plan), layers=layers)
        played.run(Job(0, config(epochs=1)))
        (report,) = played.reports(0)
        expected = ["grad_norm/01.linear1", "grad_norm/02.output"] if layers else []
        assert [name for name in report.metrics if "/" in name] == expected


def test_findings_that_are_tags_alone_stop_nothing(home: Path, config: Callable[..., dict[str, Any]]) -> None:
    played = Played(home, Fixed(Plan(2)), diagnosis=Rule(Thresholds(diverged_loss=0.01), stop=False))
    played.run(Job(0, config(0, epochs=4)))
    reports = played.reports(0)
    assert [report.step for report in reports] == [1, 2, 3, 4]
    assert [bool(report.findings) for report in reports] == [True, False, False, False]


def test_a_trial_that_overfits_ends_early_with_its_model(
    home: Path, config: Callable[..., dict[str, Any]], table: Path, tmp_path: Path
) -> None:
    # Labels that are a matter of chance: all that is learned is the training part by heart.
    lines = table.read_text().splitlines()
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (len(lines) - 1,), generator=draw).tolist()
    rows = [f"{line.rpartition(',')[0]},{label}" for line, label in zip(lines[1:], labels, strict=True)]
    (tmp_path / "chance.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    data = {"name": "csv", "path": str(tmp_path / "chance.csv"), "target": "target"}
    played = Played(home, Fixed(Plan(2)), diagnosis=Rule())
    optim = {"name": "adam", "lr": 0.02}
    played.run(Job(0, config(0, epochs=60, hidden=64, data=data, optim=optim)))
    last = played.reports(0)[-1]
    assert (last.step < 60, last.ends) == (True, Action.EARLY_STOP)
    (end,) = played.of(Finished)
    assert end.model is not None


def test_a_batch_holds_reports_and_then_ends(home: Path, config: Callable[..., dict[str, Any]]) -> None:
    played = Played(home, Fixed(Plan(2)))
    played.run(*(Job(number, config(number, epochs=1)) for number in range(2)))
    last = played.batches[-1]
    kinds = [type(event) for event in last if not isinstance(event, LaneUse)]
    assert kinds == [Reported, Finished, Finished]


def test_facts_of_a_lane(home: Path, config: Callable[..., dict[str, Any]]) -> None:
    played = Played(home, Fixed(Plan(4, note="nothing can be compiled")))
    played.run(*(Job(number, config(number)) for number in range(4)))
    for number in range(4):
        tags = played.tags(number)
        geometry = json.loads(tags["swathe.geometry"])
        assert {key: geometry[key] for key in ("engine", "lanes", "slots", "program", "device", "threads")} == {
            "engine": "lanes",
            "lanes": "2",
            "slots": "4",
            "program": "eager",
            "device": "cpu",
            "threads": "1",
        }
        assert tags["swathe.lane"] == f"w/{number}"
        assert tags["swathe.lane_note"] == "nothing can be compiled"
        assert len(tags["swathe.dataset_digest"]) == 64


def test_a_trial_that_stops_gives_its_lane_to_the_next(home: Path, config: Callable[..., dict[str, Any]]) -> None:
    def judge(report: Report) -> Decision:
        return Decision(report.trial, report.step, stop=report.trial == 1, decide_from=report.step + 1)

    played = Played(home, Fixed(Plan(2)), judge)
    played.run(*(Job(number, config(number), decide_from=1) for number in range(3)))
    assert [len(played.reports(number)) for number in range(3)] == [3, 1, 3]
    assert [played.tags(number)["swathe.lane"] for number in range(3)] == ["w/0", "w/1", "w/1"]
    # Trial 2 began while trial 0 was at its second epoch: nothing drained.
    steps = [[report.step for report in event.reports] for event in played.of(Reported)]
    assert steps == [[1, 1], [2, 1], [3, 2], [3]]


def test_while_a_decision_is_out_the_other_half_trains(home: Path, config: Callable[..., dict[str, Any]]) -> None:
    channel = ThreadChannel("w")
    setup = WorkerSetup(None, "val_loss", Direction.MINIMIZE, str(home), (), "cpu", 1)
    engine = LaneEngine(setup, channel, "w", Fixed(Plan(4)))
    channel.put(tuple(Job(number, config(number), decide_from=1 if number % 2 else None) for number in range(4)))

    def trained() -> list[tuple[int, int]]:
        assert engine.turn(wait=True)
        reported = [event for event in channel.drain() if isinstance(event, Reported)]
        return [(report.trial, report.step) for event in reported for report in event.reports]

    # 0 and 2 in one half, 1 and 3 in the other, which is the one that waits.
    assert trained() == [(0, 1), (2, 1)]
    assert trained() == [(1, 1), (3, 1)]
    assert trained() == [(0, 2), (2, 2)]
    assert trained() == [(0, 3), (2, 3)]
    channel.put((Decision(1, 1, stop=True), Decision(3, 1, stop=False, decide_from=3)))
    assert trained() == [(3, 2)]
    channel.close()
    assert not engine.turn(wait=True)


def test_a_stop_in_mid_epoch_frees_the_lane_without_a_report(
    home: Path, config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(home, Fixed(Plan(2)))
    epoch = LaneBlock.epoch

    def with_a_stop(block: LaneBlock, should_stop: Callable[[int], bool]) -> list[LaneReport]:
        def asked(tag: int) -> bool:
            played.channel.put((Decision(0, 0, stop=True),))
            return should_stop(tag)

        return epoch(block, asked)

    monkeypatch.setattr(LaneBlock, "epoch", with_a_stop)
    played.run(*(Job(number, config(number)) for number in range(2)))
    assert not played.reports(0)
    assert len(played.reports(1)) == EPOCHS
    assert [(end.trial, end.model is None) for end in played.of(Finished)] == [(0, True), (1, False)]


def test_a_trial_that_is_stopped_before_it_began_only_ends(home: Path, config: Callable[..., dict[str, Any]]) -> None:
    played = Played(home, Fixed(Plan(2)))
    played.channel.put((Job(0, config(0)), Decision(0, 0, stop=True)))
    played.turn()
    assert played.events == [Finished("w", 0)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"optim": {"name": "sgd", "lr": -1.0}}, "BadInputError"), ({"data": {"name": "csv", "path": "gone.csv"}}, "")],
)
def test_a_bad_recipe_fails_alone(
    home: Path, config: Callable[..., dict[str, Any]], changes: dict[str, Any], reason: str
) -> None:
    played = Played(home, Fixed(Plan(4)))
    played.run(Job(0, config(0)), Job(1, {**config(1), **changes}, attempt=1), Job(2, config(2)))
    (failed,) = played.of(Failed)
    assert (failed.trial, failed.attempt) == (1, 1)
    assert failed.reason.startswith(reason)
    assert "Traceback" in failed.traceback
    assert sorted(end.trial for end in played.of(Finished)) == [0, 2]


def test_a_block_that_raises_fails_its_trials_and_the_worker_goes_on(
    home: Path, config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(home, Fixed(Plan(4)))
    epoch = LaneBlock.epoch
    raised: list[list[int]] = []

    def once(block: LaneBlock, should_stop: Callable[[int], bool]) -> list[LaneReport]:
        if not raised:
            raised.append(block.tags)
            raise ValueError("a broken program")
        return epoch(block, should_stop)

    monkeypatch.setattr(LaneBlock, "epoch", once)
    played.run(*(Job(number, config(number)) for number in range(6)))
    failed = played.of(Failed)
    assert [failure.trial for failure in failed] == raised[0]
    assert {failure.reason for failure in failed} == {"ValueError: a broken program"}
    assert "Traceback" in failed[0].traceback
    assert len(played.of(Finished)) == 4


def test_memory_that_does_not_suffice_halves_the_lanes_and_loses_nothing(
    home: Path, config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(report: Report) -> Decision:
        return Decision(report.trial, report.step, stop=False, decide_from=report.step + 1)

    planner = Fixed(Plan(8))
    played = Played(home, planner, judge)
    epoch, epochs = LaneBlock.epoch, []

    def at_most_two(block: LaneBlock, should_stop: Callable[[int], bool]) -> list[LaneReport]:
        epochs.append(len(block.tags))
        if len(block.tags) > 2 and len(epochs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return epoch(block, should_stop)

    monkeypatch.setattr(LaneBlock, "epoch", at_most_two)
    played.run(*(Job(number, config(number), decide_from=1) for number in range(8)))
    assert planner.halvings[0] == 8
    assert [event.slots for event in played.of(Slots)][:2] == [8, 4]
    assert not played.of(Failed)
    assert sorted(end.trial for end in played.of(Finished)) == list(range(8))
    for number in range(8):
        numbers = {report.step: untimed(report.metrics) for report in played.reports(number)}
        assert list(numbers) == [1, 2, 3]
        # Those that began again said the same.
        assert all(untimed(report.metrics) == numbers[report.step] for report in played.reports(number))
        assert numbers[3] == pytest.approx(alone(config(number), home)[-1], rel=1e-4)


def test_a_single_lane_for_which_memory_does_not_suffice_fails(
    home: Path, config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(block: LaneBlock, should_stop: object) -> list[LaneReport]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(LaneBlock, "epoch", never)
    played = Played(home, Fixed(Plan(4)))
    played.run(*(Job(number, config(number)) for number in range(2)))
    assert [event.slots for event in played.of(Slots)] == [4, 2, 1]
    assert sorted(failure.trial for failure in played.of(Failed)) == [0, 1]


def test_what_is_out_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_trial_that_cannot_be_a_lane_is_trained_alone(home: Path, config: Callable[..., dict[str, Any]]) -> None:
    played = Played(home, Fixed(Plan(1, "solo", "it has no form for lanes")))
    early = {"regularization": {"patience": 1, "min_delta": 10.0}}
    played.run(*(Job(number, config(number)) for number in range(2)), Job(2, config(2, epochs=9, **early)))
    for number in range(2):
        assert [untimed(report.metrics) for report in played.reports(number)] == alone(config(number), home)
    assert len(played.reports(2)) == len(alone(config(2, epochs=9, **early), home)) < 9
    assert [end.trial for end in played.of(Finished)] == [0, 1, 2]
    assert json.loads(played.tags(0)["swathe.geometry"])["engine"] == "solo"
    assert played.tags(0)["swathe.lane_note"] == "it has no form for lanes"


def test_trials_of_two_keys_take_turns(home: Path, config: Callable[..., dict[str, Any]]) -> None:
    played = Played(home, Fixed(Plan(2)))
    played.run(*(Job(number, config(number, hidden=8 + number % 2)) for number in range(4)))
    turns = [sorted({report.trial for report in event.reports}) for event in played.of(Reported)]
    assert turns == [[0, 2], [1, 3]] * EPOCHS
    assert len(played.of(Slots)) == 2


def test_few_models_travel_and_the_best_is_among_them(home: Path, config: Callable[..., dict[str, Any]]) -> None:
    played = Played(home, Fixed(Plan(3)))
    jobs = [Job(number, config(number), best=0.0 if number == 3 else None) for number in range(6)]
    played.run(*jobs[:3])
    models = {end.trial: end.model for end in played.of(Finished)}
    last = {number: played.reports(number)[-1].metrics["val_loss"] for number in range(3)}
    best = min(last, key=lambda number: last[number])
    model = models[best]
    assert model is not None
    state = torch.load(io.BytesIO(model))
    solo = Solo(recipe_from_config(config(best)), "cpu", home / "data")
    list(solo.reports(lambda: False))
    for name, value in solo.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6)
    played.run(*jobs[3:])
    assert all(end.model is None for end in played.of(Finished)[3:])


def test_a_better_one_that_its_pruner_may_still_refuse_hides_none(
    home: Path, config: Callable[..., dict[str, Any]]
) -> None:
    def judge(report: Report) -> Decision:
        return Decision(report.trial, report.step, stop=report.step == EPOCHS, decide_from=report.step + 1)

    played = Played(home, Fixed(Plan(1)), judge)
    played.run(Job(0, config(0, lr=0.1), decide_from=1))
    played.run(Job(1, config(1, lr=0.01)))
    assert [end.model is not None for end in played.of(Finished)] == [True, True]


def test_a_target_ends_the_trial_with_its_model(home: Path, config: Callable[..., dict[str, Any]]) -> None:
    played = Played(home, Fixed(Plan(2)), target=100.0)
    played.run(Job(0, config(0), best=0.0))
    assert [report.step for report in played.reports(0)] == [1]
    (end,) = played.of(Finished)
    assert end.model is not None


def test_a_trial_that_diverges_ends_at_its_last_report(home: Path, config: Callable[..., dict[str, Any]]) -> None:
    played = Played(home, Fixed(Plan(2)))
    played.run(Job(0, config(0, lr=1e30, epochs=9)), Job(1, config(1)))
    assert math.isnan(played.reports(0)[-1].metrics["val_loss"])
    assert len(played.reports(0)) < 9
    assert len(played.reports(1)) == EPOCHS
    ends = {end.trial: end for end in played.of(Finished)}
    assert ends[0].model is None
    assert ends[1].model is not None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make each look at the clock a quarter of a second later than the last."""
    now = [0.0]

    def tick() -> float:
        now[0] += 0.25
        return now[0]

    monkeypatch.setattr("swathe.lane_worker.time.perf_counter", tick)
    return now


def test_how_full_a_worker_is(home: Path, config: Callable[..., dict[str, Any]], clock: list[float]) -> None:
    played = Played(home, Fixed(Plan(4)))
    played.run(*(Job(number, config(number, epochs=6)) for number in range(2)))
    uses = played.of(LaneUse)
    assert all(use.worker == "w" and use.seconds >= 0.1 for use in uses)
    assert {use.slots for use in uses} == {4.0}
    assert uses[0].live == 2.0
    # The end of the last trial comes after what is said of its time.
    assert isinstance(played.events[-1], Finished)
    assert all(use.seconds >= 1.0 for use in uses[:-1])
