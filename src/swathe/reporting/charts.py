"""The report's charts, as pieces of HTML that need `script` once on their page; nothing is loaded from elsewhere."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence

from plotly import graph_objects
from plotly.offline import get_plotlyjs

from swathe.events import Direction, Value
from swathe.objectives import Goal, Objective
from swathe.reporting.facts import Curve
from swathe.reporting.stats import Axis, Bin, Fate, SweptTrial, short

_BLUE, _GREY, _ORANGE, _RED = "#2563a8", "#9aa5b1", "#d97706", "#c2410c"
_COLOURS = ("#2563a8", "#d97706", "#15803d", "#7c3aed", "#be123c", "#0e7490", "#713f12", "#475569")
# From so large a ratio of the largest to the smallest value on, an axis is logarithmic.
_WIDE = 8.0
_LABEL = 22


def script() -> str:
    """Return plotly.js itself, some four megabytes, in its element."""
    return f"<script>{get_plotlyjs()}</script>"


def importance(shares: Mapping[str, float]) -> str:
    """Draw a bar for each parameter, the most important on top."""
    names = list(shares)[::-1]
    bars = graph_objects.Bar(
        x=[shares[name] for name in names],
        y=[_label(name) for name in names],
        orientation="h",
        marker={"color": _BLUE},
        text=[f"{100 * shares[name]:.0f} %" for name in names],
        textposition="outside",
        hovertext=[html.escape(name) for name in names],
        hoverinfo="text+x",
        cliponaxis=False,
    )
    figure = _figure([bars], height=90 + 34 * len(names))
    room = 1.18 * max([*shares.values(), 0.01])
    figure.update_xaxes(tickformat=".0%", range=[0, room], nticks=6, title_text="importance (PED-ANOVA)")
    figure.update_yaxes(automargin=True)
    return _html(figure)


def isolation(
    axis: Axis,
    trials: Sequence[SweptTrial],
    best: Sequence[SweptTrial | None],
    bad: float,
    metric: str,
    *,
    maximize: bool,
) -> str:
    """Draw each trial's metric against its value of one parameter; `best` is the best complete trial of each bin.

    What is worse than `bad`, or has no value, is drawn at `bad`: the plot is about what is good.
    """
    worst = [trial for trial in trials if trial.fate is Fate.DIVERGED]
    whole = [trial for trial in trials if trial.fate is Fate.COMPLETE]
    part = [trial for trial in trials if trial.fate in (Fate.PRUNED, Fate.STOPPED) and trial.value is not None]
    winners = [trial for trial in best if trial is not None]
    ends = _ends([trial.value for trial in (*whole, *part) if trial.value is not None], bad, maximize=maximize)

    def points(group: Sequence[SweptTrial], name: str, **marker: object) -> graph_objects.Scatter:
        values = [bad if trial.value is None or trial.fate is Fate.DIVERGED else trial.value for trial in group]
        return graph_objects.Scatter(
            x=[_place(axis, trial) for trial in group],
            y=[max(ends[0], min(ends[1], value)) for value in values],
            mode="markers",
            name=name,
            marker=marker,
            text=[_hover(axis, trial, metric) for trial in group],
            hoverinfo="text",
        )

    traces = [
        points(part, "stopped early", color=_GREY, size=6, opacity=0.6),
        points(worst, "diverged", color=_RED, size=8, symbol="x"),
        points(whole, "complete", color=_BLUE, size=8, opacity=0.85),
        points(winners, "best of a part", color=_ORANGE, size=13, symbol="diamond-open", line={"width": 2}),
    ]
    figure = _figure([trace for trace in traces if trace.x], height=310)
    _value_axis(figure, ends, metric)
    _axis(figure, axis)
    return _html(figure)


def diverged(axis: Axis, counts: Sequence[tuple[Bin, int, int]]) -> str:
    """Draw the share of trials that diverged in each part of an axis: (part, diverged, all)."""
    bars = graph_objects.Bar(
        x=list(range(len(counts))),
        y=[bad / total if total else 0.0 for _, bad, total in counts],
        text=[f"{bad}/{total}" for _, bad, total in counts],
        textposition="outside",
        hovertext=[html.escape(part.label) for part, _, _ in counts],
        hoverinfo="text+y",
        marker={"color": _RED},
        cliponaxis=False,
    )
    figure = _figure([bars], height=270)
    figure.update_yaxes(tickformat=".0%", range=[0, 1.12], tickvals=[0, 0.5, 1], title_text="diverged")
    places, labels = _ticks([part for part, _, _ in counts])
    figure.update_xaxes(title_text=_label(axis.name, 60), tickvals=places, ticktext=labels, automargin=True)
    figure.update_layout(bargap=0.12)
    return _html(figure)


def _ticks(parts: Sequence[Bin]) -> tuple[list[float], list[str]]:
    """Return where labels stand below bars at 0, 1, 2 ... and what they say: parts of a range, between their ends."""
    ends = [(part.low, part.high) for part in parts if part.low is not None and part.high is not None]
    if len(ends) < len(parts) or any(low == high for low, high in ends):
        return [float(index) for index in range(len(parts))], [_label(part.label) for part in parts]
    values = [low for low, _ in ends] + [ends[-1][1]]
    return [index - 0.5 for index in range(len(values))], [short(value) for value in values]


def curves(found: Sequence[Curve], metric: str) -> str:
    """Draw one metric by step, a line for each trial, the best one thick."""
    traces = [
        graph_objects.Scatter(
            x=list(curve.steps),
            y=[value if math.isfinite(value) else None for value in curve.values],
            mode="lines" if len(curve.steps) > 1 else "markers",
            name=f"trial {curve.trial}",
            line={"color": _COLOURS[index % len(_COLOURS)], "width": 3 if index == 0 else 1.5},
        )
        for index, curve in enumerate(found)
    ]
    values = [value for curve in found for value in curve.values if math.isfinite(value)]
    figure = _figure(traces, height=330)
    if values:
        _value_axis(figure, (min(values), max(values)), metric)
    figure.update_xaxes(title_text="step (epoch)")
    return _html(figure)


def front(goal: Goal, pair: tuple[int, int], complete: Sequence[SweptTrial], best: Sequence[SweptTrial]) -> str:
    """Draw complete trials by two of the objectives, and those of `best`, the front, joined where there are but two."""
    x, y = pair
    numbers = {trial.number for trial in best}

    def points(group: Sequence[SweptTrial], name: str, mode: str = "markers", **look: object) -> graph_objects.Scatter:
        return graph_objects.Scatter(
            x=[trial.objectives[x] for trial in group],
            y=[trial.objectives[y] for trial in group],
            mode=mode,
            name=name,
            text=[_objectives_hover(goal, trial) for trial in group],
            hoverinfo="text",
            **look,
        )

    beaten = [trial for trial in complete if trial.feasible and trial.number not in numbers]
    broken = [trial for trial in complete if not trial.feasible]
    ordered = sorted(best, key=lambda trial: trial.objectives[x])
    joined = {"mode": "lines+markers", "line": {"color": _ORANGE, "width": 1, "shape": _corner(goal, pair)}}
    traces = [
        points(broken, "breaks a constraint", marker={"color": _RED, "size": 7, "symbol": "x"}),
        points(beaten, "dominated", marker={"color": _GREY, "size": 7, "opacity": 0.7}),
        points(
            ordered,
            "on the front",
            **(joined if len(goal.metrics) == 2 else {}),  # type: ignore[arg-type]
            marker={"color": _ORANGE, "size": 11, "symbol": "diamond"},
        ),
    ]
    figure = _figure([trace for trace in traces if trace.x], height=360)
    shown = [trial for trial in complete if trial.feasible] or complete
    for axis, index in ((figure.update_xaxes, x), (figure.update_yaxes, y)):
        _objective_axis(axis, [trial.objectives[index] for trial in shown], goal.objectives[index])
    return _html(figure)


def _corner(goal: Goal, pair: tuple[int, int]) -> str:
    """Return how a line turns so that what lies beyond it, from left to right, is dominated by the front."""
    return "hv" if goal.directions[pair[0]] is Direction.MINIMIZE else "vh"


def _objective_axis(update: Callable[..., object], values: Sequence[float], objective: Objective) -> None:
    title = f"{_label(objective.metric, 50)} ({objective.direction.value}d)"
    low, high = min(values), max(values)
    if low > 0 and high / low > _WIDE:
        room = 0.05 * math.log10(high / low)
        ends = [math.log10(low) - room, math.log10(high) + room]
        ticks = log_ticks(10 ** ends[0], 10 ** ends[1], most=7)
        update(title_text=title, type="log", range=ends, tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
        return
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    update(title_text=title, range=[low - room, high + room], nticks=7)


def _objectives_hover(goal: Goal, trial: SweptTrial) -> str:
    values = zip(goal.metrics, trial.objectives, strict=True)
    return html.escape(f"trial {trial.number}: {', '.join(f'{name} {value:.5g}' for name, value in values)}")


def volume(moments: Sequence[tuple[int, float]]) -> str:
    """Draw the share of the final hypervolume by the number of the trial that made it grow."""
    line = graph_objects.Scatter(
        x=[number for number, _ in moments],
        y=[share for _, share in moments],
        mode="lines+markers",
        line={"color": _BLUE, "shape": "hv"},
        marker={"size": 5},
    )
    figure = _figure([line], height=360)
    figure.update_xaxes(title_text="trial")
    figure.update_yaxes(title_text="share of the final volume", tickformat=".0%", range=[0, 1.05])
    return _html(figure)


def best_of_n(found: Mapping[str, Sequence[float]], metric: str, equal: int | None) -> str:
    """Draw the expected best by the number of trials, a line for each value; they are compared at `equal` trials."""
    traces = [
        graph_objects.Scatter(
            x=list(range(1, len(expected) + 1)),
            y=list(expected),
            mode="lines+markers",
            name=html.escape(name[:40]),
            marker={"size": 5},
            line={"color": _COLOURS[index % len(_COLOURS)]},
        )
        for index, (name, expected) in enumerate(found.items())
    ]
    values = [value for expected in found.values() for value in expected]
    figure = _figure(traces, height=330)
    _value_axis(figure, (min(values), max(values)), f"expected best {metric}")
    figure.update_xaxes(title_text="trials (n)", rangemode="tozero")
    if equal is not None:
        figure.add_vline(x=equal, line={"color": _GREY, "dash": "dot"})
    return _html(figure)


def _ends(values: Sequence[float], bad: float, *, maximize: bool) -> tuple[float, float]:
    """Return the ends of the axis for values: from the best of them to `bad`."""
    best = (max if maximize else min)([*values, bad])
    return (bad, best) if maximize else (best, bad)


def _figure(traces: Sequence[object], *, height: int) -> graph_objects.Figure:
    layout = {
        "template": "plotly_white",
        "height": height,
        "margin": {"l": 58, "r": 14, "t": 10, "b": 40},
        "font": {"size": 12, "family": "system-ui, sans-serif"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "dragmode": False,
    }
    return graph_objects.Figure(list(traces), layout)


def _value_axis(figure: graph_objects.Figure, ends: tuple[float, float], title: str) -> None:
    low, high = ends
    figure.update_yaxes(title_text=_label(title, 60), nticks=8)
    if low > 0 and high / low > _WIDE:
        room = 0.06 * math.log10(high / low)
        ends_of_axis = [math.log10(low) - room, math.log10(high) + room]
        ticks = log_ticks(10 ** ends_of_axis[0], 10 ** ends_of_axis[1])
        figure.update_yaxes(type="log", range=ends_of_axis, tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    elif high > low:
        room = 0.06 * (high - low)
        figure.update_yaxes(range=[low - room, high + room])


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Return round numbers from `low` to `high` for a logarithmic axis: 1, 2 and 5 times powers of ten, or fewer."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    tens = range(first, last + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{step}e{ten}") for ten in tens for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def _axis(figure: graph_objects.Figure, axis: Axis) -> None:
    figure.update_xaxes(title_text=_label(axis.name, 60))
    if axis.is_choice:
        labels = [_label(str(choice)) for choice in axis.choices]
        figure.update_xaxes(tickvals=list(range(len(labels))), ticktext=labels, range=[-0.5, len(labels) - 0.5])
    elif axis.log:
        room = 0.04 * math.log10(axis.high / axis.low) if axis.high > axis.low else 0.1
        ticks = log_ticks(axis.low, axis.high, most=6) or [axis.low]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
        figure.update_xaxes(range=[math.log10(axis.low) - room, math.log10(axis.high) + room])
    elif axis.high > axis.low:
        room = 0.04 * (axis.high - axis.low)
        figure.update_xaxes(range=[axis.low - room, axis.high + room], nticks=7)


def _place(axis: Axis, trial: SweptTrial) -> Value:
    value = trial.params[axis.name]
    if not axis.is_choice:
        return value
    # Beside each other, and the same at every drawing: multiples of the golden ratio are spread evenly.
    spread = (trial.number * 0.6180339887498949) % 1 - 0.5
    return axis.choices.index(value) + 0.5 * spread


def _hover(axis: Axis, trial: SweptTrial, metric: str) -> str:
    value = "none" if trial.value is None else f"{trial.value:.5g}"
    setting = trial.params[axis.name]
    shown = f"{setting:.5g}" if isinstance(setting, float) else str(setting)
    state = f"{trial.fate.value} at step {trial.step}"
    return html.escape(f"trial {trial.number}: {metric} {value}, {axis.name} {shown}, {state}")


def _label(text: str, length: int = _LABEL) -> str:
    """Return a text for plotly, which reads tags and entities in it, shortened in the middle."""
    half = (length - 1) // 2
    return html.escape(text if len(text) <= length else f"{text[:half]}…{text[-half:]}")


def _html(figure: graph_objects.Figure) -> str:
    options = {"responsive": True, "displayModeBar": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=options))
