"""Requests whose answer was lost: an MLflow server that makes a run only after the recorder has made it again."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from swathe.mlflow_runs import connect
from swathe.recorder import Sweep
from tests.chaos.proxy import CHUNK, Proxy
from tests.integration.test_mlflow import MLflowServer, summary, sweep_record

CREATE = b"/runs/create"


class HoldingProxy(Proxy):
    """Forwards to a server, but keeps one of the requests that make a run back, whose connection it ends at once."""

    def __init__(self, target: int) -> None:
        self._skip = -1
        self._held = b""
        super().__init__(target)
        self.uri = f"http://127.0.0.1:{self.port}"

    def hold(self, skip: int) -> None:
        """Keep the next one back, after `skip` others."""
        self._skip = skip

    def deliver(self) -> None:
        """Let the server have what was kept back, and wait for its answer."""
        assert self._held, "nothing was kept back"
        with closing(socket.create_connection(("127.0.0.1", self._target))) as server:
            server.sendall(self._held)
            assert b" 200 " in server.recv(CHUNK)
        self._held = b""

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._target)) as server:
            back = threading.Thread(target=_pour, args=(server, client), daemon=True)
            back.start()
            while request := _request(client):
                if self._is_held(request):
                    self._held = request
                    # The answer of no request before it is under way: a client has one at a time on a connection.
                    client.shutdown(socket.SHUT_RDWR)
                    return
                server.sendall(request)

    def _is_held(self, request: bytes) -> bool:
        if self._skip < 0 or CREATE not in request.partition(b"\r\n")[0]:
            return False
        self._skip -= 1
        return self._skip < 0


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            sink.sendall(data)


def _request(client: socket.socket) -> bytes:
    """Read one request whole; empty at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := client.recv(CHUNK)):
            return b""
        data += more
    head = data.partition(b"\r\n\r\n")[0]
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    whole = len(head) + 4 + (int(length[1]) if length else 0)
    while len(data) < whole:
        data += client.recv(CHUNK)
    return data


@pytest.mark.parametrize("again", ["the same session", "another session"])
@pytest.mark.parametrize("held", ["the sweep's run", "a trial's run"])
def test_a_run_that_is_made_late_does_not_stay(
    tmp_path: Path, server: MLflowServer, request: pytest.FixtureRequest, held: str, again: str
) -> None:
    name = re.sub(r"\W+", "-", request.node.name)
    with closing(HoldingProxy(server.port)) as proxy:
        header = _header(tmp_path, proxy.uri, name)
        begin = ["trial", 0, "0000", {"lr": 0.1}, {"swathe.config": "{}", "swathe.geometry": "{}"}, 1000.0]
        proxy.hold(0 if held == "the sweep's run" else 1)
        sweep = _written(header, [begin, ["metrics", 0, 1, {"val_loss": 0.5}, 1001.0]])
        proxy.deliver()
        if again == "another session":
            sweep = Sweep(header)
        end = ["end", 0, "complete", {"swathe.state": "complete"}, 1002.0]
        sweep.write([["metrics", 0, 2, {"val_loss": 0.25}, 1002.0], end])
        sweep.write([["finish", asdict(summary()), 1003.0]])
    client = connect(server.uri)
    experiment = client.get_experiment_by_name(f"{name} experiment")
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if run.data.tags["swathe.kind"] == "trial"]
    parents = [run for run in runs if run.data.tags["swathe.kind"] == "sweep"]
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert [run.info.status for run in trials] == ["FINISHED"]
    assert trials[0].data.params == {"lr": "0.1"}
    assert trials[0].data.tags["mlflow.parentRunId"] == parents[0].info.run_id
    history = client.get_metric_history(trials[0].info.run_id, "val_loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.25)]


def _written(header: dict[str, Any], records: list[Any]) -> Sweep:
    """Write as the recorder does: anew after a failure."""
    sweep = Sweep(header)
    try:
        sweep.write(records)
    except Exception:
        sweep = Sweep(header)
        sweep.write(records)
    return sweep


def _header(folder: Path, uri: str, name: str) -> dict[str, Any]:
    record = sweep_record(folder, uri, name)
    return {**asdict(record), "id": name, "started": 1000.0, "folder": str(folder)}
