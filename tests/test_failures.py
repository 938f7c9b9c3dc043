"""When a sweep stops because of its trials: the same error again and again, and nothing that got further."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from swathe import pruners
from swathe.controller import Budget, Controller
from swathe.events import (
    Ask,
    Assign,
    Command,
    Direction,
    Done,
    Failed,
    Finished,
    Proposal,
    Proposed,
    Report,
    Reported,
    Tell,
    TrialState,
    Value,
    WorkerLost,
    WorkerReady,
)
from swathe.failures import CAUSE, MAX_CAUSES, Failures
from swathe.study import PastTrial


def test_failures_with_one_error_are_counted_by_error() -> None:
    failures = Failures()
    assert [failures.failed(number, None, "a") for number in range(3)] == [1, 2, 3]
    assert failures.failed(3, None, "b") == 1


def test_a_later_trial_that_gets_further_clears_them() -> None:
    failures = Failures()
    failures.failed(0, None, "a")
    failures.failed(1, 5, "a")
    failures.reached(2, 5)
    assert failures.failed(3, None, "a") == 2, "the one at step 5 stands, as nothing has got beyond it"
    failures.completed(4)
    assert failures.failed(5, None, "a") == 1


def test_an_earlier_trial_that_gets_further_clears_nothing() -> None:
    failures = Failures()
    failures.failed(3, None, "a")
    failures.reached(2, 1)
    assert failures.failed(4, None, "a") == 2


def test_a_bug_at_the_end_of_the_training_is_seen_although_all_report() -> None:
    failures = Failures()
    for number in range(5):
        for step in range(1, 11):
            failures.reached(number, step)
        assert failures.failed(number, 10, "a") == number + 1


def test_what_never_fails_twice_is_forgotten() -> None:
    failures = Failures()
    for number in range(10 * MAX_CAUSES):
        failures.failed(number, None, str(number))
    assert failures.failed(0, None, "0") == 1


# A trial's whole story: the steps that it reports, and how it ends.
_STORIES = st.lists(st.tuples(st.integers(-1, 3), st.sampled_from(["complete", "pruned", "a", "b"])), max_size=12)


@given(_STORIES, st.randoms())
def test_the_count_does_not_depend_on_the_order(stories: list[tuple[int, str]], random: object) -> None:
    def told(order: list[int]) -> dict[str, int]:
        failures = Failures()
        for number in order:
            last, end = stories[number]
            for step in range(last + 1):
                failures.reached(number, step)
            if end == "complete":
                failures.completed(number)
            elif end != "pruned":
                failures.failed(number, None if last < 0 else last, end)
        # One more, before which nothing is: it says how many there are, and itself.
        return {cause: failures.failed(-1, 10_000, cause) for cause in "ab"}

    numbers = list(range(len(stories)))
    shuffled = list(numbers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert told(shuffled) == told(numbers)


# With the controller.


def controller_with(history: list[PastTrial], most: int = 3, retries: int = 0) -> Controller:
    return Controller(
        metric="loss",
        direction=Direction.MINIMIZE,
        pruner=pruners.build({"name": "none"}, Direction.MINIMIZE, "s"),
        budget=Budget(100),
        max_failures=most,
        retries=retries,
        history=history,
    )


def past(number: int, cause: str = "E at x.py:1", state: TrialState = TrialState.FAILED) -> PastTrial:
    value = 0.5 if state is TrialState.COMPLETE else None
    attrs: dict[str, Value] = {CAUSE: cause} if state is TrialState.FAILED else {}
    return PastTrial(number, {}, state, value, {}, attrs)


def run(controller: Controller, commands: list[Command], number: int) -> tuple[list[Command], int]:
    """Answer every ask; return all commands, and the number of the next point."""
    for ask in [command for command in commands if isinstance(command, Ask)]:
        proposals = tuple(Proposal(number + index, {}) for index in range(ask.count))
        number += ask.count
        more, number = run(controller, controller.handle(Proposed(proposals)), number)
        commands = commands + more
    return commands, number


def fail_all(controller: Controller, start: int, *, lost: bool = False) -> tuple[list[int], list[Command]]:
    """Fail every trial that is given out, until the sweep ends or 30 have failed; return which, and what was said."""
    said, number = run(controller, controller.handle(WorkerReady("w")), start)
    failed: list[int] = []
    worker, waiting = "w", [a.trial for command in said if isinstance(command, Assign) for a in command.assignments]
    while waiting and len(failed) < 30 and not controller.ending:
        trial = waiting.pop(0)
        failed.append(trial)
        event = WorkerLost(worker, "gone") if lost else Failed(worker, trial, f"E: {trial}", "", 0, "E at x.py:1")
        commands, number = run(controller, controller.handle(event), number)
        if lost:
            worker = f"w{trial}"
            more, number = run(controller, controller.handle(WorkerReady(worker)), number)
            commands = commands + more
        said += commands
        waiting += [a.trial for command in commands if isinstance(command, Assign) for a in command.assignments]
    return failed, said


def test_the_same_error_with_other_words_ends_the_sweep_and_each_trial_says_its_cause() -> None:
    controller = controller_with([])
    failed, said = fail_all(controller, 0)
    assert len(failed) == 3
    assert controller.ending
    told = [command for command in said if isinstance(command, Tell) and command.state is TrialState.FAILED]
    assert {command.cause for command in told} == {"E at x.py:1"}
    done = [command for command in said if isinstance(command, Done)]
    assert all(command.failed and "3 trials failed for the same reason: E: 2" in command.reason for command in done)


def test_a_sweep_that_goes_on_counts_on() -> None:
    failed, _ = fail_all(controller_with([past(0), past(1)]), 2)
    assert len(failed) == 1


def test_a_success_in_the_record_clears_what_was_before_it() -> None:
    history = [past(0), past(1), past(2, state=TrialState.COMPLETE)]
    failed, _ = fail_all(controller_with(history), 3)
    assert len(failed) == 3


def test_a_sweep_that_was_stopped_for_it_tries_once_more_and_goes_on_if_the_code_was_mended() -> None:
    history = [past(number) for number in range(3)]
    failed, _ = fail_all(controller_with(history), 3)
    assert len(failed) == 1
    controller = controller_with(history)
    said, number = run(controller, controller.handle(WorkerReady("w")), 3)
    (first,) = [a.trial for command in said if isinstance(command, Assign) for a in command.assignments]
    controller.handle(Reported("w", (Report(first, 1, {"loss": 1.0}),)))
    run(controller, controller.handle(Finished("w", first)), number)
    assert not controller.ending


def test_lost_workers_are_no_bug_in_the_code() -> None:
    controller = controller_with([])
    failed, said = fail_all(controller, 0, lost=True)
    assert len(failed) == 30
    assert not controller.ending
    assert {command.cause for command in said if isinstance(command, Tell)} == {""}


def test_trials_that_diverge_are_no_failures() -> None:
    controller = controller_with([])
    said, number = run(controller, controller.handle(WorkerReady("w")), 0)
    for _ in range(10):
        trial = next(a.trial for command in said if isinstance(command, Assign) for a in command.assignments)
        report = Report(trial, 1, {"loss": math.nan})
        first, number = run(controller, controller.handle(Reported("w", (report,))), number)
        second, number = run(controller, controller.handle(Finished("w", trial)), number)
        said = first + second
    assert not controller.ending


def test_only_the_trial_that_ran_pays_for_its_worker() -> None:
    controller = controller_with([], retries=0)
    said, number = run(controller, controller.handle(WorkerReady("w")), 0)
    for trial in range(3):
        # Trials so short that the worker holds the next ones already.
        more, number = run(
            controller, controller.handle(Reported("w", (Report(trial, 1, {"loss": 1.0}, 0.001),))), number
        )
        said += more
        more, number = run(controller, controller.handle(Finished("w", trial)), number)
        said += more
    held = sorted(a.trial for command in said if isinstance(command, Assign) for a in command.assignments)[3:]
    assert len(held) >= 2
    # The first one's end was under way when the second one took the worker with it.
    commands = controller.handle(WorkerLost("w", "gone", trial=held[1]))
    assert [command.trial for command in commands if isinstance(command, Tell)] == [held[1]]
