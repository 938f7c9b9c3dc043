"""What people without the right to it try, one by one; `docs/service.md` has the same table."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from swathe.home import Home
from swathe.service import serve
from swathe.service.admission import Rate
from swathe.service.jobs import Jobs
from swathe.service.tokens import create_token, revoke_token
from tests.service.client import TestClient
from tests.service.conftest import Service
from tests.service.test_screening import BOMB, DEEP

API = "/api/v1"
SESSION, STOP, VALIDATE = f"{API}/session", f"{API}/sweeps/f/stop", f"{API}/validate"
MLFLOW = "/mlflow/api/2.0/mlflow"
EVIL = "evil.example"


@dataclass(frozen=True)
class Answer:
    """A response as it came over a socket."""

    status_code: int
    headers: dict[str, str]
    text: str


@dataclass(frozen=True)
class World:
    """A service, as its app and as a server at `port` that is spoken to byte by byte."""

    service: Service
    client: TestClient
    port: int

    def headers(self, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.service.tokens[role]}"}

    def get(self, path: str, role: str = "admin", **headers: str) -> Any:
        return self.client.get(path, headers=self.headers(role) | headers)

    def post(self, path: str, body: Any, role: str = "runner") -> Any:
        return self.client.post(path, json=body, headers=self.headers(role))

    def validate(self, **body: Any) -> Any:
        return self.post(VALIDATE, body)

    def browser(self, role: str = "runner", **options: Any) -> tuple[TestClient, str]:
        """Return a browser that has signed in, and what its requests must send along."""
        app = self.client.app if not options else self.service.client(**options).app
        found = TestClient(app, raise_server_exceptions=False)
        csrf = found.post(SESSION, json={"token": self.service.tokens[role]}).json()["csrf"]
        return found, csrf

    def raw(self, lines: str, role: str = "admin") -> Answer:
        """Send a request's lines as they are, its token after the first one; return what comes until the end."""
        first, rest = lines.split("\n", 1)
        token = f"Authorization: Bearer {self.service.tokens[role]}"
        text = "\r\n".join([first, token, *rest.split("\n")])
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(text.encode("latin-1"))
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        head, _, body = b"".join(parts).decode("latin-1").partition("\r\n\r\n")
        status, *pairs = head.split("\r\n")
        names = dict(pair.lower().split(": ", 1) for pair in pairs)
        return Answer(int(status.split()[1]), names, body)


@contextmanager
def world(service: Service, client: TestClient) -> Iterator[World]:
    """Serve the client's app in a thread, as `swathe serve` does."""
    config = serve._config(client.app, None, None)
    # The client has begun and will end it.
    config.lifespan = "off"
    server = uvicorn.Server(config)
    with serve._listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield World(service, client, listener.getsockname()[1])
        server.should_exit = True
        thread.join()


def _no_token(at: World) -> Iterable[Any]:
    paths = ("/sweeps", "/sweeps/f/events", "/openapi.json", "/nothing", "/session", "/health/")
    yield from (at.client.get(f"{API}{path}") for path in paths)
    yield from (
        at.client.get(path) for path in ("/mlflow/", "/mlflow", "/optuna/f/", "/nothing", "/static", "/.swathe")
    )
    yield from (at.client.post(path, json={}) for path in (STOP, VALIDATE, "/", f"{MLFLOW}/runs/search"))


def _others_token(at: World) -> Iterable[Any]:
    mine, theirs = at.service.tokens["viewer"], at.service.tokens["admin"]
    with_id_of_another = theirs[:21] + mine[21:]
    for token in (with_id_of_another, mine[:-1], "swt_" + "0" * 16 + mine[20:], f"{mine} {theirs}"):
        yield at.client.get(f"{API}/sweeps", headers={"Authorization": f"Bearer {token}"})
    two = [("Authorization", f"Bearer {mine}"), ("Authorization", f"Bearer {theirs}")]
    yield at.client.get(f"{API}/sweeps", headers=two)


def _late_token(at: World) -> Iterable[Any]:
    token = create_token(at.service.home, "late", "admin")
    headers = {"Authorization": f"Bearer {token}"}
    assert at.client.get(f"{API}/sweeps", headers=headers).status_code == 200
    revoke_token(at.service.home, "late")
    yield at.client.get(f"{API}/sweeps", headers=headers)


def _wrong_role(at: World) -> Iterable[Any]:
    yield at.post(STOP, {}, "viewer")
    yield at.post(VALIDATE, {"sweep": "quickstart"}, "viewer")
    yield at.post(f"{MLFLOW}/runs/create", {}, "viewer")
    yield at.post(f"{MLFLOW}/experiments/delete", {"experiment_id": "1"}, "runner")
    yield at.client.put("/optuna/f/api/studies/0/note", json={}, headers=at.headers("viewer"))


def _others_job(at: World) -> Iterable[Any]:
    # Which imports who imports this.
    from tests.service.test_jobs import record

    home = Home(at.service.folder / "jobs" / ".swathe")
    other = Service(at.service.folder, home, {"runner": create_token(home, "eve", "runner")})
    client, headers = other.client(), {"Authorization": f"Bearer {other.tokens['runner']}"}
    jobs: Jobs = client.app._app.state.jobs  # type: ignore[attr-defined]
    jobs.create(record("theirs"))
    jobs.create(record("mine", token=other.tokens["runner"][4:20]))
    yield client.put(f"{API}/sweeps/theirs/priority", json={"priority": -1}, headers=headers)
    yield client.put(f"{API}/sweeps/mine/priority", json={"priority": 1}, headers=headers)
    yield client.post(f"{API}/sweeps", json={"sweep": "quickstart", "priority": 1}, headers=headers)


def _guesses(at: World) -> Iterable[Any]:
    slow = at.service.client(failures=Rate(burst=1, per_second=0.001))
    guess = at.service.tokens["admin"][:21] + "A" * 43
    assert slow.post(SESSION, json={"token": guess}).status_code == 401
    yield slow.post(SESSION, json={"token": guess[:-1] + "B"})
    yield slow.get(f"{API}/sweeps", headers={"Authorization": f"Bearer {guess[:-1]}C"})


def _traversal(at: World) -> Iterable[Any]:
    for name in ("%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5c..", "%2Fetc%2Fpasswd", ".f", "%00", "~"):
        yield at.get(f"{API}/sweeps/{name}")
    yield at.get("/static/%2e%2e/app.py")
    yield at.get("/static/..%2f..%2fapp.py")
    yield at.raw("GET /static/../../app.py HTTP/1.1\nHost: x\nConnection: close\n\n")


def _traversal_behind(at: World) -> Iterable[Any]:
    for path in ("/%2e%2e/api/v1/sweeps", "/static-files/..%2f..%2fx", "/a%5c..%5cb", "/%252e%252e/x", "/x%00"):
        yield at.get(f"/mlflow{path}")
    yield at.get("/mlflow/get-artifact?run_uuid=1&path=../../../tokens.json")
    yield at.get("/mlflow/get-artifact?run_uuid=1&path=%252e%252e/tokens.json")
    yield at.get("/optuna/f/static/%2e%2e/%2e%2e/x")
    yield at.raw("GET /mlflow/../api/v1/sweeps HTTP/1.1\nHost: x\nConnection: close\n\n")


def _code(at: World) -> Iterable[Any]:
    yield at.validate(yaml="model: {_target_: os.system, command: id}")
    yield at.validate(sweep="quickstart", overrides=["+model._target_=os.system"])
    yield at.validate(sweep="quickstart", overrides=["hydra.searchpath=[file:///]"])


def _elsewhere(at: World) -> Iterable[Any]:
    yield at.validate(yaml="sweep: {name: '${oc.env:HOME}'}")
    yield at.validate(yaml="data: {path: /etc/passwd}")
    yield at.validate(sweep="quickstart", overrides=["data=../../../etc/passwd"])
    yield at.validate(sweep="quickstart", overrides=["tracking.uri=http://169.254.169.254/"])


def _bombs(at: World) -> Iterable[Any]:
    yield at.validate(yaml=BOMB)
    yield at.validate(yaml=DEEP)


def _oversized(at: World) -> Iterable[Any]:
    headers = at.headers("runner") | {"Content-Type": "application/json"}
    yield at.client.post(VALIDATE, content=b" " * (2**20 + 1), headers=headers)
    yield at.client.post(VALIDATE, content=(b" " * 2**16 for _ in range(17)), headers=headers)
    yield at.client.post(VALIDATE, content=b"{}", headers=headers | {"Content-Length": "99999999999"})
    yield at.client.post(SESSION, content=b" " * (2**20 + 1), headers={"Content-Type": "application/json"})
    yield at.client.post(f"{MLFLOW}/runs/create", content=b" " * (2**22 + 1), headers=headers)


def _form(at: World) -> Iterable[Any]:
    browser, csrf = at.browser()
    yield browser.post(VALIDATE, data={"sweep": "quickstart"}, headers={"X-CSRF-Token": csrf})
    yield browser.post(
        VALIDATE, content=b'{"sweep": "x"}', headers={"X-CSRF-Token": csrf, "Content-Type": "text/plain"}
    )
    yield at.client.post(SESSION, data={"token": at.service.tokens["admin"]})


def _no_csrf(at: World) -> Iterable[Any]:
    browser, csrf = at.browser()
    yield browser.post(STOP)
    yield browser.post(STOP, headers={"X-CSRF-Token": csrf[:-1]})
    yield browser.post(STOP, headers=[("X-CSRF-Token", csrf), ("X-CSRF-Token", csrf)])
    yield browser.post(f"{STOP}?csrf={csrf}", json={"csrf": csrf})
    yield browser.delete(SESSION)


def _others_csrf(at: World) -> Iterable[Any]:
    (browser, _), (_, csrf) = at.browser(), at.browser()
    yield browser.post(STOP, headers={"X-CSRF-Token": csrf})


def _other_site(at: World) -> Iterable[Any]:
    browser, csrf = at.browser()
    for headers in (
        {"Origin": f"https://{EVIL}"},
        {"Origin": "null"},
        {"Origin": "http://testserver:81"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"},
    ):
        yield browser.post(STOP, headers=headers | {"X-CSRF-Token": csrf})
        yield browser.get(f"{API}/sweeps", headers=headers)


def _other_site_behind(at: World) -> Iterable[Any]:
    browser, csrf = at.browser("admin")
    for headers in ({}, {"X-CSRF-Token": csrf}, {"Origin": f"https://{EVIL}"}, {"Sec-Fetch-Site": "cross-site"}):
        yield browser.post(f"{MLFLOW}/experiments/delete", content=b'{"experiment_id": "1"}', headers=headers)
        yield browser.put("/optuna/f/api/studies/0/note", content=b"{}", headers=headers)
    yield browser.get("/mlflow/", headers={"Sec-Fetch-Site": "cross-site"})


def _sign_in_from_elsewhere(at: World) -> Iterable[Any]:
    body = {"token": at.service.tokens["viewer"]}
    for headers in ({"Origin": f"https://{EVIL}"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        answer = at.client.post(SESSION, json=body, headers=headers)
        assert "set-cookie" not in answer.headers
        yield answer


def _fixation(at: World) -> Iterable[Any]:
    victim, thief = TestClient(at.client.app), TestClient(at.client.app)
    planted = f"{'0' * 16}.{int(time.time())}.{'0' * 32}.{'0' * 64}"
    victim.cookies.set("swathe_session", planted)
    thief.cookies.set("swathe_session", planted)
    given = victim.post(SESSION, json={"token": at.service.tokens["admin"]}).headers["set-cookie"]
    assert planted not in given
    yield thief.get(f"{API}/sweeps")
    # Both at once: nobody knows which one was meant.
    both = f"swathe_session={planted}; {given.partition(';')[0]}"
    yield thief.get(f"{API}/sweeps", headers={"Cookie": both})


def _forged(at: World) -> Iterable[Any]:
    browser, _ = at.browser("viewer")
    value = browser.cookies["swathe_session"]
    key, made, nonce, signature = value.split(".")
    admin = at.service.tokens["admin"][4:20]
    for forged in (
        f"{admin}.{made}.{nonce}.{signature}",
        f"{key}.{int(made) + 3600}.{nonce}.{signature}",
        f"{key}.{made}.{nonce}.{'0' * 64}",
        f"{key}.{made}.{nonce}.",
        key,
        at.service.tokens["admin"],
    ):
        yield TestClient(at.client.app).get(f"{API}/sweeps", headers={"Cookie": f"swathe_session={forged}"})
    other = Service(at.service.folder, Home(at.service.folder / "other"), {})
    create_token(other.home, "admin", "admin")
    yield other.client().get(f"{API}/sweeps", headers={"Cookie": f"swathe_session={value}"})


def _ended(at: World) -> Iterable[Any]:
    browser, csrf = at.browser()
    cookie = {"Cookie": f"swathe_session={browser.cookies['swathe_session']}"}
    assert browser.delete(SESSION, headers={"X-CSRF-Token": csrf}).status_code == 200
    yield TestClient(at.client.app).get(f"{API}/sweeps", headers=cookie)


def _injection(at: World) -> Iterable[Any]:
    for path in (f"{API}/sweeps/f%0d%0aSet-Cookie:%20a=b", "/mlflow/x%0d%0aSet-Cookie:%20a=b", "/optuna/%0aa:%20b/"):
        answer = at.get(path)
        assert "set-cookie" not in answer.headers
        yield answer
    yield at.raw("GET /mlflow/version HTTP/1.1\nHost: x\nAccept: a\rb\nConnection: close\n\n")
    yield at.raw("GET /api/v1/sweeps HTTP/1.1\nHost: x\nX-A : b\nConnection: close\n\n")


def _smuggled(at: World) -> Iterable[Any]:
    hidden = "0\n\nGET /api/v1/sweeps HTTP/1.1\nHost: x\n\n"
    for path in (STOP, f"{MLFLOW}/runs/search"):
        for lengths in (
            f"Content-Length: {len(hidden)}\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\nTransfer-Encoding: identity",
            "Content-Length: 5\nContent-Length: 6",
            "Transfer-Encoding: xchunked",
        ):
            start = f"POST {path} HTTP/1.1\nHost: x\nConnection: close\nContent-Type: application/json"
            answer = at.raw(f"{start}\n{lengths}\n\n{hidden}")
            assert '"sweeps"' not in answer.text
            yield answer


def _redirect(at: World) -> Iterable[Any]:
    for path in (f"//{EVIL}", f"/mlflow//{EVIL}/", f"/optuna//{EVIL}/", f"/mlflow/%2f{EVIL}", f"/mlflow/%5c{EVIL}"):
        answer = at.raw(f"GET {path} HTTP/1.1\nHost: x\nConnection: close\n\n")
        assert "location" not in answer.headers
        yield answer
    for path in (f"/mlflow?next=//{EVIL}", f"/optuna/f/?next=//{EVIL}"):
        place = at.client.get(path, headers=at.headers("viewer"), follow_redirects=False).headers["location"]
        assert place in ("/mlflow/", "/optuna/f/dashboard")


def _forgery_of_the_server(at: World) -> Iterable[Any]:
    for path in (
        f"http://{EVIL}/mlflow/",
        f"http://{EVIL}/api/v1/sweeps",
        "/mlflow@169.254.169.254/",
        f"/mlflow.{EVIL}/",
    ):
        yield at.raw(f"GET {path} HTTP/1.1\nHost: {EVIL}\nConnection: close\n\n")
    for path in (f"/mlflow/@{EVIL}/", f"/mlflow/http:/{EVIL}/", f"/optuna/f/http:/{EVIL}"):
        yield at.get(path)
    yield at.get("/mlflow/ajax-api/2.0/mlflow/gateway-proxy?gateway_path=http://169.254.169.254/")


def _file_artifacts(at: World) -> Iterable[Any]:
    for place in ("file:///etc", "/etc", "s3://bucket", "."):
        yield at.post(f"{MLFLOW}/experiments/create", {"name": "x", "artifact_location": place})
        yield at.post(f"{MLFLOW}/experiments/create", {"name": "x", "artifactLocation": place}, "admin")


def _file_models(at: World) -> Iterable[Any]:
    folder = at.service.home.path
    for source in ("file:///etc/passwd", "/etc/passwd", f"{folder}/tokens.json", f"{folder}/artifacts/../tokens.json"):
        yield at.post(f"{MLFLOW}/model-versions/create", {"name": "x", "source": source}, "admin")


def _commands(at: World) -> Iterable[Any]:
    yield at.post("/mlflow/ajax-api/3.0/mlflow/assistant/message", {"message": "id"}, "admin")
    yield at.post("/mlflow/api/2.0/mlflow/webhooks", {"url": "http://169.254.169.254/"}, "admin")
    yield at.post("/mlflow/gateway/x/mlflow/invocations", {}, "admin")
    yield at.post("/mlflow/ajax-api/3.0/jobs", {}, "admin")
    yield at.client.delete("/optuna/f/api/studies/0", headers=at.headers("admin"))


def _scripts_in_names(at: World) -> Iterable[Any]:
    script = "%3Cscript%3Ealert(1)%3C%2Fscript%3E"
    for path in (f"{API}/sweeps/{script}", f"{API}/{script}", f"{API}/sweeps/f/trials?state={script}", f"/{script}"):
        answer = at.get(path)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        yield answer


def _framed(at: World) -> Iterable[Any]:
    for path in ("/", f"{API}/health", "/mlflow/nothing"):
        answer = at.get(path)
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert not [name for name in answer.headers if name.startswith("access-control")]
        yield answer


def _too_many(at: World) -> Iterable[Any]:
    busy = at.service.client(requests=Rate(burst=1, per_second=0.01))
    assert busy.get(f"{API}/session", headers=at.headers("viewer")).status_code == 200
    for path in (f"{API}/sweeps", "/mlflow/version", "/optuna/f/"):
        yield busy.get(path, headers=at.headers("viewer"))


def _websocket(at: World) -> Iterable[Any]:
    for path in (f"{API}/sweeps/f/events", "/mlflow/"):
        answer = at.raw(
            f"GET {path}x HTTP/1.1\nHost: x\nConnection: close, Upgrade\nUpgrade: websocket\n"
            "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n"
        )
        assert answer.status_code != 101
        yield answer


@dataclass(frozen=True)
class Attack:
    """A row of the table: each answer that `tries` yields must have one of the statuses in `answer`."""

    name: str
    answer: str
    tries: Callable[[World], Iterable[Any]]

    @property
    def statuses(self) -> set[int]:
        return {int(status) for status in re.findall(r"\d{3}", self.answer)}


ATTACKS = [
    Attack("No token", "401", _no_token),
    Attack("A token with another's id, half a token, two tokens", "401", _others_token),
    Attack("A token that was revoked", "401, at the next request", _late_token),
    Attack("More than the role may", "403", _wrong_role),
    Attack("Another's place in the queue", "403", _others_job),
    Attack("Guessing tokens", "429", _guesses),
    Attack("Too many requests", "429", _too_many),
    Attack("Paths that lead out: names, static files", "404 or 422", _traversal),
    Attack("Paths that lead out, through the proxies", "400", _traversal_behind),
    Attack("Code in a config: `_target_`, Hydra's own keys", "422", _code),
    Attack("A config that reads the environment, other files or addresses", "422", _elsewhere),
    Attack("YAML bombs", "422", _bombs),
    Attack("Bodies that are too large", "413", _oversized),
    Attack("A form of another page", "415", _form),
    Attack("A session's request without its `X-CSRF-Token`", "403", _no_csrf),
    Attack("... with another session's", "403", _others_csrf),
    Attack("A page of another site that uses a session", "403", _other_site),
    Attack("... against MLflow and optuna-dashboard", "403", _other_site_behind),
    Attack("A page of another site that signs in", "403", _sign_in_from_elsewhere),
    Attack("A cookie that was planted before somebody signs in", "401", _fixation),
    Attack("A forged cookie, or another home's", "401", _forged),
    Attack("A copy of a cookie after its session was ended", "401", _ended),
    Attack("Line ends in paths and headers", "400, 404 or 422", _injection),
    Attack("Two lengths of one body (request smuggling)", "400 or 501", _smuggled),
    Attack("Redirects to other hosts", "400 or 404", _redirect),
    Attack("Making the proxies ask other hosts", "403 or 404", _forgery_of_the_server),
    Attack("An experiment whose artifacts are the server's files", "422", _file_artifacts),
    Attack("A model version that is one of the server's files", "422", _file_models),
    Attack("MLflow's assistant, webhooks, gateway, jobs; a study's deletion", "403", _commands),
    Attack("Scripts in names", "404 or 422, as JSON that no browser runs", _scripts_in_names),
    Attack("Frames and scripts of other sites", "200 or 403, with headers that keep them out", _framed),
    Attack("Websockets", "400, 403 or 404", _websocket),
]


def documented(page: Path) -> list[tuple[str, str]]:
    """Return the table's rows as a page has them."""
    part = page.read_text().partition("\n## Attacks\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return [(row[0], row[1]) for row in rows[1:]]
