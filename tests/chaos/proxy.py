"""A small TCP proxy between Swathe and a server, whose connections a test can cut."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress

CHUNK = 1 << 16


class Proxy:
    """Forwards connections to a port of this machine; `cut` resets them and refuses new ones until `mend`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._away = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True, name=f"proxy-{self.port}").start()

    def cut(self, *, away: bool) -> None:
        """Reset all connections; with `away`, new ones are reset as well until `mend`."""
        with self._lock:
            self._away = away
            for pair in self._pairs:
                _reset(*pair)

    def mend(self) -> None:
        with self._lock:
            self._away = False

    def close(self) -> None:
        self.cut(away=True)
        # A thread that waits in accept() is woken by this, and not by a close alone.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _reach(self) -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            return None

    def _serve(self, client: socket.socket) -> None:
        server = None if self._away else self._reach()
        if server is None:
            client.close()
            return
        pair = (client, server)
        with self._lock:
            self._pairs.add(pair)
            if self._away:
                _reset(*pair)
        with suppress(OSError):
            _forward(client, server)
        with self._lock:
            self._pairs.discard(pair)
            for end in pair:
                end.close()


def _forward(client: socket.socket, server: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, client)
        while True:
            for key, _ in selector.select():
                source, sink = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                data = source.recv(CHUNK)
                if not data:
                    return
                sink.sendall(data)


def _reset(*ends: socket.socket) -> None:
    """End connections at once; whoever forwards between them is woken."""
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
