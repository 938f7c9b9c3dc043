"""Starlette's test client."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # It would have httpx2, while schemathesis has httpx.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

__all__ = ["TestClient"]
