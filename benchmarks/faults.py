"""The same faults under Swathe and under Ray Tune: what is lost, run twice, left open, and what the user is told.

    python benchmarks/faults.py                          # all of them, some twenty minutes
    python benchmarks/faults.py --only driver segfault   # some of them

Each fault is played on a real sweep of twenty short trials (benchmarks/faulty.py: ten reports of 0.2 s, a checkpoint at
each) with TPE, ASHA, two workers and MLflow. Ray Tune has its best settings: benchmarks/faulty_tune.py. Where a session
does not end well, the tool's own way to go on follows (`Tuner.restore`, `swathe resume`), twice at most. What is
written down are facts: exit codes, trials by state, what trials noted themselves, what is in MLflow, the last words.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import machine  # noqa: E402 - the script runs from anywhere
from benchmarks.faulty_tune import NAME, TRIALS  # noqa: E402
from benchmarks.overhead import QUIET, RAY_TUNE_ENVIRONMENT  # noqa: E402

from swathe.errors import SwatheError  # noqa: E402
from swathe.home import Home  # noqa: E402
from swathe.study import JOURNAL, Study  # noqa: E402

# The fault comes when trials have noted so many steps, of some 160.
STEPS_BEFORE = 60
# A session that is not over by then is ended, and written down as one that hangs (seconds).
PATIENCE = 180.0
# How long MLflow and the room on the disk are away (seconds).
AWAY = 20.0
FULL = 8.0
DISK_MIB = 48
# For a trial that hangs (seconds): Ray Tune's budget for the whole sweep, above what it takes without a fault, and
# Swathe's for a trial that says nothing.
BUDGET, TIMEOUT = "150", "8"


@dataclass
class Place:
    """Where a sweep runs: `folder` keeps the tool's files, `notes` what the trials say; `uri` is MLflow."""

    folder: Path
    notes: Path
    uri: str
    database: Path
    server: Server | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def lines(self, name: str) -> list[Any]:
        file = self.notes / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def wait_for_steps(self, count: int, process: subprocess.Popen[bytes]) -> None:
        """Wait until trials have noted so many steps; at most as long as the sweep runs."""
        while len(self.lines("steps")) < count and process.poll() is None:
            time.sleep(0.05)


@dataclass
class Server:
    """An MLflow server that can be killed and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = [
            f"--backend-store-uri=sqlite:///{self.folder}/mlflow.db",
            f"--artifacts-destination={self.folder}/files",
        ]
        command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *store], stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        sys.exit("The MLflow server does not start.")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


# The tools.


class RayTune:
    """Sweeps of Ray Tune."""

    name = "ray_tune"

    def __init__(self, place: Place) -> None:
        self._place = place
        self._storage = place.folder / "ray"
        self._outcome = place.notes / "outcome.json"

    def start(self, how: str) -> subprocess.Popen[bytes]:
        place = self._place
        words = [how, str(self._storage), place.uri, str(self._outcome)]
        # Its only limit for a trial that hangs is one for the whole sweep.
        words += [BUDGET] if place.environment.get("FAULTS_TRIAL") == "hang" else []
        self._outcome.unlink(missing_ok=True)
        environment = RAY_TUNE_ENVIRONMENT | {"TUNE_GLOBAL_CHECKPOINT_S": "1"}
        return started([str(ROOT / "benchmarks" / "faulty_tune.py"), *words], place, environment)

    def truncate_state(self) -> None:
        halve(max((self._storage / NAME).glob("experiment_state-*.json")))

    def damage_searcher(self) -> None:
        halve(max((self._storage / NAME).glob("searcher-state-*.pkl")))

    def told(self, printed: str) -> list[str]:
        """Return the last lines of what a session printed that speak of something wrong."""
        return alarms(printed)[-3:]

    def trials(self) -> dict[float, str]:
        said = json.loads(self._outcome.read_text()) if self._outcome.exists() else {"trials": []}
        return {x: state.lower() for x, state, _ in said["trials"]}

    def searcher(self) -> dict[str, int]:
        said = json.loads(self._outcome.read_text()) if self._outcome.exists() else {"searcher": {}}
        return {state.lower(): count for state, count in said["searcher"].items()}


class Swathe:
    """Sweeps of Swathe."""

    name = "swathe"

    def __init__(self, place: Place) -> None:
        self._place = place
        self._home = place.folder / "home"
        # How many lines of its log were read.
        self._read = 0

    def start(self, how: str) -> subprocess.Popen[bytes]:
        words = ["-m", "swathe.cli"]
        if how == "new":
            words += ["launch", str(ROOT / "benchmarks" / "faulty.yaml"), f"tracking.uri={self._place.uri}"]
            if self._place.environment.get("FAULTS_TRIAL"):
                words += [f"sweep.trial_timeout={TIMEOUT}", "sweep.retries=1"]
        else:
            words += ["resume", NAME]
        return started([*words, "--quiet"], self._place, {"SWATHE_HOME": str(self._home)})

    def truncate_state(self) -> None:
        halve(self._home / "sweeps" / NAME / JOURNAL)

    def damage_searcher(self) -> None:
        """Break a line in the middle: sampler and pruner have no state but the journal."""
        journal = self._home / "sweeps" / NAME / JOURNAL
        content = bytearray(journal.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(64)
        journal.write_bytes(content)

    def told(self, printed: str) -> list[str]:
        """Return the same, and what the sweep's log says beside the ends of trials."""
        log = self._home / "sweeps" / NAME / "sweep.log"
        lines = log.read_text().splitlines() if log.exists() else []
        new, self._read = lines[self._read :], len(lines)
        # Each line begins with its time.
        said = [line[20:] for line in new if not re.match(r"[\d: -]{20}(trial \d+ |Sweep )", line)]
        return [*said[:6], *alarms(printed)[-3:]]

    def _history(self) -> list[Any]:
        try:
            study = Study.load(NAME, folder=Home(self._home).sweep(NAME).path, storage=None)
        except SwatheError:
            # A journal that cannot be read is a fact, which the session's own words are about.
            return []
        try:
            return study.history()
        finally:
            study.close()

    def trials(self) -> dict[float, str]:
        return {float(past.params["params.x"]): past.state.value for past in self._history()}

    def searcher(self) -> dict[str, int]:
        """Its sampler asks the study itself."""
        return dict(Counter(past.state.value for past in self._history()))


Tool = RayTune | Swathe


def started(words: list[str], place: Place, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a session, whose output goes to a file."""
    environment = os.environ | QUIET | more | place.environment
    environment |= {"FAULTS_FOLDER": str(place.notes), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "COLUMNS": "200"}
    with (place.notes / "output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def halve(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


# The faults.


def kill_driver(tool: Tool, place: Place, process: subprocess.Popen[bytes]) -> None:
    place.wait_for_steps(STEPS_BEFORE, process)
    process.kill()


def kill_driver_and_truncate(tool: Tool, place: Place, process: subprocess.Popen[bytes]) -> None:
    kill_driver(tool, place, process)
    process.wait()
    tool.truncate_state()


def kill_driver_and_damage_searcher(tool: Tool, place: Place, process: subprocess.Popen[bytes]) -> None:
    kill_driver(tool, place, process)
    process.wait()
    tool.damage_searcher()


def kill_worker(tool: Tool, place: Place, process: subprocess.Popen[bytes]) -> None:
    place.wait_for_steps(STEPS_BEFORE, process)
    _, pid, _ = place.lines("starts")[-1]
    os.kill(pid, signal.SIGKILL)


def let_be(tool: Tool, place: Place, process: subprocess.Popen[bytes]) -> None:
    """The trial itself has the fault."""


def take_mlflow_away(tool: Tool, place: Place, process: subprocess.Popen[bytes]) -> None:
    assert place.server is not None
    place.wait_for_steps(STEPS_BEFORE, process)
    place.server.kill()
    time.sleep(AWAY)
    place.server.start()


def take_mlflow_away_for_long(tool: Tool, place: Place, process: subprocess.Popen[bytes]) -> None:
    """Take MLflow away until the session has ended, or longer than the sweep would take."""
    assert place.server is not None
    place.wait_for_steps(STEPS_BEFORE, process)
    place.server.kill()
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    place.server.start()


def fill_disk(tool: Tool, place: Place, process: subprocess.Popen[bytes]) -> None:
    place.wait_for_steps(STEPS_BEFORE, process)
    filler = place.folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    time.sleep(FULL)
    filler.unlink()


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: what it is, who plays it, and what it needs."""

    what: str
    play: Callable[[Tool, Place, subprocess.Popen[bytes]], None]
    trial: str | None = None
    server: bool = False
    small_disk: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


# The client's own patience is some four minutes; with two retries it is a few seconds, so that the play is short.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}

FAULTS = {
    "none": Fault("no fault", let_be),
    "driver": Fault("kill -9 of the driver in the middle", kill_driver),
    "worker": Fault("kill -9 of a worker in the middle", kill_worker),
    "state": Fault("kill -9 of the driver, and the file of the state cut to half", kill_driver_and_truncate),
    "searcher": Fault("kill -9 of the driver, and the searcher's state damaged", kill_driver_and_damage_searcher),
    "segfault": Fault("a trial that segfaults, in each attempt", let_be, trial="segfault"),
    "hang": Fault("a trial that hangs, in each attempt", let_be, trial="hang"),
    "mlflow": Fault(f"MLflow's server killed, and back after {AWAY:.0f} s", take_mlflow_away, server=True),
    "mlflow-long": Fault(
        "MLflow's server away for longer than its client tries",
        take_mlflow_away_for_long,
        server=True,
        environment=IMPATIENT,
    ),
    "disk": Fault(f"the disk full for {FULL:.0f} s", fill_disk, small_disk=True),
}


# Playing.


@contextmanager
def prepared(fault: Fault) -> Iterator[Place]:
    """Make a place as the fault needs it."""
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    folder, notes = root / "files", root / "notes"
    folder.mkdir()
    notes.mkdir()
    (notes / "output").touch()
    environment = dict(fault.environment)
    if fault.trial:
        environment["FAULTS_TRIAL"] = fault.trial
    place = Place(folder, notes, f"sqlite:///{folder}/mlflow.db", folder / "mlflow.db", environment=environment)
    try:
        if fault.small_disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)], check=True)
        if fault.server:
            with closing(socket.socket()) as probe:
                probe.bind(("127.0.0.1", 0))
                place.server = Server(folder, probe.getsockname()[1])
            place.uri = f"http://127.0.0.1:{place.server.port}"
            place.server.start()
        yield place
    finally:
        if place.server is not None:
            place.server.kill()
        if fault.small_disk:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        shutil.rmtree(root, ignore_errors=True)


def play(fault: Fault, kind: type[RayTune] | type[Swathe]) -> dict[str, Any]:
    """Play a fault on a tool; return the facts."""
    with prepared(fault) as place:
        tool = kind(place)
        sessions = []
        for how in ("new", "restore", "restore"):
            began, before = time.monotonic(), len(output(place))
            process = tool.start(how)
            if how == "new":
                fault.play(tool, place, process)
            code = ended(process)
            seconds = round(time.monotonic() - began, 1)
            told = [shortened(line, place) for line in tool.told(output(place)[before:])]
            sessions.append({"how": how, "exit": code, "seconds": seconds, "told": told})
            if code == 0 or isinstance(code, str):
                break
        return {"sessions": sessions, **facts(tool, place)}


def ended(process: subprocess.Popen[bytes]) -> int | str:
    """Wait for a session's end; one that hangs is ended with all that it has started."""
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return f"none after {PATIENCE:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def output(place: Place) -> str:
    return (place.notes / "output").read_text(errors="replace")


def alarms(text: str) -> list[str]:
    """Return the lines that speak of something wrong, without what colours them; at most 300 letters of each."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    lines = [line.strip()[:300] for line in plain.splitlines()]
    return [
        line
        for line in lines
        if re.search("error|exception|warning|damaged|cannot|no space", line, re.I) and "File " not in line
    ]


def shortened(line: str, place: Place) -> str:
    """Return a line without the folders of this machine."""
    for folder, short in ((str(place.notes.parent), "FOLDER"), (f"{ROOT}/", ""), (sys.prefix, "")):
        line = line.replace(folder, short)
    return line


def facts(tool: Tool, place: Place) -> dict[str, Any]:
    """Compare what trials noted, what the tool says and what MLflow has; trials are known by their x."""
    starts, steps = place.lines("starts"), place.lines("steps")
    known, runs = tool.trials(), recorded(place.database)
    made = Counter((x, step) for x, step, _ in steps)
    kept = {x for x, state in known.items() if state not in ("failed", "error")}
    has = {(run["x"], step) for run in runs for step in run["steps"]}
    times = sorted(moment for *_, moment in steps)
    return {
        "trials": dict(Counter(known.values())),
        "begun": len({x for x, *_ in starts}),
        "begun_and_unknown": len({x for x, *_ in starts} - set(known)),
        "begun_again": sum(count - 1 for count in Counter(x for x, *_ in starts).values()),
        "steps_made_again": sum(count - 1 for count in made.values()),
        "searcher": tool.searcher(),
        "longest_silence_seconds": round(max((b - a for a, b in pairwise(times)), default=0.0), 1),
        "mlflow": {
            "runs": dict(Counter(run["status"] for run in runs)),
            "doubled": sum(count - 1 for count in Counter(run["x"] for run in runs).values()),
            "steps_missing": len({(x, step) for x, step in made if x in kept} - has),
        },
    }


def recorded(database: Path) -> list[dict[str, Any]]:
    """Return the trials' runs in MLflow's database: x, status and the steps of val_loss."""
    with closing(sqlite3.connect(database)) as connection:
        params = connection.execute("SELECT run_uuid, value FROM params WHERE key IN ('x', 'params.x')").fetchall()
        status = dict(connection.execute("SELECT run_uuid, status FROM runs").fetchall())
        steps: dict[str, list[int]] = {}
        for run, step in connection.execute("SELECT run_uuid, step FROM metrics WHERE key = 'val_loss'"):
            steps.setdefault(run, []).append(step)
    return [{"x": float(x), "status": status[run], "steps": steps.get(run, [])} for run, x in params]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAULTS, help="some faults, beside those that were played before")
    parser.add_argument("--tool", choices=("ray_tune", "swathe"), help="one tool; writes no results")
    options = parser.parse_args()
    file = machine.RESULTS / "faults.json"
    before = json.loads(file.read_text())["rows"] if options.only and file.exists() else []
    rows = {row["fault"]: row for row in before}
    for name in options.only or FAULTS:
        rows[name] = row = {"fault": name, "what": FAULTS[name].what}
        print(f"{name}: {row['what']}", flush=True)
        for kind in (RayTune, Swathe):
            if options.tool in (None, kind.name):
                row[kind.name] = play(FAULTS[name], kind)
                print(f"  {kind.name}: {json.dumps(row[kind.name])}", flush=True)
        if not options.tool:
            write([rows[each] for each in FAULTS if each in rows])


def write(rows: list[dict[str, Any]]) -> None:
    content = {"what": __doc__.splitlines()[0], "trials": TRIALS, "rows": rows}
    content["machine"] = machine.describe("ray", "optuna", "mlflow", "torch")
    print(f"Written to {machine.write('faults', content).relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main()
