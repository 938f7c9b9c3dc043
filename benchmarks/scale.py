"""What the controller costs with many workers and many trials, and where it would be the limit: virtual workers.

    python benchmarks/scale.py
    python benchmarks/scale.py --trials 1000 --workers 10    # a quick look, which writes no results

The controller is the real one, with ASHA; workers and clock are the simulation's (tests/simulation), so that a thousand
machines fit on this one. Timed is `Controller.handle` alone, and counted what it allocates. What the study and the
record cost is in other benchmarks: both are written together for all trials some twenty times a second.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import machine  # noqa: E402 - the script runs from anywhere
from tests.simulation.clock import Clock  # noqa: E402
from tests.simulation.pool import Disk, Worker  # noqa: E402
from tests.simulation.shape import METRIC, Course  # noqa: E402

from swathe import pruners  # noqa: E402
from swathe.controller import Budget, Controller  # noqa: E402
from swathe.events import (  # noqa: E402
    Ask,
    Assign,
    Assignment,
    Decide,
    Decision,
    Direction,
    Done,
    Event,
    Proposal,
    Proposed,
    WorkerReady,
    WorkersStart,
)

SIZES = ((10, 1_000), (10, 10_000), (10, 100_000), (100, 100_000), (1_000, 100_000))
ASHA = {"name": "asha", "min_resource": 1, "reduction_factor": 4}
# Epochs of a trial that is not pruned, lanes of a worker, and the structures that trials have.
EPOCHS, LANES, KEYS = 16, 16, "abcd"
# From the driver to a worker (virtual seconds).
LATENCY = 0.005


class Sweep:
    """A sweep without a study: points are drawn at random, and nothing is written."""

    def __init__(self, workers: int, trials: int) -> None:
        draw = random.Random(0)
        self.clock = Clock(draw)
        self.events = self.reports = 0
        self.seconds = 0.0
        self.longest = 0.0
        self.done = False
        self._drawn = 0
        self._workers: dict[str, Worker] = {}
        self.controller = Controller(
            metric=METRIC,
            direction=Direction.MINIMIZE,
            pruner=pruners.build(ASHA, Direction.MINIMIZE, "s"),
            budget=Budget(trials),
            key=lambda params: str(params["key"]),
        )
        for index in range(workers):
            name = f"w{index}"
            self._workers[name] = Worker(
                name,
                self.clock,
                self._said,
                self._course,
                dict.fromkeys(KEYS, LANES),
                draw.uniform(0.8, 1.2),
                Disk(self.clock, 0.0, 0.0),
            )
            self.clock.after(draw.random(), lambda name=name: self._feed(WorkerReady(name)))  # type: ignore[misc]
        self._feed(WorkersStart(workers))

    def run(self) -> None:
        while not self.done and self.clock.step():
            pass

    def _said(self, name: str, events: tuple[Event, ...]) -> None:
        for event in events:
            self.reports += len(getattr(event, "reports", ()))
            self._feed(event)

    def _course(self, job: Assignment) -> Course:
        draw = random.Random(job.trial)
        level = draw.random()
        values = tuple(level + draw.random() / step for step in range(1, EPOCHS + 1))
        return Course(str(job.params["key"]), EPOCHS, 1.0, values, "complete")

    def _feed(self, event: Event) -> None:
        waiting = self._handle(event)
        while waiting:
            match waiting.pop(0):
                case Ask(count):
                    points = range(self._drawn, self._drawn + count)
                    self._drawn += count
                    proposals = tuple(Proposal(number, {"key": KEYS[number // 16 % len(KEYS)]}) for number in points)
                    waiting += self._handle(Proposed(proposals))
                case Assign(worker, assignments):
                    self._send(worker, assignments)
                case Decide(worker, decisions):
                    self._send(worker, decisions)
                case Done():
                    self.done = True

    def _send(self, worker: str, messages: Sequence[Assignment | Decision]) -> None:
        self.clock.after(LATENCY, lambda: self._workers[worker].take(messages))

    def _handle(self, event: Event) -> list[Any]:
        began = time.perf_counter()
        commands = self.controller.handle(event)
        took = time.perf_counter() - began
        self.events += 1
        self.seconds += took
        self.longest = max(self.longest, took)
        return commands


def measure(workers: int, trials: int) -> dict[str, Any]:
    """Run one sweep in this process; times in microseconds, memory in MiB: the whole process's growth."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sweep = Sweep(workers, trials)
    sweep.run()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = {state.value: count for state, count in sweep.controller.counts.items()}
    return {
        "workers": workers,
        "lanes": workers * LANES,
        "trials": trials,
        "counts": counts,
        "events": sweep.events,
        "reports": sweep.reports,
        "us_per_event": round(1e6 * sweep.seconds / sweep.events, 2),
        "us_per_trial": round(1e6 * sweep.seconds / trials, 1),
        "longest_ms": round(1e3 * sweep.longest, 2),
        "reports_per_second": round(sweep.reports / sweep.seconds),
        "growth_mib": round((after - before) / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, help="of one sweep alone")
    parser.add_argument("--trials", type=int, help="of one sweep alone")
    options = parser.parse_args()
    if options.workers or options.trials:
        print(json.dumps(measure(options.workers or 10, options.trials or 1000)))
        return
    rows = []
    for workers, trials in SIZES:
        # Each in a process of its own, whose memory is its own.
        command = [sys.executable, __file__, "--workers", str(workers), "--trials", str(trials)]
        rows.append(row := json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print(
            f"{workers:,} workers, {trials:,} trials: {row['us_per_event']:.1f} us an event, {row['us_per_trial']:.0f} "
            f"us a trial, the longest {row['longest_ms']:.1f} ms; {row['reports_per_second']:,} reports a second at "
            f"most; memory grows by {row['growth_mib']:.1f} MiB",
            flush=True,
        )
    content = {"what": __doc__.splitlines()[0], "rows": rows, "machine": machine.describe("optuna")}
    print(f"Written to {machine.write('scale', content).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
