"""Charts as SVG: points with their intervals, joined by lines; nothing but text is needed to draw them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from scripts.results.statistics import Interval

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 34, 60
# Okabe & Ito's colours, which people with colour blindness tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#a6761d", "#7570b3")
TEXT = "#222222"
# On an axis in logarithms.
FEWEST_TICKS, MOST_TICKS = 3, 8


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: linear or logarithmic, or with `names` at 0, 1, 2 ... instead of numbers."""

    label: str
    log: bool = False
    names: Sequence[str] = ()

    def place(self, value: float) -> float:
        return math.log10(value) if self.log else value


@dataclass(frozen=True, slots=True)
class Series:
    """Intervals by where they stand on the horizontal axis; `joined` by a line or not."""

    label: str
    points: Mapping[float, Interval]
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Chart:
    """Series over one horizontal and one vertical axis, and `lines`: named values of the vertical one."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    lines: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Scale:
    axis: Axis
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; one beyond the scale, such as the bound of an interval, is at its end."""
        if self.axis.log and value <= 0:
            return self.start
        part = (self.axis.place(value) - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, part)) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        if self.axis.names:
            return [(float(index), name) for index, name in enumerate(self.axis.names)]
        if self.axis.log:
            powers = range(math.floor(self.low), math.ceil(self.high) + 1)
            # Between the powers, too, where there are few; an axis of less than that has steps of one size.
            for factors in ((1,), (1, 2, 5)):
                values = [factor * 10.0**power for power in powers for factor in factors]
                shown = [value for value in values if self.low - 1e-9 <= math.log10(value) <= self.high + 1e-9]
                if len(shown) >= FEWEST_TICKS:
                    return [(value, f"{value:g}") for value in shown[:: math.ceil(len(shown) / MOST_TICKS)]]
            return _steps(10.0**self.low, 10.0**self.high)
        return _steps(self.low, self.high)


def _steps(low: float, high: float) -> list[tuple[float, str]]:
    step = _round_step((high - low) / 6)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(index * step, f"{index * step:.6g}") for index in range(first, last + 1)]


def _round_step(rough: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def svg(chart: Chart) -> str:
    """Return the chart as a picture; raises `ValueError` where no point of it can be drawn."""
    drawn = [(x, point) for series in chart.series for x, point in series.points.items() if _drawable(chart.y, point)]
    if not drawn:
        raise ValueError(f"The chart {chart.title!r} has no point.")
    x = _scale(chart.x, [at for at, _ in drawn], LEFT, WIDTH - RIGHT)
    y = _scale(
        chart.y,
        [*(value for _, point in drawn for value in _ends(chart.y, point)), *chart.lines.values()],
        HEIGHT - BOTTOM,
        TOP,
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 20, chart.title, size=13),
        *_frame(x, y),
        *_lines(chart.lines, y),
    ]
    for place, series in enumerate(chart.series):
        colour = COLOURS[place % len(COLOURS)]
        parts += _series(series, chart, x, y, colour, place)
        parts.append(f'<circle cx="{WIDTH - RIGHT + 18}" cy="{TOP + 10 + 18 * place}" r="4" fill="{colour}"/>')
        parts.append(_text(WIDTH - RIGHT + 28, TOP + 14 + 18 * place, series.label))
    return "\n".join([*parts, "</svg>", ""])


def _drawable(axis: Axis, point: Interval) -> bool:
    return math.isfinite(point.mean) and (point.mean > 0 or not axis.log)


def _ends(axis: Axis, point: Interval) -> list[float]:
    """Return the mean and those of its bounds that the axis can show."""
    bounds = [value for value in (point.low, point.high) if math.isfinite(value) and (value > 0 or not axis.log)]
    return [point.mean, *bounds]


def _scale(axis: Axis, values: Sequence[float], start: float, end: float) -> _Scale:
    if axis.names:
        return _Scale(axis, -0.5, len(axis.names) - 0.5, start, end)
    places = [axis.place(value) for value in values]
    low, high = min(places), max(places)
    margin = (high - low) * 0.05 or 0.5
    return _Scale(axis, low - margin, high + margin, start, end)


def _frame(x: _Scale, y: _Scale) -> list[str]:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts = [
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x.axis.label, anchor="middle"),
        f'<g transform="translate(16 {middle:.0f}) rotate(-90)">{_text(0, 0, y.axis.label, anchor="middle")}</g>',
    ]
    for value, name in x.ticks():
        parts.append(_line(x(value), HEIGHT - BOTTOM, x(value), HEIGHT - BOTTOM + 4, "#666666"))
        # Names too long for one line stand on several.
        for row, word in enumerate(name.split("\n")):
            parts.append(_text(x(value), HEIGHT - BOTTOM + 16 + 11 * row, word, size=10, anchor="middle"))
    for value, name in y.ticks():
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "#e5e5e5"))
        parts.append(_text(LEFT - 6, y(value) + 4, name, size=10, anchor="end"))
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "#666666"))
    parts.append(_line(LEFT, TOP, LEFT, HEIGHT - BOTTOM, "#666666"))
    return parts


def _lines(lines: Mapping[str, float], y: _Scale) -> list[str]:
    parts = []
    for name, value in lines.items():
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "#c92a2a", 'stroke-dasharray="5 4"'))
        parts.append(_text(WIDTH - RIGHT - 4, y(value) - 4, name, size=10, anchor="end"))
    return parts


def _series(series: Series, chart: Chart, x: _Scale, y: _Scale, colour: str, place: int) -> list[str]:
    # Beside each other where several stand at one name.
    aside = 6.0 * (place - (len(chart.series) - 1) / 2) if chart.x.names else 0.0
    found = [(x(at) + aside, point) for at, point in sorted(series.points.items()) if _drawable(chart.y, point)]
    parts = []
    if series.joined and not chart.x.names:
        points = " ".join(f"{at:.1f},{y(point.mean):.1f}" for at, point in found)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    for at, point in found:
        title = f"<title>{escape(series.label)}: {point.mean:.4g} [{point.low:.4g}, {point.high:.4g}]</title>"
        if math.isfinite(point.low) and math.isfinite(point.high):
            parts.append(_line(at, y(point.low), at, y(point.high), colour))
        parts.append(f'<circle cx="{at:.1f}" cy="{y(point.mean):.1f}" r="3" fill="{colour}">{title}</circle>')
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def _text(x: float, y: float, text: str, *, size: int = 11, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{TEXT}">{escape(text)}</text>'
    )
