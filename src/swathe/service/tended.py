"""Runs a program that ends with the server, however that ends: `python -m swathe.service.tended FOLDER MODULE WORDS`.

The server holds the other end of its standard input and writes nothing: when that end is gone, so is the server. Then
the whole process group is ended and the folder of its socket removed.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

# How long what is told to end may take (seconds).
END_SECONDS = 5.0


def _tend(folder: Path) -> None:
    while os.read(0, 1):
        continue
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGTERM)
    time.sleep(END_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _main() -> None:
    _, folder, module, *words = sys.argv
    threading.Thread(target=_tend, args=(Path(folder),), daemon=True).start()
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
