"""The MLflow UI on this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser

from swathe.errors import SwatheError, bad_value
from swathe.home import Home
from swathe.records import Records

START_SECONDS = 60.0


def serve(uri: str, home: Home, experiment: str | None, port: int, *, browser: bool) -> int:
    """Serve the UI until it is interrupted; return its exit code. A tracking server's own UI is only opened."""
    page = "" if experiment is None else f"#/experiments/{Records(uri).experiment_id(experiment)}"
    if uri.startswith(("http://", "https://")):
        _open(f"{uri.rstrip('/')}/{page}", browser)
        return 0
    _refuse_taken(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--default-artifact-root", str(home.artifacts), "--serve-artifacts"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _wait(server, f"http://127.0.0.1:{port}/health")
        _open(f"http://127.0.0.1:{port}/{page}", browser)
        print("Stop it with ^C.", flush=True)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait(timeout=10)


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise bad_value("--port", port, "a port that nobody uses") from error


def _wait(server: subprocess.Popen[str], address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            text = (server.stderr.read() if server.stderr else "").strip().splitlines()
            raise SwatheError(f"The MLflow server does not start: {text[-1] if text else 'it says nothing'}")
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SwatheError(f"The MLflow server does not answer within {START_SECONDS:.0f} s.")


def _open(address: str, browser: bool) -> None:
    print(f"MLflow UI: {address}", flush=True)
    if browser:
        webbrowser.open(address)
