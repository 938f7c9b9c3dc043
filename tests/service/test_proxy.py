"""MLflow and optuna-dashboard behind the tokens: what comes through, what does not, and how their servers end."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from swathe.home import Home
from swathe.service.dashboard import Dashboards
from swathe.service.passages import _is_own, dashboard_passage, mlflow_passage
from swathe.service.problems import ProblemError
from swathe.service.proxy import inner_path, newest_record
from swathe.service.tokens import Role
from swathe.service.upstreams import Upstream, dashboard_program
from tests.browser import failures, open_browser, wait_for_text
from tests.integration import swathes
from tests.service.client import TestClient
from tests.service.conftest import Service

MLFLOW = "/ajax-api/2.0/mlflow"
ROLES = {Role.VIEWER: "viewer", Role.RUNNER: "runner", Role.ADMIN: "admin"}


@pytest.mark.parametrize(
    ("role", "requests"),
    [
        (
            "viewer",
            "GET /, GET /static-files/static/js/main.js, GET /version, GET /get-artifact, POST /graphql, "
            f"GET {MLFLOW}/experiments/search, POST {MLFLOW}/runs/search, GET {MLFLOW}/metrics/get-history-bulk, "
            "POST /api/3.0/mlflow/traces/search, GET /ajax-api/3.0/mlflow/server-info, HEAD /health, "
            "GET /api/2.0/mlflow-artifacts/artifacts/3/abc/artifacts/t é.txt, POST /api/2.0/mlflow/experiments/search",
        ),
        (
            "runner",
            f"POST {MLFLOW}/runs/create, POST {MLFLOW}/runs/log-batch, POST {MLFLOW}/runs/delete-tag, "
            f"POST {MLFLOW}/experiments/create, POST {MLFLOW}/model-versions/create, PATCH {MLFLOW}/logged-models/m-1, "
            f"DELETE {MLFLOW}/registered-models/alias, PUT /api/2.0/mlflow-artifacts/artifacts/3/abc/artifacts/a.bin",
        ),
        (
            "admin",
            f"POST {MLFLOW}/runs/delete, POST {MLFLOW}/experiments/delete, DELETE {MLFLOW}/registered-models/delete, "
            f"DELETE {MLFLOW}/model-versions/delete, DELETE /api/2.0/mlflow-artifacts/artifacts/3/a",
        ),
        (
            None,
            "POST /, TRACE /, OPTIONS /, GET /nothing, GET /static-files/, POST /get-artifact, GET /graphql, "
            f"GET {MLFLOW}/gateway-proxy, POST {MLFLOW}/gateway-proxy, GET /ajax-api/3.0/mlflow/assistant/config, "
            "POST /ajax-api/3.0/mlflow/assistant/message, POST /api/2.0/mlflow/webhooks, GET /api/2.0/mlflow/webhooks, "
            "GET /api/3.0/mlflow/gateway/secrets/list, POST /gateway/x/mlflow/invocations, GET /build/x, "
            "POST /ajax-api/3.0/jobs, POST /api/3.0/mlflow/scorers/register, POST /v1/traces, "
            f"GET {MLFLOW}/users/current, POST {MLFLOW}/upload-artifact, POST {MLFLOW}/runs/create/, "
            f"POST {MLFLOW}/artifacts/presigned-upload-url, GET {MLFLOW}/runs/get\nx, GET /API/2.0/mlflow/runs/get, "
            "GET /api/2.0/mlflow-artifacts/presigned/x, POST /api/2.0/mlflow-artifacts/mpu/create/x, GET /metrics, "
            "GET /api/4.0/mlflow/runs/get, POST /api/2.0/mlflow/runs/create-promptlab-run",
        ),
    ],
)
def test_each_request_to_mlflow_has_its_role(role: str | None, requests: str, tmp_path: Path) -> None:
    for request in requests.split(", "):
        method, path = request.split(" ", 1)
        passage = mlflow_passage(method, path, tmp_path)
        assert (None if passage is None else ROLES[passage.role]) == role, request


@pytest.mark.parametrize(
    ("role", "requests"),
    [
        (
            "viewer",
            "GET /, GET /dashboard/studies/0/beta, GET /static/bundle.js, GET /api/studies, GET /api/studies/0, "
            "GET /api/studies/0/plot/contour, GET /csv/0, GET /api/meta",
        ),
        ("runner", "PUT /api/studies/0/note, PUT /api/studies/0/7/note"),
        (
            None,
            "DELETE /api/studies/0, POST /api/studies, POST /api/studies/0/rename, POST /api/trials/0/tell, "
            "POST /api/trials/0/user-attrs, GET /static/../x, GET /artifacts/0/0/x, POST /api/artifacts/0, "
            "POST /api/llm/generate_trial_filtering_query, PUT /api/studies/0/preference_feedback_component",
        ),
    ],
)
def test_each_request_to_optuna_dashboard_has_its_role(role: str | None, requests: str) -> None:
    for request in requests.split(", "):
        passage = dashboard_passage(*request.split(" ", 1))
        assert (None if passage is None else ROLES[passage.role]) == role, request


def test_models_are_of_this_server(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    (artifacts / "1").mkdir(parents=True)
    (artifacts / "out").symlink_to("/etc")
    for good in (
        "runs:/abc/model",
        "models:/m-123",
        "mlflow-artifacts:/3/models/m-1",
        f"{artifacts}/1/abc/artifacts/m",
    ):
        assert _is_own(good, artifacts), good
    for bad in (
        *("file:///etc/passwd", "/etc/passwd", "file:/etc/passwd", "file://host/etc", "relative", "", "s3://bucket/x"),
        *("http://169.254.169.254/", "mlflow-artifacts://evil/x", "runs:/a/../../b", f"{artifacts}/../tokens.json"),
        *(f"{artifacts}/out/passwd", "mlflow-artifacts:/%2e%2e/x", "runs:/", "RUNS:/x", "file:///etc?x", "dbfs:/x"),
    ):
        assert not _is_own(bad, artifacts), bad


def test_new_experiments_and_models_are_checked(tmp_path: Path) -> None:
    def sent(name: str, body: bytes) -> Any:
        passage = mlflow_passage("POST", f"{MLFLOW}/{name}", tmp_path)
        assert passage is not None
        assert passage.check is not None
        return json.loads(passage.check(body))

    assert sent("experiments/create", b'{"name": "a", "tags": [], "artifact_location": ""}') == {
        "name": "a",
        "tags": [],
    }
    # Of a key that comes twice the one that was checked is sent.
    twice = b'{"artifact_location": "file:///etc", "name": "a", "artifact_location": ""}'
    assert sent("experiments/create", twice) == {"name": "a"}
    for body in (
        *(b'{"name": "a", "artifact_location": "file:///etc"}', b'{"artifactLocation": "/etc"}', b"[]", b"", b"\xff"),
        *(b'"{\\"artifact_location\\": \\"/etc\\"}"', b"[" * 100_000),
    ):
        with pytest.raises(ProblemError, match="allowed"):
            sent("experiments/create", body)
    assert sent("model-versions/create", b'{"name": "a", "source": "runs:/a/m"}')["source"] == "runs:/a/m"
    for body in (b'{"name": "a", "source": "file:///etc/passwd"}', b'{"name": "a"}', b'{"source": ["runs:/a"]}'):
        with pytest.raises(ProblemError, match="source"):
            sent("model-versions/create", body)


def test_paths_are_read_in_one_way(tmp_path: Path) -> None:
    def path(given: str, query: bytes = b"") -> str:
        return inner_path({"path": f"/mlflow{given}", "query_string": query}, "/mlflow")

    assert path("/get-artifact", b"path=plots/a.html&run_uuid=1") == "/get-artifact"
    assert path("/a..b/...c") == "/a..b/...c"
    for bad in ("//evil", "/a//b", "/../x", "/a/..", "/a/./b", "/a\\b", "/%2e%2e/x", "/a%00", "/a\0", "/a\nb", "", "x"):
        with pytest.raises(ProblemError, match="path"):
            path(bad)
    for query in (b"path=../x", b"path=a/%2e%2e/x", b"a=1&path=a%2F..%2Fx", b"path=%252e%252e/x", b"path=..\\x"):
        with pytest.raises(ProblemError, match="query"):
            path("/get-artifact", query)


@dataclass
class Tracker:
    """A server that only notes what it is asked, and answers with `headers` and `body`."""

    address: str
    seen: list[tuple[str, str, dict[str, str], bytes]]
    status: int = 200
    headers: Mapping[str, str] | None = None
    body: bytes = b"ok"


@contextmanager
def tracker() -> Iterator[Tracker]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            if "chunked" in self.headers.get("transfer-encoding", ""):
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size + 2)[:-2])
                self.rfile.readline()
                content = b"".join(parts)
            else:
                content = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.seen.append((self.command, self.path, headers, content))
            self.send_response(found.status)
            for name, value in (found.headers or {"Content-Type": "text/plain"}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        do_GET = do_POST = do_PUT = do_HEAD = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Tracker(f"http://127.0.0.1:{server.server_address[1]}", [])
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def remote(service: Service) -> Iterator[tuple[TestClient, Tracker]]:
    """Return the service when its newest sweep is recorded by a tracking server that somebody else runs."""
    folder, card = service.home.existing("f")
    with tracker() as found:
        folder.write_card(replace(card, tracking_uri=f"{found.address}/base/"))
        try:
            with service.client() as client:
                yield client, found
        finally:
            folder.write_card(card)


def bearer(service: Service, role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.tokens[role]}"}


def test_no_more_than_needed_goes_through(remote: tuple[TestClient, Tracker], service: Service) -> None:
    client, found = remote
    found.headers = {
        "Content-Type": "application/json",
        "Set-Cookie": "swathe_session=x",
        "Access-Control-Allow-Origin": "*",
        "Content-Security-Policy": "default-src *",
        "Strict-Transport-Security": "max-age=1",
        "Clear-Site-Data": '"*"',
        "Server": "x/1",
        "ETag": '"e"',
    }
    headers = bearer(service, "viewer") | {
        "Cookie": "swathe_session=secret; other=1",
        "X-Forwarded-For": "1.2.3.4",
        "Forwarded": "for=1.2.3.4",
        "X-MLflow-Client-Version": "1",
        "Connection": "keep-alive, x-forwarded-for",
        "Accept": "application/json",
        "Host": "testserver",
    }
    answer = client.post("/mlflow/api/2.0/mlflow/runs/search?a=b%20c", json={"max_results": 1}, headers=headers)
    assert (answer.status_code, answer.text) == (200, "ok")
    [(method, path, seen, body)] = found.seen
    assert (method, path, json.loads(body)) == ("POST", "/base/api/2.0/mlflow/runs/search?a=b%20c", {"max_results": 1})
    assert "swt_" not in str(seen)
    assert seen.keys() <= {
        *("host", "accept", "accept-encoding", "connection", "content-length", "content-type", "user-agent", "via")
    }
    # It would be its own request, sent to where the newest sweep is recorded.
    again = client.get("/mlflow/version", headers=headers | {"Via": seen["via"]})
    assert (again.status_code, len(found.seen)) == (508, 1)
    assert seen["host"] == found.address.removeprefix("http://")
    assert answer.headers["etag"] == '"e"'
    for name in ("set-cookie", "access-control-allow-origin", "clear-site-data", "server", "strict-transport-security"):
        assert name not in answer.headers, name
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"


def test_what_was_uploaded_is_shown_as_nobodys_page(remote: tuple[TestClient, Tracker], service: Service) -> None:
    client, found = remote
    viewer = bearer(service, "viewer")
    for kind in ("text/html; charset=utf-8", "image/svg+xml", "application/xhtml+xml", "text/javascript", " TEXT/XML"):
        found.headers = {"Content-Type": kind, "Content-Disposition": "inline; filename=a"}
        answer = client.get("/mlflow/get-artifact?path=a&run_uuid=1", headers=viewer)
        assert answer.headers["content-disposition"] == "attachment", kind
        assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    found.headers = {"Content-Type": "image/png", "Content-Disposition": "inline; filename=a.png"}
    answer = client.get("/mlflow/api/2.0/mlflow-artifacts/artifacts/1/a.png", headers=viewer)
    assert answer.headers["content-disposition"] == "inline; filename=a.png"
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_redirects_and_failures_of_the_server_are_sentences(
    remote: tuple[TestClient, Tracker], service: Service
) -> None:
    client, found = remote
    viewer = bearer(service, "viewer")
    found.status, found.headers = 302, {"Location": "https://evil.example/"}
    answer = client.get("/mlflow/", headers=viewer, follow_redirects=False)
    assert (answer.status_code, "location" in answer.headers) == (502, False)
    # What it answers itself is its own business.
    found.status, found.headers = 500, {"Content-Type": "application/json"}
    assert client.get("/mlflow/version", headers=viewer).status_code == 500


def test_large_bodies_stream_and_have_an_end(
    remote: tuple[TestClient, Tracker], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, found = remote
    runner = bearer(service, "runner")
    path = "/mlflow/api/2.0/mlflow-artifacts/artifacts/1/a.bin"
    content = os.urandom(3 * 2**20)
    assert client.put(path, content=content, headers=runner).status_code == 200
    assert client.put(path, content=(content[at : at + 2**18] for at in range(0, len(content), 2**18)), headers=runner)
    assert [one[3] == content for one in found.seen] == [True, True]
    body = b'{"x": "' + b" " * (4 * 2**20) + b'"}'
    for sent in (body, (body[at : at + 2**18] for at in range(0, len(body), 2**18))):
        assert client.post("/mlflow/api/2.0/mlflow/runs/create", content=sent, headers=runner).status_code == 413
    # Neither role nor table is asked after the body has come.
    assert client.put(path, content=content, headers=bearer(service, "viewer")).status_code == 403


def test_a_tracking_server_gets_the_servers_own_credentials(
    remote: tuple[TestClient, Tracker], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, found = remote
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "theirs")
    assert client.get("/mlflow/version", headers=bearer(service, "viewer")).status_code == 200
    assert found.seen[0][2]["authorization"] == "Bearer theirs"


def test_a_server_that_is_away_is_a_sentence(service: Service) -> None:
    folder, card = service.home.existing("f")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        folder.write_card(replace(card, tracking_uri=f"http://127.0.0.1:{taken.getsockname()[1]}"))
        try:
            with service.client() as client:
                answer = client.get("/mlflow/version", headers=bearer(service, "viewer"))
        finally:
            folder.write_card(card)
    assert answer.status_code == 502
    assert answer.json()["detail"] == "MLflow ended or cannot be reached; ask again."


def test_the_newest_sweeps_record_is_shown(service: Service, tmp_path: Path) -> None:
    assert newest_record(Home(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"
    assert newest_record(service.home) == service.home.tracking_uri


def asked(app: Dashboards, path: str, method: str = "GET", **environ: Any) -> tuple[str, bytes]:
    said: list[str] = []
    body = app(
        {"PATH_INFO": path, "REQUEST_METHOD": method, **environ}, lambda status, headers, _=None: said.append(status)
    )  # type: ignore[arg-type, typeddict-item]
    return said[0], b"".join(body)


def test_a_dashboard_is_of_one_sweep_below_its_path(service: Service) -> None:
    app = Dashboards(service.home)
    status, page = asked(app, "/f/dashboard/studies/0")
    assert (status, b'src="/optuna/f/static/bundle.js"' in page) == ("200 OK", True)
    script = asked(app, "/f/static/bundle.js")[1]
    for words in (b'url_prefix:"/optuna/f/dashboard"', b'("/optuna/f")}handleResponse', b"`/optuna/f/csv/${e.id}"):
        assert words in script
    studies = json.loads(asked(app, "/f/api/studies")[1])["study_summaries"]
    assert [one["study_name"] for one in studies] == ["f"]
    assert len(json.loads(asked(app, "/f/api/studies/0", QUERY_STRING="")[1])["trials"]) == 8
    assert asked(app, "/f/api/studies/1")[0] == "404 Not Found"
    assert asked(app, "/f/csv/1")[0] == "404 Not Found"
    assert asked(app, "/g/api/studies")[0] == "503 Service Unavailable"


@pytest.mark.slow
def test_a_dashboards_server_starts_again_when_it_died_and_ends_when_nobody_asks(service: Service) -> None:
    async def lives() -> None:
        server = Upstream(dashboard_program(service.home), idle_seconds=1.0)
        try:
            async with server.client() as client:
                assert (await client.get("/f/api/meta")).status_code == 200
            first = server.pid
            assert first is not None
            os.killpg(first, signal.SIGKILL)
            await _until(lambda: server.pid is None)
            async with server.client() as client:
                assert (await client.get("/f/api/meta")).status_code == 200
                folder = Path(str(client._transport._pool._uds)).parent  # type: ignore[attr-defined]
                assert oct(folder.stat().st_mode)[-3:] == "700"
            second = server.pid
            assert second not in (None, first)
            await _until(lambda: server.pid is None and not _alive(second))
            assert not folder.exists()
        finally:
            await server.close()

    asyncio.run(lives())


async def _until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.05)


def _alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_server_that_does_not_start_is_a_sentence_and_not_tried_at_each_request(tmp_path: Path) -> None:
    async def fails() -> None:
        program = replace(dashboard_program(Home(tmp_path)), words=lambda socket: ["swathe.no_such_module"])
        server = Upstream(program)
        for _ in range(2):
            with pytest.raises(ProblemError, match=r"does not start; optuna-dashboard\.log") as refused:
                async with server.client():
                    pytest.fail("it did start")
            assert refused.value.headers["Retry-After"] == "10"
        await server.close()

    asyncio.run(fails())


# The real servers.


@dataclass(frozen=True)
class Running:
    """A real server's process, its address and the service that it is of."""

    process: subprocess.Popen[str]
    address: str
    service: Service

    def client(self, role: str) -> httpx.Client:
        return httpx.Client(base_url=self.address, headers=bearer(self.service, role), timeout=120)

    def upstreams(self) -> set[int]:
        words = ["pgrep", "-P", str(self.process.pid), "-f", "swathe.service.tended"]
        found = subprocess.run(words, capture_output=True, text=True, check=False)
        return {int(line) for line in found.stdout.split()}


@pytest.fixture(scope="module")
def real(launched: Service) -> Iterator[Running]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = swathes.start(launched.folder, "serve", "--port", str(port))
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{address}/api/v1/health")
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.1)
        yield Running(process, address, launched)
    finally:
        process.kill()
        process.wait()


CLIENT = """
import sys
import mlflow
from mlflow import MlflowClient
client = MlflowClient()
runs = client.search_runs([client.get_experiment_by_name("f").experiment_id])
print(len(runs))
mlflow.set_experiment("theirs")
with mlflow.start_run() as run:
    mlflow.log_param("p", 1)
    mlflow.log_metric("m", 0.5, step=2)
    mlflow.log_text("<script>alert(1)</script>", "page.html")
print(client.get_metric_history(run.info.run_id, "m")[0].value)
print(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/page.html"))
try:
    client.delete_run(run.info.run_id)
except mlflow.MlflowException as error:
    print("admin" in str(error))
print(run.info.run_id)
"""


@pytest.mark.slow
def test_mlflows_client_works_with_a_token(real: Running) -> None:
    environment = swathes.environment() | {
        "MLFLOW_TRACKING_URI": f"{real.address}/mlflow",
        "MLFLOW_TRACKING_TOKEN": real.service.tokens["runner"],
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    done = subprocess.run([sys.executable, "-c", CLIENT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    *lines, run = done.stdout.splitlines()
    assert lines == ["9", "0.5", "<script>alert(1)</script>", "True"]
    with real.client("viewer") as client:
        answer = client.get("/mlflow/get-artifact", params={"path": "page.html", "run_uuid": run})
        assert answer.text == "<script>alert(1)</script>"
        assert answer.headers["content-disposition"] == "attachment"
        assert answer.headers["content-security-policy"].startswith("sandbox")
        # MLflow's own check, should one of ours not see it.
        answer = client.get("/mlflow/get-artifact", params={"path": "/etc/passwd", "run_uuid": run})
        assert answer.status_code >= 400
        assert "root:" not in answer.text
        for path in ("users/current", "gateway-proxy?gateway_path=x"):
            assert client.get(f"/mlflow/ajax-api/2.0/mlflow/{path}").status_code == 403


@pytest.mark.slow
def test_notes_are_for_runners_and_are_kept_in_the_study(real: Running) -> None:
    note = {"version": 1, "body": "looks <b>good</b>"}
    path = "/optuna/f/api/studies/0/note"
    with real.client("viewer") as viewer, real.client("runner") as runner:
        assert viewer.put(path, json=note).status_code == 403
        assert runner.put(path, json=note).status_code == 204
        assert viewer.get("/optuna/f/api/studies/0").json()["note"] == note
        assert viewer.get("/optuna/nothing/api/studies").status_code == 404
        assert viewer.get("/api/v1/sweeps/f").json()["counts"]["complete"] == 3


@pytest.mark.slow
def test_both_work_in_a_browser_that_signed_in(real: Running) -> None:
    sign_in = """
        const done = arguments[1];
        const headers = {"Content-Type": "application/json"};
        fetch("/api/v1/session", {method: "POST", headers, body: JSON.stringify({token: arguments[0]})})
            .then((answer) => done(answer.status));
    """
    with real.client("viewer") as client, open_browser() as browser:
        found = client.get("/mlflow/api/2.0/mlflow/experiments/get-by-name?experiment_name=f").json()
        experiment = found["experiment"]["experiment_id"]
        search = {"experiment_ids": [experiment], "filter": "tags.`swathe.kind` = 'trial'"}
        runs = client.post("/mlflow/api/2.0/mlflow/runs/search", json=search).json()["runs"]
        ids = [run["info"]["run_id"] for run in runs]
        browser.get(f"{real.address}/mlflow/")
        wait_for_text(browser, "Unauthorized")
        browser.get(real.address)
        assert browser.execute_async_script(sign_in, real.service.tokens["viewer"]) == 200
        assert browser.execute_script("return document.cookie") == ""
        browser.get_log("browser")
        runs_page = f"{real.address}/mlflow/#/experiments/{experiment}/runs?workflowType=machine_learning"
        browser.get(f"{runs_page}&viewStateShareKey=f")
        wait_for_text(browser, "8 matching runs", "0005")
        compared = json.dumps(ids[:3]).replace(" ", "")
        browser.get(f'{real.address}/mlflow/#/compare-runs?runs={compared}&experiments=["{experiment}"]')
        wait_for_text(browser, "Comparing 3 Runs from 1 Experiment", *ids[:3])
        # What MLflow's page asks for and is not let through: users, an assistant and a gateway, which nobody has here.
        refused = ("/users/current", "/assistant/", "/gateway-proxy", "Cannot read properties of undefined")
        wrong = [one for one in failures(browser, real.address) if not any(word in one for word in refused)]
        assert wrong == []
        browser.get(f"{real.address}/optuna/f")
        wait_for_text(browser, "0. f", "MINIMIZE")
        browser.get(f"{real.address}/optuna/f/dashboard/studies/0")
        wait_for_text(browser, "History", "Hyperparameter Importance")
        assert [one for one in failures(browser, real.address) if "favicon" not in one] == []
        # What a page of MLflow can send without our header is what its role may.
        write = """
            const done = arguments[0];
            const body = JSON.stringify({name: "x"});
            fetch("/mlflow/ajax-api/2.0/mlflow/experiments/create", {method: "POST", body})
                .then((answer) => done(answer.status));
        """
        assert browser.execute_async_script(write) == 403


@pytest.mark.slow
def test_a_killed_server_leaves_nothing_behind(real: Running) -> None:
    # The last test of this file, as a home has one server.
    with real.client("viewer") as client:
        assert client.get("/mlflow/version").status_code == 200
        assert client.get("/optuna/f/api/meta").status_code == 200
    groups = real.upstreams()
    assert len(groups) == 2
    real.process.send_signal(signal.SIGKILL)
    real.process.wait()
    deadline = time.monotonic() + 30
    while any(_group(one) for one in groups):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _group(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True
