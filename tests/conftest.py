"""What holds for all tests: one thread, no deadlines, and no home of the user's."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Before anything imports torch or NumPy: the machine's cores are for the processes that the tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's workers have niceness 15 otherwise: beside two tests that compute they get some three percent of a core, and one
# step of training takes a minute.
os.environ.setdefault("RAY_worker_niceness", "0")

# How fast a machine is must not decide whether a test passes.
settings.register_profile("swathe", deadline=None)
settings.load_profile("swathe")


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests away from a home that the user has set."""
    for name in ("SWATHE_HOME", "SWATHE_STORAGE", "SWATHE_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
