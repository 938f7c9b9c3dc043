"""`swathe serve`: where the service listens, and how it begins and ends."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from swathe.errors import BadInputError, bad_value
from swathe.home import Home
from swathe.service import ray_head
from swathe.service.app import create_app
from swathe.service.clusters import ExistingCluster, OwnCluster, check_address
from swathe.service.dispatcher import only_server
from swathe.service.guard import PREFIX
from swathe.service.tokens import create_token, read_tokens

# How long requests that are under way may take when the server is told to end (seconds).
END_SECONDS = 5
# Connections that are open at once, streams among them.
MAX_CONNECTIONS = 2000
# How long a thread may go on while others wait for Python's lock.
SWITCH_SECONDS = 0.001


def serve(
    home: Home,
    *,
    host: str,
    port: int,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    behind_proxy: bool = False,
    allowed_modules: Sequence[str] = (),
    address: str | None = None,
    say: Callable[[str], None],
) -> None:
    """Serve a home until SIGINT or SIGTERM.

    `behind_proxy`: whether everybody comes through a proxy with TLS, which says in X-Forwarded-For who they are.
    `address`: the dashboard of the Ray on which jobs run; without it, the server starts one of its own when there is a
    first job. Raises `BadInputError` for an address that cannot be listened at, for one of other machines while there
    are no tokens, for TLS files that are none, and for a home that another server has.
    """
    _refuse_half_of_tls(tls_cert, tls_key)
    tokens = read_tokens(home)
    if not tokens and not _is_loopback(host):
        raise bad_value("--host", host, "127.0.0.1 as long as there is no token; make one with: swathe token create")
    cluster = OwnCluster(home) if address is None else ExistingCluster(check_address(address))
    with only_server(home), _listening(host, port) as listener:
        tls = tls_cert is not None
        server: uvicorn.Server
        app = create_app(
            home,
            allowed_modules=allowed_modules,
            tls=tls,
            behind_proxy=behind_proxy,
            stopping=lambda: server.should_exit,
            cluster=cluster,
            say=say,
        )
        server = uvicorn.Server(_config(app, tls_cert, tls_key))
        if not tokens:
            say("The token of admin, which cannot be shown again:")
            say(create_token(home, "admin", "admin"))
        at = f"[{host}]" if ":" in host else host
        url = f"{'https' if tls else 'http'}://{at}:{listener.getsockname()[1]}"
        say(f"Swathe serves {url}/, and its API {url}{PREFIX}; stop it with ^C.")
        # The loop has the word again after a millisecond, and not five, however long a thread reads for one request.
        sys.setswitchinterval(SWITCH_SECONDS)
        with _ended_by_signals():
            server.run(sockets=[listener])


def end_cluster(home: Home) -> str:
    """End the Ray that a server of this home has started, and the jobs in it; return what was done.

    Raises `BadInputError` while a server runs, which would start it again.
    """
    with only_server(home):
        if not ray_head.end(home):
            return "No Ray of this folder's server runs."
    return "Ended the Ray of this folder's server; its jobs go on when there is a server again."


def _config(app: object, tls_cert: Path | None, tls_key: Path | None) -> uvicorn.Config:
    try:
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            ws="none",
            h11_max_incomplete_event_size=2**16,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=END_SECONDS,
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
        )
        config.load()
    except OSError as error:
        raise BadInputError(
            f"--tls-cert: {str(tls_cert)!r} with --tls-key {str(tls_key)!r} is not allowed "
            f"({error.strerror or error}); allowed: PEM files of a certificate and of its key."
        ) from error
    return config


def _refuse_half_of_tls(tls_cert: Path | None, tls_key: Path | None) -> None:
    if (tls_cert is None) != (tls_key is None):
        missing = "--tls-key" if tls_key is None else "--tls-cert"
        raise BadInputError(f"{missing}: it is missing; allowed: --tls-cert and --tls-key together, or neither.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen at an address; raises `BadInputError` where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise bad_value("--host", host, "an address of this machine") from error
    # With its protocol: only then asyncio switches off Nagle's algorithm, which costs each answer 40 ms.
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            # Already here: a port that another server listens at can be bound, too.
            listener.listen(2048)
        except OSError as error:
            raise BadInputError(
                f"--host {host}, --port {port}: nothing can listen there ({error.strerror}); allowed: an address of "
                "this machine, and a port that nobody uses."
            ) from error
        listener.set_inheritable(False)
        yield listener


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    # uvicorn raises the signal that ended it once more, for whoever was to get it before: nobody, as we end anyway.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
