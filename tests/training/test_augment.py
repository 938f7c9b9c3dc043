"""Augmentation: each transform against NumPy, SciPy or Pillow, how draws are distributed, and whose they are."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy import ndimage, stats
from torch import Tensor

from swathe.training import augment, streams
from swathe.training.augment import Augment, Draw, Pixels
from swathe.training.recipe import Augmentation, Recipe, SequenceShape

Array = NDArray[Any]

BLACK, MEAN, WHITE = [-1.5, -1.0, -0.5], [0.0, 0.0, 0.0], [2.0, 1.5, 3.0]
PIXELS = torch.tensor([BLACK, MEAN, WHITE], dtype=torch.float64)


def pixels(channels: int) -> Pixels:
    return Pixels(*PIXELS[:, :channels, None, None])


def images(batch: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Return standardised images between black and white."""
    values = torch.rand(batch, channels, height, width, dtype=torch.float64, generator=torch.manual_seed(seed))
    black, white = pixels(channels).black, pixels(channels).white
    return black + values * (white - black)


def number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def assert_close(ours: Tensor, theirs: Array | Tensor, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(ours.numpy(), np.asarray(theirs), rtol=0, atol=tolerance)


SIZES = st.tuples(st.integers(1, 4), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9))


# Images.


def test_a_flip_changes_left_and_right() -> None:
    x = images(3, 3, 4, 5)
    ours = augment.flipped(x, torch.tensor([True, False, True]))
    assert_close(ours, np.stack([np.flip(x[0].numpy(), -1), x[1].numpy(), np.flip(x[2].numpy(), -1)]))


@given(size=SIZES, most=st.integers(0, 8), seed=st.integers(0, 99))
def test_a_crop_is_padding_with_black_and_cutting_out(size: tuple[int, int, int, int], most: int, seed: int) -> None:
    x, draw = images(*size), np.random.default_rng(seed)
    rows, columns = draw.integers(-most, most + 1, (2, size[0]))
    ours = augment.shifted(x, torch.from_numpy(rows), torch.from_numpy(columns), pixels(size[1]).black)
    for image, one, down, right in zip(ours, x, rows, columns, strict=True):
        pad = [(most, most), (most, most)]
        padded = [np.pad(plane, pad, constant_values=black) for plane, black in zip(one, BLACK, strict=False)]
        top, left = most + down, most + right
        assert_close(image, np.stack(padded)[:, top : top + size[2], left : left + size[3]])


@given(size=SIZES, degrees=st.floats(-180, 180))
def test_a_rotation_is_scipy_s(size: tuple[int, int, int, int], degrees: float) -> None:
    x = images(*size)
    ours = augment.rotated(x, torch.full((size[0],), degrees, dtype=torch.float64), pixels(size[1]).black)
    angle = math.radians(degrees)
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = np.array([(size[2] - 1) / 2, (size[3] - 1) / 2])
    for image, one in zip(ours, x, strict=True):
        for plane, ours_plane, black in zip(one, image, BLACK, strict=False):
            turned = ndimage.affine_transform(
                plane.numpy(), matrix, middle - matrix @ middle, order=1, mode="grid-constant", cval=black
            )
            assert_close(ours_plane, turned, 1e-9)


def test_a_quarter_turn_is_numpy_s() -> None:
    x = images(2, 1, 6, 6)
    ours = augment.rotated(x, torch.tensor([90.0, -90.0], dtype=torch.float64), pixels(1).black)
    assert_close(ours[0], np.rot90(x[0], -1, axes=(1, 2)), 1e-12)
    assert_close(ours[1], np.rot90(x[1], 1, axes=(1, 2)), 1e-12)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "enhancer"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
def test_colours_are_pillow_s_whatever_images_are_scaled_by(channels: int, name: str, enhancer: Any) -> None:
    # Pillow has whole numbers from 0 to 255, and so two roundings at most.
    raw = np.random.default_rng(1).integers(0, 256, (4, channels, 7, 5), dtype=np.uint8)
    scale = pixels(channels)
    black, span = scale.black.numpy(), (scale.white - scale.black).numpy()
    for factor in (0.0, 0.4, 1.0, 1.7):
        factors = torch.full((4,), factor, dtype=torch.float64)
        ours = augment.coloured(torch.from_numpy(raw / 255 * span + black), scale, **{name: factors})
        values = (ours.numpy() - black) / span
        for one, before in zip(values, raw, strict=True):
            picture = Image.fromarray(before[0] if channels == 1 else before.transpose(1, 2, 0))
            theirs = np.asarray(enhancer(picture).enhance(factor))
            theirs = theirs[None] if channels == 1 else theirs.transpose(2, 0, 1)
            np.testing.assert_allclose(one * 255, theirs, rtol=0, atol=2.0)


@given(size=SIZES, side=st.integers(0, 12), places=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)))
def test_cutout_fills_a_square_with_the_mean(
    size: tuple[int, int, int, int], side: int, places: tuple[float, float]
) -> None:
    x = images(*size)
    row, column = (torch.full((size[0],), place, dtype=torch.float64) for place in places)
    ours = augment.cut_out(x, row, column, number(side), pixels(size[1]).mean)
    expected = x.clone()
    top, left = int(places[0] * size[2]) - side // 2, int(places[1] * size[3]) - side // 2
    expected[:, :, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0.0
    assert_close(ours, expected)


def test_mixup_mixes_with_the_example_before() -> None:
    x = torch.arange(12.0).view(4, 3)
    assert_close(augment.mixed(x, number(0.75), 0), 0.75 * x.numpy() + 0.25 * np.roll(x.numpy(), 1, 0))
    assert torch.equal(augment.mixed(x, number(1.0), 0).float(), x)


# Series.


@given(length=st.integers(1, 12), share=st.floats(0, 1), start=st.floats(0, 0.999), variables=st.integers(1, 3))
def test_a_window_is_stretched_by_straight_lines(length: int, share: float, start: float, variables: int) -> None:
    series = torch.randn(2, variables, length, dtype=torch.float64, generator=torch.manual_seed(length))
    ours = augment.sliced(series, torch.full((2,), start, dtype=torch.float64), number(share))
    first = start * share * (length - 1)
    places = np.linspace(first, first + (1 - share) * (length - 1), length)
    for one, before in zip(ours, series, strict=True):
        assert_close(one, np.stack([np.interp(places, np.arange(length), variable) for variable in before]), 1e-10)


def test_scaling_is_of_a_variable_and_jitter_of_a_value() -> None:
    series = torch.randn(2, 3, 5, dtype=torch.float64)
    of_variables, of_values = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    assert_close(
        augment.scaled(series, of_variables, number(0.2)),
        series.numpy() * (1 + 0.2 * of_variables.numpy())[:, :, None],
    )
    assert_close(augment.jittered(series, of_values, number(0.2)), series.numpy() + 0.2 * of_values.numpy())


def test_normal_numbers_are_normal() -> None:
    words = torch.from_numpy(streams.augmentation_words(3, 1, 1, [4, 5])[0])
    first, second = streams.uniforms(words, 20_000, torch.float64)
    drawn = augment.normal(first, second)
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 0.01
    assert bool(augment.normal(torch.tensor([1 - 2**-24]), torch.tensor([0.0])).isfinite())


# Texts.


def test_dropped_tokens_are_unknown_and_padding_stays() -> None:
    tokens = torch.tensor([[0, 0, 5, 6, 7], [0, 2, 3, 4, 5]])
    drop = torch.tensor([[True, False, True, False, True], [True, False, False, True, False]])
    assert augment.dropped(tokens, drop).tolist() == [[0, 0, 1, 6, 1], [0, 2, 3, 1, 5]]


def test_synonyms_are_taken_evenly_and_what_has_none_stays() -> None:
    table = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1], [3, 4, 5, 6], [1, 2, 0, 0]])
    tokens = torch.tensor([[2] * 6, [3, 3, 3, 1, 0, 2]])
    which = torch.tensor([[0.0, 0.3, 0.34, 0.6, 0.7, 0.99], [0.0, 0.5, 0.9, 0.5, 0.5, 0.5]])
    replace_ = torch.tensor([[True] * 6, [True, True, False, True, True, False]])
    assert augment.replaced(tokens, replace_, which, table).tolist() == [[4, 4, 5, 5, 6, 6], [2, 2, 3, 1, 0, 2]]


# Draws.


def test_whole_numbers_are_even_up_to_both_ends() -> None:
    words = torch.from_numpy(streams.augmentation_words(0, 1, 1, [0])[0])
    drawn = augment.symmetric(streams.uniforms(words, 35_000, torch.float32)[0], torch.tensor([3.0]))
    counts = torch.bincount(drawn + 3).numpy()
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 0.01


@given(most=st.integers(0, 10_000))
def test_no_whole_number_is_beyond_an_end(most: int) -> None:
    ends = torch.tensor([0.0, 1 - 2**-24], dtype=torch.float32)
    assert augment.symmetric(ends, torch.tensor([float(most)])).tolist() == [-most, most]


def test_uniform_numbers_are_uniform_and_no_draw_repeats_another() -> None:
    def drawn(seed: int, epoch: int, step: int, draw: Draw) -> Array:
        words = torch.from_numpy(streams.augmentation_words(seed, epoch, step + 1, [draw])[step])
        return streams.uniforms(words, 4096, torch.float64)[0].numpy()

    others = [drawn(*key) for key in ((7, 3, 2, Draw.FLIP), (8, 3, 2, Draw.FLIP), (7, 4, 2, Draw.FLIP))]
    others += [drawn(7, 3, 1, Draw.FLIP), drawn(7, 3, 2, Draw.ROTATION)]
    for one in others:
        assert stats.kstest(one, "uniform").pvalue > 0.005
    between = np.abs(np.corrcoef(others) - np.eye(len(others)))
    assert between.max() < 0.06
    # Nor does an example's number say anything of its neighbour's.
    assert abs(np.corrcoef(others[0][:-1], others[0][1:])[0, 1]) < 0.06


def test_a_draw_does_not_depend_on_the_others() -> None:
    both = streams.augmentation_words(5, 2, 3, [Draw.FLIP, Draw.ROTATION])
    np.testing.assert_array_equal(both[:, 1:], streams.augmentation_words(5, 2, 3, [Draw.ROTATION]))


def test_numbers_do_not_depend_on_precision() -> None:
    words = torch.from_numpy(streams.augmentation_words(5, 2, 3, [1])[0])
    single, double = (streams.uniforms(words, 999, dtype) for dtype in (torch.float32, torch.float64))
    assert torch.equal(single.double(), double)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 4.0])
def test_mixup_s_share_is_of_the_beta_distribution(alpha: float) -> None:
    recipe = Recipe(augmentation=Augmentation(mixup=alpha), seed=11)
    shares = Augment(("mixup",), None).strengths(recipe, 1, 4000)[:, 0]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    other = Augment(("mixup",), None).strengths(replace(recipe, seed=12), 1, 4000)[:, 0]
    assert abs(np.corrcoef(shares, other)[0, 1]) < 0.06


# All of them.

EVERY = Augmentation(flip=0.4, crop=2, rotation=30.0, brightness=0.3, contrast=0.5, saturation=0.4, cutout=3, mixup=0.7)
NOTHING: dict[str, float] = {**dict.fromkeys(EVERY.names, 0.0), "mixup": 1.0}


@st.composite
def lanes_of_images(draw: st.DrawFn) -> tuple[Augment, Tensor, Tensor, Tensor, Tensor]:
    """Return augmentations, and of some lanes the examples, words and strengths; and the pixels."""
    lanes, (batch, channels, height, width) = draw(st.integers(1, 3)), draw(SIZES)
    names = tuple(name for name in EVERY.names if draw(st.booleans()))
    x = images(lanes * batch, channels, height, width).view(lanes, batch, -1)
    ours = Augment(names, (channels, height, width))
    words = np.stack([ours.words(draw(st.integers(0, 2**63 - 1)), 1, 1)[0] for _ in range(lanes)])
    limits = {"crop": 4.0, "cutout": 9.0, "rotation": 180.0}
    strengths = [[draw(st.floats(0, limits.get(name, 1.0))) for name in names] for _ in range(lanes)]
    table = torch.tensor(strengths, dtype=torch.float64).view(lanes, len(names))
    for index, name in enumerate(names):
        if name in ("crop", "cutout"):
            table[:, index].floor_()
    return ours, x, torch.from_numpy(words), table, PIXELS[:, :channels]


@given(drawn=lanes_of_images())
def test_a_lane_is_what_it_is_alone(drawn: tuple[Augment, Tensor, Tensor, Tensor, Tensor]) -> None:
    ours, x, words, strengths, values = drawn
    together = ours(x, words, strengths, [values])
    for lane in range(len(x)):
        # Sums over a picture may be in another order.
        alone = ours(x[lane], words[lane], strengths[lane], [values])
        assert_close(together[lane], alone, 1e-12)
        black, white = PIXELS[0].min(), PIXELS[2].max()
        assert bool(((alone >= black - 1e-9) & (alone <= white + 1e-9)).all())


@given(drawn=lanes_of_images())
def test_a_strength_of_0_changes_nothing(drawn: tuple[Augment, Tensor, Tensor, Tensor, Tensor]) -> None:
    ours, x, words, _, values = drawn
    none = torch.tensor([[NOTHING[name] for name in ours.names]] * len(x), dtype=torch.float64).view(len(x), -1)
    assert_close(ours(x, words, none, [values]), x, 1e-12)


def test_they_are_applied_in_the_order_of_the_recipe() -> None:
    assert EVERY.names == ("flip", "crop", "rotation", "brightness", "contrast", "saturation", "cutout", "mixup")
    ours = Augment(EVERY.names, (3, 6, 5))
    x = images(8, 3, 6, 5)
    recipe = Recipe(augmentation=EVERY, seed=3)
    words = torch.from_numpy(ours.words(3, 2, 4)[1])
    strengths = torch.from_numpy(ours.strengths(recipe, 2, 4)[1])
    drawn = dict(zip(ours.draws, streams.uniforms(words, 8, torch.float64), strict=True))
    scale = pixels(3)

    def around(draw: Draw, most: float) -> Tensor:
        return (2 * drawn[draw] - 1) * most

    expected = augment.flipped(x, drawn[Draw.FLIP] < 0.4)
    moves = (augment.symmetric(drawn[draw], number(2.0)) for draw in (Draw.CROP_ROW, Draw.CROP_COLUMN))
    expected = augment.shifted(expected, *moves, scale.black)
    expected = augment.rotated(expected, around(Draw.ROTATION, 30.0), scale.black)
    expected = augment.coloured(expected, scale, brightness=1 + around(Draw.BRIGHTNESS, 0.3))
    expected = augment.coloured(expected, scale, contrast=1 + around(Draw.CONTRAST, 0.5))
    expected = augment.coloured(expected, scale, saturation=1 + around(Draw.SATURATION, 0.4))
    middles = drawn[Draw.CUTOUT_ROW], drawn[Draw.CUTOUT_COLUMN]
    expected = augment.cut_out(expected, *middles, number(3.0), scale.mean).flatten(1)
    expected = augment.mixed(expected, strengths[-1], 0)
    assert_close(ours(x.flatten(1), words, strengths, [PIXELS]), expected, 1e-12)


def test_a_paraphrase_is_as_likely_as_it_is_said_to_be_and_has_rows_below() -> None:
    ours = Augment(("back_translation",), None, SequenceShape(4, vocabulary=9))
    recipe = Recipe(augmentation=Augmentation(back_translation=0.3, translator="a:b"), seed=5)
    words, strengths = torch.from_numpy(ours.words(5, 1, 1)[0]), torch.from_numpy(ours.strengths(recipe, 1, 1)[0])
    rows = torch.arange(10_000)
    taken = ours.rows(rows, words, strengths, 10_000)
    reworded = taken >= 10_000
    assert torch.equal(taken - 10_000 * reworded, rows)
    assert stats.binomtest(int(reworded.sum()), 10_000, 0.3).pvalue > 0.01


@given(
    lanes=st.integers(1, 3),
    batch=st.integers(1, 4),
    length=st.integers(1, 7),
    strengths=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_tokens_change_as_often_as_is_said_and_as_they_do_alone(
    lanes: int, batch: int, length: int, strengths: tuple[float, float]
) -> None:
    ours = Augment(("synonym_replacement", "token_dropout"), None, SequenceShape(length, vocabulary=6))
    table = torch.tensor([[0, 0, 0], [0, 0, 0], [2, 3, 4], [1, 2, 0], [0, 0, 0], [0, 0, 0]])
    x = torch.randint(0, 6, (lanes, batch, length), generator=torch.manual_seed(length))
    words = torch.from_numpy(np.stack([ours.words(seed, 1, 1)[0] for seed in range(lanes)]))
    rates = torch.tensor([strengths] * lanes, dtype=torch.float64)
    together = ours(x, words, rates, [table])
    for lane in range(lanes):
        assert torch.equal(together[lane], ours(x[lane], words[lane], rates[lane], [table]))
    assert torch.equal(ours(x, words, 0 * rates, [table]), x)
    every = ours(x, words, 0 * rates + 1, [table])
    assert torch.equal(every, torch.where(x == 0, 0, 1))


@given(lanes=st.integers(1, 3), size=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 8)))
def test_a_series_changes_as_it_does_alone(lanes: int, size: tuple[int, int, int]) -> None:
    batch, variables, length = size
    ours = Augment(("window_slicing", "scaling", "jitter", "mixup"), None, SequenceShape(length, variables))
    x = torch.randn(lanes, batch, variables * length, dtype=torch.float64, generator=torch.manual_seed(length))
    words = torch.from_numpy(np.stack([ours.words(seed, 1, 1)[0] for seed in range(lanes)]))
    strengths = torch.rand(lanes, 4, dtype=torch.float64, generator=torch.manual_seed(lanes))
    together = ours(x, words, strengths, [])
    for lane in range(lanes):
        assert_close(together[lane], ours(x[lane], words[lane], strengths[lane], []))
    none = torch.tensor([[0.0, 0.0, 0.0, 1.0]] * lanes, dtype=torch.float64)
    assert_close(ours(x, words, none, []), x)
