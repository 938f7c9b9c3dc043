"""BOHB: which trials its model sees, and that it finds more than what it is compared with; and TPE beside Hyperband."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, create_trial

from swathe import pruners
from swathe.bohb import at_highest_budget, draws_at_random
from swathe.errors import BadInputError
from swathe.events import Direction, TrialState
from swathe.pruners import Rungs
from swathe.samplers import Known, build, sampler_seed
from swathe.space import Parameter, Space
from swathe.study import Study

SPACE = Space(
    {
        "lr": Parameter("lr", FloatDistribution(1e-4, 1.0, log=True)),
        "decay": Parameter("decay", FloatDistribution(0.0, 1.0)),
        "other": Parameter("other", FloatDistribution(0.0, 1.0)),
    }
)
COMPLETE, PRUNED, RUNNING = (
    optuna.trial.TrialState.COMPLETE,
    optuna.trial.TrialState.PRUNED,
    optuna.trial.TrialState.RUNNING,
)
HYPERBAND = {"name": "hyperband", "min_resource": 1, "max_resource": 27, "reduction_factor": 3}
STEPS = 27


def trial(number: int, state: optuna.trial.TrialState, reports: dict[int, float]) -> FrozenTrial:
    made = create_trial(
        state=state,
        value=list(reports.values())[-1] if state is COMPLETE else None,
        params={"x": number / 100},
        distributions={"x": FloatDistribution(0, 1)},
        intermediate_values=reports,
    )
    made.number = number
    return made


@pytest.mark.parametrize(
    ("options", "rungs"),
    [
        ({"name": "hyperband"}, Rungs(1, 3)),
        ({"name": "hyperband", "min_resource": 2, "max_resource": 9, "reduction_factor": 2}, Rungs(2, 2)),
        ({"name": "asha", "min_resource": 2}, Rungs(2, 4)),
        ({"name": "asha", "min_resource": 1, "min_early_stopping_rate": 2, "reduction_factor": 3}, Rungs(9, 3)),
        ({"name": "asha"}, None),
        ({"name": "asha", "min_resource": "auto"}, None),
        ({"name": "median"}, None),
        ({"name": "none"}, None),
    ],
)
def test_the_budgets_are_the_rungs_of_the_pruner(options: dict[str, Any], rungs: Rungs | None) -> None:
    assert pruners.rungs(options) == rungs


def test_without_rungs_it_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"sampler.name: 'bohb' is not allowed; allowed: with pruner=hyperband"):
        build({"name": "bohb"}, SPACE, 1)


def test_the_highest_budget_with_enough_trials_is_seen() -> None:
    see = at_highest_budget(Rungs(1, 3), 3, minimize=True)
    trials = [
        trial(0, COMPLETE, {1: 5.0, 2: 4.0, 3: 3.0, 9: 1.0}),
        trial(1, PRUNED, {1: 6.0, 4: 5.0}),
        trial(2, RUNNING, {1: 7.0, 2: 6.0, 3: math.nan}),
        trial(3, PRUNED, {1: 8.0}),
    ]
    assert see(trials[:2]) == []
    # Step 3 is a rung, and a trial that skips it is judged at its next report.
    assert [(seen.number, seen.value) for seen in see(trials)] == [(0, 3.0), (1, 5.0), (2, math.inf)]
    assert all(seen.state is COMPLETE for seen in see(trials))
    assert [seen.value for seen in see([trials[0], trials[1], trials[3]])] == [5.0, 6.0, 8.0]
    several = [trial(number, COMPLETE, {1: 2.0, 9: float(number)}) for number in range(3)]
    assert [seen.value for seen in see([*trials, *several])] == [1.0, 0.0, 1.0, 2.0]


@given(
    ends=st.lists(st.lists(st.floats(0, 9), min_size=1, max_size=30), max_size=12),
    least=st.integers(1, 5),
    factor=st.integers(2, 4),
)
def test_what_is_seen_has_reached_one_budget_and_no_higher_one_has_enough(
    ends: list[list[float]], least: int, factor: int
) -> None:
    trials = [trial(number, PRUNED, dict(enumerate(values, start=1))) for number, values in enumerate(ends)]
    seen = at_highest_budget(Rungs(1, factor), least, minimize=True)(trials)
    steps = [step for step in (factor**power for power in range(6)) if sum(len(one) >= step for one in ends) >= least]
    if not steps:
        assert seen == []
        return
    step = max(steps)
    assert [one.number for one in seen] == [number for number, values in enumerate(ends) if len(values) >= step]
    assert [one.value for one in seen] == [values[step - 1] for values in ends if len(values) >= step]


def test_a_share_is_drawn_at_random() -> None:
    drawn = sum(draws_at_random(1, number, 1 / 3) for number in range(3000))
    assert 900 < drawn < 1100


# A search of curves without training: deterministic, and short training says much, but not all, of long.


def curve(params: dict[str, Any], step: int) -> float:
    """Return the loss of a training that falls towards its own end, the faster the larger lr is."""
    lr, decay = math.log10(params["lr"]), params["decay"]
    end = 0.05 * (lr + 2.2) ** 2 + 0.4 * (decay - 0.3) ** 2 + 0.2 * params["other"]
    return float(end + math.exp(-step * 10 ** (0.5 * lr + 0.7)))


def search(folder: Path, sampler: dict[str, Any], seed: int, budget: int = 1400) -> float:
    """Return the best loss at the full length that a sweep finds with so many steps of training."""
    folder.mkdir()
    known = Known(rungs=pruners.rungs(HYPERBAND))
    study = Study.open(
        "s",
        folder=folder,
        storage=None,
        direction=Direction.MINIMIZE,
        sampler=sampler,
        space=SPACE,
        seed=seed,
        known=known,
    )
    pruner = pruners.build(HYPERBAND, Direction.MINIMIZE, f"s{seed}")
    best, used = math.inf, 0
    while used < budget:
        (proposal,) = study.ask(1).proposals
        state = TrialState.COMPLETE
        for step in range(1, STEPS + 1):
            value = curve(dict(proposal.params), step)
            study.record(proposal.trial, step, value)
            used += 1
            if pruner.decide(proposal.trial, step, value):
                state = TrialState.PRUNED
                break
        pruner.finish(proposal.trial, state)
        study.tell(proposal.trial, state, value, {})
        best = min(best, value) if state is TrialState.COMPLETE else best
    study.close()
    return best


@pytest.mark.slow
def test_it_finds_more_than_random_search_in_the_same_training(tmp_path: Path) -> None:
    found: dict[str, list[float]] = {"bohb": [], "random": []}
    for name, losses in found.items():
        losses += [search(tmp_path / f"{name}{seed}", {"name": name}, seed) for seed in range(8)]
    assert statistics.median(found["bohb"]) < 0.6 * statistics.median(found["random"])


def test_what_it_draws_is_a_function_of_the_seed_and_the_trials_before(tmp_path: Path) -> None:
    assert search(tmp_path / "a", {"name": "bohb"}, 3, 150) == search(tmp_path / "b", {"name": "bohb"}, 3, 150)


# TPE beside Hyperband: as Optuna has it, which is that TPE sees the trials of all brackets.


def test_tpe_beside_hyperband_draws_as_optuna_s_does(tmp_path: Path) -> None:
    theirs = optuna.create_study(
        study_name="s",
        sampler=optuna.samplers.RandomSampler(seed=1),
        pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=27, reduction_factor=3),
    )
    ours = Study.open(
        "s", folder=tmp_path, storage=None, direction=Direction.MINIMIZE, sampler={"name": "tpe"}, space=SPACE, seed=1
    )
    draw = random.Random(1)
    for number in range(30):
        theirs.sampler = optuna.samplers.TPESampler(seed=sampler_seed(1, number), multivariate=True, constant_liar=True)
        asked = theirs.ask({name: parameter.distribution for name, parameter in SPACE.parameters.items()})
        (proposal,) = ours.ask(1).proposals
        assert proposal.params == asked.params
        steps = draw.choice([1, 3, 27])
        for step in range(1, steps + 1):
            value = draw.random()
            asked.report(value, step)
            ours.record(number, step, value)
        # Once it was asked, Optuna's pruner has its brackets.
        asked.should_prune()
        theirs.tell(asked, value if steps == 27 else None, COMPLETE if steps == 27 else PRUNED)
        ours.tell(number, TrialState.COMPLETE if steps == 27 else TrialState.PRUNED, value, {})
    ours.close()
