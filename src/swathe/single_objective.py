"""A study of several objectives as one of the first alone: for what is about one number."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState


def by_first(study: optuna.Study) -> optuna.Study:
    """Return a study of one objective as it is; of several, a copy in memory that has the first one alone."""
    if len(study.directions) == 1:
        return study
    alone = optuna.create_study(study_name=study.study_name, direction=study.directions[0])
    alone.add_trials(
        [_by_first(trial) for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()],
    )
    return alone


def _by_first(trial: FrozenTrial) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=trial.state,
        value=trial.values[0] if trial.state == TrialState.COMPLETE else None,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        system_attrs=trial.system_attrs,
        intermediate_values=trial.intermediate_values,
    )
