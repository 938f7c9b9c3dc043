"""Jobs on a real Ray, by a real server that is killed and started again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from swathe.home import Home
from swathe.service import ray_head
from swathe.service.job_records import job_folder
from swathe.service.tokens import create_token
from tests.integration import swathes

pytestmark = pytest.mark.slow

PLACES = ["kept, not acknowledged", "noted, not submitted", "submitted, not noted", "ended, not noted"]


class Desk:
    """A working folder with a server that can be killed and started again; its users are runners."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / ".swathe")
        self.tokens = {name: create_token(self.home, name, "runner") for name in ("ada", "bob")}
        self._server: subprocess.Popen[str] | None = None
        self._url = ""

    def serve(self, *before: str) -> subprocess.Popen[str]:
        """Start a server, or with words before its own, a program that is one; return when it listens."""
        program = before or ("-m", "swathe.cli", "serve")
        self._server = subprocess.Popen(
            [sys.executable, *program, "--port", "0", "--allow-module", "tests.trials"],
            cwd=self.folder,
            env=swathes.environment() | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        found = re.search(r"http://127.0.0.1:\d+/api/v1", line)
        assert found is not None, line
        self._url = found[0]
        return self._server

    def kill(self) -> None:
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def end(self) -> str:
        """End the server as ^C does, and return what it says."""
        if self._server is None:
            return ""
        if self._server.poll() is None:
            self._server.terminate()
        assert self._server.stdout is not None
        said = self._server.stdout.read()
        self._server.wait()
        return said

    def ask(self, user: str, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        sent = {"Authorization": f"Bearer {self.tokens[user]}", **headers}
        return httpx.request(method, self._url + path, json=body, headers=sent, timeout=150, trust_env=False)

    def made(self, user: str, path: str, body: Any, **headers: str) -> dict[str, Any]:
        answer = self.ask(user, "POST", path, body, **headers)
        assert answer.status_code in (200, 201), answer.text
        return dict(answer.json())

    def job(self, job: dict[str, Any]) -> dict[str, Any]:
        return dict(self.ask("ada", "GET", f"/jobs/{job['id']}").json())

    def wait(self, job: dict[str, Any], state: str) -> dict[str, Any]:
        until(lambda: self.job(job)["state"] == state, lambda: self.job(job))
        return self.job(job)

    def log(self, job: dict[str, Any]) -> str:
        text, offset = "", 0
        while True:
            part = self.ask("ada", "GET", f"/jobs/{job['id']}/log?offset={offset}").json()
            text, offset = text + part["text"], part["next"]
            if not part["text"]:
                return text

    def sweep(self, name: str) -> dict[str, Any]:
        return dict(self.ask("ada", "GET", f"/sweeps/{name}").json())


def until(true: Callable[[], bool], facts: Callable[[], object]) -> None:
    deadline = time.monotonic() + 150
    while not true():
        assert time.monotonic() < deadline, facts()
        time.sleep(0.1)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.end()
    ray_head.end(made.home)


def yaml(name: str, *, trials: int = 4, workers: int | None = None) -> dict[str, str]:
    text = swathes.FUNCTION_SWEEP.format(function="waits", trials=trials, name=name, pruner="none", marker=name)
    return {"yaml": text + ("" if workers is None else f"cluster: {{workers: {workers}}}\n")}


def test_two_users_share_two_cores_and_a_killed_server_changes_nothing(desk: Desk) -> None:
    desk.serve()
    cores = os.cpu_count() or 1
    first = desk.made("ada", "/sweeps", yaml("first"))
    desk.wait(first, "running")
    # The whole machine, as nobody else waited. What comes now does.
    assert desk.job(first)["devices"] == cores
    a1, a2 = (desk.made("ada", "/sweeps", yaml(name)) for name in ("a1", "a2"))
    b1 = desk.made("bob", "/sweeps", yaml("b1"))
    queued = desk.ask("bob", "GET", "/cluster").json()["queued"]
    # Bob had less, but what was first and found nothing free keeps its place.
    assert [job["sweep"] for job in queued] == ["a1", "b1", "a2"]
    assert queued[0]["detail"] == "It waits for free devices."
    (desk.folder / "first").touch()
    for job in (b1, a1):
        desk.wait(job, "running")
    shares = [desk.job(job)["devices"] for job in (a1, b1)]
    assert shares == [(cores + 1) // 2, cores // 2]
    assert desk.job(a2)["position"] == 1
    assert desk.wait(first, "done")["exit_code"] == 0

    until(lambda: desk.home.sweep("a1").driver() is not None, lambda: desk.log(a1))
    desk.kill()
    (desk.folder / "b1").touch()
    driver = desk.home.sweep("a1").driver()
    desk.serve()
    # What ran runs on, by the same process.
    assert desk.job(a1)["state"] == "running"
    assert desk.home.sweep("a1").driver() == driver is not None
    refused = swathes.run(desk.folder, "serve", "--port", "0")
    assert (refused.returncode, "is served by process" in refused.stderr) == (2, True)

    # A sweep that is stopped, and goes on.
    until(lambda: desk.sweep("a1")["counts"].get("complete", 0) >= 3, lambda: desk.sweep("a1"))
    assert "Asked sweep 'a1' to stop" in desk.ask("bob", "POST", "/sweeps/a1/stop").json()["detail"]
    assert desk.wait(a1, "stopped")["exit_code"] == 130
    (desk.folder / "a1").touch()
    (desk.folder / "a2").touch()
    again = desk.made("ada", "/sweeps/a1/resume", {})
    for job in (b1, a2, again):
        done = desk.wait(job, "done")
        assert (done["exit_code"], done["result"]["counts"]) == (0, {"complete": 4})
        log = desk.log(job)
        assert log.count(" swathe ") == log.count("ended with exit code 0") == 1
        assert "The sweep ended: all 4 trials are done." in log
        assert json.loads(job_folder(desk.home, job["id"]).record_file.read_bytes())["attempt"] == 1

    taken = desk.ask("bob", "POST", "/sweeps", yaml("first", trials=9))
    assert (taken.status_code, "sweep.name: 'first' is not allowed" in taken.text) == (409, True)
    twin = desk.wait(desk.made("bob", "/sweeps/b1/reproduce", {"trials": [0]}), "done")
    assert [one["identical"] for one in twin["result"]] == [True]
    users = {user["name"]: user for user in desk.ask("ada", "GET", "/cluster").json()["users"]}
    assert users["ada"]["device_seconds"] > users["bob"]["device_seconds"] > 0
    assert desk.end() == ""
    # Nothing ran, so that its Ray has ended with it.
    assert ray_head.find(desk.home) is None


def test_no_kill_loses_a_job_or_starts_it_twice(desk: Desk) -> None:
    config = {"config": "trainable: tests.trials:quick\nparams: {x: 0.5, marker: m}\nseed: 1\n"}
    for number, place in enumerate(PLACES):
        server = desk.serve(str(Path(__file__).with_name("killed_server.py")), place)
        key = {"Idempotency-Key": f"key {number}"}
        # It may die before it has answered, or of a job of the kill before.
        with suppress(httpx.TransportError):
            desk.made("ada", "/train", config, **key)
        server.wait(150)
        assert server.returncode == -signal.SIGKILL, place
    desk.serve()
    jobs = [desk.made("ada", "/train", config, **{"Idempotency-Key": f"key {number}"}) for number in range(len(PLACES))]
    for job in jobs:
        done = desk.wait(job, "done")
        assert done["exit_code"] == 0
        assert len(done["result"]["reports"]) == 5
        assert desk.log(job).count(" swathe train ") == 1
    assert desk.ask("ada", "GET", "/jobs").json()["total"] == len(PLACES)


def test_a_lost_ray_gives_its_jobs_back_to_the_queue(desk: Desk) -> None:
    desk.serve()
    job = desk.made("ada", "/sweeps", yaml("s", workers=1))
    until(lambda: desk.sweep("s")["counts"].get("complete", 0) >= 3, lambda: desk.sweep("s"))
    head = ray_head.find(desk.home)
    assert head is not None
    for pid in head.processes():
        os.kill(pid, signal.SIGKILL)
    until(lambda: (ray_head.find(desk.home) or head) != head, lambda: desk.job(job))
    (desk.folder / "s").touch()
    done = desk.wait(job, "done")
    assert done["result"]["counts"] == {"complete": 4}
    assert json.loads(job_folder(desk.home, job["id"]).record_file.read_bytes())["attempt"] == 2
    assert desk.log(job).count(" swathe launch ") == 2


def test_what_is_killed_runs_again_and_what_runs_outlives_the_server(desk: Desk) -> None:
    desk.serve()
    once = {"config": "trainable: tests.trials:dies_once\nparams: {x: 0.5, marker: once}\n"}
    killed = desk.wait(desk.made("bob", "/train", once), "done")
    assert json.loads(job_folder(desk.home, killed["id"]).record_file.read_bytes())["attempt"] == 2
    job = desk.made("ada", "/sweeps", yaml("t", workers=1))
    until(lambda: desk.sweep("t")["counts"].get("complete", 0) >= 3, lambda: desk.job(job))
    assert "What runs goes on without the server: t." in desk.end()
    assert desk.home.sweep("t").driver() is not None
    assert "Ended the Ray" in swathes.succeed(desk.folder, "serve", "--stop")
    until(lambda: desk.home.sweep("t").driver() is None, lambda: "its driver goes on")
