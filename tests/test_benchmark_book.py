"""docs/benchmarks.md: what stands in it is what the files of benchmarks/results give, and no row is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import book, plots
from benchmarks.others import environments, work
from benchmarks.rows import FURTHER, OURS, PEERS, Bound, Line
from benchmarks.sleeping import overhead
from benchmarks.spread import figure, spread

PAGE = book.PAGE.read_text()
ROWS = (*OURS, *PEERS, *FURTHER)
LINES = [line for row in ROWS for line in row.lines]


def test_the_page_is_what_the_files_give() -> None:
    assert book.filled(PAGE, book.book()) == PAGE, "run: python benchmarks/book.py"


def test_the_plots_are_what_the_files_give() -> None:
    images = book.PAGE.parent / "images"
    made = {name: picture for name, (_, picture) in book.drawn().items()}
    assert {file.name: file.read_text() for file in images.glob("benchmark-*.svg")} == made


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what[:40])
def test_every_row_is_there_with_its_target(row: book.Row) -> None:
    assert f"**{row.what}**: {row.set}" in PAGE


@pytest.mark.parametrize("source", sorted({line.source for line in LINES}))
def test_the_script_of_every_row_exists_and_is_run_by_make(source: str) -> None:
    assert (book.ROOT / "benchmarks" / source).is_file()
    # A GPU is not everywhere: its script is run where there is one.
    assert source == "gpu.py" or f"benchmarks/{source}" in (book.ROOT / "Makefile").read_text()


def test_a_row_that_was_not_measured_says_why(tmp_path: Path) -> None:
    made = book.book(tmp_path, tmp_path)
    assert made.count("not measured yet | ") == len(LINES)
    assert "`benchmarks/sleeping.py` has not run" in made


def test_a_figure_has_its_runs_and_its_ratio() -> None:
    line = Line("a sweep", "digits", "digits", Bound(20, ratio=True))
    found = figure("s", [10.0, 12.0, 11.0], [200.0, 240.0], "Ray Tune", "a note")
    assert book.cells(line, found) == (
        "a sweep (`digits.json`)",
        "≥ 20x",
        "11.0 s (10.0 to 12.0, 3 runs)",
        "Ray Tune: 220 s (200 to 240, 2 runs)",
        "20.0x (16.7 to 24.0)",
        "met; a note",
    )


def test_more_of_a_rate_is_better() -> None:
    line = Line("training", "fashion_mnist", "fashion", Bound(2, ratio=True), rate=True)
    *_, times, verdict = book.cells(line, figure("epochs a second", [7.0], [4.0], "Ray Tune"))
    assert (times, verdict) == ("1.75x", "**missed**")


def test_a_share_has_no_ratio_and_is_held_against_its_bound() -> None:
    line = Line("record", "recording", "recording-digits", Bound(2, unit="%"))
    assert book.cells(line, figure("% of the wall time", [1.5], [80.0], "Ray Tune"))[1:] == (
        "≤ 2 %",
        "1.50 % of the wall time (1 run)",
        "Ray Tune: 80.0 % of the wall time (1 run)",
        "",
        "met",
    )


def test_seeds_bring_their_own_ratios() -> None:
    found = figure("s", [1.0, 10.0], [10.0, 20.0], "Ray Tune") | {"ratios": [10.0, 2.0]}
    assert book.ratio(found, rate=False) == spread([10.0, 2.0])


def test_a_target_that_was_missed_is_named_and_its_profile_linked(tmp_path: Path) -> None:
    (tmp_path / "digits.md").write_text("# The driver of `digits`, by cProfile\n")
    pruned = {row.result: {} for row in LINES} | {"digits": {"digits-pruned": figure("s", [70.0])}}
    missed = list(book.missed(pruned, tmp_path))
    assert missed == [
        "* 1,000-trial digits sweep with pruning: whole command, recorded: 70.0 s (1 run), "
        "where ≤ 60 s was to be reached.",
        "* Profile: [The driver of `digits`, by cProfile](profiles/digits.md).",
    ]


def sizes() -> dict[str, object]:
    numbers = {"ms_per_trial": 3.0, "driver_cpu_ms_per_trial": 1.0, "driver_mib": 180.0}
    rows = [{"kind": kind, "trials": trials, **numbers} for kind in ("noop", "digits") for trials in (100, 1000)]
    figures = {f"size-noop-{trials}": figure("ms a trial", [3.0], [200.0], "Ray Tune") for trials in (100, 1000)}
    return {"rows": rows, "figures": figures}


def test_plots_are_drawn_where_there_are_results() -> None:
    peers = ("threads", "processes", "hydra", "syne_tune")
    compared = {f"{kind}-{peer}": figure("s", [9.0], [30.0], peer) for kind in ("digits", "noop") for peer in peers}
    results: dict[str, dict[str, object]] = {
        "sizes": sizes(),
        "others": {"figures": compared},
        "quality": {"figures": {"quality-digits": figure("s", [5.0], [20.0], "Ray Tune")}},
        "memory": {"trials": 10, "rows": [{"trials": 5, "mib": {"driver": 100.0}}, {"trials": 10, "mib": {}}]},
    }
    drawn = plots.all_of(lambda name: results.get(name, {}))
    names = ("cost", "cpu", "memory", "others", "quality", "processes")
    assert list(drawn) == [f"benchmark-{name}.svg" for name in names]
    assert all(picture.startswith("<svg") for _, picture in drawn.values())
    assert plots.all_of(lambda name: {}) == {}


def test_the_spread_of_runs() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0, "runs": 3, "all": [3.0, 1.0, 2.0]}
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0])["low_quartile"] == 2.0


def test_slots_that_always_sleep_have_no_overhead() -> None:
    ran = [["1", "0", "1"], ["2", "5", "6"], ["1", "1", "2"], ["2", "6", "7"]]
    assert overhead(ran, 4.0) == 0.0
    assert overhead([*ran, ["1", "2.5", "3.5"]], 5.0) == pytest.approx(10.0)


def test_all_tools_get_the_same_points() -> None:
    rates = work.points(200)
    assert rates == work.points(200)
    assert rates[:20] == work.points(20)
    assert all(work.LR[0] <= rate <= work.LR[1] for rate in rates)


@pytest.mark.parametrize("name", environments.PACKAGES)
def test_what_peers_are_installed_from_has_exact_versions(name: str) -> None:
    assert all(package.count("==") == 1 for package in environments.PACKAGES[name])
