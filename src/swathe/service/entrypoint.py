"""`python -m swathe.service.entrypoint FOLDER ATTEMPT`: what Ray runs as a job's process.

It runs the job's command in a process of its own and writes, in the job's folder, the log, the result and how it
ended: what a job gave is there whatever becomes of Ray and of the server.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from swathe.placement import with_placement
from swathe.service.job_records import Job, JobEnd, JobFolder, JobState

# How long the process of an attempt before may take to end (seconds): Ray ends it when it is lost.
_BEFORE_SECONDS = 90.0
EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
# A log ends after so many bytes.
MAX_LOG = 16 * 2**20
# Of what a command says when it fails, so much is kept as the job's detail (characters).
_DETAIL = 1000


def main(folder: JobFolder, attempt: int) -> int:
    """Run an attempt of a job and return the command's exit code."""
    job = folder.read()
    if job is None:
        raise SystemExit(f"{folder.record_file} holds no job.")
    os.chdir(job.folder)
    with folder.log_file.open("a", buffering=1) as file, _alone(folder):
        log = _Log(file)
        if folder.end_of(attempt) is not None:
            return EXIT_FAILED
        # What was asked before there was a process to be told.
        job = folder.read() or job
        stopped = job.state is JobState.STOPPING
        code, detail = (EXIT_INTERRUPTED, "") if stopped else _run(job, folder, log)
        folder.write_end(JobEnd(attempt, code, time.time(), detail or None))
    return code


@contextmanager
def _alone(folder: JobFolder) -> Iterator[None]:
    """Wait until no other attempt of the job runs; the system frees the lock when its process dies."""
    with (folder.path / "run.lock").open("a") as file:
        deadline = time.monotonic() + _BEFORE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise SystemExit("An attempt before this one still runs.") from None
                time.sleep(0.2)
        # What the command starts has it, too: it must not run beside the next attempt.
        os.set_inheritable(file.fileno(), True)
        yield


def _run(job: Job, folder: JobFolder, log: _Log) -> tuple[int, str]:
    """Run the job's command; return its exit code and, where it failed, the last that it said."""
    command = command_of(job)
    log.write(f"{_now()} swathe {' '.join(command)}\n")
    process = subprocess.Popen(
        # As for the command, the working folder is looked in for the user's modules alone.
        [sys.executable, "-P", "-m", "swathe.cli", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment_of(job, folder),
        close_fds=False,
    )
    # Ray stops every process of the job; this one is to see how the command ends.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    assert process.stdout is not None
    assert process.stderr is not None
    reader = _LastLines(process.stderr, log)
    reader.start()
    _take_output(process.stdout, folder, log, events=job.kind.runs_sweep)
    code = process.wait()
    # As a shell has it: 128 and the signal.
    code = code if code >= 0 else 128 - code
    reader.join()
    detail = "" if code == 0 else reader.last.removeprefix("swathe: ")[:_DETAIL]
    log.write(f"{_now()} ended with exit code {code}\n")
    return code, detail


def command_of(job: Job) -> list[str]:
    """Return the arguments of the job's command, with how it is to print."""
    shown = {"launch": "--events", "resume": "--events", "report": None}.get(job.arguments[0], "--json")
    return [job.arguments[0], *([] if shown is None else [shown]), *job.arguments[1:]]


def environment_of(job: Job, folder: JobFolder) -> dict[str, str]:
    """Return the environment of the command: the job's home, and the Ray and the workers that it was given."""
    environment = {**os.environ, "SWATHE_HOME": str(folder.path.parent.parent)}
    # The command is for this folder, and not for the server once more.
    environment.pop("SWATHE_SERVER", None)
    if not job.kind.runs_sweep or job.inline:
        return environment
    placed = [f"cluster.workers={job.given}"]
    if address := os.environ.get("RAY_ADDRESS"):
        placed.append(f"cluster.address='{address}'")
    return with_placement(environment, placed)


# What the command prints.


def _take_output(stdout: IO[str], folder: JobFolder, log: _Log, *, events: bool) -> None:
    """Log the events of a sweep and keep its last one as the result; of other commands, keep what they print."""
    if not events:
        _keep(folder, _printed(stdout.read()))
        return
    for line in stdout:
        try:
            event = json.loads(line)
        except ValueError:
            log.write(line)
            continue
        if event.pop("event", None) == "end":
            _keep(folder, event)
        log.write(f"{_now()} {said(event)}\n")


def _printed(text: str) -> Any:
    """Return what a command printed: JSON, or the path of a report."""
    try:
        return json.loads(text)
    except ValueError:
        return {"path": text.strip().splitlines()[-1]} if text.strip() else None


def _keep(folder: JobFolder, result: Any) -> None:
    if result is not None:
        folder.result_file.write_text(without_folder(json.dumps(result)))
        folder.result_file.chmod(0o600)


def said(event: Mapping[str, Any]) -> str:
    """Return an event of a sweep as a line for people."""
    if "text" in event:
        return str(event["text"])
    if "reason" in event:
        return f"The sweep ended: {event['reason']}."
    counts = event.get("counts", {})
    words = [f"{sum(counts.values())}/{event.get('trials')} trials"]
    words += [f"{count} {state}" for state, count in counts.items() if count]
    words.append(f"{event.get('running')} running on {event.get('workers')} workers")
    best = event.get("best")
    if best is not None:
        number, *_ = best.values()
        metric, value = list(best.items())[1]
        words.append(f"best {metric} {value} (trial {number})")
    return ", ".join(words)


def without_folder(text: str) -> str:
    """Return a text without the path of the working folder: where that is on the disk is nobody's business."""
    return text.replace(f"{os.getcwd()}{os.sep}", "")


class _Log:
    """The job's log, which takes no more after `MAX_LOG` bytes."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._full = False

    def write(self, line: str) -> None:
        if self._full:
            return
        self._file.write(without_folder(line))
        if self._file.tell() >= MAX_LOG:
            self._full = True
            self._file.write(f"{_now()} the log is full; what comes after this is not kept\n")


class _LastLines:
    """Copies a command's stderr into the log, and remembers its last line."""

    def __init__(self, stderr: IO[str], log: _Log) -> None:
        self.last = ""
        self._stderr = stderr
        self._log = log
        self._thread = threading.Thread(target=self._copy, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(10.0)

    def _copy(self) -> None:
        for line in self._stderr:
            self._log.write(line)
            if line.strip():
                self.last = without_folder(line.strip())


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


if __name__ == "__main__":
    sys.exit(main(JobFolder(Path(sys.argv[1])), int(sys.argv[2])))
