"""A sweep in a notebook: its cell in a real kernel, and what the cell holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from swathe.events import TrialState
from swathe.notebook import POINTS, cell, in_notebook, result_cell, thinned
from tests.test_view import progress_of

SWEEP = """
import swathe

def train(params):
    for step in (1, 2):
        swathe.report((params.x - 0.3) ** 2 / step, step)

space = {"x": "interval(0.0, 1.0)"}
swathe.Sweep(train, "cluster=inline", "pruner=none", params={"x": 0.5}, space=space, trials=5).run()
"""


def text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page)).replace("&ensp;", " ")


@pytest.mark.slow
def test_a_cell_follows_a_sweep_and_keeps_its_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWATHE_HOME", str(tmp_path / "home"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SWEEP)])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs: list[Any] = [one for one in notebook.cells[0].outputs if "data" in one and "text/html" in one["data"]]
    table, result = (text(one["data"]["text/html"]) for one in outputs)
    assert "5/5 trials" in table
    assert "5 complete" in table
    assert "best so far: trial" in table
    assert "Sweep train :" in result
    assert "swathe reproduce train" in result


def test_this_process_is_no_notebook() -> None:
    assert not in_notebook()


def test_the_cell_has_progress_counts_the_best_and_its_curve() -> None:
    shown = cell(progress_of(diagnosis={"diverged": 2}), [(1, 0.9), (3, 0.5), (9, 0.25)])
    words = text(shown)
    for expected in ("9/20 trials", "6 complete", "3 pruned", "2 diverged", "trial 4, val_loss 0.25", "optim.lr= 0.01"):
        assert expected in words
    assert "width:45.0%" in shown
    assert "from 0.9 to 0.25" in shown
    assert shown.count("<svg") == 1


def test_the_cell_escapes_what_others_have_named() -> None:
    shown = cell(progress_of(name="<script>", best_params={"a": "<b onload=x>"}), [])
    assert "<script>" not in shown
    assert "<b onload" not in shown
    assert "<script>" not in result_cell(
        "<script>", "<script>", 1.0, {"trial": 1, "value": 1.0, "params": {"<script>": 2}}
    )


@pytest.mark.parametrize("best", [[], [(1, 0.5)], [(1, float("nan")), (2, 0.5)], [(3, 0.5), (3, 0.4)]])
def test_a_curve_needs_two_points(best: list[tuple[int, float]]) -> None:
    assert "<svg" not in cell(progress_of(counts={TrialState.COMPLETE: 1}), best)


def test_a_long_sweep_s_curve_stays_small_and_keeps_its_end() -> None:
    points: list[tuple[int, float]] = []
    for over in range(10_000):
        points = thinned([*points, (over, 1 / (1 + over))])
    assert len(points) <= POINTS
    assert points[-1][0] == 9_999
    assert points[0][0] == 0
