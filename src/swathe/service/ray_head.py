"""A Ray of the service's own on this machine: started as processes that outlive the server, found again, ended.

Everything here blocks.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from swathe.home import Home, write_aside

# How long Ray may take to end by itself, and a job that Ray stops (seconds).
END_SECONDS, STOP_SECONDS = 5.0, 20
# A longer path of the folder for temporary files (bytes) is too long for Ray's sockets.
_MAX_TEMPORARY = 24
# As for a sweep's own Ray, see `cluster.LOG_BYTES`, which is not for this process to import.
_LOG_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class RayHead:
    """Where the Ray of a home is: its dashboard's URL, its folder for sockets and logs, and the file of its token."""

    dashboard: str
    folder: str
    token_file: str

    def token(self) -> str:
        """Return the token that it asks for."""
        return Path(self.token_file).read_text().strip()

    def processes(self) -> list[int]:
        """Return its processes, the one that started the others first."""
        found = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and self._owns(path)]
        return sorted(found)

    def _owns(self, process: Path) -> bool:
        # Its folder, whose name nobody else has drawn, is in the command of each.
        return os.fsencode(self.folder) in _command(process)

    def first(self, known: int | None = None) -> int | None:
        """Return the process that started the others, and ends when one of them does; None where it is gone.

        `known`: what it was before, so that only that is looked at while it is there.
        """
        if known is not None and self._is_first(known):
            return known
        return next(filter(self._is_first, self.processes()), None)

    def _is_first(self, pid: int) -> bool:
        command = _command(Path("/proc") / str(pid))
        return b"\0start\0--head\0" in command and os.fsencode(self.folder) in command


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _note(home: Home) -> Path:
    return home.path / "cluster.json"


def find(home: Home) -> RayHead | None:
    """Return the Ray of this home, alive or not; None where none was started, or where it was ended."""
    try:
        return RayHead(**json.loads(_note(home).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def start(home: Home) -> RayHead:
    """Start a Ray, which is not ready yet when this returns, and note where it is."""
    # Unix sockets have paths of at most 107 bytes, of which Ray's own part takes 60: it cannot be in the home.
    short = len(os.fsencode(tempfile.gettempdir())) <= _MAX_TEMPORARY
    folder = tempfile.mkdtemp(prefix="swathe-ray-", dir=None if short else "/tmp")
    token_file = home.path / "ray-token"
    write_aside(token_file, secrets.token_hex(32).encode(), mode=0o600)
    dashboard, *others = _free_ports(3)
    head = RayHead(f"http://127.0.0.1:{dashboard}", folder, str(token_file))
    # Before it starts: a server that is killed in between finds it again.
    write_aside(_note(home), json.dumps(asdict(head), indent=2).encode(), mode=0o600)
    log = os.path.join(folder, "head.log")
    os.posix_spawn(
        sys.executable,
        _command_of(folder, dashboard, *others),
        _environment(head),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        # It must not end with the server, nor get its ^C.
        setsid=True,
    )
    return head


def _command_of(folder: str, dashboard: int, gcs: int, client: int) -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--temp-dir", folder, "--port", str(gcs), "--disable-usage-stats"),
        *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
        # Else they are the same ones for every Ray of this machine.
        *("--dashboard-agent-listen-port", "0", "--ray-client-server-port", str(client)),
    ]


def _environment(head: RayHead) -> Mapping[str, str]:
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": head.token_file,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_ROTATION_MAX_BYTES": str(_LOG_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    }


def _free_ports(count: int) -> list[int]:
    with suppress(OSError):
        taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        ports = [one.getsockname()[1] for one in taken]
        for one in taken:
            one.close()
        return ports
    raise AssertionError("127.0.0.1 has no free port")


def why_not(head: RayHead) -> str:
    """Return the last line that a Ray which did not start has written."""
    with suppress(OSError):
        lines = [line for line in (Path(head.folder) / "head.log").read_text(errors="replace").splitlines() if line]
        if lines:
            return lines[-1][:300]
    return "it wrote nothing"


def end(home: Home) -> bool:
    """End the Ray of this home, and what runs in it; return whether there was one."""
    head = find(home)
    if head is None:
        return False
    there = head.processes()
    for pid in there[:1]:
        # The first ends the others.
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + END_SECONDS
    while head.first() is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in head.processes():
        _signal(pid, signal.SIGKILL)
    shutil.rmtree(head.folder, ignore_errors=True)
    _note(home).unlink(missing_ok=True)
    (home.path / "ray-token").unlink(missing_ok=True)
    return bool(there)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
