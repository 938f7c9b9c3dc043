"""Reader of CIFAR-10 and CIFAR-100 in their binary form (Krizhevsky 2009, "Learning multiple layers of features")."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swathe.errors import BadInputError

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, slots=True)
class Layout:
    """What an archive holds: files of records, of `labels` bytes each (the last one is the class) and the pixels."""

    folder: str
    train: Sequence[str]
    test: str
    labels: int
    classes: int


LAYOUTS: Mapping[str, Layout] = {
    "cifar10": Layout("cifar-10-batches-bin", [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", 1, 10),
    "cifar100": Layout("cifar-100-binary", ["train.bin"], "test.bin", 2, 100),
}


def read(archive: Path, name: str, md5: str) -> tuple[NDArray[np.uint8], NDArray[Any], int, dict[str, NDArray[Any]]]:
    """Return pixels `[n, 3 * 32 * 32]`, channel by channel, classes `[n]`, how many there are, and the test part.

    `md5` is of the archive as published, gzipped. Raises `BadInputError` for a file that is damaged or another.
    """
    layout = LAYOUTS[name]
    content = _members(archive, layout, md5)
    x, y = _records(archive, layout, b"".join(content[file] for file in layout.train))
    test_x, test_y = _records(archive, layout, content[layout.test])
    return x, y, layout.classes, {"test_x": test_x, "test_y": test_y}


def _members(archive: Path, layout: Layout, md5: str) -> dict[str, bytes]:
    try:
        if archive.suffix == ".gz":
            with archive.open("rb") as file:
                if hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() != md5:
                    raise BadInputError(f"{archive} is damaged: it has another MD5 than the published file, {md5}.")
        with tarfile.open(archive) as tar:
            return {name: _content(tar, f"{layout.folder}/{name}") for name in (*layout.train, layout.test)}
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        raise BadInputError(f"{archive} cannot be read: {error}.") from error


def _content(tar: tarfile.TarFile, member: str) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise KeyError(f"{member} is no file")
    return file.read()


def _records(archive: Path, layout: Layout, content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    size = layout.labels + _PIXELS
    if len(content) % size:
        raise BadInputError(f"{archive} is damaged: {len(content)} bytes are no whole records of {size}.")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    classes = records[:, layout.labels - 1].astype(np.int64)
    if len(classes) and classes.max() >= layout.classes:
        raise BadInputError(f"{archive} has the label {classes.max()}; allowed: 0 ... {layout.classes - 1}.")
    return records[:, layout.labels :], classes
