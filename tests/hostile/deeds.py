"""What a user's function can do wrong: one sweep does all of it, one deed a trial, and each trial first looks around.

`DEEDS` says of each what becomes of its trial. A trial that finds something changed by one before it fails with
"touched".
"""

from __future__ import annotations

import ctypes
import gc
import locale
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import swathe

PRINTED_MIB = 200
# What a thread reports that has outlived its trial.
LATE = -1e9


def hostile(params: Any) -> Any:
    """Look around, report a good value, do the deed, and report once more."""
    found = [name for name, is_well in _surroundings(params.folder).items() if not is_well]
    if found:
        raise AssertionError(f"touched: {', '.join(found)}")
    swathe.report(val_loss=1.0, step=1)
    result = DEEDS[params.deed].do()
    swathe.report(val_loss=0.1 if isinstance(result, _Model) else 0.5, step=100)
    return result


def _surroundings(folder: str) -> dict[str, bool]:
    """Return what a trial may expect of its process, and whether it is so."""
    trial = swathe.trial()
    assert trial is not None
    print("a trial speaks")
    torch_random = torch.Generator().manual_seed(trial.seed)
    return {
        "working folder": os.getcwd() == os.path.realpath(folder),
        "environment": "HOSTILE" not in os.environ and "PATH" in os.environ,
        "umask": _umask() != 0o777,
        "random": random.random() == random.Random(trial.seed).random(),
        "numpy.random": float(np.random.rand()) == float(np.random.RandomState(trial.seed % 2**32).rand()),
        "torch.random": torch.equal(torch.rand(3), torch.rand(3, generator=torch_random)),
        "numpy.seterr": np.geterr()["over"] == "warn",
        "dtype": torch.get_default_dtype() is torch.float32,
        "device": torch.zeros(1).device.type == "cpu",
        "threads": torch.get_num_threads() == 1,
        "determinism": not torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "anomalies": not torch.is_anomaly_enabled(),
        "sys.path": "" not in sys.path[:1] and "/hostile" not in sys.path,
        "sys.argv": "hostile" not in sys.argv,
        "recursion": sys.getrecursionlimit() >= 1000,
        "collector": gc.isenabled(),
        "start method": multiprocessing.get_start_method(allow_none=True) != "spawn",
        "sockets": socket.getdefaulttimeout() is None,
        "cores": os.sched_getaffinity(0) == os.sched_getaffinity(os.getpid()),
        "stdout": not sys.stdout.closed and os.fstat(1) is not None and os.fstat(2) is not None,
        "locale": locale.localeconv()["decimal_point"] == ".",
    }


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@dataclass(frozen=True, slots=True)
class Deed:
    """What is done, and what is then recorded of the trial: a state, and words of its reason."""

    do: Callable[[], Any]
    state: str = "complete"
    words: str = ""
    # Whether it takes its worker with it; then no traceback is promised, but where `traceback` says so.
    loses_worker: bool = False
    traceback: str = ""


def _raise(error: BaseException) -> Callable[[], None]:
    def do() -> None:
        raise error

    return do


class _UnspeakableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class _NoFloat:
    """A number that is none, and that cannot even be shown."""

    def __float__(self) -> float:
        raise ZeroDivisionError("no float")

    def __repr__(self) -> str:
        raise ValueError("no text")


class _Model:
    def state_dict(self) -> Any:
        return {"weights": lambda: None}


class _NoModel:
    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


def _fork(child: Callable[[], object]) -> Callable[[], None]:
    """Fork; the child does something and comes back as if it were the trial, the parent waits until it is gone."""

    def do() -> None:
        process = os.fork()
        if process == 0:
            child()
            return
        os.waitpid(process, 0)

    return do


def _eat() -> None:
    kept = []
    while True:
        kept.append(bytearray(64 << 20))


def _eat_tensors() -> None:
    kept = []
    while True:
        kept.append(torch.ones(16 << 20))


def _print_much() -> None:
    line = "x" * (1 << 20)
    for step in range(2, PRINTED_MIB // 2):
        print(line)
        os.write(2, line.encode())
        swathe.report(val_loss=1.0, step=step)


def _report(step: int | None = None, **values: Any) -> Callable[[], None]:
    return lambda: swathe.report(values, step=step) and None


def _report_later() -> None:
    """Leave a thread behind that reports once another trial runs."""
    own = swathe.trial()

    def late() -> None:
        while swathe.trial() in (own, None):
            threading.Event().wait(0.01)
        swathe.report(val_loss=LATE, step=99)

    threading.Thread(target=late, daemon=True).start()


def _thread(target: Callable[[], object]) -> Callable[[], None]:
    return lambda: threading.Thread(target=target, daemon=True).start()


def _remove_own_folder() -> None:
    os.mkdir("own")
    os.chdir("own")
    os.rmdir("../own")


def _close_files() -> None:
    for number in range(3):
        os.close(number)


def _recurse() -> int:
    return 1 + _recurse()


def _seed_all() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def _nothing() -> None:
    return None


LOST = "its worker was lost"
DEEDS: dict[str, Deed] = {
    "nothing": Deed(_nothing),
    "raise": Deed(_raise(ValueError("first\nsecond")), "failed", "ValueError: first", traceback="second"),
    "raise what cannot say itself": Deed(
        _raise(_UnspeakableError()), "failed", "_UnspeakableError", traceback="_UnspeakableError"
    ),
    "raise odd letters": Deed(_raise(ValueError("\ud800 \x00 \x1b[31m")), "failed", "ValueError: ? ? ?[31m"),
    "raise a long text": Deed(_raise(ValueError("x" * 5_000_000)), "failed", "ValueError: xxx", traceback="left out"),
    "raise an interrupt": Deed(_raise(KeyboardInterrupt()), "failed", "KeyboardInterrupt"),
    "raise an exit of a generator": Deed(_raise(GeneratorExit()), "failed", "GeneratorExit"),
    "raise many": Deed(_raise(ExceptionGroup("several", [ValueError("a"), OSError("b")])), "failed", "ExceptionGroup"),
    "recurse without end": Deed(_recurse, "failed", "RecursionError"),
    "sys.exit": Deed(lambda: sys.exit(3), "failed", "SystemExit: 3"),
    "sys.exit with 0": Deed(lambda: sys.exit(0), "failed", "SystemExit: 0"),
    "os._exit": Deed(lambda: os._exit(0), "failed", f"{LOST}: its process ended", loses_worker=True),
    "kill itself": Deed(lambda: os.kill(os.getpid(), signal.SIGKILL), "failed", LOST, loses_worker=True),
    "segfault": Deed(
        lambda: ctypes.string_at(0), "failed", "Segmentation fault at ", loses_worker=True, traceback="Fatal Python"
    ),
    "abort": Deed(os.abort, "failed", "Aborted at deeds.py:", loses_worker=True, traceback="Fatal Python"),
    "fork, child goes on": Deed(_fork(_nothing)),
    "fork, child raises": Deed(_fork(_raise(ValueError("child")))),
    "fork, child exits": Deed(_fork(lambda: sys.exit(5))),
    "fork, child reports": Deed(_fork(_report(step=50, val_loss=LATE))),
    "allocate": Deed(_eat, "failed", "out of memory: MemoryError", traceback="bytearray"),
    "allocate tensors": Deed(_eat_tensors, "failed", "out of memory: RuntimeError", traceback="torch.ones"),
    "print much": Deed(_print_much),
    "report NaN": Deed(_report(val_loss=float("nan")), "diverged", "val_loss is nan"),
    "report infinity": Deed(_report(val_loss=float("inf")), "diverged", "val_loss is inf"),
    "report text": Deed(_report(val_loss="low"), "failed", "val_loss: 'low' is not allowed"),
    "report nothing": Deed(_report(val_loss=None), "failed", "val_loss: None is not allowed"),
    "report a complex number": Deed(_report(val_loss=1j), "failed", "val_loss: 1j is not allowed"),
    "report a huge number": Deed(_report(val_loss=10**400), "failed", "val_loss: 1000"),
    "report a tensor of two": Deed(lambda: _report(val_loss=torch.zeros(2))(), "failed", "val_loss: tensor"),
    "report what has no float": Deed(_report(val_loss=_NoFloat()), "failed", "val_loss: <_NoFloat> is not allowed"),
    "report another metric": Deed(_report(loss=1.0), "failed", "reports no 'val_loss'; it reports: loss"),
    "report an odd name": Deed(
        lambda: swathe.report({"val_loss": 1.0, "a\nb\x00": 1.0}), "failed", "is not allowed as a metric's name"
    ),
    "report a number as a name": Deed(lambda: swathe.report({1: 1.0}), "failed", "1 is not allowed as a metric's name"),
    "report out of order": Deed(_report(step=0, val_loss=1.0), "failed", "step: 0 is not allowed"),
    "report a step twice": Deed(_report(step=1, val_loss=1.0), "failed", "step: 1 is not allowed"),
    "report a step below zero": Deed(_report(step=-1, val_loss=1.0), "failed", "step: -1 is not allowed"),
    "report a huge step": Deed(_report(step=2**70, val_loss=1.0), "failed", "is not allowed; allowed: 0 to 2147483647"),
    "report a step in words": Deed(lambda: swathe.report(val_loss=1.0, step="two"), "failed", "step: 'two'"),
    "report no mapping": Deed(lambda: swathe.report([1.0]), "failed", "val_loss: [1.0] is not allowed"),
    "report later": Deed(_report_later),
    "return what cannot be pickled": Deed(lambda: lambda: None),
    "return a model that cannot be pickled": Deed(_Model, "failed", "pickle", traceback="Traceback"),
    "return what raises": Deed(_NoModel, "failed", "KeyError", traceback="Traceback"),
    "leave a thread that raises": Deed(_thread(_raise(ValueError("thread")))),
    "leave a thread": Deed(_thread(threading.Event().wait)),
    "change random numbers": Deed(_seed_all),
    "change the working folder": Deed(lambda: os.chdir("/")),
    "remove the working folder": Deed(_remove_own_folder),
    "change the environment": Deed(lambda: os.environ.update(HOSTILE="1")),
    "empty the environment": Deed(lambda: os.environ.clear()),
    "change the umask": Deed(lambda: os.umask(0o777) and None),
    "change the threads": Deed(lambda: torch.set_num_threads(2)),
    "change the dtype": Deed(lambda: torch.set_default_dtype(torch.float64)),
    "change the device": Deed(lambda: torch.set_default_device("meta")),
    "change determinism": Deed(lambda: torch.use_deterministic_algorithms(True)),
    "switch gradients off": Deed(lambda: torch.set_grad_enabled(False) and None),
    "detect anomalies": Deed(lambda: torch.autograd.set_detect_anomaly(True) and None),
    "change the errors of NumPy": Deed(lambda: np.seterr(all="raise") and None),
    "change sys.path": Deed(lambda: sys.path.insert(0, "/hostile")),
    "change sys.argv": Deed(lambda: sys.argv.append("hostile")),
    "change the recursion limit": Deed(lambda: sys.setrecursionlimit(200)),
    "switch the collector off": Deed(gc.disable),
    "set a start method": Deed(lambda: multiprocessing.set_start_method("spawn", force=True)),
    "set a timeout of sockets": Deed(lambda: socket.setdefaulttimeout(0.001)),
    "take one core": Deed(lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})),
    "set a handler of a signal": Deed(
        lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN) and None,
        "failed",
        "ValueError: signal only works",
    ),
    "close stdout": Deed(lambda: sys.stdout.close()),
    "replace stdout": Deed(lambda: setattr(sys, "stdout", None)),
    "close the standard files": Deed(_close_files),
}
# These never say a word again: only `sweep.trial_timeout` ends them.
HANGS: dict[str, Deed] = {
    "hang": Deed(threading.Event().wait, "failed", "nothing was heard of its trials", loses_worker=True),
    "hang with the lock of Python": Deed(
        lambda: ctypes.PyDLL(None).sleep(600), "failed", "nothing was heard of its trials", loses_worker=True
    ),
    "stop itself": Deed(
        lambda: os.kill(os.getpid(), signal.SIGSTOP), "failed", "nothing was heard of its trials", loses_worker=True
    ),
}
DEEDS |= HANGS
