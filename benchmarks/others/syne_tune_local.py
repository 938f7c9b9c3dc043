"""Syne Tune with its local backend, which starts a process for each trial; in an environment of its own.

    python benchmarks/others/syne_tune_local.py FOLDER            # the tuner
    python benchmarks/others/syne_tune_local.py --folder FOLDER --index N    # a trial, which the tuner starts

The tuner looks for results every 0.1 s in place of every 5 s, and saves and prints nothing on the way. The trials that
run when the last one asked for is over are waited for, and count.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from benchmarks.others import work  # noqa: E402 - the script runs from anywhere

LOOK_SECONDS, NEVER = 0.1, 1e6


def train(folder: Path, index: int) -> None:
    from syne_tune import Reporter

    report = Reporter()
    for step, loss in enumerate(work.trial(folder, index), start=1):
        report(epoch=step, val_loss=loss)


def tune(folder: Path) -> None:
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import randint
    from syne_tune.optimizer.baselines import RandomSearch

    logging.getLogger().setLevel(logging.ERROR)
    known = work.facts(folder)
    trials = known["trials"]
    space = {"folder": str(folder), "index": randint(0, trials - 1)}
    points = [{"index": index} for index in range(trials)]
    tuner = Tuner(
        trial_backend=LocalBackend(entry_point=__file__),
        scheduler=RandomSearch(space, metrics=["val_loss"], points_to_evaluate=points),
        stop_criterion=StoppingCriterion(max_num_trials_finished=trials),
        n_workers=known["workers"],
        sleep_time=LOOK_SECONDS,
        results_update_interval=NEVER,
        print_update_interval=NEVER,
        wait_trial_completion_when_stopping=True,
        save_tuner=False,
    )
    began = time.perf_counter()
    tuner.run()
    seconds = time.perf_counter() - began
    status = tuner.tuning_status
    last = [found.last_metrics["val_loss"] for found in status.trial_metric_statistics.values()]
    outcome = {"trials": status.num_trials_completed, "tuning_seconds": seconds, "best": min(last)}
    (folder / "outcome.json").write_text(json.dumps(outcome))


def main() -> None:
    if sys.argv[1].startswith("--"):
        parser = argparse.ArgumentParser()
        parser.add_argument("--folder", type=Path, required=True)
        parser.add_argument("--index", type=int, required=True)
        options, _ = parser.parse_known_args()
        train(options.folder, options.index)
        return
    os.environ["SYNETUNE_FOLDER"] = str(Path(sys.argv[1]) / "syne-tune")
    tune(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
