"""`swathe serve` with 200 clients that watch events, 20 sweeps in its queue, and 8 clients that read meanwhile.

    python benchmarks/serve.py                  # some three minutes
    python benchmarks/serve.py --seconds 10     # a quick look, which writes no results

A real server process with its queue and its own Ray: one launched sweep has all devices and reports ten times a second
and worker; 20 sweeps wait behind it. Four more sweeps with journals and one in SQLite are written by a driver of their
own at a steady rate. The clients watch these six from their first events on, each over a connection of its own. Eight
others, each with a token of its own, read something every 100 ms, all kinds of reads in turn: their times count from
the request to the whole answer. Then the server is killed (SIGKILL) and started again; the clients come back with the
last ids that they saw. At the end what each has got is held against the journals, event by event.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import httpx  # noqa: E402 - the script runs from anywhere
from benchmarks import machine  # noqa: E402
from optuna.distributions import FloatDistribution  # noqa: E402
from tests.test_study import Parameter, Space  # noqa: E402

from swathe.events import Direction, TrialState  # noqa: E402
from swathe.home import Home, SweepCard  # noqa: E402
from swathe.service.database_events import Cursor, DatabaseSource  # noqa: E402
from swathe.service.stream import rendered  # noqa: E402
from swathe.service.tokens import create_token  # noqa: E402
from swathe.study import JOURNAL, Study  # noqa: E402

CLIENTS, READERS, QUEUED, JOURNALS = 200, 8, 20, 4
# Events a second of each sweep that is written here, and how often its driver commits (seconds).
JOURNAL_RATE, DATABASE_RATE, COMMIT_SECONDS = 25.0, 10.0, 0.1
# Seconds: of measuring (after `WARM`), between two reads of a reader, after the restart, without news before the end.
SECONDS, PAUSE, AFTER, SILENCE = 40.0, 0.1, 10.0, 4.0
# Seconds in which each kind was read at least once, MLflow's database was opened for the first time among others.
WARM = 5.0
PATIENCE = 120.0
AIM_MS = 250.0
LAUNCHED, DATABASE = "launched", "database"
FED = [f"fed-{number}" for number in range(JOURNALS)]
SPACE = Space({"x": Parameter(FloatDistribution(0.0, 1.0))})
SWEEP = """
defaults: [/sampler: random, /pruner: none, _self_]
trainable: benchmarks.steady:train
params: {{x: 0.5}}
sweep: {{name: {name}, trials: 5000, space: {{params.x: "interval(0.0, 1.0)"}}}}
"""
READS = (
    *(
        "/sweeps",
        "/sweeps/{sweep}",
        "/sweeps/{sweep}/trials?sort=value",
        "/sweeps/{sweep}/trials?state=complete&sort=x",
    ),
    *("/sweeps/{sweep}/trials/0", "/sweeps/{sweep}/trials/0/curves", "/sweeps/{sweep}/importance"),
    *("/sweeps/launched/best", "/sweeps/launched/compare", "/sweeps/launched/diagnosis", "/catalog", "/health"),
    *("/jobs", "/jobs?state=queued", "/jobs/{job}", "/jobs/{job}/log", "/cluster"),
)


# The server.


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until it is killed or the context ends."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    words = ["serve", "--port", str(port), "--allow-module", "benchmarks.steady"]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "swathe.cli", *words], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        until(lambda: _answers(port), "the server answers")
        yield process
    finally:
        process.kill()
        process.wait()


def end_ray(folder: Path) -> None:
    """End the Ray that the server has started."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, "-m", "swathe.cli", "serve", "--stop"]
    subprocess.run(command, cwd=folder, env=environment, check=False, stdout=subprocess.DEVNULL)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/v1/health").is_success
    except httpx.TransportError:
        return False


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"Not within {PATIENCE:.0f} s: {what}.")
        time.sleep(0.1)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def memory_mb(process: int) -> float:
    """Return a process's resident memory (MB)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process (seconds)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Drivers.


def storage_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'trials.db'}"


def open_fed(folder: Path, name: str) -> Study:
    home, storage = Home(folder / ".swathe"), storage_of(folder) if name == DATABASE else None
    sweep = home.sweep(name)
    card = SweepCard(name, "id", storage, home.tracking_uri, name, "val_loss", "minimize", 5000, "swathe launch", 0.0)
    sweep.write_card(card)
    return Study.open(
        name,
        folder=sweep.path,
        storage=storage,
        direction=Direction.MINIMIZE,
        sampler={"name": "random"},
        space=SPACE,
        seed=0,
    )


def feed(folder: Path, names: Sequence[str], stop: Any) -> None:
    """Drive sweeps that are not launched: in each two trials report in turn, twenty times, and the next two follow."""
    home = Home(folder / ".swathe")
    with ExitStack() as held:
        studies = {name: open_fed(folder, name) for name in names}
        for name in studies:
            held.enter_context(home.sweep(name).drive())
        driven = {name: _written(study) for name, study in studies.items()}
        began, written = time.monotonic(), Counter[str]()
        while not stop.is_set():
            for name, events in driven.items():
                rate = DATABASE_RATE if name == DATABASE else JOURNAL_RATE
                due = int((time.monotonic() - began) * rate) - written[name]
                for _ in islice(events, max(0, due)):
                    written[name] += 1
                studies[name].commit()
            time.sleep(COMMIT_SECONDS)
        for study in studies.values():
            study.close()


def _written(study: Study) -> Iterator[None]:
    """Write an event's worth at each step."""
    while True:
        pair = [proposal.trial for proposal in study.ask(2).proposals]
        yield
        for step in range(1, 21):
            for number in pair:
                study.record(number, step, 1.0 / (number + step))
                yield
        for number in pair:
            study.tell(number, TrialState.COMPLETE, 1.0 / (number + 20), {"worker": "w"})
            yield


# Clients that watch.


@dataclass
class Watcher:
    """A client that keeps all that it got, and comes back with the last id in it."""

    sweep: str
    got: bytearray = field(default_factory=bytearray)
    heard: float = 0.0
    connections: int = 0

    async def watch(self, port: int, token: str) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._listen(port, token)
            # What did not come whole comes again.
            del self.got[self.got.rfind(b"\n\n") + 2 if b"\n\n" in self.got else 0 :]
            await asyncio.sleep(0.2)

    async def _listen(self, port: int, token: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            lines = [
                f"GET /api/v1/sweeps/{self.sweep}/events HTTP/1.0",
                "Host: 127.0.0.1",
                f"Authorization: Bearer {token}",
                f"Last-Event-ID: {self._last()}",
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n")[0]:
                return
            self.connections += 1
            while content := await reader.read(2**16):
                if b"id: " in content:
                    self.heard = time.monotonic()
                self.got += content
        finally:
            writer.close()

    def _last(self) -> str:
        found = self.got.rfind(b"id: ")
        return "0" if found < 0 else self.got[found + 4 : self.got.index(b"\n", found)].decode()


def sweeps_watched() -> list[str]:
    return list(islice(cycle([*FED, DATABASE, LAUNCHED]), CLIENTS))


def watch(folder: Path, port: int, tokens: Sequence[str], pipe: Connection) -> None:
    asyncio.run(_watch(folder, port, tokens, pipe))


async def _watch(folder: Path, port: int, tokens: Sequence[str], pipe: Connection) -> None:
    watchers = [Watcher(sweep) for sweep in sweeps_watched()]
    tasks = []
    for watcher, token in zip(watchers, cycle(tokens), strict=False):
        tasks.append(asyncio.create_task(watcher.watch(port, token)))
    while True:
        while not pipe.poll():
            await asyncio.sleep(0.05)
        match pipe.recv():
            case "connected":
                pipe.send(min(watcher.connections for watcher in watchers))
            case "bytes":
                pipe.send(sum(len(watcher.got) for watcher in watchers))
            case "end":
                break
    sizes = {name: (Home(folder / ".swathe").sweep(name).path / JOURNAL).stat().st_size for name in (*FED, LAUNCHED)}
    until_quiet = time.monotonic() + PATIENCE
    fed = [watcher for watcher in watchers if watcher.sweep != LAUNCHED]
    while time.monotonic() < until_quiet and max(one.heard for one in fed) > time.monotonic() - SILENCE:
        await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    pipe.send(verdict(folder, watchers, sizes))


def verdict(folder: Path, watchers: Sequence[Watcher], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Hold what each client got against what the sweeps' journals, and the database, have."""
    wanted = {name: numbered(_journal_events(folder, name, size)) for name, size in sizes.items()}
    wanted[DATABASE] = numbered(_database_events(folder))
    lost = twice = events = 0
    for watcher in watchers:
        got, all_of = numbered(bytes(watcher.got)), wanted[watcher.sweep]
        ids = Counter(number for number, _ in got)
        twice += sum(count - 1 for count in ids.values())
        # The launched sweep goes on; in a database the order among trials is that of looking.
        mine = Counter(data for _, data in got)
        lost += sum((Counter(data for _, data in all_of) - mine).values())
        if watcher.sweep != DATABASE:
            lost += sum(pair not in ids for pair in (number for number, _ in all_of))
        events += len(got)
    return {
        "clients": len(watchers),
        "events_got": events,
        "lost": lost,
        "twice": twice,
        "connections": sum(one.connections for one in watchers),
    }


def numbered(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return the events with an id: the id, and the rest."""
    return re.findall(rb"^id: (.*)\n(event: (?!open).*\ndata: .*)\n\n", content, re.MULTILINE)


def _journal_events(folder: Path, name: str, size: int) -> bytes:
    content = (Home(folder / ".swathe").sweep(name).path / JOURNAL).read_bytes()[:size]
    return rendered(content, 0, 0)[0]


def _database_events(folder: Path) -> bytes:
    card = Home(folder / ".swathe").sweep(DATABASE).card()
    assert card is not None
    source, place, found = DatabaseSource(card), Cursor(), b""
    while True:
        content, following = source.read(place)
        if following == place:
            return found
        found, place = found + content, following


# Clients that read.

# Its kind, and how long it took (seconds).
Read = tuple[str, float]


def read(port: int, tokens: Sequence[str], job: str, seconds: float, pipe: Connection) -> None:
    pipe.send(asyncio.run(_read(port, tokens, job, seconds)))


async def _read(port: int, tokens: Sequence[str], job: str, seconds: float) -> tuple[list[Read], list[Read]]:
    first: list[Read] = []
    then: list[Read] = []
    for found, duration in ((first, WARM), (then, seconds)):
        deadline = time.monotonic() + duration
        await asyncio.gather(*(_reader(port, token, job, deadline, place, found) for place, token in enumerate(tokens)))
    return first, then


async def _reader(port: int, token: str, job: str, deadline: float, place: int, found: list[Read]) -> None:
    kinds = islice(cycle(READS), place * 2, None)
    sweeps = cycle([*FED, DATABASE, LAUNCHED])
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", headers=headers, timeout=60) as client:
        while time.monotonic() < deadline:
            kind = next(kinds)
            path = kind.format(sweep=next(sweeps), job=job)
            began = time.perf_counter()
            answer = await client.get(path)
            found.append((kind, time.perf_counter() - began))
            if not answer.is_success:
                sys.exit(f"{path}: {answer.status_code} {answer.text}")
            await asyncio.sleep(PAUSE)


def milliseconds(times: Sequence[float]) -> dict[str, float]:
    """Return how many there were, their median, 99th percentile and maximum (ms)."""
    ordered = sorted(times)
    last = len(ordered) - 1
    places = {"p50_ms": round(0.5 * last), "p99_ms": round(0.99 * last), "max_ms": last}
    return {"reads": len(ordered), **{name: round(ordered[place] * 1000, 1) for name, place in places.items()}}


# The whole.


def fill_queue(client: httpx.Client) -> str:
    """Launch a sweep that gets all devices, then 20 that wait; return the id of the first one's job."""

    def launch(name: str, overrides: Sequence[str]) -> str:
        body = {"yaml": SWEEP.format(name=name), "overrides": list(overrides)}
        answer = client.post("/sweeps", json=body, timeout=PATIENCE)
        if answer.status_code != 201:
            sys.exit(f"{name}: {answer.status_code} {answer.text}")
        return str(answer.json()["id"])

    job = launch(LAUNCHED, [])
    until(lambda: client.get(f"/jobs/{job}").json()["state"] == "running", "the first sweep runs")
    for number in range(QUEUED):
        launch(f"queued-{number}", [])
    return job


def queue(client: httpx.Client) -> list[tuple[str, str, str]]:
    """Return all jobs: id, sweep, state."""
    return [(job["id"], job["sweep"], job["state"]) for job in client.get("/jobs?limit=200").json()["jobs"]]


def _has_ended_trials(client: httpx.Client, name: str) -> bool:
    answer = client.get(f"/sweeps/{name}")
    return answer.is_success and answer.json()["counts"].get("complete", 0) > 0


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    home, port = Home(folder / ".swathe"), free_port()
    home.path.mkdir(parents=True)
    tokens = [create_token(home, f"reader-{number}", "runner") for number in range(READERS)]
    stop = multiprocessing.Event()
    # A database is slower than journals, which must not wait for it.
    feeders = [
        multiprocessing.Process(target=feed, args=(folder, names, stop), daemon=True) for names in (FED, [DATABASE])
    ]
    ours, theirs = multiprocessing.Pipe()
    watching = multiprocessing.Process(target=watch, args=(folder, port, tokens, theirs), daemon=True)
    headers = {"Authorization": f"Bearer {tokens[0]}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers=headers) as client:
        with server(folder, port) as process:
            job = fill_queue(client)
            started = home.sweep(LAUNCHED).path / JOURNAL
            until(lambda: started.exists() and started.stat().st_size > 5000, "the first sweep reports")
            for feeder in feeders:
                feeder.start()
            for name in (*FED, DATABASE, LAUNCHED):
                until(lambda name=name: _has_ended_trials(client, name), f"trials of {name} end")  # type: ignore[misc]
            watching.start()
            until(lambda: _asked(ours, "connected") > 0, "all clients listen")
            print(f"Measuring for {seconds:.0f} s ...", flush=True)
            cpu, began = cpu_seconds(process.pid), time.monotonic()
            got = _asked(ours, "bytes")
            first, reads = read_by_others(port, tokens, job, seconds)
            share = (cpu_seconds(process.pid) - cpu) / (time.monotonic() - began)
            sent = (_asked(ours, "bytes") - got) / (time.monotonic() - began)
            memory, before = memory_mb(process.pid), queue(client)
            print("Killing the server ...", flush=True)
            process.send_signal(signal.SIGKILL)
            process.wait()
        killed = time.monotonic()
        with server(folder, port):
            until(lambda: _asked(ours, "connected") > 1, "all clients listen again")
            back, after = time.monotonic() - killed, queue(client)
            time.sleep(AFTER)
            stop.set()
            for feeder in feeders:
                feeder.join()
            ours.send("end")
            events = ours.recv()
            watching.join()
    by_kind = {kind: milliseconds([took for one, took in reads if one == kind]) for kind in READS}
    return {
        "reads": {"all": milliseconds([took for _, took in reads]), "by_kind": by_kind, "aim_p99_ms": AIM_MS},
        "reads_before": {"seconds": WARM, **milliseconds([took for _, took in first])},
        "events": {**events, "kilobytes_a_second": round(sent / 1000)},
        "server": {"cpu_share_of_a_core": round(share, 2), "memory_mb": round(memory)},
        "kill": {
            "seconds_until_all_clients_were_back": round(back, 1),
            "jobs": len(before),
            "queue_as_before": before == after,
        },
    }


def _asked(pipe: Connection, what: str) -> int:
    pipe.send(what)
    return int(pipe.recv())


def read_by_others(port: int, tokens: Sequence[str], job: str, seconds: float) -> tuple[list[Read], list[Read]]:
    """Return the kinds of the reads and how long they took (seconds): those in the first seconds, and those after."""
    ours, theirs = multiprocessing.Pipe()
    reading = multiprocessing.Process(target=read, args=(port, tokens, job, seconds, theirs))
    reading.start()
    # Closed here, so that its death is seen.
    theirs.close()
    try:
        found: tuple[list[Read], list[Read]] = ours.recv()
    except EOFError:
        sys.exit("The readers ended without a result.")
    reading.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"measure so long, instead of {SECONDS:.0f}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="serve-") as made:
        folder = Path(made)
        try:
            found = measure(folder, options.seconds)
        finally:
            for child in multiprocessing.active_children():
                child.kill()
            end_ray(folder)
    content = {
        "what": __doc__.splitlines()[0],
        "clients": CLIENTS,
        "readers": READERS,
        "queued": QUEUED,
        "sweeps_watched": JOURNALS + 2,
        "seconds": options.seconds,
        # Of the whole machine, ours included: 2 cores that others use too say little of a 99th percentile.
        "load_average": os.getloadavg()[0],
        **found,
        "machine": machine.describe("fastapi", "uvicorn", "optuna", "ray"),
    }
    print(json.dumps(content, indent=2))
    if options.seconds == SECONDS:
        print(f"Written to {machine.write('serve', content).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
