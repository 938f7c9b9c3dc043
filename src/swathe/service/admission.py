"""Who asks: the token of a request's Authorization header, or of its session, and whether a browser was tricked."""

from __future__ import annotations

import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from starlette.types import Scope

from swathe.service.problems import ProblemError
from swathe.service.sessions import Session, Sessions
from swathe.service.tokens import Authority, Token

# Verifications by scrypt at once: each takes a core and 16 MiB.
_VERIFICATIONS = 2
SAFE = frozenset({"GET", "HEAD"})
_REFUSED = "The token is not one of this server's, or it has expired or was revoked."


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: so many requests at once, and so many a second in the long run."""

    burst: float
    per_second: float


REQUESTS = Rate(burst=200, per_second=50)
# Of one address: tokens with a known id and a wrong secret, each of which costs a scrypt, and all wrong sign-ins.
FAILURES = Rate(burst=10, per_second=0.2)


class Buckets:
    """A token bucket for each key, of the `size` that were used last."""

    def __init__(self, rate: Rate, size: int = 4096) -> None:
        self._rate = rate
        self._size = size
        # Key -> (what is left, when that was).
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str) -> float:
        """Return after how many seconds this key has one request left; 0 where it has now."""
        return max(0.0, (1.0 - self._now(key)) / self._rate.per_second)

    def take(self, key: str) -> None:
        """Take one request of this key."""
        self._left[key] = (self._now(key) - 1.0, time.monotonic())
        self._left.move_to_end(key)
        while len(self._left) > self._size:
            self._left.popitem(last=False)

    def _now(self, key: str) -> float:
        left, then = self._left.get(key, (self._rate.burst, 0.0))
        return min(self._rate.burst, left + (time.monotonic() - then) * self._rate.per_second)


class Admission:
    """Says who asks, and refuses who may not come in; counts wrong tokens by address."""

    def __init__(
        self, authority: Authority, sessions: Sessions, *, failures: Rate = FAILURES, behind_proxy: bool = False
    ) -> None:
        self._authority = authority
        self._sessions = sessions
        self._failures = Buckets(failures)
        self._behind_proxy = behind_proxy
        self._verifying: anyio.CapacityLimiter | None = None

    async def caller(self, scope: Scope, *, own_page: bool) -> tuple[Token, Session | None]:
        """Return whose a request is, and its session where it came with a cookie in place of a token.

        `own_page`: whether what asks is Swathe's own page, which can send the session's `X-CSRF-Token` along; the
        pages of MLflow and optuna-dashboard cannot. Raises `ProblemError`.
        """
        if not _all(scope, b"authorization") and self._sessions.carries(_all(scope, b"cookie")):
            session = self._sessions.read(_all(scope, b"cookie"))
            if session is None:
                raise _unauthorized("The session is over, or it is none of this server's; allowed: to sign in again.")
            _refuse_forgery(scope, session, own_page=own_page)
            return session.token, session
        presented = _presented(scope)
        found = await self._verified(scope, presented)
        if found is None:
            raise _unauthorized(_REFUSED)
        return found, None

    async def sign_in(self, scope: Scope, presented: str) -> Token:
        """Return the token that somebody signs in with; raises `ProblemError`, the same for all that are none."""
        refuse_other_sites(scope)
        address = self._address(scope)
        refuse_often(self._failures.wait(address), "wrong tokens from this address")
        known = self._authority.known(presented)
        found = await self._verified(scope, presented)
        if found is None:
            if known:
                # Otherwise it was counted already.
                self._failures.take(address)
            raise _unauthorized(_REFUSED)
        return found

    async def _verified(self, scope: Scope, presented: str) -> Token | None:
        if self._authority.known(presented):
            return self._authority.verify(presented)
        address = self._address(scope)
        refuse_often(self._failures.wait(address), "wrong tokens from this address")
        self._verifying = self._verifying or anyio.CapacityLimiter(_VERIFICATIONS)
        found = await anyio.to_thread.run_sync(self._authority.verify, presented, limiter=self._verifying)
        if found is None:
            self._failures.take(address)
        return found

    def _address(self, scope: Scope) -> str:
        forwarded = ",".join(_all(scope, b"x-forwarded-for")) if self._behind_proxy else ""
        # The last one is what the proxy itself has seen; those before it are what the client says.
        return forwarded.rpartition(",")[2].strip() or str((scope.get("client") or ("",))[0])


def refuse_other_sites(scope: Scope) -> None:
    """Refuse what a browser sends for another site's page; raises `ProblemError`."""
    site, origins = _all(scope, b"sec-fetch-site"), _all(scope, b"origin")
    own = (*_all(scope, b"host"), "")[0].lower()
    allowed = ("same-origin", "none") if scope["method"] in SAFE else ("same-origin",)
    if any(one not in allowed for one in site) or any(_host_of(one) != own for one in origins):
        raise _forbidden("The request comes from a page of another site; allowed: pages of this server.")


def _refuse_forgery(scope: Scope, session: Session, *, own_page: bool) -> None:
    """Refuse requests with a session's cookie that no page of this server has made."""
    refuse_other_sites(scope)
    if scope["method"] in SAFE:
        return
    if not own_page:
        # A browser sends at least one of them with each request that changes something, and no page can forge them.
        if not _all(scope, b"sec-fetch-site") and not _all(scope, b"origin"):
            raise _forbidden("Origin: it is missing; allowed: requests of this server's pages, or with a token.")
        return
    given = _all(scope, b"x-csrf-token")
    if len(given) != 1 or not hmac.compare_digest(given[0].encode(), session.csrf.encode()):
        raise _forbidden("X-CSRF-Token: it is missing or another session's; allowed: `csrf` of GET /api/v1/session.")


def _host_of(origin: str) -> str | None:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ("http", "https") and not parts.path.strip("/") else None


def _all(scope: Scope, name: bytes) -> Sequence[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _presented(scope: Scope) -> str:
    """Return the token of the one Authorization header."""
    given = _all(scope, b"authorization")
    if len(given) == 1:
        kind, _, token = given[0].partition(" ")
        if kind.lower() == "bearer":
            return token.strip()
    raise _unauthorized("Authorization: it is missing; allowed: one header 'Bearer TOKEN'.")


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})


def _forbidden(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.FORBIDDEN, detail)


def refuse_often(seconds: float, what: str) -> None:
    """Refuse what comes too often, and say after how many seconds the next one may; raises `ProblemError`."""
    if seconds > 0:
        after = math.ceil(seconds)
        detail = f"There are too many {what}; allowed: the next one in {after} s."
        raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": str(after)})
