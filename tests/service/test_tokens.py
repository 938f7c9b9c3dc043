"""Tokens: what is kept of them, who is let in, and how soon a change is seen."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from swathe import cli
from swathe.errors import BadInputError
from swathe.home import Home
from swathe.service import tokens
from swathe.service.tokens import Authority, Role, create_token, read_tokens, revoke_token, tokens_file


def test_a_token_is_let_in_with_its_role_and_nothing_else_is(tmp_path: Path) -> None:
    home = Home(tmp_path)
    ada, bob = create_token(home, "ada", "admin"), create_token(home, "bob", "viewer", 1)
    authority = Authority(home)
    found = authority.verify(ada)
    assert found is not None
    assert (found.name, found.role, found.expires) == ("ada", "admin", None)
    assert authority.known(ada)
    assert not authority.known(bob)
    mixed = ada[:21] + bob[21:]
    for wrong in ("", "swt_", ada[:-1], ada + "A", mixed, ada.replace("swt", "SWT"), "swt_" + "0" * 16 + ada[20:], "é"):
        assert authority.verify(wrong) is None, wrong
    # A wrong secret is remembered too, and does not let the right one in or out.
    assert authority.known(mixed)
    assert authority.verify(ada) is not None


def test_only_salted_hashes_are_kept_and_only_for_the_owner(tmp_path: Path) -> None:
    home = Home(tmp_path)
    token = create_token(home, "ada", "runner")
    secret = token[21:]
    text = tokens_file(home).read_text()
    assert len(secret) == 43  # 256 bits
    assert secret not in text
    assert stat.S_IMODE(tokens_file(home).stat().st_mode) == 0o600
    assert not list(tmp_path.glob(".tokens.json*"))
    create_token(home, "eve", "runner")
    assert len({one["salt"] for one in json.loads(tokens_file(home).read_text())}) == 2


def test_revoking_is_seen_at_the_next_request_and_an_end_when_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    ada, bob = create_token(home, "ada", "admin"), create_token(home, "bob", "viewer", 1)
    authority = Authority(home)
    assert authority.verify(ada) is not None
    assert authority.verify(bob) is not None
    revoke_token(home, "ada")
    assert authority.verify(ada) is None
    assert authority.verify(bob) is not None
    expires = next(one for one in read_tokens(home)).expires
    assert expires is not None
    monkeypatch.setattr(tokens.time, "time", lambda: expires)
    assert authority.verify(bob) is None


def test_a_file_that_holds_no_tokens_lets_nobody_in(tmp_path: Path) -> None:
    home = Home(tmp_path)
    ada = create_token(home, "ada", "admin")
    authority = Authority(home)
    assert authority.verify(ada) is not None
    for content in ("{", "{}", '[{"id": 1}]', "[" * 100_000):
        tokens_file(home).write_text(content)
        with pytest.raises(BadInputError, match=r"tokens\.json"):
            authority.verify(ada)
    os.unlink(tokens_file(home))
    assert authority.verify(ada) is None


def test_roles_include_those_below_them() -> None:
    allowed = {(one.value, other.value) for one in Role for other in Role if one.includes(other)}
    assert len(allowed) == 6
    assert ("runner", "viewer") in allowed
    assert ("viewer", "runner") not in allowed


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SWATHE_HOME", str(tmp_path))

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.run(["token", *words])
        return code, *capsys.readouterr()

    code, out, _ = run("create", "ada", "--role", "runner", "--days", "30")
    assert code == 0
    token = out.splitlines()[-1]
    found = Authority(Home(tmp_path)).verify(token)
    assert found is not None
    assert found.role == "runner"
    code, out, _ = run("list")
    assert code == 0
    assert "ada" in out
    assert token[21:] not in out
    code, out, _ = run("list", "--json")
    assert [one["name"] for one in json.loads(out)] == ["ada"]
    for words, sentence in (
        (["create", "ada", "--role", "admin"], "NAME: 'ada' is not allowed; allowed: a name that no token has"),
        (["create", "../x", "--role", "admin"], "NAME: '../x' is not allowed"),
        (["create", "bob", "--role", "root"], "--role: 'root' is not allowed; allowed: viewer, runner, admin."),
        (["create", "bob", "--role", "admin", "--days", "0"], "--days"),
        (["revoke", "bob"], "NAME: 'bob' is not allowed; allowed: ada."),
    ):
        code, out, err = run(*words)
        assert code == cli.EXIT_BAD_INPUT, words
        assert sentence in err
        assert not out
    assert run("revoke", "ada")[0] == 0
    assert run("revoke", "ada")[2] == "swathe: NAME: 'ada' is not allowed; allowed: none, since there is no token.\n"
    assert "No token" in run("list")[1]
