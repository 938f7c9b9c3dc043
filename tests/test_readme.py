"""The README says what is true: its figures are those of the benchmarks' files, its sweep is the one that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks import table

from swathe import cli

README = (table.ROOT / "README.md").read_text()


def test_the_figures_are_those_that_were_measured() -> None:
    figures = table.table(table.ROOT / "benchmarks" / "results")
    assert table.filled(README, figures) == README, "run: python benchmarks/table.py"


def test_a_benchmark_that_was_not_run_has_no_row(tmp_path: Path) -> None:
    assert not list(table.rows(tmp_path))


def timing(seconds: float, **more: Any) -> dict[str, Any]:
    return {"seconds": seconds, "best_val_loss": 0.05, **more}


RESULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "trials": 200,
        "epochs": 20,
        "swathe": timing(10.0, cold_seconds=40.0),
        "ray_tune": timing(200.0, ratio=20.0),
        "ray_tune_without_tracking": timing(60.0, ratio=6.0),
        "pruned": timing(30.0, trials=1000, cold_seconds=60.0),
        "gpu": None,
    },
    "fashion_mnist": {
        "trials": 16,
        "epochs": 3,
        "swathe": timing(20.0, trial_epochs_per_second=4.0),
        "ray_tune": timing(40.0, trial_epochs_per_second=2.0, ratio=2.0, command_ratio=2.0),
        "limit": {"us_per_step": 300.0, "ratio": 2.3, "remaining": 1.15},
        "gpu": {"device": "A GPU", "swathe": timing(5.0), "ray_tune": [timing(50.0, form="one process", ratio=10.0)]},
    },
    "health": {
        "rows": [{"network": "64-128-10 on digits", "lanes": 16, "with_ms": 20.5, "without_ms": 20.0, "percent": 2.43}]
    },
    "storage": {
        "rows": [
            {
                "storage": "journal",
                "sampler": "tpe",
                "workers": workers,
                "swathe": {"trials_per_second": 90.0, "decision_p99_ms": 0.5, "trial_p99_ms": 4.0},
                "optuna": [
                    {"form": "processes", "trials_per_second": 5.0, "decision_p99_ms": 90.0, "trial_p99_ms": 900.0},
                    {"form": "threads", "trials_per_second": 45.0, "decision_p99_ms": 9.0, "trial_p99_ms": 80.0},
                ],
                "ratio": 2.0,
            }
            for workers in (1, 8)
        ]
    },
    "resume": {
        "empty": {"first_report_seconds": 5.0},
        "rows": [
            {"storage": "journal", "trials": 10_000, "first_report_seconds": 6.5, "beyond_launch_seconds": 1.5},
        ],
    },
    "lanes": {
        "networks": [
            {
                "network": "mlp-digits",
                "device": "cpu",
                "solo": 400.0,
                "torch_optim": 410.0,
                "by_lanes": [
                    {"lanes": 1, "eager": 500.0, "compiled": 200.0, "limit": 90.0},
                    {"lanes": 8, "eager": 150.0, "compiled": 90.0, "limit": 60.0},
                    {"lanes": 16, "eager": 160.0, "compiled": None, "limit": 60.0},
                ],
            }
        ]
    },
}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        (
            "digits",
            [
                "digits, 200 trials x 20 epochs, all recorded, whole command"
                " | 10.0 s (40.0 s the first time) | Ray Tune 200.0 s | 20.0x",
                "the same, against Ray Tune without tracking | 10.0 s (40.0 s the first time) | Ray Tune 60.0 s | 6.0x",
                "digits, 1,000 trials with pruning, recorded, whole command | 30.0 s (60.0 s the first time) |  | ",
            ],
        ),
        (
            "fashion_mnist",
            [
                "Fashion-MNIST, 16 trials x 3 epochs, recorded by Swathe alone, training"
                " | 4.00 trial-epochs a second | Ray Tune 2.00 trial-epochs a second | 2.00x (limit 2.30x)",
                "the same, whole command | 20.0 s | Ray Tune 40.0 s | 2.00x",
                "fashion_mnist on one A GPU | 5.0 s | Ray Tune, one process, 50.0 s | 10.0x",
            ],
        ),
        (
            "health",
            ["an epoch of 16 lanes of 64-128-10 on digits, with its health | 20.5 ms | without it 20.0 ms | +2.4 %"],
        ),
        (
            "storage",
            [
                "storage: journal, tpe, 8 workers, trials of ten reports"
                " | 90.0 a second (p99: a decision 0.5 ms, a next trial 4 ms)"
                " | Optuna (threads) 45.0 a second (p99: a decision 9.0 ms, a next trial 80 ms) | 2.0x",
            ],
        ),
        (
            "resume",
            [
                "resume of 10,000 trials, journal: from the command to the first new report"
                " | 6.5 s | a sweep without trials 5.0 s | +1.5 s",
            ],
        ),
        (
            "lanes",
            [
                "mlp-digits on cpu, a lane-step with 1 lane | 200 us (limit 90 us) | a step alone 400 us | 2.0x",
                "mlp-digits on cpu, a lane-step with 16 lanes | 160 us (limit 60 us) | a step alone 400 us | 2.5x",
            ],
        ),
    ],
)
def test_a_benchmark_has_the_rows_of_its_file(name: str, rows: list[str], tmp_path: Path) -> None:
    (tmp_path / f"{name}.json").write_text(json.dumps(RESULTS[name]))
    made = list(table.rows(tmp_path))
    assert [" | ".join(row[:4]) for row in made] == rows
    assert {row[4] for row in made} == {name}


def test_the_sweep_is_the_one_that_ships() -> None:
    shipped = (table.ROOT / "sweeps" / "quickstart.yaml").read_text()
    body = "".join(line for line in shipped.splitlines(keepends=True) if not line.startswith("#"))
    assert body in README


@pytest.mark.parametrize(
    "name", [command.callback.__name__ for command in cli.app.registered_commands if command.callback]
)
def test_every_command_is_in_the_table(name: str) -> None:
    command = {"list_sweeps": "list", "import_sweep": "import"}.get(name, name).replace("_", "-")
    assert f"| `swathe {command}" in README


def code(language: str, first_line: str) -> str:
    """Return the README's block of code that begins with a line."""
    return README.split(f"```{language}\n{first_line}\n")[1].split("```")[0]


def test_the_function_of_the_readme_runs_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tune.py").write_text(code("python", "# tune.py"))
    (tmp_path / "tune.yaml").write_text(code("yaml", "# tune.yaml"))
    monkeypatch.chdir(tmp_path)
    assert cli.run(["launch", "tune.yaml", "cluster=inline", "sweep.trials=3"]) == 0
    assert "Best config" in capsys.readouterr().out
