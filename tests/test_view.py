"""What the views of a running sweep show."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from swathe.events import TrialState
from swathe.runtime import Progress
from swathe.view import panel


def shown(diagnosis: Mapping[str, int]) -> list[str]:
    progress = Progress(
        name="s",
        metric="val_loss",
        trials=20,
        counts={TrialState.COMPLETE: 6, TrialState.PRUNED: 3},
        running=2,
        epochs=100,
        elapsed=12.0,
        best=(4, 0.25),
        best_params={"optim.lr": 0.01},
        workers=2,
        diagnosis=diagnosis,
    )
    console = Console(width=80)
    with console.capture() as printed:
        console.print(panel(progress))
    return [line.rstrip() for line in printed.get().splitlines()]


def test_the_live_table_counts_symptoms_in_one_line() -> None:
    with_findings = shown({"lr_too_high": 2, "diverged": 3})
    assert "diagnosis: 3 diverged, 2 lr_too_high" in with_findings
    assert len(with_findings) == len(shown({})) + 1
