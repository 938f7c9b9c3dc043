"""Plays many simulated sweeps and says which seeds break a promise.

python -m tests.simulation                   # 1,000 seeds
python -m tests.simulation 10000 --first 5000
python -m tests.simulation --seed 17         # one of them again, event by event
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.runner import play
from tests.simulation.shape import Shape
from tests.simulation.world import World

PART = 50


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them")
    parser.add_argument("--seed", type=int, help="play this seed alone, and print every event")
    options = parser.parse_args()
    if options.seed is not None:
        shape = Shape.drawn(options.seed)
        print(shape)
        World(shape, trace=True).play()
        return 0
    began = time.perf_counter()
    sweeps = events = 0
    broken: list[str] = []
    parts = range(options.first, options.first + options.count, PART)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as processes:
        last = options.first + options.count
        for outcome in processes.map(play, ((first, min(first + PART, last)) for first in parts)):
            sweeps, events = sweeps + outcome.sweeps, events + outcome.events
            broken += outcome.violations
            for violation in outcome.violations:
                print(violation, flush=True)
    seconds = time.perf_counter() - began
    print(
        f"{sweeps} sweeps of up to 50 trials, {events} events, in {seconds:.1f} s ({60 * sweeps / seconds:.0f} a "
        f"minute): {len(broken)} violations"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
