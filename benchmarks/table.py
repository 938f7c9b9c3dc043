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
# Of the numbers of lanes that were measured, those in the table.
SHOWN_LANES = (1, 16)
# Of the numbers of workers that share a storage, the one in the table.
SHOWN_WORKERS = 8


def rows(results: Path) -> Iterator[tuple[str, ...]]:
    """Yield what was measured, Swathe's figure, the peer's, their ratio and the file, for every benchmark that ran."""
    yield from _digits(_read(results / "digits.json"))
    yield from _fashion_mnist(_read(results / "fashion_mnist.json"))
    for name in ("digits", "fashion_mnist"):
        yield from _gpu(name, _read(results / f"{name}.json"))
    yield from _lanes_on_gpu(_read(results / "gpu.json"))
    yield from _lanes(_read(results / "lanes.json"))
    yield from _gan(_read(results / "gan.json"))
    yield from _health(_read(results / "health.json"))
    yield from _overhead(_read(results / "overhead.json"))
    for row in _read(results / "scale.json").get("rows", []):
        if row["trials"] == 100_000:
            what = f"one event of the controller, {row['workers']:,} simulated workers, 100,000 trials"
            yield what, f"{row['us_per_event']:.0f} us (the longest {row['longest_ms']:.0f} ms)", "", "", "scale"
    for row in _read(results / "pruners.json").get("rows", []):
        if row["trials"] == 10_000:
            what = f"one decision of the pruner {row['pruner']} among 10,000 trials"
            peer = f"Optuna {row['optuna_us']:,.0f} us"
            yield what, f"{row['swathe_us']:.1f} us", peer, f"{row['ratio']:,.0f}x", "pruners"
    yield from _storage(_read(results / "storage.json"))
    yield from _resume(_read(results / "resume.json"))


def _digits(content: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    if not content:
        return
    ours, peer, bare = (content[name] for name in ("swathe", "ray_tune", "ray_tune_without_tracking"))
    figure = f"{ours['seconds']:.1f} s ({ours['cold_seconds']:.1f} s the first time)"
    what = f"digits, {content['trials']:,} trials x {content['epochs']} epochs, all recorded, whole command"
    yield what, figure, f"Ray Tune {peer['seconds']:.1f} s", f"{peer['ratio']:.1f}x", "digits"
    what = "the same, against Ray Tune without tracking"
    yield what, figure, f"Ray Tune {bare['seconds']:.1f} s", f"{bare['ratio']:.1f}x", "digits"
    pruned = content["pruned"]
    what = f"digits, {pruned['trials']:,} trials with pruning, recorded, whole command"
    yield what, f"{pruned['seconds']:.1f} s ({pruned['cold_seconds']:.1f} s the first time)", "", "", "digits"


def _fashion_mnist(content: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    if not content:
        return
    ours, peer, limit = (content[name] for name in ("swathe", "ray_tune", "limit"))
    size = f"{content['trials']} trials x {content['epochs']} epochs"
    what = f"Fashion-MNIST, {size}, recorded by Swathe alone, training"
    figures = (f"{row['trial_epochs_per_second']:.2f} trial-epochs a second" for row in (ours, peer))
    figure, theirs = figures
    yield what, figure, f"Ray Tune {theirs}", f"{peer['ratio']:.2f}x (limit {limit['ratio']:.2f}x)", "fashion_mnist"
    seconds = f"{ours['seconds']:.1f} s", f"Ray Tune {peer['seconds']:.1f} s"
    yield "the same, whole command", *seconds, f"{peer['command_ratio']:.2f}x", "fashion_mnist"


def _gpu(name: str, content: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    gpu = content.get("gpu")
    if not gpu:
        return
    for row in gpu["ray_tune"]:
        peer = f"Ray Tune, {row['form']}, {row['seconds']:.1f} s"
        yield f"{name} on one {gpu['device']}", f"{gpu['swathe']['seconds']:.1f} s", peer, f"{row['ratio']:.1f}x", name


def _lanes_on_gpu(content: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    card = content.get("gpu")
    if sweeps := content.get("sweeps"):
        ours = sweeps["swathe"]
        what = f"Fashion-MNIST, 784-128-10, on one {card}, recorded by Swathe alone, training"
        for form, row in sweeps["ray_tune"].items():
            figure, theirs = (f"{one['trial_epochs_per_second']:.1f} trial-epochs a second" for one in (ours, row))
            ratio = ours["trial_epochs_per_second"] / row["trial_epochs_per_second"]
            yield what, figure, f"Ray Tune, {form}, {theirs}", f"{ratio:.1f}x", "gpu"
    if steps := content.get("steps"):
        best = min(steps["by_lanes"], key=lambda row: float(row["compiled"]))
        what = f"784-128-10 on one {card}, a lane-step with {_counted(best['lanes'])}"
        peer = f"the memory's limit {steps['memory_us']:.2f} us"
        yield what, f"{best['compiled']:.2f} us", peer, f"{best['share_of_memory_limit']:.0%} of it", "gpu"


def _lanes(content: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for network in content.get("networks", []):
        solo = network["solo"]
        for row in network["by_lanes"]:
            ours = row["compiled"] or row["eager"]
            if row["lanes"] in SHOWN_LANES and ours:
                what = f"{network['network']} on {network['device']}, a lane-step with {_counted(row['lanes'])}"
                figure = f"{ours:.0f} us (limit {row['limit']:.0f} us)"
                yield what, figure, f"a step alone {solo:.0f} us", f"{solo / ours:.1f}x", "lanes"


def _gan(content: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    rows = {(row["program"], row["lanes"]): row["us"] for row in content.get("rows", [])}
    ours = rows.get(("compiled", max(SHOWN_LANES)))
    if ours is not None:
        alone = rows["alone", 1]
        what = f"a GAN on digits, a lane-step with {_counted(max(SHOWN_LANES))}"
        yield what, f"{ours:.0f} us", f"a step alone {alone:.0f} us", f"{alone / ours:.1f}x", "gan"


def _health(content: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in content.get("rows", []):
        what = f"an epoch of {_counted(row['lanes'])} of {row['network']}, with its health"
        ours, bare = f"{row['with_ms']:.1f} ms", f"without it {row['without_ms']:.1f} ms"
        yield what, ours, bare, f"{row['percent']:+.1f} %", "health"


def _overhead(content: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in content.get("rows", []):
        ours, peer = row["swathe"]["ms_per_trial"], row["ray_tune"]["ms_per_trial"]
        mark = " (carried over from fewer trials)" if row["ray_tune"].get("extrapolated") else ""
        what = f"{row['trials']:,} trials that do nothing, 10 reports each, pruning and MLflow on, whole command"
        yield what, _ms(ours), f"Ray Tune {_ms(peer)}{mark}", f"{row['ratio']:.1f}x", "overhead"
    further = content.get("ms_per_further_trial")
    if further:
        what = "the same, one further trial (no start in it)"
        peer = f"Ray Tune {_ms(further['ray_tune'])}"
        yield what, _ms(further["swathe"]), peer, f"{further['ratio']:.1f}x", "overhead"


def _storage(content: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in content.get("rows", []):
        if row["workers"] == SHOWN_WORKERS:
            best = max(row["optuna"], key=lambda peer: peer["trials_per_second"])
            what = f"storage: {row['storage']}, {row['sampler']}, {row['workers']} workers, trials of ten reports"
            peer = f"Optuna ({best['form']}) {_stored(best)}"
            yield what, _stored(row["swathe"]), peer, f"{row['ratio']:.1f}x", "storage"


def _stored(figures: dict[str, Any]) -> str:
    waits = f"{figures['decision_p99_ms']:.1f} ms, a next trial {figures['trial_p99_ms']:.0f} ms"
    return f"{figures['trials_per_second']:.1f} a second (p99: a decision {waits})"


def _resume(content: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in content.get("rows", []):
        what = f"resume of {row['trials']:,} trials, {row['storage']}: from the command to the first new report"
        empty = f"a sweep without trials {content['empty']['first_report_seconds']:.1f} s"
        ours = f"{row['first_report_seconds']:.1f} s"
        yield what, ours, empty, f"{row['beyond_launch_seconds']:+.1f} s", "resume"


def table(results: Path) -> str:
    """Return the table as Markdown, with the machines under it, each with the files that it made."""
    found = list(rows(results))
    lines = ["| what is measured | Swathe | peer | ratio | from |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row[:4])} | `{row[4]}.json` |" for row in found]
    made: dict[str, list[str]] = {}
    for name in dict.fromkeys(row[4] for row in found):
        made.setdefault(_machine(_read(results / f"{name}.json")["machine"]), []).append(f"`{name}.json`")
    sentences = [f"* {', '.join(files)}: {machine}." for machine, files in made.items()]
    return "\n".join([*lines, "", *sentences])


def _machine(machine: dict[str, Any]) -> str:
    # Not every benchmark uses all of what the others do.
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']:g} GiB, {versions}"


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


def _counted(lanes: int) -> str:
    return "1 lane" if lanes == 1 else f"{lanes} lanes"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms a trial"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text(), table(ROOT / "benchmarks" / "results")))
