"""The page: one HTML file and its modules, which hold no data and so need no token."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

STATIC = "/static"
# What the page may load: its own files and the API, nothing inline, and no other site's.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = Path(__file__).parent / "static"


def is_page(path: str) -> bool:
    """Whether a path is one of the page's, for which no token is needed."""
    return path == "/" or path.startswith(f"{STATIC}/")


def install(app: FastAPI) -> None:
    """Serve the page at / and its files at /static."""
    app.add_api_route("/", _index, methods=["GET", "HEAD"], include_in_schema=False)
    app.mount(STATIC, StaticFiles(directory=_FILES))


def _index() -> FileResponse:
    return FileResponse(_FILES / "index.html")
