"""What a sampler sees: a study with other trials than its own, where these are to guide what is drawn.

Optuna's samplers ask a study for its trials. A view answers in the study's place, so that trials of earlier sweeps,
or values at another step, reach the sampler and nobody else: the storage, the budget and the record know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

# Makes, of a study's trials by number, those that a sampler is to see.
Sight = Callable[[list[FrozenTrial]], list[FrozenTrial]]


def with_earlier(earlier: Sequence[FrozenTrial]) -> Sight:
    """Return the sight of a study whose trials come after those of other sweeps."""
    before = list(earlier)
    return lambda trials: [*before, *trials]


class _View:
    """A study but for its trials."""

    def __init__(self, study: optuna.Study, sight: Sight) -> None:
        self._study = study
        self._sight = sight
        self._seen: list[FrozenTrial] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        # A view is for one draw, and nothing changes meanwhile that this draw has not written itself.
        if self._seen is None:
            self._seen = self._sight(self._study._get_trials(deepcopy=False))
        return [trial for trial in self._seen if states is None or trial.state in states]

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)


class Seeing(BaseSampler):
    """Draws one trial as another sampler would in the study that is seen."""

    def __init__(self, sampler: BaseSampler, sight: Sight) -> None:
        self._sampler = sampler
        self._sight = sight
        self._view: _View | None = None

    def _of(self, study: optuna.Study) -> optuna.Study:
        if self._view is None:
            self._view = _View(study, self._sight)
        return cast("optuna.Study", self._view)

    def reseed_rng(self) -> None:
        """Do as the other sampler does."""
        self._sampler.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Infer from the trials that are seen what is drawn together."""
        return self._sampler.infer_relative_search_space(self._of(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw together, from the trials that are seen."""
        return self._sampler.sample_relative(self._of(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter, from the trials that are seen."""
        return self._sampler.sample_independent(self._of(study), trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Do as the other sampler does."""
        self._sampler.before_trial(self._of(study), trial)


def seen_trial(
    number: int,
    state: TrialState,
    value: float | None,
    *,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    reports: Mapping[int, float] | None = None,
) -> FrozenTrial:
    """Build a trial that is to be seen; nothing is checked."""
    return FrozenTrial(
        number=number,
        trial_id=-1,
        state=state,
        value=value,
        datetime_start=None,
        datetime_complete=None,
        params=dict(params),
        distributions=dict(distributions),
        user_attrs={},
        system_attrs={},
        intermediate_values=dict(reports or {}),
    )
