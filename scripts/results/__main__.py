"""Run the sweeps that test claims, and write the pages of docs/results from their records.

    python -m scripts.results [--only NAME ...] [--home FOLDER]

A sweep whose record is complete is not run again; one that was stopped goes on. Pages are made again each time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts.results.charts import svg
from scripts.results.claims import CLAIMS
from scripts.results.finding import Claim, Finding
from scripts.results.page import page, picture
from scripts.results.trials import Record, read

from swathe import analysis
from swathe.config import compose_sweep
from swathe.errors import SwatheError
from swathe.home import Home

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "results"


def is_complete(home: Home, sweep: str, name: str, overrides: Sequence[str] = ()) -> bool:
    """Whether all trials of a sweep are over; raises `SwatheError` where the record is that of another sweep."""
    card = home.sweep(name).card()
    if card is None:
        return False
    composed = compose_sweep(sweep, overrides)
    if card.identity != composed.identity:
        folder = home.sweep(name).path
        raise SwatheError(f"The sweep {name!r} has changed since it was recorded in {folder}: give another --home.")
    counts = analysis.leaders(home, name, top=0)[0].counts
    return sum(count for state, count in counts.items() if state.final) >= composed.sweep.trials


def launch(home: Home, sweep: str, name: str, overrides: Sequence[str]) -> None:
    """Run a sweep to its end; raises `SwatheError` where it does not get there."""
    command = [sys.executable, "-m", "swathe.cli", "launch", sweep, *overrides]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"SWATHE_HOME": str(home.path)}, check=False)
    if done.returncode or not is_complete(home, sweep, name, overrides):
        raise SwatheError(f"The sweep {name!r} ended with exit code {done.returncode} before all its trials were over.")


def write(claim: Claim, home: Home, folder: Path) -> Finding:
    """Write a claim's page and charts from its sweep's record."""
    record = read_all(home, claim)
    finding = claim.read(record.trials)
    folder.mkdir(parents=True, exist_ok=True)
    for ending, chart in finding.charts.items():
        (folder / picture(claim, ending)).write_text(svg(chart))
    sweep = (ROOT / "sweeps" / f"{claim.name}.yaml").read_text()
    (folder / f"{claim.name}.md").write_text(page(claim, finding, record, sweep))
    return finding


def read_all(home: Home, claim: Claim) -> Record:
    """Return the record of a claim's own sweep, or of all of them, where the sweep's seed is among the parameters."""
    if not claim.seeds:
        return read(home, claim.name)
    records = [read(home, name) for name, _ in claim.launches]
    trials = [
        replace(trial, params={**trial.params, "sweep.seed": seed})
        for seed, record in enumerate(records)
        for trial in record.trials
    ]
    return Record(trials, [geometry for record in records for geometry in record.geometries])


def main(words: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CLAIMS, default=list(CLAIMS), metavar="NAME", help="these claims")
    parser.add_argument("--home", type=Path, default=ROOT / ".swathe" / "results", help="where the sweeps are recorded")
    options = parser.parse_args(words)
    home = Home(options.home.absolute())
    for name in options.only:
        try:
            for own, overrides in CLAIMS[name].launches:
                sweep = name if overrides else own
                if not is_complete(home, sweep, own, overrides):
                    launch(home, sweep, own, overrides)
            finding = write(CLAIMS[name], home, PAGES)
        except SwatheError as error:
            sys.exit(str(error))
        print(f"{name}: {finding.verdict}; docs/results/{name}.md", flush=True)


if __name__ == "__main__":
    main()
