"""What a shell can complete: sweeps of this folder, sweeps that can be launched, and overrides in Hydra's grammar.

`swathe --install-completion` sets it up for bash, zsh, fish and PowerShell. A press of Tab must cost little: names of
files are read, nothing is composed, and what cannot be read completes to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import yaml

from swathe.folders import conf_folders, sweep_folders


def launched(incomplete: str) -> list[str]:
    """Complete the name of a sweep that was launched here."""
    from swathe.home import open_home

    with suppress(Exception):
        return _beginning(incomplete, [folder.name for folder in open_home().sweeps()])
    return []


def launchable(incomplete: str) -> list[str]:
    """Complete a name in sweeps/, or the path of a YAML file."""
    names = {path.stem for folder in sweep_folders() for path in folder.glob("*.yaml")}
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    files: Iterator[str] = iter(())
    with suppress(OSError):
        files = iter(
            [
                f"{path}/" if path.is_dir() else str(path)
                for path in sorted(folder.iterdir())
                if path.suffix in (".yaml", ".yml") or (path.is_dir() and not path.name.startswith("."))
            ]
        )
    return _beginning(incomplete, [*sorted(names), *files])


def overrides(incomplete: str) -> list[str]:
    """Complete a config group with its options, `optim=adam`, or a key, `optim.lr=`.

    Bash takes `optim=ad` for three words and replaces the last one, other shells for one.
    """
    group, part, alone = _split(incomplete)
    if group is None:
        return _beginning(incomplete, keys())
    options = sorted({path.stem for folder in conf_folders() for path in (folder / group).glob("*.yaml")})
    return [option if alone else f"{group}={option}" for option in _beginning(part, options)]


def keys() -> list[str]:
    """Return what can stand before the `=`, each with it: groups, their options' keys, and those of `sweep`."""
    from swathe.schema import SweepOptions

    found = {f"sweep.{field.name}=" for field in fields(SweepOptions)}
    for folder in conf_folders():
        for path in folder.glob("*/*.yaml"):
            group = path.parent.name
            found |= {f"{group}=", *(f"{group}.{key}=" for key in _keys_of(path))}
    return sorted(found)


def _keys_of(path: Path) -> list[str]:
    with suppress(OSError, ValueError, yaml.YAMLError):
        content = yaml.safe_load(path.read_text())
        if isinstance(content, dict):
            return [str(key) for key in content if key not in ("defaults", "name")]
    return []


def _split(incomplete: str) -> tuple[str | None, str, bool]:
    """Return the group, None where there is no `=` yet, what follows it, and whether the shell has that alone."""
    group, equals, part = incomplete.partition("=")
    if equals and group:
        return group, part, False
    words = os.environ.get("COMP_WORDS", "").split()
    place = os.environ.get("COMP_CWORD", "")
    if not place.isdecimal() or not 0 < int(place) <= len(words):
        return None, incomplete, False
    before = words[: int(place)]
    if incomplete == "=":
        return before[-1], "", True
    if before[-1] == "=" and len(before) > 1:
        return before[-2], incomplete, True
    return None, incomplete, False


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
