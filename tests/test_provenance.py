"""Where the code stands, asked of a real git repository."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

from swathe.provenance import GitState, git_state, package_versions


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_commit_and_changes(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert git_state(tmp_path) is None, "no commit yet"
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / "folder").mkdir()
    assert git_state(tmp_path / "folder") == GitState(commit, "")
    (tmp_path / "code.py").write_text("a = 2\n")
    changed = git_state(tmp_path / "folder")
    assert changed is not None
    assert "-a = 1\n+a = 2\n" in changed.diff


def test_no_repository(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "missing") is None


def test_versions() -> None:
    lines = package_versions().splitlines()
    assert f"optuna=={version('optuna')}" in lines
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0].lower())
