"""Random streams as functions of (trial seed, epoch, step): no draw depends on what ran before in the process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
# Permutations that are drawn ahead, at most: each has 8 bytes an example.
MOST_AHEAD = 512


class Stream(IntEnum):
    """What a stream is drawn for."""

    INIT = 1
    ORDER = 2
    DROPOUT = 3
    AUGMENTATION = 4
    NOISE = 5
    OWN = 6


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


def permutation(seed: int, epoch: int, examples: int) -> Tensor:
    """Return the order in which an epoch takes the examples, `[examples]`, on the CPU."""
    return torch.randperm(examples, generator=generator(seed, Stream.ORDER, epoch))


class Permutations:
    """Orders of epochs; with `ahead`, those that are expected are drawn by a thread while a GPU trains."""

    def __init__(self, *, ahead: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "permutations") if ahead else None
        self._drawn: dict[tuple[int, int, int], Future[Tensor]] = {}

    def of(self, seed: int, epoch: int, examples: int) -> Tensor:
        """Return `permutation` of the same, to be asked for once."""
        drawn = self._drawn.pop((seed, epoch, examples), None)
        return permutation(seed, epoch, examples) if drawn is None else drawn.result()

    def expect(self, seed: int, epoch: int, examples: int) -> None:
        """Say that an order will be asked for, unless its trial ends before; of those, some are forgotten in turn."""
        if self._thread is None:
            return
        while len(self._drawn) >= MOST_AHEAD:
            del self._drawn[next(iter(self._drawn))]
        self._drawn[seed, epoch, examples] = self._thread.submit(permutation, seed, epoch, examples)


def dropout_words(seed: int, epoch: int, steps: int, layers: int) -> NDArray[np.int32]:
    """Return the two words `[steps, layers, 2]` from which each dropout layer's mask of each step follows."""
    return _words(seed, Stream.DROPOUT, epoch, steps, range(layers))


def augmentation_words(seed: int, epoch: int, steps: int, draws: Sequence[int]) -> NDArray[np.int32]:
    """Return the two words `[steps, draws, 2]` from which each of the `draws` follows, whichever others there are."""
    return _words(seed, Stream.AUGMENTATION, epoch, steps, draws)


def _words(seed: int, stream: Stream, epoch: int, steps: int, counters: Sequence[int]) -> NDArray[np.int32]:
    prefix = splitmix64(splitmix64(splitmix64(seed & _MASK) ^ stream) ^ epoch)
    keys = _splitmix64(np.uint64(prefix) ^ np.arange(steps, dtype=np.uint64))
    last = np.asarray(counters, dtype=np.uint64)
    return _splitmix64(keys[:, None] ^ last).view(np.int32).reshape(steps, len(last), 2)


def dropout_threshold(p: float) -> int:
    """Return what `keeps` compares with, so that it drops with probability p to 32 bits."""
    return min(round(p * 2**32), 2**32 - 1) - 2**31


def keeps(words: Tensor, threshold: Tensor | int, shape: Sequence[int]) -> Tensor:
    """Return which elements of `shape` a dropout layer keeps, for its words `[2]` and the threshold of its p.

    An element's bits are a hash of its index and the words: no state, so that lanes need no generator each and a
    compiled program draws as it goes.
    """
    index = torch.arange(math.prod(shape), dtype=torch.int32, device=words.device).view(*shape)
    return _hashed(index, words[0], words[1]) >= threshold


def uniforms(words: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Return numbers `[*, count]` in [0, 1) for the words `[*, 2]` of a draw, as `keeps` has its bits.

    They are multiples of 2^-24, which float32 holds, so that they do not depend on `dtype`.
    """
    index = torch.arange(count, dtype=torch.int32, device=words.device)
    bits = _hashed(index, words[..., 0, None], words[..., 1, None])
    return (bits >> 8 & 0xFFFFFF).to(dtype) * 2**-24


def _hashed(index: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the 32 bits of each index: lowbias32 (Wellons 2018), with a word before each of its multiplications."""
    x = index ^ first
    x = (x ^ (x >> 16 & 0xFFFF)) * 0x7FEB352D ^ second
    x = (x ^ (x >> 15 & 0x1FFFF)) * (0x846CA68B - (1 << 32))
    return x ^ (x >> 16 & 0xFFFF)


def _splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return `splitmix64` of each element; products wrap around, as they must."""
    z = state + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
