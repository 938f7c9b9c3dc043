"""Ray's jobs over the REST API of a head's dashboard: submit, ask, stop, and what its nodes have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from swathe.errors import SwatheError
from swathe.service.queue import Devices

# How long Ray may take to answer (seconds).
ANSWER_SECONDS = 10.0


class RayAwayError(SwatheError):
    """Ray does not answer."""


class RayRefusedError(SwatheError):
    """Ray answers, and will not do what it was asked."""


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node of the cluster: what it has, and what is used of it."""

    id: str
    alive: bool
    has: Devices
    used: Devices


@dataclass(frozen=True, slots=True)
class RayStatus:
    """How Ray has a submission: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED, and what it says of it."""

    status: str
    message: str

    @property
    def over(self) -> bool:
        """Whether its process has ended, or will never begin."""
        return self.status not in ("PENDING", "RUNNING")


class RayJobs:
    """A client of one Ray cluster. `token`: of a cluster that asks for one (`RAY_AUTH_MODE=token`)."""

    def __init__(self, address: str, token: str | None) -> None:
        self.address = address
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._client = httpx.AsyncClient(
            base_url=address, headers=headers, timeout=ANSWER_SECONDS, trust_env=False, follow_redirects=False
        )

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()

    async def submit(self, submission: str, command: str, here: Devices) -> None:
        """Submit a job under an id of ours; nothing happens where Ray has that already.

        `here`: what its own process takes of the devices. Raises `RayRefusedError` and `RayAwayError`.
        """
        body = {
            "submission_id": submission,
            "entrypoint": command,
            "entrypoint_num_cpus": here.cpus,
            "entrypoint_num_gpus": here.gpus,
        }
        answer = await self._ask("POST", "/api/jobs/", json=body)
        if answer.is_error and "already exists" not in answer.text:
            raise _refused("does not take a job", answer)

    async def status(self, submission: str) -> RayStatus | None:
        """Return how a submission stands; None where Ray has none of this id."""
        answer = await self._ask("GET", f"/api/jobs/{submission}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        found = _json(answer)
        return RayStatus(str(found.get("status")), str(found.get("message") or ""))

    async def stop(self, submission: str) -> None:
        """End a submission's processes, first with SIGTERM."""
        await self._ask("POST", f"/api/jobs/{submission}/stop")

    async def nodes(self) -> list[RayNode]:
        """Return the nodes, with the head's first."""
        listed = _json(await self._ask("GET", "/api/v0/nodes"))
        usage = _json(await self._ask("GET", "/api/cluster_status"))
        used = _mapping(usage, "data", "clusterStatus", "loadMetricsReport", "usageByNode")
        nodes = _mapping(listed, "data", "result").get("result") or []
        nodes.sort(key=lambda node: (not node.get("is_head_node"), str(node.get("node_id"))))
        return [_node(node, used) for node in nodes]

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = await self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise RayAwayError(f"The Ray cluster at {self.address} does not answer ({what}).") from error
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise _refused("asks for a token (RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)", answer)
        return answer


def _refused(what: str, answer: httpx.Response) -> RayRefusedError:
    # Ray answers with a traceback, whose last line says what it is.
    said = (answer.text.strip().splitlines() or [str(answer.status_code)])[-1]
    return RayRefusedError(f"Ray {what}: {said[:300].rstrip('.')}.")


def _json(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise _refused("cannot answer", answer)
    try:
        found = answer.json()
    except ValueError as error:
        raise RayAwayError(f"What answers at {answer.url.host} is no Ray cluster's dashboard.") from error
    return found if isinstance(found, dict) else {}


def _mapping(values: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return dict(values) if isinstance(values, Mapping) else {}


def _node(node: Mapping[str, Any], used: Mapping[str, Any]) -> RayNode:
    total = node.get("resources_total") or {}
    now = used.get(str(node["node_id"])) or {}
    alive = node.get("state") == "ALIVE"
    return RayNode(
        str(node["node_id"]),
        alive,
        Devices(float(total.get("CPU", 0.0)), float(total.get("GPU", 0.0))),
        Devices(_used(now, "CPU"), _used(now, "GPU")) if alive else Devices(),
    )


def _used(usage: Mapping[str, Any], what: str) -> float:
    pair = usage.get(what) or (0.0, 0.0)
    return float(pair[0])
