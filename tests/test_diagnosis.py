"""The bridge between trials and their diagnosis: the rule, facts and findings as tags, and what ends a trial."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from swathe.diagnosis import (
    TrialDiagnosis,
    counts_text,
    fact_tags,
    finding_tags,
    recipe_facts,
    recorded_facts,
    rule_of,
    symptoms_of,
)
from swathe.errors import BadInputError
from swathe.events import Report
from swathe.training.data import load
from swathe.training.diagnose import Action, Facts, Finding, Symptom, Thresholds
from swathe.training.diagnose_facts import dataset_facts
from swathe.training.recipe import recipe_from_config

TEN = Facts(classes=10)
# The validation loss has its minimum at the third report and rises from the fourth on.
OVERFITS = [(2.0 - 0.15 * step, 1.0 + 0.1 * abs(step - 3)) for step in range(1, 13)]


def judged(rule: dict[str, object], losses: list[tuple[float, float]]) -> list[Report]:
    diagnosis = TrialDiagnosis(rule_of(rule), TEN)
    metrics = [{"train_loss": train, "val_loss": val} for train, val in losses]
    return [diagnosis.judge(Report(0, step, one)) for step, one in enumerate(metrics, start=1)]


def test_a_rule_has_the_thresholds_of_the_config_and_may_be_off() -> None:
    rule = rule_of({"enabled": True, "stop": False, "window": 12, "flat": 0.02})
    assert rule is not None
    assert (rule.stop, rule.thresholds) == (False, Thresholds(window=12, flat=0.02))
    assert rule_of({"enabled": False}) is None
    with pytest.raises(BadInputError, match=r"diagnosis\.flat: -1"):
        rule_of({"enabled": False, "flat": -1.0})


def test_a_loss_that_has_grown_ends_the_trial_with_the_worst_value() -> None:
    first, second, third = judged({}, [(2.3, 2.3), (50.0, 40.0), (60.0, 50.0)])
    assert (first.findings, first.ends) == ((), None)
    assert ([finding.symptom for finding in second.findings], second.ends) == ([Symptom.DIVERGED], Action.STOP)
    assert (third.findings, third.ends) == ((), None)


def test_overfitting_ends_the_trial_as_it_stands() -> None:
    ends = [report.ends for report in judged({}, OVERFITS)]
    assert [end for end in ends if end is not None] == [Action.EARLY_STOP]


def test_nothing_ends_where_findings_are_tags_alone_and_nothing_is_found_where_diagnosis_is_off() -> None:
    tagged = judged({"stop": False}, [(2.3, 2.3), (50.0, math.nan)])
    assert [(len(report.findings), report.ends) for report in tagged] == [(0, None), (1, None)]
    assert all(report.findings == () for report in judged({"enabled": False}, [(2.3, 2.3), (math.nan, math.nan)]))


def test_facts_come_back_from_the_tags_of_a_run(tmp_path: Path) -> None:
    rows = [f"{i % 7},{(3 * i) % 11},{i % 3}" for i in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    data = {"name": "csv", "path": str(tmp_path / "rows.csv"), "target": "y"}
    for task, smoothing in (("classification", 0.1), ("regression", 0.0)):
        config = {"data": {**data, "task": task}, "regularization": {"label_smoothing": smoothing}}
        recipe = recipe_from_config(config)
        dataset = load(recipe.data, tmp_path)
        facts = recipe_facts(recipe, dataset_facts(dataset), 6, "val_accuracy")
        # Of 0, 1 and 2 in equal shares; the training part has nearly equal ones.
        guess = math.log(3) if smoothing else 2 / 3
        assert facts.baseline_loss == pytest.approx(guess, rel=0.1)
        assert (facts.classes, facts.label_smoothing) == ((3, 0.1) if smoothing else (None, 0.0))
        assert (facts.steps_per_report, facts.objective) == (6, "val_accuracy")
        assert facts.val_baseline_loss is not None
        tags = {**fact_tags(facts), "swathe.config": json.dumps(config), "swathe.metric": "val_accuracy"}
        assert recorded_facts(tags) == facts


def test_of_a_run_that_others_recorded_nothing_is_known() -> None:
    assert recorded_facts({}) == Facts()


def test_findings_are_tags_by_their_symptoms() -> None:
    found = [
        Finding(Symptom.DEAD_RELU, "Half are dead.", "Use leaky ReLU.", Action.TAG),
        Finding(Symptom.DIVERGED, "It is NaN.", "Lower the rate.", Action.STOP),
    ]
    tags = finding_tags(found)
    assert tags == {
        "swathe.diagnosis": "dead_relu,diverged",
        "swathe.diagnosis.dead_relu": "Half are dead. Use leaky ReLU.",
        "swathe.diagnosis.diverged": "It is NaN. Lower the rate.",
    }
    assert symptoms_of(tags["swathe.diagnosis"]) == (Symptom.DEAD_RELU, Symptom.DIVERGED)
    assert finding_tags([]) == {}
    assert symptoms_of(None) == symptoms_of("") == symptoms_of("unheard_of") == ()


def test_counts_are_one_line_the_most_frequent_first() -> None:
    assert counts_text({"lr_too_high": 2, "diverged": 3}) == "3 diverged, 2 lr_too_high"
