"""Several sweeps side by side over HTTP: what the command line prints in the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swathe.home import Home
from swathe.service.app import create_app
from swathe.service.tokens import create_token
from swathe.versus import versus
from tests.integration import swathes
from tests.service.client import TestClient
from tests.service.conftest import PLENTY


@pytest.mark.slow
def test_two_sweeps_are_those_of_the_folder(copied: Callable[[], Home]) -> None:
    home = copied()
    words = ("cluster=inline", "sweep.name=g", "sweep.trials=3", "sampler=random", "sweep.max_failures=8", "-q")
    swathes.succeed(Path.cwd(), "launch", "f.yaml", *words)
    headers = {"Authorization": f"Bearer {create_token(home, 'reader', 'viewer')}"}
    with TestClient(create_app(home, requests=PLENTY)) as client:
        answer = client.get("/api/v1/compare", params={"sweep": ["f", "g"]}, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {**versus(home, ["f", "g"]).as_dict(), "sweeps": answer.json()["sweeps"]}
        assert [one["name"] for one in answer.json()["sweeps"]] == ["f", "g"]
        for names, status in ((["f"], 422), (["f", "f"], 422), (["f", "nope"], 404), (["f"] * 21, 422)):
            refused = client.get("/api/v1/compare", params={"sweep": names}, headers=headers)
            assert refused.status_code == status, refused.text
