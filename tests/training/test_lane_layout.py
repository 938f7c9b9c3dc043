"""Where tensors lie in a lane's row: nothing overlaps, nothing is lost, large tensors are read where they are."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swathe.training.lane_layout import Layout

SHAPES = st.lists(
    st.sampled_from([(3,), (16,), (10, 128), (64, 64), (4096,), (17, 300), (8, 3, 5, 5), (1,)]), min_size=1, max_size=8
)


def layout_of(shapes: list[tuple[int, ...]]) -> Layout:
    return Layout.of({f"t{index}": torch.empty(shape) for index, shape in enumerate(shapes)})


@settings(max_examples=60, deadline=None)
@given(shapes=SHAPES, lanes=st.integers(1, 3))
def test_what_is_joined_is_found_again(shapes: list[tuple[int, ...]], lanes: int) -> None:
    layout = layout_of(shapes)
    tensors = [torch.randn(lanes, *shape) for shape in shapes]
    pieces = layout.join(tensors)
    assert [piece.shape for piece in pieces] == [(lanes, piece.end - piece.begin) for piece in layout.pieces]
    rows = torch.full((lanes, layout.width), 7.0)
    for place, piece in zip(layout.cut(rows), pieces, strict=True):
        place.copy_(piece)
    for found, tensor in zip(layout.tensors(rows), tensors, strict=True):
        assert torch.equal(found, tensor)
    used = sum(tensor.numel() for tensor in tensors)
    # What is between them is 0 in every piece, or in none.
    untouched = int((rows == 7.0).sum())
    assert untouched == lanes * (layout.width - sum(piece.end - piece.begin for piece in layout.pieces))
    assert int((rows != 0).sum()) == used + untouched


@given(shapes=SHAPES)
def test_each_tensor_begins_at_a_whole_vector(shapes: list[tuple[int, ...]]) -> None:
    layout = layout_of(shapes)
    assert all(offset % 16 == 0 for offset in layout.offsets)
    assert layout.width % 16 == 0
    ends = sorted((offset, offset + shape.numel()) for offset, shape in zip(layout.offsets, layout.shapes, strict=True))
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ends))


def test_a_large_tensor_is_not_copied() -> None:
    layout = layout_of([(5,), (64, 64), (3,)])
    gradient = torch.randn(2, 64, 64)
    large, small = layout.join([torch.randn(2, 5), gradient, torch.randn(2, 3)])
    assert large.data_ptr() == gradient.data_ptr()
    assert small.shape == (2, 19)
    assert [piece.tensors for piece in layout.pieces] == [(1,), (0, 2)]


@pytest.mark.parametrize("lanes", [1, 4])
def test_tensors_are_views_of_the_rows(lanes: int) -> None:
    layout = layout_of([(64, 64), (3,)])
    rows = torch.zeros(lanes, layout.width)
    for tensor in layout.tensors(rows):
        tensor += 1
    assert float(rows.sum()) == lanes * (64 * 64 + 3)


@given(one=SHAPES, other=SHAPES)
def test_rows_of_two_networks_lie_side_by_side(one: list[tuple[int, ...]], other: list[tuple[int, ...]]) -> None:
    parts = {"a": layout_of(one), "b": layout_of(other)}
    both, width = Layout.beside(parts), parts["a"].width
    assert both.width == width + parts["b"].width
    assert both.names == (*(f"a.{name}" for name in parts["a"].names), *(f"b.{name}" for name in parts["b"].names))
    rows = torch.arange(2 * both.width, dtype=torch.float64).view(2, -1)
    apart = [*parts["a"].tensors(rows[:, :width]), *parts["b"].tensors(rows[:, width:])]
    assert all(map(torch.equal, both.tensors(rows), apart))
    pieces = [*parts["a"].cut(rows[:, :width]), *parts["b"].cut(rows[:, width:])]
    assert all(map(torch.equal, both.cut(rows), pieces))
    assert both.columns([0, sum(parts["a"].sizes)]) == [parts["a"].columns([0])[0], width + parts["b"].columns([0])[0]]
