"""Where conf/ and sweeps/ are: the working folder's own come first, then those that Swathe ships."""

from __future__ import annotations

from pathlib import Path


def conf_folders() -> list[Path]:
    """Return the conf/ folders, the working folder's first."""
    return _folders("conf")


def sweep_folders() -> list[Path]:
    """Return the sweeps/ folders, the working folder's first."""
    return _folders("sweeps")


def _folders(name: str) -> list[Path]:
    package = Path(__file__).parent
    # Inside the wheel they lie in the package, in a checkout at its top.
    shipped = package / name if (package / name).is_dir() else package.parents[1] / name
    own = Path.cwd() / name
    return [own, shipped] if own.is_dir() and own.resolve() != shipped.resolve() else [shipped]
