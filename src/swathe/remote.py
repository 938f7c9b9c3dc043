"""What the commands read and ask for where a server has the sweeps: the same data as from the working folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from swathe.client import NotFoundError, Server
from swathe.errors import bad_value
from swathe.overview import Best, Overview, Repeats, Row
from swathe.versus import Versus, check

# As many as a page may have.
PAGE = 200
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def sweep_path(name: str, *rest: object) -> str:
    """Return the path of something of a sweep."""
    return "/".join(["/sweeps", *(quote(str(part), safe="") for part in (name, *rest))])


def overviews(server: Server) -> list[Overview]:
    """Read how each sweep stands."""
    return [Overview.from_dict(one) for one in pages(server, "/sweeps", "sweeps")]


def pages(server: Server, path: str, key: str, **query: Any) -> list[Any]:
    """Read a list to its last page."""
    found: list[Any] = []
    cursor = None
    while True:
        page = server.get(path, limit=PAGE, cursor=cursor, **query)
        found += page[key]
        cursor = page["next"]
        if cursor is None:
            return found


def overview(server: Server, name: str) -> Overview:
    """Read how a sweep stands; raises `NotFoundError`."""
    return Overview.from_dict(server.get(sweep_path(name)))


def compare(server: Server, name: str, *, top: int, sort: str | None) -> tuple[str, list[str], list[Row]]:
    """Read the metric by which a sweep's trials are sorted, its objectives where there are several, and the best."""
    if top > PAGE:
        raise bad_value("--top", top, f"1 to {PAGE} with a server")
    found = server.get(sweep_path(name, "compare"), top=top, sort=sort)
    metrics = found.get("metrics", [])
    return found["metric"], metrics if len(metrics) > 1 else [], [Row.from_dict(one) for one in found["trials"]]


def versus(server: Server, names: Sequence[str]) -> Versus:
    """Read several sweeps side by side."""
    check(names)
    return Versus.from_dict(server.get("/compare", sweep=list(names)))


def trials(server: Server, name: str) -> list[dict[str, Any]]:
    """Read a row for each trial, as `swathe.exporting.table` takes it; of the metrics, the sweep's own."""
    from swathe.exporting import row

    found = overview(server, name)
    return [
        row(
            {
                "trial": one["number"],
                "diagnosis": ",".join(one["diagnosis"]) or None,
                **{key: one[key] for key in ("state", "value", "ended", "worker", "reason")},
                **_goal_columns(found, one),
            },
            one["params"],
            {} if one["last"] is None else {found.metric: one["last"]["value"]},
        )
        for one in pages(server, sweep_path(name, "trials"), "trials")
    ]


def _goal_columns(found: Overview, trial: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `swathe.exporting.goal_columns` does of a trial."""
    columns: dict[str, Any] = {}
    if found.several:
        values = trial["values"] or [None] * len(found.metrics)
        columns = {f"objectives.{name}": value for name, value in zip(found.metrics, values, strict=True)}
        columns["on_front"] = trial["number"] in {one.trial for one in found.front}
    if found.constraints:
        columns["feasible"] = trial["feasible"] if trial["state"] == "complete" else None
    return columns


def findings(server: Server, target: str, trial: int | None) -> Mapping[str, Any]:
    """Read what is wrong in a sweep, a trial of it or a run."""
    if trial is not None:
        return dict(server.get(sweep_path(target, "trials", trial, "diagnosis")))
    try:
        return dict(server.get(sweep_path(target, "diagnosis")))
    except NotFoundError:
        if _RUN_ID.fullmatch(target) is None:
            raise
    return dict(server.get(f"/runs/{target}/diagnosis"))


def best(server: Server, name: str, trial: int | None = None) -> Best:
    """Read the config of the best trial, or of the one named; raises `BadInputError` where there is none."""
    found = server.get(sweep_path(name, "best"), trial=trial)
    keys = ("sweep", "trial", "metric", "value", "run_id", "config", "geometry")
    values = found.get("values", {})
    others = {metric: value for metric, value in values.items() if metric != found["metric"]}
    facts = {"repeats": Repeats.from_dict(found.get("repeats")), "lineage": found.get("lineage", [])}
    return Best(**{key: found[key] for key in keys}, others=others, **facts)


def stop(server: Server, name: str) -> str:
    """Ask a sweep to stop, or take it out of the queue; return what was done."""
    return str(server.send("POST", sweep_path(name, "stop"))["detail"])


def validate(server: Server, sweep: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    """Let the server check a sweep; return its name, trials, config and space."""
    return dict(server.send("POST", "/validate", sweep_body(sweep, overrides)))


def sweep_body(sweep: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return a sweep as the server takes it: the name of one that it has, or a file's YAML.

    A file that names no sweep gives the sweep its own name, as on this machine. Raises `BadInputError`.
    """
    if not (sweep.endswith((".yaml", ".yml")) or "/" in sweep):
        return {"sweep": sweep, "overrides": list(overrides)}
    path = Path(sweep)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise bad_value("SWEEP", sweep, "the path of an existing YAML file") from error
    named = any(word.startswith("sweep.name=") for word in overrides) or _names_itself(text)
    return {"yaml": text, "overrides": [*overrides, *([] if named else [f"sweep.name={path.stem}"])]}


def _names_itself(text: str) -> bool:
    try:
        body = yaml.safe_load(text)
    except yaml.YAMLError:
        # The server says what is wrong with it.
        return True
    section = body.get("sweep") if isinstance(body, dict) else None
    return isinstance(section, dict) and bool(section.get("name"))


def cluster_facts(server: Server) -> dict[str, str]:
    """Read what the server has: its version, the devices of its cluster and who uses them, in words."""
    found = server.get("/cluster")
    facts = {"server": server.url, "swathe": str(server.get("/health")["version"])}
    for number, node in enumerate(found["nodes"]):
        state = "" if node["alive"] else ", not alive"
        facts[f"node {number}"] = (
            f"{node['cpus_used']:g} of {node['cpus']:g} CPUs and {node['gpus_used']:g} of {node['gpus']:g} GPUs in use"
            f"{state}"
        )
    facts["running"] = ", ".join(map(_job_text, found["running"])) or "nothing"
    facts["queued"] = ", ".join(map(_job_text, found["queued"])) or "nothing"
    for user in found["users"]:
        facts[f"user {user['name']}"] = f"{user['devices']:g} devices, {user['device_seconds']:.0f} device-seconds"
    return facts


def _job_text(job: Mapping[str, Any]) -> str:
    return f"{job['kind']} {job['sweep']}" if job["sweep"] else str(job["kind"])


def reader(server: Server, name: str) -> Callable[[], Overview]:
    """Return what reads a sweep again and again, also while its server is away for a moment."""
    return lambda: Overview.from_dict(server.patient(sweep_path(name)))
