"""Where a sweep's code stands: git commit, what is changed since, and the versions of all packages."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

# A diff is recorded up to so many characters; a larger one is data, not code.
DIFF_LENGTH = 5_000_000


@dataclass(frozen=True, slots=True)
class GitState:
    """The commit that is checked out, and the changes of tracked files against it (empty when there are none)."""

    commit: str
    diff: str


def git_state(folder: Path) -> GitState | None:
    """Return how the repository stands that `folder` lies in; None without one, without a commit or without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return GitState(commit.strip(), (_git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff") or "")[:DIFF_LENGTH])


def _git(folder: Path, *words: str) -> str | None:
    # Without a lock: another git of the user's may be at work.
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def package_versions() -> str:
    """Return `name==version` of every package that can be imported here, one a line, sorted."""
    names = {(found.metadata["Name"] or "", found.version) for found in distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(names, key=lambda pair: pair[0].lower()) if name)
