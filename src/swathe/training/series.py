"""Reader of series: the rows of a table, one a step, become windows of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swathe.errors import BadInputError, bad_value
from swathe.training.recipe import Series
from swathe.training.table import classes_of, quantity_of, read_frame, refuse_missing

Part = tuple[NDArray[np.float32], NDArray[np.float32]]


def forecasts(path: Path, data: Series) -> tuple[Mapping[str, Part], int]:
    """Return the windows of each part (`train`, `val`, `test`) with the target's next value, and how many variables.

    Of each series the first steps are for training, those after them for validation, and the last for the test. A
    window, and the value that is to be forecast from it, lie within one part, so that no two parts share a step.
    Raises `BadInputError` where a part has too few steps for one window.
    """
    frame = _frame(path, data)
    variables = _variables(path, frame, data)
    values = frame[variables].to_numpy(dtype=np.float32)
    target = quantity_of(frame[data.target])
    found: dict[str, list[Part]] = {"train": [], "val": [], "test": []}
    longest = dict.fromkeys(found, 0)
    for rows in _series(frame, data):
        tests, vals = round(len(rows) * data.test_fraction), round(len(rows) * data.val_fraction)
        ends = np.split(rows, [len(rows) - vals - tests, len(rows) - tests])
        for part, steps in zip(found, ends, strict=True):
            longest[part] = max(longest[part], len(steps))
            found[part].append(_windows(values[steps], target[steps], data.length))
    parts = {part: _joined(windows) for part, windows in found.items()}
    for part, what in (("val", "validation"), ("train", "training")):
        if not len(parts[part][0]):
            allowed = f"at most {longest[part] - 1}, as {path} has {longest[part]} steps for {what}"
            raise bad_value("data.length", data.length, allowed)
    return parts, len(variables)


def labelled(path: Path, data: Series) -> tuple[NDArray[np.float32], NDArray[np.int64], int, int]:
    """Return the last `length` steps of each series, its label, the number of classes and that of variables.

    Raises `BadInputError` for a series that is shorter, or has more than one label.
    """
    frame = _frame(path, data)
    variables = _variables(path, frame, data)
    values = frame[variables].to_numpy(dtype=np.float32)
    labels, classes = classes_of(frame[data.target])
    windows, found = [], []
    for rows in _series(frame, data):
        name = frame[data.id].iloc[rows[0]]
        if len(rows) < data.length:
            allowed = f"at most {len(rows)}, the steps of the series {name!r} in {path}"
            raise bad_value("data.length", data.length, allowed)
        if len(set(labels[rows])) > 1:
            raise BadInputError(f"{path}: the series {name!r} has more than one label in column {data.target!r}.")
        windows.append(values[rows[-data.length :]])
        found.append(labels[rows[0]])
    return _by_variable(np.stack(windows)), np.array(found), classes, len(variables)


def _frame(path: Path, data: Series) -> Any:
    frame = read_frame(path)
    for key in ("target", "id"):
        if (column := getattr(data, key)) is not None and column not in frame.columns:
            raise bad_value(f"data.{key}", column, f"a column of {path}: {', '.join(map(str, frame.columns))}")
    if not len(frame):
        raise BadInputError(f"{path} has no rows.")
    return frame


def _variables(path: Path, frame: Any, data: Series) -> list[str]:
    """Return the columns of numbers but the name of the series and, where it is the label, the target."""
    from pandas.api.types import is_numeric_dtype

    others = (data.id, data.target if data.task == "classification" else None)
    names = [name for name in frame.columns if is_numeric_dtype(frame[name].dtype) and name not in others]
    if not names:
        raise BadInputError(f"{path} has no column of numbers to look at.")
    for name in {*names, data.target, *([data.id] if data.id else [])}:
        refuse_missing(path, frame[name])
    return names


def _series(frame: Any, data: Series) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each series, in the order of the file."""
    if data.id is None:
        yield np.arange(len(frame))
        return
    _, codes = np.unique(frame[data.id].astype(str).to_numpy(dtype=object), return_inverse=True)
    for code in range(codes.max() + 1):
        yield np.flatnonzero(codes == code)


def _windows(values: NDArray[np.float32], target: NDArray[np.float32], length: int) -> Part:
    """Return every window of `[steps, variables]` that a value comes after, and these values."""
    count = max(0, len(values) - length)
    rows = np.arange(count)[:, None] + np.arange(length)
    return _by_variable(values[rows]), target[length : length + count]


def _by_variable(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return windows `[n, length, variables]` as `[n, variables * length]`, as images are: channel by channel."""
    count, length, variables = windows.shape
    return windows.transpose(0, 2, 1).reshape(count, variables * length)


def _joined(parts: list[Part]) -> Part:
    x, y = zip(*parts, strict=True)
    return np.concatenate(x), np.concatenate(y)
