"""What the reading commands show, from a real study and a real MLflow on SQLite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from rich.console import Console

from swathe import analysis, tables
from swathe.errors import BadInputError, SwatheError
from swathe.events import Direction, TrialState, Value
from swathe.home import Home, SweepCard
from swathe.mlflow_runs import Metric, RunChange, clean_name, open_runs
from swathe.overview import Overview, Row
from swathe.study import JOURNAL, Study
from tests.test_study import Parameter, Space

SPACE = Space({"lr": Parameter(FloatDistribution(0.0, 1.0))})


def launch(
    home: Home, name: str = "s", *, metric: str = "val_loss", direction: str = "minimize", uri: str | None = None
) -> Study:
    """Write a sweep's card and open its study, as its driver does."""
    folder = home.sweep(name)
    uri = uri or home.tracking_uri
    folder.write_card(SweepCard(name, "id", None, uri, name, metric, direction, 4, f"swathe launch {name}", 0.0))
    return Study.open(
        name,
        folder=folder.path,
        storage=None,
        direction=Direction(direction),
        sampler={"name": "random"},
        space=SPACE,
        seed=1,
    )


def record(home: Home, values: list[dict[str, float]], *, name: str = "s", uri: str | None = None) -> list[str]:
    """Record complete trials with these metrics, as the recorder does; return their runs' ids."""
    runs = open_runs(uri or home.tracking_uri, name, home.artifacts)
    parent = RunChange(name, 0, tags={"swathe.kind": "sweep", "swathe.sweep": name})
    runs.write([parent])
    trials = []
    for number, metrics in enumerate(values):
        tags = {"swathe.kind": "trial", "swathe.trial": str(number), "swathe.state": "complete"}
        trial = RunChange(f"{number:04d}", 0, tags={**tags, "mlflow.parentRunId": parent.run_id})
        trial.metrics = [Metric(clean_name(key), value, 0, 1) for key, value in metrics.items()]
        trials.append(trial)
    runs.write(trials)
    return [trial.run_id for trial in trials]


def test_trials_drawn_ahead_are_waiting_when_nobody_drives(tmp_path: Path) -> None:
    home = Home(tmp_path)
    study = launch(home)
    study.ask(3)
    study.record(0, 1, 0.5)
    study.tell(0, TrialState.COMPLETE, 0.5, {})
    study.record(1, 1, 0.75)
    study.commit()
    found, rows = analysis.leaders(home, "s", top=5)
    assert found.counts == {TrialState.COMPLETE: 1, TrialState.WAITING: 2}
    assert found.status == "stopped with 1 of 4 trials; go on with: swathe launch s"
    assert [(row.trial, row.state) for row in rows] == [(0, "complete"), (1, "waiting")]
    with home.sweep("s").drive():
        driven = analysis.overview(home, "s")
    assert driven.counts == {TrialState.COMPLETE: 1, TrialState.RUNNING: 2}
    assert driven.status.startswith("running")
    study.close()


def test_symptoms_are_counted_over_the_trials_that_are_over(tmp_path: Path) -> None:
    home = Home(tmp_path)
    study = launch(home)
    study.ask(4)
    for number, symptoms in enumerate(["lr_too_high", "diverged,lr_too_high", ""]):
        study.record(number, 1, 1.0 + number)
        attrs: dict[str, Value] = {"diagnosis": symptoms} if symptoms else {}
        study.tell(number, TrialState.COMPLETE, 1.0 + number, attrs)
    study.commit()
    study.close()
    found, rows = analysis.leaders(home, "s", top=5)
    assert list(found.diagnosis.items()) == [("lr_too_high", 2), ("diverged", 1)]
    assert found.as_dict()["diagnosis"] == {"lr_too_high": 2, "diverged": 1}
    assert [row.diagnosis for row in rows] == [("lr_too_high",), ("diverged", "lr_too_high"), ()]
    console = Console(width=80)
    with console.capture() as shown:
        console.print(tables.overview(found))
    assert "diagnosis: 2 lr_too_high, 1 diverged" in shown.get()


def test_a_comparison_has_symptoms_where_there_are_any_and_80_columns(tmp_path: Path) -> None:
    params: dict[str, Value] = {"optim": "adam", "optim.lr": 0.00123456, "model.hidden": "[128, 128]", "batch_size": 64}
    metrics = {"val_loss": 0.0123456, "val_accuracy": 0.98765}
    good = Row(1, "", "complete", metrics, params)
    bad = Row(12345, "", "interrupted", metrics, params, ("lr_too_high", "broken_setup"))

    def lines(*rows: Row) -> list[str]:
        console = Console(width=80)
        with console.capture() as shown:
            console.print(tables.comparison(rows, "val_loss", title="s"))
        return shown.get().splitlines()

    assert not any("diagnosis" in line for line in lines(good))
    shown = lines(good, bad)
    assert max(map(len, shown)) <= 80
    for word in ("diagnosis", "lr_too_high", "broken_setup", "12345", "0.9877", "0.01235", "lr=0.00123"):
        assert any(word in line for line in shown), word


def test_one_broken_sweep_leaves_the_others_readable(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for name in ("a", "b", "c"):
        launch(home, name).close()
    home.sweep("a").card_file.write_text("{}")
    (home.sweep("b").path / JOURNAL).write_bytes(b"{}\n")
    broken, damaged, good = analysis.overviews(home)
    assert (broken.name, damaged.name, good.name) == ("a", "b", "c")
    assert broken.status.startswith(f"cannot be read: {home.sweep('a').card_file}")
    assert damaged.status.startswith(f"cannot be read: {home.sweep('b').path / JOURNAL}")
    assert good.status.startswith("stopped with 0 of 4")
    assert json.dumps([item.as_dict() for item in (broken, damaged, good)])


@pytest.mark.parametrize(("direction", "best_first"), [("maximize", [1, 0]), ("minimize", [0, 1])])
def test_sorting_by_the_sweeps_own_metric_goes_its_way(tmp_path: Path, direction: str, best_first: list[int]) -> None:
    home = Home(tmp_path)
    # Neither name says which way is better, and MLflow writes it another way.
    launch(home, metric="gain (dB)", direction=direction).close()
    record(home, [{"gain (dB)": 1.0, "loss @ 5": 4.0}, {"gain (dB)": 2.0, "loss @ 5": 3.0}])
    for sort in (None, "gain (dB)", "gain _dB_"):
        rows = analysis.compare(home, "s", top=2, sort=sort)
        assert [row.trial for row in rows] == best_first
        assert rows[0].metrics[sort or "gain (dB)"] == (2.0 if direction == "maximize" else 1.0)
    other = analysis.compare(home, "s", top=2, sort="loss @ 5")
    assert [(row.trial, row.metrics["loss @ 5"]) for row in other] == [(1, 3.0), (0, 4.0)]
    with pytest.raises(BadInputError, match="--sort: 'nothing'"):
        analysis.compare(home, "s", top=2, sort="nothing")


def test_a_run_is_found_wherever_a_sweep_is_recorded(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    elsewhere = f"sqlite:///{tmp_path}/other.db"
    launch(home).close()
    launch(home, "t", uri=elsewhere).close()
    launch(home, "broken").close()
    home.sweep("broken").card_file.write_text("[]")
    (here,) = record(home, [{"val_loss": 1.0}])
    (there,) = record(home, [{"val_loss": 2.0}], name="t", uri=elsewhere)
    for run_id, value in ((here, 1.0), (there, 2.0)):
        records, (run,), metric = analysis.runs_to_reproduce(home, run_id, [])
        assert (run.run_id, run.metrics["val_loss"], metric) == (run_id, value, "val_loss")
        assert records.history(run_id) == {("val_loss", 1): value}
    with pytest.raises(BadInputError, match=r"SWEEP\|RUN_ID: .*other\.db"):
        analysis.runs_to_reproduce(home, "0" * 32, [])
    with pytest.raises(BadInputError, match="--trial: 3"):
        analysis.runs_to_reproduce(home, here, [3])


def test_a_place_that_does_not_answer_is_named_when_the_run_is_nowhere_else(tmp_path: Path) -> None:
    home = Home(tmp_path)
    launch(home, uri="http://127.0.0.1:9").close()
    (here,) = record(home, [{"val_loss": 1.0}])
    assert analysis.runs_to_reproduce(home, here, [])[1][0].run_id == here
    with pytest.raises(SwatheError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer") as failure:
        analysis.runs_to_reproduce(home, "0" * 32, [])
    assert not isinstance(failure.value, BadInputError)


def record_sweep(home: Home, metrics: dict[str, float], config: str) -> None:
    folder = home.sweep("s")
    folder.config_file.write_text(config)
    parent = RunChange("s", len(metrics), tags={"swathe.kind": "sweep", "swathe.sweep": "s"})
    parent.metrics = [Metric(key, value, 0, 1) for key, value in metrics.items()]
    open_runs(home.tracking_uri, "s", home.artifacts).write([parent])


def test_how_full_the_lanes_are(tmp_path: Path) -> None:
    home = Home(tmp_path)
    launch(home).close()
    assert analysis.overview(home, "s").lanes == {}
    live = {"lanes_live": 31.0, "lanes": 32.0, "occupancy": 31 / 32}
    record_sweep(home, live, "epochs: 3\n")
    found = analysis.overview(home, "s")
    assert found.lanes == found.as_dict()["lanes"] == {"live": 31.0, "lanes": 32.0, "occupancy": 31 / 32}
    with home.sweep("s").drive():
        assert "lanes 31/32 (97%)" in shown(analysis.overview(home, "s"))
    record_sweep(home, {**live, "occupancy_mean": 0.9, "occupancy_until_tail": 0.96}, "epochs: 3\n")
    (item,) = analysis.overviews(home)
    assert "lanes 96% full until the last tenth of the sweep, 90% to its end" in shown(item)


def test_functions_are_no_lanes_and_mlflow_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    launch(home).close()
    record_sweep(home, {"occupancy": 0.5}, "trainable: a:b\n")
    monkeypatch.setattr(analysis, "Records", None)
    assert analysis.overview(home, "s").lanes == {}


def shown(item: Overview) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(tables.overview(item))
    return capture.get()
