"""Sessions of the page: what their cookie is, how long it holds, and that no other page can use it."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from swathe.home import Home
from swathe.service import sessions
from swathe.service.admission import Rate
from swathe.service.sessions import MAX_ENDED, Sessions
from swathe.service.tokens import Authority, Token, create_token, read_tokens, revoke_token
from tests.service.client import TestClient
from tests.service.conftest import Service

SESSION = "/api/v1/session"
STOP = "/api/v1/sweeps/f/stop"


@pytest.fixture(scope="module")
def one_server(launched: Service) -> Any:
    return launched.client().app


@pytest.fixture
def fresh(service: Service, one_server: Any) -> Callable[..., TestClient]:
    """Return what makes a browser, with cookies of its own: of one server, or of another one with options."""

    def make(**options: Any) -> TestClient:
        return service.client(**options) if options else TestClient(one_server, raise_server_exceptions=False)

    return make


def sign_in(client: TestClient, token: str, **headers: str) -> Any:
    return client.post(SESSION, json={"token": token}, headers=headers)


def made(home: Home) -> Token:
    """Make a token, and return what is kept of it."""
    create_token(home, "bob", "viewer")
    return read_tokens(home)[0]


def test_a_cookie_stands_for_the_token(service: Service, fresh: Callable[..., TestClient]) -> None:
    browser = fresh()
    answer = sign_in(browser, service.tokens["runner"])
    assert answer.status_code == 200
    logged = json.loads((service.home.path / "audit.log").read_text().splitlines()[-1])
    assert (logged["token"], logged["method"], logged["path"]) == ("the-runner", "POST", SESSION)
    who = answer.json()
    assert (who["name"], who["role"]) == ("the-runner", "runner")
    cookie = answer.headers["set-cookie"]
    value, rest = cookie.split("; ", 1)
    assert re.fullmatch(r"swathe_session=[0-9a-f]{16}\.\d+\.[0-9a-f]{32}\.[0-9a-f]{64}", value)
    assert rest == "Max-Age=43200; Path=/; HttpOnly; SameSite=Strict"
    assert service.tokens["runner"][21:] not in cookie
    assert browser.get("/api/v1/sweeps").status_code == 200
    assert browser.get(SESSION).json() == who
    # Nothing runs: the request came as far as that.
    assert browser.post(STOP, headers={"X-CSRF-Token": who["csrf"]}).status_code == 409


def test_who_asks_with_a_token_is_told_and_needs_no_csrf(client: TestClient, service: Service) -> None:
    headers = {"Authorization": f"Bearer {service.tokens['viewer']}"}
    assert client.get(SESSION, headers=headers).json() == {"name": "the-viewer", "role": "viewer", "csrf": None}
    assert client.delete(SESSION, headers=headers).status_code == 200


def test_signing_out_ends_copies_of_the_cookie_too(service: Service, fresh: Callable[..., TestClient]) -> None:
    browser, thief = fresh(), fresh()
    csrf = sign_in(browser, service.tokens["viewer"]).json()["csrf"]
    thief.cookies = browser.cookies
    other = fresh()
    sign_in(other, service.tokens["viewer"])
    assert browser.delete(SESSION).status_code == 403
    answer = browser.delete(SESSION, headers={"X-CSRF-Token": csrf})
    assert answer.json() == {"name": "the-viewer", "role": "viewer", "csrf": None}
    assert answer.headers["set-cookie"].startswith("swathe_session=; Max-Age=0; Path=/; HttpOnly")
    assert browser.get("/api/v1/sweeps").status_code == 401
    assert thief.get("/api/v1/sweeps").status_code == 401
    # Not even at another server of the home, and of the same person's sessions only this one.
    anew = fresh(tls=False)
    anew.cookies = thief.cookies
    assert anew.get("/api/v1/sweeps").status_code == 401
    assert other.get("/api/v1/sweeps").status_code == 200


def test_a_session_outlives_the_server_but_not_its_hours_or_its_token(
    service: Service, fresh: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = create_token(service.home, "short", "viewer")
    before = fresh()
    sign_in(before, token)
    after = fresh(tls=False)
    # Sent by hand: the client itself forgets a cookie that is over by its clock.
    cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in before.cookies.items())}
    assert after.get(SESSION, headers=cookie).status_code == 200
    now = sessions.time.time()
    for seconds, status in ((sessions.SESSION_SECONDS - 5, 200), (sessions.SESSION_SECONDS, 401), (-3600.0, 401)):
        with monkeypatch.context() as later:
            later.setattr(sessions.time, "time", lambda seconds=seconds: now + seconds)
            assert after.get(SESSION, headers=cookie).status_code == status
    revoke_token(service.home, "short")
    answer = after.get(SESSION, headers=cookie)
    assert (answer.status_code, "sign in again" in answer.json()["detail"]) == (401, True)


def test_with_tls_the_cookie_is_for_https_and_this_host_alone(
    service: Service, fresh: Callable[..., TestClient]
) -> None:
    for options in ({"tls": True}, {"behind_proxy": True}):
        browser = fresh(**options)
        browser.base_url = "https://testserver"
        answer = sign_in(browser, service.tokens["viewer"])
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-swathe_session=")
        assert cookie.endswith("; Path=/; HttpOnly; SameSite=Strict; Secure")
        assert "strict-transport-security" in answer.headers
        assert browser.get("/api/v1/sweeps").status_code == 200
        plain = {"Cookie": cookie.partition(";")[0].removeprefix("__Host-")}
        assert fresh(**options).get("/api/v1/sweeps", headers=plain).status_code == 401


def test_the_key_is_the_homes_and_for_its_owner(tmp_path: Path) -> None:
    home, other = Home(tmp_path / "a"), Home(tmp_path / "b")
    token, authority = made(home), Authority(home)
    cookie = Sessions(home, authority, secure=False).begin(token)[0].partition(";")[0]
    key = home.path / "session.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32
    assert [path.name for path in home.path.iterdir() if path.name.startswith(".session")] == []
    assert Sessions(home, authority, secure=False).read([cookie]) is not None
    # Even if it knew the token.
    assert Sessions(other, authority, secure=False).read([cookie]) is None
    key.write_bytes(b"short")
    with pytest.raises(Exception, match=r"session\.key holds no key"):
        Sessions(home, authority, secure=False).read([cookie])


def test_cookies_that_are_none_are_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    token = made(home)
    found = Sessions(home, Authority(home), secure=False)
    cookie = found.begin(token)[0].partition(";")[0]
    assert found.read([cookie]) is not None
    assert found.read([f"other=1; {cookie}"]) is not None
    name, value = cookie.split("=")
    for at in (0, 5, 20, 40, 60, len(value) - 1):
        changed = value[:at] + ("0" if value[at] != "0" else "1") + value[at + 1 :]
        assert found.read([f"{name}={changed}"]) is None, at
    parts = value.split(".")
    for bad in (
        *("", "x", value[:-1], f"{value}0", value.upper(), ".".join(parts[:3]), ".".join([*parts[:3], "0" * 64])),
        *(f'"{value}"', ".".join([*parts, parts[3]]), "é", "0" * 100_000),
    ):
        assert found.read([f"{name}={bad}"]) is None, bad[:50]
    # Which of two the browser meant nobody knows.
    for twice in ([cookie, cookie], [f"{cookie}; {cookie}"], [f"{cookie}; {name}=x"]):
        assert found.read(twice) is None


def test_what_is_remembered_of_ended_sessions_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    token = made(home)
    found = Sessions(home, Authority(home), secure=False)
    monkeypatch.setattr(sessions, "MAX_ENDED", 3)
    for _ in range(5):
        found.end(found.begin(token)[1])
    file = tmp_path / "sessions-ended.json"
    assert len(json.loads(file.read_text())) == 3 < MAX_ENDED
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    now = sessions.time.time()
    monkeypatch.setattr(sessions.time, "time", lambda: now + sessions.SESSION_SECONDS + 1)
    found.end(found.begin(token)[1])
    assert len(json.loads(file.read_text())) == 1


def test_what_goes_on_can_ask_whether_the_session_still_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    token = made(home)
    found = Sessions(home, Authority(home), secure=False)
    (_, first), (_, second) = found.begin(token), found.begin(token)
    assert found.holds(first)
    found.end(first)
    assert not found.holds(first)
    assert found.holds(second)
    with monkeypatch.context() as later:
        later.setattr(sessions.time, "time", lambda: second.until)
        assert not found.holds(second)
    revoke_token(home, "bob")
    assert not found.holds(second)


def test_a_token_that_comes_along_is_what_counts(service: Service, fresh: Callable[..., TestClient]) -> None:
    browser = fresh()
    sign_in(browser, service.tokens["admin"])
    viewer = {"Authorization": f"Bearer {service.tokens['viewer']}"}
    assert browser.get(SESSION, headers=viewer).json()["name"] == "the-viewer"
    assert browser.get(SESSION, headers={"Authorization": "Bearer x"}).status_code == 401


def test_wrong_sign_ins_are_counted_whatever_is_wrong(service: Service, fresh: Callable[..., TestClient]) -> None:
    good = service.tokens["viewer"]
    browser = fresh(failures=Rate(burst=4, per_second=0.001))
    wrong = ("x", f"{good[:21]}{'A' * 43}", f"{good[:21]}{'A' * 43}", "swt_" + "0" * 16 + good[20:], "x")
    answers = [sign_in(browser, one) for one in wrong]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 401, 429]
    assert len({answer.json()["detail"] for answer in answers[:4]}) == 1
    assert not [answer for answer in answers if "set-cookie" in answer.headers]
    # From this address nobody signs in for a while, not even with the right one.
    assert sign_in(browser, good).status_code == 429


def test_behind_a_proxy_each_client_has_its_own_count(service: Service, fresh: Callable[..., TestClient]) -> None:
    slow = Rate(burst=1, per_second=0.001)
    browser = fresh(failures=slow, behind_proxy=True)
    assert sign_in(browser, "x", **{"X-Forwarded-For": "10.0.0.1"}).status_code == 401
    # What comes before is what the client made up.
    assert sign_in(browser, "x", **{"X-Forwarded-For": "10.0.0.9, 10.0.0.1"}).status_code == 429
    assert sign_in(browser, "x", **{"X-Forwarded-For": "10.0.0.1, 10.0.0.2"}).status_code == 401
    direct = fresh(failures=slow)
    assert sign_in(direct, "x", **{"X-Forwarded-For": "10.0.0.1"}).status_code == 401
    assert sign_in(direct, "x", **{"X-Forwarded-For": "10.0.0.2"}).status_code == 429


SAME, OTHER = {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "cross-site"}


@pytest.mark.parametrize(
    ("headers", "read", "write"),
    [
        ({}, 200, 409),
        (SAME, 200, 409),
        ({"Origin": "http://testserver"}, 200, 409),
        ({"Sec-Fetch-Site": "none"}, 200, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403, 403),
        (OTHER, 403, 403),
        ({"Origin": "http://evil.example"}, 403, 403),
        ({"Origin": "null"}, 403, 403),
        ({"Origin": "http://testserver.evil.example"}, 403, 403),
        ({"Origin": "http://testserver:81"}, 403, 403),
        ({"Origin": "http://testserver@evil.example"}, 403, 403),
        ({"Origin": "http://["}, 403, 403),
        ({**SAME, "Origin": "http://evil.example"}, 403, 403),
        ({**OTHER, "Origin": "http://testserver"}, 403, 403),
    ],
)
def test_only_pages_of_this_server_use_a_session(
    service: Service, fresh: Callable[..., TestClient], headers: Mapping[str, str], read: int, write: int
) -> None:
    browser = fresh()
    csrf = {"X-CSRF-Token": sign_in(browser, service.tokens["runner"]).json()["csrf"]}
    assert browser.get("/api/v1/sweeps", headers=headers).status_code == read
    assert browser.post(STOP, headers={**headers, **csrf}).status_code == write
    # A token is nothing that a browser sends by itself.
    bearer = {"Authorization": f"Bearer {service.tokens['runner']}"}
    assert fresh().post(STOP, headers={**headers, **bearer}).status_code == 409
