"""A Ray of a sweep's own on this machine, without the processes that a sweep has no use for.

`ray.init` starts an autoscaler, a log monitor and a dashboard's server also where there is nothing to scale, no log to
be sent and no dashboard, one after the other, and then looks once a second whether its raylet is there; which in turn
waits for two agents that import three seconds of Python (see `ray_agent`). On two cores that is most of what it takes
until the first trial, and another second at the end, which is that of these processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

# How often it is asked whether the raylet is there, and how long before it is left to Ray (seconds).
_LOOK_SECONDS, _PATIENCE_SECONDS = 0.02, 20.0
# Ray waits a second where a socket is not there at the first look; ten seconds in all, as it does.
_CONNECTING = {"RAY_raylet_client_connect_timeout_milliseconds": "20", "RAY_raylet_client_num_connect_attempts": "500"}
_DAEMONS = frozenset({"gcs_server", "raylet"})
_UNUSED = ("start_monitor", "start_log_monitor", "start_api_server")
# Ray's names for its agents, and the function that makes the beginning of the command of each Python process of it.
_AGENTS = frozenset({"dashboard_agent", "runtime_env_agent"})
_COMMAND = "_build_python_executable_command_memory_profileable"
_AGENT = Path(__file__).with_name("ray_agent.py")


@contextmanager
def started_lean() -> Iterator[None]:
    """Let `ray.init` start such a Ray in here.

    These are Ray's own internals: where a version of it has others, it starts as it always does.
    """
    # Imports asyncio, which only a process that starts Ray is to pay for; Ray does, too.
    from unittest.mock import patch

    from ray._private import node, services

    for variable, value in _CONNECTING.items():
        os.environ.setdefault(variable, value)
    with ExitStack() as stack:
        for name in _UNUSED:
            if hasattr(node.Node, name):
                stack.enter_context(patch.object(node.Node, name, _nothing))
        if (get_node := getattr(services, "get_node", None)) is not None:
            stack.enter_context(patch.object(services, "get_node", _soon(get_node)))
        if (command := getattr(services, _COMMAND, None)) is not None and hasattr(os, "fork"):
            stack.enter_context(patch.object(services, _COMMAND, _with_small_agents(command)))
        yield


class Daemons:
    """The daemons of the Ray that this process has started: without one of them what is asked of Ray just waits."""

    def __init__(self) -> None:
        from ray._private import worker

        # Ray's own internals: where a version of it has others, it is as if the daemons never died.
        there: Mapping[str, list[Any]] = getattr(getattr(worker, "_global_node", None), "all_processes", {})
        self._processes: dict[str, subprocess.Popen[bytes]] = {
            name: one.process for name, every in there.items() for one in every if name in _DAEMONS
        }

    def dead(self) -> str:
        """Return which of them has died, and how; empty while all of them live."""
        for name, process in self._processes.items():
            code = process.poll()
            if code is not None:
                how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
                return f"{name}: {how}"
        return ""

    def end(self) -> None:
        """End those that are left, and with them the workers, which a Ray without its head would leave alone."""
        for process in self._processes.values():
            process.kill()
            process.wait()


def _nothing(self: object, *words: object, **named: object) -> None:
    """Start nothing."""


def _with_small_agents(command: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Return the function that makes commands, in which Ray's agents are what we put in their place."""

    def made(component: str, *words: Any, **named: Any) -> list[str]:
        if component in _AGENTS:
            # Alone, without site-packages: nothing of them is imported, and looking for them takes time.
            return [sys.executable, "-I", "-S", str(_AGENT)]
        return command(component, *words, **named)

    return made


def _soon(get_node: Callable[[str, str], Any]) -> Callable[[str, str], Any]:
    """Return the function that waits for a node, without its wait of whole seconds."""

    def found(gcs_address: str, node_id: str) -> Any:
        from ray._private import services, state

        known = state.GlobalState()
        known._initialize_global_state(services._get_gcs_client_options(gcs_address))
        given_up = time.monotonic() + _PATIENCE_SECONDS
        while all(one["NodeID"] != node_id for one in known.node_table()) and time.monotonic() < given_up:
            time.sleep(_LOOK_SECONDS)
        return get_node(gcs_address, node_id)

    return found
