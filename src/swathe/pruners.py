"""Which trial may stop early: Optuna's pruners, decided the same, at a cost that does not grow with the trials.

Optuna's `should_prune` walks all trials at each report. Here each rule keeps what its next decision needs: two heaps
around one order statistic, so that a report costs O(log n). The decisions equal those of Optuna 5.0 for reports whose
steps increase within a trial. No input or output, no clock: the controller's simulator drives it too.
"""

from __future__ import annotations

import binascii
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Literal

from swathe.errors import bad_value
from swathe.events import Direction, TrialState

_AUTO: Literal["auto"] = "auto"
_Resource = int | Literal["auto"]
# No trial gets to a step beyond, and the powers of large numbers that give one would take all memory.
_LAST_STEP = 2**63 - 1


@dataclass(slots=True)
class _Run:
    """A trial that is not over: its last two steps (-1: none yet), its last value and its best one but NaN."""

    trial: int
    previous: int = -1
    step: int = -1
    value: float = math.nan
    best: float = math.nan
    reports: int = 0


class _Rule:
    """When to prune; the base never does.

    A rule sees every report (`observe`), but is asked (`judge`) only about those that a rule around it lets through.
    `replay` takes the place of `judge` for the reports of an earlier session, whose verdict is known.
    """

    def observe(self, run: _Run) -> None:
        """Take in the last report of a trial."""

    def judge(self, run: _Run) -> bool:
        """Say whether the trial must stop at its last report."""
        return False

    def replay(self, run: _Run, *, stopped: bool) -> None:
        """Remember what `judge` remembered of the trial's last report, which then did or did not stop it."""

    def next_check(self, run: _Run) -> int | None:
        """Return the first step after the trial's last one at which `judge` can say yes; None for never."""
        return None

    def completed(self, last_step: int) -> None:
        """Learn that some trial completed, having reported up to `last_step`; may be said twice."""

    def finish(self, run: _Run, *, completed: bool) -> None:
        """Forget a trial that is over; `completed` when it neither failed nor was pruned."""


@dataclass(frozen=True, slots=True)
class Rungs:
    """The steps at which a pruner compares trials: `first`, and each times `factor` the next."""

    first: int
    factor: int

    def below(self, last: int) -> list[int]:
        """Return the steps up to `last`, the highest first."""
        steps = []
        step = self.first
        while step <= last:
            steps.append(step)
            step *= self.factor
        return steps[::-1]


class Pruner:
    """Decides for one study; see `build`. Reports of a trial must come with increasing steps."""

    def __init__(self, rule: _Rule, direction: Direction) -> None:
        self._rule = rule
        self._better = max if direction is Direction.MAXIMIZE else min
        self._runs: dict[int, _Run] = {}
        self._past: list[tuple[int, list[tuple[int, float]], TrialState]] = []

    def decide(self, trial: int, step: int, value: float) -> bool:
        """Take in one report and return whether the trial must stop there."""
        self._settle()
        return self._rule.judge(self._observe(trial, step, value))

    def next_decision(self, trial: int, step: int | None) -> int | None:
        """Return the first step after `step` (None: from the beginning) that can be pruned; None for never.

        No report before it can be: a worker may run on to it without waiting for an answer.
        """
        self._settle()
        run = self._runs.get(trial, _Run(trial))
        first = self._rule.next_check(run)
        return None if first is None else max(first, -1 if step is None else step + 1)

    def finish(self, trial: int, state: TrialState) -> None:
        """Take in that a trial is over; whether it counts for others is the pruner's affair, as in Optuna."""
        self._settle()
        run = self._runs.pop(trial, None) or _Run(trial)
        completed = state is TrialState.COMPLETE
        if completed and run.reports:
            self._rule.completed(run.step)
        self._rule.finish(run, completed=completed)

    def restore(self, trial: int, values: Mapping[int, float], state: TrialState) -> None:
        """Take in a trial of an earlier session of the same sweep, its values by step.

        Decisions then go on as if there had been no break, but for two cases in which the record does not say enough.
        A trial that was pruned by a report that passed several rungs at once counts in the first of them only, and
        "auto" resources are estimated anew from the trials that are complete (Optuna does that too).
        """
        self._past.append((trial, sorted(values.items()), state))

    def _observe(self, trial: int, step: int, value: float) -> _Run:
        run = self._runs.get(trial)
        if run is None:
            run = self._runs[trial] = _Run(trial)
        run.previous, run.step, run.value = run.step, step, value
        run.reports += 1
        if not math.isnan(value):
            run.best = value if math.isnan(run.best) else self._better(run.best, value)
        self._rule.observe(run)
        return run

    def _settle(self) -> None:
        """Replay what was restored, now that all of it is known."""
        past, self._past = self._past, []
        for _, values, state in past:
            if values and state is TrialState.COMPLETE:
                self._rule.completed(values[-1][0])
        for trial, values, state in past:
            for step, value in values:
                stopped = state is TrialState.PRUNED and step == values[-1][0]
                self._rule.replay(self._observe(trial, step, value), stopped=stopped)
            if state.final:
                self.finish(trial, state)


def build(options: Mapping[str, Any], direction: Direction, study_name: str) -> Pruner:
    """Build the pruner that `options` name: none, asha, hyperband, median, percentile, patient or threshold.

    The other options are called as in Optuna and have its defaults, but for `wrapped`, which are the options of the
    pruner inside patient (None: it prunes alone); asha is Optuna's `SuccessiveHalvingPruner`.
    `study_name` decides, with a trial's number, about its bracket in hyperband. Raises `BadInputError`.
    """
    return Pruner(_build_rule("pruner", options, direction, study_name), direction)


def rungs(options: Mapping[str, Any]) -> Rungs | None:
    """Return the steps at which a pruner compares trials, where its options, which are checked, say them at once."""
    least = options.get("min_resource", 1 if options.get("name") == "hyperband" else _AUTO)
    if options.get("name") not in ("asha", "hyperband") or least == _AUTO:
        return None
    default = 3 if options["name"] == "hyperband" else 4
    factor = int(options.get("reduction_factor", default))
    rate = min(int(options.get("min_early_stopping_rate", 0)), _LAST_STEP.bit_length())
    return Rungs(min(int(least) * factor**rate, _LAST_STEP), factor)


def _build_rule(key: str, given: Mapping[str, Any], direction: Direction, study_name: str) -> _Rule:
    options = _Options(key, given)
    match given.get("name"):
        case "none":
            rule = _Rule()
        case "asha":
            rule = _build_asha(options, direction)
        case "hyperband":
            rule = _build_hyperband(options, direction, study_name)
        case "median":
            rule = _build_percentile(options, direction, 50.0)
        case "percentile":
            rule = _build_percentile(options, direction, options.number("percentile", low=0.0, high=100.0))
        case "patient":
            inner = options.take("wrapped", None)
            if inner is not None and not isinstance(inner, Mapping):
                raise bad_value(f"{key}.wrapped", inner, "the options of another pruner, or null")
            wrapped = None if inner is None else _build_rule(f"{key}.wrapped", inner, direction, study_name)
            patience = options.integer("patience", least=0)
            rule = _Patient(wrapped, direction, patience, options.number("min_delta", 0.0, low=0.0))
        case "threshold":
            rule = _build_threshold(options)
        case name:
            raise bad_value(f"{key}.name", name, "none, asha, hyperband, median, percentile, patient, threshold")
    options.refuse_others()
    return rule


class _Options:
    """The options of one pruner, taken one by one and checked; what nobody takes is refused."""

    def __init__(self, key: str, given: Mapping[str, Any]) -> None:
        self._key = key
        self._given = given
        self._known = ["name"]

    def take(self, name: str, default: Any) -> Any:
        self._known.append(name)
        return self._given.get(name, default)

    def integer(self, name: str, default: int | None = None, *, least: int) -> int:
        value = self.take(name, default)
        if not _is_integer(value) or value < least:
            raise self.bad(name, value, f"an integer of at least {least}")
        return int(value)

    def resource(self, name: str) -> _Resource:
        value = self.take(name, _AUTO)
        if value != _AUTO and (not _is_integer(value) or value < 1):
            raise self.bad(name, value, "an integer of at least 1, or auto")
        return _AUTO if value == _AUTO else int(value)

    def number(self, name: str, default: float | None = None, *, low: float, high: float = math.inf) -> float:
        value = self.take(name, default)
        if not _is_number(value) or not low <= value <= high:
            allowed = f"a number of at least {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
            raise self.bad(name, value, allowed)
        return float(value)

    def bound(self, name: str) -> float | None:
        value = self.take(name, None)
        if value is not None and not _is_number(value):
            raise self.bad(name, value, "a number, or null for none")
        return None if value is None else float(value)

    def bad(self, name: str, value: object, allowed: str) -> Exception:
        return bad_value(f"{self._key}.{name}", value, allowed)

    def refuse_others(self) -> None:
        for name, value in self._given.items():
            if name not in self._known:
                known = ", ".join(self._known[1:])
                allowed = f"for {self._given['name']}: {known}" if known else f"no option for {self._given['name']}"
                raise self.bad(str(name), value, allowed)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


class _Split:
    """Numbers in two heaps: the `k` smallest, and the rest; k may follow the count at O(log n) a number."""

    __slots__ = ("_low", "_rest")

    def __init__(self) -> None:
        self._low: list[float] = []  # Negated: a heap gives its smallest.
        self._rest: list[float] = []

    def __len__(self) -> int:
        return len(self._low) + len(self._rest)

    def add(self, value: float, k: int) -> None:
        """Put in one number, which must not be NaN, and set k, which is at most the new count."""
        if self._low and value < -self._low[0]:
            heappush(self._low, -value)
        else:
            heappush(self._rest, value)
        while len(self._low) < k:
            heappush(self._low, -heappop(self._rest))
        while len(self._low) > k:
            heappush(self._rest, -heappop(self._low))

    @property
    def last(self) -> float:
        """The k-th smallest number."""
        return -self._low[0]

    @property
    def next(self) -> float:
        """The smallest number after it, or itself where there is none."""
        return self._rest[0] if self._rest else self.last


class _Asha(_Rule):
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934, algorithm 2).

    A trial passes rung r at the first step of at least min_resource * reduction_factor^(rate + r), and goes on only if
    its value there is among the best 1 / reduction_factor of all that have reached the rung.
    """

    def __init__(self, direction: Direction, resource: _Resource, factor: int, rate: int, bootstrap: int) -> None:
        self._sign = -1.0 if direction is Direction.MAXIMIZE else 1.0
        self._resource = None if resource == _AUTO else resource
        self._factor = factor
        self._rate = rate
        self._bootstrap = bootstrap
        self._longest: int | None = None
        self._rungs: list[_Split] = []
        self._passed: dict[int, int] = {}

    def judge(self, run: _Run) -> bool:
        return self._climb(run, None)

    def replay(self, run: _Run, *, stopped: bool) -> None:
        self._climb(run, stopped)

    def _climb(self, run: _Run, stopped: bool | None) -> bool:
        """Take a trial through the rungs that its last step has reached, until it is stopped in one.

        `stopped`: what was decided then; None to decide now.
        """
        if self._resource is None:
            if self._longest is None:
                return False
            # As Optuna has it: a hundredth of the longest trial that completed before the first decision.
            self._resource = max(self._longest // 100, 1)
        while run.step >= self._promotion_step(run.trial):
            if math.isnan(run.value):
                return True
            if self._enter(run.trial, self._sign * run.value) if stopped is None else self._reenter(run, stopped):
                return True
        return False

    def _enter(self, trial: int, value: float) -> bool:
        rung = self._register(trial, value)
        return len(rung) <= self._bootstrap or value > rung.last

    def _reenter(self, run: _Run, stopped: bool) -> bool:
        self._register(run.trial, self._sign * run.value)
        return stopped

    def _register(self, trial: int, value: float) -> _Split:
        index = self._passed.get(trial, 0)
        self._passed[trial] = index + 1
        if index == len(self._rungs):
            self._rungs.append(_Split())
        rung = self._rungs[index]
        # Among fewer than `factor` trials the best one goes on.
        rung.add(value, max((len(rung) + 1) // self._factor, 1))
        return rung

    def _promotion_step(self, trial: int) -> int:
        step: int = (self._resource or 1) * self._factor ** (self._rate + self._passed.get(trial, 0))
        return step

    def next_check(self, run: _Run) -> int | None:
        return max(run.step + 1, self._promotion_step(run.trial))

    def completed(self, last_step: int) -> None:
        self._longest = last_step if self._longest is None else max(self._longest, last_step)

    def finish(self, run: _Run, *, completed: bool) -> None:
        self._passed.pop(run.trial, None)


def _build_asha(options: _Options, direction: Direction) -> _Rule:
    resource = options.resource("min_resource")
    factor = options.integer("reduction_factor", 4, least=2)
    rate = min(options.integer("min_early_stopping_rate", 0, least=0), _LAST_STEP.bit_length())
    bootstrap = options.integer("bootstrap_count", 0, least=0)
    if bootstrap and resource == _AUTO:
        raise options.bad("bootstrap_count", bootstrap, "0 where min_resource is auto")
    return _Asha(direction, resource, factor, rate, bootstrap)


class _Hyperband(_Rule):
    """Hyperband (Li et al. 2018, JMLR 18): several brackets of successive halving, each with a later first rung.

    Which bracket a trial is in, and how many trials each takes, is computed as Optuna does it. With "auto" nothing is
    pruned until a trial has completed: the longest complete one then says how long trials are.
    """

    def __init__(
        self, direction: Direction, study_name: str, resources: tuple[int, _Resource], factor: int, bootstrap: int
    ) -> None:
        self._direction = direction
        self._study_name = study_name
        self._least, longest = resources
        self._factor = factor
        self._bootstrap = bootstrap
        self._longest: int | None = None
        self._brackets: list[_Asha] | None = None
        self._shares: list[int] = []
        if longest != _AUTO:
            self._open_brackets(longest)

    def _open_brackets(self, longest: int) -> None:
        count = math.floor(math.log(longest / self._least, self._factor)) + 1
        self._brackets = [
            _Asha(self._direction, self._least, self._factor, rate, self._bootstrap) for rate in range(count)
        ]
        self._shares = [math.ceil(count * self._factor**rate / (rate + 1)) for rate in reversed(range(count))]

    def _bracket(self, trial: int) -> _Asha | None:
        if self._brackets is None and self._longest is not None:
            self._open_brackets(self._longest + 1)
        if not self._brackets:
            return None
        place = binascii.crc32(f"{self._study_name}_{trial}".encode()) % sum(self._shares)
        for bracket, share in zip(self._brackets, self._shares, strict=True):
            place -= share
            if place < 0:
                return bracket
        raise AssertionError("a place is below the sum of all shares")

    def judge(self, run: _Run) -> bool:
        bracket = self._bracket(run.trial)
        return bracket is not None and bracket.judge(run)

    def replay(self, run: _Run, *, stopped: bool) -> None:
        bracket = self._bracket(run.trial)
        if bracket is not None:
            bracket.replay(run, stopped=stopped)

    def next_check(self, run: _Run) -> int | None:
        # Looking must not open the brackets: only a decision does.
        if self._brackets is None:
            return max(run.step + 1, self._least)
        bracket = self._bracket(run.trial)
        return None if bracket is None else bracket.next_check(run)

    def completed(self, last_step: int) -> None:
        self._longest = last_step if self._longest is None else max(self._longest, last_step)

    def finish(self, run: _Run, *, completed: bool) -> None:
        for bracket in self._brackets or ():
            bracket.finish(run, completed=completed)


def _build_hyperband(options: _Options, direction: Direction, study_name: str) -> _Rule:
    least = options.integer("min_resource", 1, least=1)
    longest = options.resource("max_resource")
    factor = options.integer("reduction_factor", 3, least=2)
    bootstrap = options.integer("bootstrap_count", 0, least=0)
    if longest != _AUTO and longest < least:
        raise options.bad("max_resource", longest, f"an integer of at least min_resource, which is {least}, or auto")
    if bootstrap and longest == _AUTO:
        raise options.bad("bootstrap_count", bootstrap, "0 where max_resource is auto")
    return _Hyperband(direction, study_name, (least, longest), factor, bootstrap)


@dataclass(frozen=True, slots=True)
class _Interval:
    """Checks happen at the first report at or after `warmup`, `warmup` + `interval`, `warmup` + 2 `interval` ..."""

    warmup: int
    interval: int

    def holds(self, run: _Run) -> bool:
        """Whether the trial's last report is the first since a check was due."""
        if run.step < self.warmup:
            return False
        return run.previous < (run.step - self.warmup) // self.interval * self.interval + self.warmup

    def after(self, step: int) -> int:
        """Return when the next check is due."""
        if step < self.warmup:
            return self.warmup
        return ((step - self.warmup) // self.interval + 1) * self.interval + self.warmup


def _build_interval(options: _Options) -> _Interval:
    warmup = options.integer("n_warmup_steps", 0, least=0)
    return _Interval(warmup, options.integer("interval_steps", 1, least=1))


@dataclass(slots=True)
class _Column:
    """What complete trials reported at one step: all reports counted, the numbers among them split."""

    count: int
    values: _Split


class _Percentile(_Rule):
    """Prune when a trial's best value is worse than the percentile of the complete trials' values at its step.

    The percentile is NumPy's: linear between neighbours (Hyndman & Fan 1996, type 7), NaN left out.
    """

    def __init__(self, direction: Direction, percentile: float, startup: int, interval: _Interval, least: int) -> None:
        self._maximize = direction is Direction.MAXIMIZE
        self._quantile = (100.0 - percentile if self._maximize else percentile) / 100.0
        self._startup = max(startup, 1)
        self._interval = interval
        self._least = least
        self._complete = 0
        self._columns: dict[int, _Column] = {}
        self._reports: dict[int, list[tuple[int, float]]] = {}

    def observe(self, run: _Run) -> None:
        if run.step >= self._interval.warmup:
            self._reports.setdefault(run.trial, []).append((run.step, run.value))

    def judge(self, run: _Run) -> bool:
        if self._complete < self._startup or not self._interval.holds(run):
            return False
        if math.isnan(run.best):
            return True
        percentile = self._percentile(run.step)
        # Where there is none it is NaN, than which nothing is worse.
        return run.best < percentile if self._maximize else run.best > percentile

    def _percentile(self, step: int) -> float:
        column = self._columns.get(step)
        if column is None or column.count < self._least or not len(column.values):
            return math.nan
        low, high = column.values.last, column.values.next
        position = (len(column.values) - 1) * self._quantile
        weight = position - math.floor(position)
        difference = high - low
        # Both forms, as NumPy computes it: the bits must be the same.
        return low + difference * weight if weight < 0.5 else high - difference * (1.0 - weight)

    def next_check(self, run: _Run) -> int | None:
        return self._interval.after(run.step)

    def finish(self, run: _Run, *, completed: bool) -> None:
        reports = self._reports.pop(run.trial, [])
        if not completed:
            return
        self._complete += 1
        for step, value in reports:
            column = self._columns.setdefault(step, _Column(0, _Split()))
            column.count += 1
            if not math.isnan(value):
                column.values.add(value, math.floor(len(column.values) * self._quantile) + 1)


def _build_percentile(options: _Options, direction: Direction, percentile: float) -> _Rule:
    startup = options.integer("n_startup_trials", 5, least=0)
    interval = _build_interval(options)
    return _Percentile(direction, percentile, startup, interval, options.integer("n_min_trials", 1, least=1))


@dataclass(slots=True)
class _Window:
    """The last values of one trial, and the best one before them; NaN where there is none."""

    recent: deque[float]
    before: float = math.nan


class _Patient(_Rule):
    """Let another rule judge only when a trial has not improved by `min_delta` in its last `patience` + 1 reports.

    Without another rule that alone prunes. A report costs O(patience).
    """

    def __init__(self, wrapped: _Rule | None, direction: Direction, patience: int, min_delta: float) -> None:
        self._wrapped = wrapped
        self._sign = -1.0 if direction is Direction.MAXIMIZE else 1.0
        self._patience = patience
        self._min_delta = min_delta
        self._windows: dict[int, _Window] = {}

    def observe(self, run: _Run) -> None:
        window = self._windows.setdefault(run.trial, _Window(deque()))
        window.recent.append(self._sign * run.value)
        if len(window.recent) > self._patience + 1:
            window.before = _least((window.before, window.recent.popleft()))
        if self._wrapped is not None:
            self._wrapped.observe(run)

    def _is_stuck(self, run: _Run) -> bool:
        window = self._windows[run.trial]
        return window.before + self._min_delta < _least(window.recent)

    def judge(self, run: _Run) -> bool:
        return self._is_stuck(run) and (self._wrapped is None or self._wrapped.judge(run))

    def replay(self, run: _Run, *, stopped: bool) -> None:
        if self._wrapped is not None and self._is_stuck(run):
            self._wrapped.replay(run, stopped=stopped)

    def next_check(self, run: _Run) -> int | None:
        # A report a step at best, and none can be judged before the window is full and one is before it.
        first = run.step + max(1, self._patience + 2 - run.reports)
        if self._wrapped is None:
            return first
        inner = self._wrapped.next_check(run)
        return None if inner is None else max(first, inner)

    def completed(self, last_step: int) -> None:
        if self._wrapped is not None:
            self._wrapped.completed(last_step)

    def finish(self, run: _Run, *, completed: bool) -> None:
        self._windows.pop(run.trial, None)
        if self._wrapped is not None:
            self._wrapped.finish(run, completed=completed)


def _least(values: Iterable[float]) -> float:
    """Return the smallest of the values that are not NaN; NaN when there is none."""
    return min((value for value in values if not math.isnan(value)), default=math.nan)


class _Threshold(_Rule):
    """Prune a trial whose value is NaN, below `lower` or above `upper`."""

    def __init__(self, lower: float, upper: float, interval: _Interval) -> None:
        self._lower = lower
        self._upper = upper
        self._interval = interval

    def judge(self, run: _Run) -> bool:
        return self._interval.holds(run) and not self._lower <= run.value <= self._upper

    def next_check(self, run: _Run) -> int | None:
        return self._interval.after(run.step)


def _build_threshold(options: _Options) -> _Rule:
    lower, upper = options.bound("lower"), options.bound("upper")
    if lower is None and upper is None:
        raise options.bad("upper", upper, "a number, where lower is null too")
    if lower is not None and upper is not None and lower > upper:
        raise options.bad("lower", lower, f"a number of at most upper, which is {upper:g}")
    low = -math.inf if lower is None else lower
    return _Threshold(low, math.inf if upper is None else upper, _build_interval(options))
