"""Whatever is typed or written: a valid config, or one sentence and exit code 2; never a traceback, and nothing starts.

`swathe config` composes, parses and checks as a launch does, and stops before anything is started. Each example takes
some 70 ms (160 on slow cores), nearly all of it Hydra's: the quick test takes some kinds at random, the slow one 1,000
of them, among which is each place and each damage; `make fuzz N=12000` takes as many as one likes.
"""

from __future__ import annotations

import io
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swathe import cli
from tests.fuzz.kinds import FILE, KINDS, Input, Kind

# A fixed selection, for the slow test: in parts, each of which takes a minute.
PARTS = 4
COUNT = int(os.environ.get("SWATHE_FUZZ_KINDS", "1000"))
SHUFFLED = random.Random(0).sample(KINDS, len(KINDS))
EACH_ONCE = {kind.damage: kind for kind in SHUFFLED} | {kind.place: kind for kind in SHUFFLED}
SELECTED = list(dict.fromkeys([*EACH_ONCE.values(), *SHUFFLED]))[:COUNT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        yield path


def run(words: tuple[str, ...]) -> tuple[int, str, str]:
    said, complained = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(complained), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = cli.run(list(words))
    return code, said.getvalue(), complained.getvalue()


def check(folder: Path, kind: Kind, given: Input) -> None:
    (folder / FILE).write_bytes(given.file)
    code, said, complained = run(given.words)
    told = f"{kind}\n{given.words}\n{given.file!r}\n{code} {complained}"
    if code == 0:
        assert not complained, told
        assert said, told
    else:
        assert code == cli.EXIT_BAD_INPUT, told
        assert complained.startswith("swathe: "), told
        # One sentence on one line, which nothing of what was given can break.
        assert complained.count("\n") == 1, told
        assert complained[:-1].isprintable(), told
        assert "Traceback" not in complained, told
    assert not (folder / ".swathe" / "sweeps").exists(), told


def test_there_are_many_kinds_of_input_and_each_has_a_name() -> None:
    assert len({str(kind) for kind in KINDS}) == len(KINDS) >= 10_000
    assert {kind.damage for kind in SELECTED} == {kind.damage for kind in KINDS}
    assert {kind.place for kind in SELECTED} == {kind.place for kind in KINDS}


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_odd_input_is_refused_in_one_sentence_or_is_good(folder: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    check(folder, kind, data.draw(kind.inputs))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_place_and_every_damage(folder: Path, part: int) -> None:
    """An input of each kind that was selected: all places and all damages are among them."""

    @settings(max_examples=1, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(st.data())
    def one(kind: Kind, data: st.DataObject) -> None:
        check(folder, kind, data.draw(kind.inputs))

    for kind in SELECTED[part::PARTS]:
        one(kind)


@pytest.mark.parametrize(
    "words",
    [
        ("launch", FILE, "optim.lr=interval(2,1)"),
        ("launch", FILE, "sampler=[]"),
        ("launch", FILE, "optim.lr=choice(choice(1,2),3)"),
        ("launch", FILE, "augmentation.window_slicing=1" + "0" * 400),
    ],
)
def test_a_launch_refuses_what_the_check_refuses_and_in_the_same_words(folder: Path, words: tuple[str, ...]) -> None:
    (folder / FILE).write_bytes(Input(()).file)
    refused = run(words)
    assert refused[0] == cli.EXIT_BAD_INPUT
    assert refused[2] == run(("config", *words[1:]))[2]
    assert not (folder / ".swathe" / "sweeps").exists()
