"""Launching on a server from elsewhere: a real server, its queue and its Ray, and a kill in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swathe.home import Home
from swathe.service.tokens import create_token
from tests.integration import swathes
from tests.service.test_events import free_port, server

pytestmark = pytest.mark.slow


class Elsewhere:
    """A folder without sweeps, and a server's address and token in the environment."""

    def __init__(self, folder: Path, port: int, token: str) -> None:
        self.folder = folder
        self._environment = {
            **swathes.environment(),
            "SWATHE_SERVER": f"http://127.0.0.1:{port}",
            "SWATHE_TOKEN": token,
        }

    def start(self, *words: str, output: str) -> subprocess.Popen[bytes]:
        with (self.folder / output).open("wb") as file:
            return subprocess.Popen(
                swathes.command(*words), cwd=self.folder, env=self._environment, stdout=file, stderr=file
            )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            swathes.command(*words),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )

    def read(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def ray_ended(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        swathes.run(folder, "serve", "--stop")


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for what takes a Ray's start and a sweep's."""
    deadline = time.monotonic() + 150.0
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def write_sweep(home_folder: Path, folder: Path, name: str, trials: int) -> None:
    """Write a sweep's file elsewhere, whose functions wait for a marker in the server's folder."""
    written = swathes.write_function_sweep(home_folder, "waits", trials=trials, name=name)
    (home_folder / written).rename(folder / written)


def counts(elsewhere: Elsewhere, name: str) -> dict[str, int]:
    done = elsewhere.run("status", name, "--json")
    return json.loads(done.stdout)["counts"] if done.returncode == 0 else {}


def test_a_sweep_is_launched_followed_over_a_kill_stopped_and_resumed(tmp_path: Path) -> None:
    home_folder, folder, port = tmp_path / "server", tmp_path / "elsewhere", free_port()
    home_folder.mkdir()
    folder.mkdir()
    home = Home(home_folder / ".swathe")
    elsewhere = Elsewhere(folder, port, create_token(home, "ada", "runner"))
    marker = home_folder / "marker"
    write_sweep(home_folder, folder, "first", 6)
    # The functions of a sweep that comes from elsewhere are those that the server allows.
    words = ["--allow-module", "tests.trials"]
    with ray_ended(home_folder):
        with server(home_folder, port, *words) as process:
            launched = elsewhere.start("launch", "first.yaml", "--events", output="first.txt")
            until(lambda: counts(elsewhere, "first").get("complete", 0) >= 3, "three trials end")
            process.send_signal(signal.SIGKILL)
            process.wait()
        (home_folder / "output.txt").unlink()
        with server(home_folder, port, *words):
            marker.touch()
            assert launched.wait(120) == 0, (folder / "first.txt").read_text()
            lines = [json.loads(line) for line in (folder / "first.txt").read_text().splitlines()]
            assert lines[0]["event"] == "message"
            assert {line["event"] for line in lines} == {"message", "progress", "end"}
            assert (lines[-1]["counts"], lines[-1]["failed"]) == ({"complete": 6}, False)
            assert max(line["counts"].get("complete", 0) for line in lines if line["event"] == "progress") >= 3
            (again,) = elsewhere.read("reproduce", "first", "--trial", "0")
            assert (again["trial"], again["identical"]) == (0, True)
            taken = elsewhere.run("launch", "first.yaml")
            assert taken.returncode == 2
            assert len(taken.stderr.splitlines()) == 1

            marker.unlink()
            write_sweep(home_folder, folder, "second", 5)
            launched = elsewhere.start("launch", "second.yaml", output="second.txt")
            until(lambda: counts(elsewhere, "second").get("complete", 0) >= 3, "three trials end")
            launched.send_signal(signal.SIGINT)
            assert launched.wait(60) == 130
            said = (folder / "second.txt").read_text()
            assert "goes on without you. See it again with: swathe status second --watch\n" in said
            assert "Traceback" not in said
            assert elsewhere.run("stop", "second").stdout.startswith("Asked sweep 'second' to stop")
            until(lambda: not _runs(elsewhere, "second"), "it stops")
            marker.touch()
            resumed = elsewhere.run("resume", "second", "--quiet")
            assert resumed.returncode == 0, resumed.stderr
            assert "Sweep second: all 5 trials are done, after" in resumed.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["first.txt", "first.yaml", "second.txt", "second.yaml"]


def _runs(elsewhere: Elsewhere, name: str) -> bool:
    return str(elsewhere.read("status", name)["status"]).startswith("running")
