"""MLflow and optuna-dashboard behind the service's tokens: a reverse proxy that passes on no more than it must."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, unquote

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from swathe.home import Home
from swathe.service.guard import BODY_SECONDS
from swathe.service.passages import Passage, dashboard_passage, mlflow_passage
from swathe.service.problems import ProblemError
from swathe.service.sweeps import Sweeps
from swathe.service.tokens import Role, Token
from swathe.service.upstreams import Remote, Upstream, dashboard_program, mlflow_program

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("swathe.service")

# Neither credentials nor what only one connection is about (RFC 9110, 7.6.1) are in these lists.
_TO_UPSTREAM = frozenset(
    b"accept accept-encoding accept-language content-encoding content-type if-modified-since if-none-match "
    b"range user-agent x-requested-with".split()
)
_TO_CLIENT = frozenset(
    b"accept-ranges content-disposition content-encoding content-length content-range content-type etag "
    b"last-modified retry-after vary".split()
)
# What the pages need: MLflow draws with workers, and Plotly, which optuna-dashboard has too, makes functions of text.
_PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# What somebody has uploaded is shown, if it is opened, without scripts, and as nobody's page.
_ARTIFACT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
# What a browser would run or lay out as a page.
_ACTIVE = re.compile(r"(?i)\s*(text/(html|xml|xsl|javascript)|application/(\S*xml|javascript)|image/svg|multipart/)")
# By which this server knows its own requests (RFC 9110, 7.6.3): a sweep may be recorded at its own address.
_VIA = b"swathe-" + secrets.token_hex(8).encode()
_KEPT = b"private, max-age=86400"
# How long the choice of the tracking server holds (seconds).
_CHOICE_SECONDS = 5.0


class _Lender(Protocol):
    """Something behind the proxy."""

    def client(self) -> AbstractAsyncContextManager[httpx.AsyncClient]: ...

    async def close(self) -> None: ...


class MlflowProxy:
    """`/mlflow/`: the server of the newest sweep's record, which we start if it is a database."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._servers: dict[str, _Lender] = {}
        self._chosen, self._until = "", 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = inner_path(scope, "/mlflow")
        passage = _allowed(scope, mlflow_passage(scope["method"], path, self._home.artifacts))
        server = await self._server()
        await forward(server, "MLflow", path, passage, scope, receive, send)

    async def close(self) -> None:
        """End what was started."""
        for server in self._servers.values():
            await server.close()
        self._servers.clear()

    async def _server(self) -> _Lender:
        if time.monotonic() >= self._until:
            self._chosen = await run_in_threadpool(newest_record, self._home)
            self._until = time.monotonic() + _CHOICE_SECONDS
        uri = self._chosen
        if uri not in self._servers:
            remote = uri.startswith(("http://", "https://"))
            self._servers[uri] = Remote(uri) if remote else Upstream(mlflow_program(self._home, uri))
        return self._servers[uri]


class DashboardProxy:
    """`/optuna/SWEEP/`: one server with the dashboards of all sweeps."""

    def __init__(self, home: Home, sweeps: Sweeps) -> None:
        self._sweeps = sweeps
        self._server = Upstream(dashboard_program(home))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = inner_path(scope, "/optuna")
        _, name, *rest = path.split("/", 2)
        inner = f"/{''.join(rest)}"
        passage = _allowed(scope, dashboard_passage(scope["method"], inner))
        await run_in_threadpool(self._sweeps.find, name)
        if inner == "/":
            # Where its own links begin.
            await RedirectResponse(f"/optuna/{name}/dashboard")(scope, receive, send)
            return
        await forward(self._server, "optuna-dashboard", path, passage, scope, receive, send)

    async def close(self) -> None:
        """End what was started."""
        await self._server.close()


def install(app: FastAPI, home: Home, sweeps: Sweeps) -> tuple[MlflowProxy, DashboardProxy]:
    """Put the proxies into the app and return them, to be closed at its end."""
    proxies = MlflowProxy(home), DashboardProxy(home, sweeps)
    app.mount("/mlflow", proxies[0])
    app.mount("/optuna", proxies[1])
    # Its page has relative links.
    app.add_api_route("/mlflow", lambda: RedirectResponse("/mlflow/"), methods=["GET"], include_in_schema=False)
    return proxies


def newest_record(home: Home) -> str:
    """Return where the newest sweep is recorded; where the next one will be by default, if there is none."""
    newest = max(home.cards(), key=lambda card: card.created, default=None)
    return home.tracking_uri if newest is None else newest.tracking_uri


def inner_path(scope: Scope, prefix: str) -> str:
    """Return a request's path behind a prefix, decoded; refuses those that two programs may read differently."""
    path = str(scope["path"]).removeprefix(prefix)
    odd = re.search(r"//|\\|%|(^|/)\.{1,2}(/|$)", path) or not path.isprintable() or len(path) > 2000
    if odd or not path.startswith("/"):
        raise _refused(HTTPStatus.BAD_REQUEST, "The path is not allowed; allowed: one without '//', '..' and '%'.")
    for part in re.split(r"[&;]", scope["query_string"].decode("latin-1")):
        if re.search(r"(^|/|\\)\.\.(/|\\|$)", unquote(unquote(part.partition("=")[2]))):
            raise _refused(HTTPStatus.BAD_REQUEST, "The query is not allowed; allowed: paths without '..'.")
    return path


def _allowed(scope: Scope, passage: Passage | None) -> Passage:
    token: Token = scope["state"]["token"]
    if passage is None:
        asked = f"{scope['method']} of {str(scope['path'])[:200]!r}"
        detail = f"{asked} is not let through; allowed: what docs/service.md lists."
        raise ProblemError(HTTPStatus.FORBIDDEN, detail)
    if not Role(token.role).includes(passage.role):
        allowed = "admin" if passage.role is Role.ADMIN else f"{passage.role.value} or above"
        raise ProblemError(HTTPStatus.FORBIDDEN, f"role: {token.role!r} is not allowed; allowed: {allowed}.")
    return passage


async def forward(
    server: _Lender, name: str, path: str, passage: Passage, scope: Scope, receive: Receive, send: Send
) -> None:
    """Pass a request on and its answer back, both as they come; raises `ProblemError`.

    `name`: of the server, for sentences; `path`: what it is asked for.
    """
    import httpx

    length = dict(scope["headers"]).get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 20 or int(length) > passage.most:
        # Before anything is started.
        raise _too_large(passage.most)
    if any(key == b"via" and _VIA in value for key, value in scope["headers"]):
        raise _refused(HTTPStatus.LOOP_DETECTED, f"{name} is looked for here again; allowed: a tracking.uri elsewhere.")
    headers = [(key, value) for key, value in scope["headers"] if key in _TO_UPSTREAM] + [(b"via", b"1.1 " + _VIA)]
    content: AsyncIterator[bytes] | bytes = b""
    if passage.check is not None:
        content = passage.check(b"".join([part async for part in _body(receive, passage.most)]))
    elif scope["method"] not in ("GET", "HEAD"):
        content = _body(receive, passage.most)
        headers += [pair for pair in scope["headers"] if pair[0] == b"content-length"]
    async with server.client() as client:
        request = client.build_request(scope["method"], _url(client, path, scope), headers=headers, content=content)
        try:
            answer = await client.send(request, stream=True, follow_redirects=False)
        except httpx.TimeoutException:
            raise _refused(HTTPStatus.GATEWAY_TIMEOUT, f"{name} does not answer in time; ask again.") from None
        except httpx.TransportError:
            raise _refused(HTTPStatus.BAD_GATEWAY, f"{name} ended or cannot be reached; ask again.") from None
        try:
            await _pass_back(answer, name, passage, scope, send)
        finally:
            await answer.aclose()


def _url(client: httpx.AsyncClient, path: str, scope: Scope) -> httpx.URL:
    """Return what is asked of the server behind: always itself, whatever the path holds."""
    target = client.base_url.raw_path.rstrip(b"/") + quote(path, safe="/:@!$&'()*+,;=~-._").encode()
    query = scope["query_string"]
    return client.base_url.copy_with(raw_path=target + (b"?" + query if query else b""))


async def _body(receive: Receive, most: int) -> AsyncIterator[bytes]:
    size = 0
    more = True
    while more:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                message = await receive()
        except TimeoutError:
            detail = "The body does not arrive; allowed: some of it in 30 s."
            raise _refused(HTTPStatus.REQUEST_TIMEOUT, detail) from None
        if message["type"] == "http.disconnect":
            raise _refused(HTTPStatus.BAD_REQUEST, "The body has no end; allowed: all of it.")
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large(most)
        if part:
            yield part
        more = message.get("more_body", False)


async def _pass_back(answer: httpx.Response, name: str, passage: Passage, scope: Scope, send: Send) -> None:
    import httpx

    if answer.is_redirect:
        raise _refused(HTTPStatus.BAD_GATEWAY, f"{name} sends the browser to another place, which is not let through.")
    headers = [(key, value) for key, value in answer.headers.raw if key.lower() in _TO_CLIENT]
    if passage.untrusted and _ACTIVE.match(answer.headers.get("content-type", "text/html")):
        headers = [pair for pair in headers if pair[0].lower() != b"content-disposition"]
        headers.append((b"content-disposition", b"attachment"))
    policy = _ARTIFACT_POLICY if passage.untrusted else _PAGE_POLICY
    scope["state"]["headers"] = {b"content-security-policy": policy.encode()}
    if passage.kept and answer.status_code == HTTPStatus.OK:
        scope["state"]["headers"][b"cache-control"] = _KEPT
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    try:
        async for part in answer.aiter_raw():
            await send({"type": "http.response.body", "body": part, "more_body": True})
    except httpx.TransportError as error:
        # What was sent is all that there is: the connection is closed before the end that was promised.
        log.warning("%s ended in the middle of an answer: %s", name, error)
        return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _too_large(most: int) -> ProblemError:
    return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is too large; allowed: {most} bytes.")


def _refused(status: HTTPStatus, detail: str) -> ProblemError:
    return ProblemError(status, detail)
