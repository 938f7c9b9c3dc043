"""What a function changes of its process is put back; a real sweep tries most of it, too (tests/hostile)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from swathe.events import Direction, Failed, Finished
from swathe.surroundings import kept
from swathe.worker import Emitted, InlineChannel, Job, WorkerSetup, run_one_by_one
from tests.hostile.deeds import DEEDS, LATE

# What is too slow here (PyTorch's compiler is imported to be told of determinism), or would close what pytest reads.
LEFT_OUT = {"allocate", "allocate tensors", "print much", "change determinism", "close stdout"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_hostile_functions_leave_their_process_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    deeds = [name for name, deed in DEEDS.items() if not deed.loses_worker and name not in LEFT_OUT]
    events: list[Emitted] = []

    def take(new: Sequence[Emitted]) -> None:
        events.extend(new)

    channel = InlineChannel("w", take)
    for number, name in enumerate([*deeds, "nothing"]):
        channel.put((Job(number, {"params": {"deed": name, "folder": str(tmp_path)}, "seed": number}),))
    setup = WorkerSetup("tests.hostile.deeds:hostile", "val_loss", Direction.MINIMIZE, "", (), "cpu", 1)
    # As in a worker, in a thread that is not the main one.
    thread = threading.Thread(target=run_one_by_one, args=(setup, channel, "w"))
    thread.start()
    thread.join()
    torch.set_num_threads(threads)
    ends = [event for event in events if isinstance(event, Failed | Finished)]
    assert [end.trial for end in ends] == list(range(len(deeds) + 1))
    assert not [end.reason for end in ends if isinstance(end, Failed) and "touched" in end.reason]
    for end, name in zip(ends, deeds, strict=False):
        promised = DEEDS[name]
        # What another metric or a value that is not finite means, the controller decides.
        if promised.state == "failed" and name != "report another metric":
            assert isinstance(end, Failed), name
            assert promised.words in end.reason, name
            assert promised.traceback in end.traceback, name
            assert len(end.traceback) < 200_000
        else:
            assert isinstance(end, Finished), name
    assert not any(LATE in report.metrics.values() for event in events for report in getattr(event, "reports", ()))


def test_random_generators_begin_with_the_seed() -> None:
    drawn = []
    for _ in range(2):
        with kept(7):
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(1))))
        random.random()
    assert drawn[0] == drawn[1]
    assert drawn[0][2] == float(torch.rand(1, generator=torch.Generator().manual_seed(7)))


FIRST = """
import random, sys
from swathe.surroundings import kept
assert not {"numpy", "torch"} & sys.modules.keys()
finders = list(sys.meta_path)
with kept(7):
    before = random.random()
    import torch, numpy
    print(before, random.random(), numpy.random.rand(), float(torch.rand(1)))
    torch.set_default_dtype(torch.float64)
assert torch.get_default_dtype() == torch.float32
assert sys.meta_path == finders
"""


def test_what_a_trial_is_the_first_to_import_has_its_seed_and_is_put_back() -> None:
    with kept(7):
        expected = random.random(), random.random(), np.random.rand(), float(torch.rand(1))
    # In a new process, as all of it is imported in this one.
    done = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(one) for one in expected]


def test_a_seed_may_be_any_integer() -> None:
    for seed in (-1, 2**40, 2**70):
        with kept(seed):
            pass


def test_handlers_of_signals_are_put_back_in_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with kept(0):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_raises_passes_and_all_is_put_back() -> None:
    before = os.getcwd()

    def moves() -> None:
        os.chdir("/")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), kept(0):
        moves()
    assert os.getcwd() == before


def test_a_forked_process_ends_where_its_parent_goes_on() -> None:
    before, read, write = os.getpid(), *os.pipe()
    with kept(0):
        child = os.fork()
        if child == 0:
            os.write(write, b"child")
    assert os.getpid() == before
    assert os.waitpid(child, 0) == (child, 0)
    os.write(write, b", parent")
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"child, parent"


def test_a_standard_file_that_was_closed_is_there_again(tmp_path: Path) -> None:
    # In a process of its own, whose stdout is a file.
    code = (
        "import os, sys; from swathe.surroundings import kept\n"
        "with kept(0):\n    sys.stdout.close(); os.close(2)\n"
        "print('still here'); print('and here', file=sys.stderr)\n"
    )
    out = tmp_path / "out"
    with out.open("wb") as file:
        done = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", code],
            {**os.environ, "PYTHONPATH": "src"},
            file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), 1), (os.POSIX_SPAWN_DUP2, file.fileno(), 2)],
        )
        assert os.waitpid(done, 0)[1] == 0
    assert set(out.read_text().splitlines()) == {"still here", "and here"}
