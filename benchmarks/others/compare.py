"""Swathe beside Optuna alone, hydra-optuna-sweeper and Syne Tune: 200 trials of digits, and 200 that do nothing.

    python benchmarks/others/compare.py                          # medians of five, in turns; some 22 minutes
    python benchmarks/others/compare.py --trials 4 --repeat 1    # a quick look, which writes no results
    python benchmarks/others/compare.py --only swathe threads    # some of the tools

Whole commands, from the start of the process to its end, without pruning. All train the very same 200 points, network
(64-128-10, batch 64, fused AdamW, 20 epochs) and prepared data, in two processes or threads of one thread each.

* Optuna 5 with `n_jobs` threads, study in memory; and as processes that share a journal file. Each loss is reported.
* hydra-optuna-sweeper 1.3.0 (Optuna 2.10, in an environment of its own) with its joblib launcher. All trials are one
  batch, so that none waits for the slowest of a batch: a search that learns could not do that.
* Syne Tune 0.16 (an environment of its own) with its local backend, which starts a process for each trial. It runs a
  tenth of the trials; the rest is carried on at what a trial cost while it tuned, without its start.
* Swathe records all of it in MLflow, which none of the others does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import commands, digits, machine  # noqa: E402 - the script runs from anywhere
from benchmarks.others import environments, work  # noqa: E402
from benchmarks.overhead import QUIET  # noqa: E402
from benchmarks.spread import figure, said  # noqa: E402

TRIALS, EPOCHS = 200, 20
KINDS = ("digits", "noop")
# Of the trials, Syne Tune runs one in so many.
SYNE_TUNE_SHARE = 10
HERE = ROOT / "benchmarks" / "others"
ENVIRONMENT = QUIET | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
NAMES = {
    "threads": "Optuna, n_jobs threads",
    "processes": "Optuna, processes on a journal",
    "hydra": "hydra-optuna-sweeper 1.3.0, joblib",
    "syne_tune": "Syne Tune 0.16, local backend",
}
Run = Callable[[Path, int], float]


def optuna_alone(form: str) -> Run:
    def run(folder: Path, trials: int) -> float:
        command = [sys.executable, str(HERE / "optuna_alone.py"), str(folder), form]
        seconds, _ = commands.timed(NAMES[form], command, ENVIRONMENT)
        _checked(form, _outcome(folder)["trials"], trials)
        return seconds

    return run


def hydra(folder: Path, trials: int) -> float:
    indices = ",".join(map(str, range(trials)))
    words = ["-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra/launcher=joblib"]
    words += [f"hydra.launcher.n_jobs={commands.CORES}", f"hydra.sweeper.n_jobs={trials}"]
    words += [f"hydra.sweeper.n_trials={trials}", "hydra.sweeper.direction=minimize", f"hydra.sweep.dir={folder}/sweep"]
    words += [f"folder={folder}", f"index=choice({indices})"]
    interpreter = environments.python("hydra-optuna-sweeper")
    command = [str(interpreter), "-W", "ignore", str(HERE / "hydra_app.py"), *words]
    seconds, _ = commands.timed(NAMES["hydra"], command, ENVIRONMENT)
    _checked("hydra", len([one for one in (folder / "sweep").iterdir() if one.name.isdecimal()]), trials)
    return seconds


def syne_tune(folder: Path, trials: int) -> float:
    """Run a tenth of the trials; returns the seconds that all of them would take."""
    run = max(1, trials // SYNE_TUNE_SHARE)
    known = work.facts(folder)
    (folder / "work.json").write_text(json.dumps(known | {"trials": run}))
    interpreter = environments.python("syne-tune")
    command = [str(interpreter), "-W", "ignore", str(HERE / "syne_tune_local.py"), str(folder)]
    seconds, _ = commands.timed(NAMES["syne_tune"], command, ENVIRONMENT)
    outcome = _outcome(folder)
    if outcome["trials"] < run:
        sys.exit(f"Syne Tune: {outcome['trials']} of {run} trials are over.")
    return float(seconds + outcome["tuning_seconds"] * (trials / outcome["trials"] - 1))


def swathe(kind: str, home: Path) -> Run:
    """Return what launches the same points in a home whose caches are warm."""
    names = {"digits": "optim.lr", "noop": "params.x"}

    def run(folder: Path, trials: int) -> float:
        commands.forget(home)
        rates = work.points(trials) if kind == "digits" else [(index + 0.5) / trials for index in range(trials)]
        space = f"sweep.space={{{names[kind]}: 'choice({','.join(map(str, rates))})'}}"
        words = ["launch", str(ROOT / "benchmarks" / f"{kind}.yaml"), "--quiet", "sampler=grid", "pruner=none"]
        words += ["sweep.name=others", f"sweep.trials={trials}", space]
        words += [f"epochs={work.facts(folder)['epochs']}", "device=cpu"] if kind == "digits" else []
        environment = QUIET | {"SWATHE_HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
        seconds, _ = commands.timed("Swathe", [sys.executable, "-m", "swathe.cli", *words], environment)
        _checked("Swathe", commands.count_recorded(home / "mlflow.db")["trials"], trials)
        return seconds

    return run


def _outcome(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return found


def _checked(tool: str, ran: int, asked: int) -> None:
    if ran != asked:
        sys.exit(f"{tool}: {ran} of {asked} trials are over.")


def measure(tools: dict[str, Run], dataset: Any, kind: str, trials: int, epochs: int) -> dict[str, float]:
    """Run every tool once, each in a new folder; prints a line for each."""
    found = {}
    for name, run in tools.items():
        with tempfile.TemporaryDirectory(prefix="others-") as made:
            facts = {"kind": kind, "trials": trials, "epochs": epochs, "workers": commands.CORES}
            work.keep(dataset, Path(made), facts)
            found[name] = run(Path(made), trials)
        print(f"{kind}, {trials} trials: {NAMES.get(name, 'Swathe')} {found[name]:.1f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--repeat", type=int, default=commands.REPEATS, metavar="N")
    parser.add_argument("--only", nargs="+", choices=("swathe", *NAMES), default=["swathe", *NAMES])
    options = parser.parse_args()
    from swathe.training.data import load
    from swathe.training.recipe import Data

    runs: dict[str, dict[str, list[float]]] = {kind: {} for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="others-") as made:
        home = Path(made) / "home"
        commands.warm(digits.WORK, home)
        dataset = load(Data("digits"), home / "data")
        for _ in range(options.repeat):
            for kind in KINDS:
                tools: dict[str, Run] = {
                    "swathe": swathe(kind, home),
                    "threads": optuna_alone("threads"),
                    "processes": optuna_alone("processes"),
                    "hydra": hydra,
                    "syne_tune": syne_tune,
                }
                chosen = {name: run for name, run in tools.items() if name in options.only}
                for name, seconds in measure(chosen, dataset, kind, options.trials, options.epochs).items():
                    runs[kind].setdefault(name, []).append(seconds)
    figures = {}
    for kind, found in runs.items():
        ours = found.get("swathe", [])
        for name, seconds in found.items():
            print(f"{kind}, {options.trials} trials: {NAMES.get(name, 'Swathe')} {said(seconds, 's')}")
            if name in NAMES:
                note = "carried on from a tenth of the trials" if name == "syne_tune" else ""
                figures[f"{kind}-{name}"] = figure("s", ours, seconds, NAMES[name], note)
    content = {
        "what": __doc__.splitlines()[0],
        "trials": options.trials,
        "epochs": options.epochs,
        "figures": figures,
        "machine": machine.describe("ray", "optuna", "mlflow", "torch"),
    }
    whole = (options.trials, options.epochs, options.only) == (TRIALS, EPOCHS, ["swathe", *NAMES])
    machine.keep("others", content, whole=whole and options.repeat >= commands.REPEATS)


if __name__ == "__main__":
    main()
