"""Where workers live: a warm pool of Ray actors, or this very process (`cluster=inline`)."""

from __future__ import annotations

import logging
import os
import queue
import re
import resource
import shutil
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from swathe import faults
from swathe.errors import BadInputError, SwatheError, bad_value
from swathe.events import WorkerLost, WorkerReady
from swathe.own_ray import Daemons, started_lean
from swathe.worker import (
    Emitted,
    InlineChannel,
    Message,
    ThreadChannel,
    WorkerSetup,
    geometry,
    prepare,
    run_job,
    run_one_by_one,
    set_threads,
)

if TYPE_CHECKING:
    from swathe.lane_worker import LaneEngine

PoolEvent = Emitted | WorkerReady | WorkerLost

# So many workers in a row that die before they are ready mean that the set-up is broken.
MAX_FAILED_STARTS = 3
# How long a Ray cluster may take to accept a connection (seconds).
CONNECT_SECONDS = 5.0
# How often it is looked whether Ray lives, and how long a cluster's head may be away (seconds): it may be started
# again, and Ray itself ends this process after a minute without one, whatever it does.
LOOK_SECONDS, HEAD_SECONDS = 3.0, 20.0
# Ray keeps what workers print in files of at most this size (bytes), and of each the one before it.
LOG_BYTES = 8 << 20
GIB = 1 << 30


class Pool(Protocol):
    """The interface between the runtime and the places where trials run."""

    geometry: dict[str, dict[str, str]]

    def start(self) -> int:
        """Start the workers and return how many; each answers with `WorkerReady` when it can train."""

    def send(self, worker: str, messages: Sequence[Message]) -> None:
        """Queue messages for a worker until `flush`."""

    def flush(self) -> None:
        """Let everything that was queued go."""

    def poll(self, timeout: float) -> list[PoolEvent]:
        """Return what happened, waiting up to `timeout` seconds for the first of it."""

    def kill(self, worker: str, reason: str) -> None:
        """End a worker that does not answer; another takes its place, and `WorkerLost` says so with this reason."""

    def close(self) -> None:
        """End the workers and what they run."""


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """How to start: as the `cluster` group of the config says it."""

    address: str | None = None
    workers: int | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float | None = None
    threads_per_worker: int | None = None
    memory_per_worker: float | None = None
    device: str = "auto"


def check_address(address: str | None) -> None:
    """Refuse an address at which nothing listens, before anything is started; raises `BadInputError`."""
    if address is None or address in ("auto", "local"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    allowed = "auto, or the address of a running Ray cluster such as 10.0.0.1:6379 or ray://10.0.0.1:10001"
    if not colon or not port.isdecimal():
        raise bad_value("cluster.address", address, allowed)
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise bad_value("cluster.address", address, f"{allowed} ({error})") from error


def _limit_memory(more: float) -> None:
    """Let this process take so many GiB more than it has: beyond that allocations fail, and nothing is killed."""
    status = Path("/proc/self/status").read_text()
    has = int(status.partition("VmData:")[2].split()[0]) << 10
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = has + int(more * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


class _Host:
    """The Ray actor: one thread trains, the others talk with the driver."""

    def __init__(self, name: str, setup: WorkerSetup, faults_folder: str, memory: float | None) -> None:
        self._name = name
        self._setup = setup
        self._faults_folder = faults_folder
        self._memory = memory
        self._channel = ThreadChannel(name)
        # Two calls may run at the same moment: what is sent later may come earlier.
        self._lock = threading.Lock()
        self._turn = 0
        self._ahead: dict[int, tuple[Message, ...]] = {}

    def begin(self) -> dict[str, str]:
        # Relative paths (a CSV file, a function's own) mean the driver's folder, where this node has it.
        for folder in self._setup.import_paths[:1]:
            if os.path.isdir(folder):
                os.chdir(folder)
        prepare(self._setup)
        facts = geometry(self._setup)
        faults.write_to(Path(self._faults_folder), self._name)
        if self._memory is not None:
            _limit_memory(self._memory)
        threading.Thread(target=self._train, daemon=True, name="trials").start()
        return facts

    def _train(self) -> None:
        try:
            # The number of threads is a setting of each thread that calls into OpenMP.
            set_threads(self._setup.threads)
            if self._setup.trainable is not None:
                run_one_by_one(self._setup, self._channel, self._name)
            else:
                from swathe import lane_worker

                lane_worker.run(self._setup, self._channel, self._name)
        except BaseException:
            # Its trials run again on the worker that takes its place: without this thread it would never say a word.
            traceback.print_exc()
            os._exit(1)

    def exchange(self, turn: int, messages: tuple[Message, ...]) -> list[Emitted]:
        self.put(turn, messages)
        return self._channel.drain()

    def put(self, turn: int, messages: tuple[Message, ...]) -> None:
        """Hand messages on in the order of their turns: a decision must not come before its job."""
        with self._lock:
            self._ahead[turn] = messages
            while (due := self._ahead.pop(self._turn, None)) is not None:
                self._turn += 1
                self._channel.put(due)


@dataclass(slots=True)
class _Member:
    actor: Any
    outgoing: list[Message] = field(default_factory=list)
    # How many times something was sent.
    turns: int = 0
    # Why it was ended, if it was.
    killed: str = ""
    ready: bool = False
    pending: bool = True


class RayPool:
    """Actors that stay alive over trials; a lost one is replaced.

    An `exchange` call is always under way for each worker: it carries messages there and events back, so that a
    decision costs one round trip. `faults_folder`: where they leave word of crashes, if they see it.
    """

    def __init__(self, plan: ClusterPlan, setup: WorkerSetup, faults_folder: Path) -> None:
        self._plan = plan
        self._setup = setup
        self._members: dict[str, _Member] = {}
        self._done: queue.SimpleQueue[tuple[str, str, Any]] = queue.SimpleQueue()
        self._started = 0
        self._failed_starts = 0
        self._gpus = 0.0
        # The daemons of a Ray of our own, or where the head of somebody else's cluster is; when it was looked for them,
        # and since when one of them is away.
        self._daemons: Daemons | None = None
        self._head: tuple[str, int] | None = None
        self._looked = 0.0
        self._away: float | None = None
        self._faults = faults_folder
        self.geometry: dict[str, dict[str, str]] = {}

    def start(self) -> int:
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_ROTATION_MAX_BYTES", str(LOG_BYTES))
        os.environ.setdefault("RAY_ROTATION_BACKUP_COUNT", "1")
        if self._setup.trainable is None:
            # Ray's own workers on this machine, which become ours, import it while Ray is still starting.
            os.environ.setdefault("RAY_preload_python_modules", "torch")
        try:
            with nullcontext() if self._plan.address else started_lean():
                ray.init(
                    # Without an address Ray would join whatever runs on this machine.
                    address=self._plan.address or "local",
                    include_dashboard=None if self._plan.address else False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    ignore_reinit_error=True,
                    namespace="swathe",
                )
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            if self._plan.address is None:
                raise SwatheError(f"Ray does not start on this machine: {str(error).splitlines()[0]}") from error
            allowed = (
                "the address of a running Ray cluster of this very version; one that asks for a token, as `ray start` "
                "makes it, is joined with RAY_AUTH_MODE=token in the environment"
            )
            raise bad_value("cluster.address", self._plan.address, allowed) from error
        # Ray prints errors of its daemons (a worker that died) on the terminal, whatever log_to_driver says: what they
        # mean for a trial, the user reads in the trial's state.
        ray._private.worker._worker_logs_enabled = False
        if self._plan.address is None:
            self._daemons = Daemons()
        elif not self._plan.address.startswith("ray://"):
            host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
            self._head = host.strip("[]"), int(port)
        self._spread(ray.cluster_resources())
        # What a session has left that was killed is of workers with the same names.
        shutil.rmtree(self._faults, ignore_errors=True)
        self._faults.mkdir(parents=True)
        for _ in range(self._workers):
            self._spawn()
        return self._workers

    def _spread(self, resources: dict[str, float]) -> None:
        """Say how many workers there are and what each one gets of the cluster's resources."""
        plan = self._plan
        cpus, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
        if plan.device == "cuda" and not gpus:
            raise bad_value("device", plan.device, "cpu or auto, since Ray finds no GPU here")
        use_gpus = gpus > 0 and plan.device != "cpu"
        share = plan.gpus_per_worker if plan.gpus_per_worker is not None else 1.0
        self._gpus = share if use_gpus else 0.0
        # Workers that only wait for other processes hold nothing: how many there are is for the user to say.
        fitting = int(cpus / plan.cpus_per_worker) if plan.cpus_per_worker else plan.workers or 1
        if self._gpus:
            fitting = min(fitting, int(gpus / self._gpus))
        # A cluster may grow while the sweep runs; this machine does not.
        wanted = 1 if plan.workers is None or plan.address is not None else plan.workers
        if fitting < wanted:
            raise BadInputError(
                f"cluster: {wanted} workers of {plan.cpus_per_worker:g} CPUs and {self._gpus:g} GPUs each do not fit; "
                f"allowed: {cpus:g} CPUs and {gpus:g} GPUs together."
            )
        self._workers = plan.workers or fitting
        threads = plan.threads_per_worker or max(1, int(plan.cpus_per_worker))
        self._setup = replace(self._setup, device="cuda" if self._gpus else "cpu", threads=threads)

    def _spawn(self) -> None:
        import ray

        name = f"worker-{self._started}"
        self._started += 1
        options = {
            "num_cpus": self._plan.cpus_per_worker,
            "num_gpus": self._gpus,
            "max_concurrency": 2,
            "max_restarts": 0,
        }
        host: Any = ray.remote(_Host)
        actor = host.options(**options).remote(name, self._setup, str(self._faults), self._plan.memory_per_worker)
        self._members[name] = _Member(actor)
        self._watch(name, "begin", actor.begin.remote())

    def _watch(self, name: str, what: str, reference: Any) -> None:
        # A callback instead of ray.wait: its cost does not grow with the number of workers.
        future = reference.future()
        future.add_done_callback(lambda done: self._done.put((name, what, done)))

    def send(self, worker: str, messages: Sequence[Message]) -> None:
        member = self._members.get(worker)
        if member is not None:
            member.outgoing += messages

    def flush(self) -> None:
        for name, member in self._members.items():
            if not member.ready or (member.pending and not member.outgoing):
                continue
            messages, member.outgoing = tuple(member.outgoing), []
            turn, member.turns = member.turns, member.turns + 1
            if member.pending:
                member.actor.put.remote(turn, messages)
            else:
                member.pending = True
                self._watch(name, "exchange", member.actor.exchange.remote(turn, messages))

    def poll(self, timeout: float) -> list[PoolEvent]:
        self._look_for_ray()
        events: list[PoolEvent] = []
        try:
            events += self._take(*self._done.get(timeout=timeout))
            while True:
                events += self._take(*self._done.get_nowait())
        except queue.Empty:
            return events

    def _look_for_ray(self) -> None:
        """Give up on a Ray that is gone; raises `SwatheError`."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if self._daemons is not None and (dead := self._daemons.dead()):
            self._away = self._away or now
            raise SwatheError(f"The Ray of this sweep has died ({dead}); the same command goes on with another.")
        if self._head is not None:
            self._look_for_head(self._head, now)

    def _look_for_head(self, head: tuple[str, int], now: float) -> None:
        try:
            socket.create_connection(head, timeout=CONNECT_SECONDS).close()
            self._away = None
        except OSError as error:
            self._away = self._away or now
            if now - self._away >= HEAD_SECONDS:
                raise SwatheError(
                    f"The Ray cluster at {self._plan.address} is gone ({error}); when there is one again, the same "
                    "command goes on, with another cluster.address if need be."
                ) from error

    def _wait_for_head(self) -> None:
        """Wait for a head that is away: what is asked of Ray without one does not come back."""
        self._looked = 0.0
        self._look_for_ray()
        while self._away is not None:
            time.sleep(LOOK_SECONDS)
            self._look_for_ray()

    def _take(self, name: str, what: str, done: Any) -> list[PoolEvent]:
        member = self._members.get(name)
        if member is None:
            return []
        error = done.exception()
        if error is not None:
            return self._lost(name, member, error)
        member.pending = False
        if what == "exchange":
            return list(done.result())
        member.ready = True
        self._failed_starts = 0
        self.geometry[name] = done.result()
        return [WorkerReady(name)]

    def _lost(self, name: str, member: _Member, error: BaseException) -> list[PoolEvent]:
        import ray

        fault = faults.read(self._faults, name)
        reason = member.killed or (_why(error) if fault is None else fault.reason)
        del self._members[name]
        # Workers die with their head, and are the first to be missed.
        self._wait_for_head()
        ray.kill(member.actor)
        if not member.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise SwatheError(f"The workers die before they are ready: {reason}") from error
        self._spawn()
        if not member.ready:
            return []
        trial = faults.last_trial(self._faults, name)
        if fault is None:
            return [WorkerLost(name, reason, trial=trial)]
        return [WorkerLost(name, reason, fault.traceback, fault.reason, trial)]

    def kill(self, worker: str, reason: str) -> None:
        import ray

        if (member := self._members.get(worker)) is not None:
            member.killed = reason
            # What it has under way fails, and with that it is known to be lost.
            ray.kill(member.actor)

    def close(self) -> None:
        import ray

        # Who is interrupted here comes back: to kill an actor once more, after the shutdown, would start Ray anew.
        members = [*self._members.values()]
        self._members.clear()
        if self._away is None:
            for member in members:
                ray.kill(member.actor)
            ray.shutdown()
        elif self._daemons is not None:
            self._daemons.end()
            ray.shutdown()
        # Else Ray would wait for its head until it ends this process, and the workers have gone with it.
        shutil.rmtree(self._faults, ignore_errors=True)


_MEMORY = re.compile(r"was (\S+) used / (\S+) limit")


def _why(error: BaseException) -> str:
    """Say in one line why a worker was lost, from what Ray says of it."""
    from ray.exceptions import OutOfMemoryError

    said = str(error).strip()
    first = (said.splitlines() or [type(error).__name__])[0]
    if isinstance(error, OutOfMemoryError):
        used = _MEMORY.search(said)
        state = "short of memory" if used is None else f"at {used[1]} of {used[2]}"
        return f"out of memory: Ray ended its process, as the machine was {state}"
    if "Worker exit type: SYSTEM_ERROR" in said:
        return "its process ended: by an exit of its own, or killed, as the system does where memory is short"
    return first


class InlinePool:
    """One worker in this process and thread: `pdb` and `print` work in a trial as in any function."""

    def __init__(self, plan: ClusterPlan, setup: WorkerSetup, deliver: Callable[[list[PoolEvent]], None]) -> None:
        self._setup = replace(setup, threads=plan.threads_per_worker or 1, device=inline_device(plan))
        self._channel = InlineChannel("inline", lambda events: deliver(list(events)))
        self._ready = False
        self._engine: LaneEngine | None = None
        self.geometry: dict[str, dict[str, str]] = {}

    def start(self) -> int:
        prepare(self._setup)
        self.geometry["inline"] = geometry(self._setup)
        if self._setup.trainable is None:
            from swathe import lane_worker

            self._engine = lane_worker.engine(self._setup, self._channel, "inline")
        return 1

    def send(self, worker: str, messages: Sequence[Message]) -> None:
        self._channel.put(tuple(messages))

    def flush(self) -> None:
        """Nothing is queued inline."""

    def poll(self, timeout: float) -> list[PoolEvent]:
        if not self._ready:
            self._ready = True
            return [WorkerReady("inline")]
        if self._engine is not None:
            self._engine.turn(wait=False)
        elif (job := self._channel.next_job()) is not None:
            run_job(self._setup, self._channel, "inline", job)
        return []

    def kill(self, worker: str, reason: str) -> None:
        """The one worker is this very process, which asks nobody while a trial hangs: it is left to the user."""

    def close(self) -> None:
        """Nothing lives on."""


def inline_device(plan: ClusterPlan) -> str:
    """Return the device of trials in this process; imports PyTorch. Raises `BadInputError` where there is no GPU."""
    import torch

    available = torch.cuda.is_available()
    if plan.device == "cuda" and not available:
        raise bad_value("device", plan.device, "cpu or auto, since torch finds no GPU here")
    return "cuda" if available and plan.device != "cpu" else "cpu"
