"""A real sweep with two objectives and a constraint through the command line: its front, its record and its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas
import pytest

from swathe.home import Home
from swathe.records import Records
from swathe.tracking import FRONT_TAG
from tests.integration.swathes import read, run, succeed
from tests.integration.test_report import said

SWEEP = """
defaults: [/model: deep_mlp, /data: digits, /optim: adamw, /sampler: nsga2, /cluster: inline, _self_]
epochs: 3
sampler: {population_size: 6}
lanes: {compile: never}
preflight: {enabled: false}
sweep:
  metric: [val_loss, parameters]
  direction: [minimize, minimize]
  constraints: {val_accuracy: ">= 0.5"}
  trials: 14
  space:
    model.width: choice(4, 16, 64)
    model.depth: choice(1, 2)
    optim.lr: tag(log, interval(3e-4, 3e-2))
"""


@pytest.mark.slow
def test_a_sweep_with_two_objectives(tmp_path: Path) -> None:
    (tmp_path / "parts.yaml").write_text(SWEEP)
    succeed(tmp_path, "launch", "parts.yaml", "sweep.trials=8", "-q")
    before = read(tmp_path, "status", "parts")["front"]
    # The front grows where the sweep goes on.
    said_at_end = succeed(tmp_path, "resume", "parts", "sweep.trials=14")
    assert "The front of parts: val_loss minimized, parameters minimized" in said_at_end
    succeed(tmp_path, "export", "parts", "--out", "parts.json")
    table = pandas.read_json(tmp_path / "parts.json")
    assert all(any(_as_good(row, one["values"]) for _, row in table.iterrows()) for one in before)
    _check_record(tmp_path, table)
    succeed(tmp_path, "report", "parts", "--no-seeds", "--pruned", "0", "--out", "report.html")
    text = said((tmp_path / "report.html").read_text())
    assert "Trade-offs" in text
    assert f"{table['on_front'].sum()} of 14 complete trials are on the front" in text


def _as_good(row: pandas.Series, values: Sequence[float]) -> bool:
    return bool(
        row["on_front"] and row["objectives.val_loss"] <= values[0] and row["objectives.parameters"] <= values[1]
    )


def _check_record(folder: Path, table: pandas.DataFrame) -> None:
    """The commands, MLflow and the table say the same of the front."""
    front = read(folder, "best", "parts")["front"]
    numbers = [one["trial"] for one in front]
    assert sorted(numbers) == sorted(table[table["on_front"]]["trial"])
    assert [one["values"][0] for one in front] == sorted(one["values"][0] for one in front)
    refused = run(folder, "best", "parts", "--out", "best.yaml")
    assert refused.returncode == 2
    assert f"one of the front, {', '.join(map(str, numbers))}." in refused.stderr
    assert f"# Trial {numbers[-1]} of sweep parts: val_loss" in succeed(
        folder, "best", "parts", "--trial", str(numbers[-1])
    )
    records = Records(Home(folder / ".swathe").tracking_uri)
    runs = records.trial_runs("parts", "parts")
    assert {one.number for one in runs if one.tags.get(FRONT_TAG) == "true"} == set(numbers)
    assert all(one.metrics["parameters"] == table["objectives.parameters"][one.number] for one in runs)
    assert records.sweep_metrics("parts", "parts")["best_parameters"] == min(one["values"][1] for one in front)
    assert [row["front"] for row in read(folder, "compare", "parts", "--top", str(len(numbers)))] == [True] * len(
        numbers
    )
