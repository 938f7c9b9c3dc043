"""Whole sweeps of both tools as commands, timed from the start of the process to its end, and their GPU forms."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks import machine  # noqa: E402 - the script runs from anywhere
from benchmarks.overhead import QUIET, RAY_TUNE_ENVIRONMENT, count_recorded  # noqa: E402 - the script runs from anywhere
from benchmarks.peer import BUFFER, PeerSweep  # noqa: E402

# What a home holds of its sweeps; the rest of it are caches: prepared data, compiled programs, measured plans.
SWEEPS = ("mlflow.db*", "sweeps", "artifacts")
# Trials and epochs of the launch that only fills the caches.
WARM_TRIALS, WARM_EPOCHS = 8, 1
# Actors on one GPU that are tried, as far as there are cores for them.
GPU_SHARES = (4, 8, 16)
MPS = "nvidia-cuda-mps-control"
CORES = len(os.sched_getaffinity(0))
# Runs of each tool, of which the median counts; fewer are a quick look and write no results.
REPEATS = 5


@dataclass(frozen=True, slots=True)
class Work:
    """What both tools do: the sweep's file for Swathe, the same in words for the peer."""

    sweep: Path
    data: dict[str, Any]
    hidden: list[int]
    batch: int
    epochs: int
    trials: int
    lr: tuple[float, float]

    def small(self, trials: int | None, epochs: int | None) -> Work:
        """Return the same work with other sizes."""
        return replace(self, trials=trials or self.trials, epochs=epochs or self.epochs)


def run_swathe(work: Work, home: Path, *overrides: str, device: str = "cpu") -> dict[str, Any]:
    """Launch the sweep; returns its seconds, its best value, and what is in MLflow afterwards.

    `training_seconds` is the time from the first trial's start to the last report, as MLflow has them.
    """
    words = [f"sweep.trials={work.trials}", f"epochs={work.epochs}", f"device={device}", *overrides]
    command = [sys.executable, "-m", "swathe.cli", "launch", str(work.sweep), "--json", *words]
    environment = QUIET | {"SWATHE_HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    seconds, output = timed("Swathe", command, environment)
    overview = json.loads(output)
    return {
        "seconds": seconds,
        "best_val_loss": overview["best"]["value"],
        "training_seconds": _training_seconds(home / "mlflow.db"),
        **_checked("Swathe", work, home),
    }


def run_peer(work: Work, cache: Path, *, record: bool, workers: int = CORES, gpu: float = 0.0) -> dict[str, Any]:
    """Run Ray Tune in a new process and a new folder; returns what `run_swathe` does."""
    with tempfile.TemporaryDirectory(prefix="ray-tune-") as name:
        folder = Path(name)
        sweep, outcome = folder / "sweep.json", folder / "outcome.json"
        kept = (work.hidden, work.batch, work.epochs, work.trials, work.lr)
        PeerSweep(work.data, str(cache), name, *kept, workers, record, gpu).write(sweep)
        command = [sys.executable, str(ROOT / "benchmarks" / "peer.py"), str(sweep), str(outcome)]
        seconds, _ = timed("Ray Tune", command, QUIET | RAY_TUNE_ENVIRONMENT | BUFFER)
        result: dict[str, Any] = {"seconds": seconds, **json.loads(outcome.read_text())}
        recorded = _checked("Ray Tune", work, folder) if record else {}
    if result["reports"] != work.trials * work.epochs:
        sys.exit(f"Ray Tune reported {result['reports']} times; {work.trials * work.epochs} were asked for.")
    return result | recorded


def timed(tool: str, command: list[str], environment: Mapping[str, str]) -> tuple[float, str]:
    """Run a command; returns its wall time in seconds and its standard output."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    seconds = round(time.perf_counter() - start, 3)
    if done.returncode:
        sys.exit(f"{tool} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds, done.stdout


def warm(work: Work, home: Path, device: str = "cpu") -> None:
    """Fill the caches of a home: one short sweep that waits for the compiled program, where there is a compiler."""
    forget(home)
    run_swathe(work.small(WARM_TRIALS, WARM_EPOCHS), home, "sweep.name=warm", "lanes.compile=always", device=device)
    forget(home)


def forget(home: Path) -> None:
    """Remove every sweep and record of a home, and leave its caches: what follows is timed with a new database."""
    for place in [place for pattern in SWEEPS for place in home.glob(pattern)]:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()


def compare(
    work: Work,
    home: Path,
    peers: Mapping[str, Callable[[], dict[str, Any]]],
    repeats: int,
    *overrides: str,
) -> dict[str, Any]:
    """Run Swathe and each peer in turn, `repeats` times over; returns medians of each, with all their seconds.

    Swathe runs before and after each peer: a moment in which the machine is slow, which is little of a peer's minutes,
    must not be all of Swathe's seconds.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("swathe", *peers)}

    def ours() -> None:
        forget(home)
        runs["swathe"].append(run_swathe(work, home, *overrides))

    for _ in range(repeats):
        ours()
        for name, run in peers.items():
            runs[name].append(run())
            ours()
    return {name: summary(rows) for name, rows in runs.items()}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the run with the median of seconds, the median of the training's seconds, and all seconds."""
    ordered = sorted(rows, key=lambda row: float(row["seconds"]))
    return {
        **ordered[len(ordered) // 2],
        "seconds": round(median(row["seconds"] for row in rows), 3),
        "training_seconds": round(median(row["training_seconds"] for row in rows), 3),
        "all_seconds": [row["seconds"] for row in rows],
        "all_training_seconds": [round(row["training_seconds"], 3) for row in rows],
        "best_val_loss": min(row["best_val_loss"] for row in rows),
    }


def compare_on_gpu(work: Work, home: Path) -> dict[str, Any] | None:
    """Compare on a GPU, everything recorded; None, and a line that says so, where there is none.

    The peer runs as one process that has the GPU, as several that share it, and as several under NVIDIA's MPS.
    """
    import torch

    if not torch.cuda.is_available():
        print("No GPU here: a process a trial, shares of a GPU and MPS are left out.", flush=True)
        return None
    home.mkdir(exist_ok=True)
    warm(work, home, "cuda")
    ours = run_swathe(work, home, "sweep.name=gpu", device="cuda")
    forms = {"one process": run_peer(work, home / "data", record=True, workers=1, gpu=1.0)}
    shares = [share for share in GPU_SHARES if share <= CORES]
    for share in shares:
        forms[f"{share} processes"] = run_peer(work, home / "data", record=True, workers=share, gpu=1 / share)
    with mps() as reason:
        if reason:
            print(f"MPS is left out: {reason}.", flush=True)
        for share in () if reason else shares:
            forms[f"{share} processes, MPS"] = run_peer(work, home / "data", record=True, workers=share, gpu=1 / share)
    name = torch.cuda.get_device_name()
    rows = []
    for form, row in forms.items():
        ratio = round(row["seconds"] / ours["seconds"], 2)
        rows.append({"form": form, **row, "ratio": ratio})
        print(f"On {name}: Ray Tune, {form}, {row['seconds']:.1f} s; Swathe {ours['seconds']:.1f} s: {ratio:.1f}x")
    return {"device": name, "swathe": ours, "ray_tune": rows}


@contextmanager
def mps() -> Iterator[str]:
    """Run NVIDIA's MPS daemon; yields why there is none, or ""."""
    if shutil.which(MPS) is None:
        yield f"there is no {MPS} on this machine"
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as name:
        places = {"CUDA_MPS_PIPE_DIRECTORY": f"{name}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{name}/log"}
        for place in places.values():
            Path(place).mkdir()
        os.environ.update(places)
        try:
            started = subprocess.run([MPS, "-d"], capture_output=True, text=True, check=False)
            yield "" if started.returncode == 0 else f"{MPS} ended with {started.returncode}: {started.stderr.strip()}"
        finally:
            with suppress(subprocess.TimeoutExpired):
                subprocess.run([MPS], input="quit\n", capture_output=True, text=True, check=False, timeout=30)
            for variable in places:
                del os.environ[variable]


def _checked(tool: str, work: Work, folder: Path) -> dict[str, int]:
    """Return the trials and reports in MLflow; ends the script unless every trial is there."""
    recorded = count_recorded(folder / "mlflow.db")
    if recorded["trials"] != work.trials:
        sys.exit(f"{tool}: {recorded['trials']} of {work.trials} trials are ended in MLflow.")
    return recorded


def first_report(database: Path) -> float:
    """Return when the first report of a sweep in MLflow was made (unix time, seconds)."""
    with sqlite3.connect(database) as connection:
        query = "SELECT MIN(timestamp) FROM metrics WHERE key = 'val_loss'"
        return float(connection.execute(query).fetchone()[0]) / 1000


def _training_seconds(database: Path) -> float:
    began = """
        SELECT MIN(start_time) FROM runs
        WHERE run_uuid NOT IN (SELECT run_uuid FROM tags WHERE key = 'swathe.kind' AND value = 'sweep')
    """
    reported = "SELECT MAX(timestamp) FROM metrics WHERE key = 'val_loss'"
    with sqlite3.connect(database) as connection:
        # Both are unix times in milliseconds.
        milliseconds = connection.execute(reported).fetchone()[0] - connection.execute(began).fetchone()[0]
    return float(milliseconds) / 1000


def main(
    name: str, doc: str, work: Work, measure: Callable[[argparse.Namespace, Work, Path], dict[str, Any]], trials: str
) -> None:
    """Run a benchmark's command line: `measure` its work in a folder and, at its full size, write its results.

    `trials` says in its help what `--trials` takes the place of.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, help=f"instead of {trials}")
    parser.add_argument("--epochs", type=int, help=f"instead of {work.epochs}")
    parser.add_argument(
        "--repeat", type=int, default=REPEATS, metavar="N", help=f"take medians of N runs, not {REPEATS}"
    )
    options = parser.parse_args()
    asked = work.small(options.trials, options.epochs)
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as made:
        folder = Path(made)
        content: dict[str, Any] = {
            "what": doc.splitlines()[0],
            **measure(options, asked, folder),
            "gpu": compare_on_gpu(asked, folder / "gpu"),
            "machine": machine.describe("ray", "optuna", "mlflow", "torch"),
        }
    machine.keep(name, content, whole=asked == work and options.repeat >= REPEATS)
