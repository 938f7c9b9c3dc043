"""The README says what is true: its figures are those of the benchmarks' files, its sweep is the one that ships."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import table

from swathe import cli

README = (table.ROOT / "README.md").read_text()


def test_the_figures_are_those_that_were_measured() -> None:
    figures = table.table(table.ROOT / "benchmarks" / "results")
    assert table.filled(README, figures) == README, "run: python benchmarks/table.py"


def test_the_sweep_is_the_one_that_ships() -> None:
    shipped = (table.ROOT / "sweeps" / "quickstart.yaml").read_text()
    body = "".join(line for line in shipped.splitlines(keepends=True) if not line.startswith("#"))
    assert body in README


@pytest.mark.parametrize(
    "name", [command.callback.__name__ for command in cli.app.registered_commands if command.callback]
)
def test_every_command_is_in_the_table(name: str) -> None:
    command = {"list_sweeps": "list"}.get(name, name)
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
