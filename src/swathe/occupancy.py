"""How full the lanes of a sweep were: put together from what each worker says of its own last second."""

from __future__ import annotations

from bisect import bisect_right

from swathe.worker import LaneUse

# The last tenth of a sweep is its tail: fewer and fewer trials are left than there are lanes.
TAIL_SHARE = 0.1
# How many moments are remembered: when there are more, every second one is forgotten.
MOMENTS = 4096


class Occupancy:
    """Live lanes over lanes, as a mean over time in which both count as often as they were there (lane-seconds)."""

    def __init__(self) -> None:
        self._now: dict[str, tuple[float, float]] = {}
        self._live = self._slots = 0.0
        # How far the sweep was, in reports, and the lane-seconds by then.
        self._reports: list[int] = []
        self._sums: list[tuple[float, float]] = []

    def take(self, use: LaneUse, reports: int) -> None:
        """Add what a worker says; `reports`: of all trials in this session by now."""
        self._now[use.worker] = (use.live, use.slots)
        self._live += use.live * use.seconds
        self._slots += use.slots * use.seconds
        self._reports.append(reports)
        self._sums.append((self._live, self._slots))
        if len(self._sums) > MOMENTS:
            del self._reports[::2], self._sums[::2]

    def forget(self, worker: str) -> None:
        """Count a worker that was lost no more."""
        self._now.pop(worker, None)

    @property
    def now(self) -> tuple[float, float] | None:
        """Live lanes and lanes of all workers together, as last said; None when no worker has lanes."""
        if not self._now:
            return None
        return sum(live for live, _ in self._now.values()), sum(slots for _, slots in self._now.values())

    def metrics(self) -> dict[str, float]:
        """Return what is recorded while the sweep runs: occupancy (0 to 1), lanes_live and lanes."""
        if self.now is None:
            return {}
        live, slots = self.now
        return {"occupancy": live / slots if slots else 0.0, "lanes_live": live, "lanes": slots}

    def means(self, reports: int) -> dict[str, float]:
        """Return the means of the whole session, which ended with so many reports, and of it without its tail.

        The tail begins when all but a tenth of the session's reports are in.
        """
        if not self._slots:
            return {}
        before = bisect_right(self._reports, (1 - TAIL_SHARE) * reports) - 1
        live, slots = self._sums[max(0, before)]
        return {"occupancy_mean": self._live / self._slots, "occupancy_until_tail": live / slots}
