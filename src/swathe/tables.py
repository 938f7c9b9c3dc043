"""Tables and lines for people; made for terminals of 80 columns."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from swathe.analysis import Overview, Row
from swathe.diagnosis import counts_text
from swathe.events import Report, TrialState, Value
from swathe.reproduce import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, ROUNDING_FACTOR, Reproduction
from swathe.training.diagnose import Action, Finding, Symptom
from swathe.training.verdict import Outcome, Verdict
from swathe.view import short

# It imports Hydra, which only `swathe diagnose` needs.
if TYPE_CHECKING:
    from swathe.diagnosed import RunFindings, SweepFindings

WATCH_SECONDS = 1.0
# Trials of each symptom that are shown with what was said of them.
EXAMPLES = 3
_ACTIONS = {
    Action.STOP: "stops the trial",
    Action.EARLY_STOP: "ends the trial early",
    Action.TAG: "a tag only",
    Action.REFUSE: "refuses the sweep",
}
_OUTCOMES = {Outcome.OK: "green", Outcome.WARNING: "yellow", Outcome.ERROR: "red"}


def params_text(params: Mapping[str, Value]) -> str:
    """Return parameters in one line with short names: `optim=adam lr=0.0031 batch_size=64`."""
    last = [key.rsplit(".", 1)[-1] for key in params]
    names = [name if last.count(name) == 1 else key for key, name in zip(params, last, strict=True)]
    return " ".join(f"{name}={short(value)}" for name, value in zip(names, params.values(), strict=True))


def comparison(rows: Sequence[Row], metric: str, *, title: str) -> Table:
    """Trials side by side: state, the metric, accuracy where it is reported, symptoms, and what was searched."""
    table = Table(title=title, title_justify="left", expand=False)
    table.add_column("trial", justify="right")
    table.add_column("state", max_width=18)
    shown = [metric, *(name for name in ("val_accuracy", "val_loss") if name != metric)]
    shown = [name for name in shown if any(name in row.metrics for row in rows)][:2]
    for name in shown:
        table.add_column(name, justify="right")
    diagnosed = any(row.diagnosis for row in rows)
    if diagnosed:
        table.add_column("diagnosis", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    for row in rows:
        values = [f"{row.metrics[name]:.4g}" if name in row.metrics else "" for name in shown]
        symptoms = ["\n".join(row.diagnosis)] if diagnosed else []
        table.add_row(str(row.trial), row.state, *values, *symptoms, params_text(row.params))
    return table


def sweeps(overviews: Sequence[Overview]) -> Table:
    """All sweeps of a folder."""
    table = Table()
    for name in ("sweep", "trials", "best", "status"):
        table.add_column(name, overflow="fold")
    for item in overviews:
        over = sum(count for state, count in item.counts.items() if state.final)
        best = "" if item.best is None else f"{item.metric} {item.best[1]:.5g}"
        table.add_row(item.name, f"{over}/{item.trials}" if item.trials else "", best, item.status)
    return table


def overview(item: Overview) -> Group:
    """One sweep: how far, the best trial, and why trials failed."""
    counts = [f"{item.counts.get(state, 0)} {state.value}" for state in TrialState if item.counts.get(state, 0)]
    over = sum(count for state, count in item.counts.items() if state.final)
    lines = [
        Text(f"Sweep {item.name}: {item.status}"),
        Text(f"{over} of {item.trials} trials: {', '.join(counts) or 'none yet'}"),
    ]
    if item.lanes:
        lines.append(Text(_lanes_line(item)))
    if item.best is not None:
        lines.append(Text(f"best: trial {item.best[0]}, {item.metric} {item.best[1]:.6g}"))
        lines.append(Text(f"      {params_text(item.best_params)}"))
    if item.diagnosis:
        lines.append(Text(f"diagnosis: {counts_text(item.diagnosis)}; more with: swathe diagnose {item.name}"))
    lines += [Text(f"{count} failed: {reason}", style="red") for reason, count in item.failures]
    return Group(*lines)


def _lanes_line(item: Overview) -> str:
    lanes = item.lanes
    if item.status.startswith("running") and "lanes" in lanes:
        return f"lanes {lanes['live']:.0f}/{lanes['lanes']:.0f} ({lanes['occupancy']:.0%})"
    if "occupancy_mean" not in lanes:
        return "lanes: not known how full they were"
    until, mean = lanes["occupancy_until_tail"], lanes["occupancy_mean"]
    return f"lanes {until:.0%} full until the last tenth of the sweep, {mean:.0%} to its end"


def watch(console: Console, read: Callable[[], Overview]) -> None:
    """Show a sweep until it is not running any more."""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while (item := read()).status.startswith("running"):
            live.update(overview(item), refresh=True)
            time.sleep(WATCH_SECONDS)


def best_lines(item: Overview) -> Group:
    """The best trial's parameters, one a line."""
    assert item.best is not None
    head = Text(f"Best config: trial {item.best[0]}, {item.metric} {item.best[1]:.6g}", style="bold")
    return Group(head, *(Text(f"  {key}: {value}") for key, value in item.best_params.items()))


def next_lines(name: str, again: str | None, *, best: bool) -> Group:
    """What one can do now; `again` is the command that goes on with a stopped sweep."""
    lines = []
    if again is not None:
        lines.append(Text(f"Go on with it:        {again}"))
    lines.append(Text(f"Open the MLflow UI:   swathe ui {name}"))
    if best:
        lines.append(Text(f"Reproduce the winner: swathe reproduce {name}"))
    return Group(*lines)


def report_line(report: Report) -> str:
    """One report in one line."""
    metrics = "  ".join(f"{name} {value:.5g}" for name, value in report.metrics.items())
    return f"step {report.step}: {metrics}"


def reproduction(result: Reproduction) -> Group:
    """Recorded against reproduced for every metric and step, and the verdict."""
    table = Table()
    for name, side in (("step", "right"), ("metric", "left"), ("recorded", "right"), ("reproduced", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("")
    for row in result.rows:
        mark = "=" if row.identical else f"{row.relative:.1e} of it" if result.alone else f"{row.distance:.2g}"
        table.add_row(str(row.step), row.metric, _exact(row.recorded), _exact(row.reproduced), mark)
    return Group(table, *(Text(line) for line in _verdict(result)))


def _exact(value: float | None) -> str:
    return "missing" if value is None else f"{value:.17g}"


def _verdict(result: Reproduction) -> list[str]:
    state = f"trial {result.run.number} ({result.run.state})"
    if result.identical:
        return [f"Identical: {state}, all {len(result.rows)} numbers have the same bits."]
    if result.alone:
        word = "Within" if result.good else "Outside of"
        lines = [
            f"{word} the tolerance: {state}, trained alone; its losses differ by up to {result.largest_of_losses:.2g} "
            f"of their size (allowed: {RELATIVE_TOLERANCE:g}, and {ABSOLUTE_TOLERANCE:g} besides)."
        ]
        rounding = max((row.rounding for row in result.rows if row.is_loss), default=0.0)
        if rounding:
            lines.append(
                f"One rounding at its start takes this trial's losses {rounding:.2g} away from themselves; "
                f"{ROUNDING_FACTOR:g} times that is allowed too."
            )
        if result.outside_from is not None:
            lines.append(f"They are further apart from step {result.outside_from} on.")
        return lines
    different = sum(not row.identical for row in result.rows)
    lines = [f"Different: {state}, {different} of {len(result.rows)} numbers, by up to {result.distance:.3g}."]
    if result.differences:
        return [*lines, "What is not as it was:", *(f"  {line}" for line in result.differences)]
    return [*lines, "Engine, versions, device, threads and data are as they were."]


def preflight(name: str, verdict: Verdict) -> Table:
    """What a pre-flight looked at, a line each."""
    title = f"Pre-flight of {name}, in {verdict.seconds:.1f} s"
    table = Table(title=title, title_justify="left", expand=False)
    table.add_column("what", no_wrap=True)
    table.add_column("")
    table.add_column("found", overflow="fold")
    for one in verdict.checks:
        table.add_row(one.subject, Text(one.outcome, style=_OUTCOMES[one.outcome]), Text(one.text))
    return table


def run_findings(result: RunFindings) -> Group:
    """What is wrong with one run: of each finding the symptom, what the sweep does, what was seen, what can be done."""
    run = result.run
    name = f"Trial {run.number} of sweep {run.tags['swathe.sweep']}" if "swathe.sweep" in run.tags else "Run"
    lines = [Text(f"{name} (run {run.run_id}): {run.state}, {result.reports} reports.")]
    if not result.findings:
        lines.append(Text("No findings."))
    for finding in result.findings:
        lines += _finding_lines(finding)
    return Group(*lines)


def _finding_lines(finding: Finding) -> list[Text]:
    head = Text(f"{finding.symptom} ({_ACTIONS[finding.action]})", style="bold")
    return [head, Text(f"  {finding.evidence}"), Text(f"  {finding.advice}")]


def sweep_findings(result: SweepFindings) -> Group:
    """What is wrong in a sweep: trials by symptom with examples, those that underfit, and ranges to widen."""
    found = {number for said in result.said.values() for number in said}
    lines = [Text(f"Sweep {result.name}: {len(found)} of {result.trials} trials have findings.")]
    if not result.enabled:
        lines.append(Text("Its trials were not diagnosed, as diagnosis.enabled is false."))
    for symptom, said in result.said.items():
        lines.append(Text(f"{symptom}: {len(said)}", style="bold"))
        lines += [Text(f"  trial {number}: {text}") for number, text in list(said.items())[:EXAMPLES]]
    underfitting = result.sweep.underfitting
    if underfitting:
        lines.append(Text(f"{Symptom.UNDERFITTING}: {len(underfitting)}", style="bold"))
        some = list(underfitting.items())[:EXAMPLES]
        lines += [Text(f"  trial {number}: {finding.evidence} {finding.advice}") for number, finding in some]
    if result.sweep.narrow:
        lines.append(Text(str(Symptom.SPACE_TOO_NARROW), style="bold"))
        lines += [Text(f"  {side.finding.evidence} {side.finding.advice}") for side in result.sweep.narrow]
    if not (result.said or underfitting or result.sweep.narrow):
        lines.append(Text("No findings."))
    return Group(*lines)


def reproduction_dict(result: Reproduction) -> dict[str, Any]:
    """A reproduction for `--json`."""
    return {
        "run_id": result.run.run_id,
        "trial": result.run.number,
        "state": result.run.state,
        "identical": result.identical,
        "alone": result.alone,
        "good": result.good,
        "largest_relative_of_losses": result.largest_of_losses,
        "outside_from": result.outside_from,
        "largest_distance": result.distance,
        "differences": list(result.differences),
        "new_run_id": result.new_run_id,
        "rows": [
            {"step": row.step, "metric": row.metric, "recorded": row.recorded, "reproduced": row.reproduced}
            for row in result.rows
        ],
    }


def space(found: Any) -> Table:
    """A search space: each parameter, its distribution and when it exists."""
    table = Table(title="Search space", title_justify="left")
    table.add_column("parameter", no_wrap=True)
    for name in ("distribution", "exists when"):
        table.add_column(name, overflow="fold")
    for row in space_dict(found):
        table.add_row(row["name"], row["distribution"], row["when"])
    return table


def space_dict(found: Any) -> list[dict[str, str]]:
    """A search space for `--json`."""
    rows = []
    for name, parameter in found.parameters.items():
        when = " and ".join(str(condition) for condition in parameter.conditions) or "always"
        rows.append({"name": name, "distribution": distribution_text(parameter.distribution), "when": when})
    return rows


def distribution_text(distribution: Any) -> str:
    """A distribution in words: `log float 1e-05 .. 1`, `int 1 .. 8 step 1`, `one of adam, sgd`."""
    choices = getattr(distribution, "choices", None)
    if choices is not None:
        return "one of " + ", ".join(str(choice) for choice in choices)
    kind = "int" if type(distribution).__name__.startswith("Int") else "float"
    step = "" if distribution.step in (None, 1) else f" step {distribution.step}"
    return f"{'log ' if distribution.log else ''}{kind} {distribution.low:g} .. {distribution.high:g}{step}"


def facts(findings: Mapping[str, Any]) -> Table:
    """Names and values in two columns."""
    table = Table(show_header=False, pad_edge=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in findings.items():
        table.add_row(name, value if isinstance(value, str) else json.dumps(value))
    return table
