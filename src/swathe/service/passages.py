"""What MLflow and optuna-dashboard are asked for through the proxies, by role; everything else is not let through.

MLflow 3 also has a gateway to language models, webhooks, jobs and an assistant that runs commands for whoever comes
from this machine, as everybody does who comes through the proxy: so these are lists of what is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from swathe.service.problems import ProblemError
from swathe.service.tokens import Role

# Bytes of a request's body: of a message (MLflow's own limit of a batch is 1 MB), and of an artifact.
MAX_MESSAGE, MAX_ARTIFACT = 4 * 2**20, 2**30

# Paths within /api/2.0/mlflow and the like, as regular expressions.
_ID = r"[A-Za-z0-9_.:-]+"
_GET = {
    r"experiments/(get|get-by-name|search)",
    r"runs/get|artifacts/list|server-info|ui-telemetry",
    r"metrics/(get-history|get-history-bulk|get-history-bulk-interval)",
    r"registered-models/(get|search|get-latest-versions|alias)",
    r"model-versions/(get|search|get-download-uri)",
    rf"logged-models/{_ID}(/artifacts/(directories|files))?",
    rf"datasets/(search|{_ID}|{_ID}/records|{_ID}/experiment-ids)",
    rf"traces(/(get|batchGet|{_ID}|{_ID}/info|{_ID}/assessments/{_ID}))?|unified-traces|get-trace-artifact",
    r"(scorers|label-schemas|review-queues)/(get|list|versions|online-configs|items/list)",
}
# Those of the page's and the clients' requests that only read.
_READING_POST = {
    r"(experiments|runs|logged-models|datasets|traces|issues)/search|experiments/search-datasets",
    r"registered-models/get-latest-versions|traces/(batchGetInfos|metrics|calculate-filter-correlation)",
}
_WRITING: Mapping[str, set[str]] = {
    "POST": {
        r"experiments/(update|set-experiment-tag|delete-experiment-tag)",
        r"runs/(create|update|log-batch|log-inputs|log-metric|log-model|log-parameter|outputs|set-tag|delete-tag)",
        rf"logged-models(/{_ID}/params)?",
        r"registered-models/(create|rename|set-tag|alias)|model-versions/(set-tag|transition-stage)",
    },
    "PATCH": {r"registered-models/update|model-versions/update", rf"logged-models/{_ID}(/tags)?"},
    "DELETE": {r"registered-models/(alias|delete-tag)|model-versions/delete-tag", rf"logged-models/{_ID}/tags/{_ID}"},
}
_ADMINS: Mapping[str, set[str]] = {
    "POST": {r"(experiments|runs)/(delete|restore)"},
    "DELETE": {r"(registered-models|model-versions)/delete", rf"logged-models/{_ID}"},
}
_MESSAGE = re.compile(r"/(?:ajax-)?api/[23]\.0/mlflow/(.+)")
_ARTIFACT = re.compile(r"/(?:ajax-)?api/2\.0/mlflow-artifacts/artifacts(/.*)?")
_FILES = re.compile(r"/|/static-files/.+|/health|/version")
# What hands out artifacts, which may be anything.
_DOWNLOADS = re.compile(r"/(model-versions/)?get-artifact|.*/(artifacts/files|get-trace-artifact)")


@dataclass(frozen=True, slots=True)
class Passage:
    """How a request is let through.

    `role`: who may. `most`: bytes of its body. `check`: returns the body to be sent in place of the one that came.
    `untrusted`: whether the answer is something that anybody may have uploaded. `kept`: whether browsers may keep it.
    """

    role: Role
    most: int = MAX_MESSAGE
    check: Callable[[bytes], bytes] | None = None
    untrusted: bool = False
    kept: bool = False


def mlflow_passage(method: str, path: str, artifacts: Path) -> Passage | None:
    """Return how a request to MLflow is let through, None if it is not; `artifacts`: the home's folder of them."""
    if method in ("GET", "HEAD") and _FILES.fullmatch(path):
        return Passage(Role.VIEWER, kept=path.startswith("/static-files/"))
    if method in ("GET", "HEAD") and _DOWNLOADS.fullmatch(path):
        return Passage(Role.VIEWER, untrusted=True)
    if _ARTIFACT.fullmatch(path):
        roles = {"GET": Role.VIEWER, "HEAD": Role.VIEWER, "PUT": Role.RUNNER, "DELETE": Role.ADMIN}
        return Passage(roles[method], MAX_ARTIFACT, untrusted=True) if method in roles else None
    if method == "POST" and path == "/graphql":
        return Passage(Role.VIEWER)
    found = _MESSAGE.fullmatch(path)
    return None if found is None else _message(method, found[1], artifacts)


def _message(method: str, name: str, artifacts: Path) -> Passage | None:
    match method, name:
        case "POST", "experiments/create":
            return Passage(Role.RUNNER, check=_plain_experiment)
        case "POST", "model-versions/create":
            return Passage(Role.RUNNER, check=lambda body: _known_source(body, artifacts))
    if method in ("GET", "HEAD") and _one_of(_GET, name):
        return Passage(Role.VIEWER)
    if method == "POST" and _one_of(_READING_POST, name):
        return Passage(Role.VIEWER)
    if _one_of(_WRITING.get(method, set()), name):
        return Passage(Role.RUNNER)
    return Passage(Role.ADMIN) if _one_of(_ADMINS.get(method, set()), name) else None


def _one_of(patterns: set[str], name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _plain_experiment(body: bytes) -> bytes:
    """Refuse an experiment whose artifacts are somewhere else: MLflow would hand out what is there."""
    values = _message_of(body)
    if values.get("artifact_location") or values.get("artifactLocation"):
        raise _refused("artifact_location", values, "no location, as the server keeps the artifacts of new experiments")
    # Written anew: of a key that comes twice, two programs may take another one.
    return json.dumps({key: values[key] for key in ("name", "tags") if key in values}).encode()


def _known_source(body: bytes, artifacts: Path) -> bytes:
    """Refuse a model that is no artifact of this server: MLflow would hand out whatever file is there."""
    values = _message_of(body)
    source = values.get("source")
    if not isinstance(source, str) or not _is_own(source, artifacts):
        raise _refused("source", values, "an artifact of a run or a logged model of this server")
    return json.dumps(values).encode()


def _is_own(source: str, artifacts: Path) -> bool:
    if re.search(r"\.\.|%|\\|//\.|[?#]", source):
        return False
    if re.fullmatch(r"(runs|models|mlflow-artifacts):/{1,3}[^/].*", source):
        # Not of another host: `mlflow-artifacts://HOST/...`.
        return re.match(r"[a-z-]+://[^/]", source) is None
    path = Path(source.removeprefix("file://"))
    return path.is_absolute() and path.resolve().is_relative_to(artifacts.resolve())


def _message_of(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "The body cannot be read; allowed: a JSON object.")
    return values


def _refused(key: str, values: Mapping[str, Any], allowed: str) -> ProblemError:
    given = repr(values.get(key))[:200]
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{key}: {given} is not allowed; allowed: {allowed}.")


# optuna-dashboard, within a sweep's own path.

_DASHBOARD = re.compile(
    r"/|/dashboard(/.*)?|/static/[A-Za-z0-9._-]+|/favicon\.ico|/csv/\d+|/api/(meta|studies)"
    r"|/api/studies/\d+(/param_importances|/plot/[a-z_]+)?"
)
_NOTE = re.compile(r"/api/studies/\d+(/\d+)?/note")


def dashboard_passage(method: str, path: str) -> Passage | None:
    """Return how a request to a sweep's optuna-dashboard is let through: all may look, runners may write notes."""
    if method in ("GET", "HEAD") and _DASHBOARD.fullmatch(path):
        return Passage(Role.VIEWER, kept=path.startswith("/static/"))
    return Passage(Role.RUNNER, most=2**16) if method == "PUT" and _NOTE.fullmatch(path) else None
