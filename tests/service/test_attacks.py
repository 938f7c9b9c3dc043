"""What people without the right to it try: each is refused with its status, as a problem, and is in the audit log."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swathe import cli
from swathe.home import Home
from swathe.service import guard, tokens
from swathe.service.admission import Rate
from swathe.service.problems import without_folders
from swathe.service.tokens import create_token, revoke_token
from tests.service.attacks import ATTACKS, Attack, World, documented, world
from tests.service.client import TestClient
from tests.service.conftest import Service
from tests.service.test_screening import BOMB, DEEP

VALIDATE = "/api/v1/validate"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def refused(answer: Any, status: int, *words: str) -> str:
    """Check that an answer is a problem with this status and one sentence with these words; return that."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert (found["status"], found["type"]) == (status, "about:blank")
    assert "Traceback" not in answer.text
    assert found["detail"].isprintable()
    for word in words:
        assert word in found["detail"], found["detail"]
    return str(found["detail"])


@pytest.fixture(scope="module")
def attacked(launched: Service, open_client: TestClient) -> Iterator[World]:
    with world(launched, open_client) as found:
        yield found


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_the_table_of_attacks(service: Service, attacked: World, attack: Attack) -> None:
    answers = list(attack.tries(attacked))
    assert answers
    for answer in answers:
        assert answer.status_code in attack.statuses, (answer.status_code, answer.text[:300])
        for secret in ("Traceback", "root:x", str(service.folder), *service.tokens.values()):
            assert secret not in answer.text


def test_the_documented_table_is_this_one() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "service.md"
    assert documented(page) == [(attack.name, attack.answer) for attack in ATTACKS]


READS = ["/sweeps", "/sweeps/f", "/sweeps/f/trials", "/sweeps/f/trials/0", "/sweeps/f/trials/0/curves"]
READS += ["/sweeps/f/diagnosis", "/sweeps/f/best", "/sweeps/f/events", "/openapi.json", "/nothing"]


def test_without_a_token_only_health_is_answered(client: TestClient) -> None:
    assert client.get("/api/v1/health").json()["status"] == "ok"
    for path in READS:
        answer = client.get(f"/api/v1{path}")
        refused(answer, 401, "Bearer TOKEN")
        assert answer.headers["www-authenticate"] == "Bearer"
    refused(client.post("/api/v1/sweeps/f/stop"), 401)
    refused(client.post(VALIDATE, json={"sweep": "quickstart"}), 401)
    refused(client.get("/api/v1/health/"), 401)
    refused(client.get("/static"), 401)


def test_tokens_that_are_none_let_nobody_in(client: TestClient, service: Service, tmp_path: Path) -> None:
    good = service.tokens["admin"]
    others = create_token(Home(tmp_path), "admin", "admin")
    wrong = good[:-1] + ("A" if good[-1] != "A" else "B")
    for token in (others, wrong, good[:21], "", "x" * 10_000, "swt_" + "0" * 16 + good[20:]):
        refused(client.get("/api/v1/sweeps", headers=bearer(token)), 401)
    for header in (good, f"Basic {good}", f"Bearer{good}", f"Bearer {good} {good}", f"Token {good}"):
        refused(client.get("/api/v1/sweeps", headers={"Authorization": header}), 401)
    twice = [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")]
    refused(client.get("/api/v1/sweeps", headers=twice), 401)
    refused(client.get("/api/v1/sweeps", params={"token": good, "access_token": good}), 401)
    refused(client.get("/api/v1/sweeps", headers={"Cookie": f"Authorization=Bearer {good}; token={good}"}), 401)


def test_a_token_that_expired_or_was_revoked_is_refused_at_once(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = create_token(service.home, "short", "viewer", 1)
    assert client.get("/api/v1/sweeps", headers=bearer(token)).status_code == 200
    now = tokens.time.time()
    with monkeypatch.context() as later:
        later.setattr(tokens.time, "time", lambda: now + 86_401)
        refused(client.get("/api/v1/sweeps", headers=bearer(token)), 401, "expired")
    assert client.get("/api/v1/sweeps", headers=bearer(token)).status_code == 200
    revoke_token(service.home, "short")
    refused(client.get("/api/v1/sweeps", headers=bearer(token)), 401, "revoked")


def test_roles_end_where_they_end(client: TestClient, service: Service) -> None:
    viewer = bearer(service.tokens["viewer"])
    refused(client.post("/api/v1/sweeps/f/stop", headers=viewer), 403, "role: 'viewer'", "runner or above")
    refused(client.post(VALIDATE, json={"sweep": "quickstart"}, headers=viewer), 403)
    # Not even what is wrong with a request is for those who may not make it.
    refused(client.post("/api/v1/sweeps/nothing/stop", headers=viewer), 403)
    refused(client.post(VALIDATE, json={"sweep": 1}, headers=viewer), 403)
    for role in ("runner", "admin"):
        refused(client.post("/api/v1/sweeps/f/stop", headers=bearer(service.tokens[role])), 409)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST", "OPTIONS", "TRACE", "HEAD"])
def test_other_methods_do_nothing(client: TestClient, service: Service, method: str) -> None:
    answer = client.request(method, "/api/v1/sweeps/f", headers=bearer(service.tokens["admin"]))
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "name",
    [
        *("..", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5c..", "%2Fetc%2Fpasswd", ".f", "-", "~", "*", "%25"),
        *("%00", "f%00", "f%0a", "f%0d%0aSet-Cookie:%20a=b", "a" * 101, "a" * 5000, "é", "%ff", "f%20", "f;x"),
    ],
)
def test_names_lead_nowhere_else(client: TestClient, service: Service, name: str) -> None:
    headers = bearer(service.tokens["admin"])
    for path in ("", "/trials", "/best", "/diagnosis", "/events", "/trials/0/curves"):
        answer = client.get(f"/api/v1/sweeps/{name}{path}", headers=headers)
        assert answer.status_code in (404, 422) or name == "..", (path, answer.text)
        if answer.status_code != 200:
            refused(answer, answer.status_code)
        assert "set-cookie" not in answer.headers
        assert "root:" not in answer.text
    stop = client.post(f"/api/v1/sweeps/{name}/stop", headers=headers)
    assert stop.status_code in (404, 405, 422)


@pytest.mark.parametrize("number", ["-1", "1.5", "x", "9" * 5000, "2147483648", "%00", "0x1", "1e3", "٣٣٣"])
def test_numbers_of_trials_are_numbers(client: TestClient, service: Service, number: str) -> None:
    answer = client.get(f"/api/v1/sweeps/f/trials/{number}", headers=bearer(service.tokens["viewer"]))
    assert answer.status_code in (404, 422)
    refused(answer, answer.status_code)


def test_bodies_are_small_json_of_the_right_shape(client: TestClient, service: Service) -> None:
    headers = bearer(service.tokens["runner"]) | {"Content-Type": "application/json"}

    def post(content: Any, **more: str) -> Any:
        return client.post(VALIDATE, content=content, headers=headers | more)

    refused(post(b" " * (guard.MAX_BODY + 1)), 413, "1048576 bytes")
    refused(post(b"{}", **{"Content-Length": "99999999999"}), 413)
    # In pieces, without a length.
    refused(post(b" " * 1000 for _ in range(1100)), 413)
    refused(post(b"{}", **{"Content-Length": "x"}), 400, "Content-Length")
    refused(post(b"sweep=quickstart", **{"Content-Type": "application/x-www-form-urlencoded"}), 415, "application/json")
    refused(post(b"sweep: quickstart", **{"Content-Type": "application/yaml"}), 415)
    for content in (b"", b"{", b"[]", b"null", b"\xff", b'"x"', b"[" * 100_000, b'{"sweep": 1}', b'{"overrides": "x"}'):
        refused(post(content), 400 if content in (b"\xff", b"[" * 100_000) else 422)
    for body in (
        {"sweep": "../x"},
        {"sweep": "x\n"},
        {"sweep": "a", "more": 1},
        {"yaml": "x" * 70_000},
        {},
        {"yaml": 1},
    ):
        refused(client.post(VALIDATE, json=body, headers=headers), 422)
    refused(client.post(VALIDATE, json={"overrides": ["x=1"] * 201, "sweep": "a"}, headers=headers), 422)
    refused(client.post(VALIDATE, json={"sweep": "quickstart", "yaml": "a: 1"}, headers=headers), 422, "not both")


@pytest.mark.parametrize(
    "body",
    [
        {"yaml": "model: {_target_: os.system, command: id}"},
        {"yaml": "sweep: {name: '${oc.env:HOME}'}"},
        {"yaml": "data: {path: /etc/passwd}"},
        {"yaml": BOMB},
        {"yaml": DEEP},
        {"sweep": "quickstart", "overrides": ["+model._target_=os.system"]},
        {"sweep": "quickstart", "overrides": ["data=../../../etc/passwd"]},
        {"sweep": "quickstart", "overrides": ["tracking.uri=http://169.254.169.254/"]},
        {"sweep": "quickstart", "overrides": ["hydra.searchpath=[file:///]"]},
        {"sweep": "quickstart", "overrides": ["x=\0"]},
    ],
)
def test_configs_run_no_code_and_read_nothing(client: TestClient, service: Service, body: dict[str, Any]) -> None:
    refused(client.post(VALIDATE, json=body, headers=bearer(service.tokens["runner"])), 422, "allowed")


def test_too_many_requests_are_told_when_to_come_again(service: Service) -> None:
    with service.client(requests=Rate(burst=3, per_second=0.01)) as client:
        viewer, admin = bearer(service.tokens["viewer"]), bearer(service.tokens["admin"])
        for _ in range(3):
            assert client.get("/api/v1/sweeps", headers=viewer).status_code == 200
        answer = client.get("/api/v1/sweeps", headers=viewer)
        refused(answer, 429, "requests with this token")
        assert 0 < int(answer.headers["retry-after"]) <= 100
        assert client.get("/api/v1/sweeps", headers=admin).status_code == 200


def test_guessing_secrets_costs_the_guesser_and_not_the_server(service: Service) -> None:
    good = service.tokens["viewer"]
    with service.client(failures=Rate(burst=2, per_second=0.001)) as client:
        assert client.get("/api/v1/sweeps", headers=bearer(good)).status_code == 200
        guesses = [f"{good[:21]}{'A' * 42}{letter}" for letter in "ABC"]
        codes = [client.get("/api/v1/sweeps", headers=bearer(guess)).status_code for guess in guesses]
        assert codes == [401, 401, 429]
        # Who was let in before still is.
        assert client.get("/api/v1/sweeps", headers=bearer(good)).status_code == 200


def test_every_answer_has_the_headers(client: TestClient, service: Service) -> None:
    for path, headers in (("/api/v1/health", {}), ("/api/v1/sweeps", bearer(service.tokens["viewer"])), ("/x", {})):
        answer = client.get(path, headers=headers | {"Origin": "https://evil.example"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "strict-transport-security" not in answer.headers
    with service.client(tls=True) as secure:
        assert "strict-transport-security" in secure.get("/api/v1/health").headers


def test_the_audit_log_has_who_did_what_and_no_secret(client: TestClient, service: Service) -> None:
    log = service.home.path / "audit.log"
    before = len(log.read_text().splitlines()) if log.exists() else 0
    runner = service.tokens["runner"]
    client.get("/api/v1/sweeps/f", headers=bearer(runner), params={"secret": "swt_query"})
    client.post("/api/v1/sweeps/f/stop", headers=bearer(service.tokens["viewer"]))
    client.get("/api/v1/sweeps/x%0d%0a%22y", headers=bearer("swt_wrong"))
    lines = [json.loads(line) for line in log.read_text().splitlines()[before:]]
    seen = [(one["token"], one["role"], one["method"], one["path"], one["status"]) for one in lines]
    assert seen == [
        ("the-runner", "runner", "GET", "/api/v1/sweeps/f", 200),
        ("the-viewer", "viewer", "POST", "/api/v1/sweeps/f/stop", 403),
        (None, None, "GET", "/api/v1/sweeps/x%0d%0a%22y", 401),
    ]
    assert all(isinstance(one["time"], float) for one in lines)
    assert "swt_" not in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_log_that_is_full_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_AUDIT", 200)
    audit = guard.Audit(tmp_path)
    for _ in range(4):
        audit.write(None, "GET", "/" + "x" * 1000, 401)
    assert len((tmp_path / "audit.log").read_text().splitlines()) == 1
    assert len((tmp_path / "audit.log.1").read_text().splitlines()) == 1


def test_tokens_that_cannot_be_read_let_nobody_in(service: Service, tmp_path: Path) -> None:
    home = Home(tmp_path)
    token = create_token(home, "a", "admin")
    with Service(tmp_path, home, {}).client() as client:
        assert client.get("/api/v1/sweeps", headers=bearer(token)).status_code == 200
        tokens.tokens_file(home).write_text("[1]")
        refused(client.get("/api/v1/sweeps", headers=bearer(token)), 503, "holds no tokens")


# What `swathe launch` refuses, in its own words.


@pytest.mark.slow
def test_modules_that_are_not_allowed_are_not_even_imported(client: TestClient, service: Service) -> None:
    mark = service.folder / "imported"
    (service.folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\ndef train(params): ...\n")
    function = ["f.yaml", "sweep.name=g"]
    (service.folder / "texts.csv").write_text("text,target\n" + "good words,a\nbad words,b\n" * 20)
    data = [
        "data=text",
        "data.path=texts.csv",
        "data.target=target",
        "data.tokens=words",
        "model=lstm",
        "model.norm=none",
    ]
    text = ["quickstart", *data, "augmentation=back_translation", "augmentation.back_translation=0.5"]
    imports = [
        [*function, "trainable=evil:train"],
        [*function, "trainable=evil:a.b"],
        [*text, "augmentation.translator=evil:train"],
        [*text, "augmentation.translator=evil"],
    ]
    others = [
        [*function, "trainable=' evil:train'"],
        [*function, "trainable=choice(evil:train,evil:other)"],
        [*text, "augmentation.translator=choice(evil,evil:train)"],
    ]

    def post(client: TestClient, words: list[str]) -> Any:
        body = {"sweep": words[0], "overrides": words[1:]}
        return client.post(VALIDATE, json=body, headers=bearer(service.tokens["admin"]))

    for words in (*imports, *others):
        refused(post(client, words), 422)
        assert not mark.exists(), words
    # Where the module is allowed, the first ones do import it, even those that are refused in the end.
    with service.client(allowed_modules=["evil"]) as permissive:
        for words in imports:
            post(permissive, words)
            assert mark.exists(), words
            mark.unlink()


@pytest.mark.slow
def test_a_check_downloads_nothing(client: TestClient, service: Service) -> None:
    body = {"sweep": "quickstart", "overrides": ["data=cifar100"]}
    answer = client.post(VALIDATE, json=body, headers=bearer(service.tokens["runner"]))
    # Its files are not here, which only the job that trains is to change.
    assert answer.status_code == 200, answer.text
    assert not (service.home.data / "cifar100").exists()


def test_sentences_say_nothing_of_the_servers_folders(client: TestClient, service: Service) -> None:
    viewer = bearer(service.tokens["viewer"])
    detail = refused(client.get("/api/v1/sweeps/nothing", headers=viewer), 404)
    assert detail.startswith("There is no sweep 'nothing' in .swathe; there are: ")
    home = Path("/srv/team/.swathe")
    for said, shown in (
        ("sqlite:////srv/team/.swathe/mlflow.db is away", "sqlite:///.swathe/mlflow.db is away"),
        (f"none is at {Path.cwd()}/a/b.csv.", "none is at a/b.csv."),
        ("/srv/team2/x and /mnt/srv/team/x are others'", "/srv/team2/x and /mnt/srv/team/x are others'"),
        ("in '/srv/team'.", "in ''."),
    ):
        assert without_folders(said, home) == shown


@pytest.mark.slow
def test_what_is_in_the_way_is_refused_too(client: TestClient, service: Service) -> None:
    for words in (["sweep.name=f"], ["sweep.name=../x"], ["data=csv"]):
        body = {"sweep": "quickstart", "overrides": words}
        refused(client.post(VALIDATE, json=body, headers=bearer(service.tokens["runner"])), 422, "allowed")


@pytest.mark.parametrize(
    "words",
    [
        ["quickstart", "optim.lr=fast"],
        pytest.param(["quickstart", "no.such.key=1"], marks=pytest.mark.slow),
        pytest.param(["nothing"], marks=pytest.mark.slow),
        pytest.param(["quickstart", "optim.lr=interval(1,0)"], marks=pytest.mark.slow),
        pytest.param(["f.yaml"], marks=pytest.mark.slow),
    ],
)
def test_a_sweep_is_refused_in_the_words_of_a_launch(
    client: TestClient, service: Service, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"sweep": words[0], "overrides": words[1:]}
    answer = client.post(VALIDATE, json=body, headers=bearer(service.tokens["runner"]))
    detail = refused(answer, 422, "allowed")
    if words == ["f.yaml"]:
        assert detail == (
            "function: 'tests.trials:fails_above_a_half' is not allowed; allowed: functions of these modules: none, as "
            "the server was started without --allow-module."
        )
        return
    assert cli.run(["config", *words]) == cli.EXIT_BAD_INPUT
    assert capsys.readouterr().err == f"swathe: {detail}\n"


def test_a_good_sweep_is_found_good(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root / "src"), str(root)]))
    text = (service.folder / "f.yaml").read_text().replace("name: f", "name: g")
    headers = bearer(service.tokens["runner"])
    with service.client(allowed_modules=["tests.trials"]) as client:
        answer = client.post(VALIDATE, json={"yaml": text, "overrides": ["sweep.trials=5"]}, headers=headers)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["name"], found["trials"]) == ("g", 5)
        assert found["space"] == [{"name": "params.x", "distribution": "float 0 .. 1", "when": "always"}]
    assert not (service.home.path / "sweeps" / "g").exists()
