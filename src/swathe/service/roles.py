"""Which role an operation asks for."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from swathe.service.problems import ProblemError
from swathe.service.tokens import Role, Token


def allow(role: Role) -> Callable[[Request], Token]:
    """Return what gives an operation the token of its request, if that has the role at least."""

    def allowed(request: Request) -> Token:
        token: Token = request.state.token
        if not Role(token.role).includes(role):
            raise ProblemError(
                HTTPStatus.FORBIDDEN, f"role: {token.role!r} is not allowed; allowed: {role.value} or above."
            )
        return token

    return allowed


BEARER = Security(HTTPBearer(auto_error=False))
VIEWER = Depends(allow(Role.VIEWER))
RUNNER = Depends(allow(Role.RUNNER))
