"""A range test's curve, loss against learning rate: in a terminal of 80 columns, and as a page that opens offline."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from swathe.training.lr_range import Finding, Method, RangeTest

# Its import takes a second, which only the page needs.
if TYPE_CHECKING:
    from plotly import graph_objects

# The terminal's plot: most columns and the rows of the plane, and the columns of the numbers on its left.
_WIDTH, _HEIGHT, _LABEL = 69, 13, 9
# How far above the untrained loss the plane goes (share of the loss's range): what is higher is at its top.
_HEADROOM = 0.1
_POINT, _DIVERGED, _UNTRAINED = "o", "x", "."


def chart(test: RangeTest, finding: Finding) -> str:
    """Return the curve in letters, at most 80 columns wide; below it the range to search and the rate to train with."""
    low, high = _bounds(test)
    width = _width(test)
    cells = [[" "] * width for _ in range(_HEIGHT)]

    def row(loss: float) -> int:
        share = min(1.0, (loss - low) / (high - low))
        return round((1 - share) * (_HEIGHT - 1))

    cells[row(test.untrained)] = [_UNTRAINED] * width
    for lr, loss, diverged in zip(test.rates.tolist(), test.losses.tolist(), finding.diverged, strict=True):
        cells[row(loss)][_column(test, lr)] = _DIVERGED if diverged else _POINT
    labels = {0: high, row(test.untrained): test.untrained, _HEIGHT - 1: low}
    lines = [f"{_label(labels.get(index))} |{''.join(line)}".rstrip() for index, line in enumerate(cells)]
    blank = " " * (_LABEL + 2)
    lines += [f"{' ' * _LABEL} +{'-' * width}", blank + _ticks(test)]
    if finding.low is not None and finding.high is not None and finding.lr is not None:
        lines.append(blank + _range(test, finding.low, finding.high, finding.lr))
    return "\n".join(lines)


def table(test: RangeTest, finding: Finding) -> Table:
    """Return the rates that stand out, each with its loss at the end of the test."""
    found = Table()
    for name, side in (("rate", "left"), ("lr", "right"), ("loss", "right"), ("of the untrained", "right")):
        found.add_column(name, justify=side)  # type: ignore[arg-type]
    if finding.low is not None:
        found.caption = f"The untrained network has a loss of {test.untrained:.4g} on the same batches."
        found.caption_justify = "left"
    for name, index in (
        ("lowest that learns", finding.lowest),
        ("best", finding.best),
        ("highest stable", finding.highest),
        ("lowest that diverges", _first_diverged(finding)),
    ):
        if index is not None:
            loss = float(test.losses[index])
            found.add_row(name, f"{test.rates[index]:.2g}", f"{loss:.4g}", f"{loss / test.untrained:.0%}")
    return found


def advice(test: RangeTest, finding: Finding) -> list[str]:
    """Return what one can do with the rates that were found, a line each; when none learns, what may be wrong."""
    if finding.best is None or finding.lr is None:
        return ["No rate learns: try more --steps or other rates, or look at data and model."]
    lines = [f"Train with it:     optim.lr={finding.lr:g}", f"Search around it:  '{override(finding)}'"]
    if finding.best in (0, len(test.rates) - 1):
        option = "--from-lr" if finding.best == 0 else "--to-lr"
        lines.append(f"The best rate is at the end of those that were tried: go further with {option}.")
    return lines


def from_dict(plain: Mapping[str, Any]) -> tuple[RangeTest, Finding]:
    """Read what `swathe lr-find --json` prints."""
    rates = [one["lr"] for one in plain["rates"]]
    losses = [math.inf if one["loss"] is None else one["loss"] for one in plain["rates"]]
    test = RangeTest(Method(plain["method"]), np.array(rates), np.array(losses), plain["untrained_loss"])

    def index(rate: float | None) -> int | None:
        return None if rate is None else rates.index(rate)

    low, high = plain["range"] or (None, None)
    return test, Finding(
        diverged=tuple(one["diverged"] for one in plain["rates"]),
        lowest=index(plain["lowest"]),
        best=index(plain["best"]),
        highest=index(plain["highest"]),
        lr=plain["lr"],
        low=low,
        high=high,
    )


def override(finding: Finding) -> str | None:
    """Return the suggested range as `swathe launch` takes it; None where no rate learns."""
    if finding.lr is None:
        return None
    return f"optim.lr=tag(log,interval({finding.low:g},{finding.high:g}))"


def page(test: RangeTest, finding: Finding, title: str) -> str:
    """Return the curve as one page with plotly.js in it."""
    from plotly import graph_objects

    top = _bounds(test)[1]
    rows = list(zip(test.rates.tolist(), test.losses.tolist(), finding.diverged, strict=True))
    stable = [(lr, loss) for lr, loss, diverged in rows if not diverged]
    broken = [(lr, min(loss, top)) for lr, loss, diverged in rows if diverged]
    mode = "lines" if test.method is Method.RAMP else "lines+markers"
    curves = [
        _scatter("loss", stable, mode),
        _scatter("diverged", broken, "markers", {"marker": {"symbol": "x", "color": "firebrick"}}),
        _scatter("untrained", [(rows[0][0], test.untrained), (rows[-1][0], test.untrained)], "lines", _DASHED),
    ]
    figure = graph_objects.Figure([curve for curve in curves if len(curve.x)])
    text = f"Learning-rate range test: {title}"
    if finding.low is not None and finding.high is not None and finding.lr is not None:
        figure.add_vrect(x0=finding.low, x1=finding.high, fillcolor="seagreen", opacity=0.15, line_width=0)
        figure.add_vline(x=finding.lr, line_color="seagreen")
        text += f"<br><sub>lr {finding.lr:g}, range to search {finding.low:g} to {finding.high:g}</sub>"
    figure.update_layout(title=text)
    figure.update_xaxes(type="log", title="learning rate", exponentformat="power")
    figure.update_yaxes(title="training loss at the end" if test.method is Method.LANES else "training loss")
    body = figure.to_html(full_html=False, include_plotlyjs=True)
    return f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title>\n{body}\n"


_DASHED = {"line": {"dash": "dot", "color": "grey"}}


def _scatter(
    name: str, points: list[tuple[float, float]], mode: str, style: Mapping[str, object] | None = None
) -> graph_objects.Scatter:
    from plotly import graph_objects

    x, y = [lr for lr, _ in points], [loss for _, loss in points]
    return graph_objects.Scatter(x=x, y=y, mode=mode, name=name, **(style or {}))


def _bounds(test: RangeTest) -> tuple[float, float]:
    """Return the losses between which the plane lies."""
    low = min(test.untrained, *(loss for loss in test.losses.tolist() if math.isfinite(loss)))
    gain = test.untrained - low or abs(test.untrained) or 1.0
    return low, test.untrained + _HEADROOM * gain


def _width(test: RangeTest) -> int:
    """Return the columns of the plane: such that rates, if there is room for all, lie at equal distances."""
    gaps = len(test.rates) - 1
    return max(1, (_WIDTH - 1) // gaps) * gaps + 1 if gaps < _WIDTH else _WIDTH


def _column(test: RangeTest, lr: float) -> int:
    """Return where a rate lies on the axis; one beyond the rates that were tried lies at its end."""
    first, last = math.log(test.rates[0]), math.log(test.rates[-1])
    return round(min(1.0, max(0.0, (math.log(lr) - first) / (last - first))) * (_width(test) - 1))


def _label(loss: float | None) -> str:
    return " " * _LABEL if loss is None else f"{loss:.4g}".rjust(_LABEL)


def _ticks(test: RangeTest) -> str:
    """Return the powers of ten below the axis, each beginning at its place, as many as there is room for."""
    width = _width(test)
    line = [" "] * width
    free = 0
    for power in range(math.ceil(math.log10(test.rates[0]) - 1e-9), math.floor(math.log10(test.rates[-1]) + 1e-9) + 1):
        text, place = f"1e{power}", _column(test, 10.0**power)
        place = min(place, width - len(text))
        if place >= free:
            line[place : place + len(text)] = text
            free = place + len(text) + 1
    return "".join(line).rstrip()


def _range(test: RangeTest, low: float, high: float, lr: float) -> str:
    """Return the range to search as a bar, with the suggested rate in it."""
    first, last, place = (_column(test, rate) for rate in (low, high, lr))
    bar = [" "] * _width(test)
    bar[first : last + 1] = "=" * (last + 1 - first)
    bar[first], bar[last], bar[place] = "<", ">", "|"
    return "".join(bar).rstrip()


def _first_diverged(finding: Finding) -> int | None:
    """Return the first rate above the best one that diverges."""
    from_best = range(finding.best or 0, len(finding.diverged))
    return next((index for index in from_best if finding.diverged[index]), None)
