"""Where a lane's tensors lie: all parameters of a network in one row, so that K lanes are one matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Each tensor begins at a multiple of so many elements: 64 bytes of float32. Matrix products may depend on alignment in
# their last bits, and a trial's numbers must not depend on its lane.
_UNIT = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and shapes of one lane's tensors, and where each begins in its row of `width` elements."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    offsets: tuple[int, ...]
    width: int

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        """Lay out tensors one after the other."""
        offsets, width = [], 0
        for tensor in tensors.values():
            offsets.append(width)
            width += -(-tensor.numel() // _UNIT) * _UNIT
        return cls(tuple(tensors), tuple(tensor.shape for tensor in tensors.values()), tuple(offsets), width)

    def split(self, rows: Tensor) -> list[Tensor]:
        """Return each tensor of `rows` `[K, width]` as a view `[K, *shape]`."""
        return [
            rows[:, offset : offset + shape.numel()].view(-1, *shape)
            for offset, shape in zip(self.offsets, self.shapes, strict=True)
        ]

    def join(self, tensors: list[Tensor]) -> Tensor:
        """Return rows `[K, width]` of tensors `[K, *shape]`, with zeros between them."""
        # Not `len`, which would fix the number in a graph that is traced.
        lanes, parts = tensors[0].shape[0], []
        for index, (tensor, shape) in enumerate(zip(tensors, self.shapes, strict=True)):
            parts.append(tensor.reshape(lanes, shape.numel()))
            end = self.offsets[index + 1] if index + 1 < len(self.offsets) else self.width
            if gap := end - self.offsets[index] - shape.numel():
                # A block of zeros and no padding, which would fix it too.
                parts.append(tensor.new_zeros(lanes, gap))
        return torch.cat(parts, dim=1)
