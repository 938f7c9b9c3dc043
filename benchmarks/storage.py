"""What a study's storage costs a trial, and how long a worker waits for it: Swathe beside Optuna used plainly.

    python benchmarks/storage.py                # some five minutes; fewer trials in the databases, which are slow
    python benchmarks/storage.py --trials 30    # a quick look, which writes no results

A trial reports ten times, a pruner decides at each report, and nothing is trained: what is left is the storage, the
sampler (random, then TPE) and the pruner. Swathe: its own controller and study, driven as its runtime does, by one
driver for all workers, without Ray. Optuna: `ask`, ten times `report` and `should_prune`, `tell`, as in its tutorial;
with several workers once as processes that share the storage and once as threads of one process.

A worker waits from its report until it has the decision, and from its trial's end until it has the next parameters.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import optuna  # noqa: E402 - the script runs from anywhere
from benchmarks import machine  # noqa: E402
from benchmarks.noop import REPORTS, losses  # noqa: E402
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution  # noqa: E402
from optuna.storages import BaseStorage, JournalStorage, RDBStorage  # noqa: E402
from optuna.storages.journal import JournalFileBackend  # noqa: E402
from tests import postgres  # noqa: E402

from swathe import pruners  # noqa: E402
from swathe.controller import Budget, Controller  # noqa: E402
from swathe.events import (  # noqa: E402
    Ask,
    Assign,
    Assignment,
    Command,
    Decide,
    Decision,
    Direction,
    Done,
    Event,
    Finished,
    Record,
    Report,
    Reported,
    Tell,
    Value,
    WorkerReady,
    WorkersStart,
)
from swathe.runtime import COMMIT_SECONDS  # noqa: E402
from swathe.samplers import Suggest, suggest_from  # noqa: E402
from swathe.study import Study  # noqa: E402

# Trials of each run.
STORAGES = {"journal": 200, "sqlite": 40, "postgresql": 40}
SAMPLERS = ("random", "tpe")
WORKERS = (1, 8)
METRIC = "val_loss"
# Both decide at each report and prune next to nothing, so that a trial is ten reports.
PRUNER = {"name": "percentile", "percentile": 100.0}
# What a report says that it took (seconds): a trial is long enough that Swathe's workers hold no second one ahead.
REPORT_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter that is always there."""

    distribution: BaseDistribution
    conditions: tuple[()] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """Five parameters, as a small sweep has."""

    parameters: Mapping[str, Parameter]

    def sample(self, suggest: Suggest) -> dict[str, Value]:
        return {name: suggest(name, parameter.distribution) for name, parameter in self.parameters.items()}


SPACE = Space(
    {
        "x": Parameter(FloatDistribution(0.0, 1.0)),
        "lr": Parameter(FloatDistribution(1e-5, 1.0, log=True)),
        "decay": Parameter(FloatDistribution(1e-6, 1e-1, log=True)),
        "dropout": Parameter(FloatDistribution(0.0, 0.5)),
        "optim": Parameter(CategoricalDistribution(("sgd", "momentum", "adam", "adamw"))),
    }
)


@dataclass(slots=True)
class Waits:
    """How long workers waited for each decision and for each next trial's parameters (seconds)."""

    decision: list[float] = field(default_factory=list)
    trial: list[float] = field(default_factory=list)


# Swathe.


class Worker:
    """A worker in virtual time: it reports at once, and waits only where a real one does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.next: deque[Assignment] = deque()
        self._running: Assignment | None = None
        self._losses: list[float] = []
        self._step = 0
        self._stopped = False
        self._decide_from: int | None = None
        # Since when it waits for a decision, or for a trial.
        self.asked: float | None = None
        self.idle: float | None = None

    def take(self, message: Assignment | Decision, waits: Waits) -> None:
        now = time.perf_counter()
        if isinstance(message, Assignment):
            self.next.append(message)
            if self.idle is not None:
                waits.trial.append(now - self.idle)
                self.idle = None
            return
        assert self.asked is not None
        waits.decision.append(now - self.asked)
        self.asked = None
        self._decide_from = message.decide_from
        self._stopped = message.stop

    def work(self) -> list[Event]:
        """Go on until something has to be waited for; return what is said meanwhile."""
        if self.asked is not None or self.idle is not None:
            return []
        if self._running is None:
            if not self.next:
                self.idle = time.perf_counter()
                return []
            self._running = self.next.popleft()
            self._losses, self._step = list(losses(self._running.params)), 0
            self._decide_from = self._running.decide_from
        trial, reports = self._running.trial, []
        while self._step < REPORTS and not self._stopped:
            self._step += 1
            values = {METRIC: self._losses[self._step - 1]}
            reports.append(Report(trial, self._step, values, REPORT_SECONDS, time.time()))
            if self._decide_from is not None and self._step >= self._decide_from:
                self.asked = time.perf_counter()
                return [Reported(self.name, tuple(reports))]
        self._running, self._stopped = None, False
        self.idle = time.perf_counter()
        said: list[Event] = [Reported(self.name, tuple(reports))] if reports else []
        return [*said, Finished(self.name, trial)]


class Driver:
    """Carries commands and events between controller, study and workers, in the order of `swathe.runtime`."""

    def __init__(self, study: Study, workers: int, trials: int, waits: Waits) -> None:
        self._study = study
        self._waits = waits
        self._workers = {f"w{index}": Worker(f"w{index}") for index in range(workers)}
        self._outgoing: list[tuple[str, Assignment | Decision]] = []
        self._committed = 0.0
        self._done = False
        self.told = 0
        self._controller = Controller(
            metric=METRIC,
            direction=Direction.MINIMIZE,
            pruner=pruners.build(PRUNER, Direction.MINIMIZE, "s"),
            budget=Budget(trials),
        )

    def run(self) -> None:
        self._handle(WorkersStart(len(self._workers)))
        for name in self._workers:
            self._handle(WorkerReady(name))
        self._flush()
        while not self._done:
            for event in [event for worker in self._workers.values() for event in worker.work()]:
                self._handle(event)
            self._flush()
        self._study.commit()

    def _handle(self, event: Event) -> None:
        waiting: deque[Command] = deque(self._controller.handle(event))
        while waiting:
            match waiting.popleft():
                case Ask(count):
                    self._send()
                    waiting.extend(self._controller.handle(self._study.ask(count)))
                case Assign(worker, assignments):
                    self._outgoing += ((worker, assignment) for assignment in assignments)
                case Decide(worker, decisions):
                    self._outgoing += ((worker, decision) for decision in decisions)
                case Record(reports):
                    for report in reports:
                        self._study.record(report.trial, report.step, report.metrics[METRIC])
                case Tell() as tell:
                    self._study.tell(tell.trial, tell.state, tell.value, {"worker": "w"})
                    self.told += 1
                case Done():
                    self._done = True

    def _send(self) -> None:
        for name, message in self._outgoing:
            self._workers[name].take(message, self._waits)
        self._outgoing.clear()

    def _flush(self) -> None:
        self._send()
        now = time.monotonic()
        if now - self._committed >= COMMIT_SECONDS:
            self._study.commit()
            self._committed = now


def run_swathe(folder: Path, url: str | None, sampler: str, workers: int, trials: int) -> tuple[float, Waits]:
    """Run one sweep in this process; returns its seconds and how long workers waited."""
    waits = Waits()
    study = Study.open(
        "s",
        folder=folder,
        storage=url,
        direction=Direction.MINIMIZE,
        sampler={"name": sampler},
        space=SPACE,
        seed=0,
    )
    driver = Driver(study, workers, trials, waits)
    began = time.perf_counter()
    driver.run()
    seconds = time.perf_counter() - began
    if driver.told != trials:
        sys.exit(f"Swathe has told {driver.told} of {trials} trials.")
    study.close()
    return seconds, waits


# Optuna.


def open_optuna(folder: str, url: str | None) -> BaseStorage:
    """Open the storage as Optuna's documentation does it."""
    if url is None:
        return JournalStorage(JournalFileBackend(str(Path(folder) / "journal.log")))
    return RDBStorage(url.replace("postgresql://", "postgresql+psycopg://"))


def load_optuna(storage: BaseStorage, sampler: str, seed: int) -> optuna.Study:
    draw: optuna.samplers.BaseSampler
    if sampler == "random":
        draw = optuna.samplers.RandomSampler(seed)
    else:
        # Swathe's own choice of options, so that both do the same sums.
        draw = optuna.samplers.TPESampler(multivariate=True, seed=seed)
    pruner = optuna.pruners.PercentilePruner(PRUNER["percentile"])  # type: ignore[arg-type]
    return optuna.load_study(study_name="s", storage=storage, sampler=draw, pruner=pruner)


def work_plainly(study: optuna.Study, share: int, waits: Waits) -> None:
    """Run a worker's share of the trials."""
    asked = time.perf_counter()
    for _ in range(share):
        trial = study.ask()
        params = SPACE.sample(partial(suggest_from, trial))
        waits.trial.append(time.perf_counter() - asked)
        value = 0.0
        for step, value in enumerate(losses(params), start=1):
            reported = time.perf_counter()
            trial.report(value, step)
            pruned = trial.should_prune()
            waits.decision.append(time.perf_counter() - reported)
            if pruned:
                break
        asked = time.perf_counter()
        study.tell(trial, value)


def run_threads(folder: Path, url: str | None, sampler: str, workers: int, trials: int) -> tuple[float, Waits]:
    """Run Optuna's workers as threads of this process, which share a study."""
    waits = [Waits() for _ in range(workers)]
    study = load_optuna(open_optuna(str(folder), url), sampler, 0)
    shares = split(trials, workers)
    threads = [
        threading.Thread(target=work_plainly, args=(study, share, mine))
        for share, mine in zip(shares, waits, strict=True)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began, joined(waits)


def run_processes(folder: Path, url: str | None, sampler: str, workers: int, trials: int) -> tuple[float, Waits]:
    """Run Optuna's workers as processes that share the storage and begin together."""
    command = [sys.executable, __file__, "--optuna-worker", str(folder), url or "", sampler]
    processes = [
        subprocess.Popen([*command, str(index), str(share)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for index, share in enumerate(split(trials, workers))
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    began = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = []
    for process in processes:
        output, _ = process.communicate()
        if process.returncode:
            sys.exit(f"A worker of Optuna ended with {process.returncode}.")
        said.append(json.loads(output))
    ended = max(one["ended"] for one in said)
    return ended - began, joined([Waits(one["decision"], one["trial"]) for one in said])


def be_worker(folder: str, url: str, sampler: str, index: str, share: str) -> None:
    """Be one of Optuna's processes: say that it is ready, wait for the word, work."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, waits = load_optuna(open_optuna(folder, url or None), sampler, int(index)), Waits()
    print("ready", flush=True)
    sys.stdin.readline()
    work_plainly(study, int(share), waits)
    # The clock is the machine's, the same for all processes (Linux: CLOCK_MONOTONIC).
    print(json.dumps({"decision": waits.decision, "trial": waits.trial, "ended": time.perf_counter()}))


# Both.

Form = Callable[[Path, str | None, str, int, int], tuple[float, Waits]]


def split(trials: int, workers: int) -> list[int]:
    return [trials // workers + (index < trials % workers) for index in range(workers)]


def joined(waits: Sequence[Waits]) -> Waits:
    return Waits([one for each in waits for one in each.decision], [one for each in waits for one in each.trial])


def percentile(seconds: Sequence[float], share: float) -> float:
    """Return the value (milliseconds) that `share` of the waits do not exceed."""
    ordered = sorted(seconds)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)


def measured(form: Form, folder: Path, url: str | None, sampler: str, workers: int, trials: int) -> dict[str, Any]:
    seconds, waits = form(folder, url, sampler, workers, trials)
    return {
        "trials_per_second": round(trials / seconds, 1),
        "ms_per_trial": round(1000 * seconds / trials, 2),
        "reports": len(waits.decision),
        **{
            f"{what}_{name}_ms": percentile(getattr(waits, what), share)
            for what in ("decision", "trial")
            for name, share in (("p50", 0.5), ("p99", 0.99))
        },
    }


@contextmanager
def place(storage: str, server: postgres.Server | None) -> Iterator[tuple[Path, str | None]]:
    """Make a new folder and, in it or on the server, a new database."""
    folder = Path(tempfile.mkdtemp(prefix="storage-"))
    try:
        match storage:
            case "journal":
                yield folder, None
            case "sqlite":
                yield folder, f"sqlite:///{folder}/study.db"
            case _:
                assert server is not None
                yield folder, server.create_database(f"s{uuid.uuid4().hex}")
    finally:
        shutil.rmtree(folder)


def run_form(form: Form, storage: str, server: postgres.Server | None, *sizes: Any) -> dict[str, Any]:
    with place(storage, server) as (folder, url):
        if form is not run_swathe:
            optuna.create_study(study_name="s", storage=open_optuna(str(folder), url))
        return measured(form, folder, url, *sizes)


def compare(storage: str, sampler: str, workers: int, trials: int, server: postgres.Server | None) -> dict[str, Any]:
    """Measure both, one after the other, and print their line; Optuna's better form is the peer."""
    sizes = (storage, server, sampler, workers, trials)
    ours = run_form(run_swathe, *sizes)
    forms: dict[str, Form] = {"one process": run_threads}
    if workers > 1:
        forms = {"processes": run_processes, "threads": run_threads}
    peers = [{"form": name, **run_form(form, *sizes)} for name, form in forms.items()]
    best = max(peers, key=lambda peer: peer["trials_per_second"])
    row = {"storage": storage, "sampler": sampler, "workers": workers, "trials": trials, "swathe": ours}
    row |= {"optuna": peers, "ratio": round(ours["trials_per_second"] / best["trials_per_second"], 1)}
    for what in ("decision", "trial"):
        key = f"{what}_p99_ms"
        row[f"{what}_p99_ratio"] = round(min(peer[key] for peer in peers) / ours[key], 1)
    said = "; ".join(f"Optuna, {peer['form']}, {shown(peer)}" for peer in peers)
    print(
        f"{storage}, {sampler}, {workers} worker(s): Swathe {shown(ours)}; {said}: {row['ratio']} times the trials, "
        f"p99 of a decision {row['decision_p99_ratio']} times and of a next trial {row['trial_p99_ratio']} times less",
        flush=True,
    )
    return row


def shown(figures: Mapping[str, Any]) -> str:
    waits = ", ".join(
        f"{what} {figures[f'{what}_p50_ms']:.2f}/{figures[f'{what}_p99_ms']:.2f}" for what in ("decision", "trial")
    )
    return f"{figures['trials_per_second']:.1f} trials a second (p50/p99 ms: {waits})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, help="of each run; writes no results")
    parser.add_argument("--only", choices=STORAGES, help="one storage alone; writes no results")
    parser.add_argument("--optuna-worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.optuna_worker:
        be_worker(*options.optuna_worker)
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storages = [options.only] if options.only else [*STORAGES]
    with postgres.server() if "postgresql" in storages else nullcontext() as server:
        rows = [
            compare(storage, sampler, workers, options.trials or STORAGES[storage], server)
            for storage in storages
            for sampler in SAMPLERS
            for workers in WORKERS
        ]
    if options.only or options.trials:
        return
    content = {"what": __doc__.splitlines()[0], "reports_per_trial": REPORTS, "rows": rows}
    content["machine"] = machine.describe("optuna", "sqlalchemy", "psycopg")
    print(f"Written to {machine.write('storage', content).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
