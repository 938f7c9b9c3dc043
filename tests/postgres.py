"""A real PostgreSQL server for tests, in a folder and on a port of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

USER = "swathe"
PASSWORD = "not-to-be-shown"
START_SECONDS = 60.0


@dataclass
class Server:
    """A server that can be stopped, killed and started again; `url` is that of its database `postgres`."""

    folder: Path
    port: int
    account: str | None
    user: str = USER
    password: str = field(default=PASSWORD, repr=False)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return self.database("postgres")

    def database(self, name: str) -> str:
        """Return the URL of a database, which need not exist."""
        return f"postgresql://{self.user}:{self.password}@127.0.0.1:{self.port}/{name}"

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.database(name)

    def command(self) -> list[str]:
        options = ["-p", str(self.port), "-k", str(self.folder), "-c", "listen_addresses=127.0.0.1"]
        return [program("postgres"), "-D", str(self.folder / "data"), *options]

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), user=self.account, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    said = (self.folder / "server.log").read_text()[-2000:]
                    raise AssertionError(f"PostgreSQL does not start ({error}):\n{said}") from error
                time.sleep(0.02)

    def stop(self, *, immediately: bool = False) -> None:
        """Shut the server down, in order or as if the power failed; open connections are closed."""
        if self.process is not None:
            # An interrupt asks PostgreSQL for a "fast" shutdown, a quit for an "immediate" one.
            self.process.send_signal(signal.SIGQUIT if immediately else signal.SIGINT)
            self.process.wait(START_SECONDS)
            self.process = None


@contextmanager
def server() -> Iterator[Server]:
    """Run a new server; fails with a sentence where PostgreSQL is not installed."""
    folder = Path(tempfile.mkdtemp(prefix="swathe-postgres-"))
    made = Server(folder, _free_port(), account())
    try:
        # PostgreSQL refuses to run as root, and to use a folder that is another's.
        if made.account is not None:
            shutil.chown(folder, made.account)
        create(made)
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def create(made: Server) -> None:
    """Make the server's databases in its folder, which must be its account's."""
    secret = made.folder / "password"
    secret.write_text(made.password)
    if made.account is not None:
        shutil.chown(secret, made.account)
    options = ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C", "--no-sync"]
    done = subprocess.run(
        [program("initdb"), "-D", str(made.folder / "data"), "-U", made.user, *options],
        user=made.account,
        cwd=made.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"initdb failed:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


def account() -> str | None:
    """Return the account to run the server as; None for our own, which must not be root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def program(name: str) -> str:
    """Find one of PostgreSQL's programs: on the path, or where Debian keeps the newest version."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]), reverse=True
    )
    found = shutil.which(name) or next(map(str, versions), None)
    assert found is not None, (
        f"PostgreSQL's {name} is not installed, which this test needs: run `make system-packages`."
    )
    return found


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
