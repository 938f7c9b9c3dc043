"""The servers behind the proxies: MLflow's and optuna-dashboard's, each started when it is first asked for.

Each is a process that listens on a Unix socket in a folder of its own that only its owner may enter, so that no other
user of the machine comes past the tokens. It ends with the server, however that ends, and after some time without
requests.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swathe.home import Home
from swathe.service.problems import ProblemError
from swathe.service.tended import END_SECONDS
from swathe.tracking import with_driver

if TYPE_CHECKING:
    import httpx

# How long a start may take, for how long a failed one is not tried again, and after how long without requests one ends.
START_SECONDS, AGAIN_SECONDS, IDLE_SECONDS = 120.0, 10.0, 900.0
# Of an upstream's answer: to connect, to its first and each further byte, and for a free connection (seconds).
CONNECT_SECONDS, READ_SECONDS, POOL_SECONDS = 5.0, 120.0, 10.0


@dataclass(frozen=True, slots=True)
class Program:
    """How an upstream is started. `words`: its module and arguments, given its socket; `health`: a path it answers."""

    name: str
    words: Callable[[Path], Sequence[str]]
    health: str
    environment: Mapping[str, str]
    log: Path


def mlflow_program(home: Home, uri: str) -> Program:
    """Return MLflow's server over a database, as `swathe ui` starts it, but on a socket.

    What clients upload is kept in a folder of its own, where it can replace nothing that Swathe has recorded.
    """

    def words(socket: Path) -> list[str]:
        destination = str(home.path / "mlartifacts")
        options = ["--workers", "1", "--serve-artifacts", "--artifacts-destination", destination]
        return ["mlflow", "server", *options, "--uvicorn-opts", f"--uds {socket} --no-access-log"]

    environment = {
        # Not as an argument: every user of the machine may read those, and a URI can hold a password.
        "MLFLOW_BACKEND_STORE_URI": with_driver(uri),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        # Six more processes, for the evaluation of language models.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return Program("MLflow", words, "/health", environment, home.path / "mlflow-server.log")


def dashboard_program(home: Home) -> Program:
    """Return the server of all sweeps' optuna-dashboards."""
    return Program(
        "optuna-dashboard",
        lambda socket: ["swathe.service.dashboard", str(socket)],
        "/health",
        {"SWATHE_HOME": str(home.path)},
        home.path / "optuna-dashboard.log",
    )


@dataclass(slots=True)
class Remote:
    """A tracking server that somebody else runs; it gets the server's own credentials, as MLflow's clients do."""

    uri: str
    _client: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Lend a client of it."""
        import httpx

        if self._client is None:
            token = os.environ.get("MLFLOW_TRACKING_TOKEN")
            user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
            self._client = _client(
                self.uri,
                httpx.AsyncHTTPTransport(limits=_limits()),
                headers={"Authorization": f"Bearer {token}"} if token else {},
                auth=httpx.BasicAuth(user, password or "") if user and not token else None,
            )
        yield self._client

    async def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.aclose()


@dataclass(slots=True)
class _Running:
    process: asyncio.subprocess.Process
    folder: Path
    client: httpx.AsyncClient


@dataclass(slots=True)
class Upstream:
    """One such server, started at need and again when it has died; for one event loop."""

    program: Program
    idle_seconds: float = IDLE_SECONDS
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _running: _Running | None = None
    _failed: float = -AGAIN_SECONDS
    _under_way: int = 0
    _last: float = 0.0
    _watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process; None while there is none."""
        process = None if self._running is None else self._running.process
        return None if process is None or process.returncode is not None else process.pid

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Lend a client of the server, which is not ended meanwhile; raises `ProblemError` where it does not start."""
        self._under_way += 1
        try:
            async with self._lock:
                running = await self._started()
            yield running.client
        finally:
            self._under_way -= 1
            self._last = time.monotonic()

    async def close(self) -> None:
        """End the server."""
        async with self._lock:
            # It ends the server with the lock held: what is cancelled here only waits.
            if self._watch is not None:
                self._watch.cancel()
            await self._end()

    async def _started(self) -> _Running:
        if self._running is not None and self.pid is not None:
            return self._running
        await self._end()
        if time.monotonic() < self._failed + AGAIN_SECONDS:
            raise self._does_not_start()
        try:
            self._running = await _start(self.program)
        except TimeoutError:
            self._failed = time.monotonic()
            raise self._does_not_start() from None
        self._last = time.monotonic()
        self._watch = self._watch or asyncio.create_task(self._end_when_idle())
        return self._running

    def _does_not_start(self) -> ProblemError:
        detail = f"{self.program.name} does not start; {self.program.log.name} in the server's home says why."
        return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": str(int(AGAIN_SECONDS))})

    async def _end_when_idle(self) -> None:
        while True:
            await asyncio.sleep(max(0.1, self._last + self.idle_seconds - time.monotonic()))
            if self._under_way == 0 and time.monotonic() >= self._last + self.idle_seconds:
                async with self._lock:
                    if self._under_way == 0:
                        await self._end()
                        self._watch = None
                        return

    async def _end(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running.client.aclose()
            await _end(running.process)
            shutil.rmtree(running.folder, ignore_errors=True)


async def _start(program: Program) -> _Running:
    """Start an upstream and wait until it answers; raises `TimeoutError` where it never does."""
    import httpx

    # Not in the home: the path of a socket has some 100 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="swathe-"))
    socket = folder / "socket"
    with program.log.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "swathe.service.tended", str(folder), *program.words(socket)),
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
            # What it starts looks for no modules in the working folder, either.
            env={**os.environ, "PYTHONSAFEPATH": "1", **program.environment},
            start_new_session=True,
        )
    client = _client("http://localhost", httpx.AsyncHTTPTransport(uds=str(socket), limits=_limits()))
    running = _Running(process, folder, client)
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await _answers(client, program.health):
                if process.returncode is not None:
                    raise TimeoutError
                await asyncio.sleep(0.1)
    except BaseException:
        await client.aclose()
        await _end(process)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return running


def _client(address: str, transport: httpx.AsyncHTTPTransport, **options: Any) -> httpx.AsyncClient:
    import httpx

    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=POOL_SECONDS)
    return httpx.AsyncClient(transport=transport, base_url=address, timeout=timeout, **options)


def _limits() -> httpx.Limits:
    import httpx

    # Connections are given up before uvicorn closes them, after 5 s: a request on its way then would be lost.
    return httpx.Limits(max_connections=100, keepalive_expiry=2.0)


async def _answers(client: httpx.AsyncClient, path: str) -> bool:
    import httpx

    try:
        return (await client.get(path)).status_code == HTTPStatus.OK
    except httpx.TransportError:
        return False


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process with all that it started: in order, or else by force."""
    assert process.stdin is not None
    process.stdin.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    # What it started may outlive it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
