"""Reader of IDX files, the format of MNIST and of those that followed it."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swathe.errors import BadInputError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, dimensions: int, sha256: str | None = None) -> NDArray[np.uint8]:
    """Return the array of unsigned bytes in an IDX file, gzipped or plain, which must have so many dimensions.

    The format (LeCun, "The MNIST database"): two zero bytes, the type, the number of dimensions, each size as a
    big-endian 32-bit integer, then the data in C order. `sha256` is of the uncompressed file. Raises `BadInputError`
    for a file that cannot be read, is no such file, or does not have that digest.
    """
    content = _read(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise BadInputError(f"{path} is no IDX file: it does not begin with two zero bytes, a type and a rank.")
    kind, rank = content[2], content[3]
    if kind != _UNSIGNED_BYTE:
        raise BadInputError(f"{path} has elements of type 0x{kind:02x}; allowed: 0x08, unsigned bytes.")
    if rank != dimensions:
        raise BadInputError(f"{path} has {rank} dimensions; allowed: {dimensions}.")
    header = 4 + 4 * rank
    if len(content) < header:
        raise BadInputError(f"{path} is cut off: it ends within its header of {header} bytes.")
    shape = [int(size) for size in np.frombuffer(content, ">u4", rank, offset=4)]
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise BadInputError(f"{path} has {len(content)} bytes uncompressed; a header of {shape} needs {expected}.")
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise BadInputError(f"{path} is damaged: its content has another SHA-256 than the published file.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise BadInputError(f"{path} cannot be read: {error}.") from error
