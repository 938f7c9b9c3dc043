"""A virtual clock: what is to happen waits in a heap, and time jumps from one of them to the next."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush


class Clock:
    """Runs callbacks in the order of their virtual times (seconds); those of one moment as they were made.

    `draw` is the one source of chance for everything that happens.
    """

    def __init__(self, draw: random.Random) -> None:
        self.now = 0.0
        self.draw = draw
        self._made = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something so many seconds from now."""
        self.at(self.now + seconds, what)

    def at(self, time: float, what: Callable[[], None]) -> None:
        """Do something at a time."""
        self._made += 1
        heappush(self._heap, (time, self._made, what))

    def step(self) -> bool:
        """Go to the next thing and do it; False when there is none."""
        if not self._heap:
            return False
        self.now, _, what = heappop(self._heap)
        what()
        return True

    def forget(self) -> None:
        """Drop all that was to happen: the machine is gone."""
        self._heap.clear()
