"""What shows only among many trials: those that underfit, and ranges at whose edge the best trials are.

The definitions are those of `swathe.training.diagnose`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from swathe.errors import BadInputError, bad_value
from swathe.training.symptoms import DEFAULTS, Action, Finding, Summary, Symptom, Thresholds, finite, number, percent

# The smallest number above 0.
_TINY = 5e-324


@dataclass(frozen=True, slots=True)
class Range:
    """The range of a parameter, both ends included; `step` for values on a grid, as integers are (1).

    `least` and `most` are as far as it can be widened, None without a limit; 0 is one for a linear range from 0 or
    above. Raises `BadInputError` for a range that is empty or not finite.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    least: float | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        if not (self.low < self.high and math.isfinite(self.high - self.low)):
            ends = f"{self.low!r} to {self.high!r}"
            raise BadInputError(f"range: {ends} is not allowed; allowed: low < high, both finite.")
        if self.log and not (self.low > 0 and math.isfinite(self.high / self.low)):
            raise bad_value("range.low", self.low, "a number above 0, as the range is logarithmic")
        if self.step is not None and not 0 < self.step <= self.high - self.low < 1e15 * self.step:
            raise bad_value("range.step", self.step, "a number above 0, at most high - low, or null")

    def place(self, value: float) -> float:
        """Return where a value is, from 0 (low) to 1 (high), by logarithms in a logarithmic range."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def _scaled(self, value: float) -> float:
        return math.log(max(value, _TINY)) if self.log else value

    def chance(self, edge: float, *, low: bool) -> float:
        """Return the chance that a random value is within `edge` (a share of the width) of one end."""
        if self.step is None:
            return edge
        # On a grid a value stands for all that is nearer to it than to its neighbours.
        half = self.step / 2
        begin, end = self._scaled(self.low - half), self._scaled(self.high + half)
        if self.log:
            width = self.low * ((self.high / self.low) ** edge - 1)
            width = width if low else self.high * (1 - (self.low / self.high) ** edge)
        else:
            width = edge * (self.high - self.low)
        inside = math.floor(width / self.step + 1e-9) * self.step + half
        inner = self._scaled(self.low + inside) - begin if low else end - self._scaled(self.high - inside)
        return inner / (end - begin)

    def wider(self, *, low: bool) -> float | None:
        """Return a new end half the width farther out, by logarithms in a logarithmic range; None where none is."""
        start, sign = (self.low, -1) if low else (self.high, 1)
        if self.log:
            end = start * math.sqrt(self.high / self.low) ** sign
        else:
            end = start + sign * (self.high - self.low) / 2
        if self.step is None:
            end = _rounded(end, start)
        elif math.isfinite(end):
            end = start + sign * self.step * max(1, round(abs(end - start) / self.step))
        least = 0.0 if self.least is None and self.low >= 0 else self.least
        if low and least is not None:
            end = max(end, least)
        elif not low and self.most is not None:
            end = min(end, self.most)
        within = math.isfinite(end) and not (self.log and end <= 0)
        return end if within and sign * (end - start) > 0 else None


def _rounded(end: float, start: float) -> float:
    """Return a number with few digits that is as good a new end as `end`: off by an eighth of the way at most."""
    for digits in range(1, 17):
        rounded = float(f"{end:.{digits}g}")
        if abs(rounded - end) <= abs(end - start) / 8:
            return rounded
    return end


@dataclass(frozen=True, slots=True)
class SweepTrial:
    """A trial that is over, neither failed nor suspended.

    `value` is its objective, None or not finite for the worst; `complete`: it was neither pruned nor stopped, so that
    its value can be compared.
    """

    trial: int
    params: Mapping[str, object]
    value: float | None
    complete: bool = True
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class NarrowSide:
    """One end of a parameter's range where the best trials are; `bound` is a new end, farther out."""

    parameter: str
    low: bool
    bound: float
    finding: Finding


@dataclass(frozen=True, slots=True)
class SweepDiagnosis:
    """Trials that underfit, by number, and sides of the space to widen, in the order of the ranges."""

    underfitting: Mapping[int, Finding]
    narrow: tuple[NarrowSide, ...]


def diagnose_sweep(
    trials: Iterable[SweepTrial],
    ranges: Mapping[str, Range],
    *,
    maximize: bool = False,
    thresholds: Thresholds = DEFAULTS,
) -> SweepDiagnosis:
    """Return what shows only among many trials; parameters without a range (choices) have no edges."""
    known = list(trials)
    narrow = (side for name, span in ranges.items() for side in _narrow(name, span, known, maximize, thresholds))
    return SweepDiagnosis(_underfitting(known, thresholds), tuple(narrow))


def _underfitting(trials: Sequence[SweepTrial], thresholds: Thresholds) -> dict[int, Finding]:
    runs = {one.trial: one.summary for one in trials if one.summary is not None}
    train = [value for run in runs.values() if (value := finite(run.train_loss)) is not None]
    val = {trial: value for trial, run in runs.items() if (value := finite(run.val_loss)) is not None}
    if not train:
        return {}
    best_train, best_val = min(train), min(val.values(), default=None)
    found = {}
    for trial, run in runs.items():
        if run.findings or not run.plateaued or run.train_loss is None:
            continue
        if not _exceeds(run.train_loss, best_train, run.unit, thresholds):
            continue
        if best_val is not None and (
            run.val_loss is None or not _exceeds(run.val_loss, best_val, run.unit, thresholds)
        ):
            continue
        evidence = (
            f"The training loss stays at {number(run.train_loss)}, where the sweep's best is {number(best_train)}"
        )
        if best_val is not None and run.val_loss is not None:
            # No trial need have ended with it, so that the reader is told whose it is.
            whose = min(val, key=val.__getitem__)
            evidence += (
                f"; the validation loss has come to {number(run.val_loss)}, the sweep's to {number(best_val)}. "
                f"Each is a median of three reports, of validation the lowest at any: the sweep's is trial {whose}'s"
            )
        advice = "Use a larger network, train longer, or raise the learning rate."
        found[trial] = Finding(Symptom.UNDERFITTING, f"{evidence}.", advice, Action.TAG)
    return found


def _exceeds(loss: float, best: float, unit: float | None, thresholds: Thresholds) -> bool:
    margin = max(thresholds.underfitting_excess * abs(best), thresholds.flat * (unit or 0.0))
    return math.isfinite(loss) and loss - best > margin


def _narrow(
    name: str, span: Range, trials: Sequence[SweepTrial], maximize: bool, thresholds: Thresholds
) -> Iterator[NarrowSide]:
    having = [(one, value) for one in trials if (value := _numeric(one.params.get(name))) is not None]
    sign = -1.0 if maximize else 1.0
    ranked = sorted(
        (sign * one.value, one.trial, value)
        for one, value in having
        if one.complete and one.value is not None and math.isfinite(one.value)
    )
    wanted = max(thresholds.narrow_trials, math.ceil(thresholds.narrow_best * len(having)))
    best = [value for _, _, value in ranked[:wanted]]
    if len(having) < thresholds.narrow_finished_trials or len(best) < thresholds.narrow_trials:
        return
    places = [span.place(value) for _, value in having]
    for low in (True, False):
        edge = _reach(places, thresholds, low=low)
        # In a sparse sweep hardly any trial is near enough: then the best must also be the last one before the end.
        if edge > thresholds.narrow_edge and span.place(best[0]) != (min(places) if low else max(places)):
            continue
        at_edge = sum(_is_within(span.place(value), edge, low=low) for value in best)
        chance = _at_least(at_edge, len(best), span.chance(edge, low=low))
        bound = span.wider(low=low)
        if at_edge < thresholds.narrow_share * len(best) or chance >= thresholds.narrow_chance or bound is None:
            continue
        end, word = (span.low, "lower") if low else (span.high, "upper")
        evidence = (
            f"{at_edge} of the {len(best)} best of {len(having)} trials have {name} within {percent(edge)} of the "
            f"{word} end, {number(end)}, of its range."
        )
        advice = f"Widen the range of {name}: a {word} end of {number(bound)}."
        yield NarrowSide(name, low, bound, Finding(Symptom.SPACE_TOO_NARROW, evidence, advice, Action.TAG))


def _reach(places: Sequence[float], thresholds: Thresholds, *, low: bool) -> float:
    """Return how much of a range is its edge: `narrow_edge`, or up to `narrow_reach` for enough trials to be there."""
    distances = sorted(place if low else 1 - place for place in places)
    return min(max(thresholds.narrow_edge, distances[thresholds.narrow_trials - 1]), thresholds.narrow_reach)


def _is_within(place: float, edge: float, *, low: bool) -> bool:
    # A distance that is the edge itself must not be lost to rounding.
    return (place if low else 1 - place) <= edge


def _numeric(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return finite(float(value))


def _at_least(hits: int, draws: int, chance: float) -> float:
    """Return the chance of at least `hits` in `draws`: the binomial distribution's tail."""
    if hits <= 0 or chance >= 1:
        return 1.0
    yes, no, ways = math.log(chance), math.log1p(-chance), math.lgamma(draws + 1)
    return sum(
        math.exp(ways - math.lgamma(k + 1) - math.lgamma(draws - k + 1) + k * yes + (draws - k) * no)
        for k in range(hits, draws + 1)
    )
