"""Who starts next: pure functions of what waits, what runs, what is free and who had how much.

The order: the highest priority first; among equals the user who holds the fewest devices now, then the one who had the
least lately, then the oldest. Nothing is filled in past the first in line (no back-filling): how long a sweep will run
is not known, so that any job let past could keep the first one waiting for ever. Once the first does not fit, it keeps
its place before all others of its priority until it starts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

# What a user had counts half after so long a time (seconds).
HALF_LIFE = 86400.0
# Fractions of devices are sums of floats.
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Devices:
    """An amount of devices; GPUs may be fractions."""

    cpus: float = 0.0
    gpus: float = 0.0

    def __add__(self, other: Devices) -> Devices:
        return Devices(self.cpus + other.cpus, self.gpus + other.gpus)

    def __sub__(self, other: Devices) -> Devices:
        return Devices(self.cpus - other.cpus, self.gpus - other.gpus)

    def times(self, count: int) -> Devices:
        """Return so many of this amount."""
        return Devices(self.cpus * count, self.gpus * count)

    @property
    def count(self) -> float:
        """How many devices people would say it is: GPUs where there are any, CPUs else."""
        return self.gpus or self.cpus


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job asks for: so many workers of `each`; `workers` None: as many as its share allows."""

    workers: int | None
    each: Devices

    def fitting(self, free: Devices) -> int:
        """Return how many workers fit into what is free."""
        pairs = ((free.cpus, self.each.cpus), (free.gpus, self.each.gpus))
        return max(0, min(math.floor(have / need + _TINY) for have, need in pairs if need > 0))


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that waits. `created`: seconds of unix time."""

    id: str
    owner: str
    priority: int
    created: float
    needs: Needs


@dataclass(frozen=True, slots=True)
class Start:
    """A job that starts now, with so many workers."""

    id: str
    workers: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What starts now, and the job that waits for more devices and keeps its place, if there is one."""

    starts: tuple[Start, ...]
    reserved: str | None


def next_starts(
    waiting: Collection[Waiting],
    held: Mapping[str, float],
    free: Devices,
    shares: Mapping[str, float],
    reserved: str | None = None,
) -> Decision:
    """Decide who starts now.

    `held`: how many devices each user's running jobs have; `shares`: what each had lately (device-seconds, see `had`);
    `reserved`: the job that the decision before named. A job that does not say how many workers it wants gets its
    user's share of what is free: the same for every user who waits, and all of it where nobody else does.
    """
    line = _Line(waiting, held, shares, reserved)
    given: set[str] = set()
    starts: list[Start] = []
    while (first := line.first()) is not None:
        fitting = first.needs.fitting(free)
        sharing = line.owners - given or line.owners
        workers = first.needs.workers or max(1, math.ceil(fitting / len(sharing)))
        if workers > fitting:
            return Decision(tuple(starts), first.id)
        taken = first.needs.each.times(workers)
        free -= taken
        given.add(first.owner)
        line.take(first, taken.count)
        starts.append(Start(first.id, workers))
    return Decision(tuple(starts), None)


def in_line(
    waiting: Collection[Waiting], held: Mapping[str, float], shares: Mapping[str, float], reserved: str | None = None
) -> list[str]:
    """Return the jobs that wait in the order in which they would start if nothing else came."""
    line = _Line(waiting, held, shares, reserved)
    order = []
    while (first := line.first()) is not None:
        line.take(first, first.needs.each.times(first.needs.workers or 1).count)
        order.append(first.id)
    return order


def had(intervals: Sequence[tuple[float, float, float]], now: float) -> float:
    """Return the device-seconds of (devices, from, until), of which what is a `HALF_LIFE` ago counts half."""
    scale = HALF_LIFE / math.log(2)
    return sum(
        devices * scale * (2 ** -((now - until) / HALF_LIFE) - 2 ** -((now - start) / HALF_LIFE))
        for devices, start, until in intervals
    )


class _Line:
    """The jobs that wait, of each user in that user's order: who is first is asked of the users alone."""

    def __init__(
        self,
        waiting: Collection[Waiting],
        held: Mapping[str, float],
        shares: Mapping[str, float],
        reserved: str | None,
    ) -> None:
        self._held = Counter(dict(held))
        self._shares = shares
        self._reserved = reserved
        self._of: dict[str, list[Waiting]] = {}
        # The last of each list is its user's first, since a list gives up its last at once.
        for job in sorted(waiting, key=self._own_order, reverse=True):
            self._of.setdefault(job.owner, []).append(job)

    @property
    def owners(self) -> set[str]:
        """The users who wait."""
        return set(self._of)

    def first(self) -> Waiting | None:
        """Return the first in line."""
        return min(self._heads(), key=self._order, default=None)

    def take(self, job: Waiting, devices: float) -> None:
        """Take the first in line out; its user then holds so many devices more."""
        self._held[job.owner] += devices  # type: ignore[assignment]
        self._of[job.owner].pop()
        if not self._of[job.owner]:
            del self._of[job.owner]

    def _heads(self) -> Iterator[Waiting]:
        return (jobs[-1] for jobs in self._of.values())

    def _own_order(self, job: Waiting) -> tuple[int, bool, float, str]:
        return -job.priority, job.id != self._reserved, job.created, job.id

    def _order(self, job: Waiting) -> tuple[int, bool, float, float, float, str]:
        held, share = self._held[job.owner], self._shares.get(job.owner, 0.0)
        return -job.priority, job.id != self._reserved, held, share, job.created, job.id
