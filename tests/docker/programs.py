"""Which program of this machine stands for which image: the one table in which the two forms of the stack differ."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests import postgres
from tests.docker import image as images
from tests.docker.places import Place, free_port

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
# What an engine gives to a container, and a node of Ray that is a process must be told: an address, its share of the
# cores, and (bytes) of the memory.
RAY_NODE = ("--node-ip-address=127.0.0.1", "--object-store-memory=80000000")
RAY_CPUS = "--num-cpus=1"


@dataclass(frozen=True, slots=True)
class Program:
    """A service as a process. `check`: its health check; `account`: whose it is, None: ours; `stop`: what ends it."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    check: Sequence[str] = ()
    account: str | None = None
    stop: signal.Signals = signal.SIGTERM


def program(place: Place, command: Sequence[str] | None = None) -> Program:
    """Return what runs a service, or another command in its place, as `docker compose run` does."""
    name = place.service.image.partition(":")[0]
    if place.service.target is None:
        assert name in _FOREIGN, f"{place.service.name}: no program of this machine stands for the image {name}"
        return _FOREIGN[name](place)
    assert not place.service.configs, f"{place.service.name}: no process looks into {sorted(place.service.configs)}"
    image = images.read(DOCKERFILE, place.service.target)
    environment = _base(place) | {key: place.translate(value) for key, value in _environment(place, image).items()}
    path = environment["PATH"] = _path(place, image)
    folder = Path(place.translate(image.workdir))
    folder.mkdir(parents=True, exist_ok=True)
    # What an entrypoint gets is a program of its own.
    words = _found(place, image.entrypoint, path) + _found(place, _with_node(command, place, image), path)
    check = () if place.service.check is None else place.service.check.command
    return Program(words, environment, folder, _found(place, check, path))


def _with_node(command: Sequence[str] | None, place: Place, image: images.Image) -> Sequence[str]:
    words = list(command or place.service.command or image.command)
    if words[:2] != ["ray", "start"]:
        return words
    return [*words, *RAY_NODE, *([] if any(word.startswith("--num-cpus=") for word in words) else [RAY_CPUS])]


def _base(place: Place) -> dict[str, str]:
    # Nothing else of the environment that the stack is started in: a container has none of it either.
    folders = {"HOME": place.translate("/home/swathe"), "TMPDIR": place.translate("/tmp")}
    return {**folders, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}


def _environment(place: Place, image: images.Image) -> dict[str, str]:
    return {**image.environment, **place.service.environment}


def _path(place: Place, image: images.Image) -> str:
    """Return the search path: what the image copies of the checkout, then the environment that we run in."""
    folder = place.folder / "bin"
    folder.mkdir(exist_ok=True)
    for source, target in image.copied:
        assert f"{target}:" in image.environment["PATH"], f"{target} is not on the image's PATH"
        link = folder / Path(source).name
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT / source)
    return f"{folder}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"


def _found(place: Place, words: Sequence[str], path: str) -> list[str]:
    """Return a command with its program's path, and this machine's hosts, ports and folders."""
    if not words:
        return []
    found = shutil.which(words[0], path=path)
    assert found is not None, f"{place.service.name}: there is no program {words[0]}"
    return [found, *map(place.translate, words[1:])]


# Images of others. Each function refuses a command or variable that it does not act on.


def _postgres(place: Place) -> Program:
    """Do what the image's entrypoint does with its variables and its folder of scripts, then run Debian's server."""
    variables = dict(place.service.environment)
    user, database = variables.pop("POSTGRES_USER"), variables.pop("POSTGRES_DB")
    secret = Path(place.translate(variables.pop("POSTGRES_PASSWORD_FILE")))
    _refuse(place, variables, place.service.command or ())
    folder = Path(place.translate("/var/lib/postgresql/data"))
    server = postgres.Server(folder, place.port(5432), postgres.account(), user, secret.read_text())
    if server.account is not None:
        _let_in(folder, server.account)
    if not (folder / "data").exists():
        postgres.create(server)
        server.start()
        with closing(psycopg.connect(server.create_database(database), autocommit=True)) as connection:
            for target, content in place.service.configs.items():
                assert target.startswith("/docker-entrypoint-initdb.d/"), f"the image does not look into {target}"
                connection.execute(content.encode())
        server.stop()
    check = _asked(place, "pg_isready")
    asked = [postgres.program("pg_isready"), *check]
    # As the image says: PostgreSQL takes SIGTERM for a wish to wait for its clients.
    return Program(server.command(), _base(place), folder, asked, server.account, stop=signal.SIGINT)


def _let_in(folder: Path, account: str) -> None:
    shutil.chown(folder, account)
    for parent in folder.parents[:2]:
        parent.chmod(0o711)


def _minio(place: Place) -> Program:
    """Run another S3 server, which checks signatures, too: MinIO's own program is in no registry of packages."""
    variables = dict(place.service.environment)
    user, secret = variables.pop("MINIO_ROOT_USER"), variables.pop("MINIO_ROOT_PASSWORD_FILE")
    # Of a home and a page for people the other server has none.
    _refuse(place, {key: value for key, value in variables.items() if key not in ("HOME", "MINIO_BROWSER")}, ())
    server, address, data = place.service.command or ("", "", "")
    assert server == "server", f"minio {server} is not known here"
    port, folder = place.translate(address).rpartition(":")[2], place.translate(data)
    identity = {
        "name": user,
        "credentials": [{"accessKey": user, "secretKey": Path(place.translate(secret)).read_text()}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = place.folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    config.chmod(0o600)
    command = [_weed(), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}"]
    command += ["-filer", "-s3", f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=8"]
    command += ["-master.volumeSizeLimitMB=64", "-master.telemetry=false", "-volume.preStopSeconds=0"]
    others = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    command += [f"-{name}={free_port()}" for name in (*others, "s3.port.grpc")]
    assert _asked(place, "mc") == ["ready", "local"], "mc is asked something that is not known here"
    connect = f"import socket; socket.create_connection(('127.0.0.1', {port})).close()"
    # In order it takes a quarter of a minute, in which it waits for others that it does not have here.
    return Program(command, _base(place), place.folder, [sys.executable, "-c", connect], stop=signal.SIGKILL)


def _weed() -> str:
    found = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found is not None, "SeaweedFS's weed is missing: run `make setup`."
    return found


def _asked(place: Place, program: str) -> list[str]:
    check = place.service.check
    assert check is not None, f"{place.service.name} has no health check"
    first, *words = check.command
    assert first == program, f"{place.service.name}: the health check runs {first}"
    return [place.translate(word) for word in words]


def _refuse(place: Place, variables: Mapping[str, str], command: Sequence[str]) -> None:
    assert not variables, f"{place.service.name}: no process acts on {sorted(variables)}"
    assert not command, f"{place.service.name}: no process acts on {list(command)}"


_FOREIGN: Mapping[str, Callable[[Place], Program]] = {"postgres": _postgres, "minio/minio": _minio}


def run(program: Program) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        program.command,
        env=dict(program.environment),
        cwd=program.folder,
        user=program.account,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
