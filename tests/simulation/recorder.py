"""A simulated record: the real spool, whose records reach a simulated MLflow in batches, and sometimes twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swathe.events import TrialState
from swathe.spool import SpoolReader, SpoolWriter
from swathe.study import PastTrial
from swathe.tracking import is_known
from tests.simulation.clock import Clock

# Batches are so far apart (virtual seconds), as those of `swathe.recorder`.
BATCH = 0.5


@dataclass(slots=True)
class Run:
    """A trial's run in MLflow: the objective by step, and its end; `state` None: it is not over."""

    values: dict[int, float] = field(default_factory=dict)
    state: TrialState | None = None


class Recorder:
    """What `tracking.Recorder` and `recorder.Carrier` do in one session; `runs` are MLflow's, which outlive it."""

    def __init__(self, clock: Clock, folder: Path, runs: dict[int, Run], history: Sequence[PastTrial]) -> None:
        self._clock = clock
        self._runs = runs
        self._spool = SpoolWriter(folder, {})
        self._reader = SpoolReader(folder, self._spool.session)
        self.away_until = 0.0
        self._carrying = False
        known = {past.number: past for past in history}
        for record in self._spool.unsure:
            if is_known(record, known):
                self._spool.add(record)

    def trial(self, number: int) -> None:
        self._spool.add(("trial", number))

    def metrics(self, number: int, step: int, value: float) -> None:
        self._spool.add(("metrics", number, step, value))

    def end(self, number: int, state: TrialState | None) -> None:
        self._spool.add(("end", number, None if state is None else state.value))

    def stage(self) -> None:
        self._spool.stage()

    def flush(self) -> None:
        if self._spool.flush() and not self._carrying:
            self._carrying = True
            self._clock.after(BATCH, self._carry)

    def close(self) -> Mapping[int, Run]:
        """Carry everything over, now that MLflow stays; return its runs."""
        self._spool.close()
        self.away_until = 0.0
        self._carry()
        self._reader.remove()
        return self._runs

    def _carry(self) -> None:
        self._carrying = False
        if self._clock.now < self.away_until:
            self._carrying = True
            self._clock.after(BATCH, self._carry)
            return
        while (batch := self._reader.read()) is not None:
            # MLflow may take a batch without saying so, and then gets it again.
            for _ in range(2 if self._clock.draw.random() < 0.1 else 1):
                for kind, number, *rest in batch.records:
                    self._write(kind, number, *rest)
            self._reader.done(batch)

    def _write(self, kind: str, number: int, *rest: Any) -> None:
        run = self._runs.setdefault(number, Run())
        match kind:
            case "trial":
                run.state = None
            case "metrics":
                step, value = rest
                # As in the real one, a step that is there stays as it is.
                run.values.setdefault(step, value)
            case "end":
                run.state = None if rest[0] is None else TrialState(rest[0])
