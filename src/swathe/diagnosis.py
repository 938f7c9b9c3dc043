"""Trials and the diagnosis of their reports: the rule of a sweep, what is known of a trial, and the tags of its run.

A trial is diagnosed on its worker, report by report, so that what ends it is a function of its own reports alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from swathe.events import Report
from swathe.training.diagnose import Action, Diagnosis, Facts, Finding, Symptom, Thresholds
from swathe.training.recipe import GAN, Recipe

# The symptoms of a run, and before a dot and a symptom's name what was seen and what can be done.
TAG = "swathe.diagnosis"
# Facts that a run's config does not say.
_CLASSES, _STEPS = "swathe.classes", "swathe.steps_per_report"
_BASELINE, _VAL_BASELINE = "swathe.baseline_loss", "swathe.val_baseline_loss"
_BASE_ACCURACY = "swathe.base_accuracy"
# The precision whose losses are scaled, so that steps with an infinite gradient are skipped.
_SCALED = "fp16"


@dataclass(frozen=True, slots=True)
class Rule:
    """How a sweep diagnoses its trials; without `stop` a finding is a tag and ends nothing."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    stop: bool = True


def rule_of(options: Mapping[str, Any]) -> Rule | None:
    """Return what the config's section `diagnosis` says, None where it is off; raises `BadInputError`."""
    thresholds = thresholds_of(options)
    return Rule(thresholds, bool(options.get("stop", True))) if options.get("enabled", True) else None


def thresholds_of(options: Mapping[str, Any]) -> Thresholds:
    """Return the thresholds of the section `diagnosis`, also where it is off; raises `BadInputError`."""
    names = {item.name for item in fields(Thresholds)}
    return Thresholds(**{name: value for name, value in options.items() if name in names})


class TrialDiagnosis:
    """One attempt of a trial, diagnosed report by report; says nothing without a rule."""

    def __init__(self, rule: Rule | None, facts: Facts) -> None:
        self._rule = rule
        self._diagnosis = None if rule is None else Diagnosis(facts, rule.thresholds)

    def judge(self, report: Report) -> Report:
        """Return the next report with what is found at it, and whether that ends the trial."""
        if self._rule is None or self._diagnosis is None:
            return report
        found = self._diagnosis.add(report.metrics)
        if not found:
            return report
        actions = {finding.action for finding in found} if self._rule.stop else set()
        ends = next((action for action in (Action.STOP, Action.EARLY_STOP) if action in actions), None)
        return replace(report, findings=found, ends=ends)


# Facts.


def recipe_facts(recipe: Recipe, dataset: Facts, steps: int, objective: str) -> Facts:
    """Return what is known of a recipe's run before it begins, with the facts on its dataset; `steps` of an epoch."""
    if isinstance(recipe.model, GAN):
        # Its loss is a distance, which no guess at labels is measured by.
        dataset = replace(dataset, classes=None, baseline_loss=None, val_baseline_loss=None, base_accuracy=None)
    return replace(
        dataset,
        label_smoothing=recipe.regularization.label_smoothing,
        steps_per_report=steps,
        objective=objective,
        loss_scaling=recipe.precision == _SCALED,
        pretrained=recipe.transfer.name != "none",
    )


def fact_tags(facts: Facts) -> dict[str, str]:
    """Return those facts as tags that a run's record does not have elsewhere."""
    known = {
        _CLASSES: facts.classes,
        _BASELINE: facts.baseline_loss,
        _VAL_BASELINE: facts.val_baseline_loss,
        _BASE_ACCURACY: facts.base_accuracy,
        _STEPS: facts.steps_per_report,
    }
    return {key: str(value) for key, value in known.items() if value is not None}


def recorded_facts(tags: Mapping[str, str]) -> Facts:
    """Return the facts on a run from its tags and, in one of them, its config."""
    config = json.loads(tags.get("swathe.config", "{}"))
    regularization = config.get("regularization") or {}
    return Facts(
        classes=int(tags[_CLASSES]) if _CLASSES in tags else None,
        baseline_loss=float(tags[_BASELINE]) if _BASELINE in tags else None,
        val_baseline_loss=float(tags[_VAL_BASELINE]) if _VAL_BASELINE in tags else None,
        base_accuracy=float(tags[_BASE_ACCURACY]) if _BASE_ACCURACY in tags else None,
        label_smoothing=float(regularization.get("label_smoothing", 0.0)),
        steps_per_report=int(tags[_STEPS]) if _STEPS in tags else None,
        objective=tags.get("swathe.metric", "val_loss"),
        loss_scaling=config.get("precision") == _SCALED,
        pretrained=(config.get("transfer") or {}).get("name", "none") != "none",
    )


# Findings.


def finding_tags(findings: Iterable[Finding]) -> dict[str, str]:
    """Return findings as tags: the symptoms, and of each what was seen and what can be done; none for none."""
    said = {finding.symptom: f"{finding.evidence} {finding.advice}" for finding in findings}
    if not said:
        return {}
    return {TAG: ",".join(said), **{f"{TAG}.{symptom}": text for symptom, text in said.items()}}


def symptoms_of(listed: object) -> tuple[Symptom, ...]:
    """Read a comma-separated list of symptoms, passing over what is none."""
    known = set(Symptom)
    return tuple(Symptom(name) for name in str(listed or "").split(",") if name in known)


def count_symptoms(listed: Iterable[object]) -> Counter[str]:
    """Return how many of many trials' lists have each symptom."""
    return Counter(str(symptom) for one in listed for symptom in symptoms_of(one))


def counts_text(counts: Mapping[str, int]) -> str:
    """Return how many trials have each symptom in one line, most first: `3 diverged, 2 lr_too_high`."""
    return ", ".join(f"{count} {symptom}" for symptom, count in Counter(counts).most_common())
