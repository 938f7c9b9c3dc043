"""What every request passes before the app sees it: its token, its limits and the audit log."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from http import HTTPStatus
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swathe.errors import SwatheError
from swathe.service import problems
from swathe.service.admission import REQUESTS, SAFE, Admission, Buckets, Rate, refuse_often
from swathe.service.pages import CONTENT_POLICY, is_page
from swathe.service.problems import ProblemError
from swathe.service.tokens import Token

log = logging.getLogger("swathe.service")

PREFIX = "/api/v1"
HEALTH = f"{PREFIX}/health"
SESSION = f"{PREFIX}/session"
# Where MLflow and optuna-dashboard are.
PROXIED = ("/mlflow/", "/optuna/")
# Bytes of a request's body, and seconds for it to arrive.
MAX_BODY = 2**20
BODY_SECONDS = 30.0
# Of a path that is written to the audit log (characters), and bytes after which a new log is begun.
_PATH, MAX_AUDIT = 500, 64 * 2**20
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
_HSTS = (b"strict-transport-security", b"max-age=31536000")


class Audit:
    """The audit log of a home: a JSON line for each request, without anything secret."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._path = home / "audit.log"

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

    The token of a request is in its state as `token`, and its session, if it has one, as `session`; what it may do is
    checked where it is done. `secure`: whether browsers come over HTTPS.
    """

    def __init__(
        self, app: ASGIApp, admission: Admission, audit: Audit, *, requests: Rate = REQUESTS, secure: bool = False
    ) -> None:
        self._app = app
        self._admission = admission
        self._audit = audit
        self._requests = Buckets(requests)
        self._headers = [*_HEADERS, *([_HSTS] if secure else [])]
        self._page_headers = [_of_page(name, value) for name, value in self._headers]

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
        state["token"] = state["session"] = None
        noted = self._noting(scope, send)
        try:
            _refuse_two_lengths(scope)
            proxied = scope["path"].startswith(PROXIED)
            if not _is_open(scope):
                state["token"], state["session"] = await self._admission.caller(scope, own_page=not proxied)
                self._limit(state["token"])
            # What is for MLflow goes there as it comes, with limits of its own.
            received = receive if proxied else _replayed(await _body(scope, receive), receive)
        except SwatheError as error:
            # Tokens that cannot be read are the server's trouble and not the caller's.
            refusal = error if isinstance(error, ProblemError) else _away(error)
            await problems.answer(refusal, self._audit.home)(scope, receive, noted)
            return
        await self._app(scope, received, noted)

    def _noting(self, scope: Scope, send: Send) -> Send:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = self._page_headers if is_page(scope["path"]) else self._headers
                own = [(name, scope["state"].get("headers", {}).get(name, value)) for name, value in own]
                names = {name for name, _ in own}
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
                message["headers"] = [*kept, *own]
                path = scope.get("raw_path") or scope["path"].encode()
                text = path.decode("ascii", "backslashreplace")
                self._audit.write(scope["state"]["token"], scope["method"], text, message["status"])
            await send(message)

        return noting

    def _limit(self, token: Token) -> None:
        refuse_often(self._requests.wait(token.id), "requests with this token")
        self._requests.take(token.id)


def _of_page(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Return a header as the page's files have it: they may load each other, and be kept by the browser."""
    pages = {b"content-security-policy": CONTENT_POLICY.encode(), b"cache-control": b"no-cache"}
    return name, pages.get(name, value)


def _is_open(scope: Scope) -> bool:
    """Whether a request needs no token: it gets nothing but what everybody may have, or brings its token along."""
    path, method = scope["path"], scope["method"]
    return path == HEALTH or (is_page(path) and method in SAFE) or (path, method) == (SESSION, "POST")


def _refuse_two_lengths(scope: Scope) -> None:
    """Refuse a body whose end two programs may see at different places (RFC 9112, 6.1)."""
    names = [name for name, _ in scope["headers"]]
    if names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
        detail = "Content-Length: it comes with another length; allowed: one Content-Length or Transfer-Encoding."
        raise ProblemError(HTTPStatus.BAD_REQUEST, detail)


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
