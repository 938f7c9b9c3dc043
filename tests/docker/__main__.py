"""`python -m tests.docker`: the stack of docker/compose.yaml as processes, until ^C."""

from __future__ import annotations

import signal
from contextlib import suppress

from tests.docker.stack import stack


def main() -> None:
    with stack() as made:
        print("Making a token and starting PostgreSQL, S3, MLflow, Ray and the service.", flush=True)
        token = made.run("swathe", "swathe", "token", "create", "admin", "--role", "admin").stdout.strip()
        made.up()
        print(f"{made.url('swathe', 8000)}  token {token}  (^C ends it)", flush=True)
        signal.pause()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        main()
