"""A sweep whose best no longer becomes better: when it ends, and that a resume counts on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from swathe import pruners
from swathe.controller import Budget, Controller
from swathe.events import (
    Ask,
    Assign,
    Direction,
    Done,
    Event,
    Finished,
    Proposal,
    Proposed,
    Report,
    Reported,
    Tell,
    TrialState,
    Value,
    WorkerReady,
    WorkersStart,
)
from swathe.stagnation import Stagnation


@dataclass(frozen=True)
class Past:
    number: int
    state: TrialState
    value: float | None
    ended: float | None = 0.0
    feasible: bool = True
    attrs: Mapping[str, Value] = field(default_factory=dict)
    params: Mapping[str, Value] = field(default_factory=dict)
    objectives: tuple[float, ...] = ()

    @property
    def values(self) -> Mapping[int, float]:
        return {} if self.value is None else {1: self.value}


COMPLETE, PRUNED, FAILED = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED


def run(values: list[float], history: list[Past] | None = None, **budget: float) -> tuple[str, list[Past]]:
    """Run trials with these values, one after the other, until the sweep ends; return why, and all trials."""
    past = list(history or [])
    options = {"patience": 3, **budget}
    controller = Controller(
        metric="loss",
        direction=Direction.MINIMIZE,
        pruner=pruners.build({"name": "none"}, Direction.MINIMIZE, "s"),
        budget=Budget(trials=100, **options),  # type: ignore[arg-type]
        ask_ahead=0,
        history=past,
    )
    events: list[Event] = [WorkersStart(1), WorkerReady("w")]
    drawn = len(past)
    while events:
        for command in controller.handle(events.pop(0)):
            match command:
                case Ask():
                    events.append(Proposed((Proposal(drawn, {}),)))
                    drawn += 1
                case Assign(_, assignments):
                    number = assignments[0].trial
                    report = Report(number, 1, {"loss": values[number]})
                    events += [Reported("w", (report,)), Finished("w", number)]
                case Tell(trial, state, value):
                    past.append(Past(trial, state, value, ended=float(trial)))
                case Done(reason):
                    return reason, past
    raise AssertionError("the sweep does not end")


def test_a_sweep_ends_when_so_many_trials_bring_nothing_better() -> None:
    reason, past = run([5, 4, 4, 3, 3, 7, 3, 1])
    assert reason == "no better best in 3 trials"
    assert len(past) == 7


def test_a_best_that_is_hardly_better_does_not_count_until_it_has_added_up() -> None:
    reason, past = run([5.0, 4.9, 4.8, 4.7, 1.0], min_improvement=0.5)
    assert reason == "no better best by more than 0.5 in 3 trials"
    assert len(past) == 4
    assert len(run([5.0, 4.7, 4.4, 4.3, 4.2, 4.1], min_improvement=0.5)[1]) == 6


def test_with_more_patience_it_goes_on_and_with_the_same_it_is_over_at_once() -> None:
    values = [5.0, 4.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    reason, past = run(values)
    assert len(past) == 5
    assert run(values, past) == (reason, past)
    reason, more = run(values, past, patience=4)
    assert (reason, len(more)) == ("no better best in 4 trials", 10)


@given(values=st.lists(st.integers(0, 9), min_size=40, max_size=40), cut=st.integers(0, 10))
def test_a_resume_ends_where_the_whole_would(values: list[int], cut: int) -> None:
    numbers = [float(value) for value in values]
    _, whole = run(numbers, patience=8)
    assert run(numbers, whole[: min(cut, len(whole))], patience=8)[1] == whole


def test_failed_trials_and_those_that_the_end_has_stopped_are_not_counted() -> None:
    counted = Stagnation()
    history = [
        Past(0, PRUNED, 9.0, ended=0.5),
        Past(1, COMPLETE, 1.0, ended=3.0),
        Past(2, COMPLETE, 2.0, ended=1.0),
        Past(3, FAILED, None, ended=4.0),
        Past(4, PRUNED, 5.0, ended=5.0),
        Past(5, PRUNED, 5.0, ended=6.0, attrs={"reason": "stopped at step 2: stopped"}),
        Past(6, COMPLETE, 0.0, ended=7.0, feasible=False),
    ]
    counted.restore(history, 1.0)
    # 2 was the first to complete, 1 the best; after it came 4 and 6.
    assert (counted.reference, counted.since) == (1.0, 2)
