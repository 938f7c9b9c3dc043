"""Augmentation: training examples are changed at random within the step, each lane with strengths and draws of its own.

Every function takes the examples of one trial, or of K lanes with one more axis in front, written `*`; a strength is
`[*, 1]`, or `[1]` for one trial. There is no state: what is drawn for an example is a hash of its place in the batch
and the words of (trial seed, epoch, step, draw), see `streams`. A strength of 0 leaves an example as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from swathe.training.data import Dataset
from swathe.training.recipe import IMAGE_AUGMENTATIONS, Recipe, SequenceShape
from swathe.training.streams import augmentation_words, uniforms
from swathe.training.text import PADDING, UNKNOWN
from swathe.training.wording import MOST_SYNONYMS


class Draw(IntEnum):
    """What a number is drawn for; of these, a trial's draws are those of the augmentations that it has."""

    FLIP = 0
    CROP_ROW = auto()
    CROP_COLUMN = auto()
    ROTATION = auto()
    BRIGHTNESS = auto()
    CONTRAST = auto()
    SATURATION = auto()
    CUTOUT_ROW = auto()
    CUTOUT_COLUMN = auto()
    MIXUP = auto()
    WINDOW_START = auto()
    SCALE = auto()
    SCALE_ANGLE = auto()
    NOISE = auto()
    NOISE_ANGLE = auto()
    BACK_TRANSLATION = auto()
    REPLACE = auto()
    SYNONYM = auto()
    TOKEN_DROPOUT = auto()


# The draws of each augmentation, in the order in which they are applied; mixup's is one number for all of a step.
_DRAWS: dict[str, tuple[Draw, ...]] = {
    "flip": (Draw.FLIP,),
    "crop": (Draw.CROP_ROW, Draw.CROP_COLUMN),
    "rotation": (Draw.ROTATION,),
    "brightness": (Draw.BRIGHTNESS,),
    "contrast": (Draw.CONTRAST,),
    "saturation": (Draw.SATURATION,),
    "cutout": (Draw.CUTOUT_ROW, Draw.CUTOUT_COLUMN),
    "window_slicing": (Draw.WINDOW_START,),
    "scaling": (Draw.SCALE, Draw.SCALE_ANGLE),
    "jitter": (Draw.NOISE, Draw.NOISE_ANGLE),
    "back_translation": (Draw.BACK_TRANSLATION,),
    "synonym_replacement": (Draw.REPLACE, Draw.SYNONYM),
    "token_dropout": (Draw.TOKEN_DROPOUT,),
    "mixup": (),
}
# Columns to the left and to the right, and rows above and below.
_BORDER = (1, 2, 1, 2)
_COLOURS = ("brightness", "contrast", "saturation")
# Of red, green and blue, in what a grey picture is (ITU-R BT.601), as torchvision and Pillow have it.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Pixels:
    """What the values of images mean: black, the training part's mean and white, each `[channels, 1, 1]`."""

    black: Tensor
    mean: Tensor
    white: Tensor


@dataclass(frozen=True, slots=True)
class Augment:
    """The augmentations that are switched on, by name, for images `[channels, height, width]`, sequences or tables."""

    names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None = None
    sequence: SequenceShape | None = None

    @classmethod
    def of(cls, recipe: Recipe, dataset: Dataset) -> Augment:
        """Return what a recipe switches on."""
        return cls(recipe.augmentation.names, dataset.image_shape, dataset.sequence)

    @property
    def draws(self) -> tuple[Draw, ...]:
        """What is drawn, in the order of the words."""
        return tuple(draw for name in self.names for draw in _DRAWS[name])

    def words(self, seed: int, epoch: int, steps: int) -> NDArray[np.int32]:
        """Return what an epoch's draws follow from, `[steps, draws, 2]`."""
        return augmentation_words(seed, epoch, steps, self.draws)

    def strengths(self, recipe: Recipe, epoch: int, steps: int) -> NDArray[np.float64]:
        """Return the strength of each augmentation in an epoch's steps `[steps, names]`; of mixup, the share of each.

        The share is of a step: Beta(alpha, alpha) as the quantile of a number in (0, 1) (Zhang et al. 2018, section 2).
        """
        table = np.empty((steps, len(self.names)))
        for column, name in enumerate(self.names):
            table[:, column] = getattr(recipe.augmentation, name)
            if name == "mixup":
                bits = augmentation_words(recipe.seed, epoch, steps, [Draw.MIXUP]).view(np.uint64)[:, 0, 0]
                uniform = ((bits >> np.uint64(11)) + 0.5) * 2.0**-53
                table[:, column] = betaincinv(recipe.augmentation.mixup, recipe.augmentation.mixup, uniform)
        return table

    def share(self, strengths: Tensor) -> Tensor | None:
        """Return a step's share of each example itself, beside that of its partner, `[*, 1]`; None without mixup."""
        return self._strengths(strengths).get("mixup")

    # What a program is given of a dataset.

    def examples(self, dataset: Dataset) -> Tensor:
        """Return the training part's features, with a text's paraphrases below them."""
        if not self._rewords:
            return dataset.train_x
        assert dataset.paraphrases is not None
        return torch.cat([dataset.train_x, dataset.paraphrases.to(dataset.train_x.device)])

    def example_rows(self, examples: int) -> int:
        """Return how many rows that has."""
        return 2 * examples if self._rewords else examples

    def constants(self, dataset: Dataset, device: str, dtype: torch.dtype) -> list[Tensor]:
        """Return what a call needs to know of a dataset: of images `Dataset.pixels`, and a text's `synonyms`."""
        found = [torch.tensor(dataset.pixels, dtype=dtype, device=device)] if self._changes_images else []
        if "synonym_replacement" in self.names:
            assert dataset.synonyms is not None
            found.append(dataset.synonyms.to(device))
        return found

    def blank_constants(self, device: str, dtype: torch.dtype) -> list[Tensor]:
        """Return tensors of their shapes."""
        found = []
        if self._changes_images and self.image_shape is not None:
            found.append(torch.zeros(3, self.image_shape[0], dtype=dtype, device=device))
        if "synonym_replacement" in self.names and self.sequence is not None:
            shape = self.sequence.vocabulary, 1 + MOST_SYNONYMS
            found.append(torch.zeros(shape, dtype=torch.int64, device=device))
        return found

    # What a step does.

    def rows(self, rows: Tensor, words: Tensor, strengths: Tensor, examples: int) -> Tensor:
        """Return the rows of the features for those of so many `examples`, `[*, batch]`: at random a paraphrase's."""
        if not self._rewords:
            return rows
        draw = words[..., self.draws.index(Draw.BACK_TRANSLATION), :]
        reworded = uniforms(draw, rows.shape[-1], strengths.dtype) < self._strengths(strengths)["back_translation"]
        return rows + examples * reworded

    def __call__(self, x: Tensor, words: Tensor, strengths: Tensor, constants: list[Tensor]) -> Tensor:
        """Return the examples `[*, batch, features]` of a step, changed.

        `words` are `[*, draws, 2]` and `strengths` `[*, names]`, a row for each lane.
        """
        strength = self._strengths(strengths)

        def drawn(draw: Draw, *shape: int) -> Tensor:
            numbers = uniforms(words[..., self.draws.index(draw), :], math.prod(shape), strengths.dtype)
            return _stored(numbers).view(*numbers.shape[:-1], *shape)

        if self._changes_images and self.image_shape is not None:
            images = x.view(*x.shape[:-1], *self.image_shape)
            x = _images(images, strength, drawn, Pixels(*constants[0][..., None, None])).flatten(-3)
        if self.sequence is not None and self.sequence.vocabulary:
            x = _tokens(x, strength, drawn, constants)
        elif self.sequence is not None:
            series = x.view(*x.shape[:-1], self.sequence.variables, self.sequence.length)
            x = _series(series, strength, drawn).flatten(-2)
        if (share := strength.get("mixup")) is not None:
            x = mixed(x, share.unsqueeze(-1), -2)
        return x

    def _strengths(self, strengths: Tensor) -> dict[str, Tensor]:
        return {name: strengths[..., index, None] for index, name in enumerate(self.names)}

    @property
    def _changes_images(self) -> bool:
        return any(name in IMAGE_AUGMENTATIONS for name in self.names)

    @property
    def _rewords(self) -> bool:
        return "back_translation" in self.names


# Gives as many numbers in [0, 1) as the shape says, and the same ones for the same draw.
Drawn = Callable[..., Tensor]


def _images(images: Tensor, strength: dict[str, Tensor], drawn: Drawn, pixels: Pixels) -> Tensor:
    batch = images.shape[-4]
    if "flip" in strength:
        images = flipped(images, drawn(Draw.FLIP, batch) < strength["flip"])
    if "crop" in strength:
        rows, columns = (symmetric(drawn(draw, batch), strength["crop"]) for draw in _DRAWS["crop"])
        images = shifted(images, rows, columns, pixels.black)
    if "rotation" in strength:
        degrees = (2 * drawn(Draw.ROTATION, batch) - 1) * strength["rotation"]
        images = rotated(images, degrees, pixels.black)
    if colours := [name for name in _COLOURS if name in strength]:
        factors = {name: 1 + (2 * drawn(*_DRAWS[name], batch) - 1) * strength[name] for name in colours}
        images = coloured(images, pixels, **factors)
    if "cutout" in strength:
        rows, columns = (drawn(draw, batch) for draw in _DRAWS["cutout"])
        images = cut_out(images, rows, columns, strength["cutout"], pixels.mean)
    return images


def _series(series: Tensor, strength: dict[str, Tensor], drawn: Drawn) -> Tensor:
    batch, variables, length = series.shape[-3:]
    if "window_slicing" in strength:
        series = sliced(series, drawn(Draw.WINDOW_START, batch), strength["window_slicing"])
    if "scaling" in strength:
        numbers = (drawn(draw, batch, variables) for draw in _DRAWS["scaling"])
        series = scaled(series, normal(*numbers), strength["scaling"])
    if "jitter" in strength:
        numbers = (drawn(draw, batch, variables, length) for draw in _DRAWS["jitter"])
        series = jittered(series, normal(*numbers), strength["jitter"])
    return series


def _tokens(tokens: Tensor, strength: dict[str, Tensor], drawn: Drawn, constants: list[Tensor]) -> Tensor:
    shape = tokens.shape[-2:]
    if "synonym_replacement" in strength:
        replace, which = (drawn(draw, *shape) for draw in _DRAWS["synonym_replacement"])
        tokens = replaced(tokens, replace < strength["synonym_replacement"][..., None], which, *constants)
    if "token_dropout" in strength:
        tokens = dropped(tokens, drawn(Draw.TOKEN_DROPOUT, *shape) < strength["token_dropout"][..., None])
    return tokens


def symmetric(uniform: Tensor, most: Tensor) -> Tensor:
    """Return whole numbers from -most to most, each as likely as any other."""
    # In float32 the product of a multiple of 2^-24 below 1 and a whole number stays below that number.
    return ((uniform * (2 * most + 1)).floor() - most).long()


def flipped(images: Tensor, flip: Tensor) -> Tensor:
    """Mirror those images `[*, batch, channels, height, width]` left to right for which `flip` `[*, batch]` is true."""
    return torch.where(flip[..., None, None, None], images.flip(-1), images)


def shifted(images: Tensor, rows: Tensor, columns: Tensor, fill: Tensor) -> Tensor:
    """Move images by whole `rows` and `columns` `[*, batch]`; what comes in is `fill` `[channels, 1, 1]`.

    It is what padding by the largest shift and cropping at random gives (Krizhevsky 2009; He et al. 2016, section 4.2).
    """
    height, width = images.shape[-2:]
    bordered = _bordered(images, fill)
    y = (_places(images, -2) + rows[..., None]).clamp(-1, height) + 1
    x = (_places(images, -1) + columns[..., None]).clamp(-1, width) + 1
    index = y[..., :, None] * bordered.shape[-1] + x[..., None, :]
    return _taken(bordered, index)


def rotated(images: Tensor, degrees: Tensor, fill: Tensor) -> Tensor:
    """Turn images about their middle by `degrees` `[*, batch]`, with bilinear interpolation; around them is `fill`."""
    height, width = images.shape[-2:]
    bordered = _bordered(images, fill)
    angle = (degrees * (math.pi / 180))[..., None, None]
    cos, sin = _stored(angle.cos()), _stored(angle.sin())
    middle = (height - 1) / 2, (width - 1) / 2
    rows = _places(images, -2).to(images.dtype)[:, None] - middle[0]
    columns = _places(images, -1).to(images.dtype) - middle[1]
    # Beyond the border there is nothing but `fill` between which a place could lie.
    y = _stored((cos * rows - sin * columns + middle[0]).clamp(-1, height))
    x = _stored((sin * rows + cos * columns + middle[1]).clamp(-1, width))
    top, left = y.floor(), x.floor()
    below, right = (y - top).unsqueeze(-3), (x - left).unsqueeze(-3)
    down = bordered.shape[-1]
    index = ((top + 1) * down + (left + 1)).long()
    upper = torch.lerp(_taken(bordered, index), _taken(bordered, index + 1), right)
    lower = torch.lerp(_taken(bordered, index + down), _taken(bordered, index + down + 1), right)
    return torch.lerp(upper, lower, below)


def coloured(
    images: Tensor,
    pixels: Pixels,
    *,
    brightness: Tensor | None = None,
    contrast: Tensor | None = None,
    saturation: Tensor | None = None,
) -> Tensor:
    """Change colours by factors `[*, batch]`, 1 for none, in this order, as torchvision's `adjust_*` do.

    These are defined for values from 0 (black) to 1 (white), so that standardised ones are taken there and back.
    Brightness multiplies them; contrast blends with the mean of the grey picture, and saturation with the grey picture
    itself; after each, what is beyond black or white is that. Images of one channel are grey.
    """
    span = pixels.white - pixels.black
    values = (images - pixels.black) / span
    if brightness is not None:
        values = (values * brightness[..., None, None, None]).clamp(0, 1)
    if contrast is not None:
        values = _blended(values, _grey(values).mean((-3, -2, -1), keepdim=True), contrast)
    if saturation is not None:
        values = _blended(values, _grey(values), saturation)
    return values * span + pixels.black


def cut_out(images: Tensor, rows: Tensor, columns: Tensor, side: Tensor, fill: Tensor) -> Tensor:
    """Fill a square of `side` `[*, 1]` pixels whose middle is drawn from all places (DeVries & Taylor 2017, section 3).

    `rows` and `columns` `[*, batch]` in [0, 1) say where; what lies outside of the image is left out, as published.
    """
    inside = []
    for uniform, axis in ((rows, -2), (columns, -1)):
        first = (uniform * images.shape[axis]).floor() - (side / 2).floor()
        places, first = _places(images, axis).to(images.dtype), first[..., None]
        inside.append((places >= first) & (places < first + side[..., None]))
    square = inside[0][..., :, None] & inside[1][..., None, :]
    return torch.where(square.unsqueeze(-3), fill, images)


def sliced(series: Tensor, start: Tensor, share: Tensor) -> Tensor:
    """Cut a share `[*, 1]` of the steps off series `[*, batch, variables, length]` and stretch the rest to the length.

    It begins at the share `start` `[*, batch]` in [0, 1) of what is cut off; between steps there is a straight line (Le
    Guennec et al. 2016, "window slicing", then as in their "window warping").
    """
    last = series.shape[-1] - 1
    steps = torch.arange(last + 1, device=series.device)
    places = _stored((start * share)[..., None] * last + steps * (1 - share[..., None]))
    before = places.floor().clamp(max=max(last - 1, 0))
    index = before.long()
    earlier, later = (_steps(series, place.clamp(max=last)) for place in (index, index + 1))
    return torch.lerp(earlier, later, (places - before).unsqueeze(-2))


def normal(first: Tensor, second: Tensor) -> Tensor:
    """Return standard normal numbers of two uniform ones in [0, 1) (Box & Muller 1958)."""
    return torch.sqrt(-2 * torch.log1p(-first)) * torch.cos(2 * math.pi * second)


def scaled(series: Tensor, drawn: Tensor, deviation: Tensor) -> Tensor:
    """Multiply each variable of series `[*, batch, variables, length]` by a number around 1 (Um et al. 2017, 3.2).

    `drawn` `[*, batch, variables]` is standard normal, `deviation` `[*, 1]` how far around.
    """
    return series * (1 + drawn * deviation[..., None])[..., None]


def jittered(series: Tensor, drawn: Tensor, deviation: Tensor) -> Tensor:
    """Add noise of this deviation `[*, 1]` to each value; `drawn` is standard normal (Um et al. 2017, section 3.2)."""
    return series + drawn * deviation[..., None, None]


def dropped(tokens: Tensor, drop: Tensor) -> Tensor:
    """Put "unknown" for tokens `[*, batch, length]` where `drop` is true (Xie et al. 2017, "blank noising")."""
    return torch.where(drop & (tokens != PADDING), UNKNOWN, tokens)


def replaced(tokens: Tensor, replace: Tensor, which: Tensor, table: Tensor) -> Tensor:
    """Put synonyms for tokens `[*, batch, length]` where `replace` is true (Zhang et al. 2015, section 2.4).

    `table` `[vocabulary, 1 + most]` is, of each token, how many synonyms it has, and which; of these `which` in [0, 1)
    takes one. What has none stays.
    """
    counts = table[:, 0][tokens]
    place = (which * counts).floor().long()
    return torch.where(replace & (counts > 0), table[tokens, 1 + place], tokens)


def mixed(x: Tensor, share: Tensor, axis: int) -> Tensor:
    """Return `share * x + (1 - share) * partner` along the batch's axis (Zhang et al. 2018, equation 1).

    The partner of an example is the one before it in the batch. As batches are drawn at random, so are the partners,
    and none is its own where there are two.
    """
    return share * x + (1 - share) * partners(x, axis)


def partners(x: Tensor, axis: int) -> Tensor:
    """Return what the partner of each example has, along the batch's axis."""
    return x.roll(1, axis)


def _bordered(images: Tensor, fill: Tensor) -> Tensor:
    """Return images with a border of `fill`, of one pixel above and to the left, and of two below and to the right."""
    inside = torch.zeros(images.shape[-2:], dtype=images.dtype, device=images.device)
    border = F.pad(inside, _BORDER, value=1.0)
    return _stored(F.pad(images, _BORDER) + border * fill)


def _stored(x: Tensor) -> Tensor:
    """Return a tensor as a view of memory, so that a compiled program puts it there.

    Else it computes a value again wherever one is used: an example's draws for each of its pixels; all of an image for
    each pixel that is taken from it; or a place once for the pixel before it and once for the distance to that one,
    which a rounding apart do not fit.
    """
    return x.as_strided(x.shape, x.stride())


def _taken(bordered: Tensor, index: Tensor) -> Tensor:
    """Return the pixels at places `index` `[*, batch, height, width]`, counted along the rows of bordered images."""
    flat = bordered.flatten(-2)
    size = index.shape[-2:]
    index = index.flatten(-2).unsqueeze(-2).expand(*flat.shape[:-1], size.numel())
    return flat.gather(-1, index).view(*flat.shape[:-1], *size)


def _steps(series: Tensor, places: Tensor) -> Tensor:
    """Return the steps of series `[*, batch, variables, length]` at whole places `[*, batch, length]`."""
    return series.gather(-1, places.unsqueeze(-2).expand(series.shape))


def _places(images: Tensor, axis: int) -> Tensor:
    return torch.arange(images.shape[axis], device=images.device)


def _grey(images: Tensor) -> Tensor:
    if images.shape[-3] != len(_LUMA):
        return images
    return sum(share * images[..., index, None, :, :] for index, share in enumerate(_LUMA))  # type: ignore[return-value]


def _blended(values: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = factor[..., None, None, None]
    return (factor * values + (1 - factor) * other).clamp(0, 1)
