"""What a claim is, and what is found of it in a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scripts.results.charts import Chart, Series
from scripts.results.statistics import Verdict, interval, together
from scripts.results.trials import Trial, mean_curve


@dataclass(frozen=True, slots=True)
class Part:
    """One statement of a claim, what its rule says of it, and the numbers by which it does."""

    statement: str
    verdict: Verdict
    numbers: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a record says: the claim's parts, a table, and charts by what their files' names end with."""

    parts: Sequence[Part]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    charts: Mapping[str, Chart]
    remarks: Sequence[str] = field(default_factory=tuple)

    @property
    def verdict(self) -> Verdict:
        return together([part.verdict for part in self.parts])


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, the sweep that tests it (its `name`), and the rule of its verdict; `read` applies the rule.

    `text` is the claim, `rule` says in words what `read` computes. Both were written before the sweep was run. The
    sweeps `before` it leave networks that its own begins with. With `seeds` the sweep is launched so many times, with
    `sweep.seed` 0, 1 ..., which is then among the parameters of each trial.
    """

    name: str
    title: str
    text: str
    rule: str
    read: Callable[[Sequence[Trial]], Finding]
    before: Sequence[str] = ()
    seeds: int = 0

    @property
    def launches(self) -> list[tuple[str, list[str]]]:
        """The sweeps to launch, in order: the name of each, and its overrides."""
        if self.seeds:
            return [
                (f"{self.name}-{seed}", [f"sweep.seed={seed}", f"sweep.name={self.name}-{seed}"])
                for seed in range(self.seeds)
            ]
        return [(name, []) for name in (*self.before, self.name)]


def curve(label: str, trials: Sequence[Trial], metric: str) -> Series:
    """Return the mean of a metric over trials by epoch, with its interval, as `mean_curve` has it."""
    return Series(label, {float(epoch): interval(values) for epoch, values in mean_curve(trials, metric).items()})


def at_the_edge(best: Mapping[str, float], rates: Sequence[float]) -> list[str]:
    """Return a remark on those whose best rate is the lowest or the highest of all, as a better one may lie beyond."""
    found = [f"{name} ({rate:g})" for name, rate in best.items() if rate in (min(rates), max(rates))]
    if not found:
        return []
    return [f"At an end of the range of rates, beyond which a better one may lie: {', '.join(found)}."]
