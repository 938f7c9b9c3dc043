"""The command line against a server: what it prints and returns is what it does in the folder of the sweeps."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from swathe import analysis, cli, client, lr_plot, remote, tables
from swathe.client import Event, Server, parsed
from swathe.errors import BadInputError, SwatheError
from swathe.events import TrialState
from swathe.home import Home
from swathe.overview import Overview
from swathe.records import TrialRun
from swathe.remote_watch import Watched
from swathe.reproduce import Reproduction, Row
from swathe.service.app import create_app
from swathe.service.stream import rendered
from swathe.study import JOURNAL
from swathe.training.lr_range import Finding, Method, RangeTest
from tests.integration import swathes
from tests.service.conftest import PLENTY, Service
from tests.test_analysis import launch

Printed = tuple[int, str, str]


@contextmanager
def served(home: Home) -> Iterator[str]:
    """Serve a home on a port of this machine, in a thread, and give the address."""
    server = uvicorn.Server(uvicorn.Config(create_app(home, requests=PLENTY), log_level="warning", ws="none"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address(launched: Service) -> Iterator[str]:
    with served(launched.home) as url:
        yield url


@pytest.fixture
def run(
    service: Service, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Printed]:
    """Return what runs a command in the folder of the sweeps, or with `remote` in another one against the server."""
    monkeypatch.setenv("COLUMNS", "80")

    def called(*words: str, remote: bool = True, role: str = "runner") -> Printed:
        with monkeypatch.context() as patched:
            if remote:
                patched.setenv("SWATHE_TOKEN", service.tokens[role])
                patched.setenv("SWATHE_HOME", "/nowhere")
                words = (*words, "--server", address)
            code = cli.run(list(words))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return called


def test_an_export_is_the_folder_s(run: Callable[..., Printed], tmp_path: Path) -> None:
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    assert run("export", "f", "--out", str(here), remote=False)[0] == 0
    assert run("export", "f", "--out", str(there)) == (0, f"Wrote 8 rows to {there}.\n", "")
    assert there.read_text() == here.read_text()
    code, _, said = run("export", "f", "--curves", "--out", str(there))
    assert (code, said.count("\n")) == (2, 1)
    assert "--curves: a server does not do that" in said


@pytest.mark.parametrize(
    "words",
    [
        *("list", "list --json", "status f", "status f --json", "status f --watch", "compare f", "diagnose f"),
        *(
            "compare f --top 3 --sort val_loss --json",
            "compare f --sort nope",
            "compare f f",
            "diagnose f --json",
            "diagnose f --trial 1",
        ),
        *("best f", "best f --json", "stop f", "stop nope", "status --watch", "config digits optim.lr=x"),
    ],
)
def test_reading_prints_the_same_as_in_the_folder(run: Callable[..., Printed], words: str) -> None:
    here, there = run(*words.split(), remote=False), run(*words.split())
    if "nope" in words and words.startswith("stop"):
        # The server does not say where its folder is.
        assert (there[0], there[2].split(" in ")[0]) == (here[0], here[2].split(" in ")[0])
    else:
        assert there == here


def test_a_run_is_diagnosed_by_its_id(run: Callable[..., Printed], service: Service) -> None:
    row = next(row for row in analysis.compare(service.home, "f", top=1))
    here = run("diagnose", row.run_id, remote=False)
    assert here[0] == 0
    assert run("diagnose", row.run_id) == here
    code, _, said = run("diagnose", "0" * 32)
    assert code == 2
    assert "0" * 32 in said


def test_the_best_config_is_written_to_a_file(run: Callable[..., Printed], tmp_path: Path) -> None:
    assert run("best", "f", "--out", str(tmp_path / "a.yaml"), remote=False)[0] == 0
    assert run("best", "f", "--out", str(tmp_path / "b.yaml"))[0] == 0
    assert (tmp_path / "a.yaml").read_text() == (tmp_path / "b.yaml").read_text()
    code, _, said = run("best", "f", "--out", str(tmp_path / "none" / "b.yaml"))
    assert (code, said.startswith("swathe: --out: ")) == (2, True)


@pytest.mark.slow
def test_checks_are_those_of_the_server(run: Callable[..., Printed]) -> None:
    here, there = run("config", "quickstart", "optim.lr=0.5", remote=False), run("config", "quickstart", "optim.lr=0.5")
    assert there == here
    assert run("check", "quickstart") == (
        0,
        "A launch of quickstart would begin; its first worker tries data, steps and one batch.\n",
        "",
    )
    code, _, said = run("check", "quickstart", "data.folder=/etc")
    assert code == 2
    assert "paths inside the server's working folder" in said


def test_what_cannot_be_is_one_sentence(
    run: Callable[..., Printed], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, sentence in (
        ("serve", "--server: 'serve' works in this folder only"),
        ("token list", "--server: 'token' works in this folder only"),
        ("reproduce f --solo", "--solo: a server does not do that"),
        ("report f --scientific optim", "--scientific: a server does not do that"),
        ("compare f --top 1000", "--top: 1000 is not allowed; allowed: 1 to 200 with a server"),
        ("launch nowhere.yaml", "SWEEP: 'nowhere.yaml' is not allowed; allowed: the path of an existing YAML file"),
        ("train --from nowhere.yaml", "--from: 'nowhere.yaml' cannot be read"),
    ):
        code, out, said = run(*words.split())
        assert (code, out, len(said.splitlines())) == (2, "", 1), words
        assert said.startswith(f"swathe: {sentence}"), said
    code, _, said = run("stop", "f", role="viewer")
    assert code == 2
    assert "Set SWATHE_TOKEN to a token with that role." in said
    assert run("launch", "quickstart", "--detach", remote=False)[2].startswith(
        "swathe: --detach: there is no queue here"
    )
    monkeypatch.setenv("SWATHE_SERVER", address)
    assert cli.run(["list"]) == 2
    monkeypatch.setenv("SWATHE_TOKEN", "swt_wrong")
    assert cli.run(["list"]) == 2
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("SWATHE_SERVER", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert cli.run(["list"]) == 1
    for url in ("x", "ftp://h", "http://ada:secret@h", "http://h/?x=1", "http://"):
        with pytest.raises(BadInputError, match=r"^--server: ") as refused:
            Server(url)
        assert "secret" not in str(refused.value)


def test_words_for_the_server_are_found_wherever_they_stand() -> None:
    assert cli._server_first(["list", "--server", "u", "--json"]) == ["--server", "u", "list", "--json"]
    assert cli._server_first(["list", "--server=u"]) == ["--server=u", "list"]
    assert cli._server_first(["launch", "--", "--server", "u"]) == ["launch", "--", "--server", "u"]
    assert cli._server_first(["list", "--server"]) == ["list", "--server"]


def test_a_file_names_its_sweep_as_it_does_here(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text, overrides, wanted in (
        ("a: 1", [], ["sweep.name=mine"]),
        ("sweep: {name: x}", [], []),
        ("sweep: {name: null}", ["a=1"], ["a=1", "sweep.name=mine"]),
        ("a: 1", ["sweep.name=y"], ["sweep.name=y"]),
        ("a: [", [], []),
    ):
        path.write_text(text)
        assert remote.sweep_body(str(path), overrides) == {"yaml": text, "overrides": wanted}
    assert remote.sweep_body("quickstart", ["a=1"]) == {"sweep": "quickstart", "overrides": ["a=1"]}


class Forgetful(BaseHTTPRequestHandler):
    """A server that takes a job, forgets to answer twice, and then says what it took."""

    keys: list[str | None] = []  # noqa: RUF012 - one server, one test

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.keys.append(self.headers["Idempotency-Key"])
        if len(self.keys) < 3:
            self.close_connection = True
            return
        self.send_response(201)
        self.end_headers()
        self.wfile.write(json.dumps({"body": json.loads(body)}).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_a_lost_answer_is_asked_for_again_under_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWATHE_TOKEN", "swt_x")
    monkeypatch.setattr(client, "RETRY_SECONDS", (0.0, 0.0, 0.0))
    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as forgetful:
        threading.Thread(target=forgetful.serve_forever).start()
        server = Server(f"http://127.0.0.1:{forgetful.server_port}")
        assert server.create("/sweeps", {"sweep": "quickstart"}) == {"body": {"sweep": "quickstart"}}
        assert len(set(Forgetful.keys)) == 1
        assert Forgetful.keys[0]
        # What only asks may be asked again by whoever called.
        Forgetful.keys.clear()
        with pytest.raises(SwatheError, match="does not answer"):
            server.send("POST", "/validate", {})
        assert Forgetful.keys == [None]
        forgetful.shutdown()


def test_events_are_read_as_browsers_do() -> None:
    lines = ["id: 3", "event: report", 'data: {"trial": 0}', "", ": nothing new", "", 'data: {"a": 1}', "", "data: {"]
    assert list(parsed(iter(lines))) == [Event("3", "report", {"trial": 0}), Event("", "message", {"a": 1})]


def test_what_events_tell_adds_up_to_what_the_study_says(tmp_path: Path) -> None:
    home = Home(tmp_path)
    study = launch(home)
    study.ask(3)
    before = Overview.from_dict(analysis.leaders(home, "s", top=0)[0].as_dict())
    study.commit()
    place = (home.sweep("s").path / JOURNAL).stat().st_size
    study.say({"at": 5.0, "seconds": 2.0, "begun": 0, "running": 1, "workers": 2, "epochs": 4, "lanes": None,
               "device_seconds": 3.5, "cost": "1.00 EUR"})  # fmt: skip
    study.ask(3)
    for number, value in ((0, 0.5), (1, 0.25), (4, 0.125), (3, 0.75)):
        study.record(number, 1, value)
        study.tell(number, TrialState.COMPLETE, value, {"diagnosis": "lr_too_high,diverged"} if number == 1 else {})
    study.tell(2, TrialState.FAILED, None, {"reason": "no"})
    study.close()
    watched = Watched(before)
    content = (home.sweep("s").path / JOURNAL).read_bytes()[place:]
    for event in parsed(iter(rendered(content, place, 3)[0].decode().split("\n"))):
        watched.take(event)
        if watched.unknown is not None:
            watched.tell(watched.unknown, {"asked": watched.unknown})
    now, wanted = watched.progress(), analysis.leaders(home, "s", top=0)[0].progress(0.0)
    assert now.best == wanted.best == (4, 0.125)
    assert now.best_params == wanted.best_params
    assert now.counts == {state: count for state, count in wanted.counts.items() if state.final}
    assert (dict(now.diagnosis), list(now.latest)) == (wanted.diagnosis, list(wanted.latest))
    assert (now.device_seconds, now.cost, now.workers, now.epochs, now.running) == (3.5, "1.00 EUR", 2, 4, 1)


def test_results_are_printed_from_json_as_from_the_data_itself(capsys: pytest.CaptureFixture[str]) -> None:
    nan = float("nan")
    rows = (Row(1, "val_loss", 0.5, 0.5), Row(2, "val_loss", nan, nan), Row(3, "val_loss", 0.5, 0.25, 0.125))
    result = Reproduction(TrialRun(3, "r", "complete", {}, {}, {}), rows, ("torch",), "new", alone=True)
    plain = json.loads(json.dumps(cli_finite(tables.reproduction_dict(result))))
    again = tables.reproduction_from_dict(plain)
    assert [(row.identical, row.rounding) for row in again.rows] == [(row.identical, row.rounding) for row in rows]
    assert (again.good, again.identical, again.run.number) == (result.good, result.identical, 3)
    test = RangeTest(Method.LANES, np.array([0.1, 1.0, 10.0]), np.array([2.0, 1.0, float("inf")]), 2.5)
    finding = Finding((False, False, True), 0, 1, 1, 0.5, 0.1, 1.0)
    listed = [
        {"lr": lr, "loss": loss, "diverged": bad}
        for lr, loss, bad in ((0.1, 2.0, False), (1.0, 1.0, False), (10.0, None, True))
    ]
    plain = {
        "rates": listed, "method": "lanes", "untrained_loss": 2.5, "lr": 0.5, "range": [0.1, 1.0],
        "lowest": 0.1, "best": 1.0, "highest": 1.0,
    }  # fmt: skip
    read, said = lr_plot.from_dict(plain)
    assert said == finding
    assert lr_plot.chart(read, said) == lr_plot.chart(test, finding)
    assert lr_plot.advice(read, said) == lr_plot.advice(test, finding)


def cli_finite(value: Any) -> Any:
    from swathe.plain import finite

    return finite(value)


def test_a_command_for_a_server_imports_no_library_that_it_has_no_use_for(service: Service, address: str) -> None:
    code = (
        "import sys; from swathe import cli\n"
        f"assert cli.run(['status', 'f', '--server', '{address}']) == 0\n"
        "heavy = {'torch', 'ray', 'optuna', 'sqlalchemy', 'hydra', 'omegaconf', 'mlflow', 'fastapi', 'plotly'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    environment = {**swathes.environment(), "SWATHE_TOKEN": service.tokens["viewer"]}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
