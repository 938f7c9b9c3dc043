"""Put the figures of benchmarks/results into README.md, between its two marks; nothing there is written by hand.

python benchmarks/table.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"


def rows(results: Path) -> Iterator[tuple[str, ...]]:
    """Yield what was measured, Swathe's figure, the peer's, their ratio and the file, for every benchmark that ran."""
    overhead = _read(results / "overhead.json")
    for row in overhead.get("rows", []):
        ours, peer = row["swathe"]["ms_per_trial"], row["ray_tune"]["ms_per_trial"]
        mark = " (carried over from fewer trials)" if row["ray_tune"].get("extrapolated") else ""
        what = f"{row['trials']:,} trials that do nothing, 10 reports each, pruning and MLflow on, whole command"
        yield what, _ms(ours), f"Ray Tune {_ms(peer)}{mark}", f"{row['ratio']:.1f}x", "overhead"
    further = overhead.get("ms_per_further_trial")
    if further:
        what = "the same, one further trial (no start in it)"
        peer = f"Ray Tune {_ms(further['ray_tune'])}"
        yield what, _ms(further["swathe"]), peer, f"{further['ratio']:.1f}x", "overhead"
    for row in _read(results / "pruners.json").get("rows", []):
        if row["trials"] == 10_000:
            what = f"one decision of the pruner {row['pruner']} among 10,000 trials"
            peer = f"Optuna {row['optuna_us']:,.0f} us"
            yield what, f"{row['swathe_us']:.1f} us", peer, f"{row['ratio']:,.0f}x", "pruners"


def table(results: Path) -> str:
    """Return the table as Markdown, with the machine under it."""
    lines = ["| what is measured | Swathe | peer | ratio | from |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row[:4])} | `{row[4]}.json` |" for row in rows(results)]
    machine = _read(results / "overhead.json").get("machine")
    if machine:
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        lines += ["", f"On {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']:g} GiB, {versions}."]
    return "\n".join(lines)


def filled(readme: str, figures: str) -> str:
    """Return the README with `figures` between its marks."""
    head, _, rest = readme.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        sys.exit(f"README.md lacks {BEGIN} and {END}.")
    return f"{head}{BEGIN}\n{figures}\n{END}{tail}"


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms a trial"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text(), table(ROOT / "benchmarks" / "results")))
