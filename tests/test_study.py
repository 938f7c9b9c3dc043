"""The study on Optuna's journal: what is drawn and recorded is what comes back, also after a crash."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import swathe.samplers
from swathe.errors import BadInputError, SwatheError
from swathe.events import Direction, Proposal, TrialState, Value
from swathe.study import JOURNAL, Foretold, PastTrial, SearchSpace, Study, check_storage

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Parameter:
    distribution: BaseDistribution
    # Names of choices under which the parameter exists: (name of another parameter, its value).
    conditions: tuple[tuple[str, Value], ...] = ()


@dataclass(frozen=True)
class Space:
    """The smallest space with conditions: a parameter exists when all of its conditions hold."""

    parameters: Mapping[str, Parameter]

    def sample(self, suggest: Callable[[str, BaseDistribution], Value]) -> dict[str, Value]:
        drawn: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if all(drawn.get(other) == value for other, value in parameter.conditions):
                drawn[name] = suggest(name, parameter.distribution)
        return drawn


FLAT = Space({"lr": Parameter(FloatDistribution(1e-5, 1.0, log=True)), "depth": Parameter(IntDistribution(1, 4))})
CONDITIONAL = Space(
    {
        "optim": Parameter(CategoricalDistribution(["sgd", "momentum", "adam"])),
        "lr": Parameter(FloatDistribution(1e-5, 1.0, log=True)),
        "momentum": Parameter(FloatDistribution(0.5, 0.99), (("optim", "momentum"),)),
    }
)
FINITE = Space(
    {
        "optim": Parameter(CategoricalDistribution(["sgd", "momentum", "adam"])),
        "momentum": Parameter(FloatDistribution(0.5, 0.9, step=0.1), (("optim", "momentum"),)),
        "depth": Parameter(IntDistribution(2, 6, step=2)),
    }
)


def launch(
    folder: Path,
    *,
    sampler: str | Mapping[str, Any] = "random",
    space: SearchSpace = FLAT,
    seed: int = 1,
    storage: str | None = None,
) -> Study:
    options = {"name": sampler} if isinstance(sampler, str) else sampler
    return Study.open(
        "s", folder=folder, storage=storage, direction=Direction.MINIMIZE, sampler=options, space=space, seed=seed
    )


def plain(folder: Path) -> optuna.Study:
    """Read the journal with nothing but Optuna."""
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    return optuna.load_study(study_name="s", storage=storage)


def run(study: Study, count: int) -> list[Proposal]:
    """Run trials one after the other, as one worker would."""
    done: list[Proposal] = []
    for _ in range(count):
        (proposal,) = study.ask(1).proposals
        value = sum(hash_free(value) for value in proposal.params.values())
        study.record(proposal.trial, 1, value)
        study.tell(proposal.trial, TrialState.COMPLETE, value, {})
        done.append(proposal)
    return done


def hash_free(value: Value) -> float:
    """Return a number that depends on nothing but the value."""
    return float(value) if isinstance(value, int | float) else float(len(str(value)))


def test_what_is_recorded_is_what_comes_back(tmp_path: Path) -> None:
    study = launch(tmp_path)
    first, second, third, fourth = study.ask(4).proposals
    assert [proposal.trial for proposal in (first, second, third, fourth)] == [0, 1, 2, 3]
    for step, value in ((1, 0.5), (2, 0.25)):
        study.record(0, step, value)
    study.tell(0, TrialState.COMPLETE, 0.25, {"worker": "w1"})
    study.record(1, 1, 0.75)
    study.tell(1, TrialState.PRUNED, 0.75, {"reason": "pruned at step 1"})
    study.tell(2, TrialState.FAILED, None, {"reason": "ValueError: no"})
    study.record(3, 1, 0.125)
    expected = [
        PastTrial(0, first.params, TrialState.COMPLETE, 0.25, {1: 0.5, 2: 0.25}, {"worker": "w1"}),
        PastTrial(1, second.params, TrialState.PRUNED, 0.75, {1: 0.75}, {"reason": "pruned at step 1"}),
        PastTrial(2, third.params, TrialState.FAILED, None, {}, {"reason": "ValueError: no"}),
        PastTrial(3, fourth.params, TrialState.RUNNING, None, {1: 0.125}, {}),
    ]
    assert study.history() == expected
    study.close()
    assert Study.load("s", folder=tmp_path, storage=None).history() == expected
    assert launch(tmp_path).history() == expected


@pytest.mark.parametrize(
    "line", [b"garbage\n", b"{}\n", b"[]\n", b"5\n", b"\xff\xfe\n", b'{"op_code": 4}\n', b'{"op_code": 99}\n']
)
def test_a_damaged_journal_is_named_in_one_sentence(tmp_path: Path, line: bytes) -> None:
    study = launch(tmp_path)
    run(study, 2)
    study.close()
    path = tmp_path / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], line, *lines[3:]]))
    for read in (lambda: Study.load("s", folder=tmp_path, storage=None), lambda: launch(tmp_path)):
        with pytest.raises(SwatheError) as refusal:
            read()
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return one journal for all examples: names and times in it are others in each."""
    folder = tmp_path_factory.mktemp("written")
    study = launch(folder)
    run(study, 2)
    study.close()
    return (folder / JOURNAL).read_bytes()


@given(data=st.data())
def test_a_byte_that_changed_is_found(
    data: st.DataObject, written: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    path = folder / JOURNAL
    content = bytearray(written)
    # Not the last line, which a crash may have torn, nor what says that there is a checksum, nor a line's end.
    seals = [match.span() for match in re.finditer(rb',"crc":"|"}\n', content)]
    body = set(range(content.rindex(b"\n", 0, -1))) - {place for span in seals for place in range(*span)}
    place = data.draw(st.sampled_from(sorted(body)))
    content[place] = data.draw(st.sampled_from([byte for byte in b'# 09az,{"' if byte != content[place]]))
    path.write_bytes(content)
    with pytest.raises(SwatheError, match="is damaged in line"):
        Study.load("s", folder=folder, storage=None)


def test_lines_without_a_checksum_are_read(tmp_path: Path) -> None:
    study = launch(tmp_path)
    run(study, 2)
    expected = study.history()
    study.close()
    path = tmp_path / JOURNAL
    text, count = re.subn(r',"crc":"[0-9a-f]{8}"}\n', "}\n", path.read_text())
    assert count == len(path.read_text().splitlines())
    path.write_text(text)
    assert launch(tmp_path).history() == expected


def test_optuna_alone_reads_the_journal(tmp_path: Path) -> None:
    study = launch(tmp_path)
    (proposal,) = study.ask(1).proposals
    study.record(0, 1, 0.5)
    study.tell(0, TrialState.COMPLETE, 0.5, {"worker": "w1"})
    study.close()
    (trial,) = plain(tmp_path).trials
    assert trial.params == proposal.params
    assert trial.distributions == {name: parameter.distribution for name, parameter in FLAT.parameters.items()}
    assert (trial.value, trial.intermediate_values, trial.user_attrs) == (0.5, {1: 0.5}, {"worker": "w1"})
    assert trial.datetime_complete is not None


def test_a_resumed_study_goes_on_with_what_was_running(tmp_path: Path) -> None:
    study = launch(tmp_path)
    study.ask(2)
    study.record(1, 1, 0.5)
    study.close()
    study = launch(tmp_path)
    study.record(1, 2, 0.25)
    study.tell(1, TrialState.COMPLETE, 0.25, {})
    assert [proposal.trial for proposal in study.ask(1).proposals] == [2]
    assert [past.state for past in study.history()] == [TrialState.RUNNING, TrialState.COMPLETE, TrialState.RUNNING]
    assert study.history()[1].values == {1: 0.5, 2: 0.25}


def test_nothing_reaches_the_file_before_a_commit_and_everything_at_once(tmp_path: Path) -> None:
    study = launch(tmp_path)
    size = (tmp_path / JOURNAL).stat().st_size
    study.ask(3)
    study.record(0, 1, 0.5)
    assert (tmp_path / JOURNAL).stat().st_size == size
    assert plain(tmp_path).trials == []
    study.commit()
    assert len(plain(tmp_path).trials) == 3
    size = (tmp_path / JOURNAL).stat().st_size
    study.commit()
    assert (tmp_path / JOURNAL).stat().st_size == size


def test_a_reader_follows_a_running_sweep(tmp_path: Path) -> None:
    study = launch(tmp_path)
    reader = Study.load("s", folder=tmp_path, storage=None)
    for count in range(1, 4):
        study.ask(1)
        study.commit()
        assert len(reader.history()) == count


def test_a_study_that_is_not_there_yet_reads_as_empty_and_is_not_created(tmp_path: Path) -> None:
    assert Study.load("s", folder=tmp_path, storage=None).history() == []
    assert list(tmp_path.iterdir()) == []


# Crashes.


@settings(max_examples=60)
@given(share=st.floats(0.0, 1.0))
def test_a_torn_journal_gives_back_what_was_whole(share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("torn")
    study = launch(folder)
    study.ask(2)
    study.record(0, 1, 0.5)
    study.commit()
    kept = (folder / JOURNAL).read_bytes()
    before = study.history()
    study.tell(0, TrialState.COMPLETE, 0.5, {})
    study.ask(2)
    study.close()
    content = (folder / JOURNAL).read_bytes()
    cut = len(kept) + round(share * (len(content) - len(kept)))
    (folder / JOURNAL).write_bytes(content[:cut])
    # A reader takes what is whole and mends nothing.
    read = Study.load("s", folder=folder, storage=None).history()
    assert (folder / JOURNAL).read_bytes() == content[:cut]
    study = launch(folder)
    assert study.history() == read
    assert [past.params for past in read[:2]] == [past.params for past in before]
    study.ask(1)
    study.close()
    assert len(plain(folder).trials) == len(read) + 1


@pytest.mark.parametrize("tail", [b'{"op_code":7,"wor', b"\x00" * 300, b"\x00" * 300 + b"\n", b"{}[\n\n"])
def test_a_torn_end_is_cut_off(tail: bytes, tmp_path: Path) -> None:
    study = launch(tmp_path)
    study.ask(2)
    study.close()
    whole = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole + tail)
    study = launch(tmp_path)
    assert (tmp_path / JOURNAL).read_bytes() == whole
    assert len(study.history()) == 2


def test_damage_before_the_end_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    study = launch(tmp_path)
    study.ask(2)
    study.close()
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"', b"\x00")
    (tmp_path / JOURNAL).write_bytes(b"".join(lines))
    with pytest.raises(SwatheError, match="damaged in line 2"):
        launch(tmp_path)
    assert (tmp_path / JOURNAL).read_bytes() == b"".join(lines)


def test_a_full_disk_loses_nothing_that_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = launch(tmp_path)
    study.ask(1)
    study.commit()
    whole = (tmp_path / JOURNAL).read_bytes()
    study.record(0, 1, 0.5)
    write = os.write
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", lambda file, content: write(file, content[: len(content) // 2]))
        with pytest.raises(SwatheError, match="cannot be written"):
            study.commit()
    assert (tmp_path / JOURNAL).read_bytes() == whole
    study.commit()
    assert plain(tmp_path).trials[0].intermediate_values == {1: 0.5}


# Other programs on the same journal.


def test_a_note_that_another_program_writes_stays(tmp_path: Path) -> None:
    study = launch(tmp_path)
    study.ask(1)
    study.commit()
    plain(tmp_path).set_user_attr("note", "mine")
    study.record(0, 1, 0.5)
    study.commit()
    study.ask(1)
    study.commit()
    assert study.optuna_study.user_attrs == {"note": "mine"}
    other = plain(tmp_path)
    assert other.user_attrs == {"note": "mine"}
    assert other.trials[0].intermediate_values == {1: 0.5}
    assert len(other.trials) == 2


def test_a_trial_that_another_program_ended_stays_as_it_ended_it(tmp_path: Path) -> None:
    study = launch(tmp_path)
    study.ask(2)
    study.commit()
    plain(tmp_path).tell(0, state=optuna.trial.TrialState.FAIL)
    study.record(0, 1, 0.5)
    study.commit()
    study.record(0, 2, 0.25)
    study.record(1, 1, 0.75)
    study.tell(0, TrialState.COMPLETE, 0.25, {})
    study.tell(1, TrialState.COMPLETE, 0.75, {})
    study.close()
    for past in (Study.load("s", folder=tmp_path, storage=None).history(), launch(tmp_path).history()):
        assert [trial.state for trial in past] == [TrialState.FAILED, TrialState.COMPLETE]
        assert past[1].values == {1: 0.75}


def test_trials_that_another_program_creates_are_refused(tmp_path: Path) -> None:
    study = launch(tmp_path)
    plain(tmp_path).ask()
    study.ask(1)
    with pytest.raises(SwatheError, match="Another program has written trials"):
        study.commit()


def test_trials_enqueued_before_the_launch_are_taken_over(tmp_path: Path) -> None:
    launch(tmp_path).close()
    plain(tmp_path).enqueue_trial({"lr": 0.125})
    study = launch(tmp_path)
    (past,) = study.history()
    assert past.state is TrialState.RUNNING
    assert past.params["lr"] == 0.125
    assert past.params["depth"] in (1, 2, 3, 4)
    study.tell(0, TrialState.COMPLETE, 0.5, {})
    assert study.ask(1).proposals[0].trial == 1


def test_an_enqueued_trial_outside_the_space_is_refused(tmp_path: Path) -> None:
    launch(tmp_path, space=CONDITIONAL).close()
    plain(tmp_path).enqueue_trial({"optim": "lion"})
    with pytest.raises(BadInputError, match="Trial 0, which was enqueued from outside"):
        launch(tmp_path, space=CONDITIONAL)


# Values.


@pytest.mark.parametrize("reported", [True, False])
def test_a_kill_between_a_report_and_the_end_that_it_gave_a_trial_loses_neither(tmp_path: Path, reported: bool) -> None:
    study = launch(tmp_path, storage=f"sqlite:///{tmp_path}/study.db")
    study.ask(1)
    study.record(0, 1, 0.5)
    end = Foretold(2, TrialState.PRUNED, 0.75, {"reason": "pruned at step 2"}, {"swathe.state": "pruned at step 2"})
    study.foretell(0, end)
    if reported:
        study.record(0, 2, 0.75)
    study.close()
    again = launch(tmp_path, storage=f"sqlite:///{tmp_path}/study.db")
    (trial,) = again.history()
    again.close()
    if reported:
        assert (trial.state, trial.value, trial.values) == (TrialState.PRUNED, 0.75, {1: 0.5, 2: 0.75})
        assert trial.attrs["reason"] == "pruned at step 2"
        assert again.made_up == {0: end}
    else:
        assert (trial.state, trial.values, again.made_up) == (TrialState.RUNNING, {1: 0.5}, {})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_diverged_trial_has_no_value_but_keeps_its_reports(value: float, tmp_path: Path) -> None:
    study = launch(tmp_path)
    study.ask(1)
    study.record(0, 1, 0.5)
    study.record(0, 2, value)
    study.tell(0, TrialState.PRUNED, value, {"reason": "diverged"})
    study.close()
    for (past,) in (study.history(), launch(tmp_path).history()):
        assert past.state is TrialState.PRUNED
        assert past.value is None
        assert past.values[1] == 0.5
        assert past.values[2] == value or (math.isnan(value) and math.isnan(past.values[2]))


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_complete_trial_must_have_a_value(value: float | None, tmp_path: Path) -> None:
    study = launch(tmp_path)
    study.ask(1)
    with pytest.raises(ValueError, match="cannot be complete"):
        study.tell(0, TrialState.COMPLETE, value, {})
    study.tell(0, TrialState.FAILED, value, {})
    assert study.history()[0].value is None


# Samplers.

SAMPLERS: list[Mapping[str, Any]] = [
    {"name": "random"},
    {"name": "tpe", "n_startup_trials": 4},
    {"name": "tpe", "n_startup_trials": 4, "multivariate": False, "constant_liar": False},
    {"name": "cmaes"},
    {"name": "qmc"},
    {"name": "qmc", "qmc_type": "halton", "scramble": False},
]
BOTH = pytest.mark.parametrize("space", [FLAT, CONDITIONAL], ids=["flat", "conditional"])


def _name(options: Mapping[str, Any]) -> str:
    return "-".join(map(str, options.values()))


@BOTH
@pytest.mark.parametrize("sampler", SAMPLERS, ids=_name)
def test_points_are_in_the_space_and_the_same_for_the_same_seed(
    sampler: Mapping[str, Any], space: Space, tmp_path: Path
) -> None:
    points = run(launch(tmp_path / "a", sampler=sampler, space=space), 12)
    for point in points:
        assert list(point.params) == list(space.sample(lambda name, _, point=point: point.params[name]))  # type: ignore[misc]
        for name, value in point.params.items():
            distribution = space.parameters[name].distribution
            assert distribution._contains(distribution.to_internal_repr(value))
    assert run(launch(tmp_path / "b", sampler=sampler, space=space), 12) == points
    assert run(launch(tmp_path / "c", sampler=sampler, space=space, seed=2), 12) != points


@BOTH
@pytest.mark.parametrize("sampler", SAMPLERS, ids=_name)
def test_a_resumed_sweep_draws_what_an_unbroken_one_would(
    sampler: Mapping[str, Any], space: Space, tmp_path: Path
) -> None:
    whole = run(launch(tmp_path / "a", sampler=sampler, space=space), 12)
    resumed: list[Proposal] = []
    for count in (3, 4, 5):
        study = launch(tmp_path / "b", sampler=sampler, space=space)
        resumed += run(study, count)
        study.close()
    assert resumed == whole


def test_points_can_be_drawn_many_at_a_time(tmp_path: Path) -> None:
    for sampler in SAMPLERS:
        study = launch(tmp_path / _name(sampler), sampler=sampler, space=CONDITIONAL)
        run(study, 6)
        proposed = study.ask(5)
        assert not proposed.exhausted
        assert len({repr(proposal.params) for proposal in proposed.proposals}) == 5


def test_tpe_finds_the_better_half(tmp_path: Path) -> None:
    space = Space({"x": Parameter(FloatDistribution(-1.0, 1.0))})
    study = launch(tmp_path, sampler="tpe", space=space)
    drawn: list[float] = []
    for _ in range(40):
        (proposal,) = study.ask(1).proposals
        x = float(proposal.params["x"] or 0.0)
        study.tell(proposal.trial, TrialState.COMPLETE, (x - 0.5) ** 2, {})
        drawn.append(x)
    assert sum(abs(x - 0.5) for x in drawn[20:]) < sum(abs(x - 0.5) for x in drawn[:20]) / 2


def test_gp_draws_after_its_start(tmp_path: Path) -> None:
    sampler = {"name": "gp", "n_startup_trials": 3}
    points = run(launch(tmp_path / "a", sampler=sampler), 5)
    study = launch(tmp_path / "b", sampler=sampler)
    again = run(study, 4)
    study.close()
    assert again + run(launch(tmp_path / "b", sampler=sampler), 1) == points


def test_a_grid_draws_each_point_once_and_then_is_exhausted(tmp_path: Path) -> None:
    study = launch(tmp_path, sampler="grid", space=FINITE)
    first = study.ask(10)
    assert not first.exhausted
    study.close()
    study = launch(tmp_path, sampler="grid", space=FINITE)
    second = study.ask(100)
    assert second.exhausted
    assert study.ask(1).proposals == ()
    points = [proposal.params for proposal in first.proposals + second.proposals]
    expected = [{"optim": optim, "depth": depth} for optim in ("sgd", "adam") for depth in (2, 4, 6)]
    expected += [
        {"optim": "momentum", "momentum": momentum, "depth": depth}
        for momentum in (0.5, 0.6, 0.7, 0.8, 0.9)
        for depth in (2, 4, 6)
    ]
    assert sorted(map(json.dumps, points)) == sorted(map(json.dumps, expected))
    assert points[: len(expected)] != expected


def test_a_grid_is_exhausted_with_its_last_point(tmp_path: Path) -> None:
    space = Space({"x": Parameter(CategoricalDistribution([True, 1, 1.5]))})
    proposed = launch(tmp_path, sampler="grid", space=space).ask(3)
    assert proposed.exhausted
    assert sorted(map(repr, (proposal.params["x"] for proposal in proposed.proposals))) == ["1", "1.5", "True"]


@pytest.mark.parametrize(
    ("sampler", "space", "words"),
    [
        ({}, FLAT, ["sampler.name: None ", "random", "gp"]),
        ({"name": "TPE"}, FLAT, ["sampler.name: 'TPE' ", "tpe"]),
        ({"name": ["tpe"]}, FLAT, ["sampler.name: ['tpe'] "]),
        ({"name": "random", "seed": 3}, FLAT, ["sampler.seed: 3 ", "no option for random"]),
        ({"name": "tpe", "n_startup": 3}, FLAT, ["sampler.n_startup: 3 ", "n_startup_trials"]),
        ({"name": "tpe", "n_startup_trials": -1}, FLAT, ["sampler.n_startup_trials: -1 ", "at least 0"]),
        ({"name": "tpe", "n_ei_candidates": 0}, FLAT, ["sampler.n_ei_candidates: 0 ", "at least 1"]),
        ({"name": "tpe", "multivariate": 1}, FLAT, ["sampler.multivariate: 1 ", "true or false"]),
        ({"name": "cmaes", "sigma0": 0}, FLAT, ["sampler.sigma0: 0 ", "above 0"]),
        ({"name": "cmaes", "popsize": 1}, FLAT, ["sampler.popsize: 1 ", "at least 3"]),
        ({"name": "qmc", "qmc_type": "lattice"}, FLAT, ["sampler.qmc_type: 'lattice' ", "sobol, halton"]),
        ({"name": "grid"}, FLAT, ["sampler.name: 'grid' ", "lr", "choice"]),
    ],
)
def test_a_bad_sampler_is_refused_in_one_sentence(
    sampler: Mapping[str, Any], space: Space, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(BadInputError) as caught:
        launch(tmp_path, sampler=sampler, space=space)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / JOURNAL).exists()


def test_a_grid_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space({name: Parameter(IntDistribution(0, 9)) for name in "ab"})
    monkeypatch.setattr(swathe.samplers, "MAX_GRID", 99)
    with pytest.raises(BadInputError, match="at most 99 points"):
        launch(tmp_path, sampler="grid", space=space)
    monkeypatch.setattr(swathe.samplers, "MAX_GRID", 100)
    assert launch(tmp_path, sampler="grid", space=space).ask(100).exhausted


def test_nothing_is_said_on_the_terminal(tmp_path: Path) -> None:
    # In a process of its own: what is written how is decided when Optuna is imported.
    script = (
        "from pathlib import Path; from tests import test_study as t\n"
        "for sampler in t.SAMPLERS:\n"
        "    study = t.launch(Path(t._name(sampler)), sampler=sampler, space=t.CONDITIONAL)\n"
        "    t.run(study, 8)\n"
        "    study.tell(study.ask(1).proposals[0].trial, t.TrialState.FAILED, None, {})\n"
        "    study.close()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list(tmp_path.iterdir())) == len(SAMPLERS)


# Storage URLs.


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("study.db", ["sweep.storage: 'study.db' ", "sqlite:///FILE"]),
        ("mysql://u:secret@h/d", ["'mysql://u:***@h/d'", "postgresql://"]),
        ("postgresql+psycopg2://u:secret@h/d", ["'postgresql+psycopg2://u:***@h/d'", "postgresql://"]),
        ("postgresql://u:secret@h:port/d", ["'postgresql://u:***@h:port/d'"]),
        ("postgresql://u:se@cret@h:x/d", ["'postgresql://u:***@h:x/d'"]),
        ("sqlite://", ["'sqlite://'", "sqlite:///FILE"]),
        ("sqlite:///no/such/folder/study.db", ["no/such/folder"]),
        ("postgresql://u:secret@127.0.0.1:1/d", ["'postgresql://u:***@127.0.0.1:1/d'", "refused"]),
        ("postgresql://127.0.0.1:1/d?password=secret", ["?password=***"]),
    ],
)
def test_a_bad_storage_is_refused_in_one_sentence(storage: str, words: list[str], tmp_path: Path) -> None:
    def open_it() -> None:
        Study.open(
            "s",
            folder=tmp_path,
            storage=storage,
            direction=Direction.MINIMIZE,
            sampler={"name": "random"},
            space=FLAT,
            seed=1,
        )

    def load_it() -> None:
        Study.load("s", folder=tmp_path, storage=storage)

    for refuse in (lambda: check_storage(storage), open_it, load_it):
        with pytest.raises(BadInputError) as caught:
            refuse()
        said = str(caught.value)
        assert said.startswith("sweep.storage: ")
        assert "secret" not in said
        assert "cret@" not in said
        assert "\n" not in said
    for word in words:
        with pytest.raises(BadInputError) as caught:
            check_storage(storage)
        assert word in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("This is not a database, and it is long enough to be read as one." * 20)
    with pytest.raises(BadInputError, match="not a database"):
        check_storage(f"sqlite:///{tmp_path}/study.db")


def test_a_good_storage_is_let_through_and_not_created(tmp_path: Path) -> None:
    check_storage(None)
    check_storage(f"sqlite:///{tmp_path}/study.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("enabled", [True, False])
def test_reading_leaves_pythons_collector_as_it_was(enabled: bool, tmp_path: Path) -> None:
    try:
        if not enabled:
            gc.disable()
        study = launch(tmp_path)
        assert study.history() == []
        study.close()
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
