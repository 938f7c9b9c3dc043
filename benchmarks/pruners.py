"""What one pruning decision costs, Swathe's against Optuna's own `should_prune`, as the trials become many.

Both get the same past trials and then the same reports of new ones, on Optuna's fastest storage (in memory), and must
decide the same. Only the decisions are timed, not the reports' way into the storage.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import optuna

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import machine  # noqa: E402 - the script runs from anywhere

from swathe import pruners  # noqa: E402
from swathe.events import Direction, TrialState  # noqa: E402

STEPS = 10
NEW_TRIALS = 100
ASHA = {"min_resource": 1, "reduction_factor": 2, "min_early_stopping_rate": 0, "bootstrap_count": 0}
MEDIAN = {"n_startup_trials": 5, "n_warmup_steps": 0, "interval_steps": 1, "n_min_trials": 1}
KINDS: Mapping[str, tuple[type[optuna.pruners.BasePruner], Mapping[str, Any]]] = {
    "asha": (optuna.pruners.SuccessiveHalvingPruner, ASHA),
    "median": (optuna.pruners.MedianPruner, MEDIAN),
}

STATES = {True: TrialState.PRUNED, False: TrialState.COMPLETE}
OPTUNA_STATES = {True: optuna.trial.TrialState.PRUNED, False: optuna.trial.TrialState.COMPLETE}


def curve(draw: random.Random) -> dict[int, float]:
    """Return the losses of a trial by step."""
    floor = draw.random()
    return {step: floor + draw.random() / step for step in range(1, STEPS + 1)}


def past_trial(values: Mapping[int, float]) -> optuna.trial.FrozenTrial:
    """Return a complete trial as Optuna keeps it, with its value in each rung of ASHA that it passed."""
    rungs = {f"completed_rung_{rung}": values[1 << rung] for rung in range(STEPS.bit_length())}
    return optuna.trial.create_trial(value=values[STEPS], intermediate_values=dict(values), system_attrs=rungs)


def play_optuna(study: optuna.Study, curves: Sequence[Mapping[int, float]]) -> tuple[list[bool], list[float]]:
    """Report the curves of new trials; returns the verdicts and how long each took (seconds)."""
    verdicts: list[bool] = []
    seconds: list[float] = []
    for values in curves:
        trial = study.ask()
        for step, value in values.items():
            trial.report(value, step)
            start = time.perf_counter()
            verdicts.append(trial.should_prune())
            seconds.append(time.perf_counter() - start)
            if verdicts[-1]:
                break
        study.tell(trial, None if verdicts[-1] else values[STEPS], OPTUNA_STATES[verdicts[-1]])
    return verdicts, seconds


def play_swathe(
    pruner: pruners.Pruner, first: int, curves: Sequence[Mapping[int, float]]
) -> tuple[list[bool], list[float]]:
    """Report the same to ours, numbering the trials from `first`."""
    verdicts: list[bool] = []
    seconds: list[float] = []
    for number, values in enumerate(curves, start=first):
        for step, value in values.items():
            start = time.perf_counter()
            verdicts.append(pruner.decide(number, step, value))
            seconds.append(time.perf_counter() - start)
            if verdicts[-1]:
                break
        pruner.finish(number, STATES[verdicts[-1]])
    return verdicts, seconds


def measure(name: str, trials: int) -> dict[str, Any]:
    """Return microseconds a decision for both (medians), with `trials` trials before."""
    kind, options = KINDS[name]
    draw = random.Random(trials)
    ours = pruners.build({"name": name, **options}, Direction.MINIMIZE, "benchmark")
    study = optuna.create_study(study_name="benchmark", direction="minimize", pruner=kind(**options))
    for number in range(trials):
        values = curve(draw)
        study.add_trial(past_trial(values))
        ours.restore(number, values, TrialState.COMPLETE)
    # What was restored is taken in at the first question; that is part of a resume, not of a decision.
    ours.next_decision(0, STEPS)
    curves = [curve(draw) for _ in range(NEW_TRIALS)]
    # One after the other, so that Optuna's walk through all trials does not empty the caches for ours.
    expected, theirs = play_optuna(study, curves)
    verdicts, mine = play_swathe(ours, trials, curves)
    if verdicts != expected:
        sys.exit(f"{name}: the decisions differ.")
    return {
        "pruner": name,
        "trials": trials,
        "decisions": len(mine),
        "optuna_us": round(1e6 * median(theirs), 1),
        "swathe_us": round(1e6 * median(mine), 2),
        "ratio": round(median(theirs) / median(mine), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1_000, 10_000])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = []
    for name in KINDS:
        for trials in sorted(options.trials):
            row = measure(name, trials)
            rows.append(row)
            print(
                f"{name:>6}, {trials:>6} trials: Optuna {row['optuna_us']:.0f} us a decision, "
                f"Swathe {row['swathe_us']:.1f} us: {row['ratio']:.0f} times less",
                flush=True,
            )
    content = {
        "what": __doc__.splitlines()[0],
        "reports_per_trial": STEPS,
        "rows": rows,
        "machine": machine.describe("optuna", "numpy"),
    }
    print(f"Written to {machine.write('pruners', content).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
