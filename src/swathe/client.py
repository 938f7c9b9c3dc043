"""A server of `swathe serve` as the command line sees it: requests, their refusals in one sentence, and events."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from swathe import __version__
from swathe.errors import BadInputError, SwatheError, bad_value

SERVER, TOKEN = "SWATHE_SERVER", "SWATHE_TOKEN"
PREFIX = "/api/v1"
# What a request may take (seconds): to connect, and until the next bytes come; a check of a sweep takes the longest.
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 180.0
# Events come with a comment each 15 s at least: without one for so long (seconds), the connection is taken for dead.
SILENT_SECONDS = 60.0
# After how long each (seconds) a request whose connection broke is sent again; how often one that came too early is.
RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)
TOO_EARLY = 5
# For how long (seconds) a command that waits for a sweep or a job puts up with a server that does not answer.
PATIENCE_SECONDS = 600.0


class UnreachableError(SwatheError):
    """The server does not answer."""


class NotFoundError(BadInputError):
    """What was asked for is not on the server."""


class RefusedError(BadInputError):
    """The server refused a request with this status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event; `id` is what a stream goes on after, "" where it has none."""

    id: str
    kind: str
    data: Mapping[str, Any]


class Server:
    """A server, asked with the token of the environment. Raises `BadInputError` for what it refuses (status 4xx), and
    `SwatheError` where it fails or does not answer.
    """

    def __init__(self, url: str) -> None:
        self.url = _checked(url)
        token = os.environ.get(TOKEN, "").strip()
        if not token:
            raise BadInputError(
                f"{TOKEN}: it is missing; allowed: a token in the environment, as `swathe token create` prints it "
                "where the server runs."
            )
        if not token.isascii() or not token.isprintable():
            raise BadInputError(f"{TOKEN}: what it holds is no token; allowed: what `swathe token create` has printed.")
        self._client = httpx.Client(
            base_url=self.url + PREFIX,
            headers={"Authorization": f"Bearer {token}", "User-Agent": f"swathe/{__version__}"},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        )

    def get(self, path: str, **query: Any) -> Any:
        """Read a path; what is None in the query is left out."""
        return self._answer("GET", path, query).json()

    def text(self, path: str) -> str:
        """Read a path that is no JSON."""
        return self._answer("GET", path, {}).text

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request that changes what is there already, or only checks, and return the answer."""
        return self._answer(method, path, {}, body=body).json()

    def create(self, path: str, body: Mapping[str, Any]) -> Any:
        """Create a job, and only one: a request whose answer was lost is sent again under the same key."""
        return self._answer("POST", path, {}, body=body, key=secrets.token_hex(16)).json()

    def patient(self, path: str, **query: Any) -> Any:
        """Read a path as one who waits anyway: a server that is away may come back within `PATIENCE_SECONDS`."""
        began = time.monotonic()
        while True:
            try:
                return self.get(path, **query)
            except UnreachableError:
                if time.monotonic() >= began + PATIENCE_SECONDS:
                    raise
                time.sleep(1.0)

    def events(self, sweep: str, after: str | None) -> Iterator[Event]:
        """Yield a sweep's events after an id, without one those to come, over broken connections and restarts.

        Raises `NotFoundError` where there is no such sweep (yet).
        """
        last, lost = after, time.monotonic()
        while True:
            headers = {} if last is None else {"Last-Event-ID": last}
            timeout = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
            try:
                with self._client.stream(
                    "GET", f"/sweeps/{sweep}/events", headers=headers, timeout=timeout
                ) as response:
                    if response.status_code != 200:
                        response.read()
                        self._refuse(response)
                    for event in parsed(response.iter_lines()):
                        last, lost = event.id or last, time.monotonic()
                        yield event
            except httpx.TransportError as error:
                if time.monotonic() >= lost + PATIENCE_SECONDS:
                    raise self._away(error) from error
            time.sleep(1.0)

    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        *,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        # Only what may be done twice is sent again.
        waits = list(RETRY_SECONDS) if key is not None else []
        early = 0
        while True:
            try:
                response = self._client.request(method, path, params=_given(query), json=body, headers=headers)
            except httpx.TransportError as error:
                if not waits:
                    raise self._away(error) from error
                time.sleep(waits.pop(0))
                continue
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS and early < TOO_EARLY:
                early += 1
                time.sleep(_seconds(response.headers.get("Retry-After")))
                continue
            if not response.is_success:
                self._refuse(response)
            return response

    def _refuse(self, response: httpx.Response) -> None:
        detail = _detail(response)
        match response.status_code:
            case 401:
                raise RefusedError(f"{TOKEN}: {detail} Set it to a token of {self.url}.", 401)
            case 403:
                raise RefusedError(f"{detail} Set {TOKEN} to a token with that role.", 403)
            case 404:
                raise NotFoundError(detail)
            case status if 400 <= status < 500:
                raise RefusedError(detail, status)
        raise SwatheError(f"{self.url}: {detail}")

    def _away(self, error: httpx.TransportError) -> UnreachableError:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        return UnreachableError(f"{self.url} does not answer ({reason}).")


def parsed(lines: Iterator[str]) -> Iterator[Event]:
    """Yield the events of a stream of lines (WHATWG HTML, "Server-sent events"); one that is cut off is dropped."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield Event(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}


def _checked(url: str) -> str:
    """Return the address without what the API adds to it; raises `BadInputError` for what is none."""
    allowed = "http://HOST:PORT or https://HOST, without a name or password; the token is in " + TOKEN
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise bad_value("--server", "what is no URL", allowed) from error
    if parts.scheme not in ("http", "https") or not parts.host or parts.query or parts.fragment:
        raise bad_value("--server", url if not parts.userinfo else "a URL with a password", allowed)
    if parts.userinfo:
        raise bad_value("--server", "a URL with a password", allowed)
    return str(parts).rstrip("/").removesuffix(PREFIX)


def _detail(response: httpx.Response) -> str:
    """Return a problem's sentence; of an answer that is none, such as a proxy's, its status in words."""
    try:
        detail = response.json()["detail"]
    except (ValueError, LookupError, TypeError):
        detail = None
    if isinstance(detail, str) and detail:
        return detail
    return f"The server answers {response.status_code} {response.reason_phrase}."


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _seconds(retry_after: str | None) -> float:
    return min(30.0, float(retry_after)) if retry_after and retry_after.isdigit() else 1.0
