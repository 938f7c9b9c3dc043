"""Ray Tune's side of benchmarks/faults.py: one session of a sweep, new or restored.

    python benchmarks/faulty_tune.py new|restore STORAGE_FOLDER MLFLOW_URI OUTCOME.json [TIME_BUDGET]

Its best settings for faults, by its documentation: three retries of a trial, checkpoints of trials (two kept), the
state of the experiment saved each second, a restore that takes up trials that have failed.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

TRIALS, NAME = 20, "faulty"


def tuner(how: str, storage: str, uri: str, budget: float | None) -> Any:
    """Return the sweep: a new one, or the one that is in the folder."""
    from benchmarks import faulty
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    if how == "restore":
        return tune.Tuner.restore(f"{storage}/{NAME}", faulty.train_in_ray_tune, resume_errored=True)
    return tune.Tuner(
        faulty.train_in_ray_tune,
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            num_samples=TRIALS,
            search_alg=OptunaSearch(seed=0),
            scheduler=ASHAScheduler(max_t=faulty.REPORTS, grace_period=4, reduction_factor=2),
            reuse_actors=True,
            max_concurrent_trials=2,
            time_budget_s=budget,
        ),
        run_config=tune.RunConfig(
            name=NAME,
            storage_path=storage,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=3),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            callbacks=[MLflowLoggerCallback(tracking_uri=uri, experiment_name=NAME)],
        ),
    )


def outcome(made: Any, results: Any) -> dict[str, Any]:
    """Return what Ray Tune says of its trials, and what its searcher knows."""
    analysis = results._experiment_analysis
    searcher = made._local_tuner._tune_config.search_alg
    study = searcher._ot_study
    return {
        "trials": [
            [trial.config["x"], trial.status, trial.last_result.get("training_iteration", 0)]
            for trial in analysis.trials
        ],
        "errors": results.num_errors,
        "searcher": Counter(trial.state.name for trial in study.trials) if study is not None else {},
    }


def main() -> None:
    import ray

    how, storage, uri, path = sys.argv[1:5]
    budget = float(sys.argv[5]) if len(sys.argv) > 5 else None
    # What trials note, and their modules, must reach Ray's workers.
    environment = {key: value for key, value in os.environ.items() if key.startswith("FAULTS_")}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {**environment, "PYTHONPATH": os.environ["PYTHONPATH"]}},
    )
    made = tuner(how, storage, uri, budget)
    results = made.fit()
    Path(path).write_text(json.dumps(outcome(made, results)))
    ray.shutdown()


if __name__ == "__main__":
    main()
