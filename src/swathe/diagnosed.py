"""What `swathe diagnose` shows: the findings on one recorded run, or on a sweep's trials and on its space."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml
from optuna.distributions import FloatDistribution, IntDistribution

from swathe import analysis
from swathe.diagnosis import TAG, recorded_facts, symptoms_of, thresholds_of
from swathe.errors import BadInputError
from swathe.events import Config, Direction, TrialState
from swathe.home import Home
from swathe.plain import put
from swathe.records import Records, TrialRun
from swathe.study import PastTrial
from swathe.training.diagnose import (
    Action,
    Diagnosis,
    Finding,
    NarrowSide,
    Range,
    Summary,
    SweepDiagnosis,
    SweepTrial,
    Symptom,
    Thresholds,
    diagnose,
    diagnose_sweep,
)
from swathe.training.recipe import recipe_from_config

# Where a new end of a range would be refused, half of the way to it is tried, and half of that ...
_TRIES = 4
# Metrics that say whether a trial underfits.
_LOSSES = ("train_loss", "val_loss", "first_loss")


@dataclass(frozen=True, slots=True)
class RunFindings:
    """One run's findings, in the order in which they showed, and of how many reports."""

    run: TrialRun
    reports: int
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "run_id": self.run.run_id,
            "sweep": self.run.tags.get("swathe.sweep"),
            "trial": self.run.number if "swathe.trial" in self.run.tags else None,
            "state": self.run.state,
            "reports": self.reports,
            "findings": [_finding_dict(finding) for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class SweepFindings:
    """A sweep's findings: by symptom what was said of which trial, and what only shows among many trials.

    `trials`: how many are over and have not failed. `enabled`: whether the trials were diagnosed while they ran.
    """

    name: str
    trials: int
    enabled: bool
    said: Mapping[Symptom, Mapping[int, str]]
    sweep: SweepDiagnosis

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trials": self.trials,
            "enabled": self.enabled,
            "symptoms": {
                symptom: {"trials": len(said), "findings": [{"trial": n, "text": text} for n, text in said.items()]}
                for symptom, said in self.said.items()
            },
            "underfitting": [{"trial": n, **_finding_dict(found)} for n, found in self.sweep.underfitting.items()],
            "narrow": [_side_dict(side) for side in self.sweep.narrow],
        }


def _finding_dict(finding: Finding) -> dict[str, str]:
    return {
        "symptom": finding.symptom,
        "evidence": finding.evidence,
        "advice": finding.advice,
        "action": finding.action,
    }


def _side_dict(side: NarrowSide) -> dict[str, Any]:
    end = "low" if side.low else "high"
    return {"parameter": side.parameter, "end": end, "bound": side.bound, **_finding_dict(side.finding)}


# A run.


def run_findings(home: Home, run_id: str) -> RunFindings:
    """Diagnose a recorded run by its id, from its history; raises `BadInputError` when there is none."""
    return diagnosed_run(home, *analysis.find_run(home, run_id))


def trial_findings(home: Home, sweep: str, number: int) -> RunFindings:
    """Diagnose a trial of a sweep from its history in MLflow; raises `BadInputError` when it has none."""
    _, card = home.existing(sweep)
    records = Records(card.tracking_uri)
    return diagnosed_run(home, records, records.trial(card.experiment, sweep, number))


def diagnosed_run(home: Home, records: Records, run: TrialRun) -> RunFindings:
    """Diagnose a recorded run from its history, and a trial by what its sweep shows of it, too.

    Raises `BadInputError` when it reported nothing.
    """
    history = records.history(run.run_id)
    reports = reports_of(history)
    if not reports:
        raise BadInputError(f"Run {run.run_id} reported nothing, so there is nothing to diagnose.")
    thresholds = thresholds_of(_options(home, run.tags.get("swathe.sweep")))
    found = diagnose(reports, recorded_facts(run.tags), thresholds)
    losses = {key: value for key, value in history.items() if key[0] in _LOSSES}
    # Whoever cannot underfit is spared the histories of all the others.
    if _may_underfit(_summary(run, losses, thresholds)) and _is_trial_of_home(home, records, run):
        of_sweep = sweep_findings(home, run.tags["swathe.sweep"]).sweep.underfitting.get(run.number)
        found = (*found, of_sweep) if of_sweep is not None else found
    return RunFindings(run, len(reports), found)


def _may_underfit(summary: Summary) -> bool:
    return summary.plateaued and not summary.findings


def _is_trial_of_home(home: Home, records: Records, run: TrialRun) -> bool:
    """Say whether a run is a trial of a sweep here: others may have the names of both, as a reproduction has."""
    name = run.tags.get("swathe.sweep")
    if name is None or run.tags.get("swathe.kind") != "trial":
        return False
    try:
        _, card = home.existing(name)
        parent, _ = records.sweep_tags(card.experiment, name)
    except BadInputError:
        # It is none here, or is recorded elsewhere.
        return False
    return parent == run.tags.get("mlflow.parentRunId")


def reports_of(history: Mapping[tuple[str, int], float]) -> list[dict[str, float]]:
    """Return a run's reports in order, from its numbers by (metric, step)."""
    by_step: dict[int, dict[str, float]] = {}
    for (metric, step), value in history.items():
        by_step.setdefault(step, {})[metric] = value
    return [by_step[step] for step in sorted(by_step)]


def _options(home: Home, sweep: str | None) -> Mapping[str, Any]:
    """Return the section `diagnosis` of a sweep's config; of a run that is of no sweep here there is none."""
    if sweep is None:
        return {}
    try:
        config = yaml.safe_load(home.sweep(sweep).config_file.read_text())
    except FileNotFoundError:
        return {}
    return config.get("diagnosis") or {}


# A sweep.


def sweep_findings(home: Home, name: str) -> SweepFindings:
    """Put together what a sweep's trials were found to have, and diagnose the sweep itself."""
    _, card = home.existing(name)
    options = _options(home, name)
    thresholds = thresholds_of(options)
    past, spans = _study(home, name)
    records = Records(card.tracking_uri)
    runs = {run.number: run for run in records.trial_runs(card.experiment, name) if run.number in past}
    trials = _trials(past, _summaries(records, runs, thresholds))
    maximize = card.direction == Direction.MAXIMIZE.value
    diagnosis = diagnose_sweep(trials, _as_allowed(spans, past, runs), maximize=maximize, thresholds=thresholds)
    return SweepFindings(name, len(past), bool(options.get("enabled", True)), _said(runs), diagnosis)


def _study(home: Home, name: str) -> tuple[dict[int, PastTrial], dict[str, Range]]:
    """Return the trials that are over and have not failed, by number, and the ranges that they were drawn from."""
    study = analysis.open_study(home, name)
    try:
        past = {one.number: one for one in study.history() if one.state in (TrialState.COMPLETE, TrialState.PRUNED)}
        spans: dict[str, Range] = {}
        for trial in study.optuna_study.get_trials(deepcopy=False):
            for parameter, distribution in trial.distributions.items():
                if isinstance(distribution, (FloatDistribution, IntDistribution)) and not distribution.single():
                    step = None if distribution.step is None else float(distribution.step)
                    spans[parameter] = Range(float(distribution.low), float(distribution.high), distribution.log, step)
    finally:
        study.close()
    return past, spans


def _said(runs: Mapping[int, TrialRun]) -> dict[Symptom, dict[int, str]]:
    """Return by symptom, the most frequent first, what the tags of each trial say."""
    said: dict[Symptom, dict[int, str]] = {}
    for number, run in runs.items():
        for symptom in symptoms_of(run.tags.get(TAG)):
            said.setdefault(symptom, {})[number] = run.tags.get(f"{TAG}.{symptom}", "")
    return dict(sorted(said.items(), key=lambda item: -len(item[1])))


def _trials(past: Mapping[int, PastTrial], summaries: Mapping[int, Summary]) -> Iterator[SweepTrial]:
    for number, one in past.items():
        complete = one.state is TrialState.COMPLETE
        yield SweepTrial(number, one.params, one.value if complete else None, complete, summaries.get(number))


def _summaries(records: Records, runs: Mapping[int, TrialRun], thresholds: Thresholds) -> dict[int, Summary]:
    """Return what a sweep must know of each trial that has a training loss; its findings are those of its tags."""
    histories = {metric: records.histories([run.run_id for run in runs.values()], metric) for metric in _LOSSES}
    summaries = {}
    for number, run in runs.items():
        losses = {
            (metric, step): value
            for metric, found in histories.items()
            for step, value in found.get(run.run_id, {}).items()
        }
        if losses:
            summaries[number] = _summary(run, losses, thresholds)
    return summaries


def _summary(run: TrialRun, losses: Mapping[tuple[str, int], float], thresholds: Thresholds) -> Summary:
    diagnosis = Diagnosis(recorded_facts(run.tags), thresholds)
    for report in reports_of(losses):
        diagnosis.add(report)
    own = tuple(
        Finding(symptom, run.tags.get(f"{TAG}.{symptom}", ""), "", Action.TAG)
        for symptom in symptoms_of(run.tags.get(TAG))
    )
    return replace(diagnosis.summary(), findings=own)


def _as_allowed(
    spans: Mapping[str, Range], past: Mapping[int, PastTrial], runs: Mapping[int, TrialRun]
) -> dict[str, Range]:
    """Return the ranges with how far a recipe lets them be widened; of a function's parameters that is not known."""
    allowed = {}
    for name, span in spans.items():
        owner = next((number for number, one in past.items() if name in one.params and number in runs), None)
        config: Config = {} if owner is None else json.loads(runs[owner].tags.get("swathe.config", "{}"))
        if not config or config.get("trainable"):
            allowed[name] = span
        else:
            low, high = (_farthest(name, span, config, low=low) for low in (True, False))
            allowed[name] = replace(span, least=low, most=high)
    return allowed


def _farthest(name: str, span: Range, config: Config, *, low: bool) -> float | None:
    """Return how far an end can be moved at most; None: as far as it would be anyway."""
    start, bound = (span.low if low else span.high), span.wider(low=low)
    if bound is None:
        return None
    for end in _nearer(span, start, bound):
        if _accepts(config, name, end, whole=span.step is not None and span.step.is_integer()):
            return None if end == bound else end
    return start


def _nearer(span: Range, start: float, bound: float) -> Iterator[float]:
    """Yield a new end, and others half as far out as the one before, in logarithms where the range is searched so."""
    for attempt in range(_TRIES):
        part = 0.5**attempt
        end = start * (bound / start) ** part if span.log else start + (bound - start) * part
        if attempt == 0:
            yield bound
        elif span.step is None:
            yield float(f"{end:.2g}")
        else:
            yield start + span.step * round((end - start) / span.step)


def _accepts(config: Config, name: str, value: float, *, whole: bool) -> bool:
    changed = copy.deepcopy(config)
    put(changed, name, int(value) if whole and value.is_integer() else value)
    try:
        recipe_from_config(changed)
    except BadInputError:
        return False
    return True
