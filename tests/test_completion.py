"""What Tab completes, as each shell asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swathe import completion
from swathe.home import Home, SweepCard

FISH = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        card = SweepCard(name, "id", None, "sqlite:///x", name, "loss", "minimize", 3, "swathe launch x", 0.0)
        sweep = Home(tmp_path / ".swathe").sweep(name)
        sweep.path.mkdir(parents=True)
        sweep.write_card(card)
    (tmp_path / "mine.yaml").write_text("defaults: [_self_]\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.yaml").write_text("{}\n")
    return tmp_path


def test_sweeps_that_were_launched_here(folder: Path) -> None:
    assert completion.launched("") == ["first", "second"]
    assert completion.launched("s") == ["second"]
    assert completion.launched("x") == []


def test_sweeps_that_can_be_launched_are_names_and_files(folder: Path) -> None:
    assert completion.launchable("optim") == ["optimizers", "optimizers_compared"]
    assert completion.launchable("mi") == ["mixed_precision", "mine.yaml"]
    assert completion.launchable("mo") == ["more/"]
    assert completion.launchable("more/") == ["more/other.yaml"]
    assert completion.launchable("nowhere/x") == []


def test_groups_keys_and_options() -> None:
    assert "optim=" in completion.overrides("opt")
    assert "optim.lr=" in completion.overrides("optim.")
    assert "sweep.trials=" in completion.overrides("sweep.t")
    assert completion.overrides("optim=ada") == ["optim=adagrad", "optim=adam", "optim=adamw"]
    assert completion.overrides("optim.lr=0") == []
    assert completion.overrides("nothing=x") == []


@pytest.mark.parametrize(
    ("words", "place", "incomplete", "expected"),
    [
        ("swathe launch x optim =", "4", "=", {"adam", "sgd", "momentum"}),
        ("swathe launch x optim = ada", "5", "ada", {"adam", "adamw", "adagrad"}),
        ("swathe launch x op", "3", "op", {"optim=", "optim.lr="}),
    ],
)
def test_bash_takes_an_override_for_three_words(
    words: str, place: str, incomplete: str, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", place)
    assert expected <= set(completion.overrides(incomplete))


@pytest.mark.parametrize(
    ("shell", "asked", "expected"),
    [
        ("bash", {"COMP_WORDS": "swathe status ", "COMP_CWORD": "2"}, "first\nsecond"),
        ("bash", {"COMP_WORDS": "swathe launch quickstart optim = mom", "COMP_CWORD": "5"}, "momentum"),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "swathe launch quicks"}, '"quickstart"'),
        ("fish", {**FISH, "_TYPER_COMPLETE_ARGS": "swathe launch quickstart optim=mom"}, "optim=momentum"),
    ],
)
def test_a_shell_asks(folder: Path, shell: str, asked: dict[str, str], expected: str) -> None:
    environment = {**os.environ, **asked, "_SWATHE_COMPLETE": f"complete_{shell}"}
    command = [sys.executable, "-c", "from swathe.cli import main; main()"]
    # The program's name is what the shell calls.
    command[2] = "import sys; sys.argv[0] = 'swathe'; " + command[2]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert expected in done.stdout
    assert "Traceback" not in done.stderr
