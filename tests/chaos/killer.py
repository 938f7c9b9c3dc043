"""Plays a plan: waits for each fault's moment, does it, undoes it, and goes on with the sweep as a user would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from tests.chaos.plan import Fault, Kind, Plan
from tests.chaos.processes import is_alive, kill, wait_until
from tests.chaos.servers import end_backends
from tests.chaos.sweep import Sweep, Violation

# Faults after which a driver may give up, with a sentence: its study, its disk or its cluster is gone.
EXCUSES: frozenset[Kind] = frozenset({"postgres", "backend", "disk", "head"})


@dataclass(slots=True)
class Killer:
    """Faults for one sweep, which reports `total` times."""

    sweep: Sweep
    plan: Plan
    total: int
    say: Callable[[str], None]
    played: list[Fault] = field(default_factory=list)
    # Why the running session may end before the sweep does; and upon which faults one did.
    _excuse: str = ""
    gave_up: Counter[str] = field(default_factory=Counter)
    _reports: Callable[[], int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._reports = self.sweep.counter()

    def play(self) -> None:
        """Launch the sweep, play the faults and wait for its end; raises `Violation` or `TimeoutError`."""
        self.sweep.launch()
        for fault in self.plan.faults:
            if not self._await_moment(fault):
                self.say(f"  the sweep was over before its {fault.kind} fault")
                continue
            form = ", worse" if fault.worse else ""
            self.say(
                f"  {fault.kind}{form}: after {self._reports()} of {self.total} reports, session {self.sweep.sessions}"
            )
            self.played.append(fault)
            if fault.kind in EXCUSES or (fault.kind == "connection" and not _is_to_mlflow(fault)):
                self._excuse = fault.kind
            getattr(self, f"_{fault.kind}")(fault)
        self._finish()

    # Waiting.

    def _await_moment(self, fault: Fault) -> bool:
        """Wait until enough was reported; False when the sweep is over."""
        return self._await_reports(fault.moment * self.total)

    def _await_reports(self, count: float) -> bool:
        while True:
            wait_until(lambda: self._reports() >= count or self.sweep.code is not None, f"{count:.0f} reports", 240.0)
            if self.sweep.code is None:
                return True
            if self.sweep.code == 0:
                return False
            self._go_on()

    def _go_on(self) -> None:
        """Resume after a session that gave up, which it may have done with a sentence and for a reason."""
        self.sweep.check_last_words()
        if not self._excuse:
            raise Violation(f"the driver gave up for no reason: ...{self.sweep.said()[-1500:]}")
        self.gave_up[self._excuse] += 1
        self._resume()

    def _resume(self) -> None:
        self._excuse = ""
        self.sweep.resume()

    def _await_trouble(self, what: str) -> None:
        """Wait until the driver has given up, or its recorder waits for MLflow, whose database is away as well."""
        wait_until(lambda: self.sweep.code is not None or self.sweep.is_troubled(), f"{what} is noticed")

    def _last(self, fault: Fault) -> None:
        """Let a fault last for some reports, until all are there or the driver gives up."""
        until = min(self.total, self._reports() + fault.lasting * self.total)
        wait_until(lambda: self._reports() >= until or self.sweep.code is not None, f"{until:.0f} reports", 240.0)

    def _refuses(self, fault: Fault) -> None:
        """In the worse form, a resume is tried while the fault lasts: it must be refused in one sentence."""
        if fault.worse and self.sweep.code not in (None, 0):
            self.sweep.check_last_words()
            self.sweep.resume()
            self.sweep.wait_for_end()
            if self.sweep.code == 0:
                raise Violation(f"a resume without {fault.kind} says that all is well: {self.sweep.said()}")

    def _finish(self) -> None:
        """Wait for the end of the sweep and of its record."""
        if self._await_reports(float("inf")):
            raise AssertionError("unreachable: no sweep reports without end")
        recorders = self.sweep.recorders()
        wait_until(lambda: not any(is_alive(pid) for pid in recorders), "the end of the recorder")
        if not self.sweep.is_recorded():
            self.say("  MLflow lacks something: once more")
            self.sweep.resume()
            self.sweep.wait_for_end()
            if self.sweep.code != 0:
                raise Violation(f"a sweep that is over cannot be resumed: {self.sweep.said()}")

    # Faults, by their kind.

    def _driver(self, fault: Fault) -> None:
        """Worse: again, while the next session starts."""
        self.sweep.kill_driver()
        self._resume()
        if fault.worse:
            wait_until(lambda: "starting workers" in self.sweep.said() or self.sweep.code is not None, "a new session")
            self.sweep.kill_driver()
            self._resume()

    def _worker(self, fault: Fault) -> None:
        """Worse: all workers at once."""
        wait_until(lambda: self._workers() or self.sweep.code is not None, "a worker")
        if workers := self._workers():
            victims = workers if fault.worse else [workers[fault.victim % len(workers)]]
            kill(*victims)

    def _workers(self) -> list[int]:
        return self.sweep.around.cluster.workers()

    def _node(self, fault: Fault) -> None:
        """Another one joins at once, or, worse, after some reports of the other node."""
        cluster = self.sweep.around.cluster
        cluster.kill_node(fault.victim)
        if fault.worse:
            self._last(fault)
        cluster.add_node()

    def _head(self, fault: Fault) -> None:
        """The cluster is gone, and another one is started. Worse: a resume is tried in between."""
        cluster = self.sweep.around.cluster
        cluster.kill_head()
        self.sweep.wait_for_end()
        self._refuses(fault)
        cluster.start()

    def _recorder(self, fault: Fault) -> None:
        wait_until(lambda: self.sweep.recorders() or self.sweep.code is not None, "a recorder")
        kill(*self.sweep.recorders())

    def _mlflow(self, fault: Fault) -> None:
        """Worse: the driver is killed while MLflow is away."""
        mlflow = self.sweep.around.mlflow
        mlflow.stop()
        self._last(fault)
        if fault.worse and self.sweep.code is None:
            self.sweep.kill_driver()
            self._resume()
        mlflow.start()

    def _postgres(self, fault: Fault) -> None:
        """As if its machine's power failed. Worse: a resume is tried before it is back."""
        postgres = self.sweep.around.postgres
        postgres.stop(immediately=True)
        self._await_trouble("that PostgreSQL is away")
        self._refuses(fault)
        postgres.start()

    def _backend(self, fault: Fault) -> None:
        """The study's connections are ended, or, worse, one is killed, upon which PostgreSQL ends all and recovers."""
        postgres = self.sweep.around.postgres
        wait_until(lambda: self.sweep.code is not None or end_backends(postgres, kill=fault.worse), "a connection")
        wait_until(lambda: _answers(postgres.url), "PostgreSQL's recovery")

    def _connection(self, fault: Fault) -> None:
        """To PostgreSQL or to MLflow: reset once, or, worse, cut for some time."""
        around = self.sweep.around
        if _is_to_mlflow(fault):
            around.to_mlflow.cut(away=fault.worse)
            if fault.worse:
                self._last(fault)
            around.to_mlflow.mend()
        else:
            around.to_postgres.cut(away=fault.worse)
            if fault.worse:
                self._await_trouble("that the study is away")
                self._refuses(fault)
            around.to_postgres.mend()

    def _disk(self, fault: Fault) -> None:
        """Not a byte is left for some reports. Worse: a resume is tried before there is room."""
        disk = self.sweep.around.disk
        if disk.why_not:
            self.say(f"  no disk can be filled here: {disk.why_not}")
            return
        disk.fill()
        self._last(fault)
        self._refuses(fault)
        disk.free()


def _is_to_mlflow(fault: Fault) -> bool:
    """Which of the two connections is cut."""
    return fault.victim % 2 == 1


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
