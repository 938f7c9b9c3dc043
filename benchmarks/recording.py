"""How much of a sweep's wall time its driver spends on the record: what it tells Optuna's storage and MLflow.

    python benchmarks/recording.py               # medians of five, in turns; some 6 minutes
    python benchmarks/recording.py --repeat 1    # a quick look, which writes no results

The commands of benchmarks/digits.py and fashion_mnist.py run with a clock around each call of `Study` that writes and
each call of `Recorder`, the wait for MLflow at the end included; what happens meanwhile in the recorder's own process
is not in the driver's way, and its CPU time is in the file. Ray Tune's share is what its callback adds to the time from
its first trial to its last report, with 12 of the 200 trials (its cost a trial does not depend on their number).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import commands, digits, fashion_mnist, machine  # noqa: E402 - the script runs from anywhere
from benchmarks.overhead import QUIET  # noqa: E402
from benchmarks.spread import figure, said  # noqa: E402

WORKS = {"digits": digits.WORK, "fashion_mnist": fashion_mnist.WORK}
PEER_TRIALS = 12
STUDY = ("ask", "record", "tell", "note", "say", "foretell", "commit")
RECORDER = ("trial", "metrics", "sweep", "text", "end", "stage", "flush", "problem", "finish", "close")


class Stopwatch:
    """Adds up the wall time of calls; one that is made inside of another counts once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside = False

    def around(self, kind: type, names: tuple[str, ...]) -> None:
        for name in names:
            setattr(kind, name, self._timed(f"{kind.__name__}.{name}", getattr(kind, name)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def timed(*args: Any, **options: Any) -> Any:
            if self._inside:
                return call(*args, **options)
            self._inside = True
            began = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                self._inside = False
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

        return timed


def drive(outcome: Path, words: list[str]) -> None:
    """Run a command of Swathe in this process with the clocks on."""
    from swathe import cli
    from swathe.study import Study
    from swathe.tracking import Recorder

    watch = Stopwatch()
    watch.around(Study, STUDY)
    watch.around(Recorder, RECORDER)
    children = {"before": 0.0, "after": 0.0}
    close = Recorder.close

    def closing(recorder: Recorder, timeout: float) -> bool:
        # The recorder is the child that is waited for in here.
        children["before"] = _children()
        try:
            return close(recorder, timeout)
        finally:
            children["after"] = _children()

    Recorder.close = closing  # type: ignore[method-assign]
    code = cli.run(words)
    cpu = children["after"] - children["before"]
    outcome.write_text(json.dumps({"calls": watch.seconds, "recorder_cpu_seconds": cpu}))
    sys.exit(code)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def swathe(work: commands.Work, home: Path) -> dict[str, Any]:
    """Return the command's seconds, those of the record by call, and its share in percent."""
    commands.forget(home)
    outcome = home / "recording.json"
    words = ["launch", str(work.sweep), "--quiet", "sweep.name=recording", "device=cpu"]
    environment = QUIET | {"SWATHE_HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    seconds, _ = commands.timed("Swathe", [sys.executable, __file__, "--drive", str(outcome), *words], environment)
    found: dict[str, Any] = json.loads(outcome.read_text())
    spent = sum(found["calls"].values())
    at_end = found["calls"].get("Recorder.close", 0.0)
    calls = {name: round(value, 4) for name, value in found["calls"].items()}
    return {
        **found,
        "calls": calls,
        "seconds": seconds,
        "percent": 100 * spent / seconds,
        "end_percent": 100 * at_end / seconds,
    }


def ray_tune(home: Path) -> dict[str, float]:
    """Return the training's seconds with the callback and without, and what it adds in percent of the former."""
    work = digits.WORK.small(PEER_TRIALS, None)
    seconds = [commands.run_peer(work, home / "data", record=record)["training_seconds"] for record in (True, False)]
    return {"with": seconds[0], "without": seconds[1], "percent": 100 * (1 - seconds[1] / seconds[0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=commands.REPEATS, metavar="N")
    parser.add_argument("--drive", nargs=argparse.REMAINDER, metavar="...", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(Path(options.drive[0]), options.drive[1:])
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*WORKS, "ray_tune")}
    with tempfile.TemporaryDirectory(prefix="recording-") as name:
        homes = {work: Path(name) / work for work in WORKS}
        for work, home in homes.items():
            commands.warm(WORKS[work], home)
        for _ in range(options.repeat):
            for work, home in homes.items():
                runs[work].append(swathe(WORKS[work], home))
            runs["ray_tune"].append(ray_tune(homes["digits"]))
    peer = [run["percent"] for run in runs["ray_tune"]]
    figures = {}
    for work in WORKS:
        shares = [run["percent"] for run in runs[work]]
        theirs = peer if work == "digits" else []
        note = f"{median(run['end_percent'] for run in runs[work]):.1f} % are the wait for MLflow at the end"
        figures[f"recording-{work}"] = figure("% of the wall time", shares, theirs, "Ray Tune's MLflow callback", note)
        print(f"{work}: the record takes {said(shares, '%')} of the command's time; {note}")
    print(f"digits: Ray Tune's callback takes {said(peer, '%')} of its training's time")
    content = {
        "what": __doc__.splitlines()[0],
        "figures": figures,
        "runs": runs,
        "machine": machine.describe("ray", "optuna", "mlflow", "torch"),
    }
    machine.keep("recording", content, whole=options.repeat >= commands.REPEATS)


if __name__ == "__main__":
    main()
