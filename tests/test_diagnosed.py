"""What `swathe diagnose` says of one run and of a sweep, from a real study and a real MLflow on SQLite."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from swathe import cli, diagnosed
from swathe.diagnosis import finding_tags
from swathe.errors import BadInputError
from swathe.events import Direction, Report
from swathe.home import Home, SweepCard
from swathe.mlflow_runs import Metric, RunChange, open_runs
from swathe.records import Records
from swathe.study import Study
from swathe.training.diagnose import Action, Finding, Range, Symptom
from tests.test_study import Parameter, Space

SPACE = {
    "optim.lr": FloatDistribution(1e-4, 1e-2, log=True),
    "regularization.dropout": FloatDistribution(0.0, 0.9),
    "model.depth": IntDistribution(1, 49),
}
CONFIG = {
    "model": {"name": "deep_mlp", "depth": 3},
    "optim": {"name": "adam", "lr": 1e-3},
    "regularization": {"dropout": 0.1},
}
FACTS = {"swathe.classes": "10", "swathe.steps_per_report": "20", "swathe.config": json.dumps(CONFIG)}
FALLING = [2.3 - 0.2 * step for step in range(8)]
FLAT = [2.0] * 8


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return a home whose sweep has 24 trials: the best at the top of every range, two on a plateau, one diverged."""
    home = Home(tmp_path_factory.mktemp("home"))
    folder = home.sweep("s")
    folder.write_card(
        SweepCard("s", "id", None, home.tracking_uri, "s", "val_loss", "minimize", 24, "swathe launch s", 0.0)
    )
    folder.config_file.write_text("diagnosis: {enabled: true, stop: true, window: 40}\n")
    study = Study.open(
        "s",
        folder=folder.path,
        storage=None,
        direction=Direction.MINIMIZE,
        sampler={"name": "random"},
        space=Space({name: Parameter(distribution) for name, distribution in SPACE.items()}),
        seed=1,
    )
    for number in range(24):
        # The higher the rate, the better; the other two make no difference.
        rate = 9.9e-3 if number > 18 else 10 ** (-4 + number / 10)
        params = {"optim.lr": rate, "regularization.dropout": number / 27, "model.depth": 1 + 2 * number}
        state = optuna.trial.TrialState.PRUNED if number == 23 else optuna.trial.TrialState.COMPLETE
        value = None if number == 23 else 1.0 - math.log10(rate)
        trial = optuna.trial.create_trial(state=state, params=params, distributions=SPACE, value=value)
        study.optuna_study.add_trial(trial)
    study.close()
    _record(home)
    return home


def _record(home: Home) -> None:
    runs = open_runs(home.tracking_uri, "s", home.artifacts)
    parent = RunChange("s", 0, tags={"swathe.kind": "sweep", "swathe.sweep": "s"})
    runs.write([parent])
    found = Finding(Symptom.DIVERGED, "The training loss is nan.", "Lower the learning rate.", Action.STOP)
    changes = []
    for number in range(24):
        losses = [2.3, math.nan] if number == 23 else FLAT if number in (3, 7) else FALLING
        tags = {"swathe.kind": "trial", "swathe.sweep": "s", "swathe.trial": str(number), "swathe.state": "complete"}
        tags |= {"mlflow.parentRunId": parent.run_id, **FACTS, **(finding_tags([found]) if number == 23 else {})}
        metrics = [
            Metric(name, loss, 0, step)
            for step, loss in enumerate(losses, start=1)
            for name in ("train_loss", "val_loss")
        ]
        changes.append(RunChange(f"{number:04d}", 0, tags=tags, metrics=metrics))
    runs.write(changes)


def recorded(home: Home, losses: Sequence[float], **tags: str) -> str:
    """Record a run of no sweep, and return its id."""
    reports = [Report(0, step, {"train_loss": loss, "lr": 0.1}) for step, loss in enumerate(losses, start=1)]
    records = Records(home.tracking_uri)
    return records.log_run("train", "n", reports, {**FACTS, **tags}, artifacts=home.artifacts, params={})


def test_a_run_is_diagnosed_from_its_history(home: Home) -> None:
    result = diagnosed.run_findings(home, recorded(home, [2.3, 2.2, 40.0]))
    assert ([finding.symptom for finding in result.findings], result.reports) == ([Symptom.DIVERGED], 3)
    assert "from 0.1 to 0.01" in result.findings[0].advice
    assert result.as_dict()["findings"][0]["action"] == "stop"
    assert diagnosed.run_findings(home, recorded(home, FALLING)).findings == ()


def test_facts_and_thresholds_of_the_record_count(home: Home) -> None:
    # Above guessing among 10 classes for 20 steps a report; with no step known a report counts as 10 of them.
    losses = {"first_loss": 2.3, "train_loss": 3.0}
    reports = [Report(0, 1, losses), Report(0, 2, losses)]
    records = Records(home.tracking_uri)
    run_id = records.log_run("train", "n", reports, FACTS, artifacts=home.artifacts, params={})
    assert [one.symptom for one in diagnosed.run_findings(home, run_id).findings] == [Symptom.LR_TOO_HIGH]
    home.sweep("t").path.mkdir(parents=True)
    home.sweep("t").config_file.write_text("diagnosis: {lr_too_high_rise: 0.9}\n")
    tags = {**FACTS, "swathe.sweep": "t"}
    run_id = records.log_run("train", "n", reports, tags, artifacts=home.artifacts, params={})
    assert diagnosed.run_findings(home, run_id).findings == ()


def test_a_trial_is_found_by_its_number_and_a_run_without_reports_is_refused(home: Home) -> None:
    result = diagnosed.trial_findings(home, "s", 23)
    assert (result.run.number, [one.symptom for one in result.findings]) == (23, [Symptom.DIVERGED])
    with pytest.raises(BadInputError, match="reported nothing"):
        diagnosed.run_findings(home, recorded(home, []))


def test_a_sweep_is_diagnosed_from_its_tags_and_its_space(home: Home) -> None:
    result = diagnosed.sweep_findings(home, "s")
    assert result.trials == 24
    assert result.said == {Symptom.DIVERGED: {23: "The training loss is nan. Lower the learning rate."}}
    assert set(result.sweep.underfitting) == {3, 7}
    (side,) = result.sweep.narrow
    assert (side.parameter, side.low) == ("optim.lr", False)
    assert side.bound == pytest.approx(0.1)


def test_a_trial_s_findings_are_those_that_the_sweep_lists_of_it(home: Home) -> None:
    sweep = diagnosed.sweep_findings(home, "s")
    listed = {number: {symptom for symptom, said in sweep.said.items() if number in said} for number in range(24)}
    for number in sweep.sweep.underfitting:
        listed[number].add(Symptom.UNDERFITTING)
    for number in (0, 3, 7, 23):
        result = diagnosed.trial_findings(home, "s", number)
        assert {finding.symptom for finding in result.findings} == listed[number]
        assert diagnosed.run_findings(home, result.run.run_id).findings == result.findings
        assert all(sweep.sweep.underfitting.get(number, found) == found for found in result.findings)


def test_a_run_beside_a_sweep_is_not_judged_by_it(home: Home) -> None:
    trial = diagnosed.trial_findings(home, "s", 3).run
    kept = {name: trial.tags[name] for name in ("swathe.sweep", "swathe.trial")}
    # The reproduction of a trial, and a trial of a sweep of the same name that another folder has.
    for kind, parent in (("reproduction", trial.tags["mlflow.parentRunId"]), ("trial", "another")):
        run_id = recorded(home, FLAT, **kept, **{"swathe.kind": kind, "mlflow.parentRunId": parent})
        assert diagnosed.run_findings(home, run_id).findings == ()


def test_the_sentence_says_which_losses_it_sets_side_by_side(home: Home) -> None:
    evidence = diagnosed.sweep_findings(home, "s").sweep.underfitting[3].evidence
    assert evidence == (
        "The training loss stays at 2, where the sweep's best is 1.1; "
        "the validation loss has come to 2, the sweep's to 1.1. "
        "Each is a median of three reports, of validation the lowest at any: the sweep's is trial 0's."
    )


def test_a_range_is_widened_no_further_than_the_training_allows() -> None:
    spans = {
        "optim.lr": Range(1e-4, 1e-2, log=True),
        "regularization.dropout": Range(0.0, 0.9),
        "model.depth": Range(1.0, 49.0, step=1.0),
        "optim.beta1": Range(0.5, 0.999999),
    }
    limits = {
        name: [diagnosed._farthest(name, span, CONFIG, low=low) for low in (True, False)]
        for name, span in spans.items()
    }
    assert limits["optim.lr"] == [None, None]
    assert limits["regularization.dropout"][1] == pytest.approx(0.96)
    assert limits["model.depth"][1] == 49
    assert limits["optim.beta1"][1] == pytest.approx(0.999999)


def test_the_command_prints_both(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWATHE_HOME", str(home.path))

    def said(*words: str) -> str:
        assert cli.run(["diagnose", *words]) == 0
        return capsys.readouterr().out

    sweep = said("s")
    assert "3 of 24 trials have findings." in sweep, "those that only the sweep shows count, too"
    assert "underfitting: 2" in sweep
    assert "Widen the range of optim.lr" in sweep
    assert json.loads(said("s", "--json"))["symptoms"]["diverged"]["trials"] == 1
    assert "diverged (stops the trial)" in said("s", "--trial", "23")
    assert "underfitting (a tag only)" in said("s", "--trial", "3")
    assert "No findings." in said("s", "--trial", "0")
    assert "No findings." in said(recorded(home, FALLING))
    assert json.loads(said(recorded(home, FALLING), "--json"))["findings"] == []
    assert cli.run(["diagnose", "0" * 32]) == cli.EXIT_BAD_INPUT
    assert cli.run(["diagnose", "unheard"]) == cli.EXIT_BAD_INPUT
