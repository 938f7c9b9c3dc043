"""The pre-flight of a sweep: what is tried, by which key it is remembered, and what a launch does with its verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from swathe import cli, runtime
from swathe.config import compose_sweep, sweep_names
from swathe.home import Home
from swathe.preflight import task_of
from swathe.preflight_task import PreflightTask, make, remembered, settle
from swathe.space import Space
from swathe.training.structure import structural_key

MINE = """
defaults: [/model: mlp, /data: digits, /optim: adamw, /sampler: random, /pruner: none, _self_]
model: {hidden: [8]}
data: {limit: 320}
epochs: 1
sweep:
  trials: 2
  space: {optim.lr: "tag(log, interval(1e-4, 1))"}
"""
# One that no rate makes learn.
HOPELESS = ["model=deep_mlp", "model.depth=12", "model.width=16", "model.activation=sigmoid", "preflight.seconds=60"]


def task(home: Home, sweep: str, *overrides: str) -> PreflightTask | None:
    (home.path / "data").mkdir(parents=True, exist_ok=True)
    composed = compose_sweep(sweep, overrides)
    return task_of(runtime.prepare(composed, Space.parse(composed), home, "swathe launch"), home)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(MINE)
    return "mine.yaml"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / ".swathe")


def tried(home: Home, *words: str) -> PreflightTask:
    found = task(home, *words)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("space", "structures"),
    [
        ([], "1 structure"),
        (["model.init=choice(default,he_normal)", "optim=choice(sgd,adam)"], "1 structure"),
        (["batch_size=choice(16,32,64)", "model.norm=choice(none,batch)"], "6 structures"),
        (["regularization.dropout=interval(0,0.5)", "regularization=choice(none,l1)"], "4 structures"),
        (["model=choice(mlp,cnn)", "data=choice(digits,wine)"], "3 structures"),
        (["model=deep_mlp", "model.depth=int(interval(2,9))"], "2 structures"),
    ],
    ids=["none", "values", "product", "switches", "not together", "ends"],
)
def test_every_structure_of_the_space_is_tried(mine: str, home: Home, space: list[str], structures: str) -> None:
    found = tried(home, mine, *space)
    assert found.choices == structures
    assert len({structural_key(one) for one in found.probes}) == len(found.probes) == int(structures.split()[0])


def test_of_many_structures_some_are_tried(mine: str, home: Home) -> None:
    many = ["model=deep_mlp", "batch_size=choice(8,16,32,64,128,256)", "model.width=choice(4,5,6,7,8,9)"]
    found = tried(home, mine, *many, "model.norm=choice(none,batch,layer)", "preflight.structures=5")
    assert (found.choices, len(found.probes)) == ("108 structures", 5)
    assert len({structural_key(one) for one in found.probes}) == 5
    more = ["model.depth=choice(2,3,4,5,6)", "model.residual=choice(false,true)"]
    found = tried(home, mine, *many, *more, "model.activation=choice(relu,tanh,gelu)")
    assert found.choices.startswith("more than ")
    assert len(found.probes) == 24


def test_what_makes_no_other_structure_has_the_same_verdict(mine: str, home: Home) -> None:
    first = tried(home, mine)
    same = tried(home, mine, "optim=sgd", "epochs=9", "seed=4", "sweep.trials=90", "schedule=cosine", "pruner=asha")
    assert same.key == first.key
    others = [["data.limit=300"], ["model.hidden=[9]"], ["batch_size=32"], ["diagnosis.broken_steps=100"]]
    assert len({first.key, *(tried(home, mine, *words).key for words in others)}) == 5


def test_another_state_of_the_data_has_another_verdict(mine: str, home: Home) -> None:
    table = Path("table.csv")
    table.write_text("a,b,y\n" + "1,2,0\n2,1,1\n3,1,0\n" * 20)
    words = ["data=csv", "data.path=table.csv", "data.target=y", "data.limit=null"]
    first = tried(home, mine, *words)
    assert tried(home, mine, *words).key == first.key
    table.write_text(table.read_text() + "4,4,1\n")
    assert tried(home, mine, *words).key != first.key


def test_it_can_be_switched_off_and_is_no_part_of_what_a_sweep_is(mine: str, home: Home) -> None:
    assert task(home, mine, "preflight.enabled=false") is None
    identities = {compose_sweep(mine, words).identity for words in ([], ["preflight.enabled=false"])}
    assert len(identities) == 1


def test_it_needs_no_pytorch(mine: str, home: Home) -> None:
    code = "import sys; from tests.test_preflight import *; task(Home(Path('home')), 'mine.yaml')"
    code += "; print('torch' in sys.modules)"
    root = str(Path(__file__).resolve().parents[1])
    environment = {"PYTHONPATH": f"{root}:{root}/src", "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_the_second_worker_takes_the_verdict_of_the_first(mine: str, home: Home) -> None:
    found = tried(home, mine)
    assert remembered(found) is None
    verdict = settle(found, "cpu")
    assert remembered(found) == verdict
    # Nothing is tried again: there are no probes that could be.
    assert settle(replace(found, probes=()), "cpu") == verdict
    found.file.write_text("{}")
    assert remembered(found) is None


def run(*words: str) -> int:
    return cli.run(list(words))


def test_check_says_what_it_found_and_starts_nothing(mine: str, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", mine, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["subject"] for one in said["checks"]] == ["data", "steps", "one batch"]
    assert {one["outcome"] for one in said["checks"]} == {"ok"}
    assert run("check", mine, *HOPELESS) == 2
    printed = capsys.readouterr().out
    assert "error" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert not (home.path / "sweeps").exists()


def test_a_function_has_only_its_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def train(params): ...\n")
    (tmp_path / "own.yaml").write_text("trainable: own:train\nsweep: {metric: loss}\n")
    assert task(home, "own.yaml") is None
    assert run("check", "own.yaml") == 0


# Launches.


@pytest.mark.slow
def test_a_launch_that_is_refused_leaves_its_name_free(
    mine: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = ["launch", mine, "cluster=inline", "--quiet"]
    for _ in range(2):
        # First tried, then remembered.
        assert run(*launch, *HOPELESS) == 2
        error = capsys.readouterr().err
        assert error.startswith("swathe: Pre-flight, one batch: The loss on one batch is still 2.")
        assert error.endswith("To launch mine all the same: preflight.refuse=false.\n")
        assert not home.sweeps()
    assert run(*launch) == 0
    assert run(*launch, *HOPELESS, "sweep.name=even_so", "preflight.refuse=false") == 0


@pytest.mark.slow
def test_workers_of_ray_wait_for_the_verdict(mine: str, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("launch", mine, "--quiet", *HOPELESS, "cluster.workers=2", "cluster.cpus_per_worker=0.5") == 2
    assert "Pre-flight, one batch" in capsys.readouterr().err
    assert not home.sweeps()
    assert run("launch", mine, "cluster.workers=2", "cluster.cpus_per_worker=0.5") == 0
    assert len(list((home.path / "preflight").glob("*.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep_names())
def test_no_ready_sweep_is_refused(name: str, home: Home) -> None:
    found = task(home, name)
    if found is not None:
        assert not make(found, "cpu").errors


def remarks(sweeps: Sequence[str], home: Home) -> list[str]:
    return [remark.text for name in sweeps for remark in make(tried(home, name), "cpu").remarks]


def test_nothing_is_said_of_the_first_sweep(home: Home) -> None:
    assert not remarks(["quickstart"], home)
