"""What a compose file says: its services as they would run, and nothing that is not known here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Keys of a service that a container engine acts on and a plain process has no need of.
ENGINE_KEYS = frozenset(
    {
        *("restart", "init", "read_only", "cap_drop", "security_opt", "tmpfs", "shm_size", "user", "network_mode"),
        *("ports", "build"),
    }
)
PLAYED_KEYS = frozenset(
    {
        *("image", "command", "environment", "secrets", "configs", "volumes", "networks", "depends_on", "healthcheck"),
        "deploy",
    }
)
CONDITIONS = frozenset({"service_started", "service_healthy", "service_completed_successfully"})
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\})")


@dataclass(frozen=True, slots=True)
class Check:
    """A health check: a program with its arguments, how often it is asked (seconds), how often it may fail."""

    command: tuple[str, ...]
    interval: float
    retries: int


@dataclass(frozen=True, slots=True)
class Service:
    """One service. `target`: the Dockerfile's stage, where the image is ours; `volumes`: folder in it -> name."""

    name: str
    image: str
    target: str | None
    command: tuple[str, ...] | None
    environment: Mapping[str, str]
    secrets: tuple[str, ...]
    configs: Mapping[str, str]
    volumes: Mapping[str, str]
    networks: frozenset[str]
    depends_on: Mapping[str, str]
    check: Check | None
    replicas: int


@dataclass(frozen=True, slots=True)
class Compose:
    """A whole file; `services` in an order in which each comes after those that it depends on."""

    services: Mapping[str, Service]
    secrets: Mapping[str, Path]


def read(path: Path) -> Compose:
    """Read a compose file; raises `AssertionError` for what is not known here."""
    return read_text(path.read_text(), path.parent)


def read_text(text: str, folder: Path = Path()) -> Compose:
    """Read a compose file's text, with each `${NAME:-DEFAULT}` as its default; paths are relative to `folder`."""
    values = yaml.safe_load(_filled(text))
    known = {"name", "services", "secrets", "configs", "networks", "volumes"}
    _refuse_unknown("the file", (key for key in values if not key.startswith("x-")), known)
    configs = {name: entry["content"] for name, entry in values.get("configs", {}).items()}
    services = {name: _service(name, entry, configs) for name, entry in values["services"].items()}
    for service in services.values():
        _check_names(service, values)
    secrets = {name: folder / entry["file"] for name, entry in values.get("secrets", {}).items()}
    return Compose({name: services[name] for name in _ordered(services)}, secrets)


def _filled(text: str) -> str:
    def value(found: re.Match[str]) -> str:
        if found["name"] is None:
            return "$"
        assert found["default"] is not None, f"{found[0]} has no value"
        return found["default"]

    return _VARIABLE.sub(value, text)


def _service(name: str, entry: Mapping[str, Any], configs: Mapping[str, str]) -> Service:
    _refuse_unknown(name, entry, PLAYED_KEYS | ENGINE_KEYS)
    mounts = (mount.split(":") for mount in entry.get("volumes", []))
    deploy = entry.get("deploy", {})
    _refuse_unknown(f"{name}.deploy", deploy, {"replicas"})
    command = entry.get("command")
    assert command is None or isinstance(command, list), f"{name}.command: write it as a list"
    return Service(
        name=name,
        image=entry["image"],
        target=entry["build"]["target"] if "build" in entry else None,
        command=None if command is None else tuple(command),
        environment={key: _text(name, key, value) for key, value in entry.get("environment", {}).items()},
        secrets=tuple(entry.get("secrets", [])),
        configs={use["target"]: configs[use["source"]] for use in entry.get("configs", [])},
        volumes={target: volume for volume, target in mounts},
        networks=frozenset(entry.get("networks", [])),
        depends_on={other: how["condition"] for other, how in entry.get("depends_on", {}).items()},
        check=_check(name, entry["healthcheck"]) if "healthcheck" in entry else None,
        replicas=deploy.get("replicas", 1),
    )


def _text(service: str, key: str, value: object) -> str:
    # Compose reads `false` and `1e3` as what YAML makes of them, which may not be what was written.
    assert isinstance(value, str), f"{service}.environment.{key}: quote {value!r}"
    return value


def _check(service: str, entry: Mapping[str, Any]) -> Check:
    _refuse_unknown(f"{service}.healthcheck", entry, {"test", "interval", "retries"})
    kind, *command = entry["test"]
    assert kind == "CMD", f"{service}.healthcheck: {kind} instead of CMD"
    return Check(tuple(command), float(str(entry["interval"]).removesuffix("s")), entry["retries"])


def _check_names(service: Service, values: Mapping[str, Any]) -> None:
    """Refuse a name of a network, volume, secret or service that the file does not have."""
    for kind, used in (
        ("networks", service.networks),
        ("volumes", service.volumes.values()),
        ("secrets", service.secrets),
        ("services", service.depends_on),
    ):
        missing = set(used) - set(values.get(kind, {}))
        assert not missing, f"{service.name}: there are no {kind} {sorted(missing)}"
    conditions = set(service.depends_on.values())
    assert conditions <= CONDITIONS, f"{service.name}.depends_on: {sorted(conditions - CONDITIONS)}"


def _refuse_unknown(where: str, entry: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(entry) - set(known))
    assert not unknown, f"{where}: tests/docker does not know what a process makes of {unknown}"


def _ordered(services: Mapping[str, Service]) -> Sequence[str]:
    ordered: list[str] = []
    while len(ordered) < len(services):
        ready = [name for name in services if name not in ordered and set(services[name].depends_on) <= set(ordered)]
        assert ready, f"services wait for each other: {sorted(set(services) - set(ordered))}"
        ordered += ready
    return ordered
