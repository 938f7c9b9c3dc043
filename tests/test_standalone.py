"""`swathe train`: what it takes from the command line and a file, and what is recorded of a run that fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import swathe
from swathe import standalone
from swathe.errors import BadInputError, SwatheError
from swathe.home import Home
from swathe.mlflow_runs import connect
from swathe.records import Records
from swathe.standalone import Settings

FUNCTION = ("trainable=tests.test_standalone:function", "+params.x=0.5")


def function(params: Any) -> None:
    swathe.report(val_loss=params.x, step=1)
    if params.x > 1:
        raise ValueError("x is too large\nand here is more")
    swathe.report(val_loss=params.x / 2, step=2)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def settings(*overrides: str) -> Settings:
    return standalone.load(None, (*FUNCTION, *overrides))[1]


def test_without_a_word_it_is_one_thread_on_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings() == Settings()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert settings().device == "cuda"
    assert settings("device=cpu").device == "cpu"


def test_the_command_line_sets_device_threads_and_record() -> None:
    found = settings(
        "device=auto", "cluster.threads_per_worker=3", "tracking.uri='sqlite:///x.db'", "tracking.experiment=mine"
    )
    assert found == Settings("cpu", 3, "sqlite:///x.db", "mine")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("device=cuda", ["device: 'cuda'", "torch finds no GPU"]),
        ("device=tpu", ["device: 'tpu'", "auto, cpu, cuda"]),
        ("tracking.uri='ftp://x'", ["tracking.uri: 'ftp://x'", "postgresql"]),
        ("cluster.threads_per_worker=0", ["cluster.threads_per_worker: 0", "1 or more"]),
        ("cluster.workers=2", ["cluster.workers: '2'", "swathe launch"]),
        ("cluster=inline", ["cluster: 'inline'", "swathe launch"]),
        ("sweep.trials=3", ["sweep.trials: '3'", "swathe launch"]),
        ("sampler=tpe", ["sampler: 'tpe'", "swathe launch"]),
        ("pruner.name=x", ["pruner.name: 'x'", "swathe launch"]),
        ("tracking.url=x", ["tracking.url", "tracking.uri"]),
        ("device=choice(cpu,cuda)", ["device: 'choice(cpu,cuda)'", "swathe launch"]),
    ],
)
def test_what_means_nothing_here_is_refused(override: str, words: Sequence[str]) -> None:
    with pytest.raises(BadInputError) as refusal:
        settings(override)
    said = str(refusal.value)
    assert "\n" not in said
    for word in words:
        assert word in said


def from_file(values: object, *overrides: str) -> tuple[Any, Settings]:
    path = Path("best.yaml")
    path.write_text(yaml.safe_dump(values))
    return standalone.load(path, overrides)


BEST = {"trainable": "tests.test_standalone:function", "params": {"x": 0.5}, "seed": 7, "origin": {"trial": 3}}


def test_a_file_gives_its_threads_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = {"threads": "2", "device": "cpu", "torch": "1"}
    config, found = from_file({**BEST, "geometry": geometry})
    assert (config["params"], config["seed"], found) == ({"x": 0.5}, 7, Settings("cpu", 2))
    assert "origin" not in config
    assert from_file({**BEST, "geometry": geometry}, "cluster.threads_per_worker=4")[1] == Settings("cpu", 4)
    assert from_file({**BEST, "device": "cpu", "tracking": {"experiment": "e"}})[1] == Settings(experiment="e")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert from_file({**BEST, "geometry": geometry})[1].device == "cpu"
    assert from_file({**BEST, "geometry": {"device": "cuda"}})[1] == Settings("cuda")


def test_a_gpus_file_trains_on_the_cpu_and_says_so() -> None:
    _, found = from_file({**BEST, "geometry": {"device": "cuda"}})
    assert found.device == "cpu"
    assert found.notice is not None
    assert "CPU" in found.notice
    assert "\n" not in found.notice
    assert from_file({**BEST, "geometry": {"device": "cuda"}}, "device=cpu")[1] == Settings("cpu")


@pytest.mark.parametrize(
    ("geometry", "key"),
    [
        (3, "geometry: 3"),
        (["cpu"], "geometry: ['cpu']"),
        ({"threads": 0}, "geometry.threads: 0"),
        ({"threads": "two"}, "geometry.threads: 'two'"),
        ({"threads": 1.5}, "geometry.threads: 1.5"),
        ({"threads": True}, "geometry.threads: True"),
        ({"threads": None}, "geometry.threads: None"),
        ({"device": ["cuda"]}, "geometry.device: ['cuda']"),
        ({"device": "tpu"}, "geometry.device: 'tpu'"),
    ],
)
def test_a_geometry_that_is_none_is_refused(geometry: object, key: str) -> None:
    with pytest.raises(BadInputError) as refusal:
        from_file({**BEST, "geometry": geometry})
    assert str(refusal.value).startswith(f"best.yaml: {key} is not allowed; allowed: ")


def test_a_run_is_recorded_where_it_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    uri = f"sqlite:///{tmp_path}/other.db"
    config, found = standalone.load(None, (*FUNCTION, f"tracking.uri='{uri}'", "tracking.experiment=mine"))
    seen: list[int] = []
    run, run_id = standalone.train(config, found, home, lambda report: seen.append(report.step))
    assert seen == [1, 2]
    assert [report.metrics for report in run.reports] == [{"val_loss": 0.5}, {"val_loss": 0.25}]
    records = Records(uri)
    assert records.history(run_id) == {("val_loss", 1): 0.5, ("val_loss", 2): 0.25}
    assert records.run(run_id).experiment_id == records.experiment_id("mine")
    assert not (home.path / "mlflow.db").exists()


def test_a_run_that_fails_is_recorded_with_its_traceback(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    config, found = standalone.load(None, (*FUNCTION[:1], "+params.x=2"))
    with pytest.raises(SwatheError) as failure:
        standalone.train(config, found, home, lambda report: None)
    said = str(failure.value)
    assert "\n" not in said
    assert said.startswith("The run failed: ValueError: x is too large (run ")
    run_id = said.partition("(run ")[2].split()[0]
    run = Records(home.tracking_uri).run(run_id)
    assert (run.state, run.tags["swathe.state"]) == ("failed", "failed: ValueError: x is too large")
    assert run.metrics == {"val_loss": 2.0}
    assert connect(home.tracking_uri).get_run(run_id).info.status == "FAILED"
    (file,) = home.artifacts.rglob("traceback.txt")
    assert "test_standalone.py" in file.read_text()
    assert file.read_text().endswith("and here is more")


def test_a_failure_that_cannot_be_recorded_is_still_told(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    config, _ = standalone.load(None, (*FUNCTION[:1], "+params.x=2"))
    found = Settings(uri="http://127.0.0.1:9/")
    with pytest.raises(SwatheError, match=r"^The run failed: ValueError: x is too large; and .* does not answer"):
        standalone.train(config, found, home, lambda report: None)
