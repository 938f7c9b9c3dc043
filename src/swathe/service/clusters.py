"""The Ray on which jobs run: one of the service's own, started when there is a first job, or one that exists."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from swathe.errors import SwatheError, bad_value
from swathe.home import Home
from swathe.service import ray_head
from swathe.service.ray_head import RayHead
from swathe.service.ray_jobs import RayAwayError, RayJobs, RayRefusedError

# How long a Ray of our own may take until it answers, and how often it is asked until then (seconds).
START_SECONDS, ASK_SECONDS = 120.0, 0.25


class Cluster(Protocol):
    """Where jobs run."""

    async def ready(self) -> RayJobs:
        """Return a client, of a Ray that was started for that if need be; raises `SwatheError` if it does not start."""

    async def known(self) -> RayJobs | None:
        """Return a client of the Ray that is there; None where none was started, or where it is gone."""

    async def end(self) -> bool:
        """End what was started, and return whether there was something; what exists anyway stays."""

    async def close(self) -> None:
        """End the connections."""


class OwnCluster:
    """A Ray of the service's own on this machine."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._client: RayJobs | None = None
        self._of: RayHead | None = None
        self._answers = False
        self._process: int | None = None

    async def ready(self) -> RayJobs:
        client = await self.known()
        if client is None:
            # What is left of one that is dead: half of it may live.
            await asyncio.to_thread(ray_head.end, self._home)
            try:
                client = await self._connected(await asyncio.to_thread(ray_head.start, self._home))
            except OSError as error:
                raise SwatheError(f"Ray does not start on this machine: {error.strerror}.") from error
        return client if self._answers else await self._answering(client)

    async def known(self) -> RayJobs | None:
        head = await asyncio.to_thread(ray_head.find, self._home)
        if head is None or not await self._is_alive(head):
            return None
        return await self._connected(head)

    async def _is_alive(self, head: RayHead) -> bool:
        self._process = await asyncio.to_thread(head.first, self._process)
        return self._process is not None

    async def _connected(self, head: RayHead) -> RayJobs:
        if self._client is None or self._of != head:
            await self.close()
            self._client, self._of, self._answers = RayJobs(head.dashboard, head.token()), head, False
        return self._client

    async def _answering(self, client: RayJobs) -> RayJobs:
        """Wait until it answers; raises `SwatheError` where it does not come to that."""
        deadline = time.monotonic() + START_SECONDS
        assert self._of is not None
        while True:
            try:
                if await client.nodes():
                    self._answers = True
                    return client
            except (RayAwayError, RayRefusedError) as error:
                if time.monotonic() >= deadline or not await self._is_alive(self._of):
                    why = ray_head.why_not(self._of)
                    await self.end()
                    raise SwatheError(f"Ray does not start on this machine: {why.rstrip('.')}.") from error
            await asyncio.sleep(ASK_SECONDS)

    async def end(self) -> bool:
        await self.close()
        return await asyncio.to_thread(ray_head.end, self._home)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
        self._client = None


class ExistingCluster:
    """A Ray that somebody else starts and ends."""

    def __init__(self, address: str) -> None:
        self._client = RayJobs(address, _token_of_environment())

    async def ready(self) -> RayJobs:
        return self._client

    async def known(self) -> RayJobs | None:
        return self._client

    async def end(self) -> bool:
        return False

    async def close(self) -> None:
        await self._client.close()


def check_address(address: str) -> str:
    """Return the URL of a Ray dashboard without a slash at its end; raises `BadInputError` for what is none."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise bad_value("--address", address, "the URL of a Ray head's dashboard, such as http://10.0.0.1:8265")
    return address.rstrip("/")


def _token_of_environment() -> str | None:
    """Return the token that Ray itself would take here, in the same order; None where there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / ".ray" / "auth_token")
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
