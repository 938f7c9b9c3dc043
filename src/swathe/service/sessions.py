"""Sessions of the page: a signed cookie in place of the token, which no script of a page can read.

Nothing is kept of a session but that somebody has signed out of it: its cookie names a token, and is good as long as
that is, and for twelve hours at most.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from swathe.errors import BadInputError
from swathe.home import Home, write_aside
from swathe.service.sweeps import Signature, signature_of
from swathe.service.tokens import Authority, Token

# How long a session lasts (seconds), whatever is done with it.
SESSION_SECONDS = 12 * 3600.0
# Browsers take a cookie with this prefix only from its own host, over HTTPS and for all paths (RFC 6265bis, 4.1.3.2).
NAME, SECURE_NAME = "swathe_session", "__Host-swathe_session"
_KEY_BYTES, _NONCE_BYTES = 32, 16
# Sessions that were ended and are remembered, the last ones.
MAX_ENDED = 10_000
# A clock that was set back must not make sessions of the future (seconds).
_AHEAD = 60.0
_VALUE = re.compile(r"(([0-9a-f]{16})\.([0-9]{1,12})\.([0-9a-f]{32}))\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Session:
    """Who is signed in, until when at most (unix time).

    `csrf`: what each request that changes something must send along in `X-CSRF-Token`.
    """

    token: Token
    csrf: str
    nonce: str
    until: float


class Sessions:
    """Makes and reads the cookies of a home's sessions; `secure`: whether browsers come over HTTPS."""

    def __init__(self, home: Home, authority: Authority, *, secure: bool) -> None:
        self._path = home.path / "session.key"
        self._ended = _Ended(home.path / "sessions-ended.json")
        self._authority = authority
        self._secure = secure
        self._key: bytes | None = None

    @property
    def cookie(self) -> str:
        """The cookie's name."""
        return SECURE_NAME if self._secure else NAME

    def begin(self, token: Token) -> tuple[str, Session]:
        """Return a new session's cookie, as the value of `Set-Cookie`, and the session."""
        nonce = secrets.token_hex(_NONCE_BYTES)
        made = int(time.time())
        signed = f"{token.id}.{made}.{nonce}"
        value = f"{signed}.{self._sign('session', signed)}"
        session = Session(token, self._sign("csrf", signed), nonce, made + SESSION_SECONDS)
        return self._set_cookie(value, int(SESSION_SECONDS)), session

    def end(self, session: Session | None) -> str:
        """End a session, copies of its cookie included; return what makes a browser forget it, for `Set-Cookie`."""
        if session is not None:
            self._ended.add(session.nonce, session.until)
        return self._set_cookie("", 0)

    def read(self, cookies: Sequence[str]) -> Session | None:
        """Return the session of a request's `Cookie` headers; None where they hold none, several or a bad one."""
        found = [value for name, value in map(_pair, ";".join(cookies).split(";")) if name == self.cookie]
        match = _VALUE.fullmatch(found[0]) if len(found) == 1 else None
        if match is None:
            return None
        signed, key, made, nonce, signature = match.groups()
        if not hmac.compare_digest(signature, self._sign("session", signed)):
            return None
        token = self._authority.current(key)
        if token is None or int(made) > time.time() + _AHEAD:
            return None
        session = Session(token, self._sign("csrf", signed), nonce, int(made) + SESSION_SECONDS)
        return session if self.holds(session) else None

    def holds(self, session: Session) -> bool:
        """Whether a session that was read is still one: it may be over, or its token may have been revoked, since."""
        over = is_over(session.until, time.time()) or session.nonce in self._ended
        return not over and self._authority.holds(session.token)

    def carries(self, cookies: Sequence[str]) -> bool:
        """Whether a request has a cookie of a session's name, whatever it holds."""
        return any(_pair(part)[0] == self.cookie for part in ";".join(cookies).split(";"))

    def _set_cookie(self, value: str, seconds: int) -> str:
        secure = "; Secure" if self._secure else ""
        return f"{self.cookie}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict{secure}"

    def _sign(self, purpose: str, text: str) -> str:
        if self._key is None:
            self._key = _key_of(self._path)
        return hmac.new(self._key, f"swathe {purpose} {text}".encode(), "sha256").hexdigest()


def is_over(until: float, now: float) -> bool:
    """Whether a moment has come (seconds of unix time): of what outlives this process, no other clock knows."""
    return now >= until


class _Ended:
    """The nonces of sessions that somebody has signed out of, until they would have ended anyway; kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._signature: Signature = ()
        self._until: dict[str, float] = {}

    def __contains__(self, nonce: str) -> bool:
        with self._lock:
            self._refresh()
            return nonce in self._until

    def add(self, nonce: str, until: float) -> None:
        with self._lock:
            self._refresh()
            kept = [(one, end) for one, end in self._until.items() if not is_over(end, time.time())]
            self._until = dict([*kept, (nonce, until)][-MAX_ENDED:])
            write_aside(self._path, json.dumps(self._until).encode(), mode=0o600)

    def _refresh(self) -> None:
        signature = signature_of(self._path)
        if signature != self._signature:
            try:
                self._until = dict(json.loads(self._path.read_bytes())) if signature else {}
            except (OSError, ValueError, TypeError) as error:
                raise BadInputError(f"{self._path} cannot be read: {error}; allowed: to remove it.") from error
            self._signature = signature


def _pair(part: str) -> tuple[str, str]:
    name, _, value = part.strip().partition("=")
    return name, value


def _key_of(path: Path) -> bytes:
    """Return the key of a home, made at its first use: whoever has the file can sign in as anybody."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:
            file.write(os.urandom(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
            # Of two servers that begin at once the first one's is for both.
            with suppress(FileExistsError):
                os.link(file.name, path)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise BadInputError(f"{path} holds no key; allowed: what the server writes there, so remove it.")
    return key
