"""Servers that several of these tests speak to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.test_mlflow import MLflowServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    made = MLflowServer(tmp_path_factory.mktemp("server"))
    made.start()
    try:
        yield made
    finally:
        made.stop()
