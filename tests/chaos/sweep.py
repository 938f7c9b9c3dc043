"""The two sorts of sweeps that chaos plays, and the driver of one: launched, killed and resumed as users do it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psycopg

from tests.chaos.processes import descendants, title, wait_until
from tests.chaos.servers import STUDIES, Surroundings
from tests.integration import swathes

Sort = Literal["lanes", "function"]
TRIALS = 16
# A session that nothing disturbs takes some fifteen seconds; one that takes so long hangs.
SESSION_SECONDS = 240.0

# No pruner that compares trials: which ones it stops depends on who reports first, and so on every kill. The threshold
# stops a trial by its own numbers alone. Eager lanes: compiled ones come when they are ready, with other bits.
LANES = """
defaults: [/model: mlp, /data: digits, /optim: adamw, /sampler: random, /pruner: threshold, _self_]
model: {hidden: [32]}
epochs: 8
batch_size: 16
lanes: {slots: 4, compile: never}
checkpoints: {seconds: 0.5}
pruner: {upper: 1.5, n_warmup_steps: 3}
sweep:
  trials: 16
  retries: 100
  space:
    optim: choice(sgd, momentum, adamw)
    optim.lr: tag(log, interval(1e-4, 0.1))
    regularization.dropout: interval(0.1, 0.5)
"""
FUNCTION = """
defaults: [/sampler: random, /pruner: threshold, _self_]
trainable: tests.chaos.trials:walk
params: {x: 0.5}
checkpoints: {seconds: 0.2}
pruner: {upper: 0.14, n_warmup_steps: 3}
sweep:
  trials: 16
  retries: 100
  space: {params.x: "interval(0.0, 1.0)"}
"""
TEXTS: dict[Sort, str] = {"lanes": LANES, "function": FUNCTION}


class Violation(Exception):  # noqa: N818 - it is no error of the program, but what it looks for
    """A promise of Swathe's that was broken."""


@dataclass(slots=True)
class Sweep:
    """One sweep in a home of its own on the disk that can be full; its output goes elsewhere."""

    sort: Sort
    name: str
    around: Surroundings
    folder: Path
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)
    # Where the output of the running session begins, and how sessions ended.
    _said: int = 0
    sessions: int = 0

    @classmethod
    def made(cls, sort: Sort, name: str, around: Surroundings) -> Sweep:
        folder = around.folder / name
        folder.mkdir()
        (folder / "sweep.yaml").write_text(TEXTS[sort])
        return cls(sort, name, around, folder)

    # The driver.

    def launch(self) -> None:
        around = self.around
        self._start(
            "launch",
            "sweep.yaml",
            f"sweep.name={self.name}",
            f"sweep.storage={around.storage}",
            f"tracking.uri={around.tracking_uri}",
            f"cluster.address={around.cluster.address}",
            "cluster.workers=2",
        )

    def resume(self) -> None:
        """Go on; Ray's address is said again, as the cluster may be another by now."""
        if not (self.sweep_folder / "sweep.json").exists():
            # It was killed, or refused, before there was anything to go on with.
            self.launch()
        else:
            self._start("resume", self.name, f"cluster.address={self.around.cluster.address}")

    def _start(self, *words: str) -> None:
        self.sessions += 1
        output = self.folder / "output.txt"
        self._said = output.stat().st_size if output.exists() else 0
        environment = swathes.environment() | {"SWATHE_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        with output.open("a") as file:
            self._process = subprocess.Popen(
                swathes.command(*words),
                cwd=self.folder,
                env=environment,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                text=True,
            )

    @property
    def driver(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """How the driver ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    def kill_driver(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop_driver(self) -> None:
        """End whatever still runs, at the end of a test."""
        if self._process is not None and self.code is None:
            self.kill_driver()
        for pid in self.recorders():
            os.kill(pid, signal.SIGKILL)

    def wait_for_end(self) -> None:
        wait_until(lambda: self.code is not None, f"the end of the driver of {self.name}", SESSION_SECONDS)

    def said(self) -> str:
        """Return what the latest session printed."""
        return (self.folder / "output.txt").read_bytes()[self._said :].decode(errors="replace")

    def check_last_words(self) -> None:
        """A driver that gave up must have said why in one sentence; raises `Violation`."""
        said = self.said()
        lines = [line for line in said.splitlines() if line.startswith("swathe: ")]
        if "Traceback" in said or len(lines) != 1 or self.code not in (1, 2):
            raise Violation(f"the driver ended with {self.code} and said: ...{said[-3000:]}")

    # What it has done by now.

    @property
    def home(self) -> Path:
        return self.around.disk.folder / self.name

    @property
    def sweep_folder(self) -> Path:
        return self.home / "sweeps" / self.name

    @property
    def log(self) -> str:
        try:
            return (self.sweep_folder / "sweep.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def is_recorded(self) -> bool:
        """Whether the spool has nothing left for MLflow."""
        return not list((self.sweep_folder / "record").glob("spool-*.jsonl"))

    def is_troubled(self) -> bool:
        """Whether the recorder's last word was that MLflow is away."""
        try:
            said = (self.sweep_folder / "recorder.log").read_text(errors="replace")
        except FileNotFoundError:
            return False
        return said.rfind("does not take the record") > said.rfind("MLflow is back")

    def recorders(self) -> list[int]:
        """Return the recorder's processes, also one whose driver is dead."""
        words = f"-m swathe.recorder {self.sweep_folder} "
        return [pid for pid in descendants([1, os.getpid()]) if words in title(pid)]

    def counter(self) -> Callable[[], int]:
        """Return what counts the reports that the study has, each (trial, step) once."""
        return ReportCounter(self.around.postgres.database(STUDIES), self.name)

    def ended_twice(self) -> list[int]:
        """Return trials of which the log says more than once that they are over."""
        ends = re.findall(r"^\S+ \S+ trial (\d+) ", self.log, re.MULTILINE)
        return sorted({int(number) for number in ends if ends.count(number) > 1})


class ReportCounter:
    """Counts a study's reports in PostgreSQL itself, past the proxy; while it is away, the last count stands."""

    def __init__(self, url: str, study: str) -> None:
        self._url = url
        self._study = study
        self._last = 0

    def __call__(self) -> int:
        try:
            with closing(psycopg.connect(self._url, connect_timeout=5)) as connection:
                (self._last,) = connection.execute(COUNT, (self._study,)).fetchone() or (0,)
        except psycopg.Error:
            # Away, or without tables yet.
            pass
        return self._last


COUNT = """
SELECT count(*) FROM trial_intermediate_values
JOIN trials USING (trial_id) JOIN studies USING (study_id) WHERE study_name = %s
"""
