"""What a new sweep can be made of: the files of sweeps/ and conf/, read as YAML and not composed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from swathe.folders import conf_folders, sweep_folders
from swathe.training import recipe

# The classes that say which keys an option has, by group; those of others have the keys of their files.
_CLASSES: Mapping[str, Mapping[str, type[Any]]] = {
    "model": recipe.MODELS,
    "data": recipe.DATASETS,
    "optim": recipe.OPTIMIZERS,
    "schedule": recipe.SCHEDULES,
    "transfer": recipe.TRANSFERS,
}
_OF_ALL_OPTIONS: Mapping[str, type[Any]] = {
    "regularization": recipe.Regularization,
    "augmentation": recipe.Augmentation,
}
# Files that are larger (bytes) are none that people write; and how long a comment is shown (characters).
_MAX_FILE, _MAX_TITLE = 64 * 1024, 300


def catalog() -> dict[str, Any]:
    """Return the ready sweeps, the groups with their options, and the keys outside of groups.

    The working folder's own come before those that Swathe ships, as on Hydra's search path; what cannot be read as YAML
    is left out, as a launch would say why.
    """
    return {"sweeps": _sweeps(), "groups": _groups(), "keys": _root_keys()}


def _sweeps() -> list[dict[str, Any]]:
    found = _by_name(path for folder in sweep_folders() for path in folder.glob("*.yaml"))
    read = ((name, _read(path)) for name, path in found.items())
    return [{"name": name, "title": one[0], "config": one[1]} for name, one in read if one is not None]


def _groups() -> dict[str, list[dict[str, Any]]]:
    names = sorted({path.name for folder in conf_folders() for path in folder.iterdir() if path.is_dir()})
    return {name: _options(name) for name in names}


def _options(group: str) -> list[dict[str, Any]]:
    found = _by_name(path for folder in conf_folders() for path in (folder / group).glob("*.yaml"))
    read = ((name, _read(path)) for name, path in found.items())
    return [
        {"option": name, "title": one[0], "keys": {**_defaults(group, name), **_own_keys(one[1])}}
        for name, one in read
        # Code is not for the network, see `screening`.
        if one is not None and recipe.TARGET not in one[1]
    ]


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by their names; of two of one name, the first."""
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def _read(path: Path) -> tuple[str, dict[str, Any]] | None:
    """Return a file's first comment and what it holds, which must not be changed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _read_once(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1000)
def _read_once(path: Path, size: int, changed: int) -> tuple[str, dict[str, Any]] | None:
    """Read a file of this size (bytes) that was changed at this time (ns), unless that was done before."""
    if size > _MAX_FILE:
        return None
    try:
        text = path.read_text()
        values = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return (_title(text), values) if isinstance(values, dict) else None


def _title(text: str) -> str:
    """Return the comment that a file begins with, up to an example of a command."""
    words = []
    for line in text.splitlines():
        if not line.startswith("#") or line.startswith("#  "):
            break
        words.append(line.removeprefix("#").strip())
    return " ".join(words)[:_MAX_TITLE]


def _own_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("defaults", "name")}


def _defaults(group: str, option: str) -> dict[str, Any]:
    kind = _OF_ALL_OPTIONS.get(group) or _CLASSES.get(group, {}).get(option)
    if kind is None:
        return {}
    return {key: value for key, value in asdict(kind()).items() if key != "name"}


def _root_keys() -> dict[str, Any]:
    groups = {*_CLASSES, *_OF_ALL_OPTIONS}
    values = asdict(recipe.Recipe())
    return {item.name: values[item.name] for item in fields(recipe.Recipe) if item.name not in groups}
