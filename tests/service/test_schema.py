"""The whole API against its own description, with what Schemathesis makes up: no server error, nothing undescribed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
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

from swathe.home import Home
from swathe.service.app import create_app
from swathe.service.job_records import JobKind
from swathe.service.jobs import Jobs
from tests.service.conftest import PLENTY, Service
from tests.service.test_jobs import record

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


OPERATIONS = [
    *("GET /health", "GET /sweeps", "GET /sweeps/{name}", "GET /sweeps/{name}/trials"),
    *("GET /sweeps/{name}/trials/{number}", "GET /sweeps/{name}/trials/{number}/curves"),
    *("GET /catalog", "GET /compare", "GET /sweeps/{name}/importance"),
    *("GET /sweeps/{name}/diagnosis", "GET /sweeps/{name}/best", "POST /sweeps/{name}/stop", "POST /validate"),
    *("POST /sweeps", "POST /sweeps/{name}/resume", "POST /sweeps/{name}/reproduce", "POST /sweeps/{name}/report"),
    *("POST /train", "POST /lr-find", "PUT /sweeps/{name}/priority", "GET /sweeps/{name}/report", "GET /cluster"),
    *("GET /sweeps/{name}/compare", "GET /sweeps/{name}/trials/{number}/diagnosis", "GET /runs/{run_id}/diagnosis"),
    *("POST /session", "GET /session", "DELETE /session"),
    *("GET /jobs", "GET /jobs/{job}", "GET /jobs/{job}/log", "POST /jobs/{job}/stop"),
]
# A stream of events has no end; what it refuses is in test_events.
STREAMS = ["GET /sweeps/{name}/events"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation", "mode"),
    # Nothing can be wrong with a request that takes nothing.
    [
        (operation, mode)
        for operation, mode in itertools.product(OPERATIONS, GenerationMode)
        if mode is not GenerationMode.NEGATIVE or operation not in ("GET /health", "GET /session", "DELETE /session")
    ],
)
def test_every_operation_answers_as_it_says(
    service: Service, copied: Callable[[], Home], operation: str, mode: GenerationMode
) -> None:
    method, path = operation.split()
    # Jobs that wait here are not for the other tests.
    app: Any = create_app(service.home if method == "GET" and "job" not in path else copied(), requests=PLENTY)
    headers = {"Authorization": f"Bearer {service.tokens['admin']}"}
    described = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers=headers)[f"/api/v1{path}"][method]

    jobs: Jobs = app._app.state.jobs
    known_job = jobs.create(record(kind=JobKind.REPORT)).id if "{job}" in path else ""
    checked = ("/validate", "/sweeps", "/train", "/lr-find", "/sweeps/{name}/resume")

    # A check that is not refused at once is a process.
    @settings(
        max_examples=8 if method == "POST" and path in checked else 100,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=described.as_strategy(generation_mode=mode), known=booleans())
    def answers(case: Any, known: bool) -> None:
        if known and "name" in (case.path_parameters or {}):
            # Made-up names are of no sweep.
            case.path_parameters["name"] = "f"
        if known and known_job:
            case.path_parameters["job"] = known_job
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
        for method, operation in operations.items():
            assert operation.get("summary"), path
            if path != "/api/v1/health":
                assert {"401", "403", "422", "429"} <= operation["responses"].keys(), path
            # Who signs in brings the token along in another way.
            if (method, path) not in (("get", "/api/v1/health"), ("post", "/api/v1/session")):
                assert operation["security"], path
