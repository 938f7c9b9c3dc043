"""The commands that train, where a server has the devices: each is a job there, and its result is printed as here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swathe import tables
from swathe.client import Server
from swathe.errors import BadInputError, SwatheError
from swathe.events import Report
from swathe.output import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED, console, print_json, print_line
from swathe.overview import Overview
from swathe.remote import compare, sweep_path
from swathe.remote_watch import ASK_SECONDS, OVER, follow, log_lines
from swathe.view import EventView, open_view

# Best trials that are shown at the end of a sweep.
LEADERS = 8


@dataclass(frozen=True, slots=True)
class Shown:
    """How a sweep is shown; `detach`: not at all."""

    quiet: bool = False
    as_json: bool = False
    events: bool = False
    detach: bool = False


def run_sweep(server: Server, path: str, body: Mapping[str, Any], shown: Shown) -> int:
    """Create a job that runs a sweep, show it to its end, and return the exit code of the command."""
    job = server.create(path, body)
    if shown.detach:
        _say_where(job, shown)
        return 0
    try:
        with _view(shown) as view:
            job = follow(server, job, view)
    except KeyboardInterrupt:
        name = job["sweep"]
        print(
            f"Job {job['id']} goes on without you. See it again with: swathe status {name} --watch\n"
            f"End it with: swathe stop {name}",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    result = _result(job)
    _print_outcome(server, str(job["sweep"]), result, shown)
    if result["interrupted"]:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if result["failed"] else 0


def _say_where(job: Mapping[str, Any], shown: Shown) -> None:
    if shown.as_json:
        print_json(job)
    elif shown.events:
        print_line({"event": "job", **job}, sys.stdout)
    else:
        print(f"Sweep {job['sweep']} is job {job['id']}. See it with: swathe status {job['sweep']} --watch")


def _view(shown: Shown) -> AbstractContextManager[Any]:
    if shown.events:
        return nullcontext(EventView(lambda event: print_line(event, sys.stdout)))
    return open_view(console(), quiet=shown.quiet or shown.as_json)


def _print_outcome(server: Server, name: str, result: Mapping[str, Any], shown: Shown) -> None:
    if shown.events:
        print_line({"event": "end", **result}, sys.stdout)
        return
    if shown.as_json:
        print_json(result)
        return
    overview = Overview.from_dict(result)
    console().print(tables.ended(overview, result["reason"], result["seconds"]))
    if overview.best is not None:
        if not overview.several:
            metric, _, rows = compare(server, name, top=LEADERS, sort=None)
            console().print(tables.comparison(rows, metric, title=f"The best trials of {name}"))
        console().print(tables.best_lines(overview))
    again = f"swathe resume {name}" if result["interrupted"] else None
    console().print(tables.next_lines(name, again, best=overview.best is not None, several=overview.several))


def wait(server: Server, path: str, body: Mapping[str, Any], *, quiet: bool) -> Mapping[str, Any]:
    """Create a job and wait for its end, with what it says on stderr; return it.

    Raises `BadInputError` where the command refused something, `SwatheError` where it failed.
    """
    job = server.create(path, body)
    try:
        return _ended(server, job, lambda line: None if quiet else print(line, file=sys.stderr))
    except KeyboardInterrupt:
        print(f"Job {job['id']} goes on without you: {server.url}/api/v1/jobs/{job['id']}", file=sys.stderr)
        raise


def _ended(server: Server, job: Mapping[str, Any], say: Callable[[str], None]) -> Mapping[str, Any]:
    offset = 0
    while True:
        job = server.patient(f"/jobs/{job['id']}")
        lines, offset = log_lines(server, str(job["id"]), offset)
        for line in lines:
            say(line)
        if job["state"] in OVER and not lines:
            return job
        time.sleep(0.0 if lines else ASK_SECONDS)


def _result(job: Mapping[str, Any]) -> Any:
    """Return what a job's command printed; raises where it printed nothing, as it was refused, failed or stopped."""
    if job["result"] is not None:
        return job["result"]
    detail = job["detail"] or f"Job {job['id']} ended without a result."
    raise BadInputError(detail) if job["exit_code"] == EXIT_BAD_INPUT else SwatheError(detail)


def train(server: Server, from_file: Path | None, overrides: Sequence[str], *, as_json: bool) -> int:
    """Train one run on the server; print its reports and where it is recorded."""
    result = _result(wait(server, "/train", _run_body(from_file, overrides), quiet=as_json))
    if as_json:
        print_json(result)
        return 0
    for report in result["reports"]:
        metrics = {name: value for name, value in report.items() if name != "step" and value is not None}
        console().print(tables.report_line(Report(0, report["step"], metrics)))
    console().print(f"Recorded as run {result['run_id']} in MLflow at {server.url}/mlflow/")
    return 0


def lr_find(
    server: Server, from_file: Path | None, overrides: Sequence[str], options: Mapping[str, Any], *, as_json: bool
) -> int:
    """Find the learning rate of a run on the server; print the curve, and what can be done with the rates."""
    result = _result(wait(server, "/lr-find", {**_run_body(from_file, overrides), **options}, quiet=as_json))
    if as_json:
        print_json(result)
    else:
        from swathe import lr_plot

        test, finding = lr_plot.from_dict(result)
        console().print(f"Tried {result['note']}, in {result['seconds']:.1f} s.\n")
        print(lr_plot.chart(test, finding))
        console().print(lr_plot.table(test, finding))
        print("\n".join([f"Run in MLflow:     {result['run_id']}", *lr_plot.advice(test, finding)]))
    return EXIT_FAILED if result["lr"] is None else 0


def _run_body(from_file: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    if from_file is None:
        return {"overrides": list(overrides)}
    try:
        return {"overrides": list(overrides), "config": from_file.read_text()}
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"--from: {str(from_file)!r} cannot be read; allowed: a YAML file.") from error


def reproduce(server: Server, sweep: str, trials: Sequence[int], *, as_json: bool) -> int:
    """Train trials again on the server and print what is the same; the exit code is that of the command."""
    job = wait(server, sweep_path(sweep, "reproduce"), {"trials": list(trials)}, quiet=as_json)
    found = _result(job)
    if as_json:
        print_json(found)
    else:
        for one in found:
            console().print(tables.reproduction(tables.reproduction_from_dict(one)))
        if len(found) > 1:
            print(f"{sum(one['good'] for one in found)} of {len(found)} trials identical.")
    return int(job["exit_code"] or 0)


def report(server: Server, sweep: str, *, seeds: bool, pruned: int) -> str:
    """Let the server write a sweep's report; return the page."""
    job = wait(server, sweep_path(sweep, "report"), {"seeds": seeds, "pruned": pruned}, quiet=False)
    if job["state"] != "done":
        _result({**job, "result": None})
    return server.text(sweep_path(sweep, "report"))
