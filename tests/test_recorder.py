"""What the recorder makes of the spool's records: real MLflow on SQLite, one database for all tests."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
import torch

from swathe.mlflow_runs import connect
from swathe.recorder import Sweep
from swathe.records import Records

COUNT = itertools.count()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def header(home: Path, tmp_path: Path) -> dict[str, Any]:
    number = next(COUNT)
    return {
        "name": f"sweep{number}",
        "id": f"id{number}",
        "uri": f"sqlite:///{home}/mlflow.db",
        "experiment": f"experiment{number}",
        "artifact_folder": str(home / "artifacts"),
        "metric": "val_loss",
        "direction": "minimize",
        "config_yaml": "seed: 1\n",
        "tags": {"swathe.command": "swathe launch sweep"},
        "workdir": str(tmp_path),
        "started": 1000.0,
        "folder": str(tmp_path),
    }


@pytest.fixture
def records(header: dict[str, Any]) -> Iterator[Records]:
    return Records(header["uri"])


def begin(number: int, time: float = 1000.0) -> list[Any]:
    tags = {"swathe.worker": "w0", "swathe.config": json.dumps({"seed": 1}), "swathe.geometry": "{}"}
    return ["trial", number, f"{number:04d} lr=0.1", {"optim.lr": 0.1, "model.hidden": [64, 32]}, tags, time]


def report(number: int, step: int, time: float = 1001.0, **metrics: float) -> list[Any]:
    return ["metrics", number, step, metrics or {"val_loss": 1.0 / (step + 1)}, time]


def end(number: int, state: str | None = "complete", time: float = 1010.0, **tags: str) -> list[Any]:
    return ["end", number, state, {"swathe.state": state or "interrupted", **tags}, time]


def summary(**changes: Any) -> dict[str, Any]:
    return {
        "state": "FINISHED",
        "reason": "the budget is used",
        "study_name": "sweep",
        "study_storage": None,
        "counts": {"complete": 1},
        "best_trial": None,
        "best_value": None,
        "best_params": {},
        "note_markdown": "# Sweep",
        "model_path": None,
        **changes,
    }


def only_trial(records: Records, header: dict[str, Any]) -> Any:
    (run,) = records.trial_runs(header["experiment"], header["name"])
    return run


def parent_of(header: dict[str, Any]) -> Any:
    client = connect(header["uri"])
    experiment = client.get_experiment_by_name(header["experiment"]).experiment_id
    (run,) = client.search_runs([experiment], "tags.`swathe.kind` = 'sweep'")
    return run


def artifacts(header: dict[str, Any], run_id: str, path: str | None = None) -> set[str]:
    return {item.path for item in connect(header["uri"]).list_artifacts(run_id, path)}


def test_a_trial_is_a_child_run(header: dict[str, Any], records: Records) -> None:
    dataset = {"swathe.dataset": "digits", "swathe.dataset_digest": "ab" * 32}
    assert Sweep(header).write([begin(7), report(7, 1), report(7, 2), end(7, **dataset)]) == []
    run = only_trial(records, header)
    assert (run.number, run.state) == (7, "complete")
    assert run.params == {"optim.lr": "0.1", "model.hidden": "[64, 32]"}
    assert run.metrics == {"val_loss": 1.0 / 3}
    assert run.tags["swathe.worker"] == "w0"
    stored = connect(header["uri"]).get_run(run.run_id)
    assert stored.info.run_name == "0007 lr=0.1"
    assert (stored.info.status, stored.info.start_time, stored.info.end_time) == ("FINISHED", 1_000_000, 1_010_000)
    assert stored.data.tags["mlflow.parentRunId"] == parent_of(header).info.run_id
    (used,) = stored.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", ("ab" * 32)[:36])


@pytest.mark.parametrize(
    ("state", "status"), [("complete", "FINISHED"), ("pruned", "FINISHED"), ("failed", "FAILED"), (None, "KILLED")]
)
def test_states(header: dict[str, Any], records: Records, state: str | None, status: str) -> None:
    Sweep(header).write([begin(0), end(0, state)])
    run = only_trial(records, header)
    assert run.state == (state or "interrupted")
    assert connect(header["uri"]).get_run(run.run_id).info.status == status


def test_a_trial_that_goes_on_keeps_its_run_and_no_number_is_doubled(header: dict[str, Any], records: Records) -> None:
    Sweep(header).write([begin(0), report(0, 1), report(0, 2), end(0, None)])
    # A later session: another recorder.
    sweep = Sweep(header)
    sweep.write([begin(0, 2000.0), report(0, 1, 2001.0)])
    assert only_trial(records, header).state == "running"
    stored = connect(header["uri"]).get_run(only_trial(records, header).run_id)
    assert (stored.info.status, stored.info.end_time) == ("RUNNING", None)
    sweep.write([report(0, 2, 2002.0), report(0, 3, 2003.0), end(0, time=2004.0)])
    run = only_trial(records, header)
    assert run.state == "complete"
    history = connect(header["uri"]).get_metric_history(run.run_id, "val_loss")
    assert [(metric.step, metric.timestamp) for metric in history] == [(1, 1001000), (2, 1001000), (3, 2003000)]


def test_a_batch_that_comes_again_changes_nothing(header: dict[str, Any], records: Records) -> None:
    batch = [begin(0), report(0, 1), report(0, 2), end(0), begin(1), report(1, 1)]
    Sweep(header).write(batch)
    before = records.trial_runs(header["experiment"], header["name"])
    # The first recorder was killed between MLflow's commit and its own note of it.
    Sweep(header).write([*batch, report(1, 2), end(1)])
    after = records.trial_runs(header["experiment"], header["name"])
    assert [run.run_id for run in after] == [run.run_id for run in before]
    assert [len(records.history(run.run_id)) for run in after] == [2, 2]


def test_numbers_keep_their_bits(header: dict[str, Any], records: Records) -> None:
    values = [0.1 + 0.2, 1e-310, math.nan, math.inf, -math.inf, 123456789.123456789, 2.0**70]
    Sweep(header).write([begin(0), *(report(0, step, val_loss=value) for step, value in enumerate(values)), end(0)])
    history = records.history(only_trial(records, header).run_id)
    assert [repr(history["val_loss", step]) for step in range(len(values))] == [repr(value) for value in values]


def test_a_name_that_mlflow_refuses_and_a_long_config_are_taken(header: dict[str, Any], records: Records) -> None:
    config = json.dumps({"layers": list(range(5000))})
    first = begin(0)
    first[4]["swathe.config"] = config
    assert Sweep(header).write([first, report(0, 1, **{"acc@5": 0.5}), end(0)]) == []
    run = only_trial(records, header)
    assert run.metrics == {"acc_5": 0.5}
    assert run.tags["swathe.config"] == config


def test_a_text_is_an_artifact(header: dict[str, Any], records: Records) -> None:
    Sweep(header).write([begin(0), ["text", 0, "traceback.txt", "ValueError: no"], end(0, "failed")])
    run = only_trial(records, header)
    uri = connect(header["uri"]).get_run(run.run_id).info.artifact_uri
    assert (Path(uri) / "traceback.txt").read_text() == "ValueError: no"


def test_a_trial_that_never_began_ends(header: dict[str, Any], records: Records) -> None:
    Sweep(header).write([end(3, "failed")])
    assert only_trial(records, header).state == "failed"


def test_two_sweeps_of_one_name_do_not_mix(header: dict[str, Any], records: Records) -> None:
    Sweep(header).write([begin(0), end(0)])
    other = {**header, "id": "elsewhere", "started": 2000.0}
    Sweep(other).write([begin(0), end(0, "failed")])
    assert only_trial(records, header).state == "failed", "the newest is read"


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_the_parent_says_where_the_code_stands(header: dict[str, Any], tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    (tmp_path / "code.py").write_text("a = 2\n")
    Sweep(header).write([begin(0)])
    parent = parent_of(header)
    assert parent.info.run_name == header["name"]
    assert len(parent.data.tags["mlflow.source.git.commit"]) == 40
    assert parent.data.tags["swathe.git_dirty"] == "true"
    assert parent.data.tags["swathe.command"] == "swathe launch sweep"
    assert artifacts(header, parent.info.run_id) == {"config.yaml", "versions.txt", "git.diff"}
    folder = Path(parent.info.artifact_uri)
    assert folder.is_relative_to(header["artifact_folder"])
    assert "+a = 2" in (folder / "git.diff").read_text()
    assert f"torch=={torch.__version__.partition('+')[0]}" in (folder / "versions.txt").read_text()
    assert (folder / "config.yaml").read_text() == "seed: 1\n"


@pytest.fixture
def study(tmp_path: Path) -> Iterator[str]:
    """A study of four trials, in a storage that `Study.load` opens."""
    storage = f"sqlite:///{tmp_path}/study.db"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(study_name="sweep", storage=storage, direction="minimize")
    distributions = {"optim.lr": optuna.distributions.FloatDistribution(0.0, 1.0)}
    for value in (0.5, 0.25, 0.125, 0.75):
        made.add_trial(
            optuna.create_trial(
                params={"optim.lr": value},
                distributions=distributions,
                value=value,
                intermediate_values={1: 2 * value, 2: value},
            )
        )
    return storage


def test_the_end_of_a_sweep(header: dict[str, Any], records: Records, tmp_path: Path, study: str) -> None:
    weights = tmp_path / "best.pt"
    network = torch.nn.Linear(2, 3)
    torch.save({"output.weight": network.weight.detach(), "output.bias": network.bias.detach()}, weights)
    config = {"model": {"name": "mlp", "hidden": []}, "data": {"name": "digits"}, "optim": {"name": "adam"}}
    first = begin(2)
    first[4]["swathe.config"] = json.dumps(config)
    last = summary(
        study_storage=study,
        best_trial=2,
        best_value=0.125,
        best_params={"optim.lr": 0.125},
        model_path=str(weights),
        counts={"complete": 4},
    )
    assert Sweep(header).write([first, report(2, 1), end(2), ["finish", last, 1100.0]]) == []
    parent = parent_of(header)
    assert (parent.info.status, parent.info.end_time) == ("FINISHED", 1_100_000)
    assert parent.data.tags["mlflow.note.content"] == "# Sweep"
    assert parent.data.tags["swathe.best_trial"] == "2"
    assert parent.data.tags["swathe.best.optim.lr"] == "0.125"
    assert parent.data.metrics == {"best_val_loss": 0.125}
    assert {"trials.csv", "trials.json", "plots"} <= artifacts(header, parent.info.run_id)
    folder = Path(parent.info.artifact_uri)
    assert len((folder / "trials.csv").read_text().splitlines()) == 5
    page = (folder / "plots" / "plots.html").read_text()
    for title in ("History", "Importance", "Parallel coordinates", "Slices", "Intermediate values"):
        assert f"<h2>{title}</h2>" in page
    assert "<script src=" not in page, "it opens without a network"

    mlflow.set_tracking_uri(header["uri"])
    champion = mlflow.pyfunc.load_model(f"models:/{header['name']}@champion")
    inputs = torch.rand(5, 2)
    assert torch.equal(torch.as_tensor(champion.predict(inputs.numpy())), network(inputs).detach())
    # The same again, as after a kill before the recorder noted it: no second version.
    Sweep(header).write([["finish", last, 1100.0]])
    client = connect(header["uri"])
    assert len(client.search_model_versions(f"name = '{header['name']}'")) == 1
    assert parent_of(header).info.status == "FINISHED"


def test_plots_that_cannot_be_made_do_not_stop_the_record(header: dict[str, Any], records: Records) -> None:
    problems = Sweep(header).write(
        [begin(0), end(0), ["finish", summary(study_storage="sqlite:////no/such/x.db"), 1.0]]
    )
    assert len(problems) == 1
    assert problems[0].startswith("The plots cannot be recorded")
    assert parent_of(header).info.status == "FINISHED"


def test_a_summary_before_later_trials(header: dict[str, Any], records: Records, study: str) -> None:
    """Two sessions' records in one batch: the parent ends and runs again."""
    finish = ["finish", summary(study_storage=study, state="KILLED"), 1100.0]
    Sweep(header).write([begin(0), end(0, None), finish])
    Sweep(header).write([begin(0, 2000.0)])
    assert parent_of(header).info.status == "RUNNING"


def test_numbers_of_the_sweep_itself(header: dict[str, Any], records: Records) -> None:
    live = [["sweep", {"occupancy": 0.5 + step / 10, "lanes": 8.0}, 1000.0 + step] for step in (1, 2)]
    Sweep(header).write([begin(0), live[0], report(0, 1), live[1]])
    # The second comes again, and a later session goes on where the first one began to count.
    Sweep(header).write([live[1]])
    later = {**header, "started": 5000.0}
    Sweep(later).write([["sweep", {"occupancy": 0.9}, 5003.0], end(0)])
    client = connect(header["uri"])
    history = client.get_metric_history(parent_of(header).info.run_id, "occupancy")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.6), (2, 0.7), (4003, 0.9)]
    assert records.sweep_metrics(header["experiment"], header["name"]) == {"occupancy": 0.9, "lanes": 8.0}
    assert "occupancy" not in only_trial(records, header).metrics


def test_means_at_the_end_of_a_sweep(header: dict[str, Any], records: Records) -> None:
    last = summary(study_storage="sqlite:////no/such/x.db", metrics={"occupancy_mean": 0.75})
    Sweep(header).write([begin(0), end(0), ["finish", last, 1007.5]])
    (metric,) = connect(header["uri"]).get_metric_history(parent_of(header).info.run_id, "occupancy_mean")
    assert (metric.step, metric.value) == (7, 0.75)
