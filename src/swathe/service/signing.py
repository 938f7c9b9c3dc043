"""Signing in and out: the session's cookie, and what the page must know of it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from swathe.service.admission import Admission
from swathe.service.models import SignIn, Who
from swathe.service.problems import responses
from swathe.service.roles import BEARER
from swathe.service.sessions import Session, Sessions
from swathe.service.tokens import Token

router = APIRouter(prefix="/session", responses=responses())


@router.post("")
async def sign_in(request: Request, response: Response, given: SignIn) -> Who:
    """Begin a session of twelve hours, whose cookie stands for the token from now on."""
    admission: Admission = request.app.state.admission
    sessions: Sessions = request.app.state.sessions
    token = await admission.sign_in(request.scope, given.token)
    # For the audit log.
    request.state.token = token
    cookie, session = sessions.begin(token)
    response.headers["Set-Cookie"] = cookie
    return _who(token, session)


@router.get("", dependencies=[BEARER])
def get_session(request: Request) -> Who:
    """Say who asks, and what a session's requests that change something must send in `X-CSRF-Token`."""
    return _who(request.state.token, request.state.session)


@router.delete("", dependencies=[BEARER])
def sign_out(request: Request, response: Response) -> Who:
    """End the session; answers whose it was."""
    sessions: Sessions = request.app.state.sessions
    response.headers["Set-Cookie"] = sessions.end(request.state.session)
    return _who(request.state.token, None)


def _who(token: Token, session: Session | None) -> Who:
    return Who(name=token.name, role=token.role, csrf=None if session is None else session.csrf)
