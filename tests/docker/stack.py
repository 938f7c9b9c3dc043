"""The services of docker/compose.yaml as plain processes: the same commands, environment, order and health checks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.processes import descendants, is_alive, wait_until
from tests.docker import compose
from tests.docker.compose import Service
from tests.docker.places import Place, Ports
from tests.docker.programs import ROOT, Program, program, run

COMPOSE = ROOT / "docker" / "compose.yaml"
# How often a health check is tried (seconds), how long a service may take to end, and a one-shot to do its work.
INTERVAL, END_SECONDS, ONCE_SECONDS = 0.5, 15.0, 120.0


@dataclass(slots=True)
class Running:
    """A replica of a service that was started."""

    place: Place
    program: Program
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> Path:
        return self.place.folder / "log"

    def said(self) -> str:
        return f"{self.place.name}: {' '.join(self.program.command)}\n{self.log.read_text(errors='replace')[-4000:]}"


@dataclass(slots=True)
class Stack:
    """A compose file's services on this machine, in one temporary folder."""

    file: compose.Compose
    folder: Path
    ports: Ports = field(default_factory=Ports)
    running: list[Running] = field(default_factory=list)

    def url(self, service: str, port: int) -> str:
        """Return where a service's port is."""
        return f"http://127.0.0.1:{self.ports.of(service, port)}"

    def volume(self, name: str) -> Path:
        return self.folder / "volumes" / name

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    def run(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Do what `docker compose run --rm SERVICE COMMAND` does, without the services that it depends on."""
        place = self._place(self.file.services[service], f"{service}-run")
        return run(program(place, command))

    def up(self) -> None:
        """Start every service when those that it depends on are ready; return when all are healthy."""
        for service in self.file.services.values():
            for other, condition in service.depends_on.items():
                self._wait(self.file.services[other], condition)
            for number in range(service.replicas):
                name = service.name if service.replicas == 1 else f"{service.name}-{number + 1}"
                self._start(self._place(service, name))
        for service in self.file.services.values():
            if service.check is not None:
                self._wait(service, "service_healthy")

    def down(self) -> None:
        """End all services, those first that others do not depend on."""
        there = [(running, [running.process.pid, *descendants([running.process.pid])]) for running in self.running]
        for running, _ in reversed(there):
            if running.process.poll() is None:
                running.process.send_signal(running.program.stop)
        for running, everything in reversed(there):
            _end(running, everything)
        self.running.clear()

    def _place(self, service: Service, name: str) -> Place:
        folder = self.folder / name
        place = Place(name, service, self.file.services, folder, self.folder / "volumes", self.ports)
        place.prepare({secret: self.folder / "secrets" / path.name for secret, path in self.file.secrets.items()})
        return place

    def _start(self, place: Place) -> None:
        made = program(place)
        with (place.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                made.command,
                env=dict(made.environment),
                cwd=made.folder,
                user=made.account,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # ^C in a terminal is for the stack, which ends its services in order.
                start_new_session=True,
            )
        self.running.append(Running(place, made, process))

    def _wait(self, service: Service, condition: str) -> None:
        for running in self.running:
            if running.place.service.name == service.name:
                _wait(running, condition)


def _wait(running: Running, condition: str) -> None:
    """Wait until a service is as another one needs it; raises `AssertionError` with its log where it never is."""
    check = running.place.service.check
    process = running.process
    if condition == "service_completed_successfully":
        with suppress(subprocess.TimeoutExpired):
            process.wait(ONCE_SECONDS)
        assert process.returncode == 0, f"exit code {process.returncode}: {running.said()}"
    elif condition == "service_healthy":
        assert check is not None, f"{running.place.name} has no health check"
        deadline = time.monotonic() + check.interval * check.retries
        while (answer := _asked(running)).returncode != 0:
            assert process.poll() is None, f"exit code {process.returncode}: {running.said()}"
            assert time.monotonic() < deadline, f"not healthy ({answer.stderr[-500:]}): {running.said()}"
            time.sleep(INTERVAL)


def _asked(running: Running) -> subprocess.CompletedProcess[str]:
    made = running.program
    return run(Program(made.check, made.environment, made.folder))


def _end(running: Running, everything: Collection[int]) -> None:
    """Wait until a service that was told to end has ended, and let nothing live on that it has started."""
    with suppress(subprocess.TimeoutExpired):
        running.process.wait(END_SECONDS)
    for pid in everything:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.process.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in everything), f"the end of {running.place.name}", END_SECONDS)


@contextmanager
def stack(path: Path = COMPOSE) -> Iterator[Stack]:
    """Make a stack with fresh secrets, nothing of which runs yet; end and remove it afterwards."""
    # Ray's sockets must have short paths.
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    try:
        subprocess.run([ROOT / "docker" / "make-secrets", folder / "secrets"], check=True)
        made = Stack(compose.read(path), folder)
        try:
            yield made
        finally:
            made.down()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
