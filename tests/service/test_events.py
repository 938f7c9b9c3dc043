"""Events: what a journal's lines become, and that nobody misses one or gets one twice, whatever is killed."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from swathe.errors import BadInputError
from swathe.events import TrialState
from swathe.home import Home
from swathe.service import stream
from swathe.service.problems import ProblemError
from swathe.service.stream import Streams, place_of, rendered
from swathe.service.tokens import create_token, revoke_token
from swathe.study import JOURNAL, Study
from tests.integration import swathes
from tests.test_analysis import launch

PATIENCE = 60.0
Event = tuple[int | None, str, dict[str, Any]]


def parsed(text: str) -> list[Event]:
    """Return server-sent events as (id, kind, data)."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            number = int(fields["id"]) if "id" in fields else None
            events.append((number, fields["event"], json.loads(fields["data"])))
    return events


def steps(events: list[Event]) -> list[Event]:
    return [event for event in events if event[1] not in ("status", "open")]


def test_a_journal_becomes_events_wherever_it_is_cut(tmp_path: Path) -> None:
    home = Home(tmp_path)
    study = launch(home)
    study.ask(2)
    study.note(0, "worker", "w")
    study.note(0, "foretold", "not for people")
    study.record(0, 1, 0.5)
    study.record(1, 1, float("nan"))
    study.tell(0, TrialState.COMPLETE, 0.5, {"diagnosis": "lr_too_high"})
    study.tell(1, TrialState.PRUNED, None, {})
    study.close()
    path = home.sweep("s").path / JOURNAL
    content = path.read_bytes()
    text, end, trials = rendered(content, 0, 0)
    assert (end, trials) == (len(content), 2)
    events = parsed(text.decode())
    params = [data.pop("params") for _, kind, data in events if kind == "trial"]
    ends = [data.pop("ended") for _, kind, data in events if kind == "state"]
    assert ends == [past.ended for past in Study.load("s", folder=home.sweep("s").path, storage=None).history()]
    assert [list(one) for one in params] == [["lr"], ["lr"]]
    assert [(kind, data) for _, kind, data in events] == [
        ("trial", {"trial": 0, "state": "running"}),
        ("trial", {"trial": 1, "state": "running"}),
        ("attribute", {"trial": 0, "worker": "w"}),
        ("report", {"trial": 0, "step": 1, "value": 0.5}),
        ("report", {"trial": 1, "step": 1, "value": None}),
        ("attribute", {"trial": 0, "diagnosis": "lr_too_high"}),
        ("state", {"trial": 0, "state": "complete", "value": 0.5}),
        ("state", {"trial": 1, "state": "pruned", "value": None}),
    ]
    for cut in range(0, len(content), 7):
        first, place, before = rendered(content[:cut], 0, 0)
        second, _, _ = rendered(content[place:], place, before)
        assert first + second == text
        assert stream._trials_before(path, place) == before
    whole = [match.end() for match in re.finditer(b"\n", content)]
    for place in (0, *whole):
        assert place_of(path, str(place)) == place
    assert place_of(path, None) == len(content)
    path.write_bytes(content + b'{"op_code":')
    assert place_of(path, None) == len(content)
    for wrong in ("", "-1", "x", "1", str(len(content) + 1), str(10**20), "1e1", "٣", "0\n", " 0"):
        with pytest.raises(BadInputError, match="Last-Event-ID"):
            place_of(path, wrong)


@pytest.mark.parametrize(
    "line",
    [
        *(b'{"op_code":4,"state":99}', b'{"op_code":6,"trial_id":0,"state":9}', b'{"op_code":4,"params":{"x":1}}'),
        *(b'{"op_code":5,"trial_id":0,"param_name":"x","param_value_internal":1,"distribution":"{"}', b"{}"),
    ],
)
def test_odd_lines_are_no_events(line: bytes) -> None:
    text, end, _ = rendered(line + b"\n", 0, 0)
    assert (text, end) == (b"", len(line) + 1)


def test_a_stream_that_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    launch(home).close()
    streams, sweep = Streams(), home.existing("s")
    assert str(asyncio.run(streams.place(*sweep, "0"))) == "0"
    with pytest.raises(BadInputError, match="Last-Event-ID: 'x' is not allowed"):
        asyncio.run(streams.place(*sweep, "x"))
    monkeypatch.setattr(stream, "MAX_LISTENERS", 0)
    with pytest.raises(ProblemError) as full:
        asyncio.run(streams.place(*sweep, None))
    assert full.value.status == 503


# A server of its own.


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def server(folder: Path, port: int, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = swathes.start(folder, "serve", "--port", str(port), *words)
    try:
        until(lambda: "stop it with ^C" in (folder / "output.txt").read_text(), "the server starts")
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def listening(port: int, token: str, after: str | None) -> Iterator[Iterator[str]]:
    headers = {"Authorization": f"Bearer {token}"} | ({} if after is None else {"Last-Event-ID": after})
    address = f"http://127.0.0.1:{port}/api/v1/sweeps/s/events"
    with httpx.stream("GET", address, headers=headers, timeout=PATIENCE) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield answer.iter_text()


def test_a_client_of_a_killed_server_misses_nothing_and_gets_nothing_twice(tmp_path: Path) -> None:
    home = Home(tmp_path / ".swathe")
    study = launch(home)
    study.ask(20)
    study.commit()
    port = free_port()
    with server(tmp_path, port) as process:
        token = (tmp_path / "output.txt").read_text().splitlines()[1]
        assert token.startswith("swt_")
        with listening(port, token, "0") as events:
            text = next(events)
            while len(steps(parsed(text))) < 20:
                text += next(events)
            study.record(0, 1, 0.5)
            study.commit()
            while '"step": 1' not in text:
                text += next(events)
            process.send_signal(signal.SIGKILL)
            with suppress(httpx.HTTPError):
                for more in events:
                    text += more
    # What was sent and did not come whole is sent again.
    seen = parsed(text[: text.rindex("\n\n") + 2])
    for step in range(2, 8):
        study.record(0, step, 0.5)
        study.commit()
    last = next(number for number, _, _ in reversed(seen) if number is not None)
    (tmp_path / "output.txt").unlink()
    with server(tmp_path, port) as process:
        with listening(port, token, str(last)) as events:
            text = next(events)
            study.tell(0, TrialState.COMPLETE, 0.5, {})
            study.commit()
            while '"complete"' not in text:
                text += next(events)
            seen += parsed(text)
            # Importing either takes a second and hundreds of megabytes.
            libraries = Path(f"/proc/{process.pid}/maps").read_text()
            assert "libtorch" not in libraries
            assert "_raylet" not in libraries
            # A server ends with its streams.
            process.send_signal(signal.SIGTERM)
            list(events)
        assert process.wait(PATIENCE) == 0
    whole = rendered((home.sweep("s").path / JOURNAL).read_bytes(), 0, 0)[0]
    assert steps(seen) == parsed(whole.decode())
    assert seen[0][1] == "status"
    study.close()
    printed = (tmp_path / "output.txt").read_text()
    assert "swt_" not in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_a_stream_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    home = Home(tmp_path / ".swathe")
    launch(home).close()
    token = create_token(home, "v", "viewer")
    port = free_port()
    with server(tmp_path, port), listening(port, token, None) as events:
        first = next(events)
        assert parsed(first)[0][1:] == ("open", {"sweep": "s"})
        revoke_token(home, "v")
        list(events)


@pytest.mark.slow
def test_serve_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    home = Home(tmp_path / ".swathe")
    done = swathes.run(tmp_path, "serve", "--host", "0.0.0.0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "swathe: --host: '0.0.0.0' is not allowed; allowed: 127.0.0.1 as long as there is no token; make one with: "
        "swathe token create.\n"
    )
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = swathes.run(tmp_path, "serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "a port that nobody uses" in done.stderr
    # No token was made for a server that never was.
    assert not (home.path / "tokens.json").exists()
    for words in (["--tls-cert", "x.pem"], ["--tls-cert", "x.pem", "--tls-key", "y.pem"], ["--host", "no.such.host."]):
        done = swathes.run(tmp_path, "serve", *words)
        assert done.returncode == 2, words
        assert len(done.stderr.splitlines()) == 1
    # The file of the lock that says who serves a home: it holds nothing.
    assert [(path.name, path.read_text()) for path in home.path.iterdir()] == [("server.lock", "")]
