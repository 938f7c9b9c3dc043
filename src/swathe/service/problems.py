"""Errors as RFC 9457 problem details, with the sentence of the command line in `detail`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from swathe.errors import BadInputError, SwatheError
from swathe.service.sweeps import NoSuchRunError, NoSuchSweepError, NoSuchTrialError
from swathe.tracking import shown

log = logging.getLogger("swathe.service")

MEDIA_TYPE = "application/problem+json"
# How much of what was given is repeated in a sentence (characters).
_SHOWN = 200


class Problem(BaseModel):
    """RFC 9457; the type is always about:blank, so that the title is the status in words."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class ProblemError(SwatheError):
    """A refusal with its HTTP status; the text is one sentence."""

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return a problem as a response."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=in_a_line(detail))
    return JSONResponse(body.model_dump(), status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def in_a_line(text: str) -> str:
    """Return a text without line ends and the like, and what cannot be sent as UTF-8 escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def without_folders(text: str, home: Path) -> str:
    """Return a sentence without where on the server's disk things are: the home, and the folder that it works in."""
    for folder in dict.fromkeys(map(str, (home.parent, Path.cwd(), Path.home()))):
        if folder != "/":
            text = re.sub(rf"(?<![\w.-]){re.escape(folder)}(?:/|(?!\.?[\w-]))", "", text)
    return text


def responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return the problems of an operation for its OpenAPI description: those named, and those of every one."""
    every = (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
    schema = {"schema": Problem.model_json_schema()}
    return {
        int(status): {"description": status.phrase, "content": {MEDIA_TYPE: schema}} for status in (*every, *statuses)
    }


def install(app: FastAPI) -> None:
    """Let the app, whose state has its `sweeps`, answer every error with a problem."""
    app.add_exception_handler(SwatheError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def answer(error: SwatheError, home: Path) -> JSONResponse:
    """Return the response to an error of Swathe's own, which says nothing of the server's folders."""
    text = without_folders(shown(str(error)), home)
    match error:
        case ProblemError():
            return problem(error.status, text, error.headers)
        case NoSuchSweepError() | NoSuchTrialError() | NoSuchRunError():
            return problem(HTTPStatus.NOT_FOUND, text)
        case BadInputError():
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, text)
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, text)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SwatheError)
    return answer(error, request.app.state.sweeps.home.path)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, _sentence(error.errors()))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    details = {
        HTTPStatus.BAD_REQUEST: "The body cannot be read; allowed: JSON in UTF-8, not deeply nested.",
        HTTPStatus.NOT_FOUND: f"{request.url.path!r} is not allowed; allowed: the paths of /api/v1/openapi.json.",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method!r} is not allowed on {request.url.path!r}; allowed: "
        f"{(error.headers or {}).get('allow') or (error.headers or {}).get('Allow', 'others')}.",
    }
    detail = details.get(HTTPStatus(error.status_code), str(error.detail))
    return problem(error.status_code, detail, error.headers)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # What it was is for the server's own log, where Starlette's caller writes the traceback.
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed at this request; its log says how.")


def _sentence(errors: Sequence[Any]) -> str:
    """Return the first of pydantic's errors as one sentence of the command line's kind."""
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    allowed = str(first["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    given = repr(first.get("input"))
    if len(given) > _SHOWN:
        given = f"{given[:_SHOWN]}..."
    if first["type"] == "missing":
        return f"{key}: it is missing; allowed: a request that has it."
    return f"{key}: {given} is not allowed; allowed: {allowed}."
