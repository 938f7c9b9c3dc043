"""Whether the memory of a sweep grows with its trials: 10,000 small ones, driver, workers and recorder watched.

    python benchmarks/memory.py
    python benchmarks/memory.py --trials 40    # a quick look, which writes no results

The sweep is benchmarks/memory.yaml, run as a command: digits, 64-8-10, one epoch a trial, everything in MLflow, with
some trials more so that nothing has ended at the last look. The resident memory of its processes is read from /proc
(Linux) each time another tenth of the trials is over, which the sweep's own log says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks import machine  # noqa: E402 - the script runs from anywhere
from benchmarks.overhead import QUIET  # noqa: E402

TRIALS = 10_000
SAMPLES = 10
# The sweep has so many trials more, so that all its processes are still there at the last sample.
FURTHER = 200
# How often the log is looked at (seconds): 10,000 trials take minutes.
POLL_SECONDS = 0.1
# What the kind of a process is told by: a word in its command line, as Ray titles its actors.
KINDS = {"worker": "ray::_Host", "recorder": "swathe.recorder"}


class Log:
    """Counts the trials that are over, from the lines that a sweep's log gets: `DATE TIME trial N STATE`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0
        self._rest = b""
        self.over = 0

    def read(self) -> int:
        """Read what is new, and return the number of trials that are over."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._place)
                new = file.read()
            self._place += len(new)
            *lines, self._rest = (self._rest + new).split(b"\n")
            self.over += sum(line.split(b" ", 3)[2:3] == [b"trial"] for line in lines)
        return self.over


def processes(root: int) -> Iterator[int]:
    """Yield a process and everything that it started, and that these started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                # After the command in parentheses, which may hold anything: the state, then the parent.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    waiting = [root]
    while waiting:
        process = waiting.pop()
        yield process
        waiting += children.get(process, [])


def resident(process: int) -> float:
    """Return the resident memory of a process in MiB, pages that it shares included."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def sample(driver: int) -> dict[str, float]:
    """Return the resident memory of the sweep's processes by name, MiB; workers are numbered as they started."""
    found: dict[str, float] = {"driver": resident(driver)}
    for process in sorted(set(processes(driver)) - {driver}):
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if KINDS["recorder"] in command:
                found["recorder"] = resident(process)
            elif KINDS["worker"] in command:
                found[f"worker {len([name for name in found if name.startswith('worker')])}"] = resident(process)
        except OSError:
            continue  # It has just ended.
    return found


def watch(trials: int, home: Path) -> tuple[list[dict[str, Any]], float]:
    """Run the sweep; returns a sample for each tenth of its trials, and its seconds."""
    sweep = ROOT / "benchmarks" / "memory.yaml"
    command = [sys.executable, "-m", "swathe.cli", "launch", str(sweep), "--quiet"]
    command += [f"sweep.trials={trials + FURTHER}", "sweep.name=memory", "device=cpu"]
    environment = os.environ | QUIET | {"SWATHE_HOME": str(home), "PYTHONPATH": str(ROOT / "src")}
    log = Log(home / "sweeps" / "memory" / "sweep.log")
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    with (home / "output.txt").open("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if len(rows) < SAMPLES and log.read() >= trials * (len(rows) + 1) // SAMPLES:
                rows.append(
                    {"trials": log.over, "seconds": round(time.perf_counter() - start, 1), "mib": sample(process.pid)}
                )
            else:
                time.sleep(POLL_SECONDS)
        seconds = round(time.perf_counter() - start, 1)
        if process.returncode:
            output.seek(0)
            sys.exit(f"Swathe ended with {process.returncode}:\n{output.read()[-4000:]}")
    if log.read() != trials + FURTHER:
        sys.exit(f"{log.over} of {trials + FURTHER} trials are over.")
    return rows, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        rows, seconds = watch(options.trials, Path(name))
    first, last = rows[0], rows[-1]
    for process, memory in first["mib"].items():
        then = last["mib"].get(process, float("nan"))
        print(
            f"{process}: {memory:.0f} MiB at trial {first['trials']:,}, {then:.0f} MiB at trial {last['trials']:,} "
            f"({then - memory:+.0f})"
        )
    content = {
        "what": __doc__.splitlines()[0],
        "trials": options.trials,
        "seconds": seconds,
        "rows": rows,
        "machine": machine.describe("ray", "optuna", "mlflow", "torch"),
    }
    if options.trials == TRIALS:
        print(f"Written to {machine.write('memory', content).relative_to(ROOT)}")
    else:
        print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
