"""Data from the disk by the workers of a DataLoader, in a trial: the order is the seed's, the memory does not grow."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import swathe
from swathe.events import Finished
from tests.integrations.test_trainers import Run
from tests.integrations.trials import EXAMPLES

MIB = 2**20


def allocated(process: int | str) -> int:
    """Return what a process has allocated (bytes), without the pages of files."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def children() -> list[str]:
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


def streaming(params: Any) -> Any:
    """Stream, and note after each report what there is in memory: here, and the most in one of the loader's workers."""
    report = swathe.report

    def measured(**metrics: Any) -> bool:
        with Path(params.notes).open("a") as notes:
            print(allocated("self"), max(map(allocated, children())), file=notes)
        return report(**metrics)

    swathe.report = measured
    try:
        # By its own name, by which workers that are spawned find it, too.
        return importlib.import_module("train").train(params)
    finally:
        swathe.report = report


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    monkeypatch.delitem(sys.modules, "train", raising=False)
    monkeypatch.syspath_prepend(EXAMPLES / "streaming_data")
    file, notes = tmp_path / "records.bin", tmp_path / "notes"
    block = np.random.default_rng(0).integers(0, 10, (4096, 785), np.uint8)
    with file.open("wb") as records:
        for _ in range(30):
            block.tofile(records)
    params: Mapping[str, Any] = {
        "file": str(file), "notes": str(notes), "batch_size": 256, "hidden": 8, "lr": 0.01, "start": start,
    }  # fmt: skip
    runs = [
        Run("streaming", dict(params), tmp_path, module="tests.integrations.test_streaming")
        for _ in range(2 if start == "fork" else 1)
    ]
    assert all(isinstance(run.events[-1], Finished) for run in runs), runs[0].events[-1]
    assert runs[0].history == runs[-1].history
    assert len(runs[0].history) == 4
    lines = [tuple(map(int, line.split())) for line in notes.read_text().splitlines()]
    grown = [last - first for first, last in zip(lines[0], lines[3], strict=True)]
    print(f"{start}: {file.stat().st_size / MIB:.0f} MiB; at the end {lines[3]}; grown {grown}")
    assert max(grown) < file.stat().st_size / 4
