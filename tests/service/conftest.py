"""A small sweep that was really launched, and the service over it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swathe.home import Home
from swathe.service.admission import Rate
from swathe.service.app import create_app
from swathe.service.tokens import create_token
from tests.integration import swathes
from tests.service.client import TestClient

PLENTY = Rate(burst=1e9, per_second=1e9)
TRIALS = 8


@dataclass(frozen=True)
class Service:
    """A working folder with the finished sweep `f`, of whose trials some have failed, and a token of each role."""

    folder: Path
    home: Home
    tokens: dict[str, str]

    def client(self, **options: Any) -> TestClient:
        return TestClient(create_app(self.home, **{"requests": PLENTY, **options}), raise_server_exceptions=False)


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Service:
    folder = tmp_path_factory.mktemp("service")
    sweep = swathes.write_function_sweep(folder, "fails_above_a_half", trials=TRIALS)
    swathes.succeed(folder, "launch", sweep, "cluster=inline", "sweep.max_failures=8", "-q")
    home = Home(folder / ".swathe")
    tokens = {role: create_token(home, f"the-{role}", role) for role in ("viewer", "runner", "admin")}
    return Service(folder, home, tokens)


@pytest.fixture
def service(launched: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.chdir(launched.folder)
    return launched


@pytest.fixture
def copied(launched: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Home]:
    """Return what copies the working folder, goes there, and returns its home: for what changes it."""

    def copy() -> Home:
        shutil.copytree(launched.folder, tmp_path / "copy")
        monkeypatch.chdir(tmp_path / "copy")
        return Home(tmp_path / "copy" / ".swathe")

    return copy


@pytest.fixture(scope="session")
def open_client(launched: Service) -> Iterator[TestClient]:
    """Return one service for all tests: what it has read and verified it knows."""
    with launched.client() as client:
        yield client


@pytest.fixture
def client(service: Service, open_client: TestClient) -> TestClient:
    return open_client


@pytest.fixture
def get(client: TestClient, service: Service) -> Callable[..., Any]:
    """Return what reads a path as a viewer, with its query."""

    def read(path: str, status: int = 200, **query: Any) -> Any:
        headers = {"Authorization": f"Bearer {service.tokens['viewer']}"}
        answer = client.get(f"/api/v1{path}", params=query, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    return read
