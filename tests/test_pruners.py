"""Every decision of ours is Optuna's: both play the same random histories."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swathe import pruners
from swathe.errors import BadInputError
from swathe.events import Direction, TrialState

Options = dict[str, Any]

STATES = {
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}
CLASSES: Mapping[str, Callable[..., optuna.pruners.BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "asha": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "patient": optuna.pruners.PatientPruner,
    "threshold": optuna.pruners.ThresholdPruner,
}
CURATED: list[Options] = [
    {"name": "none"},
    {"name": "asha"},
    {"name": "asha", "min_resource": 1, "reduction_factor": 2},
    {"name": "asha", "min_resource": 2, "reduction_factor": 3, "bootstrap_count": 4},
    {"name": "asha", "min_resource": 1, "reduction_factor": 2, "min_early_stopping_rate": 1},
    {"name": "hyperband"},
    {"name": "hyperband", "max_resource": 9},
    {"name": "hyperband", "min_resource": 2, "max_resource": 12, "reduction_factor": 2, "bootstrap_count": 1},
    {"name": "median"},
    {"name": "median", "n_startup_trials": 0, "n_warmup_steps": 2, "interval_steps": 3, "n_min_trials": 3},
    {"name": "percentile", "percentile": 25.0, "n_startup_trials": 1},
    {"name": "percentile", "percentile": 0, "n_startup_trials": 2},
    {"name": "percentile", "percentile": 100, "n_startup_trials": 2},
    {"name": "percentile", "percentile": 99.99999999999999, "n_startup_trials": 2},
    {"name": "percentile", "percentile": 33.3, "n_startup_trials": 1, "interval_steps": 2},
    {"name": "patient", "wrapped": None, "patience": 1},
    {"name": "patient", "wrapped": None, "patience": 0, "min_delta": 0.25},
    {"name": "patient", "wrapped": {"name": "median", "n_startup_trials": 1}, "patience": 2},
    {"name": "patient", "wrapped": {"name": "asha", "min_resource": 1, "reduction_factor": 2}, "patience": 0},
    {"name": "patient", "wrapped": {"name": "hyperband", "max_resource": 9}, "patience": 1, "min_delta": 0.1},
    {
        "name": "patient",
        "wrapped": {"name": "patient", "wrapped": {"name": "asha"}, "patience": 0},
        "patience": 1,
    },
    {"name": "threshold", "lower": -1.0},
    {"name": "threshold", "lower": -1.5, "upper": 1.0, "n_warmup_steps": 2, "interval_steps": 2},
]

_counts = st.integers(0, 4)
_intervals = st.fixed_dictionaries({"n_warmup_steps": st.integers(0, 5), "interval_steps": st.integers(1, 4)})
_startup = st.fixed_dictionaries({"n_startup_trials": _counts, "n_min_trials": st.integers(1, 4)})


def _named(name: str, *parts: st.SearchStrategy[Options]) -> st.SearchStrategy[Options]:
    return st.tuples(*parts).map(lambda chosen: {"name": name} | {k: v for part in chosen for k, v in part.items()})


_plain = st.one_of(
    _named(
        "asha",
        st.fixed_dictionaries(
            {
                "min_resource": st.integers(1, 4),
                "reduction_factor": st.integers(2, 5),
                "min_early_stopping_rate": st.integers(0, 2),
                "bootstrap_count": _counts,
            }
        ),
    ),
    _named(
        "asha",
        st.fixed_dictionaries({"reduction_factor": st.integers(2, 4), "min_early_stopping_rate": st.integers(0, 2)}),
    ),
    _named(
        "hyperband",
        st.fixed_dictionaries(
            {
                "min_resource": st.integers(1, 3),
                "max_resource": st.integers(3, 40),
                "reduction_factor": st.integers(2, 4),
                "bootstrap_count": _counts,
            }
        ),
    ),
    _named(
        "hyperband", st.fixed_dictionaries({"min_resource": st.integers(1, 9), "reduction_factor": st.integers(2, 4)})
    ),
    _named("median", _startup, _intervals),
    _named("percentile", st.fixed_dictionaries({"percentile": st.floats(0.0, 100.0)}), _startup, _intervals),
    _named(
        "threshold",
        st.fixed_dictionaries({"lower": st.none() | st.floats(-2.0, 0.0), "upper": st.floats(0.0, 2.0)}),
        _intervals,
    ),
)
_patient = st.builds(
    lambda wrapped, patience, delta: {
        "name": "patient",
        "wrapped": wrapped,
        "patience": patience,
        "min_delta": delta,
    },
    st.none() | _plain,
    st.integers(0, 3),
    st.sampled_from([0.0, 0.1, 0.5]),
)
ANY = st.one_of(_plain, _patient)


def theirs(options: Options) -> optuna.pruners.BasePruner:
    """Build Optuna's own pruner from the same options."""
    given = {key: value for key, value in options.items() if key != "name"}
    if "wrapped" in given:
        wrapped = given.pop("wrapped")
        given["wrapped_pruner"] = None if wrapped is None else theirs(wrapped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CLASSES[options["name"]](**given)


@dataclass(frozen=True)
class Step:
    """What happens next: a report of `trial`, or its end in `state`."""

    trial: int
    step: int = -1
    value: float = math.nan
    state: TrialState | None = None


class Player:
    """A random history of interleaved trials; the verdict on each report is sent back into it.

    A trial whose verdict is "stop" ends as pruned, mostly: some run on, as a user's function may.
    """

    def __init__(self, seed: int, trials: int, *, gaps: bool = True, obedient: bool = False) -> None:
        self.random = random.Random(seed)
        self.trials = trials
        self.gaps = gaps
        self.obedient = obedient
        self.special = self.random.choice([0.0, 0.1, 0.4])

    def value(self) -> float:
        if self.random.random() < self.special:
            return self.random.choice([math.nan, math.nan, math.inf, -math.inf])
        # Few distinct values, so that there are ties; sometimes many.
        return self.random.choice([self.random.randint(-3, 3) / 2, self.random.gauss(0.0, 1.0)])

    def play(self) -> Iterator[Step]:
        """Yield what happens; whoever plays sends the verdict on each report."""
        live: dict[int, int] = {}
        started = 0
        while live or started < self.trials:
            if started < self.trials and (not live or self.random.random() < 0.3):
                live[started] = self.random.choice([-1, 0])
                started += 1
                continue
            trial = self.random.choice(sorted(live))
            if self.random.random() < 0.12:
                states = [TrialState.COMPLETE] * 4 + [TrialState.PRUNED, TrialState.FAILED]
                del live[trial]
                yield Step(trial, state=self.random.choice(states))
                continue
            live[trial] += self.random.choice([1, 1, 1, 2, 5]) if self.gaps else 1
            verdict = yield Step(trial, live[trial], self.value())
            if verdict and (self.obedient or self.random.random() < 0.9):
                del live[trial]
                yield Step(trial, state=TrialState.PRUNED)


class Peer:
    """Optuna's own pruner on a real study."""

    def __init__(self, options: Options, direction: Direction) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(study_name="s", direction=direction.value, pruner=theirs(options))
        self.running: dict[int, optuna.Trial] = {}

    def trial(self, number: int) -> optuna.Trial:
        # Numbers are given in the order of asking.
        while number not in self.running:
            trial = self.study.ask()
            self.running[trial.number] = trial
        return self.running[number]

    def decide(self, step: Step) -> bool:
        trial = self.trial(step.trial)
        trial.report(step.value, step.step)
        with warnings.catch_warnings():
            # NumPy says that a slice of nothing but NaN has no minimum.
            warnings.simplefilter("ignore")
            return bool(trial.should_prune())

    def finish(self, step: Step) -> None:
        assert step.state is not None
        value = 0.0 if step.state is TrialState.COMPLETE else None
        self.study.tell(self.trial(step.trial), value, STATES[step.state])


def compare(options: Options, direction: Direction, seed: int, trials: int = 25) -> int:
    """Play one history with both, and check that our promise of the next decision is kept; returns the prunings."""
    ours = pruners.build(options, direction, "s")
    peer = Peer(options, direction)
    waits: dict[int, int | None] = {}
    prunings = 0
    history = Player(seed, trials).play()
    verdict: bool | None = None
    while True:
        try:
            step = history.send(verdict)  # type: ignore[attr-defined]
        except StopIteration:
            return prunings
        verdict = None
        if step.state is not None:
            ours.finish(step.trial, step.state)
            peer.finish(step)
            continue
        if step.trial not in waits:
            waits[step.trial] = ours.next_decision(step.trial, None)
        expected = peer.decide(step)
        verdict = ours.decide(step.trial, step.step, step.value)
        assert verdict == expected, f"{step} of {options} ({direction})"
        decide_from = waits[step.trial]
        assert not verdict or (decide_from is not None and step.step >= decide_from), "a worker would not have waited"
        # As the controller: the promise is renewed only where a decision was due.
        if decide_from is not None and step.step >= decide_from:
            waits[step.trial] = ours.next_decision(step.trial, step.step)
            after = waits[step.trial]
            assert after is None or after > step.step
        prunings += bool(verdict)


@pytest.mark.parametrize("options", CURATED, ids=lambda options: "-".join(map(str, options.values())))
def test_decisions_are_optunas(options: Options) -> None:
    prunings = [compare(options, direction, seed) for direction in Direction for seed in range(6)]
    # Else the test would show nothing.
    assert any(prunings) == (options["name"] != "none")


@settings(max_examples=150)
@given(options=ANY, direction=st.sampled_from(Direction), seed=st.integers(0, 2**32))
def test_decisions_are_optunas_with_any_options(options: Options, direction: Direction, seed: int) -> None:
    compare(options, direction, seed)


def test_decisions_are_optunas_over_many_trials() -> None:
    for options in CURATED[2], CURATED[6], CURATED[8], CURATED[10]:
        assert compare(options, Direction.MINIMIZE, seed=1, trials=300) > 50


def resume(options: Options, direction: Direction, seed: int, cut: int) -> None:
    """Play a history once without a break and once from a restored half; the verdicts are the same."""
    whole = pruners.build(options, direction, "s")
    resumed: pruners.Pruner | None = None
    values: dict[int, dict[int, float]] = {}
    states: dict[int, TrialState] = {}
    history = Player(seed, 30, gaps=False, obedient=True).play()
    verdict: bool | None = None
    count = 0
    while True:
        try:
            step = history.send(verdict)  # type: ignore[attr-defined]
        except StopIteration:
            return
        verdict = None
        count += 1
        if count == cut:
            resumed = pruners.build(options, direction, "s")
            for trial in sorted(values):
                resumed.restore(trial, values[trial], states.get(trial, TrialState.RUNNING))
            for trial in values:
                if trial not in states:
                    last = max(values[trial])
                    assert resumed.next_decision(trial, last) == whole.next_decision(trial, last)
        values.setdefault(step.trial, {})
        if step.state is not None:
            states[step.trial] = step.state
            whole.finish(step.trial, step.state)
            if resumed is not None:
                resumed.finish(step.trial, step.state)
            continue
        values[step.trial][step.step] = step.value
        verdict = whole.decide(step.trial, step.step, step.value)
        if resumed is not None:
            assert resumed.decide(step.trial, step.step, step.value) == verdict


def _is_exact_on_resume(options: Options) -> bool:
    """Whether no resource is "auto": that is estimated anew by each session, as Optuna does."""
    wrapped = options.get("wrapped")
    if wrapped is not None:
        return _is_exact_on_resume(wrapped)
    name = options["name"]
    return name not in ("asha", "hyperband") or ("min_resource" if name == "asha" else "max_resource") in options


@settings(max_examples=100)
@given(
    options=ANY.filter(_is_exact_on_resume),
    direction=st.sampled_from(Direction),
    seed=st.integers(0, 2**32),
    cut=st.integers(1, 150),
)
def test_a_resumed_sweep_decides_as_if_there_had_been_no_break(
    options: Options, direction: Direction, seed: int, cut: int
) -> None:
    resume(options, direction, seed, cut)


def test_auto_resources_are_estimated_from_the_trials_of_earlier_sessions() -> None:
    options = {"name": "asha", "min_resource": "auto", "reduction_factor": 2}
    pruner = pruners.build(options, Direction.MINIMIZE, "s")
    pruner.restore(0, dict.fromkeys(range(1, 301), 0.0), TrialState.COMPLETE)
    # A hundredth of 300 steps is the first rung.
    assert not pruner.decide(1, 2, 1.0)
    assert pruner.decide(1, 3, 1.0)


def test_a_trial_pruned_by_a_report_that_passed_several_rungs_counts_in_the_first() -> None:
    options = {"name": "asha", "min_resource": 1, "reduction_factor": 2}
    pruner = pruners.build(options, Direction.MINIMIZE, "s")
    pruner.restore(0, {4: 1.0}, TrialState.PRUNED)
    assert pruner.decide(1, 1, 2.0)
    assert not pruner.decide(2, 1, 0.5)
    assert not pruner.decide(2, 2, 5.0)


def test_workers_run_on_to_the_next_rung() -> None:
    pruner = pruners.build({"name": "asha", "min_resource": 3, "reduction_factor": 2}, Direction.MINIMIZE, "s")
    assert pruner.next_decision(0, None) == 3
    assert not pruner.decide(0, 3, 1.0)
    assert pruner.next_decision(0, 3) == 6
    assert pruners.build({"name": "none"}, Direction.MINIMIZE, "s").next_decision(0, None) is None


def test_patience_lets_workers_run_on() -> None:
    pruner = pruners.build({"name": "patient", "patience": 3}, Direction.MINIMIZE, "s")
    assert pruner.next_decision(0, None) == 4
    assert [pruner.decide(0, step, float(step)) for step in range(5)] == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["pruner.name", "None", "hyperband"]),
        ({"name": "ASHA"}, ["pruner.name", "'ASHA'", "asha"]),
        ({"name": "none", "patience": 1}, ["pruner.patience", "1", "no option for none"]),
        ({"name": "asha", "reduction_facto": 2}, ["pruner.reduction_facto", "reduction_factor"]),
        ({"name": "asha", "reduction_factor": 1}, ["pruner.reduction_factor: 1 ", "at least 2"]),
        ({"name": "asha", "reduction_factor": True}, ["pruner.reduction_factor", "True"]),
        ({"name": "asha", "reduction_factor": 2.5}, ["pruner.reduction_factor", "2.5", "integer"]),
        ({"name": "asha", "reduction_factor": None}, ["pruner.reduction_factor", "None"]),
        ({"name": "asha", "min_resource": 0}, ["pruner.min_resource: 0 ", "at least 1", "auto"]),
        ({"name": "asha", "min_resource": "Auto"}, ["pruner.min_resource", "'Auto'", "auto"]),
        ({"name": "asha", "bootstrap_count": 3}, ["pruner.bootstrap_count: 3 ", "min_resource is auto"]),
        ({"name": "asha", "min_early_stopping_rate": -1}, ["pruner.min_early_stopping_rate", "-1"]),
        ({"name": "hyperband", "min_resource": "auto"}, ["pruner.min_resource", "integer"]),
        ({"name": "hyperband", "min_resource": 5, "max_resource": 4}, ["pruner.max_resource: 4 ", "5"]),
        ({"name": "hyperband", "bootstrap_count": 1}, ["pruner.bootstrap_count", "max_resource is auto"]),
        ({"name": "median", "interval_steps": 0}, ["pruner.interval_steps: 0 ", "at least 1"]),
        ({"name": "median", "percentile": 25.0}, ["pruner.percentile", "for median: n_startup_trials"]),
        ({"name": "percentile"}, ["pruner.percentile: None ", "from 0 to 100"]),
        ({"name": "percentile", "percentile": 101}, ["pruner.percentile: 101 "]),
        ({"name": "percentile", "percentile": math.nan}, ["pruner.percentile: nan "]),
        ({"name": "patient"}, ["pruner.patience: None "]),
        ({"name": "patient", "patience": 1, "min_delta": -0.1}, ["pruner.min_delta: -0.1 "]),
        ({"name": "patient", "patience": 1, "wrapped": "asha"}, ["pruner.wrapped", "'asha'"]),
        (
            {"name": "patient", "patience": 1, "wrapped": {"name": "asha", "min_resource": -1}},
            ["pruner.wrapped.min_resource: -1 "],
        ),
        ({"name": "threshold"}, ["pruner.upper: None "]),
        ({"name": "threshold", "lower": 2.0, "upper": 1.0}, ["pruner.lower: 2.0 ", "at most upper"]),
        ({"name": "threshold", "upper": "high"}, ["pruner.upper: 'high' "]),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options: Options, words: list[str]) -> None:
    with pytest.raises(BadInputError) as caught:
        pruners.build(options, Direction.MINIMIZE, "s")
    for word in words:
        assert word in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_a_first_rung_that_no_trial_reaches_costs_nothing() -> None:
    options = {"name": "asha", "min_resource": 1, "reduction_factor": 3, "min_early_stopping_rate": 10**12}
    assert pruners.rungs(options) == pruners.Rungs(2**63 - 1, 3)
    pruner = pruners.build(options, Direction.MINIMIZE, "study")
    assert not any(pruner.decide(0, step, 1.0) for step in (1, 10, 10**6))
