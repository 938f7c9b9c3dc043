"""What happens to a sweep, all of it from one seed: which faults, after how many reports, and to whom."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

from tests.chaos.sweep import Sort

Kind = Literal["driver", "worker", "node", "head", "recorder", "mlflow", "postgres", "backend", "connection", "disk"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# After two sweeps, each kind of fault was played once.
FAULTS_A_SWEEP = len(KINDS) // 2


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: after `moment` of the sweep's reports (0 to 1), for `lasting` of them where it lasts.

    `victim` chooses among what is there; `worse` takes the worse of two forms, see `killer`.
    """

    kind: Kind
    moment: float
    lasting: float
    victim: int
    worse: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep and its faults, in order."""

    seed: int
    sort: Sort
    faults: tuple[Fault, ...]

    @classmethod
    def drawn(cls, seed: int) -> Plan:
        draw = random.Random(seed)
        sort: Sort = "lanes" if seed % 2 == 0 else "function"
        # One at the very end of some sweeps, while the record is finished.
        moments = sorted(min(1.0, draw.uniform(0.0, 1.05)) for _ in range(FAULTS_A_SWEEP))
        faults = [
            Fault(kind, moment, draw.uniform(0.05, 0.3), draw.randrange(1000), draw.random() < 0.5)
            for kind, moment in zip(_kinds(seed), moments, strict=True)
        ]
        return cls(seed, sort, tuple(faults))


def _kinds(seed: int) -> list[Kind]:
    """Return a sweep's share of the kinds: they are dealt out in a new order each time that all were played."""
    dealt: list[Kind] = []
    for number in range(seed * FAULTS_A_SWEEP, (seed + 1) * FAULTS_A_SWEEP):
        turn, place = divmod(number, len(KINDS))
        dealt.append(random.Random(f"kinds {turn}").sample(KINDS, len(KINDS))[place])
    return dealt
