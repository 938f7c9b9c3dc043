"""A warm start: what earlier sweeps know reaches the sampler, and nothing else of the new sweep."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from swathe import warm_start
from swathe.config import compose_sweep
from swathe.errors import BadInputError
from swathe.events import Direction, TrialState
from swathe.home import open_home
from swathe.objectives import Objective
from swathe.runtime import prepare
from swathe.samplers import Known
from swathe.space import Condition, Parameter, Space
from swathe.study import Study
from swathe.warm_start import Earlier, best_points, fitting
from tests.integration import swathes

COMPLETE, PRUNED = TrialState.COMPLETE, TrialState.PRUNED
# Fitting a Gaussian process takes its time.
SAMPLERS = ["tpe", "cmaes", pytest.param("gp", marks=pytest.mark.slow)]
LOSS = Objective("loss", Direction.MINIMIZE)
FLAT = Space(
    {
        "x": Parameter("x", FloatDistribution(0.0, 1.0)),
        "n": Parameter("n", IntDistribution(1, 16)),
    }
)
MIXED = Space(
    {
        "optim": Parameter("optim", CategoricalDistribution(["sgd", "momentum"])),
        "momentum": Parameter("momentum", FloatDistribution(0.5, 0.99), (Condition("optim", ("momentum",)),)),
        "x": Parameter("x", FloatDistribution(0.0, 1.0)),
        "n": Parameter("n", IntDistribution(1, 16)),
    }
)


def earlier(count: int = 40, *, optimum: float = 0.7, space: str = "xn") -> list[Earlier]:
    """Return trials whose loss is least at an optimum that is in one corner of the space."""
    found = []
    for number in range(count):
        x = (number * 0.618) % 1
        params: dict[str, Any] = {"x": x, "n": 1 + number % 16, "gone": 5}
        kept = {name: value for name, value in params.items() if name[0] in space + "g"}
        state = PRUNED if number % 5 == 4 else COMPLETE
        found.append(Earlier("old", number, state, (x - optimum) ** 2, {1: 1.0, 2: (x - optimum) ** 2}, kept))
    return found


def launch(folder: Path, sampler: str, known: Known, space: Space = FLAT, seed: int = 1) -> Study:
    return Study.open(
        "s",
        folder=folder,
        storage=None,
        direction=Direction.MINIMIZE,
        sampler={"name": sampler},
        space=space,
        seed=seed,
        known=known,
    )


def draw(folder: Path, sampler: str, known: Known, count: int, space: Space = FLAT) -> list[dict[str, Any]]:
    folder.mkdir()
    study = launch(folder, sampler, known, space)
    drawn = []
    for _ in range(count):
        (proposal,) = study.ask(1).proposals
        drawn.append(dict(proposal.params))
        value = (float(proposal.params["x"] or 0) - 0.7) ** 2
        study.record(proposal.trial, 1, value)
        study.tell(proposal.trial, COMPLETE, value, {})
    assert len(study.history()) == count
    study.close()
    return drawn


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_first_draws_are_where_the_earlier_trials_were_good(tmp_path: Path, sampler: str) -> None:
    known = Known(fitting(earlier(), FLAT))
    warm = draw(tmp_path / "warm", sampler, known, 6)
    cold = draw(tmp_path / "cold", sampler, Known(), 6)
    # CMA-ES draws its first trial at random.
    far = [[abs(point["x"] - 0.7) for point in points[1:]] for points in (warm, cold)]
    assert sum(far[0]) < 0.6 * sum(far[1])


@pytest.mark.parametrize("space", ["x", "n"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_that_lack_a_parameter_are_used_as_far_as_the_sampler_can(
    tmp_path: Path, sampler: str, space: str
) -> None:
    known = Known(fitting(earlier(space=space), MIXED))
    points = draw(tmp_path / "s", sampler, known, 4, MIXED)
    assert all({"optim", "x", "n"} <= point.keys() for point in points)
    if sampler == "tpe" and space == "x":
        assert sum(abs(point["x"] - 0.7) for point in points) < 4 * 0.15


def test_an_earlier_trial_keeps_what_fits() -> None:
    params: dict[str, Any] = {"optim": "adam", "momentum": 0.9, "x": 0.5, "n": 64}
    (trial,) = fitting([Earlier("old", 3, COMPLETE, 1.0, {}, params)], MIXED)
    # No adam here, so no momentum either; and n is out of its range.
    assert trial.params == {"x": 0.5}
    assert fitting([Earlier("old", 3, COMPLETE, 1.0, {}, {"y": 1})], MIXED) == []
    (whole,) = fitting([Earlier("old", 3, COMPLETE, 1.0, {}, {"optim": "momentum", "momentum": 0.9, "n": 8.0})], MIXED)
    assert whole.params == {"optim": "momentum", "momentum": 0.9, "n": 8}


@given(
    trials=st.lists(
        st.builds(
            Earlier,
            st.just("old"),
            st.integers(0, 99),
            st.sampled_from([COMPLETE, PRUNED]),
            st.floats(-1e6, 1e6),
            st.dictionaries(st.integers(1, 9), st.floats(-10, 10), max_size=3),
            st.dictionaries(
                st.sampled_from(["x", "n", "optim", "momentum", "gone"]),
                st.one_of(
                    st.floats(0, 2), st.integers(-1, 20), st.sampled_from(["sgd", "momentum", "adam"]), st.none()
                ),
            ),
        ),
        max_size=20,
    ),
    sampler=st.sampled_from(["tpe", "gp", "cmaes"]),
)
@settings(max_examples=15, deadline=None)
def test_whatever_earlier_trials_hold_the_sweep_s_own_are_all_that_it_has(
    trials: list[Earlier], sampler: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("warm")
    study = launch(folder, sampler, Known(fitting(trials, MIXED)), MIXED)
    for proposal in study.ask(3).proposals:
        study.tell(proposal.trial, COMPLETE, 1.0, {})
    assert [past.number for past in study.history()] == [0, 1, 2]
    assert study.optuna_study.best_trial.number == 0
    study.close()


def test_what_is_drawn_is_the_same_over_a_resume(tmp_path: Path) -> None:
    known = Known(fitting(earlier(), MIXED))
    whole = draw(tmp_path / "whole", "tpe", known, 6, MIXED)
    folder = tmp_path / "cut"
    folder.mkdir()
    drawn = []
    for _ in range(6):
        study = launch(folder, "tpe", known, MIXED)
        (proposal,) = study.ask(1).proposals
        drawn.append(dict(proposal.params))
        value = (float(proposal.params["x"] or 0) - 0.7) ** 2
        study.record(proposal.trial, 1, value)
        study.tell(proposal.trial, COMPLETE, value, {})
        study.close()
    assert drawn == whole


def test_the_best_of_the_earlier_trials_are_points_the_best_first() -> None:
    trials = [
        Earlier("old", 0, COMPLETE, 3.0, {}, {"x": 0.1}),
        Earlier("old", 1, COMPLETE, 1.0, {}, {"x": 0.2, "gone": 1}),
        Earlier("new", 0, COMPLETE, 1.5, {}, {"x": 0.2}),
        Earlier("new", 1, PRUNED, 0.5, {}, {"x": 0.3}),
        Earlier("new", 2, COMPLETE, 0.0, {}, {"y": 0.3}),
    ]
    points = best_points(trials, FLAT, 5, LOSS)
    assert [(point.id, point.values) for point in points] == [
        ("sweep.warm_start_best[0]", {"x": 0.2}),
        ("sweep.warm_start_best[1]", {"x": 0.1}),
    ]
    (last,) = best_points(trials, FLAT, 1, Objective("loss", Direction.MAXIMIZE))
    assert last.values == {"x": 0.1}


def test_a_file_of_trials_comes_back_as_it_was(tmp_path: Path) -> None:
    trials = [*earlier(5), Earlier("old", 9, PRUNED, None, {1: math.inf}, {"x": 0.5, "kind": "a", "flag": True})]
    warm_start.write(tmp_path / "t.json", trials, "loss", "minimize")
    assert warm_start.read(tmp_path / "t.json") == trials
    (tmp_path / "t.json").write_text('{"trials": [{}]}')
    with pytest.raises(BadInputError, match=r"t.json holds no trials"):
        warm_start.read(tmp_path / "t.json")


@pytest.mark.parametrize("large", [{"value": 10**400}, {"params": {"x": 10**400}}, {"values": {"1": -(10**400)}}])
def test_a_number_that_no_float_holds_is_refused(tmp_path: Path, large: dict[str, Any]) -> None:
    trial = {"sweep": "s", "number": 0, "state": "complete", "value": 1.0, "values": {}, "params": {"x": 0.5}, **large}
    path = tmp_path / "huge.json"
    path.write_text(json.dumps({"metric": None, "direction": "minimize", "trials": [trial]}))
    with pytest.raises(BadInputError, match=r"^sweep.warm_start: huge.json has a number that is too large; allowed: "):
        warm_start.read(path)


def prepared(words: list[str]) -> None:
    """Do as a launch does before it starts anything."""
    composed = compose_sweep("quickstart", words)
    prepare(composed, Space.parse(composed), open_home(), "swathe launch quickstart")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep.warm_start=[nobody]"], "sweep.warm_start: There is no sweep 'nobody'"),
        (["sweep.warm_start=[no.json]"], "sweep.warm_start: no.json cannot be read"),
        (["sweep.warm_start=[other.json]"], "sweep.warm_start: other.json, whose trials maximize loss, is not allowed"),
        (["sweep.warm_start=[t.json]", "sampler=random"], "sweep.warm_start: with sampler=random it is not allowed"),
        (["sweep.warm_start=[t.json]", "sampler=cmaes", "sampler.sigma0=1"], "sweep.warm_start: with sampler.sigma0"),
        (["sweep.warm_start=[quickstart]"], "sweep.warm_start: 'quickstart' is not allowed; allowed: other sweeps"),
        (["sweep.warm_start=[t.json]", "sweep.constraints={grad_norm: '< 9'}"], "none with sweep.constraints"),
        (
            [
                "sweep.warm_start=[t.json]",
                "sweep.metric=[val_loss,size]",
                "sweep.direction=[minimize,minimize]",
                "pruner=none",
            ],
            "none with several objectives",
        ),
        (["sweep.warm_start_best=2"], "sweep.warm_start_best: 2 is not allowed; allowed: 0 without a sweep.warm_start"),
        (["sweep.warm_start=quickstart"], "sweep.warm_start: 'quickstart' is not allowed; allowed: a list"),
    ],
)
def test_a_warm_start_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWATHE_HOME", raising=False)
    warm_start.write(tmp_path / "t.json", earlier(3), None, "minimize")
    warm_start.write(tmp_path / "other.json", earlier(3), "loss", "maximize")
    with pytest.raises(BadInputError) as refusal:
        prepared(words)
    assert said in str(refusal.value)


@pytest.mark.slow
def test_a_sweep_begins_with_another_and_goes_on_when_that_is_gone(tmp_path: Path) -> None:
    swathes.write_function_sweep(tmp_path, "quick", trials=4)
    inline = ("cluster=inline", "sampler=tpe", "--quiet")
    swathes.succeed(tmp_path, "launch", "f.yaml", *inline)
    words = ("launch", "f.yaml", "sweep.name=g", "sweep.warm_start=[f]", "sweep.warm_start_best=2", *inline)
    swathes.succeed(tmp_path, *words)
    folder = tmp_path / ".swathe" / "sweeps"
    assert "Warm start: 4 trials (4 of f)" in (folder / "g" / "sweep.log").read_text()
    shown = swathes.read(tmp_path, "status", "g")
    assert shown["counts"] == {"complete": 4}
    # Its own trials alone are its own, the two best of the other among them.
    first = swathes.read(tmp_path, "status", "f")["best"]
    assert shown["best"]["value"] <= first["value"]
    (folder / "f").rename(folder / "gone")
    swathes.succeed(tmp_path, *words, "sweep.trials=5")
    assert swathes.read(tmp_path, "status", "g")["counts"] == {"complete": 5}
    done = swathes.run(tmp_path, "launch", "f.yaml", "sweep.name=h", "sweep.warm_start=[f]", *inline)
    assert done.returncode == 2
    assert "sweep.warm_start: There is no sweep 'f'" in done.stderr
