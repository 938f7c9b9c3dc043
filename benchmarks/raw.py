"""What the two libraries under both tools cost by themselves: a trial in Optuna's storages, single calls of MLflow.

    python benchmarks/raw.py                           # medians of five, in turns; some 2 minutes
    python benchmarks/raw.py --trials 5 --repeat 1     # a quick look, which writes no results

Optuna: ask (TPE, one parameter), ten reports with a decision of its median pruner after each, tell; milliseconds a
trial, in memory, in a journal file and on SQLite. Beside its journal stands Swathe's way to one, with TPE and a pruner
that decides at each report, as benchmarks/storage.py drives it. MLflow on SQLite, milliseconds a call: a run created,
100 metrics and 10 parameters in one batch, one metric, a run ended.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import optuna  # noqa: E402 - the script runs from anywhere
from benchmarks import machine, storage  # noqa: E402
from benchmarks.noop import losses  # noqa: E402
from benchmarks.spread import figure, said  # noqa: E402
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage  # noqa: E402
from optuna.storages.journal import JournalFileBackend  # noqa: E402

TRIALS, REPEATS = 100, 5
METRICS, PARAMS = 100, 10
STORAGES: dict[str, Callable[[Path], BaseStorage]] = {
    "memory": lambda folder: InMemoryStorage(),
    "journal": lambda folder: JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
    "sqlite": lambda folder: RDBStorage(f"sqlite:///{folder}/study.db"),
}


def optuna_trials(store: BaseStorage, trials: int) -> float:
    """Return the milliseconds of a trial."""
    study = optuna.create_study(storage=store, direction="minimize", sampler=optuna.samplers.TPESampler(seed=0))
    began = time.perf_counter()
    for _ in range(trials):
        trial = study.ask()
        loss = 0.0
        for step, loss in enumerate(losses({"x": trial.suggest_float("x", 0.0, 1.0)}), start=1):
            trial.report(loss, step)
            trial.should_prune()
        study.tell(trial, loss)
    return 1000 * (time.perf_counter() - began) / trials


def mlflow_calls(folder: Path, runs: int) -> dict[str, float]:
    """Return the milliseconds of each call, medians over the runs."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("raw")
    taken: dict[str, list[float]] = {"create": [], "batch": [], "metric": [], "terminate": []}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        found = call()
        taken[name].append(1000 * (time.perf_counter() - began))
        return found

    for number in range(runs):
        run = timed("create", lambda: client.create_run(experiment)).info.run_id
        metrics = [Metric(f"m{one % 10}", number + one / 7, 0, one // 10) for one in range(METRICS)]
        params = [Param(f"p{one}", str(one)) for one in range(PARAMS)]
        timed("batch", lambda run=run, m=metrics, p=params: client.log_batch(run, metrics=m, params=p))
        timed("metric", lambda run=run: client.log_metric(run, "one", 0.5, step=1))
        timed("terminate", lambda run=run: client.set_terminated(run))
    return {name: median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--repeat", type=int, default=REPEATS, metavar="N")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.disable(logging.INFO)
    runs: dict[str, list[float]] = {}
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory(prefix="raw-") as name:
            folder = Path(name)
            for kind, store in STORAGES.items():
                runs.setdefault(kind, []).append(optuna_trials(store(folder), options.trials))
            (folder / "swathe").mkdir()
            seconds, _ = storage.run_swathe(folder / "swathe", None, "tpe", 1, options.trials)
            runs.setdefault("swathe", []).append(1000 * seconds / options.trials)
            for call, milliseconds in mlflow_calls(folder, options.trials).items():
                runs.setdefault(f"mlflow-{call}", []).append(milliseconds)
    figures = {}
    for kind in STORAGES:
        ours = runs["swathe"] if kind == "journal" else []
        figures[f"raw-{kind}"] = figure("ms a trial", ours, runs[kind], f"Optuna, {kind}")
        print(f"A trial in Optuna's storage, {kind}: {said(runs[kind], 'ms')}")
    print(f"A trial in Swathe's journal: {said(runs['swathe'], 'ms')}")
    for call in ("create", "batch", "metric", "terminate"):
        figures[f"raw-mlflow-{call}"] = figure("ms a call", peer=runs[f"mlflow-{call}"], name="MLflow, SQLite")
        print(f"MLflow, {call}: {said(runs[f'mlflow-{call}'], 'ms')}")
    content = {
        "what": __doc__.splitlines()[0],
        "trials": options.trials,
        "figures": figures,
        "machine": machine.describe("optuna", "mlflow"),
    }
    machine.keep("raw", content, whole=options.trials == TRIALS and options.repeat >= REPEATS)


if __name__ == "__main__":
    main()
