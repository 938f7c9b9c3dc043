"""Tables for people: what they show of much, and that no digit is cut at the width of a terminal."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence

import pytest
from rich.console import Console, RenderableType

from swathe import overview, tables
from swathe.records import TrialRun
from swathe.reproduce import Reproduction, Row

# As long as 17 digits can be.
LONG = -1.2345678901234567e-105
METRICS = ("grad_norm/01.linear1.weight", "train_loss", "val_loss")


def printed(what: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def reproduction(
    reproduced: Callable[[Row], float | None], *, steps: int = 40, alone: bool = False, metrics: Sequence[str] = METRICS
) -> Reproduction:
    rows = [Row(step, metric, LONG * step, None) for step in range(1, steps + 1) for metric in metrics]
    rows = [Row(row.step, row.metric, row.recorded, reproduced(row)) for row in rows]
    return Reproduction(TrialRun(3, "r", "complete", {}, {}, {}), tuple(rows), (), "new", alone)


def test_of_what_is_identical_the_last_report_is_shown() -> None:
    said = printed(tables.reproduction(reproduction(lambda row: row.recorded)))
    assert [line.split()[1] for line in said.splitlines() if line.startswith("│")] == ["40"] * 3
    assert said.count(f"{LONG * 40:.17g}") == 3
    assert "…" not in said
    assert "The last report of 40" in said
    assert "Identical: trial 3 (complete), all 120 numbers have the same bits." in said


def test_of_what_differs_the_first_numbers_that_do_are_shown_and_how_many_more() -> None:
    result = reproduction(lambda row: row.recorded if row.step < 11 else LONG * row.step * (1 + 1e-15))
    said = printed(tables.reproduction(result))
    steps = [int(line.split()[1]) for line in said.splitlines() if re.match(r"│ +\d", line)]
    assert steps == [11 + place // 3 for place in range(tables.DIFFERENT_ROWS)]
    assert "and 70 more that differ; --json has all" in said
    assert "Different: trial 3 (complete), 90 of 120 numbers" in said
    for row in [row for row in result.rows if not row.identical][: tables.DIFFERENT_ROWS]:
        assert f"{row.recorded:.17g}" in said
        assert f"{row.reproduced:.17g}" in said


def test_a_single_number_that_differs_is_shown_alone_and_one_that_is_missing_named() -> None:
    result = reproduction(lambda row: None if (row.step, row.metric) == (2, "val_loss") else row.recorded)
    said = printed(tables.reproduction(result))
    assert [line.split()[1] for line in said.splitlines() if re.match(r"│ +\d", line)] == ["2"]
    assert "missing" in said
    assert "more that differ" not in said


@pytest.mark.parametrize("width", [30, 60, 80])
@pytest.mark.parametrize("alone", [False, True])
def test_no_digit_is_cut(width: int, alone: bool) -> None:
    metrics = ("a_metric_with_a_name_that_is_as_long_as_a_line_of_a_terminal_is_wide_and_more", "val_loss")
    result = reproduction(lambda row: LONG * (row.step + 0.1), steps=3, alone=alone, metrics=metrics)
    lines = printed(tables.reproduction(result), width).splitlines()
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= width
    # A number that does not fit goes on in the next line of its cell.
    cells = "".join(line.split("│")[3].strip() for line in lines if line.startswith("│"))
    assert cells == "".join(f"{row.recorded:.17g}{row.reproduced:.17g}" for row in result.rows)


def test_a_nan_is_identical_to_a_nan() -> None:
    rows = (Row(1, "val_loss", 0.5, 0.5), Row(2, "val_loss", math.nan, math.nan))
    said = printed(tables.reproduction(Reproduction(TrialRun(3, "r", "failed", {}, {}, {}), rows, (), "new")))
    assert "nan" in said
    assert "0.5" not in said
    assert "all 2 numbers" in said


def test_an_objective_that_is_called_parameters_is_told_from_those_that_were_searched() -> None:
    row = overview.Row(0, "r", "complete", {"val_loss": 0.5, "parameters": 1024.0}, {"optim.lr": 0.1})
    head = printed(tables.comparison([row], "val_loss", title="s", others=("val_loss", "parameters"))).splitlines()[2]
    assert [name.strip() for name in head.strip("┃").split("┃")] == [
        *("trial", "state", "front", "val_loss", "parameters", "searched"),
    ]
