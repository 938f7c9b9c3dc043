"""Random streams as functions of (trial seed, epoch, step): no draw depends on what ran before in the process."""

from __future__ import annotations

from enum import IntEnum

import torch

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class Stream(IntEnum):
    """What a stream is drawn for."""

    INIT = 1
    ORDER = 2
    DROPOUT = 3


def splitmix64(state: int) -> int:
    """Return the 64 bits that splitmix64 gives after `state`, 64 bits (Steele, Lea & Flood 2014, figure 17)."""
    z = (state + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def stream_seed(seed: int, stream: Stream, epoch: int = 0, step: int = 0) -> int:
    """Return 64 bits for (trial seed, stream, epoch, step).

    A chain: key = splitmix64(seed), then key = splitmix64(key ^ word) for stream, epoch and step in turn.
    """
    key = splitmix64(seed & _MASK)
    for word in (stream, epoch, step):
        key = splitmix64(key ^ word)
    return key


def generator(seed: int, stream: Stream, epoch: int = 0, step: int = 0, device: str = "cpu") -> torch.Generator:
    """Return a generator on `device` that stands at the start of that stream."""
    return torch.Generator(device).manual_seed(stream_seed(seed, stream, epoch, step))
