"""What stands in a sweep's own Ray for its two agents, which cost a core three seconds before the first worker.

    python -I -S ray_agent.py .../agent.py ARGUMENTS     # Ray's own command, with this file before it

A raylet waits at its start until each of its agents says where it listens. The dashboard's agent (metrics, job
submission) has no use in a sweep, and says here what it says in Ray's minimal installation: nowhere. The agent of
runtime environments is asked for nothing, unless a function of the user's has a `runtime_env`, as Ray Train does: it
starts then, in this process's place, while a child of it hands on to it what was asked here.

Only the standard library is imported, as little of it as there can be: all that this file has to do is be quick.
"""

import os
import select
import socket
import sys
import time

# Names of the files by which Ray's processes say their ports (ray/_raylet: *_PORT_NAME).
_UNUSED_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
_PORT = "runtime_env_agent_port"
_NOWHERE = -1
# How often it is looked whether the raylet lives, and whether the agent is there (seconds).
_LOOK_SECONDS, _SOON_SECONDS = 1.0, 0.02
_CHUNK = 1 << 16


def main(arguments: list[str]) -> None:
    """Be the agent whose command this is: the path of its program, then its options."""
    program, *options = arguments
    said = dict(option[2:].split("=", 1) for option in options if "=" in option)
    if os.path.basename(program) == "agent.py":
        for name in _UNUSED_PORTS:
            _say(said, name, _NOWHERE)
        _wait(None, os.getppid())
        return
    listener = socket.create_server((said["node-ip-address"], 0), family=_family(said["node-ip-address"]))
    _say(said, _PORT, listener.getsockname()[1])
    if not _wait(listener, os.getppid()):
        return
    # A folder of its own for the port of the agent itself: the raylet has read its own.
    aside = os.path.join(said["session-dir"], "runtime_env_agent")
    os.makedirs(aside, exist_ok=True)
    if os.fork() == 0:
        _hand_on(listener, said | {"session-dir": aside}, os.getppid())
        return
    listener.close()
    changed = [f"--session-dir={aside}" if option.startswith("--session-dir=") else option for option in options]
    os.execv(sys.executable, [sys.executable, "-u", program, *changed])


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _file(said: dict[str, str], name: str) -> str:
    return os.path.join(said["session-dir"], f"{name}_{said['node-id']}")


def _say(said: dict[str, str], name: str, port: int) -> None:
    """Write where an agent listens; whole, or not at all."""
    path = _file(said, name)
    with open(f"{path}.new", "w") as file:
        file.write(str(port))
    os.replace(f"{path}.new", path)


def _wait(listener: "socket.socket | None", parent: int) -> bool:
    """Wait until somebody asks at the listener; False: the parent has gone before."""
    while os.getppid() == parent:
        if select.select([] if listener is None else [listener], [], [], _LOOK_SECONDS)[0]:
            return True
    return False


def _hand_on(listener: socket.socket, said: dict[str, str], agent: int) -> None:
    """Hand all connections on to the agent, as long as it lives."""
    import threading

    while _wait(listener, agent):
        asking, _ = listener.accept()
        answering = _reach(said, agent)
        if answering is None:
            return
        for source, target in ((asking, answering), (answering, asking)):
            threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _reach(said: dict[str, str], agent: int) -> "socket.socket | None":
    """Connect to the agent, as soon as it listens: it says its port before; None: it has gone."""
    while os.getppid() == agent:
        try:
            with open(_file(said, _PORT)) as file:
                return socket.create_connection((said["node-ip-address"], int(file.read())))
        except (OSError, ValueError):
            # Not yet there, not yet whole, or nobody listens there yet.
            time.sleep(_SOON_SECONDS)
    return None


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Carry what one side says to the other, until it says no more."""
    try:
        while data := source.recv(_CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # One of them has gone; the other hears of it by the end of its own connection.
        source.close()
        target.close()


if __name__ == "__main__":
    main(sys.argv[1:])
