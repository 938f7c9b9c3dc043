"""Optuna alone: `n_jobs` threads of one process, or processes that share a study, as its documentation has them.

    python benchmarks/others/optuna_alone.py FOLDER threads|processes

Threads keep the study in memory; processes share a journal file, which its documentation names for one machine. The
points are enqueued, and every loss is reported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import optuna  # noqa: E402 - the script runs from anywhere
from benchmarks.others import work  # noqa: E402
from optuna.storages import BaseStorage, JournalStorage  # noqa: E402
from optuna.storages.journal import JournalFileBackend  # noqa: E402

NAME = "alone"


def objective(folder: Path, trial: optuna.Trial) -> float:
    index = trial.suggest_int("index", 0, 10**6)
    loss = 0.0
    for step, loss in enumerate(work.trial(folder, index), start=1):
        trial.report(loss, step)
    return loss


def journal(folder: Path) -> BaseStorage:
    return JournalStorage(JournalFileBackend(str(folder / "journal.log")))


def be_worker(folder: Path, count: int) -> None:
    study = optuna.load_study(study_name=NAME, storage=journal(folder), sampler=optuna.samplers.RandomSampler())
    study.optimize(lambda trial: objective(folder, trial), n_trials=count)


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder, form = Path(sys.argv[1]), sys.argv[2]
    if form.isdecimal():
        be_worker(folder, int(form))
        return
    known = work.facts(folder)
    trials, workers = known["trials"], known["workers"]
    storage = None if form == "threads" else journal(folder)
    study = optuna.create_study(
        study_name=NAME, storage=storage, direction="minimize", sampler=optuna.samplers.RandomSampler()
    )
    for index in range(trials):
        study.enqueue_trial({"index": index})
    if form == "threads":
        study.optimize(lambda trial: objective(folder, trial), n_trials=trials, n_jobs=workers)
    else:
        shares = [trials // workers + (worker < trials % workers) for worker in range(workers)]
        command = [sys.executable, __file__, str(folder)]
        processes = [subprocess.Popen([*command, str(share)]) for share in shares]
        codes = [process.wait() for process in processes]
        if any(codes):
            sys.exit("A process of Optuna failed.")
    (folder / "outcome.json").write_text(json.dumps({"best": study.best_value, "trials": len(study.trials)}))


if __name__ == "__main__":
    main()
