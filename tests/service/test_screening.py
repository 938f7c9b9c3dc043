"""What a config that comes over the network may not hold: nothing that runs code, or reads outside of the folder."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest

from swathe.errors import BadInputError
from swathe.service.screening import MAX_DEPTH, screen_composed, screen_request

BOMB = "a: &a [x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DEEP = "a: " + "[" * 10_000 + "]" * 10_000

FORBIDDEN_YAML = {
    "_target_": "model: {_target_: os.system, command: id}",
    "a quoted _target_": 'model: {"\\x5ftarget_": os.system}',
    "a target in a space": "sweep: {space: {optim: 'choice({_target_: os.system})'}}",
    "the environment": "sweep: {name: '${oc.env:HOME}'}",
    "any interpolation": "sweep: {name: '${epochs}'}",
    "Hydra's own search path": "hydra: {searchpath: [file:///etc]}",
    "a key of Hydra's": "hydra.searchpath: [x]",
    "Hydra in the defaults": "defaults: [{override hydra/launcher: x}]",
    "a path in the defaults": "defaults: [../../etc/passwd]",
    "a path as an option": "defaults: [{/data: ../../../etc/passwd}]",
    "an absolute path": "data: {path: /etc/passwd}",
    "a path out of the folder": "data: {path: x/../../y}",
    "a path of a user": "data: {path: ~root/x}",
    "a path of the home": "data: {path: .swathe/tokens.json}",
    "a link out of the folder": "data: {path: link/passwd}",
    "a path in a search": "sweep: {space: {data.path: 'choice(a, /etc/passwd)'}}",
    "a folder of checkpoints": "checkpoints: {folder: /tmp}",
    "weights": "transfer: {weights: /root/.ssh/id_rsa}",
    "a URL": "tracking: {uri: 'http://169.254.169.254/latest'}",
    "a database": "sweep: {storage: 'sqlite:///x.db'}",
    "an address": "cluster: {address: '10.0.0.1:6379'}",
    "an address by its whole key": "cluster.address: '10.0.0.1:6379'",
    "a merge": "<<: {data: {path: /etc/passwd}}",
    "a NUL": 'data: {path: "x\\0y"}',
    "an alias bomb": BOMB,
    "an anchor": "a: &a 1",
    "deep YAML": DEEP,
    "defaults that are no list": "defaults: {/data: /etc/passwd}",
    "a list of options": "defaults: [{/data: [a, /etc/passwd]}]",
}
FORBIDDEN_OVERRIDES = [
    "+model._target_=os.system",
    "model={_target_:os.system}",
    "sweep.name=${oc.env:HOME}",
    "hydra.searchpath=[file:///etc]",
    "+hydra.job.name=x",
    "hydra/launcher=x",
    "++hydra.run.dir=x",
    "~hydra",
    "data=../../../etc/x",
    "data.path=/etc/passwd",
    "data.path='/etc/passwd'",
    "data.path=~/x",
    "data.path=a/../../b",
    "data={path:/etc/passwd}",
    "data.path=choice(a,/etc/passwd)",
    "data.path=\\/etc/passwd",
    "cluster.address=10.0.0.1:6379",
    "cluster={address:x}",
    "tracking.uri=http://x",
    "sweep.storage=postgresql://a:b@c/d",
    "data.path=.swathe",
    "x=\0",
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".swathe").mkdir()
    (tmp_path / "link").symlink_to("/etc")


@pytest.mark.parametrize("name", FORBIDDEN_YAML)
def test_yaml_is_refused(name: str) -> None:
    with pytest.raises(BadInputError) as refused:
        screen_request(FORBIDDEN_YAML[name], [])
    assert "allowed" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("word", FORBIDDEN_OVERRIDES)
def test_overrides_are_refused(word: str) -> None:
    with pytest.raises(BadInputError, match="allowed"):
        screen_request(None, [word])


def test_what_a_sweep_needs_is_let_through(tmp_path: Path) -> None:
    text = """
defaults: [/model: mlp, /data: csv, override /optim: adamw, quickstart, /quickstart, _self_]
data: {path: data/train.csv}
transfer: {weights: "models:/digits/3"}
sweep:
  space:
    optim: choice(sgd, adam)
    optim.lr: tag(log, interval(1e-5, 1.0))
    model.hidden: choice([128], [64, 64])
  when: {"optim=sgd": {optim.momentum: "interval(0.5, 0.99)"}}
"""
    words = ["optim=adam", "'optim.lr=tag(log,interval(1e-4,1))'", "~sampler", "+x=1", "data.path=data/a..b.csv"]
    screen_request(text, words)
    screen_request("- not\n- a mapping", [])
    screen_request("a: [", [])


def test_functions_only_of_modules_that_are_allowed() -> None:
    for values, searches in (
        ({"trainable": "os:system"}, []),
        ({"augmentation": {"translator": "os.path:join"}}, []),
        ({}, [("params.x", "choice(os:system, mine:train)")]),
        ({}, [("params.x", "choice({translator: evil}, {a:b})")]),
        ({}, [("augmentation.translator", "choice(evil, mine:train)")]),
        ({}, [("trainable", "choice(evil:, mine:train)")]),
        ({"trainable": "evil:x.y"}, []),
        ({"trainable": "evil:"}, []),
        ({"trainable": " mine:train"}, []),
        ({"augmentation": {"translator": "evil"}}, []),
        ({"augmentation": {"translator": ["evil"]}}, []),
        ({"a": [{"b": "subprocess:run"}]}, []),
        ({"params": {"_target_": 1}}, []),
    ):
        with pytest.raises(BadInputError, match="allowed"):
            screen_composed(values, searches, ["mine"])
    good = {"trainable": "mine:train", "transfer": {"weights": "models:/x/1"}, "augmentation": {"translator": None}}
    screen_composed(good, [("params.x", "choice(a, b)"), ("trainable", "choice(mine:a, mine:b)")], ["mine"])
    # A package's name does not let its parts in.
    with pytest.raises(BadInputError):
        screen_composed({"trainable": "mine.more:train"}, [], ["mine"])


def test_bombs_cost_nothing() -> None:
    began = time.process_time()
    for text in (
        BOMB,
        DEEP,
        "a: " + "{a: " * 9000,
        "[" * 65_000,
        "- " * 30_000,
        "? " * 30_000,
        "!!python/object:os.system x",
    ):
        with pytest.raises(BadInputError) if text in (BOMB, DEEP) else suppress(BadInputError):
            # Others are refused here, or left to the parser that comes after.
            screen_request(text, [])
    # Not a timing of this machine: an alias bomb takes hours.
    assert time.process_time() - began < 60
    assert MAX_DEPTH < 100
