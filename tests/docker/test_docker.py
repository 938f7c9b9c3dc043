"""What docker/ says, held by linters and schemas, and by what the service needs of it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from swathe.config import compose_sweep
from swathe.home import Home, SweepCard
from swathe.runtime import prepare
from swathe.space import Space
from tests.docker import compose, image
from tests.docker.places import Place, Ports
from tests.docker.programs import DOCKERFILE, ROOT, program
from tests.docker.stack import COMPOSE

DOCKER = ROOT / "docker"
SCRIPTS = [DOCKER / "entrypoint", DOCKER / "make-secrets", DOCKER / "slurm.sbatch"]
ONE_SHOTS = {"objects", "bucket"}
FILE = compose.read(COMPOSE)
RAW: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())


def _lint(linter: str, *words: str | Path) -> str:
    """Run a linter of this environment and return all that it says."""
    found = shutil.which(linter, path=str(Path(sys.executable).parent))
    assert found is not None, f"{linter} is missing: run `make setup`."
    done = subprocess.run([found, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_dockerfile_has_nothing_that_hadolint_finds() -> None:
    assert _lint("hadolint", "--no-color", DOCKERFILE) == ""


def test_the_scripts_have_nothing_that_shellcheck_finds() -> None:
    others = [
        ROOT / "scripts" / "setup",
        ROOT / "scripts" / "install-system-packages",
        ROOT / "scripts" / "quickstart.sh",
    ]
    assert _lint("shellcheck", *SCRIPTS, *others, ROOT / ".ci" / "run") == ""


def test_the_compose_files_keep_to_the_compose_specification() -> None:
    files = (COMPOSE, DOCKER / "compose.gpu.yaml")
    _lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files)


def test_the_manifests_keep_to_the_schemas_of_kubernetes(tmp_path: Path) -> None:
    said = _lint("kubernetes-validate", "--strict", DOCKER / "kuberay.yaml")
    assert said.count("passed") == 6
    # Of RayCluster there is no schema in a registry of packages; what runs on its nodes are pods as any others.
    (cluster,) = (
        one for one in yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text()) if one["kind"] == "RayCluster"
    )
    spec = cluster["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node"}, "spec": group["template"]["spec"]}
        (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod))
        assert "passed" in _lint("kubernetes-validate", "--strict", tmp_path / "pod.yaml")
    assert spec["rayVersion"] == _pinned("ray")


def test_every_image_has_an_exact_version() -> None:
    bases = [line.words.split()[0] for line in image.instructions(DOCKERFILE) if line.instruction == "FROM"]
    stages = {line.stage for line in image.instructions(DOCKERFILE)}
    foreign = {base for base in bases if base not in stages} | {
        service.image for service in FILE.services.values() if service.target is None
    }
    for name in foreign:
        tag = name.partition(":")[2]
        assert re.search(r"\d+\.\d+|\d{4}-\d\d-\d\d", tag), f"{name} has no exact version"


def test_what_the_dockerfile_copies_is_in_its_context() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        source
        for line in image.instructions(DOCKERFILE)
        if line.instruction == "COPY" and not line.words.startswith("--from=")
        for source in line.words.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not source.startswith("docker/") or os.access(ROOT / source, os.X_OK), f"{source} cannot be run"
        assert any(fnmatch(source, one) or source.startswith(f"{one}/") for one in allowed), f"{source} is ignored"


@pytest.mark.parametrize("name", FILE.services)
def test_a_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = RAW["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    user = service.get("user") or _user(FILE.services[name])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), f"{name} runs as {user}"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert (FILE.services[name].check is None) == (name in ONE_SHOTS)


def _user(service: compose.Service) -> str:
    assert service.target is not None
    return next(
        line.words
        for line in image.instructions(DOCKERFILE)
        if line.stage == service.target and line.instruction == "USER"
    )


def test_a_service_waits_for_what_can_be_waited_for() -> None:
    for service in FILE.services.values():
        for other, condition in service.depends_on.items():
            expected = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
            assert condition == expected, f"{service.name} -> {other}"


def test_secrets_are_files(tmp_path: Path) -> None:
    made: dict[str, str] = {}
    for _ in range(2):
        subprocess.run([DOCKER / "make-secrets", tmp_path / "secrets"], check=True)
        found = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
        # Those that are there stay.
        assert made in ({}, found)
        made = found
    assert made.keys() == {path.name for path in FILE.secrets.values()}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert len(made["postgres_password"]) == len(made["ray_token"]) == 64
    assert made["minio_password"] in made["s3_credentials"]
    assert len(set(made.values())) == len(made)
    for service in FILE.services.values():
        for key, value in service.environment.items():
            if re.search("PASSWORD|TOKEN|CREDENTIALS|SECRET", key):
                assert value.startswith("/run/secrets/"), f"{service.name}: {key}"
                assert value.removeprefix("/run/secrets/") in service.secrets
            assert not re.search(r"//[^/@]*:[^/@]*@", value), f"{service.name}: {key} has a password"


def test_the_entrypoint_gives_libpq_a_password_that_only_it_may_read(tmp_path: Path) -> None:
    secret, passfile = tmp_path / "secret", tmp_path / "pgpass"
    secret.write_text("a:b\\c d")
    environment = {"POSTGRES_PASSWORD_FILE": str(secret), "PGPASSFILE": str(passfile), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [DOCKER / "entrypoint", "printenv"], env=environment, capture_output=True, text=True, check=True
    )
    # As PostgreSQL's documentation has it: a colon and a backslash are escaped.
    assert passfile.read_text() == "*:*:*:*:a\\:b\\\\c d\n"
    assert stat.S_IMODE(passfile.stat().st_mode) == 0o600
    assert "a:b" not in done.stdout


def test_texts_of_a_container_become_those_of_this_machine(tmp_path: Path) -> None:
    ports = Ports({("mlflow", 5000): 1, ("postgres", 5432): 2, ("minio", 9000): 3})
    place = Place("mlflow", FILE.services["mlflow"], FILE.services, tmp_path / "own", tmp_path / "volumes", ports)
    for text, expected in (
        ("--host=0.0.0.0", "--host=127.0.0.1"),
        ("--port=5000", "--port=1"),
        ("postgresql+psycopg://swathe@postgres:5432/mlflow", "postgresql+psycopg://swathe@127.0.0.1:2/mlflow"),
        ("--allowed-hosts=mlflow:5000,localhost:5000", "--allowed-hosts=127.0.0.1:1,127.0.0.1:1"),
        ("http://minio:9000", "http://127.0.0.1:3"),
        ("s3://mlflow", "s3://mlflow"),
        ("/run/secrets/s3_credentials", f"{tmp_path}/own/secrets/s3_credentials"),
        ("--temp-dir=/tmp/ray", f"--temp-dir={tmp_path}/own/tmp/ray"),
    ):
        assert place.translate(text) == expected
    with pytest.raises(AssertionError, match="mlflow names ray-head, with which it shares no network"):
        Place("mlflow", FILE.services["mlflow"], _apart(), tmp_path, tmp_path, ports).translate("ray-head:6379")


def _apart() -> dict[str, compose.Service]:
    """Return the services with Ray's head on a network of its own."""
    return {**FILE.services, "ray-head": compose.read_text(ALONE).services["ray-head"]}


ALONE = """
services: {ray-head: {image: "swathe:local", networks: [alone]}}
networks: {alone: {}}
"""


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("services: {one: {image: a, entrypoint: [x]}}", "does not know what a process makes of .'entrypoint'."),
        ("services: {one: {image: a, command: x}}", "write it as a list"),
        ("services: {one: {image: a, environment: {A: 1}}}", "quote 1"),
        ("services: {one: {image: a, secrets: [s]}}", "there are no secrets"),
        ("services: {one: {image: a, depends_on: {two: {condition: service_healthy}}}}", "there are no services"),
        ("services: {one: {image: '${NAME}'}}", "has no value"),
        ("services: {one: {image: a, healthcheck: {test: [CMD-SHELL, x], interval: 1s, retries: 1}}}", "CMD-SHELL"),
        ("include: [other.yaml]", "does not know"),
    ],
)
def test_what_the_processes_would_not_do_is_refused(text: str, refused: str) -> None:
    with pytest.raises(AssertionError, match=refused):
        compose.read_text(text)


@pytest.mark.parametrize(
    ("service", "refused"),
    [
        ("{image: redis:8.2}", "no program of this machine stands for the image redis"),
        ("{image: swathe, build: {target: swathe}, command: [nonesuch]}", "there is no program nonesuch"),
        ("{image: swathe, build: {target: nonesuch}}", "Dockerfile has no stage nonesuch"),
        (
            "{image: 'postgres:16', environment: {POSTGRES_USER: a, POSTGRES_DB: b, %s, PGTZ: UTC}}",
            r"acts on \['PGTZ'\]",
        ),
        (
            "{image: 'postgres:16', command: [-c, fsync=off], environment: {POSTGRES_USER: a, POSTGRES_DB: b, %s}}",
            r"acts on \['-c', 'fsync=off'\]",
        ),
    ],
)
def test_what_no_process_can_do_is_refused(service: str, refused: str, tmp_path: Path) -> None:
    filled = service.replace("%s", "POSTGRES_PASSWORD_FILE: /run/secrets/p")
    services = compose.read_text(f"services: {{one: {filled}}}").services
    place = Place("one", services["one"], services, tmp_path / "own", tmp_path / "volumes", Ports())
    place.prepare({})
    with pytest.raises(AssertionError, match=refused):
        program(place)


def test_a_sweep_without_a_storage_takes_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = compose_sweep("quickstart", [])
    home = Home(tmp_path)

    def card() -> SweepCard:
        return prepare(composed, Space.parse(composed), home, "swathe launch quickstart").card

    alone = card()
    assert alone.storage is None
    monkeypatch.setenv("SWATHE_STORAGE", FILE.services["swathe"].environment["SWATHE_STORAGE"])
    monkeypatch.setenv("SWATHE_TRACKING_URI", FILE.services["swathe"].environment["SWATHE_TRACKING_URI"])
    assert (card().storage, card().tracking_uri) == ("postgresql://swathe@postgres:5432/optuna", "http://mlflow:5000")
    # One that has a journal goes on with it.
    home.sweep("quickstart").write_card(alone)
    assert card().storage is None


def _pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]
