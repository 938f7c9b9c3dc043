"""Where on this machine is what a container would see: hosts, ports, folders and secrets."""

from __future__ import annotations

import random
import re
import shutil
import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.docker.compose import Service

_OWN = ("localhost", "127.0.0.1", "0.0.0.0")


@dataclass(slots=True)
class Ports:
    """The free port of this machine that stands for a port of a service (or of one of its replicas)."""

    known: dict[tuple[str, int], int] = field(default_factory=dict)

    def of(self, name: str, port: int) -> int:
        if (name, port) not in self.known:
            self.known[name, port] = free_port()
        return self.known[name, port]


def free_port() -> int:
    """Return a port that nobody listens at, nor is given by chance before its service starts.

    That is one above those of Ray's workers (to 19999) and below those that the system gives out (from 32768 on).
    """
    while True:
        port = random.randrange(20000, 32000)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(frozen=True, slots=True)
class Place:
    """One replica of a service as a process: `folder` has what is its own, `volumes` are shared (by name)."""

    name: str
    service: Service
    services: Mapping[str, Service]
    folder: Path
    volumes: Path
    ports: Ports

    def prepare(self, secrets: Mapping[str, Path]) -> None:
        """Make its folders, with those secrets alone that it names."""
        for folder in self._folders().values():
            folder.mkdir(parents=True, exist_ok=True)
        for secret in self.service.secrets:
            shutil.copy(secrets[secret], self.folder / "secrets" / secret)

    def port(self, port: int) -> int:
        """Return what stands for a port of this very service."""
        return self.ports.of(self.name, port)

    def translate(self, text: str) -> str:
        """Return a text with this machine's hosts, ports and folders in place of the container's."""
        hosts = "|".join(map(re.escape, (*self.services, *_OWN)))
        folders = "|".join(map(re.escape, sorted(self._folders(), key=len, reverse=True)))
        pattern = rf"(?<![\w.-])(?P<host>{hosts}):(?P<port>\d+)|(?P<any>0\.0\.0\.0)|(?<=port=)(?P<own>\d+)"
        return re.sub(rf"{pattern}|(?<![\w./])(?P<folder>{folders})(?![\w.-])", self._replaced, text)

    def _replaced(self, found: re.Match[str]) -> str:
        if found["folder"] is not None:
            return str(self._folders()[found["folder"]])
        if found["own"] is not None:
            return str(self.port(int(found["own"])))
        if found["any"] is not None:
            return "127.0.0.1"
        if found["host"] in _OWN:
            return f"127.0.0.1:{self.port(int(found['port']))}"
        other = self.services[found["host"]]
        alone = other.name != self.service.name and not other.networks & self.service.networks
        assert not alone, f"{self.service.name} names {other.name}, with which it shares no network"
        assert other.replicas == 1, f"{self.service.name} names {other.name}, of which there are several"
        return f"127.0.0.1:{self.ports.of(other.name, int(found['port']))}"

    def _folders(self) -> dict[str, Path]:
        own = {"/tmp": "tmp", "/run/secrets": "secrets", "/home/swathe": "home"}
        shared = {target: self.volumes / name for target, name in self.service.volumes.items()}
        return {target: self.folder / name for target, name in own.items()} | shared
