"""Where a lane's tensors lie: all parameters of a network in one row, so that K lanes are one matrix."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

# Each tensor begins at a multiple of so many elements: 64 bytes of float32. Matrix products may depend on alignment in
# their last bits, and a trial's numbers must not depend on its lane.
_UNIT = 16
# A tensor of at least so many elements is updated by itself, with its gradient where a product has put it. A pass over
# each of the small ones would cost more than to copy their gradients side by side.
_LARGE = 4096


@dataclass(frozen=True, slots=True)
class Piece:
    """The columns of a row from `begin` to `end`, and which tensors lie there, in order."""

    begin: int
    end: int
    tensors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and shapes of one lane's tensors, and where each begins in its row of `width` elements.

    Each large tensor is a piece of the row, and so are all small ones together, if there are any.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    offsets: tuple[int, ...]
    pieces: tuple[Piece, ...]
    width: int

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        """Lay out tensors one after the other, the large ones first."""
        shapes = tuple(tensor.shape for tensor in tensors.values())
        large = [(index,) for index, shape in enumerate(shapes) if shape.numel() >= _LARGE]
        small = tuple(index for index, shape in enumerate(shapes) if shape.numel() < _LARGE)
        offsets, pieces, width = [0] * len(shapes), [], 0
        for members in (*large, small) if small else large:
            begin = width
            for index in members:
                offsets[index] = width
                end = width + shapes[index].numel()
                width = -(-end // _UNIT) * _UNIT
            pieces.append(Piece(begin, end, members))
        return cls(tuple(tensors), shapes, tuple(offsets), tuple(pieces), width)

    @classmethod
    def beside(cls, layouts: Mapping[str, Layout]) -> Layout:
        """Lay out rows of several networks side by side as one; the tensor `t` of the network `n` is called `n.t`."""
        names: list[str] = []
        shapes: list[torch.Size] = []
        offsets: list[int] = []
        pieces: list[Piece] = []
        width = 0
        for network, layout in layouts.items():
            for piece in layout.pieces:
                tensors = tuple(len(names) + index for index in piece.tensors)
                pieces.append(Piece(width + piece.begin, width + piece.end, tensors))
            names += [f"{network}.{name}" for name in layout.names]
            shapes += layout.shapes
            offsets += [width + offset for offset in layout.offsets]
            width += layout.width
        return cls(tuple(names), tuple(shapes), tuple(offsets), tuple(pieces), width)

    @property
    def size(self) -> int:
        """The number of elements of all tensors, without what lies between them."""
        return sum(shape.numel() for shape in self.shapes)

    def cut(self, rows: Tensor) -> list[Tensor]:
        """Return the pieces of `rows` `[K, width]` as views."""
        return [rows[:, piece.begin : piece.end] for piece in self.pieces]

    def split(self, pieces: list[Tensor]) -> list[Tensor]:
        """Return each tensor that lies in the pieces of K rows as a view `[K, *shape]`."""
        found: dict[int, Tensor] = {}
        for piece, columns in zip(self.pieces, pieces, strict=True):
            for index in piece.tensors:
                shape, begin = self.shapes[index], self.offsets[index] - piece.begin
                found[index] = columns[:, begin : begin + shape.numel()].view(-1, *shape)
        return [found[index] for index in range(len(self.names))]

    def columns(self, elements: Sequence[int]) -> list[int]:
        """Return where in a row these elements lie, counted through all tensors one after the other."""
        begins = [0, *accumulate(self.sizes)]
        tensors = [bisect_right(begins, element) - 1 for element in elements]
        return [self.offsets[at] + element - begins[at] for at, element in zip(tensors, elements, strict=True)]

    @property
    def sizes(self) -> list[int]:
        """How many elements each tensor has."""
        return [shape.numel() for shape in self.shapes]

    def place(self, tensor: int) -> tuple[int, slice]:
        """Return in which piece a tensor lies, and where in it."""
        index = next(index for index, piece in enumerate(self.pieces) if tensor in piece.tensors)
        begin = self.offsets[tensor] - self.pieces[index].begin
        return index, slice(begin, begin + self.shapes[tensor].numel())

    def runs(self, groups: Sequence[int]) -> list[list[tuple[int, int]]]:
        """Return, of each piece, in which group its columns are, one after the other, and how many; gaps included.

        `groups` has the group of each tensor.
        """
        found: list[list[tuple[int, int]]] = []
        for piece in self.pieces:
            begins = [self.offsets[index] for index in piece.tensors]
            runs: list[tuple[int, int]] = []
            for index, begin, end in zip(piece.tensors, begins, [*begins[1:], piece.end], strict=True):
                before = runs.pop()[1] if runs and runs[-1][0] == groups[index] else 0
                runs.append((groups[index], before + end - begin))
            found.append(runs)
        return found

    def tensors(self, rows: Tensor) -> list[Tensor]:
        """Return each tensor of `rows` `[K, width]` as a view `[K, *shape]`."""
        return self.split(self.cut(rows))

    def join(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the pieces of K rows of tensors `[K, *shape]`, with zeros between them."""
        return [self._piece(piece, tensors) for piece in self.pieces]

    def _piece(self, piece: Piece, tensors: list[Tensor]) -> Tensor:
        # Not `len`, which would fix the number in a graph that is traced.
        lanes, parts = tensors[0].shape[0], []
        for index, end in zip(piece.tensors, [*(self.offsets[i] for i in piece.tensors[1:]), piece.end], strict=True):
            size = self.shapes[index].numel()
            parts.append(tensors[index].reshape(lanes, size))
            if gap := end - self.offsets[index] - size:
                # A block of zeros and no padding, which would fix it too.
                parts.append(tensors[index].new_zeros(lanes, gap))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
