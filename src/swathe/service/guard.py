"""What every request passes before the app sees it: its token, its limits and the audit log."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import anyio
import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swathe.errors import SwatheError
from swathe.service import problems
from swathe.service.problems import ProblemError
from swathe.service.tokens import Authority, Token

log = logging.getLogger("swathe.service")

PREFIX = "/api/v1"
HEALTH = f"{PREFIX}/health"
# Bytes of a request's body, and seconds for it to arrive.
MAX_BODY = 2**20
BODY_SECONDS = 30.0
# Of a path that is written to the audit log (characters), and bytes after which a new log is begun.
_PATH, MAX_AUDIT = 500, 64 * 2**20
# Verifications by scrypt at once: each takes a core and 16 MiB.
_VERIFICATIONS = 2
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
_HSTS = (b"strict-transport-security", b"max-age=31536000")


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: so many requests at once, and so many a second in the long run."""

    burst: float
    per_second: float


REQUESTS = Rate(burst=200, per_second=50)
# Of one address: tokens with a known id and a wrong secret, each of which costs a scrypt.
FAILURES = Rate(burst=10, per_second=0.2)


class Buckets:
    """A token bucket for each key, of the `size` that were used last."""

    def __init__(self, rate: Rate, size: int = 4096) -> None:
        self._rate = rate
        self._size = size
        # Key -> (what is left, when that was).
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str) -> float:
        """Return after how many seconds this key has one request left; 0 where it has now."""
        return max(0.0, (1.0 - self._now(key)) / self._rate.per_second)

    def take(self, key: str) -> None:
        """Take one request of this key."""
        self._left[key] = (self._now(key) - 1.0, time.monotonic())
        self._left.move_to_end(key)
        while len(self._left) > self._size:
            self._left.popitem(last=False)

    def _now(self, key: str) -> float:
        left, then = self._left.get(key, (self._rate.burst, 0.0))
        return min(self._rate.burst, left + (time.monotonic() - then) * self._rate.per_second)


class Audit:
    """The audit log: a JSON line for each request, without anything secret."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, token: Token | None, method: str, path: str, status: int) -> None:
        line = {
            "time": time.time(),
            "token": None if token is None else token.name,
            "role": None if token is None else token.role,
            "method": method,
            "path": path[:_PATH],
            "status": status,
        }
        try:
            self._begin_anew()
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, json.dumps(line).encode() + b"\n")
            finally:
                os.close(file)
        except OSError as error:
            # A full disk must not keep the owner from stopping what fills it.
            log.error("%s cannot be written: %s", self._path, error)

    def _begin_anew(self) -> None:
        if self._path.exists() and self._path.stat().st_size >= MAX_AUDIT:
            self._path.replace(self._path.with_suffix(".log.1"))


class Guard:
    """The app with its token, limits, headers and audit log around it.

    The token of a request is in its state as `token`; what it may do is checked where it is done.
    """

    def __init__(
        self,
        app: ASGIApp,
        authority: Authority,
        audit: Audit,
        *,
        requests: Rate = REQUESTS,
        failures: Rate = FAILURES,
        tls: bool = False,
    ) -> None:
        self._app = app
        self._authority = authority
        self._audit = audit
        self._requests = Buckets(requests)
        self._failures = Buckets(failures)
        self._headers = [*_HEADERS, *([_HSTS] if tls else [])]
        self._verifying: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "lifespan":
                await self._app(scope, receive, send)
            case "http":
                await self._http(scope, receive, send)
            case _:
                # There are no websockets.
                await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        state["token"] = None
        noted = self._noting(scope, send)
        try:
            if scope["path"] != HEALTH:
                state["token"] = await self._token_of(scope)
                self._limit(state["token"])
            body = await _body(scope, receive)
        except SwatheError as error:
            # Tokens that cannot be read are the server's trouble and not the caller's.
            refusal = error if isinstance(error, ProblemError) else _away(error)
            await problems.answer(refusal)(scope, receive, noted)
            return
        await self._app(scope, _replayed(body, receive), noted)

    def _noting(self, scope: Scope, send: Send) -> Send:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in self._headers}
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
                message["headers"] = [*kept, *self._headers]
                path = scope.get("raw_path") or scope["path"].encode()
                text = path.decode("ascii", "backslashreplace")
                self._audit.write(scope["state"]["token"], scope["method"], text, message["status"])
            await send(message)

        return noting

    async def _token_of(self, scope: Scope) -> Token:
        presented = _presented(scope)
        if self._authority.known(presented):
            found = self._authority.verify(presented)
        else:
            found = await self._hashed(scope, presented)
        if found is None:
            raise _unauthorized("The token is not one of this server's, or it has expired or was revoked.")
        return found

    async def _hashed(self, scope: Scope, presented: str) -> Token | None:
        address = str((scope.get("client") or ("",))[0])
        _refuse_often(self._failures.wait(address), "wrong tokens from this address")
        self._verifying = self._verifying or anyio.CapacityLimiter(_VERIFICATIONS)
        found = await anyio.to_thread.run_sync(self._authority.verify, presented, limiter=self._verifying)
        if found is None:
            self._failures.take(address)
        return found

    def _limit(self, token: Token) -> None:
        _refuse_often(self._requests.wait(token.id), "requests with this token")
        self._requests.take(token.id)


def _presented(scope: Scope) -> str:
    """Return the token of the one Authorization header."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) == 1:
        kind, _, token = given[0].decode("latin-1").partition(" ")
        if kind.lower() == "bearer":
            return str(token.strip())
    raise _unauthorized("Authorization: it is missing; allowed: one header 'Bearer TOKEN'.")


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})


def _refuse_often(seconds: float, what: str) -> None:
    if seconds > 0:
        after = math.ceil(seconds)
        detail = f"There are too many {what}; allowed: the next one in {after} s."
        raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": str(after)})


def _away(error: SwatheError) -> ProblemError:
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error))


async def _body(scope: Scope, receive: Receive) -> bytes:
    """Return the whole body, which must be small, of JSON and there soon."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 20:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "Content-Length: it is no number; allowed: the size in bytes.")
    if int(length) > MAX_BODY:
        raise _too_large()
    if scope["method"] in ("GET", "HEAD") and int(length) == 0 and b"transfer-encoding" not in headers:
        return b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _received(receive)
    except TimeoutError:
        raise ProblemError(
            HTTPStatus.REQUEST_TIMEOUT, "The body does not arrive; allowed: all of it in 30 s."
        ) from None
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if body and kind != b"application/json":
        shown = kind[:100].decode("latin-1")
        detail = f"Content-Type: {shown!r} is not allowed; allowed: application/json."
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
    return body


async def _received(receive: Receive) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise _too_large()
        more = message.get("more_body", False)
    return bytes(body)


def _too_large() -> ProblemError:
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is too large; allowed: {MAX_BODY} bytes.")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return what gives the app the body that was read already, and then what comes after it."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
