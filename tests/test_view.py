"""What the views of a running sweep show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from swathe.events import TrialState
from swathe.runtime import Progress
from swathe.view import EventView, headline, panel


def progress_of(**changes: Any) -> Progress:
    facts: dict[str, Any] = {
        "name": "s",
        "metric": "val_loss",
        "trials": 20,
        "counts": {TrialState.COMPLETE: 6, TrialState.PRUNED: 3},
        "running": 2,
        "epochs": 100,
        "elapsed": 12.0,
        "best": (4, 0.25),
        "best_params": {"optim.lr": 0.01},
        "workers": 2,
    }
    return Progress(**{**facts, **changes})


def shown(diagnosis: Mapping[str, int], **changes: Any) -> list[str]:
    progress = progress_of(diagnosis=diagnosis, **changes)
    console = Console(width=80)
    with console.capture() as printed:
        console.print(panel(progress))
    return [line.rstrip() for line in printed.get().splitlines()]


def test_the_live_table_counts_symptoms_in_one_line() -> None:
    with_findings = shown({"lr_too_high": 2, "diverged": 3})
    assert "diagnosis: 3 diverged, 2 lr_too_high" in with_findings
    assert len(with_findings) == len(shown({})) + 1


def test_pace_and_time_to_go_are_those_of_this_session() -> None:
    lines = shown({}, begun=3, device_seconds=20.4)
    assert "0.5 trials a second   20 device-seconds" in lines
    assert lines[0].endswith("9/20 trials 12 s about 22 s to go")


def test_what_a_session_costs_is_shown_where_a_price_is_known() -> None:
    assert "0.75 trials a second   0 device-seconds   cost 1.25 EUR" in shown({}, cost="1.25 EUR")
    assert headline(progress_of(cost="1.25 EUR")).endswith("12 s, cost 1.25 EUR")
    assert headline(progress_of()).endswith("12 s")


def test_events_say_what_has_changed_and_the_last_state() -> None:
    said: list[Any] = []
    view = EventView(said.append)
    view.show(progress_of())
    view.show(progress_of(elapsed=13.0))
    view.show(progress_of(running=1))
    view.say("MLflow is away.")
    view.show(progress_of(counts={TrialState.COMPLETE: 20}, running=0))
    assert [one.get("counts", one.get("text")) for one in said] == [
        {"complete": 6, "pruned": 3},
        "MLflow is away.",
        {"complete": 20},
    ]
    assert said[0]["best"] == {"trial": 4, "val_loss": 0.25, "optim.lr": 0.01}
