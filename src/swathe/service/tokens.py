"""Who may use the service: tokens with a role and an end, of which only salted scrypt hashes are kept."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from rich.table import Table

from swathe.errors import BadInputError, bad_value
from swathe.home import Home, write_aside

# OWASP, Password Storage Cheat Sheet, "scrypt": N = 2^14 (16 MiB), r = 8, p = 5 is one of its equivalent settings, and
# the one of them that several verifications at once can afford.
_COST, _BLOCK, _PARALLEL = 2**14, 8, 5
_MEMORY = 64 * 2**20
_SALT_BYTES, _SECRET_BYTES, _ID_BYTES, _HASH_BYTES = 16, 32, 8, 32
# For how long (seconds) a token that was verified need not be hashed again, and one that was refused.
CACHE_SECONDS = 30.0
_CACHED = 4096
_DAY = 86400.0
MAX_DAYS = 3650

_TOKEN = re.compile(r"swt_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Role(Enum):
    """What a token may do: a viewer reads, a runner also validates and stops, an admin does everything."""

    VIEWER = "viewer"
    RUNNER = "runner"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether this role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept: everything but its secret. Times in seconds of unix time; `expires` None: never."""

    id: str
    name: str
    role: str
    salt: str
    hash: str
    created: float
    expires: float | None

    def expired(self, now: float) -> bool:
        return self.expires is not None and now >= self.expires

    def as_dict(self) -> dict[str, Any]:
        """Return what may be shown of it."""
        return {"id": self.id, "name": self.name, "role": self.role, "created": self.created, "expires": self.expires}


def tokens_file(home: Home) -> Path:
    """Where the tokens of a home are."""
    return home.path / "tokens.json"


def read_tokens(home: Home) -> list[Token]:
    """Return the tokens by name; raises `BadInputError` for a file that holds something else."""
    path = tokens_file(home)
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path} cannot be read: {error}.") from error
    if not isinstance(values, list) or not all(map(_is_token, values)):
        raise BadInputError(f"{path} holds no tokens; allowed: what `swathe token create` writes there.")
    return sorted((Token(**value) for value in values), key=lambda token: token.name)


def _is_token(values: object) -> bool:
    return (
        isinstance(values, dict)
        and values.keys() == {item.name for item in fields(Token)}
        and all(isinstance(values[key], str) for key in ("id", "name", "role", "salt", "hash"))
        and values["role"] in [role.value for role in Role]
        and all(re.fullmatch(r"(?:[0-9a-f]{2})+", values[key]) for key in ("salt", "hash"))
        and type(values["created"]) in (int, float)
        and type(values["expires"]) in (int, float, type(None))
    )


def create_token(home: Home, name: str, role: str, days: int | None = None) -> str:
    """Make a token and return it; it cannot be shown again. Raises `BadInputError` for a name that is taken."""
    if not _NAME.fullmatch(name):
        raise bad_value("NAME", name, "letters, digits, '.', '_' and '-', at most 100")
    if role not in [one.value for one in Role]:
        raise bad_value("--role", role, ", ".join(one.value for one in Role))
    if days is not None and not 1 <= days <= MAX_DAYS:
        raise bad_value("--days", days, f"1 to {MAX_DAYS}")
    key, secret, salt = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES), os.urandom(_SALT_BYTES)
    now = time.time()
    expires = None if days is None else now + days * _DAY
    token = Token(key, name, role, salt.hex(), _hash(secret, salt).hex(), now, expires)
    with _locked(home):
        tokens = read_tokens(home)
        if name in (one.name for one in tokens):
            raise bad_value("NAME", name, "a name that no token has; take the old one back with: swathe token revoke")
        _write(home, [*tokens, token])
    return f"swt_{key}_{secret}"


def revoke_token(home: Home, name: str) -> None:
    """Take a token back; a running server sees it at its next request. Raises `BadInputError` where there is none."""
    with _locked(home):
        tokens = read_tokens(home)
        if name not in (one.name for one in tokens):
            raise bad_value("NAME", name, ", ".join(one.name for one in tokens) or "none, since there is no token")
        _write(home, [one for one in tokens if one.name != name])


def token_table(tokens: Sequence[Token]) -> Table:
    """Return the tokens as a table for people."""
    table = Table()
    for name in ("name", "role", "made", "expires", "id"):
        table.add_column(name, no_wrap=name == "id")
    for token in tokens:
        expires = "never" if token.expires is None else _day(token.expires)
        table.add_row(token.name, token.role, _day(token.created), expires, token.id)
    return table


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(moment))


def _write(home: Home, tokens: list[Token]) -> None:
    write_aside(tokens_file(home), json.dumps([asdict(token) for token in tokens], indent=2).encode(), mode=0o600)


@contextmanager
def _locked(home: Home) -> Iterator[None]:
    home.path.mkdir(parents=True, exist_ok=True)
    with (home.path / "tokens.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hash(secret: str, salt: bytes) -> bytes:
    return hashlib.scrypt(secret.encode(), salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL, maxmem=_MEMORY, dklen=_HASH_BYTES)


class Authority:
    """Says whose a presented token is; may be asked from many threads.

    What scrypt has said of a token is remembered for some seconds under a keyed digest, and forgotten when the file of
    tokens changes: a token that is revoked is refused at the next request.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._key = os.urandom(32)
        self._seen: tuple[int, int, int] | None = None
        self._tokens: Mapping[str, Token] = {}
        # Digest of a presented token -> (whether it is one, until when that is remembered).
        self._verdicts: OrderedDict[bytes, tuple[bool, float]] = OrderedDict()

    def known(self, presented: str) -> bool:
        """Whether the answer to `verify` costs no scrypt."""
        token = self._find(presented)
        return token is None or self._remembered(presented) is not None

    def verify(self, presented: str) -> Token | None:
        """Return the token that was presented; None where it is none, has expired or was revoked."""
        token = self._find(presented)
        if token is None:
            return None
        good = self._remembered(presented)
        if good is None:
            _, secret = _parts(presented)
            good = hmac.compare_digest(_hash(secret, bytes.fromhex(token.salt)), bytes.fromhex(token.hash))
            self._remember(presented, good)
        return token if good else None

    def holds(self, token: Token) -> bool:
        """Whether a token that was verified is still one: it may have expired or been revoked since."""
        try:
            self._refresh()
        except BadInputError:
            return False
        return self._tokens.get(token.id) == token and not token.expired(time.time())

    def current(self, key: str) -> Token | None:
        """Return the token with an id, if there is one that has not expired: for those who were verified before."""
        self._refresh()
        token = self._tokens.get(key)
        return None if token is None or token.expired(time.time()) else token

    def _find(self, presented: str) -> Token | None:
        """Return the token with the presented one's id, if there is one that has not expired."""
        return self.current(_parts(presented)[0])

    def _refresh(self) -> None:
        """Read the file again if it has changed."""
        with self._lock:
            try:
                status = tokens_file(self._home).stat()
                seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            except FileNotFoundError:
                seen = None
            if seen == self._seen:
                return
            self._verdicts.clear()
            # First of all: a file that cannot be read is no reason to go on with the tokens that were in it.
            self._tokens, self._seen = {}, None
            self._tokens = {token.id: token for token in read_tokens(self._home)}
            self._seen = seen

    def _digest(self, presented: str) -> bytes:
        return hmac.digest(self._key, presented.encode(), "sha256")

    def _remembered(self, presented: str) -> bool | None:
        with self._lock:
            good, until = self._verdicts.get(self._digest(presented), (False, 0.0))
            return good if time.monotonic() < until else None

    def _remember(self, presented: str, good: bool) -> None:
        with self._lock:
            self._verdicts[self._digest(presented)] = (good, time.monotonic() + CACHE_SECONDS)
            while len(self._verdicts) > _CACHED:
                self._verdicts.popitem(last=False)


def _parts(presented: str) -> tuple[str, str]:
    """Return a token's id and its secret; of what is none, two empty texts."""
    found = _TOKEN.fullmatch(presented)
    return ("", "") if found is None else (found[1], found[2])
