"""Where a driver's time goes: a whole command of Swathe under cProfile, as a small table in docs/profiles.

    python benchmarks/profile_run.py --warm lanes.compile=always digits launch benchmarks/digits.yaml --quiet
    python benchmarks/profile_run.py --calls 40 noop launch benchmarks/noop.yaml --quiet sweep.trials=2000
    python benchmarks/profile_run.py --folder /tmp/profiles quick launch quickstart    # kept elsewhere

Only the driver's main thread is seen: workers and the recorder are processes of their own. cProfile makes calls slower
(some by half), so that shares count and seconds do not. The command runs in a home of its own, whose caches one launch
with the same words has filled, and with those of --warm: lanes are compiled beside their training otherwise, which a
short sweep does not wait for.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import machine  # noqa: E402 - the script runs from anywhere
from benchmarks.commands import forget  # noqa: E402
from benchmarks.overhead import QUIET  # noqa: E402

CALLS = 25
# What comes before a package's own path in the name of a file.
_PLACES = ("site-packages/", f"{ROOT}/src/", f"{ROOT}/", f"python{sys.version_info.major}.{sys.version_info.minor}/")


def drive(stats: Path, words: Sequence[str]) -> int:
    """Run a command of Swathe in this process under the profiler."""
    from swathe import cli

    profiler = cProfile.Profile()
    code = profiler.runcall(cli.run, list(words))
    profiler.dump_stats(stats)
    return code


def place(function: tuple[str, int, str]) -> str:
    """Return where a function is, without this machine's folders."""
    file, line, name = function
    if file == "~":
        return name
    for mark in _PLACES:
        _, found, rest = file.partition(mark)
        if found:
            return f"{rest}:{line} {name}"
    return f"{Path(file).name}:{line} {name}"


def rows(stats: pstats.Stats, calls: int) -> list[tuple[str, int, float, float]]:
    """Return the functions in which most time was spent, themselves: place, calls, own seconds, seconds in all."""
    found: dict[Any, tuple[Any, int, float, float, Any]] = stats.stats  # type: ignore[attr-defined]
    ordered = sorted(found.items(), key=lambda one: -one[1][2])[:calls]
    return [(place(function), count, own, whole) for function, (_, count, own, whole, _) in ordered]


def page(name: str, words: Sequence[str], stats: pstats.Stats, calls: int) -> str:
    """Return the table as Markdown."""
    total: float = stats.total_tt  # type: ignore[attr-defined]
    here = machine.describe("ray", "optuna", "mlflow")
    lines = [
        # Read on the site, too, whose navigation leads to it from the book alone.
        "<!-- site",
        "---",
        "orphan: true",
        "---",
        "-->",
        f"# The driver of `{name}`, by cProfile",
        "",
        f"`swathe {' '.join(words)}`: {total:.1f} s in the driver's main thread, waiting included.",
        f"{here['date']}, commit {here['commit']}, {here['cores']} cores ({here['cpu']}).",
        "",
        "| function | calls | own seconds | share | seconds in all |",
        "|---|---|---|---|---|",
    ]
    for where, count, own, whole in rows(stats, calls):
        lines.append(f"| `{where.replace('|', '')}` | {count:,} | {own:.3f} | {own / total:.1%} | {whole:.3f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=CALLS, help="rows of the table")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "profiles")
    parser.add_argument("--warm", action="append", default=[], help="a word more for the launch that fills the caches")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("name")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.drive:
        sys.exit(drive(options.drive, options.words))
    with tempfile.TemporaryDirectory(prefix="profile-") as made:
        home, stats = Path(made) / "home", Path(made) / "stats"
        environment = os.environ | QUIET | {"SWATHE_HOME": str(home)}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        for more in (options.warm, []):
            command = [sys.executable, __file__, "--drive", str(stats), options.name, *options.words, *more]
            forget(home)
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"Swathe ended with {done.returncode}:\n{done.stderr[-4000:]}")
        text = page(options.name, options.words, pstats.Stats(str(stats)), options.calls)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / f"{options.name}.md"
    path.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
