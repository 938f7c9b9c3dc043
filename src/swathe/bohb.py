"""BOHB (Falkner et al. 2018, arXiv:1807.01774): a model of the values at the highest budget of which enough are known.

Hyperband or asynchronous successive halving decides how long trials train; their rungs are the budgets. Optuna's TPE,
even next to its Hyperband pruner, compares complete trials with each other, and counts pruned ones by how far they got
(its `_BracketStudy` filters `get_trials`, which no sampler calls any more). BOHB compares all trials that have reached
a rung by their values there, those included that still run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from optuna.trial import FrozenTrial, TrialState

from swathe.pruners import Rungs
from swathe.seen import Sight, seen_trial


def at_highest_budget(rungs: Rungs, least: int, *, minimize: bool) -> Sight:
    """Return the sight of the trials that have reached the highest budget which at least `least` trials have reached.

    Each is seen as complete, with its value there: at a trial's own end if it is complete, else at its first report at
    or after the rung's step. A value that is not a number is the worst one. Nothing is seen where no budget has enough.
    """
    worst = math.inf if minimize else -math.inf

    def sight(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        complete = [_valued(trial, trial.value, worst) for trial in trials if trial.state is TrialState.COMPLETE]
        if len(complete) >= least:
            return complete
        last = max((max(trial.intermediate_values, default=0) for trial in trials), default=0)
        for step in rungs.below(last):
            reached = [*_at(step, trials, worst)]
            if len(reached) >= least:
                return reached
        return []

    return sight


def _at(step: int, trials: Sequence[FrozenTrial], worst: float) -> Iterator[FrozenTrial]:
    for trial in trials:
        first = min((reported for reported in trial.intermediate_values if reported >= step), default=None)
        if first is not None and trial.state is not TrialState.FAIL:
            yield _valued(trial, trial.intermediate_values[first], worst)


def _valued(trial: FrozenTrial, value: float | None, worst: float) -> FrozenTrial:
    known = worst if value is None or math.isnan(value) else value
    return seen_trial(trial.number, TrialState.COMPLETE, known, params=trial.params, distributions=trial.distributions)


def draws_at_random(seed: int, number: int, fraction: float) -> bool:
    """Say whether a trial is one of the share that is drawn without the model, which keeps Hyperband's guarantees."""
    return random.Random(f"{seed} {number} bohb").random() < fraction
