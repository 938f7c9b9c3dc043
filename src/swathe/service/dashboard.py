"""The optuna-dashboards of a home's sweeps, in a process of their own: `python -m swathe.service.dashboard SOCKET`.

optuna-dashboard has one storage and is always at the root of its host; here each sweep's is at `/SWEEP/`, which a
browser sees as `/optuna/SWEEP/`: what its files say of the root is put right as they are read.
"""

from __future__ import annotations

import gzip
import socket
import socketserver
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import optuna_dashboard
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from swathe.errors import SwatheError
from swathe.home import Home, SweepCard, SweepFolder, open_home
from swathe.journal import JournalReader
from swathe.service.sweeps import Recent, signature_of
from swathe.study import JOURNAL, Study

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Dashboards that are open: each has all trials of its sweep.
OPEN = 4
_FILES = Path(optuna_dashboard.__file__).parent
# What stands for the root in its files, and how often each says it.
_PAGE = (('src="/static/bundle.js"', 'src="{root}/static/bundle.js"', 1),)
_SCRIPT = (
    ('url_prefix:"/dashboard"', 'url_prefix:"{root}/dashboard"', 1),
    # The client of its API, of the host's root if it is told nothing.
    ('(null!=e?e:"")}handleResponse', '("{root}")}handleResponse', 1),
    ("`/csv/${e.id}", "`{root}/csv/${e.id}", 2),
)


class _Journal(JournalReader):
    """A sweep's journal for its dashboard, whose notes are appended as Optuna itself does."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._notes = JournalFileBackend(str(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._notes.append_logs(logs)


@dataclass(frozen=True, slots=True)
class _Dashboard:
    """One sweep's dashboard; `facts` tell whether the sweep is still the one that it was made of."""

    app: WSGIApplication
    study: int
    facts: object


def _storage(folder: SweepFolder, card: SweepCard) -> BaseStorage:
    path = folder.path / JOURNAL
    if card.storage is None and path.exists():
        return JournalStorage(_Journal(path))
    # A database; or no journal yet, which reads as an empty study.
    storage: BaseStorage = Study.load(card.name, folder=folder.path, storage=card.storage).optuna_study._storage
    return storage


def _opened(folder: SweepFolder, card: SweepCard, facts: object) -> _Dashboard:
    storage = _storage(folder, card)
    every = storage.get_all_studies
    # A database may have the studies of others, too.
    storage.get_all_studies = lambda: [study for study in every() if study.study_name == card.name]  # type: ignore[method-assign]
    return _Dashboard(optuna_dashboard.wsgi(storage), storage.get_study_id_from_name(card.name), facts)


class Dashboards:
    """The WSGI application with all of them."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._open: Recent[str, list[_Dashboard]] = Recent(OPEN)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = str(environ["PATH_INFO"])
        if path == "/health":
            return _answer(start_response, "200 OK", "text/plain", b"ok")
        _, name, *rest = path.split("/", 2)
        inner = "/" + "".join(rest)
        if inner == "/dashboard" or inner.startswith("/dashboard/"):
            return _answer(start_response, "200 OK", "text/html", _page(f"/optuna/{name}"))
        if inner == "/static/bundle.js":
            return _script_answer(environ, start_response, name)
        try:
            found = self._dashboard(name)
        except SwatheError as error:
            return _answer(start_response, "503 Service Unavailable", "text/plain", str(error).encode())
        study = _study_of(inner)
        if study is not None and study != found.study:
            return _answer(start_response, "404 Not Found", "text/plain", b"another study")
        environ["PATH_INFO"] = inner
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")
        return found.app(environ, start_response)

    def _dashboard(self, name: str) -> _Dashboard:
        folder, card = self._home.existing(name)
        facts = (signature_of(folder.card_file), signature_of(folder.path / JOURNAL)[:1])
        with self._lock:
            place: list[_Dashboard] = self._open.get(name, list)
            if not place or place[0].facts != facts:
                place[:] = [_opened(folder, card, facts)]
            return place[0]


def _study_of(path: str) -> int | None:
    """Return the study that a path names by its number, if it does."""
    for prefix in ("/api/studies/", "/csv/"):
        number = path.removeprefix(prefix).partition("/")[0]
        if path.startswith(prefix) and number.isdecimal():
            return int(number)
    return None


def _page(root: str) -> bytes:
    return _rooted(_FILES / "index.html", _PAGE, root)


@lru_cache(OPEN)
def _script(root: str) -> bytes:
    return gzip.compress(_rooted(_FILES / "public" / "bundle.js", _SCRIPT, root), 5)


def _rooted(file: Path, places: Iterable[tuple[str, str, int]], root: str) -> bytes:
    """Return a file with `root` in place of the host's root; raises `SwatheError` where it says it otherwise."""
    text = file.read_text()
    for old, new, times in places:
        if text.count(old) != times:
            raise SwatheError(
                f"optuna-dashboard is of a version that Swathe does not know: {file.name} has no {old!r}."
            )
        text = text.replace(old, new.replace("{root}", root))
    return text.encode()


def _script_answer(environ: WSGIEnvironment, start_response: StartResponse, name: str) -> Iterable[bytes]:
    packed = _script(f"/optuna/{name}")
    if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
        headers = [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
        return _answer(start_response, "200 OK", "text/javascript", packed, headers)
    return _answer(start_response, "200 OK", "text/javascript", gzip.decompress(packed))


def _answer(
    start_response: StartResponse, status: str, kind: str, body: bytes, headers: Iterable[tuple[str, str]] = ()
) -> Iterable[bytes]:
    start_response(status, [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))), *headers])
    return [body]


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """WSGI on a Unix socket, a thread for each request."""

    address_family = socket.AF_UNIX
    daemon_threads = True
    allow_reuse_address = False

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 80
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    def address_string(self) -> str:
        return "proxy"

    def get_environ(self) -> WSGIEnvironment:
        # A socket's address is a path and no pair, as its base class would have it.
        self.client_address = ("proxy", 0)
        return super().get_environ()

    def log_message(self, format: str, *args: Any) -> None:
        return


def _main() -> None:
    _page("")
    _rooted(_FILES / "public" / "bundle.js", _SCRIPT, "")
    with _Server(sys.argv[1], _Handler) as server:  # type: ignore[arg-type]
        server.set_app(Dashboards(open_home()))
        server.serve_forever()


if __name__ == "__main__":
    _main()
