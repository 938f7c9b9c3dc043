"""The whole API against its own description, with what Schemathesis makes up: no server error, nothing undescribed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import booleans
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from swathe.service.app import create_app
from tests.service.conftest import PLENTY, Service

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


OPERATIONS = [
    *("GET /health", "GET /sweeps", "GET /sweeps/{name}", "GET /sweeps/{name}/trials"),
    *("GET /sweeps/{name}/trials/{number}", "GET /sweeps/{name}/trials/{number}/curves"),
    *("GET /sweeps/{name}/diagnosis", "GET /sweeps/{name}/best", "POST /sweeps/{name}/stop", "POST /validate"),
]
# A stream of events has no end; what it refuses is in test_events.
STREAMS = ["GET /sweeps/{name}/events"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation", "mode"),
    # Nothing can be wrong with a request for health: it takes nothing.
    [
        pair
        for pair in itertools.product(OPERATIONS, GenerationMode)
        if pair != (OPERATIONS[0], GenerationMode.NEGATIVE)
    ],
)
def test_every_operation_answers_as_it_says(service: Service, operation: str, mode: GenerationMode) -> None:
    method, path = operation.split()
    app = create_app(service.home, requests=PLENTY)
    headers = {"Authorization": f"Bearer {service.tokens['admin']}"}
    described = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers=headers)[f"/api/v1{path}"][method]

    # A validation that is not refused at once is a process.
    @settings(max_examples=15 if path == "/validate" else 100, suppress_health_check=list(HealthCheck), database=None)
    @given(case=described.as_strategy(generation_mode=mode), known=booleans())
    def answers(case: Any, known: bool) -> None:
        if known and "name" in (case.path_parameters or {}):
            # Made-up names are of no sweep.
            case.path_parameters["name"] = "f"
        case.call_and_validate(headers={**(case.headers or {}), **headers}, checks=CHECKS)

    answers()


def test_no_operation_is_left_out(service: Service) -> None:
    with service.client() as client:
        headers = {"Authorization": f"Bearer {service.tokens['viewer']}"}
        paths = client.get("/api/v1/openapi.json", headers=headers).json()["paths"]
    found = [f"{method.upper()} {path.removeprefix('/api/v1')}" for path, one in paths.items() for method in one]
    assert sorted(found) == sorted(OPERATIONS + STREAMS)


def test_the_description_is_whole(service: Service) -> None:
    with service.client() as client:
        headers = {"Authorization": f"Bearer {service.tokens['viewer']}"}
        paths = client.get("/api/v1/openapi.json", headers=headers).json()["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation.get("summary"), path
            if path != "/api/v1/health":
                assert {"401", "403", "422", "429"} <= operation["responses"].keys(), path
                assert operation["security"], path
