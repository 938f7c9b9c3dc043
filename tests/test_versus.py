"""Sweeps side by side: equal work, differences of configs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swathe.errors import BadInputError
from swathe.events import TrialState
from swathe.home import SweepCard
from swathe.study import PastTrial
from swathe.versus import Versus, check, differences, refuse_unlike, stand
from tests.integration import swathes


def card(name: str, **changes: Any) -> SweepCard:
    facts = {"metric": "loss", "direction": "minimize", **changes}
    return SweepCard(
        name=name, identity="i", storage=None, tracking_uri="sqlite:///x", experiment=name, trials=9, command="c",
        created=0.0, **facts,
    )  # fmt: skip


def trial(number: int, value: float, reports: int, ended: float, state: TrialState = TrialState.COMPLETE) -> PastTrial:
    values = dict.fromkeys(range(1, reports + 1), value)
    return PastTrial(number, {"lr": value}, state, value, values, {}, ended)


def test_the_best_values_are_those_after_as_many_reports() -> None:
    # In the order in which they ended, which is not that of their numbers.
    slow = [trial(0, 0.5, 10, 30.0), trial(1, 0.9, 10, 10.0), trial(2, 0.1, 20, 90.0)]
    fast = [trial(0, 0.4, 4, 1.0), trial(1, 0.2, 4, 2.0, TrialState.PRUNED), trial(2, 0.3, 12, 3.0)]
    found = stand([card("slow"), card("fast")], [slow, fast], [{}, {}])
    assert found.epochs == [2, 5, 10, 20]
    first, second = found.sweeps
    assert first.after == [None, None, 0.9, 0.5]
    assert second.after == [None, 0.4, 0.4, 0.3]
    assert (first.best, second.best) == ((2, 0.1), (2, 0.3))
    assert (first.epochs, second.epochs) == (40, 20)
    assert second.counts == {"complete": 2, "pruned": 1}


def test_more_is_better_where_it_is_maximized() -> None:
    trials = [trial(0, 0.5, 1, 1.0), trial(1, 0.9, 1, 2.0)]
    found = stand([card("a", direction="maximize")], [trials], [{}])
    assert found.sweeps[0].best == (1, 0.9)
    assert found.sweeps[0].after[-1] == 0.9


def test_a_sweep_without_trials_leaves_nothing_to_set_side_by_side() -> None:
    found = stand([card("a"), card("b")], [[], [trial(0, 0.5, 3, 1.0)]], [{}, {}])
    assert found.epochs == []
    assert found.sweeps[0].best is None
    assert Versus.from_dict(json.loads(json.dumps(found.as_dict()))).sweeps == found.sweeps


def test_differences_are_keys_whose_values_are_not_the_same() -> None:
    one = {"optim": {"lr": 0.1, "name": "adam"}, "sweep": {"name": "a", "space": {"optim.lr": "interval(0, 1)"}}}
    other = {"optim": {"lr": 0.1, "name": "sgd"}, "sweep": {"name": "b", "space": {}}, "epochs": 3}
    assert differences([one, other]) == {
        "optim.name": ["adam", "sgd"],
        "sweep.space.optim.lr": ["interval(0, 1)", None],
        "sweep.space": [None, {}],
        "epochs": [None, 3],
    }


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"'b' is not allowed beside 'a'; .* here minimize loss, and not maximize"):
        refuse_unlike([card("a"), card("b", direction="maximize")])
    with pytest.raises(BadInputError, match=r"'a' is not allowed; allowed: up to 20 sweeps, each once"):
        check(["a", "b", "a"])
    with pytest.raises(BadInputError, match=r"'21 sweeps' is not allowed"):
        check([str(number) for number in range(21)])


@pytest.mark.slow
def test_two_sweeps_on_the_command_line(tmp_path: Path) -> None:
    swathes.write_function_sweep(tmp_path, "quick", trials=4)
    for name, sampler in (("one", "random"), ("two", "tpe")):
        words = ("cluster=inline", "pruner=none", f"sampler={sampler}", f"sweep.name={name}", "-q")
        assert swathes.run(tmp_path, "launch", "f.yaml", *words).returncode == 0
    shown = swathes.run(tmp_path, "compare", "one", "two")
    assert shown.returncode == 0, shown.stderr
    assert "sampler.name" in shown.stdout
    assert "4 complete" in shown.stdout
    plain = json.loads(swathes.run(tmp_path, "compare", "one", "two", "--json").stdout)
    assert [one["name"] for one in plain["sweeps"]] == ["one", "two"]
    assert plain["differences"]["sampler.name"] == ["random", "tpe"]
    for words, said in (
        (("one", "none"), "There is no sweep 'none'"),
        (("one", "two", "--sort", "x"), "--sort: 'x' is for the trials of one sweep"),
    ):
        refused = swathes.run(tmp_path, "compare", *words)
        assert refused.returncode == 2
        assert said in refused.stderr
