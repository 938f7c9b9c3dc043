"""Tables and lines for people; made for terminals of 80 columns."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from swathe.diagnosis import counts_text
from swathe.events import Report, TrialState, Value
from swathe.overview import Overview, Row
from swathe.training.diagnose import Action, Symptom
from swathe.training.verdict import Outcome, Verdict
from swathe.view import eta, latest_line, open_view, short, spent

# Its imports are not for commands that only ask a server.
if TYPE_CHECKING:
    from swathe.reproduce import Reproduction
    from swathe.versus import Versus

WATCH_SECONDS = 1.0
# Trials of each symptom that are shown with what was said of them.
EXAMPLES = 3
# Numbers of a reproduction that are shown where they differ.
DIFFERENT_ROWS = 20
# Trials of a front that `swathe status` shows.
FRONT_LINES = 8
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


def comparison(rows: Sequence[Row], metric: str, *, title: str, others: Sequence[str] = ()) -> Table:
    """Trials side by side: state, the metric, accuracy where it is reported, symptoms, and what was searched.

    With `others`, further objectives, these in place of accuracy, and a mark on the front. What breaks a constraint
    says so.
    """
    table = Table(title=title, title_justify="left", expand=False)
    table.add_column("trial", justify="right")
    repeated = any(row.repeats for row in rows)
    table.add_column("state", max_width=18)
    shown = [metric, *(name for name in ("val_accuracy", "val_loss") if name != metric)]
    shown = [name for name in shown if any(name in row.metrics for row in rows)][:2]
    if others:
        shown = list(dict.fromkeys((metric, *others)))
    marked = bool(others) or not all(row.feasible for row in rows)
    if marked:
        table.add_column("front" if others else "constraints", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right")
    if repeated:
        table.add_column("std", justify="right")
        table.add_column("trials", justify="right")
    diagnosed = any(row.diagnosis for row in rows)
    if diagnosed:
        table.add_column("diagnosis", no_wrap=True)
    # An objective may have that name: how many a network has.
    table.add_column("searched" if "parameters" in shown else "parameters", overflow="fold")
    for row in rows:
        values = [f"{row.metrics[name]:.4g}" if name in row.metrics else "" for name in shown]
        symptoms = ["\n".join(row.diagnosis)] if diagnosed else []
        marks = [_mark(row, others)] if marked else []
        spread = _spread(row) if repeated else []
        table.add_row(str(row.trial), row.state, *marks, *values, *spread, *symptoms, params_text(row.params))
    return table


def versus(found: Versus) -> Group:
    """Several sweeps side by side: trials and best values, the best after equal work, and in what they differ."""
    names = [one.name for one in found.sweeps]
    head = Table(title=f"By {found.metric}, {found.direction}d", title_justify="left", expand=False)
    head.add_column("sweep", overflow="fold")
    for name in ("trials", "epochs", "best", "trial"):
        head.add_column(name, justify="right")
    head.add_column("parameters", overflow="fold")
    for one in found.sweeps:
        states = ", ".join(f"{count} {state}" for state, count in one.counts.items())
        best = ("", "") if one.best is None else (f"{one.best[1]:.5g}", str(one.best[0]))
        head.add_row(one.name, states or "none yet", str(one.epochs), *best, params_text(one.params))
    parts: list[Table | Text] = [head]
    if found.epochs:
        after = Table(title=f"The best {found.metric} after as many epochs", title_justify="left", expand=False)
        after.add_column("epochs", justify="right")
        for name in names:
            after.add_column(name, justify="right", overflow="fold")
        for place, count in enumerate(found.epochs):
            values = [one.after[place] for one in found.sweeps]
            after.add_row(str(count), *("" if value is None else f"{value:.5g}" for value in values))
        parts.append(after)
    if found.differences:
        differ = Table(title="In what their configs differ", title_justify="left", expand=False)
        differ.add_column("key", overflow="fold")
        for name in names:
            differ.add_column(name, overflow="fold")
        for key, shown in found.differences.items():
            differ.add_row(key, *("" if value is None else short(value) for value in shown))
        parts.append(differ)
    return Group(*parts)


def _spread(row: Row) -> list[str]:
    return ["", ""] if row.repeats is None else [f"{row.repeats.std:.2g}", str(len(row.repeats.values))]


def _mark(row: Row, others: Sequence[str]) -> str:
    if not row.feasible:
        return "broken"
    return ("*" if row.front else "") if others else "kept"


def front(item: Overview) -> Table:
    """The trials that no other dominates: each objective, and what was searched."""
    title = f"The front of {item.name}: {goal_text(item)}"
    table = Table(title=title, title_justify="left", expand=False)
    table.add_column("trial", justify="right")
    for name in item.metrics:
        table.add_column(name, justify="right")
    table.add_column("searched", overflow="fold")
    for one in item.front:
        table.add_row(str(one.trial), *(f"{value:.6g}" for value in one.values), params_text(one.params))
    return table


def goal_text(item: Overview) -> str:
    """Return the objectives with their directions: `val_loss minimized, parameters minimized`."""
    pairs = zip(item.metrics, item.directions, strict=True)
    return ", ".join(f"{metric} {direction}d" for metric, direction in pairs)


def _goal_lines(item: Overview) -> list[Text]:
    """Return the lines on constraints and the front."""
    lines = []
    if item.feasible is not None:
        complete = item.counts.get(TrialState.COMPLETE, 0)
        bounds = ", ".join(f"{name} {bound}" for name, bound in item.constraints.items())
        lines.append(Text(f"constraints: {bounds}; {item.feasible} of {complete} complete trials keep them"))
    if item.several:
        lines.append(Text(f"objectives: {goal_text(item)}; on the front {len(item.front)} trials"))
        for one in item.front[:FRONT_LINES]:
            pairs = zip(item.metrics, one.values, strict=True)
            lines.append(Text(f"  trial {one.trial}: {', '.join(f'{name} {value:.6g}' for name, value in pairs)}"))
        if len(item.front) > FRONT_LINES:
            lines.append(Text(f"  all of it: swathe best {item.name}"))
    return lines


def sweeps(overviews: Sequence[Overview]) -> Table:
    """All sweeps of a folder."""
    table = Table()
    for name in ("sweep", "trials", "best", "status"):
        table.add_column(name, overflow="fold")
    for item in overviews:
        best = "" if item.best is None else f"{item.metric} {item.best[1]:.5g}"
        table.add_row(item.name, f"{item.over}/{item.trials}" if item.trials else "", best, item.status)
    return table


def overview(item: Overview) -> Group:
    """One sweep: how far, the best trial, and why trials failed."""
    counts = [f"{item.counts.get(state, 0)} {state.value}" for state in TrialState if item.counts.get(state, 0)]
    lines = [
        Text(f"Sweep {item.name}: {item.status}"),
        Text(f"{item.over} of {item.trials} trials: {', '.join(counts) or 'none yet'}"),
    ]
    if item.session is not None:
        lines.append(Text("   ".join(_session_words(item))))
    if item.lanes or (item.running and item.session is not None and item.session.lanes is not None):
        lines.append(Text(_lanes_line(item)))
    lines += _goal_lines(item)
    if item.best is not None and not item.several:
        lines.append(Text(f"best: trial {item.best[0]}, {item.metric} {item.best[1]:.6g}{_of_repeats(item)}"))
        lines.append(Text(f"      {params_text(item.best_params)}"))
    if item.diagnosis:
        lines.append(Text(f"diagnosis: {counts_text(item.diagnosis)}; more with: swathe diagnose {item.name}"))
    if item.running and item.latest:
        lines.append(Text(latest_line(item.latest)))
    return Group(*lines, failures(item))


def ended(item: Overview, reason: str, seconds: float) -> Group:
    """How a session of a sweep ended, and why trials failed."""
    return Group(Text(f"Sweep {item.name}: {reason}, after {seconds:.1f} s."), failures(item))


def failures(item: Overview) -> Group:
    """Why trials failed, the reason of most first; nothing where none did."""
    return Group(*(Text(f"{count} failed: {reason}", style="red") for reason, count in item.failures))


def _of_repeats(item: Overview) -> str:
    return "" if item.repeats is None else f" ({item.repeats.words})"


def _session_words(item: Overview) -> list[str]:
    """Return the pace of the session and what it has taken of the devices; of one that is over, without the pace."""
    progress = item.progress(time.time())
    if not item.running:
        return spent(replace(progress, elapsed=0.0))
    return [word for word in (*spent(progress), eta(progress)) if word]


def _lanes_line(item: Overview) -> str:
    lanes = item.lanes
    said = None if item.session is None else item.session.lanes
    if item.running and said is not None:
        return f"lanes {said[0]:.0f}/{said[1]:.0f} ({said[0] / max(1.0, said[1]):.0%})"
    if item.running and "lanes" in lanes:
        return f"lanes {lanes['live']:.0f}/{lanes['lanes']:.0f} ({lanes['occupancy']:.0%})"
    if "occupancy_mean" not in lanes:
        return "lanes: not known how full they were"
    until, mean = lanes["occupancy_until_tail"], lanes["occupancy_mean"]
    return f"lanes {until:.0%} full until the last tenth of the sweep, {mean:.0%} to its end"


def watch(console: Console, read: Callable[[], Overview]) -> None:
    """Show a sweep until it is not running any more: a live table in a terminal, lines elsewhere."""
    said = ""
    with open_view(console, quiet=False) as view:
        while (item := read()).running or item.queued:
            if item.running:
                view.show(item.progress(time.time()))
            elif item.status != said:
                said = item.status
                view.say(f"Sweep {item.name}: {said}")
            time.sleep(WATCH_SECONDS)


def best_lines(item: Overview) -> Group:
    """The best trial's parameters, one a line; of several objectives, the front."""
    if item.several:
        return Group(front(item))
    assert item.best is not None
    what = f"trial {item.best[0]}, {item.metric} {item.best[1]:.6g}{_of_repeats(item)}"
    head = Text(f"Best config: {what}", style="bold")
    changed = [Text(f"It began with these values; which it had when, says: swathe best {item.name}")]
    params = (Text(f"  {key}: {value}") for key, value in item.best_params.items())
    return Group(head, *params, *(changed if item.best_changed else ()))


def next_lines(name: str, again: str | None, *, best: bool, several: bool = False) -> Group:
    """What one can do now; `again` is the command that goes on with a stopped sweep, `several`: it has a front."""
    lines = []
    if again is not None:
        lines.append(Text(f"Go on with it:        {again}"))
    lines.append(Text(f"Open the MLflow UI:   swathe ui {name}"))
    if best:
        lines.append(Text(f"Reproduce the {'front: ' if several else 'winner:'} swathe reproduce {name}"))
    return Group(*lines)


def report_line(report: Report) -> str:
    """One report in one line."""
    metrics = "  ".join(f"{name} {value:.5g}" for name, value in report.metrics.items())
    return f"step {report.step}: {metrics}"


def reproduction(result: Reproduction) -> Group:
    """Recorded against reproduced, and the verdict: the numbers that differ, or else those of the last report."""
    verdict = [Text(line) for line in _verdict(result)]
    if result.identical:
        return Group(_identical(result), *verdict)
    more = sum(not row.identical for row in result.rows) - DIFFERENT_ROWS
    left = [Text(f"... and {more} more that differ; --json has all numbers.")] if more > 0 else []
    return Group(_different(result), *left, *verdict)


def _identical(result: Reproduction) -> Table:
    steps = {row.step for row in result.rows}
    table = Table(title=f"The last report of {len(steps)}", title_justify="left")
    table.add_column("step", justify="right")
    table.add_column("metric", overflow="fold")
    table.add_column("recorded and reproduced", justify="right", overflow="fold")
    for row in result.rows:
        if row.step == max(steps):
            table.add_row(str(row.step), row.metric, _exact(row.recorded))
    return table


def _different(result: Reproduction) -> Table:
    table = Table()
    table.add_column("step", justify="right")
    table.add_column("metric", overflow="fold")
    # One above the other they fit into a line with all of their digits, and the first that differs meets the eye.
    table.add_column("recorded\nreproduced", overflow="fold")
    table.add_column("apart", overflow="fold")
    for row in [row for row in result.rows if not row.identical][:DIFFERENT_ROWS]:
        apart = f"{row.relative:.1e} of it" if result.alone else f"{row.distance:.2g}"
        table.add_row(str(row.step), row.metric, f"{_exact(row.recorded)}\n{_exact(row.reproduced)}", apart)
    return table


def _exact(value: float | None) -> str:
    return "missing" if value is None else f"{value:.17g}"


def _verdict(result: Reproduction) -> list[str]:
    state = f"trial {result.run.number} ({result.run.state})"
    if result.identical:
        return [f"Identical: {state}, all {len(result.rows)} numbers have the same bits."]
    if result.alone:
        from swathe.reproduce import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, ROUNDING_FACTOR

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


def run_findings(found: Mapping[str, Any]) -> Group:
    """What is wrong with one run, from its `as_dict`: of each finding the symptom, what was seen, what can be done."""
    sweep, run = found["sweep"], found["run_id"]
    name = "Run" if sweep is None else f"Trial {found['trial']} of sweep {sweep}"
    lines = [Text(f"{name} (run {run}): {found['state']}, {found['reports']} reports.")]
    if not found["findings"]:
        lines.append(Text("No findings."))
    for finding in found["findings"]:
        head = f"{finding['symptom']} ({_ACTIONS[Action(finding['action'])]})"
        lines += [Text(head, style="bold"), Text(f"  {finding['evidence']}"), Text(f"  {finding['advice']}")]
    return Group(*lines)


def sweep_findings(found: Mapping[str, Any]) -> Group:
    """What is wrong in a sweep, from its `as_dict`: by symptom with examples, what underfits, ranges to widen."""
    said, underfitting, narrow = found["symptoms"], found["underfitting"], found["narrow"]
    lists = (*(symptom["findings"] for symptom in said.values()), underfitting)
    diagnosed = {one["trial"] for listed in lists for one in listed}
    lines = [Text(f"Sweep {found['name']}: {len(diagnosed)} of {found['trials']} trials have findings.")]
    if not found["enabled"]:
        lines.append(Text("Its trials were not diagnosed, as diagnosis.enabled is false."))
    for symptom, one in said.items():
        lines.append(Text(f"{symptom}: {one['trials']}", style="bold"))
        lines += [Text(f"  trial {example['trial']}: {example['text']}") for example in one["findings"][:EXAMPLES]]
    if underfitting:
        lines.append(Text(f"{Symptom.UNDERFITTING}: {len(underfitting)}", style="bold"))
        some = underfitting[:EXAMPLES]
        lines += [Text(f"  trial {one['trial']}: {one['evidence']} {one['advice']}") for one in some]
    if narrow:
        lines.append(Text(str(Symptom.SPACE_TOO_NARROW), style="bold"))
        lines += [Text(f"  {side['evidence']} {side['advice']}") for side in narrow]
    if not (said or underfitting or narrow):
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
            {
                "step": row.step,
                "metric": row.metric,
                "recorded": row.recorded,
                "reproduced": row.reproduced,
                "identical": row.identical,
                "rounding": row.rounding,
            }
            for row in result.rows
        ],
    }


def reproduction_from_dict(plain: Mapping[str, Any]) -> Reproduction:
    """Read what `reproduction_dict` returns; of numbers that were not finite it has nothing."""
    from swathe.records import TrialRun
    from swathe.reproduce import Reproduction, Row

    def number(one: Mapping[str, Any], key: str) -> float | None:
        # What has the same bits and is null was a NaN twice.
        value: float | None = one[key]
        return math.nan if value is None and one["identical"] else value

    def row(one: Mapping[str, Any]) -> Row:
        recorded, reproduced = number(one, "recorded"), number(one, "reproduced")
        return Row(one["step"], one["metric"], recorded, reproduced, one["rounding"] or 0.0)

    return Reproduction(
        run=TrialRun(plain["trial"], plain["run_id"], plain["state"], {}, {}, {}),
        rows=tuple(map(row, plain["rows"])),
        differences=tuple(plain["differences"]),
        new_run_id=plain["new_run_id"],
        alone=plain["alone"],
    )


def space(rows: Sequence[Mapping[str, str]]) -> Table:
    """A search space as `space_dict` has it: each parameter, its distribution and when it exists."""
    table = Table(title="Search space", title_justify="left")
    table.add_column("parameter", no_wrap=True)
    for name in ("distribution", "exists when"):
        table.add_column(name, overflow="fold")
    for row in rows:
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
    # In full where `g` fails: an integer may be larger than any float.
    low, high = (f"{end:g}" if abs(end) < 1e308 else str(end) for end in (distribution.low, distribution.high))
    return f"{'log ' if distribution.log else ''}{kind} {low} .. {high}{step}"


def facts(findings: Mapping[str, Any]) -> Table:
    """Names and values in two columns."""
    table = Table(show_header=False, pad_edge=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in findings.items():
        table.add_row(name, value if isinstance(value, str) else json.dumps(value))
    return table
