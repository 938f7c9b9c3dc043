"""Datasets as tensors: prepared once on a node, then memory-mapped by every process that trains on them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swathe.errors import BadInputError, bad_value
from swathe.training import cifar, series, text
from swathe.training.idx import read_idx
from swathe.training.recipe import (
    CSV,
    IMAGE_SHAPES,
    Data,
    SequenceShape,
    Series,
    Text,
    data_options,
    is_language_model,
    is_regression,
)
from swathe.training.sources import IDX_FILES, ORIGINS, find, locked, obtain, obtainable, published_file
from swathe.training.table import read_table

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Dataset", "find", "load", "obtain"]

# Counts the changes of how data is prepared: what an older version prepared is not taken.
_FORMAT = 3
_PARTS = ("train_x", "train_y", "val_x", "val_y", "test_x", "test_y")
# Rows of float64 held at a time while means are taken.
_ROWS = 4096

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A prepared dataset: float32 features `[n, features]` and targets `[n]`, int64 below `classes`.

    For a regression `classes` is 0 and the targets are float32. `image_shape` is [channels, height, width] of an
    example, None for a table. The test part may be empty. `digest` is the SHA-256 of all values and options.
    `pixels` `[3][channels]` are the values that black, the training part's mean and white have in images.

    Texts and series have a `sequence`. A text has features int64 `[n, length]`, numbers of `tokens`; those of a series
    are its values, variable by variable, `[n, variables * length]`. A language model has targets `[n, length]`. Of
    texts that are augmented, `training.wording` has the `synonyms` of each token `[tokens, 1 + most]`, after how many
    they are, and the `paraphrases` `[n, length]` of the training part.
    The tensors are shared and must not be written to.
    """

    name: str
    digest: str
    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    image_shape: tuple[int, int, int] | None
    pixels: tuple[tuple[float, ...], ...] | None = None
    sequence: SequenceShape | None = None
    tokens: tuple[str, ...] = ()
    synonyms: Tensor | None = None
    paraphrases: Tensor | None = None

    @property
    def length(self) -> int:
        """The steps of a text or of a series; 1 of other data."""
        return 1 if self.sequence is None else self.sequence.length

    def to(self, device: str) -> Dataset:
        """Return the dataset on `device`; the copy is kept for the next trial."""
        return self if device == "cpu" else _moved(self, device)


def load(data: Data, cache: Path) -> Dataset:
    """Return a dataset, found or downloaded, split and scaled as `data` says.

    Images are scaled to 0 ... 1. Examples are shuffled by `split_seed`, then split: test, validation, training.
    `standardize` subtracts the training part's mean and divides by its standard deviation, one of each for every
    channel of images and for every feature of tables (where it is 0, nothing is divided). The result is kept as
    `cache/prepared/KEY/`, which all processes of a node map into memory. Raises `BadInputError` for data that is
    missing or damaged.
    """
    return _opened(prepare(data, cache))


def ensure(data: Data, cache: Path) -> None:
    """Find or download a dataset; prepare it where only the files can say whether its options are allowed.

    Needs no PyTorch. Raises `BadInputError` as `load` does. In a process that may not download, what is not here yet is
    left to the one that trains.
    """
    if not obtainable(data, cache):
        return
    if isinstance(data, (Text, Series)):
        prepare(data, cache)
    else:
        obtain(data, cache)


def prepare(data: Data, cache: Path) -> Path:
    """Return the folder with a dataset's prepared values, which are made unless they are there; as `load`."""
    place = obtain(data, cache)
    folder = (cache / "prepared" / _key(data, place)).absolute()
    if not folder.is_dir():
        with locked(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                _prepare(data, place, folder)
    return folder


def state(data: Data, cache: Path) -> str:
    """Return what stands for a dataset's values as its source and its options now make them; needs no PyTorch."""
    return _key(data, obtain(data, cache))


def _key(data: Data, place: Path | str) -> str:
    options = json.dumps([_FORMAT, _options(data), _identity(data, place)])
    return hashlib.sha256(options.encode()).hexdigest()[:32]


def _options(data: Data) -> dict[str, Any]:
    """Return what the prepared values depend on besides the source."""
    return {key: value for key, value in data_options(data).items() if key not in ("folder", "path")}


def _identity(data: Data, place: Path | str) -> list[Any]:
    """Return what tells one state of the source from another: a file's path, size and time of change."""
    if isinstance(place, str):
        return [place, importlib.metadata.version("scikit-learn")]
    names = ORIGINS[data.name].md5 if data.name in ORIGINS else ()
    files = [published_file(place, name) or place for name in names] or [place]
    if isinstance(data, Text):
        files = text.files(place, data)
    return [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


# The last few datasets of the process, so that a trial costs no load.
@lru_cache(maxsize=4)
def _opened(folder: Path) -> Dataset:
    import torch

    try:
        meta = json.loads((folder / "meta.json").read_text())
        arrays = {part: _mapped(folder / f"{part}.npy") for part in _PARTS}
    except (OSError, ValueError, EOFError) as error:
        raise BadInputError(f"{folder} is damaged ({error}); remove it, and the data is prepared anew.") from error
    return Dataset(
        name=meta["name"],
        digest=meta["digest"],
        classes=meta["classes"],
        image_shape=None if meta["image_shape"] is None else tuple(meta["image_shape"]),
        pixels=None if meta["pixels"] is None else tuple(map(tuple, meta["pixels"])),
        sequence=None if meta["sequence"] is None else SequenceShape(**meta["sequence"]),
        tokens=tuple(meta["tokens"]),
        **{part: torch.from_numpy(array) for part, array in arrays.items()},
    )


@lru_cache(maxsize=2)
def _moved(dataset: Dataset, device: str) -> Dataset:
    return replace(dataset, **{part: getattr(dataset, part).to(device) for part in _PARTS})


def _mapped(path: Path) -> NDArray[Any]:
    # Copy on write: the pages are shared by all processes as with "r", the file cannot change, and a stray write
    # is a private copy of a page, where with "r" the system would kill the process.
    array: NDArray[Any] = np.load(path, mmap_mode="c")
    # An empty mapping is not writable, which torch warns of.
    return array if array.size else np.empty(array.shape, array.dtype)


def _prepare(data: Data, place: Path | str, folder: Path) -> None:
    """Write the prepared arrays beside `folder`, then rename, so that nobody meets half of them."""
    tokens: list[str] = []
    sequence, pixels = None, None
    match data:
        case Text():
            arrays, classes, sequence, tokens = _split_text(data, Path(place))
        case Series():
            arrays, classes, sequence = _split_series(data, Path(place))
        case _:
            arrays, classes, pixels = _split(data, place)
    meta = {
        "name": data.name,
        "classes": classes,
        "image_shape": IMAGE_SHAPES.get(data.name),
        "pixels": pixels,
        "sequence": None if sequence is None else asdict(sequence),
        "tokens": tokens,
        "digest": _digest(data, arrays),
        "options": asdict(data),
    }
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True, exist_ok=True)
        for part, array in arrays.items():
            np.save(aside / f"{part}.npy", array)
        (aside / "meta.json").write_text(json.dumps(meta, indent=2))
        aside.rename(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise BadInputError(f"{folder} cannot be written ({error.strerror}); datasets are prepared there.") from error


def _digest(data: Data, arrays: Arrays) -> str:
    digest = hashlib.sha256(json.dumps(_options(data), sort_keys=True).encode())
    for part in _PARTS:
        array = np.ascontiguousarray(arrays[part])
        digest.update(f"{part} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def _split(data: Data, place: Path | str) -> tuple[Arrays, int, list[list[float]] | None]:
    """Return the six arrays, the number of classes, and `Dataset.pixels`."""
    x, y, classes, own_test = _of_classes(data, *_read(data, place))
    test, val, train = _shuffled(len(x), data)
    arrays = {"train_x": x[train], "train_y": y[train], "val_x": x[val], "val_y": y[val]}
    arrays |= {"test_x": x[test], "test_y": y[test]} if own_test is None else dict(own_test)
    for part in ("train_x", "val_x", "test_x"):
        arrays[part] = arrays[part].astype(np.float32)
        if x.dtype == np.uint8:
            arrays[part] /= np.float32(255)
    shape = IMAGE_SHAPES.get(data.name)
    if not data.standardize and shape is None:
        return arrays, classes, None
    mean, deviation = _moments(arrays["train_x"], x.shape[1] if shape is None else shape[0])
    # Black, the mean and white, which are 0, the mean and 1 before anything is standardised.
    pixels = np.stack([np.zeros_like(mean), mean, np.ones_like(mean)])
    if data.standardize:
        for values in (*(arrays[part] for part in ("train_x", "val_x", "test_x")), pixels):
            values -= mean
            values /= deviation
    one_a_channel = None if shape is None else pixels[:, :: math.prod(shape[1:])].tolist()
    return arrays, classes, one_a_channel


def _shuffled(count: int, data: Data) -> list[NDArray[np.int64]]:
    """Return which of `count` examples are in the test, the validation and the training part."""
    # The permutation of numpy's PCG64 is part of what a recorded trial depends on, and so of the digest.
    order = np.random.Generator(np.random.PCG64(data.split_seed)).permutation(count)
    tests, vals = round(count * data.test_fraction), round(count * data.val_fraction)
    test, val, train = np.split(order, [tests, tests + vals])
    if not len(val) or not len(train):
        raise BadInputError(
            f"data.val_fraction: {data.val_fraction} of {count} examples leaves {len(val)} for validation and "
            f"{len(train)} for training; allowed: what leaves at least one for each."
        )
    return [test, val, train[: data.limit]]


def _split_text(data: Text, place: Path) -> tuple[Arrays, int, SequenceShape, list[str]]:
    """Return the six arrays, the number of classes, what an example is, and the tokens that the training part has."""
    documents = text.read(place, data)
    parts = dict(zip(("test", "val", "train"), _shuffled(len(documents.texts), data), strict=True))
    tokens = text.vocabulary((documents.texts[index] for index in parts["train"]), data.vocabulary)
    next_too = is_language_model(data)
    arrays: dict[str, NDArray[Any]] = {}
    for part, places in parts.items():
        encoded = text.encode([documents.texts[index] for index in places], tokens, data.length + next_too)
        arrays[f"{part}_x"] = encoded[:, : data.length]
        arrays[f"{part}_y"] = encoded[:, 1:] if documents.labels is None else documents.labels[places]
    sequence = SequenceShape(data.length, vocabulary=len(tokens), every_step=next_too)
    return arrays, documents.classes or len(tokens), sequence, tokens


def training_texts(data: Text, cache: Path) -> list[str]:
    """Return the texts of the training part as they are in the files, in the order of `train_x`."""
    raw = text.read(Path(obtain(data, cache)), replace(data, tokens="characters"))
    return ["".join(raw.texts[index]) for index in _shuffled(len(raw.texts), data)[2]]


def _split_series(data: Series, place: Path) -> tuple[Arrays, int, SequenceShape]:
    """Return the six arrays, the number of classes, and what an example is."""
    arrays: dict[str, NDArray[Any]] = {}
    if data.task == "regression":
        parts, variables = series.forecasts(place, data)
        classes = 0
        for part, (x, y) in parts.items():
            arrays |= {f"{part}_x": x, f"{part}_y": y}
        kept = np.random.Generator(np.random.PCG64(data.split_seed)).permutation(len(arrays["train_x"]))[: data.limit]
        arrays |= {name: arrays[name][kept] for name in ("train_x", "train_y")}
    else:
        windows, labels, classes, variables = series.labelled(place, data)
        for part, places in zip(("test", "val", "train"), _shuffled(len(windows), data), strict=True):
            arrays |= {f"{part}_x": windows[places], f"{part}_y": labels[places]}
    if data.standardize:
        mean, deviation = _moments(arrays["train_x"], variables)
        for part in ("train_x", "val_x", "test_x"):
            arrays[part] = (arrays[part] - mean) / deviation
    return arrays, classes, SequenceShape(data.length, variables)


def _read(data: Data, place: Path | str) -> tuple[NDArray[Any], NDArray[Any], int, Arrays | None]:
    """Return features, targets, the number of classes and the test part that the source itself sets apart."""
    if isinstance(data, CSV):
        table = read_table(Path(place), data)
        return table.x, table.y, table.classes, None
    if isinstance(place, str):
        return *_read_sklearn(data), None
    if data.name in cifar.LAYOUTS:
        (name, md5), *_ = ORIGINS[data.name].md5.items()
        archive = published_file(place, name)
        assert archive is not None
        return cifar.read(archive, data.name, md5)
    x, y = _read_part(data, place, "train")
    test_x, test_y = _read_part(data, place, "test")
    return x, y, 10, {"test_x": test_x, "test_y": test_y}


def _of_classes(
    data: Data, x: NDArray[Any], y: NDArray[Any], classes: int, own_test: Arrays | None
) -> tuple[NDArray[Any], NDArray[Any], int, Arrays | None]:
    """Return what `_read` does, of the classes that are asked for alone, numbered in their order."""
    if data.classes is None:
        return x, y, classes, own_test
    if classes <= max(data.classes):
        raise bad_value("data.classes", data.classes, f"classes from 0 to {classes - 1} with data.name {data.name}")
    number = np.full(classes, -1)
    number[data.classes] = range(len(data.classes))

    def only(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        kept = number[y] >= 0
        return x[kept], number[y[kept]]

    if own_test is not None:
        own_test = dict(zip(("test_x", "test_y"), only(own_test["test_x"], own_test["test_y"]), strict=True))
    return *only(x, y), len(data.classes), own_test


def _read_sklearn(data: Data) -> tuple[NDArray[Any], NDArray[Any], int]:
    from sklearn import datasets

    if data.name == "digits":
        x, y = datasets.load_digits(return_X_y=True)
        # Counts of dark pixels in blocks of 4x4, hence 16.
        return (x / 16).astype(np.float32), y.astype(np.int64), 10
    # In the units in which it was measured; only this one has others too.
    options = {"scaled": False} if data.name == "diabetes" else {}
    x, y = getattr(datasets, f"load_{data.name}")(return_X_y=True, **options)
    if is_regression(data):
        return x.astype(np.float32), y.astype(np.float32), 0
    return x.astype(np.float32), y.astype(np.int64), int(y.max()) + 1


def _read_part(data: Data, folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the pixels `[n, height * width]` and the labels `[n]` of a part in IDX files."""
    known = ORIGINS[data.name].sha256
    images_name, labels_name = IDX_FILES[part]
    images_file, labels_file = published_file(folder, images_name), published_file(folder, labels_name)
    assert images_file is not None
    assert labels_file is not None
    images = read_idx(images_file, 3, known.get(images_name))
    labels = read_idx(labels_file, 1, known.get(labels_name))
    if images.shape[1:] != IMAGE_SHAPES[data.name][1:]:
        raise BadInputError(f"{images_file} has images of {images.shape[1]}x{images.shape[2]}; allowed: 28x28.")
    if len(images) != len(labels):
        raise BadInputError(f"{labels_file} has {len(labels)} labels for {len(images)} images; allowed: one for each.")
    if len(labels) and labels.max() > 9:
        raise BadInputError(f"{labels_file} has the label {labels.max()}; allowed: 0 ... 9.")
    return images.reshape(len(images), -1), labels.astype(np.int64)


def _moments(x: NDArray[np.float32], groups: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return means and standard deviations `[features]`, the same for all features of a group; one of 0 becomes 1.

    The groups are of one size, one after the other.
    """

    def average(of: NDArray[Any] | None) -> NDArray[Any]:
        total = np.zeros(x.shape[1])
        for start in range(0, len(x), _ROWS):
            rows = x[start : start + _ROWS].astype(np.float64)
            total += (rows if of is None else (rows - of) ** 2).sum(axis=0)
        means = (total / len(x)).reshape(groups, -1)
        return np.repeat(means.mean(axis=1), means.shape[1])

    mean = average(None)
    deviation = np.sqrt(average(mean))
    # Rounding may leave a constant column a deviation that is not quite 0.
    deviation[deviation <= 1e-7 * np.abs(mean)] = 1.0
    return mean.astype(np.float32), deviation.astype(np.float32)
