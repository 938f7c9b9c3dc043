"""The stack of docker/compose.yaml, as processes: a sweep through the service, on PostgreSQL, MLflow, S3 and Ray."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import boto3
import httpx
import mlflow
import psycopg
import pytest
from botocore.exceptions import ClientError

from tests.chaos.processes import descendants, is_alive, title
from tests.docker.stack import Stack, stack

# Its first test starts some forty processes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TRIALS, SECONDS = 6, 180.0
SWEEP = f"""
defaults: [/model: mlp, /data: digits, /sampler: random, /pruner: none, _self_]
epochs: 2
lanes: {{compile: never}}
sweep:
  trials: {TRIALS}
  space:
    optim.lr: tag(log, interval(1e-3, 1e-1))
"""


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Stack, httpx.Client]]:
    with stack() as made:
        created = made.run("swathe", "swathe", "token", "create", "admin", "--role", "admin")
        assert created.returncode == 0, created.stderr
        made.up()
        headers = {"Authorization": f"Bearer {created.stdout.strip()}"}
        with httpx.Client(base_url=f"{made.url('swathe', 8000)}/api/v1", headers=headers, timeout=60) as client:
            yield made, client


def test_a_sweep_runs_on_the_whole_stack(running: tuple[Stack, httpx.Client]) -> None:
    made, client = running
    cluster = client.get("/cluster").json()
    assert sorted(node["cpus"] for node in cluster["nodes"]) == [0, 1, 1]

    job = _done(client, client.post("/sweeps", json={"yaml": SWEEP, "overrides": ["sweep.name=stacked"]}))
    assert job["result"]["counts"] == {"complete": TRIALS}

    assert _in_postgresql(made) == {"COMPLETE": TRIALS}
    shown, kept = _artifacts(made), _in_bucket(made)
    assert shown
    assert {path.rpartition("/")[2] for path in shown} <= {key.rpartition("/")[2] for key in kept}
    assert _in_bucket(made, "wrong") == "SignatureDoesNotMatch"

    # Unlike a sweep's driver, it runs on a worker's node.
    reproduced = _done(client, client.post("/sweeps/stacked/reproduce", json={}))
    assert [trial["identical"] for trial in reproduced["result"]] == [True]


def test_no_command_and_no_environment_has_a_secret(running: tuple[Stack, httpx.Client]) -> None:
    made, _ = running
    secrets = {name: made.secret(name).encode() for name in ("postgres_password", "minio_password", "ray_token")}
    processes = _of_folder(made)
    assert len(processes) >= 7
    for pid in processes:
        said = _said(Path("/proc") / str(pid))
        assert not [name for name, secret in secrets.items() if secret in said], title(pid)


def test_it_goes_down_and_leaves_no_process(running: tuple[Stack, httpx.Client]) -> None:
    made, _ = running
    there = [started.process.pid for started in made.running if started.process.poll() is None]
    assert len(there) >= 7
    everything = [*there, *descendants(there), *_of_folder(made)]

    made.down()
    assert not [title(pid) for pid in everything if is_alive(pid)]
    assert not [title(pid) for pid in _of_folder(made)]


def _done(client: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    """Wait until the job that came of a request is done, and return it."""
    assert answer.status_code == 201, answer.text
    url = f"/jobs/{answer.json()['id']}"
    deadline = time.monotonic() + SECONDS
    while (job := client.get(url).json())["state"] not in ("done", "failed", "stopped"):
        assert time.monotonic() < deadline, f"the job is not over: {job}"
        # One request a look, as a script would, and not as many as the server can answer.
        time.sleep(0.5)
    assert job["state"] == "done", f"{job}\n{client.get(f'{url}/log').json()['text']}"
    return dict(job)


def _in_postgresql(made: Stack) -> dict[str, int]:
    """Return how many trials are in which state, as the study's database has them."""
    url = f"postgresql://swathe:{made.secret('postgres_password')}@127.0.0.1:{made.ports.of('postgres', 5432)}/optuna"
    with closing(psycopg.connect(url)) as connection:
        rows = connection.execute("SELECT state, count(*) FROM trials GROUP BY state").fetchall()
    return {str(state): int(count) for state, count in rows}


def _artifacts(made: Stack) -> list[str]:
    """Return the names of the artifacts that the MLflow server shows; each trial must have a run of its own there."""
    client = mlflow.MlflowClient(made.url("mlflow", 5000))
    (experiment,) = client.search_experiments(filter_string="name = 'stacked'")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["swathe.kind"] for run in runs) == ["sweep", *["trial"] * TRIALS]
    return [file.path for run in runs for file in client.list_artifacts(run.info.run_id) if not file.is_dir]


def _in_bucket(made: Stack, secret: str | None = None) -> list[str] | str:
    """Return the keys in the bucket, or the code of the error with which the server refuses to tell."""
    client = boto3.client(
        "s3",
        endpoint_url=made.url("minio", 9000),
        region_name="us-east-1",
        aws_access_key_id="swathe",
        aws_secret_access_key=secret or made.secret("minio_password"),
    )
    try:
        return [entry["Key"] for entry in client.list_objects_v2(Bucket="mlflow").get("Contents", [])]
    except ClientError as error:
        return str(error.response["Error"]["Code"])


def _of_folder(made: Stack) -> list[int]:
    """Return the processes that have the stack's folder in their command, environment or working folder."""
    folder, own = os.fsencode(made.folder), os.getpid()
    processes = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != own)
    return [int(entry.name) for entry in processes if folder in _said(entry) and is_alive(int(entry.name))]


def _said(process: Path) -> bytes:
    with suppress(OSError):
        said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        return said + os.fsencode(os.readlink(process / "cwd"))
    return b""
