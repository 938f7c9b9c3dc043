"""What a function may change of its process, put back when its trial is over: the next one runs in the same process.

Not everything can be: what a function did to other modules' objects, or to what lies outside of the process, stays.
"""

from __future__ import annotations

import gc
import importlib.util
import locale
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@dataclass(frozen=True, slots=True)
class _Setting:
    """One thing that a process has: how it is read, and how it is set. `needs`: only where this module is imported."""

    read: Callable[[], Any]
    write: Callable[[Any], object]
    needs: str | None = None


def _set_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _handlers() -> dict[int, Any]:
    # Only the main thread may set them, which a trial runs in with cluster=inline alone.
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in range(1, signal.SIGRTMIN)}


def _set_handlers(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        # None: one that was not set from Python.
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _set_in_place(target: Callable[[], list[str]]) -> Callable[[list[str]], None]:
    def write(before: list[str]) -> None:
        target()[:] = before

    return write


def _set_streams(before: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr = (
        stream if stream is None or not stream.closed else _reopened(number) for number, stream in enumerate(before)
    )


def _reopened(number: int) -> Any:
    return open(number, "r" if number == 0 else "w", buffering=1, errors="backslashreplace", closefd=False)


def _torch() -> Any:
    return sys.modules["torch"]


def _flags() -> tuple[Any, ...]:
    torch = _torch()
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32


def _set_flags(before: tuple[Any, ...]) -> None:
    torch = _torch()
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


def _deterministic() -> tuple[bool, bool]:
    torch = _torch()
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


_SETTINGS = (
    _Setting(lambda: dict(os.environ), _set_environment),
    _Setting(os.getcwd, os.chdir),
    _Setting(_umask, os.umask),
    _Setting(lambda: list(sys.path), _set_in_place(lambda: sys.path)),
    _Setting(lambda: list(sys.argv), _set_in_place(lambda: sys.argv)),
    _Setting(sys.getrecursionlimit, sys.setrecursionlimit),
    _Setting(gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    _Setting(socket.getdefaulttimeout, socket.setdefaulttimeout),
    _Setting(_handlers, _set_handlers),
    _Setting(lambda: locale.setlocale(locale.LC_ALL), lambda before: locale.setlocale(locale.LC_ALL, before)),
    _Setting(lambda: os.sched_getaffinity(0), lambda cores: os.sched_setaffinity(0, cores)),
    _Setting(
        lambda: multiprocessing.get_start_method(allow_none=True),
        lambda method: multiprocessing.set_start_method(method, force=True),
    ),
    _Setting(lambda: sys.modules["numpy"].geterr(), lambda before: sys.modules["numpy"].seterr(**before), "numpy"),
    _Setting(lambda: _torch().get_default_dtype(), lambda dtype: _torch().set_default_dtype(dtype), "torch"),
    # None is the device that was, whatever its name is: a device that is set costs a little at each call.
    _Setting(lambda: _torch().get_default_device(), lambda device: _torch().set_default_device(None), "torch"),
    _Setting(lambda: _torch().is_grad_enabled(), lambda on: _torch().set_grad_enabled(on), "torch"),
    _Setting(lambda: _torch().get_num_threads(), lambda threads: _torch().set_num_threads(threads), "torch"),
    _Setting(_flags, _set_flags, "torch"),
    _Setting(
        _deterministic, lambda before: _torch().use_deterministic_algorithms(before[0], warn_only=before[1]), "torch"
    ),
    _Setting(lambda: _torch().is_anomaly_enabled(), lambda on: _torch().autograd.set_detect_anomaly(on), "torch"),
)


@contextmanager
def kept(seed: int) -> Iterator[None]:
    """Seed all global random generators, and put everything back at the end that a function may have changed.

    A process that was forked meanwhile ends here, as what follows is its parent's to do.
    """
    process = os.getpid()
    streams = (sys.stdin, sys.stdout, sys.stderr)
    files = [_duplicate(number) for number in range(3)]
    before = [(setting, setting.read()) for setting in _SETTINGS if _applies(setting)]
    late = _Late(seed, before)
    for name, seeding in _SEEDINGS.items():
        if name in sys.modules:
            seeding(seed)
    sys.meta_path.insert(0, late)
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(0)
        with suppress(ValueError):
            sys.meta_path.remove(late)
        for number, copy in enumerate(files):
            _restore_file(number, copy)
        _set_streams(streams)
        for setting, value in before:
            _restore(setting, value)


def _applies(setting: _Setting) -> bool:
    return setting.needs is None or setting.needs in sys.modules


def _restore(setting: _Setting, value: Any) -> None:
    # What cannot be read any more, such as a working folder that was removed, has changed.
    now = None
    with suppress(OSError):
        now = setting.read()
    if now != value:
        setting.write(value)


def _seed_numpy(seed: int) -> None:
    sys.modules["numpy"].random.seed(seed % 2**32)


def _seed_torch(seed: int) -> None:
    torch = _torch()
    # What torch.manual_seed does, less the other accelerators, whose part of it takes a millisecond.
    torch.default_generator.manual_seed(seed % 2**63)
    if torch.version.cuda is not None:
        torch.cuda.manual_seed_all(seed % 2**63)


# Python's own generator is always there.
_SEEDINGS: dict[str, Callable[[int], None]] = {"random": random.seed, "numpy": _seed_numpy, "torch": _seed_torch}


class _Late(MetaPathFinder):
    """Seeds NumPy and PyTorch as soon as they are imported, where a trial is the first of its process to do so.

    What they are set to then is put back at the trial's end, too.
    """

    def __init__(self, seed: int, before: list[tuple[_Setting, Any]]) -> None:
        self._seed = seed
        self._before = before
        self._awaited = {name for name in _SEEDINGS if name not in sys.modules}

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return what the others find, to be seeded after it is imported; None for all that has no generator."""
        if fullname not in self._awaited:
            return None
        self._awaited.discard(fullname)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            self._follow(fullname, spec.loader)
        return spec

    def _follow(self, name: str, loader: Any) -> None:
        execute = loader.exec_module

        def followed(module: ModuleType) -> None:
            drawn = random.getstate()
            execute(module)
            # The import may draw, and the trial's numbers must not depend on who was the first to import.
            random.setstate(drawn)
            _SEEDINGS[name](self._seed)
            self._before += [(setting, setting.read()) for setting in _SETTINGS if setting.needs == name]

        # A loader is its module's own, and must stay what it is: others ask it for more than this.
        loader.exec_module = followed


def _duplicate(number: int) -> int | None:
    """Return a copy of a standard file that child processes do not get; None where it is closed."""
    try:
        return os.dup(number)
    except OSError:
        return None


def _restore_file(number: int, copy: int | None) -> None:
    if copy is None:
        return
    if _identity(number) != _identity(copy):
        os.dup2(copy, number)
    os.close(copy)


def _identity(number: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino
