"""The MLflow UI on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

from swathe.errors import BadInputError, SwatheError, bad_value
from swathe.events import Direction
from swathe.home import Home
from swathe.records import Records
from swathe.tracking import shown, with_driver

START_SECONDS = 60.0
STOP_SECONDS = 10.0


def serve(uri: str, home: Home, experiment: str | None, port: int, *, browser: bool) -> int:
    """Serve the UI until SIGINT or SIGTERM; return the exit code. A tracking server's own UI is only opened.

    Raises `BadInputError` for a taken port and where nothing is recorded, `SwatheError` when the server fails.
    """
    page = "" if experiment is None else _trials_page(uri, home, experiment)
    if uri.startswith(("http://", "https://")):
        _open(f"{uri.rstrip('/')}/{page}", browser)
        return 0
    _refuse_nothing(uri)
    _refuse_taken(port)
    log = home.path / "ui.log"
    with _interrupted_by_sigterm():
        server = _start(uri, home, port, log)
        try:
            _wait(server, f"http://127.0.0.1:{port}/health", log)
            _open(f"http://127.0.0.1:{port}/{page}", browser)
            print("Stop it with ^C.", flush=True)
            server.wait()
            raise SwatheError(f"The MLflow server ended: {_last_line(log)}")
        except KeyboardInterrupt:
            return 0
        finally:
            _end(server)


def _trials_page(uri: str, home: Home, experiment: str) -> str:
    """Return the page of an experiment's trials, the best first.

    The experiment's own page would show the use of language models, and of a sweep the folded parent run alone.
    """
    records = Records(uri)
    page = f"#/experiments/{records.experiment_id(experiment)}/runs?workflowType=machine_learning"
    card = next((card for card in home.cards() if (card.tracking_uri, card.experiment) == (uri, experiment)), None)
    if card is None:
        return page
    if records.has_view(experiment, card.name):
        # Made by the recorder, with the columns too; MLflow leaves it out where the address says more.
        return f"{page}&viewStateShareKey={card.name}"
    shown = {
        "searchFilter": "tags.`swathe.kind` = 'trial'",
        "orderByKey": f"metrics.`{card.metric}`",
        "orderByAsc": str(card.direction == Direction.MINIMIZE.value).lower(),
    }
    return f"{page}&{urlencode(shown, quote_via=quote)}"


def _start(uri: str, home: Home, port: int, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--default-artifact-root", str(home.artifacts), "--serve-artifacts"]
    environment = os.environ | {
        # Not as an argument: every user of the machine may read those, and a URI can hold a password.
        "MLFLOW_BACKEND_STORE_URI": with_driver(uri),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        # Six more processes, for the evaluation of language models.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with log.open("wb") as output:
        # A session of its own: ^C in the terminal is for us alone, and the whole of it can be ended.
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server with all that it started: in order, or else by force."""
    for order in (signal.SIGTERM, signal.SIGKILL):
        _signal(server, order)
        deadline = time.monotonic() + STOP_SECONDS
        while _signal(server, 0):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        else:
            return


def _signal(server: subprocess.Popen[bytes], number: int) -> bool:
    """Signal the server and all that it started (0: nothing happens); return whether any of them still lives."""
    # A process that has ended belongs to its group until it is waited for.
    server.poll()
    try:
        os.killpg(server.pid, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse_nothing(uri: str) -> None:
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise BadInputError(f"Nothing is recorded yet: there is no MLflow database at {shown(uri)}.")


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise bad_value("--port", port, "a port that nobody uses") from error


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SwatheError(f"The MLflow server does not start: {_last_line(log)}")
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SwatheError(f"The MLflow server does not answer within {START_SECONDS:.0f} s; {log} may say why.")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"


def _open(address: str, browser: bool) -> None:
    print(f"MLflow UI: {address}", flush=True)
    if browser:
        webbrowser.open(address)
