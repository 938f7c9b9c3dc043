"""A Ray cluster of several nodes on this machine, each of which can be killed while others join."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import Any

from tests.chaos.processes import actors, descendants, kill, wait_until
from tests.integration import swathes

NODES = 2
# Ray's smallest object store (bytes): Swathe puts nothing large there.
STORE = 80 * 1024 * 1024


class Cluster:
    """A head without CPUs, to which drivers connect, and nodes of one CPU, where workers run."""

    def __init__(self) -> None:
        # Ray's processes, and with them the workers, inherit this process's environment.
        for key in ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED"):
            os.environ[key] = swathes.environment()[key]
        os.environ["OMP_NUM_THREADS"] = "1"
        self._ray: Any = None
        # In the order in which they joined.
        self._nodes: list[Any] = []
        self.start()

    def start(self) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        # Ray says where a program would be that joined any cluster here; ours is named by its address.
        logging.getLogger("ray").setLevel(logging.WARNING)
        self._ray = RayCluster()
        self._ray.add_node(num_cpus=0, object_store_memory=STORE, include_dashboard=False)
        for _ in range(NODES):
            self.add_node()

    @property
    def address(self) -> str:
        return str(self._ray.address)

    def add_node(self) -> None:
        """Let a node join, and wait until it has."""
        self._nodes.append(self._ray.add_node(num_cpus=1, object_store_memory=STORE))

    def workers(self) -> list[int]:
        """Return the processes of Swathe's workers on this cluster."""
        return actors(self._daemons())

    def kill_node(self, number: int) -> None:
        """Kill a node with all its processes; the head is none of them."""
        node = self._nodes.pop(number % len(self._nodes))
        _kill_processes(node)
        self._ray.worker_nodes.discard(node)

    def mend(self) -> None:
        """Have all nodes again, whatever a fault that was broken off has left."""
        if self._ray.head_node is None:
            self.start()
        while len(self._nodes) < NODES:
            self.add_node()

    def kill_head(self) -> None:
        """Kill the whole cluster, as when the machine of its head fails."""
        for node in self._ray.list_all_nodes():
            _kill_processes(node)
        self._nodes.clear()
        self._ray.worker_nodes.clear()
        self._ray.head_node = None

    def wait_until_idle(self) -> None:
        """Wait until no worker is left over."""
        wait_until(lambda: not self.workers(), "the end of the sweep's actors", 60.0)

    def close(self) -> None:
        self.kill_head()

    def _daemons(self) -> list[int]:
        return [pid for node in self._ray.list_all_nodes() for pid in _daemons_of(node)]


def _daemons_of(node: Any) -> list[int]:
    return [process.process.pid for infos in node.all_processes.values() for process in infos]


def _kill_processes(node: Any) -> None:
    """Kill a node's daemons and all under them, the raylet first: it would start others."""
    daemons = _daemons_of(node)
    below = descendants(daemons)
    kill(*daemons, *below)
    for infos in node.all_processes.values():
        for info in infos:
            with suppress(ChildProcessError):
                info.process.wait()
    node.all_processes.clear()
