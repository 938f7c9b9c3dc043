"""Make docs/benchmarks.md's figures and plots from benchmarks/results; nothing between its two marks is by hand.

python benchmarks/book.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import plots  # noqa: E402 - the script runs from anywhere
from benchmarks.rows import FURTHER, OURS, PEERS, Line, Row  # noqa: E402
from benchmarks.spread import figure, spread  # noqa: E402

BEGIN, END = "<!-- book:begin -->", "<!-- book:end -->"
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"
PROFILES = ROOT / "docs" / "profiles"
RAY_TUNE = "Ray Tune"
HEAD = ("what", "target", "Swathe", "peer", "ratio", "")
# A row in the page's tables.
Cells = Sequence[str]


def read(name: str, results: Path = RESULTS) -> dict[str, Any]:
    """Return a file of the results; {} where its script has not run."""
    path = results / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content


def figures(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's figures by key: those that its script made, and those that whole commands give."""
    made = {"digits": _digits, "fashion_mnist": _fashion_mnist, "overhead": _overhead, "gpu": _gpu}.get(name)
    found = {} if made is None or not content else made(content)
    return found | content.get("figures", {})


def _seconds(row: Mapping[str, Any]) -> list[float]:
    return list(row.get("all_seconds", [row["seconds"]]))


def _digits(content: Mapping[str, Any]) -> dict[str, Any]:
    ours = _seconds(content["swathe"])
    note = f"{content['swathe']['cold_seconds']:.0f} s the first time, caches cold"
    return {
        "digits": figure("s", ours, _seconds(content["ray_tune"]), f"{RAY_TUNE}, MLflow", note),
        "digits-bare": figure("s", ours, _seconds(content["ray_tune_without_tracking"]), f"{RAY_TUNE}, no record"),
        "digits-pruned": figure("s", _seconds(content["pruned"])),
    }


def _fashion_mnist(content: Mapping[str, Any]) -> dict[str, Any]:
    ours, peer = content["swathe"], content["ray_tune"]
    name = f"{RAY_TUNE}, no record"
    epochs = content["trials"] * content["epochs"]
    rates = [
        [epochs / seconds for seconds in row.get("all_training_seconds", [row["training_seconds"]])]
        for row in (ours, peer)
    ]
    note = f"the limit of these cores is {content['limit']['ratio']:.2f}x"
    return {
        "fashion": figure("trial-epochs a second", *rates, name, note),
        "fashion-command": figure("s", _seconds(ours), _seconds(peer), name),
    }


def _overhead(content: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for row in content["rows"]:
        costs = [[1000 * one / row["trials"] for one in _seconds(row[tool])] for tool in ("swathe", "ray_tune")]
        note = f"{RAY_TUNE} carried on from fewer trials" if row["ray_tune"].get("extrapolated") else ""
        found[f"noop-{row['trials']}"] = figure("ms a trial", *costs, f"{RAY_TUNE}, actors reused, MLflow", note)
    further = content["ms_per_further_trial"]
    peer = f"{RAY_TUNE}, actors reused, MLflow"
    return found | {"noop-further": figure("ms a trial", [further["swathe"]], [further["ray_tune"]], peer)}


def _gpu(content: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if sweeps := content.get("sweeps"):
        ours = _rates(sweeps["swathe"])
        for key, word in (("gpu-process", "one process"), ("gpu-mps", "MPS"), ("gpu-share", "share")):
            for form, row in sweeps["ray_tune"].items():
                if word in form:
                    found[key] = figure(
                        "trial-epochs a second", ours, _rates(row), f"{RAY_TUNE}, {form}", sweeps.get("note", "")
                    )
    if steps := content.get("steps"):
        best = min(steps["by_lanes"], key=lambda row: float(row["compiled"]))
        turns = best.get("compiled_all", [best["compiled"]]), steps.get("memory_us_all", [steps["memory_us"]])
        rate = [[1 / us for us in every] for every in turns]
        limit = f"the limit is {steps['memory_us']:.2f} us"
        note = f"{best['compiled']:.2f} us a step of one of {best['lanes']} lanes, {limit}"
        found["gpu-memory"] = figure("steps a us", *rate, "the memory's limit", note)
    return found


def _rates(row: Mapping[str, Any]) -> list[float]:
    # Files of one run have no list of them.
    return list(row.get("all_trial_epochs_per_second", [row["trial_epochs_per_second"]]))


def ratio(found: Mapping[str, Any], *, rate: bool) -> dict[str, float] | None:
    """Return how many times better than the peer: of the medians, and between the worst and the best that runs allow.

    Figures that come in pairs, as the seeds of a search, bring their own ratios.
    """
    if "ratios" in found:
        return spread(found["ratios"])
    ours, peer = found.get("swathe"), found.get("peer")
    if ours is None or peer is None or "%" in found["unit"]:
        return None
    less, more = (peer, ours) if rate else (ours, peer)
    return {
        "median": more["median"] / less["median"],
        "least": more["least"] / less["most"],
        "most": more["most"] / less["least"],
    }


def met(line: Line, found: Mapping[str, Any]) -> bool | None:
    """Whether the median reaches the bound; None where there is no bound, or nothing to hold against it."""
    if line.bound is None:
        return None
    if line.bound.ratio:
        times = ratio(found, rate=line.rate)
        return None if times is None else times["median"] >= line.bound.value
    return bool(found["swathe"]["median"] <= line.bound.value) if "swathe" in found else None


def cells(line: Line, found: Mapping[str, Any] | None, *, ran: bool = False) -> Cells:
    """Return a line of a table; one that was not measured says why. `ran`: its script did, at some time."""
    target = line.bound.words() if line.bound else ""
    if found is None:
        why = "has not run since it measures this" if ran else "has not run"
        return line.words, target, "not measured yet", "", "", f"`benchmarks/{line.source}` {why}"
    times = ratio(found, rate=line.rate)
    reached = met(line, found)
    verdict = {True: "met", False: "**missed**", None: ""}[reached]
    note = found.get("note", "")
    return (
        f"{line.words} (`{line.result}.json`)",
        target,
        _shown(found.get("swathe"), found["unit"]),
        f"{found['peer']['name']}: {_shown(found['peer'], found['unit'])}" if "peer" in found else "",
        "" if times is None else _times(times),
        "; ".join(word for word in (verdict, note) if word),
    )


def _shown(found: Mapping[str, Any] | None, unit: str) -> str:
    if found is None:
        return ""
    runs = (
        "1 run"
        if found["runs"] == 1
        else f"{_number(found['least'])} to {_number(found['most'])}, {found['runs']} runs"
    )
    return f"{_number(found['median'])} {unit} ({runs})"


def _times(times: Mapping[str, float]) -> str:
    middle = f"{_number(times['median'])}x"
    if times["least"] == times["most"]:
        return middle
    return f"{middle} ({_number(times['least'])} to {_number(times['most'])})"


def _number(value: float) -> str:
    """Return three digits that count, and no exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def table(head: Cells, rows: Sequence[Cells]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(rows: Sequence[Row], all_figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield each row: what was set in words, and the table of what answers it."""
    for row in rows:
        yield f"**{row.what}**: {row.set}"
        found = [(line, all_figures[line.result]) for line in row.lines]
        yield table(HEAD, [cells(line, figures_of.get(line.key), ran=bool(figures_of)) for line, figures_of in found])


def missed(all_figures: Mapping[str, Mapping[str, Any]], profiles: Path) -> Iterator[str]:
    """Yield a sentence for each target that was missed, and every profile that there is."""
    found = False
    for row in OURS:
        for line in row.lines:
            figures_of = all_figures[line.result].get(line.key)
            if figures_of is not None and met(line, figures_of) is False:
                found = True
                _, _, swathe, _, times, _ = cells(line, figures_of)
                assert line.bound is not None
                reached = times if line.bound.ratio else swathe
                yield f"* {row.what}: {line.words}: {reached}, where {line.bound.words()} was to be reached."
    if not found:
        yield "* No target that was measured was missed."
    for page in sorted(profiles.glob("*.md")):
        title = page.read_text().partition("# ")[2].partition("\n")[0]
        yield f"* Profile: [{title}](profiles/{page.name})."


def machines(results: Path, names: Sequence[str]) -> Iterator[str]:
    """Yield for each file where and when it was measured."""
    for name in names:
        content = read(name, results)
        if not content:
            continue
        machine = content["machine"]
        versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
        gpu = f"{content['gpu']}, " if isinstance(content.get("gpu"), str) else ""
        when = f"{machine['date']}, commit {machine['commit']}" if "date" in machine else "before dates were kept"
        yield (
            f"* `{name}.json`: {when}; {gpu}{machine['cores']} cores ({machine['cpu']}), "
            f"{machine['memory_gib']:g} GiB, {machine['system']}, Python {machine['python']}, {versions}."
        )


def book(results: Path = RESULTS, profiles: Path = PROFILES) -> str:
    """Return what stands between the marks."""
    rows = (*OURS, *PEERS, *FURTHER)
    names = list(dict.fromkeys(line.result for row in rows for line in row.lines))
    found = {name: figures(name, read(name, results)) for name in names}
    lines = [line for row in OURS for line in row.lines if line.bound]
    verdicts = [met(line, found[line.result][line.key]) for line in lines if line.key in found[line.result]]
    total = f"{verdicts.count(True)} of {len(lines)} targets are met, {verdicts.count(False)} are missed, "
    parts = [
        "## The figures",
        f"{total}{len(lines) - len(verdicts)} are not measured yet. Medians; in brackets the least and the most of all "
        "runs. A ratio's brackets are the worst and the best that these allow; above 1 Swathe is better.",
        "### To reach",
        *section(OURS, found),
        "### Peers, as they were measured before, and here",
        *section(PEERS, found),
        "### Further",
        *section(FURTHER, found),
        "### Plots",
        *(f"![{title}](images/{name})" for name, (title, _) in drawn(results).items()),
        "### Where a target is missed",
        "\n".join(missed(found, profiles)),
        "### Where and when",
        "\n".join(machines(results, names)),
    ]
    return "\n\n".join(parts)


def drawn(results: Path = RESULTS) -> dict[str, tuple[str, str]]:
    """Return the plots by their file's name: what they show, and the picture."""
    return plots.all_of(lambda name: read(name, results))


def filled(page: str, made: str) -> str:
    """Return the page with what was made between its marks."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        sys.exit(f"docs/benchmarks.md lacks {BEGIN} and {END}.")
    return f"{head}{BEGIN}\n\n{made}\n\n{END}{tail}"


def main() -> None:
    pictures = drawn()
    for name, (_, picture) in pictures.items():
        (PAGE.parent / "images" / name).write_text(picture)
    for old in (PAGE.parent / "images").glob("benchmark-*.svg"):
        if old.name not in pictures:
            old.unlink()
    PAGE.write_text(filled(PAGE.read_text(), book()))


if __name__ == "__main__":
    main()
