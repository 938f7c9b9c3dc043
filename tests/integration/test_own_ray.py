"""A sweep's own Ray has the processes that it uses, and ends with all of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray._private import node, services

from swathe import ray_agent
from swathe.own_ray import started_lean
from tests.chaos import processes
from tests.integration import swathes

SCRIPT = """
import glob, json, logging, os, ray
from ray._private import node, services, worker
from swathe.own_ray import started_lean

names = ["start_monitor", "start_log_monitor", "start_api_server"]
command = "_build_python_executable_command_memory_profileable"
before = [getattr(node.Node, name) for name in names] + [services.get_node, getattr(services, command)]
with started_lean():
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
after = [getattr(node.Node, name) for name in names] + [services.get_node, getattr(services, command)]

@ray.remote
def double(number):
    return 2 * number, os.getpid()

@ray.remote(runtime_env={"env_vars": {"SAID": "so"}})
def said():
    return os.environ["SAID"], os.getpid()

def agents():
    # By the raylet: what it has started beside its workers.
    [raylet] = [one.process.pid for one in worker._global_node.all_processes["raylet"]]
    lines = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            if int(open(path).read().rpartition(")")[2].split()[1]) == raylet:
                lines[int(path.split("/")[2])] = open(path.replace("stat", "cmdline")).read()
        except OSError:
            pass
    return {pid: line for pid, line in lines.items() if "agent" in line}

answer, worker_pid = ray.get(double.remote(21))
small = agents()
heard, other_pid = ray.get(said.remote())
# Both at once, by the agent that is there now.
twice = ray.get([said.options(runtime_env={"env_vars": {"SAID": word}}).remote() for word in ("a", "b")])
started = {name: [one.process.pid for one in every] for name, every in worker._global_node.all_processes.items()}
found = {
    "processes": sorted(started),
    "answer": answer,
    "untouched": all(one is other for one, other in zip(before, after)),
    "small": list(small.values()),
    "heard": [heard, *(word for word, _ in twice)],
    "pids": [worker_pid, other_pid, *small, *agents(), *(pid for pids in started.values() for pid in pids)],
}
ray.shutdown()
print(json.dumps(found))
"""


def test_it_has_no_process_without_a_use_and_leaves_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=swathes.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["processes"]) <= {"gcs_server", "raylet", "reaper"}
    assert found["answer"] == 42
    assert len(found["small"]) == 2
    assert all("ray_agent.py" in line for line in found["small"]), "neither agent of Ray's own runs"
    assert found["heard"] == ["so", "a", "b"], "what needs an agent has one"
    assert found["untouched"]
    deadline = time.monotonic() + 60
    while alive := [pid for pid in found["pids"] if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


PRESSED = """
from pathlib import Path
import ray
from swathe.cluster import ClusterPlan, RayPool
from swathe.events import Direction
from swathe.worker import WorkerSetup

plan = ClusterPlan(
    address=None, workers=1, cpus_per_worker=1, gpus_per_worker=None, threads_per_worker=1, memory_per_worker=None,
    device="cpu",
)
pool = RayPool(plan, WorkerSetup("os.path:exists", "loss", Direction.MINIMIZE, ".", (), "cpu", 1), Path("faults"))
pool.start()
shutdown = ray.shutdown

def interrupted():
    ray.shutdown = shutdown
    shutdown()
    raise KeyboardInterrupt

ray.shutdown = interrupted
try:
    pool.close()
except KeyboardInterrupt:
    pool.close()
    print(ray.is_initialized())
"""


@pytest.mark.slow
def test_its_end_that_is_interrupted_is_taken_up_and_starts_no_other(tmp_path: Path) -> None:
    done = swathes.run_script(tmp_path, "-c", PRESSED)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("daemon", ["raylet", "gcs_server"])
def test_a_sweep_whose_ray_dies_says_so_and_goes_on_with_another(tmp_path: Path, daemon: str) -> None:
    words = "launch", swathes.write_function_sweep(tmp_path, "waits", trials=6)
    driver = swathes.start(tmp_path, *words)
    log = tmp_path / ".swathe" / "sweeps" / "f" / "sweep.log"
    # From now on trials are in the middle of their work until the marker is there.
    processes.wait_until(lambda: log.exists() and log.read_text().count(" complete ") == 3, "three trials' end")
    below = processes.descendants([driver.pid])
    processes.kill(*(pid for pid in below if Path(processes.title(pid).partition(" ")[0]).name == daemon))
    assert driver.wait(120) == 1
    assert (tmp_path / "output.txt").read_text().splitlines()[-1] == (
        f"swathe: The Ray of this sweep has died ({daemon}: killed by signal 9); the same command goes on with another."
    )
    (tmp_path / "marker").touch()
    swathes.succeed(tmp_path, *words)
    status = swathes.read(tmp_path, "status", "f")
    assert status["counts"]["complete"] == 6


def test_what_is_asked_of_an_agent_waits_until_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own agent says its port before it listens there, and what has said it may not be on the disk yet."""
    said = {"session-dir": str(tmp_path), "node-id": "n", "node-ip-address": "127.0.0.1"}
    agent = socket.socket()
    agent.bind(("127.0.0.1", 0))
    port = tmp_path / "runtime_env_agent_port_n"
    steps = [port.touch, lambda: port.write_text(str(agent.getsockname()[1])), agent.listen]
    monkeypatch.setattr(ray_agent.time, "sleep", lambda seconds: steps.pop(0)())
    answering = ray_agent._reach(said, os.getppid())
    assert answering is not None
    assert not steps
    accepted, _ = agent.accept()
    for one in (answering, accepted, agent):
        one.close()


def test_an_agent_that_has_gone_is_not_waited_for(tmp_path: Path) -> None:
    said = {"session-dir": str(tmp_path), "node-id": "n", "node-ip-address": "127.0.0.1"}
    assert ray_agent._reach(said, 0) is None


def test_a_ray_with_other_internals_starts_as_it_always_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(node.Node, "start_monitor")
    monkeypatch.delattr(services, "get_node")
    monkeypatch.delattr(services, "_build_python_executable_command_memory_profileable")
    api_server = node.Node.start_api_server
    with started_lean():
        assert not hasattr(node.Node, "start_monitor")
        assert not hasattr(services, "get_node")
        assert node.Node.start_api_server is not api_server
    assert node.Node.start_api_server is api_server
