"""Jobs over HTTP without a cluster: what a creation is checked for, that it happens once, and who may do what."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from swathe.home import Home
from swathe.service import jobs as jobs_module
from swathe.service.app import create_app
from swathe.service.job_records import Job, JobEnd, JobFolder, JobKind, JobState, job_folder
from swathe.service.jobs import Jobs, NameInUseError, OtherBodyError, QueueFullError
from swathe.service.queue import Devices
from swathe.service.tokens import create_token
from tests.integration import swathes
from tests.service.client import TestClient
from tests.service.conftest import PLENTY, Service
from tests.service.test_attacks import bearer, refused

USERS = {"ada": "runner", "bob": "runner", "root": "admin", "eve": "viewer"}
YAML = swathes.FUNCTION_SWEEP.format(function="quick", trials=3, name="q", pruner="none", marker="marker")


@dataclass(frozen=True)
class Desk:
    """A service that starts nothing, for the four users."""

    client: TestClient
    tokens: dict[str, str]
    home: Home

    def __call__(self, user: str, method: str, path: str, body: Any = None, **headers: str | bytes) -> Any:
        sent = bearer(self.tokens[user]) | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.request(method, f"/api/v1{path}", json=body, headers=sent)

    def read(self, path: str) -> Any:
        answer = self("eve", "GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", swathes.environment()["PYTHONPATH"])
    home = Home(tmp_path / ".swathe")
    tokens = {name: create_token(home, name, role) for name, role in USERS.items()}
    app = create_app(home, requests=PLENTY, allowed_modules=["tests.trials"])
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Desk(client, tokens, home)


def record(name: str = "s", **changes: Any) -> Job:
    job = Job(
        id=jobs_module.new_id(),
        kind=JobKind.LAUNCH,
        sweep=name,
        owner="ada",
        token="t",
        priority=0,
        created=1.0,
        folder="/",
        arguments=("launch", "--", name),
        workers=None,
        each=Devices(1.0, 1.0),
    )
    return replace(job, **changes)


# The records.


def test_jobs_are_found_again_by_another_process(tmp_path: Path) -> None:
    home = Home(tmp_path)
    jobs = Jobs(home)
    first = jobs.create(record(key="k", digest="d"), "epochs: 1\n")
    jobs.create(record("other", id=jobs.next_id()))
    jobs.change(first.id, (JobState.QUEUED,), state=JobState.STARTING, has=Devices(2.0), started=5.0, attempt=1)
    found = Jobs(home)
    assert found.all() == jobs.all()
    assert found.of_key("t", "k", "d") == jobs.find(first.id)
    assert found.unfinished_of("s") == found.latest_of("s") == found.first_of("s") == jobs.find(first.id)
    assert [job.sweep for job in found.waiting()] == ["other"]
    assert found.held() == {"ada": 2.0}
    folder = found.folder(first.id)
    assert folder.request_file.read_text() == "epochs: 1\n"
    for path, mode in ((folder.path, 0o700), (folder.record_file, 0o600), (folder.request_file, 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_creation_that_was_cut_short_never_was(tmp_path: Path) -> None:
    cut = job_folder(Home(tmp_path), "0" * 20)
    cut.path.mkdir(parents=True)
    cut.request_file.write_text("half a requ")
    damaged = job_folder(Home(tmp_path), "1" * 20)
    damaged.path.mkdir()
    damaged.record_file.write_text('{"id": 1}')
    assert Jobs(Home(tmp_path)).all() == []
    assert not cut.path.exists()
    # What somebody has damaged is for somebody to look at.
    assert damaged.record_file.exists()


def test_one_job_drives_a_sweep_and_states_change_only_from_where_they_are(tmp_path: Path) -> None:
    jobs = Jobs(Home(tmp_path))
    job = jobs.create(record())
    with pytest.raises(NameInUseError, match="in the queue"):
        jobs.create(record())
    assert jobs.change(job.id, (JobState.RUNNING,), state=JobState.DONE) is None
    assert jobs.change(job.id, (JobState.QUEUED,), state=JobState.DONE) is not None
    assert jobs.change("f" * 20, (JobState.QUEUED,), state=JobState.DONE) is None
    with pytest.raises(NameInUseError, match=r"sweep.name: 's' is not allowed"):
        jobs.create(record(), name_taken=lambda name: True)
    jobs.create(record(kind=JobKind.RESUME))
    # Whatever else is made of it may be made at the same time.
    jobs.create(record(kind=JobKind.REPRODUCE))


def test_a_key_is_for_one_request(tmp_path: Path) -> None:
    jobs = Jobs(Home(tmp_path))
    first = jobs.create(record(key="k", digest="a"))
    assert jobs.create(record(key="k", digest="a", sweep="another")) == first
    with pytest.raises(OtherBodyError, match="a new key"):
        jobs.create(record(key="k", digest="b"))
    assert jobs.create(record("of another user", key="k", digest="b", token="u")) != first


def test_the_queue_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "MAX_WAITING_OF_ONE", 2)
    monkeypatch.setattr(jobs_module, "MAX_WAITING", 3)
    jobs = Jobs(Home(tmp_path))
    for name in "ab":
        jobs.create(record(name))
    with pytest.raises(QueueFullError, match="2 of one user"):
        jobs.create(record("c"))
    jobs.create(record("c", owner="bob"))
    with pytest.raises(QueueFullError):
        jobs.create(record("d", owner="eve"))


def test_ids_sort_by_time(tmp_path: Path) -> None:
    jobs = Jobs(Home(tmp_path))
    ids = [jobs.next_id() for _ in range(100)]
    assert ids == sorted(set(ids))


def test_a_log_is_read_in_parts_that_halve_no_character(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    assert folder.log(0, 10) == ("", 0)
    text = "aé€😀\n" * 3
    folder.log_file.write_text(text)
    read, offset = "", 0
    while True:
        part, following = folder.log(offset, 5)
        if not part:
            break
        read, offset = read + part, following
    assert read == text
    assert offset == len(text.encode())
    # A character whose rest is still to come waits for it.
    folder.log_file.write_bytes("x€".encode()[:-1])
    assert folder.log(0, 10) == ("x", 1)
    folder.log_file.write_bytes(b"\xff\xfe")
    assert folder.log(0, 10) == ("��", 2)


def test_an_end_is_of_its_attempt(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    assert folder.end_of(1) is None
    folder.write_end(JobEnd(1, 0, 2.0, None))
    assert folder.end_of(1) == JobEnd(1, 0, 2.0, None)
    assert folder.end_of(2) is None
    folder.end_file.write_text("{}")
    assert folder.end_of(1) is None


# Over HTTP.


def test_a_launch_is_kept_once_however_often_it_comes(desk: Desk) -> None:
    body = {"yaml": YAML, "overrides": ["sweep.trials=4"], "priority": -3}
    made = desk("ada", "POST", "/sweeps", body, Idempotency_Key="k 1")
    assert made.status_code == 201, made.text
    job = made.json()
    assert made.headers["location"] == f"/api/v1/jobs/{job['id']}"
    expected = {"kind": "launch", "sweep": "q", "owner": "ada", "priority": -3, "state": "queued", "position": 1}
    assert {key: job[key] for key in expected} == expected
    assert job["detail"] == "It waits for free devices."
    again = desk("ada", "POST", "/sweeps", body, Idempotency_Key="k 1")
    assert (again.status_code, again.json()) == (200, job)
    refused(desk("ada", "POST", "/sweeps", {**body, "priority": 0}, Idempotency_Key="k 1"), 409, "Idempotency-Key")
    for key in ("", "x" * 201, "é".encode()):
        refused(desk("ada", "POST", "/sweeps", body, Idempotency_Key=key), 422, "Idempotency-Key")

    # It is a sweep already, which waits.
    listed = desk.read("/sweeps")
    assert (listed["total"], listed["sweeps"][0]["job"], listed["sweeps"][0]["owner"]) == (1, job, "ada")
    found = desk.read("/sweeps/q")
    assert [found[key] for key in ("status", "trials", "alive", "counts")] == ["queued", 4, False, {}]
    assert desk.read("/cluster") == {
        "nodes": [],
        "running": [],
        "queued": [job],
        "users": [{"name": "ada", "devices": 0.0, "device_seconds": 0.0}],
    }
    kept = json.loads((desk.home.path / "jobs" / job["id"] / "job.json").read_text())
    assert kept["arguments"] == ["launch", "--", f".swathe/jobs/{job['id']}/sweep.yaml", "sweep.trials=4"]
    assert desk.tokens["ada"] not in json.dumps(kept)

    refused(desk("ada", "POST", "/sweeps/q/resume"), 409, "in the queue")
    # Taken out of the queue, it leaves its name.
    assert "out of the queue" in desk("bob", "POST", "/sweeps/q/stop").json()["detail"]
    stopped = desk.read(f"/jobs/{job['id']}")
    assert (stopped["state"], stopped["position"]) == ("stopped", None)
    refused(desk("bob", "POST", "/sweeps/q/stop"), 404)
    refused(desk("bob", "POST", f"/jobs/{job['id']}/stop"), 409, "nothing to stop")
    assert desk.read("/sweeps")["total"] == 0
    assert desk.read(f"/jobs/{job['id']}/log") == {"text": "", "next": 0, "complete": True}


def test_what_a_launch_would_refuse_is_refused_and_kept_nowhere(desk: Desk) -> None:
    def post(path: str, body: Any) -> Any:
        return desk("ada", "POST", path, body)

    refused(post("/sweeps", {}), 422, "either")
    refused(post("/sweeps", {"sweep": "a", "yaml": "b"}), 422, "either")
    refused(post("/sweeps", {"yaml": "x: 1", "more": 1}), 422)
    refused(post("/sweeps", {"yaml": "x" * 70_000}), 422)
    refused(post("/sweeps", {"yaml": "x: 1", "overrides": ["a=1"] * 201}), 422)
    refused(post("/sweeps", {"yaml": "x: 1", "priority": 101}), 422)
    refused(post("/sweeps", {"yaml": "x: ${oc.env:HOME}"}), 422, "interpolations")
    refused(post("/sweeps", {"sweep": "quickstart", "overrides": ["cluster.address=auto"]}), 422, "cluster.address")
    refused(post("/train", {"overrides": ["trainable=os:system"]}), 422, "tests.trials")
    refused(post("/train", {"config": "data: {path: /etc/passwd}"}), 422, "working folder")
    refused(post("/lr-find", {"rates": 1}), 422, "rates")
    for what in ("resume", "reproduce", "report"):
        refused(post(f"/sweeps/nothing/{what}", {}), 404, "'nothing'")
    assert desk.read("/jobs") == {"total": 0, "jobs": [], "next": None}


def test_priorities_above_0_are_for_admins_and_others_for_owners(desk: Desk) -> None:
    jobs: Jobs = desk.client.app._app.state.jobs  # type: ignore[attr-defined]
    token = desk.tokens["ada"].split("_")[1]
    for number, name in enumerate(("one", "two")):
        jobs.create(record(name, token=token, created=float(number), id=jobs.next_id()))
    body = {"yaml": YAML, "priority": 1}
    refused(desk("ada", "POST", "/sweeps", body), 403, "priority: 1")
    refused(desk("ada", "PUT", "/sweeps/two/priority", {"priority": 1}), 403, "admins")
    refused(desk("bob", "PUT", "/sweeps/two/priority", {"priority": -1}), 403, "ada's")
    refused(desk("eve", "PUT", "/sweeps/two/priority", {"priority": -1}), 403)
    refused(desk("ada", "PUT", "/sweeps/three/priority", {"priority": -1}), 404)
    assert desk("ada", "PUT", "/sweeps/one/priority", {"priority": -1}).json()["position"] == 2
    assert desk("root", "PUT", "/sweeps/two/priority", {"priority": 100}).json()["position"] == 1
    assert [job["sweep"] for job in desk.read("/cluster")["queued"]] == ["two", "one"]
    desk("ada", "POST", "/sweeps/one/stop")
    refused(desk("ada", "PUT", "/sweeps/one/priority", {"priority": -1}), 404)


def test_pages_of_jobs_hold_still_and_can_be_asked_for_by_what_they_are(desk: Desk) -> None:
    jobs: Jobs = desk.client.app._app.state.jobs  # type: ignore[attr-defined]
    for number in range(5):
        job = jobs.create(record(f"s{number}", id=jobs.next_id(), owner="ada" if number % 2 else "bob"))
        if number > 2:
            jobs.change(job.id, (JobState.QUEUED,), state=JobState.FAILED, detail="It broke.", ended=3.0)
    names, cursor = [], ""
    while True:
        page = desk.read(f"/jobs?limit=2{cursor}")
        names += [job["sweep"] for job in page["jobs"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert names == ["s4", "s3", "s2", "s1", "s0"]
    assert [job["sweep"] for job in desk.read("/jobs?owner=ada")["jobs"]] == ["s3", "s1"]
    assert [job["detail"] for job in desk.read("/jobs?state=failed")["jobs"]] == ["It broke."] * 2
    assert [job["sweep"] for job in desk.read("/jobs?sweep=s2&kind=launch")["jobs"]] == ["s2"]
    refused(desk("eve", "GET", "/jobs?state=lost"), 422, "state")
    for name in ("nothing", "..", "0" * 20, "%2e%2e%2f%2e%2e"):
        refused(desk("eve", "GET", f"/jobs/{name}/log"), 404)
    refused(desk("eve", "GET", f"/jobs/{job.id}/log?offset=-1"), 422)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in ("/sweeps", "/sweeps/f/resume", "/sweeps/f/reproduce", "/sweeps/f/report")),
        *(("POST", path) for path in ("/train", "/lr-find", "/jobs/00000000000000000000/stop", "/sweeps/f/stop")),
        ("PUT", "/sweeps/f/priority"),
    ],
)
def test_viewers_make_and_stop_nothing(client: TestClient, service: Service, method: str, path: str) -> None:
    for token, status in ((service.tokens["viewer"], 403), ("", 401)):
        refused(client.request(method, f"/api/v1{path}", json={}, headers=bearer(token)), status)


def test_what_is_made_of_a_finished_sweep_waits_its_turn(launched: Service, copied: Callable[[], Home]) -> None:
    home = copied()
    app = create_app(home, requests=PLENTY)
    headers = bearer(launched.tokens["runner"])
    with TestClient(app, raise_server_exceptions=False) as client:
        made = client.post("/api/v1/sweeps/f/reproduce", json={"trials": [1, 2]}, headers=headers)
        assert made.status_code == 201, made.text
        # At once, with one key: one of them makes it.
        again = lambda number: client.post("/api/v1/sweeps/f/report", headers=headers | {"Idempotency-Key": "k"})  # noqa: E731
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(again, range(8)))
        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
        assert len({answer.json()["id"] for answer in answers}) == 1
        refused(client.post("/api/v1/sweeps/f/reproduce", json={"trials": [99]}, headers=headers), 404, "no trial 99")
        refused(client.get("/api/v1/sweeps/f/report", headers=headers), 404, "no report yet")
        page = home.sweep("f").path / "f-report.html"
        page.write_text("<p>it</p>")
        found = client.get("/api/v1/sweeps/f/report", headers=headers)
        assert (found.status_code, found.text) == (200, "<p>it</p>")
        assert found.headers["content-type"].startswith("text/html")
        # What is in it may run, as nobody of this server.
        assert "sandbox allow-scripts;" in found.headers["content-security-policy"]
        assert "allow-same-origin" not in found.headers["content-security-policy"]
    words = [job.arguments for job in reversed(Jobs(home).all())]
    assert words == [
        ("reproduce", "--trial", "1", "--trial", "2", "f"),
        ("report", "--seeds", "--pruned", "5", "f"),
    ]
