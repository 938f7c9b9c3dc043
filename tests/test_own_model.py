"""A network of the user's own in a config: in a file, on the command line, in conf/, searched, and refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from swathe import preflight, runtime
from swathe.config import compose_run, compose_sweep, override_values
from swathe.errors import BadInputError
from swathe.home import Home
from swathe.service.catalog import catalog
from swathe.space import Space, TrialComposer
from swathe.training.recipe import Own, recipe_from_config
from tests.integration import swathes

FILE = """
model: {_target_: mynet.Net, depth: 2}
epochs: 2
sweep:
  name: own
  trials: 3
  space:
    optim.lr: tag(log, interval(1e-3, 1e-1))
    model.hidden: choice(4, 8)
"""
CODE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, in_features, classes, hidden=3, depth=1):
        super().__init__()
        layers = [nn.Linear(in_features, hidden), *(nn.Linear(hidden, hidden) for _ in range(depth - 1))]
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.BatchNorm1d(hidden), nn.Dropout(0.1))
        self.output = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.output(self.layers(x).relu())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(FILE)
    (tmp_path / "mynet.py").write_text(CODE)
    return tmp_path


def model(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = values["model"]
    return found


def test_a_file_has_it_and_what_is_searched_need_not_be_given(folder: Path) -> None:
    composed = compose_sweep("own.yaml", ())
    assert model(composed.values) == {"name": "own", "_target_": "mynet.Net", "depth": 2, "hidden": None}
    space = Space.parse(composed)
    config = TrialComposer(composed, space).trial_config({"optim.lr": 0.01, "model.hidden": 8})
    assert recipe_from_config(config).model == Own(target="mynet.Net", arguments={"depth": 2, "hidden": 8})


def test_the_command_line_changes_adds_and_searches_arguments(folder: Path) -> None:
    composed = compose_sweep("own.yaml", ("model.hidden=16", "model.depth=3", "model.width=choice(1,2)"))
    assert model(composed.values) == {"name": "own", "_target_": "mynet.Net", "depth": 3, "hidden": 16, "width": None}
    assert set(Space.parse(composed).parameters) == {"optim.lr", "model.width"}


def test_the_command_line_names_it_in_the_place_of_a_file_s(folder: Path) -> None:
    (folder / "cnn.yaml").write_text("defaults: [/model: cnn, _self_]\nmodel: {channels: [4]}\n")
    for words in (["model._target_=mynet.Net", "+model.hidden=5"], ["model._target_=mynet.Net", "model.hidden=5"]):
        assert model(compose_sweep("cnn.yaml", words).values) == {"name": "own", "_target_": "mynet.Net", "hidden": 5}
        assert model(compose_run(words)) == {"name": "own", "_target_": "mynet.Net", "hidden": 5}


def test_a_file_that_builds_on_it_has_it_too(folder: Path) -> None:
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / "first.yaml").write_text(FILE)
    (folder / "second.yaml").write_text("defaults: [first, _self_]\nmodel: {depth: 4}\n")
    composed = compose_sweep("second.yaml", ())
    assert model(composed.values) == {"name": "own", "_target_": "mynet.Net", "depth": 4, "hidden": None}


def test_an_option_of_conf_is_searched_among_others(folder: Path) -> None:
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "model" / "mynet.yaml").write_text("_target_: mynet.Net\nhidden: 6\n")
    (folder / "both.yaml").write_text('sweep: {space: {model: "choice(mlp, mynet)"}}\n')
    composed = compose_sweep("both.yaml", ())
    space = Space.parse(composed)
    configs = [TrialComposer(composed, space).trial_config({"model": name}) for name in ("mlp", "mynet")]
    assert [config["model"]["name"] for config in configs] == ["mlp", "own"]
    assert recipe_from_config(configs[1]).model == Own(target="mynet.Net", arguments={"hidden": 6})


def test_a_record_is_composed_again(folder: Path) -> None:
    values = compose_run(["model._target_=mynet.Net", "model.hidden=5"])
    assert override_values(values, ["model.hidden=7"])["model"] == {**model(values), "hidden": 7}
    assert override_values(values, ["model=mlp"])["model"]["hidden"] == [128]


def test_a_sweep_without_one_keeps_its_identity(folder: Path) -> None:
    (folder / "plain.yaml").write_text("model: {hidden: [7]}\n")
    composed = compose_sweep("plain.yaml", ())
    assert model(composed.values)["hidden"] == [7]
    with pytest.raises(BadInputError, match=r"model.hiden: there is no such key"):
        compose_sweep("plain.yaml", ("model.hiden=3",))


def test_the_page_does_not_offer_it() -> None:
    assert "own" not in [one["option"] for one in catalog()["groups"]["model"]]


@pytest.mark.parametrize(
    ("word", "refusal"),
    [
        ("model.widht=3", "model.widht: 3 is not allowed; allowed: the arguments of mynet.Net: in_features, classes"),
        ("model._target_=mynet.Nett", "allowed: the networks of mynet: Net."),
        ("model._target_=no_such_module_here.Net", "cannot be imported (ModuleNotFoundError"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_starts(folder: Path, word: str, refusal: str) -> None:
    home = Home(folder / ".swathe")
    composed = compose_sweep("own.yaml", (word,))
    with pytest.raises(BadInputError) as error:
        preflight.check(runtime.prepare(composed, Space.parse(composed), home, "swathe launch"), home.data)
    assert refusal in str(error.value)
    sys.modules.pop("mynet", None)


@pytest.mark.slow
def test_its_champion_has_its_code_and_other_code_is_named(folder: Path) -> None:
    swathes.succeed(folder, "launch", "own.yaml", "cluster=inline", "lanes.slots=4", "pruner=none")
    (folder / "mynet.py").write_text(CODE.replace(".relu()", ".tanh()"))
    other = swathes.run(folder, "reproduce", "own")
    assert other.returncode == 3
    assert "code of the model: recorded digest" in other.stdout
    mlflow.set_tracking_uri(f"sqlite:///{folder}/.swathe/mlflow.db")
    champion = mlflow.pyfunc.load_model("models:/own@champion")
    assert champion.predict(np.zeros((3, 64), dtype=np.float32)).shape == (3, 10)
    assert "relu" in Path(sys.modules["mynet"].__file__ or "").read_text()
    sys.modules.pop("mynet", None)
