"""docs/practice.md: every key, option, command, sweep and test that it names is there."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import typer.main

from swathe import cli, schema
from swathe.training import recipe

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "practice.md").read_text()
GROUPS: dict[str, list[type]] = {
    "model": list(recipe.MODELS.values()),
    "data": list(recipe.DATASETS.values()),
    "optim": list(recipe.OPTIMIZERS.values()),
    "schedule": list(recipe.SCHEDULES.values()),
    "regularization": [recipe.Regularization],
    "augmentation": [recipe.Augmentation],
    "transfer": list(recipe.TRANSFERS.values()),
    "diagnosis": [schema.DiagnosisOptions],
}


def named(pattern: str) -> list[str]:
    found = sorted({match for match in re.findall(r"`([^`]+)`", PAGE) if re.fullmatch(pattern, match)})
    assert found
    return found


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("test", named(r"tests/.+"))
def test_a_test_that_is_named_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert (ROOT / path).is_file()
    assert not name or name in functions(path)


@pytest.mark.parametrize("path", named(r"(sweeps|docs)/.+"))
def test_a_file_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("command", named(r"swathe .+"))
def test_a_command_that_is_named_exists(command: str) -> None:
    known = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert command.removeprefix("swathe ") in known


@pytest.mark.parametrize("option", named(r"[a-z_]+=[a-z0-9_]+"))
def test_an_option_that_is_named_exists(option: str) -> None:
    key, _, value = option.partition("=")
    if key in GROUPS:
        assert (ROOT / "conf" / key / f"{value}.yaml").is_file()
    else:
        assert recipe.recipe_from_config({key: int(value) if value.isdigit() else value})


@pytest.mark.parametrize("key", named(r"[a-z_]+\.[a-z0-9_]+"))
def test_a_key_that_is_named_exists(key: str) -> None:
    group, _, name = key.partition(".")
    assert any(name == one.name for kind in GROUPS[group] for one in fields(kind))


def test_what_is_not_yet_there_is_said() -> None:
    """Who builds one of these takes it out here, and puts its key and its test into the page."""
    assert PAGE.count("*not yet*") == 0
