"""What can be wrong with a prepared dataset, seen by looking at its numbers alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swathe.training.data import Dataset
from swathe.training.verdict import Check, Outcome

# Examples read at a time, so that a large dataset is never held twice.
_ROWS = 2048
# Root mean squares of features and targets above and below which they are out of scale.
_LARGE, _SMALL = 10.0, 0.01
# The commonest class by the rarest, from which classes are out of balance.
_UNBALANCED = 10.0
# Of images many pixels are constant, at the edges: only more than this share of them is worth a word.
_CONSTANT_PIXELS = 0.5
# Columns that a sentence names.
_NAMED = 5
_SUBJECT = "data"

Array = NDArray[Any]


def check_data(dataset: Dataset) -> list[Check]:
    """Return what is to be said of a dataset: one line on what it is, and one for each thing that is not well.

    Errors: features or targets that are not finite, labels out of range, one class or one value alone in training, no
    feature that varies. Warnings: a class that training lacks, classes out of balance, constant features, examples that
    are in two parts or have two labels, features or targets out of scale. Read once, some 0.3 s for 100,000 images.
    """
    errors = [*_not_finite(dataset), *_labels(dataset)]
    if errors:
        return [_error(text) for text in errors]
    moments = _Moments.of(dataset)
    errors = [*_nothing_varies(moments), *_nothing_to_learn(dataset)]
    if errors:
        return [_error(text) for text in errors]
    warnings = [
        *_classes_missing(dataset),
        *_unbalanced(dataset),
        *_constant(dataset, moments),
        *_shared(dataset),
        *_out_of_scale(dataset, moments),
    ]
    return [Check(_SUBJECT, Outcome.OK, _described(dataset)), *(_warning(text) for text in warnings)]


def _error(text: str) -> Check:
    return Check(_SUBJECT, Outcome.ERROR, text)


def _warning(text: str) -> Check:
    return Check(_SUBJECT, Outcome.WARNING, text)


def _parts(dataset: Dataset) -> dict[str, tuple[Array, Array]]:
    """Return features and targets of each part, as the arrays that are mapped into memory."""
    return {
        "training": (dataset.train_x.numpy(), dataset.train_y.numpy()),
        "validation": (dataset.val_x.numpy(), dataset.val_y.numpy()),
        "test": (dataset.test_x.numpy(), dataset.test_y.numpy()),
    }


def _described(dataset: Dataset) -> str:
    sizes = [f"{len(y):,} {name}" for name, (_, y) in _parts(dataset).items() if len(y)]
    what = f"{dataset.name}: {', '.join(sizes)} examples"
    if not dataset.classes:
        return f"{what}, a quantity to predict."
    counts = _counts(dataset.train_y.numpy(), dataset.classes)
    return f"{what}, {dataset.classes} classes, of {counts.min():,} to {counts.max():,} examples in training."


def _counts(labels: Array, classes: int) -> NDArray[np.int64]:
    return np.bincount(labels.ravel(), minlength=classes)


def _batches(x: Array) -> Iterator[Array]:
    for begin in range(0, len(x), _ROWS):
        yield x[begin : begin + _ROWS].reshape(len(x[begin : begin + _ROWS]), -1)


def _not_finite(dataset: Dataset) -> Iterator[str]:
    for name, arrays in _parts(dataset).items():
        for what, values in zip(("features", "targets"), arrays, strict=True):
            if values.dtype.kind != "f":
                continue
            # One number for most batches: a sum is finite where all its parts are, unless it overflows.
            bad = [rows for rows in _batches(values) if not np.isfinite(rows.sum(dtype=np.float64))]
            count = sum(int((~np.isfinite(rows)).any(axis=1).sum()) for rows in bad)
            if count:
                share = f"{count:,} of {len(values):,} {name} examples have {what} that are NaN or infinite"
                yield f"{share}; fill them in, or leave those examples out."


def _labels(dataset: Dataset) -> Iterator[str]:
    if not dataset.classes:
        return
    for name, (_, y) in _parts(dataset).items():
        wrong = np.unique(y[(y < 0) | (y >= dataset.classes)])
        if len(wrong):
            count = int(np.isin(y, wrong).sum())
            allowed = f"0 to {dataset.classes - 1}"
            yield f"{count:,} {name} labels are out of range ({_first(wrong)}); allowed: {allowed}."


def _nothing_to_learn(dataset: Dataset) -> Iterator[str]:
    y = dataset.train_y.numpy()
    if y.size > 1 and (y == y.flat[0]).all():
        yield f"All {y.size:,} training targets are {y.flat[0]:g}, so there is nothing to learn."


@dataclass(frozen=True, slots=True, eq=False)
class _Moments:
    """The root mean square of each feature of the training part, and which features are constant: `[features]`."""

    size: Array
    constant: NDArray[np.bool_]

    @classmethod
    def of(cls, dataset: Dataset) -> _Moments | None:
        """Measure a dataset's features; None where they are no quantities (tokens)."""
        x = dataset.train_x.numpy()
        if x.dtype.kind != "f":
            return None
        first = x[:1].reshape(1, -1)
        squares = np.zeros(first.shape[1])
        constant = np.ones(first.shape[1], dtype=bool)
        for rows in _batches(x):
            squares += np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
            if constant.any():
                constant[constant] = (rows[:, constant] == first[:, constant]).all(axis=0)
        return cls(np.sqrt(squares / len(x)), constant)


def _nothing_varies(moments: _Moments | None) -> Iterator[str]:
    if moments is not None and moments.constant.all():
        yield f"All {len(moments.constant):,} features are constant in training, so there is nothing to learn from."


def _classes_missing(dataset: Dataset) -> Iterator[str]:
    if not dataset.classes:
        return
    missing = np.flatnonzero(_counts(dataset.train_y.numpy(), dataset.classes) == 0)
    if len(missing):
        named, have = _first(missing), "has" if len(missing) == 1 else "have"
        yield f"{len(missing)} of {dataset.classes} classes {have} no example in training ({named}): not to be learned."


def _unbalanced(dataset: Dataset) -> Iterator[str]:
    if not dataset.classes or dataset.train_y.ndim > 1:
        return
    counts = _counts(dataset.train_y.numpy(), dataset.classes)
    seen = counts[counts > 0]
    if seen.max() >= _UNBALANCED * seen.min():
        yield (
            f"Classes are out of balance: {seen.min():,} to {seen.max():,} training examples; naming the commonest is "
            f"right for {100 * seen.max() / seen.sum():.1f} % of them."
        )


def _constant(dataset: Dataset, moments: _Moments | None) -> Iterator[str]:
    if moments is None:
        return
    columns = np.flatnonzero(moments.constant)
    usual = 0.0 if dataset.image_shape is None else _CONSTANT_PIXELS * len(moments.constant)
    if len(columns) > usual:
        named, are = _first(columns), "feature is" if len(columns) == 1 else "features are"
        yield f"{len(columns):,} of {len(moments.constant):,} {are} constant in training, counted from 0: {named}."


def _out_of_scale(dataset: Dataset, moments: _Moments | None) -> Iterator[str]:
    if moments is not None:
        largest, whole = moments.size.max(), float(np.sqrt(np.square(moments.size).mean()))
        if largest > _LARGE or whole < _SMALL:
            what = f"up to {largest:.3g} (root mean square)" if largest > _LARGE else f"only {whole:.2g} large"
            yield f"Features are not normalised: {what}, where about 1 is usual; data.standardize=true scales them."
    targets = dataset.train_y.numpy()
    if not dataset.classes:
        size = float(np.sqrt(np.square(targets, dtype=np.float64).mean()))
        if size > _LARGE or size < _SMALL:
            yield f"Targets are not normalised: {size:.3g} (root mean square), where about 1 is usual; scale them."


# Examples that are there twice.


def _shared(dataset: Dataset) -> Iterator[str]:
    parts = {name: (_hashes(x), y) for name, (x, y) in _parts(dataset).items() if len(y)}
    training, labels = parts.pop("training")
    for name, (hashes, _) in parts.items():
        count = int(np.isin(hashes, training).sum())
        if count:
            share = f"{count:,} of {len(hashes):,} {name} examples ({_percent(count / len(hashes))})"
            yield f"{share} are in training as well, so the {name} part says too much good."
    if dataset.classes and labels.ndim == 1:
        count = _contradictory(training, labels)
        if count:
            share = f"{count:,} of {len(labels):,} training examples ({_percent(count / len(labels))})"
            yield f"{share} have the features of an example with another label."


def _hashes(x: Array) -> NDArray[np.uint64]:
    """Return 64 bits for each example, equal for equal examples: a multilinear hash (Carter & Wegman 1979).

    Two examples that differ have the same in one of 2^32 cases or fewer: of a million examples, none that matters.
    """
    factors = np.random.Generator(np.random.PCG64(0)).integers(1, 2**63, size=x[:1].size or 1, dtype=np.uint64)
    found = [_words(rows) @ factors for rows in _batches(x)]
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _words(rows: Array) -> NDArray[np.uint64]:
    """Return the bits of each element; -0.0 is 0.0."""
    if rows.dtype == np.float32:
        return (rows + np.float32(0)).view(np.uint32).astype(np.uint64)
    return rows.astype(np.int64).view(np.uint64)


def _contradictory(hashes: NDArray[np.uint64], labels: Array) -> int:
    """Return how many examples have the features of an example with another label."""
    _, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    least, most = np.full(len(sizes), np.iinfo(np.int64).max), np.zeros(len(sizes), np.int64)
    np.minimum.at(least, group, labels)
    np.maximum.at(most, group, labels)
    return int(sizes[least != most].sum())


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _first(values: Array) -> str:
    """Name the first few of them."""
    return ", ".join(map(str, values[:_NAMED])) + (" ..." if len(values) > _NAMED else "")
