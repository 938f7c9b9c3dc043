"""What a sweep under test speaks to: PostgreSQL and an MLflow server, each behind a proxy, and a disk of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests import postgres
from tests.chaos.cluster import Cluster
from tests.chaos.proxy import Proxy
from tests.integration.test_mlflow import MLflowServer

STUDIES, RECORDS = "studies", "records"
# What the disk of the homes holds (bytes): checkpoints, spools and logs of a small sweep, many times over.
DISK_BYTES = 64 << 20


class Disk:
    """A small file system of its own, which a test can fill; needs root, to mount it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        options = f"size={DISK_BYTES}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "swathe-chaos", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        # Without root, or in a container that may not mount, the one fault that needs it is left out, and said so.
        self.why_not = (done.stderr.strip() or "mount failed") if done.returncode else ""

    def fill(self) -> None:
        """Leave not a byte."""
        with self._filler.open("ab", buffering=0) as file:
            size = 1 << 20
            while size:
                try:
                    # A full disk takes the last bytes before it takes none.
                    file.write(bytes(size))
                except OSError:
                    size //= 2

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        if not self.why_not:
            # Lazily: a recorder that a test has left behind may have a file open for an instant.
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything around a sweep, started once for many sweeps."""

    folder: Path
    cluster: Cluster
    postgres: postgres.Server
    mlflow: MLflowServer
    to_postgres: Proxy
    to_mlflow: Proxy
    disk: Disk

    @property
    def storage(self) -> str:
        """The study's URL as Swathe gets it."""
        port = self.postgres.port
        return self.postgres.database(STUDIES).replace(f":{port}/", f":{self.to_postgres.port}/")

    @property
    def tracking_uri(self) -> str:
        """MLflow's URL as Swathe gets it."""
        return f"http://127.0.0.1:{self.to_mlflow.port}"

    def mend(self) -> None:
        """Undo whatever a fault that was broken off has left."""
        self.to_postgres.mend()
        self.to_mlflow.mend()
        self.disk.free()
        if self.postgres.process is None:
            self.postgres.start()
        if not self.mlflow.is_running:
            self.mlflow.start()
        self.cluster.mend()


@contextmanager
def surroundings() -> Iterator[Surroundings]:
    """Start PostgreSQL, MLflow's server on it, the proxies, the disk and Ray's nodes; end them afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="swathe-chaos-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        database = stack.enter_context(postgres.server())
        database.create_database(STUDIES)
        records = database.create_database(RECORDS)
        mlflow = MLflowServer(folder, records.replace("postgresql://", "postgresql+psycopg://"))
        stack.callback(mlflow.stop)
        mlflow.start()
        cluster = stack.enter_context(closing(Cluster()))
        to_postgres = stack.enter_context(closing(Proxy(database.port)))
        to_mlflow = stack.enter_context(closing(Proxy(mlflow.port)))
        homes = folder / "homes"
        homes.mkdir()
        disk = stack.enter_context(closing(Disk(homes)))
        yield Surroundings(folder, cluster, database, mlflow, to_postgres, to_mlflow, disk)


def end_backends(server: postgres.Server, *, kill: bool) -> int:
    """End the connections to the studies: each by PostgreSQL itself, or one by SIGKILL, which restarts the server."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    with closing(psycopg.connect(server.url, autocommit=True)) as connection:
        pids = [pid for (pid,) in connection.execute(query, (STUDIES,))]
        if not kill:
            for pid in pids:
                connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
            return len(pids)
    for pid in pids[:1]:
        os.kill(pid, 9)
    return len(pids[:1])
