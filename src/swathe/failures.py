"""When one error ends trial after trial: a bug in the code, which is not to burn the whole budget."""

from __future__ import annotations

import math
from collections import OrderedDict

# The name in a trial's record of what `Failures` tells errors apart by.
CAUSE = "cause"
# So many causes are counted, the latest ones: an error whose place is another each time is never the same one.
MAX_CAUSES = 100


class Failures:
    """Counts the trials that failed with one error since a trial that was drawn later got further than they did.

    A trial got further than one that failed after its step s (before its first report: at -1) if it has reported a
    later step, or completed: then the code works there, and it was the point that failed. So a part of the space in
    which trials fail stops nothing, and a bug at the end of the training is seen although trials report until then.
    What it counts does not depend on the order in which it hears of trials: a sweep that goes on finds in its study's
    records what it had counted before.
    """

    def __init__(self) -> None:
        # By cause: the step at which each trial failed, by its number.
        self._failed: OrderedDict[str, dict[int, float]] = OrderedDict()
        # The highest number of a trial that has reported a step; infinity: that has completed.
        self._reached: dict[float, int] = {}

    def reached(self, number: int, step: float) -> None:
        """Take note that a trial has reported a step; infinity: that it has completed. O(1) while nothing fails."""
        if self._reached.get(step, -1) >= number:
            return
        self._reached[step] = number
        for cause, failed in list(self._failed.items()):
            for earlier in [other for other, at in failed.items() if other < number and at < step]:
                del failed[earlier]
            if not failed:
                del self._failed[cause]

    def completed(self, number: int) -> None:
        """Take note that a trial has completed."""
        self.reached(number, math.inf)

    def failed(self, number: int, step: int | None, cause: str) -> int:
        """Take note that a trial failed after its last step; return how many have, with none that got further since."""
        at = -1 if step is None else step
        if not any(later > number and further > at for further, later in self._reached.items()):
            self._failed.setdefault(cause, {})[number] = at
            self._failed.move_to_end(cause)
            if len(self._failed) > MAX_CAUSES:
                self._failed.popitem(last=False)
        return len(self._failed.get(cause, ()))
