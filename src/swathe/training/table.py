"""Reader of tables: a CSV or Parquet file becomes numbers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swathe.errors import BadInputError, bad_value
from swathe.training.recipe import CSV

_PARQUET = (".parquet", ".pq")
# A column of words with more different ones than this is a key or a text, not a category.
MOST_CATEGORIES = 1000


@dataclass(frozen=True, slots=True)
class Table:
    """Features float32 `[rows, features]` and targets `[rows]`: int64 below `classes`, or float32 when it is 0."""

    x: NDArray[np.float32]
    y: NDArray[Any]
    classes: int


def read_table(path: Path, data: CSV) -> Table:
    """Read a CSV file with a header line, or a Parquet file (`.parquet`, `.pq`).

    Numeric columns stay as they are (true and false become 1 and 0); any other column becomes one column of 0 and 1
    for each of its values, in sorted order. Classes are the target's values in sorted order; a regression's target
    keeps its unit. Raises `BadInputError`, with column and row, for missing or infinite values and for a target
    that does not suit the task; rows count from 1 below the header.
    """
    frame = read_frame(path)
    if data.target not in frame.columns:
        raise bad_value("data.target", data.target, f"a column of {path}: {', '.join(map(str, frame.columns))}")
    if len(frame.columns) < 2:
        raise BadInputError(f"{path} has no column besides the target {data.target!r}.")
    for column in frame.columns:
        refuse_missing(path, frame[column])
    target = frame[data.target]
    y, classes = classes_of(target) if data.task == "classification" else (quantity_of(target), 0)
    parts = [_features(path, frame[column]) for column in frame.columns if column != data.target]
    return Table(np.concatenate(parts, axis=1), y, classes)


def read_frame(path: Path) -> Any:
    """Return a CSV or Parquet file as a pandas frame; raises `BadInputError` for what is neither."""
    import pandas as pd

    kind = "Parquet" if path.suffix in _PARQUET else "CSV"
    try:
        if kind == "Parquet":
            return pd.read_parquet(path, engine="pyarrow")
        with warnings.catch_warnings():
            # Of rows with more fields than the header, pandas would only warn, and drop the last ones.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Whole columns at once: in pieces, a column may be numbers in one and words in the next.
            return pd.read_csv(path, index_col=False, low_memory=False)
    except pd.errors.ParserWarning as error:
        raise BadInputError(f"data.path: {str(path)!r} has rows with more fields than its header line.") from error
    except (OSError, ValueError) as error:
        # pandas' own errors for empty and malformed files are ValueErrors, and so are Arrow's.
        reason = " ".join(str(error).split())
        raise BadInputError(f"data.path: {str(path)!r} cannot be read as {kind} ({reason}).") from error


def refuse_missing(path: Path, column: Any) -> None:
    """Raise `BadInputError`, with the row, where a column has a missing or an infinite value."""
    from pandas.api.types import is_numeric_dtype

    missing = column.isna().to_numpy()
    if is_numeric_dtype(column.dtype):
        missing = missing | np.isinf(column.to_numpy(dtype=np.float64, na_value=np.nan))
    if missing.any():
        row = int(missing.argmax()) + 1
        what = "no value" if column.isna().iloc[row - 1] else "an infinite value"
        raise BadInputError(f"{path}: column {column.name!r} has {what} in row {row}; fill in or remove such rows.")


def _features(path: Path, column: Any) -> NDArray[np.float32]:
    from pandas.api.types import is_numeric_dtype

    if is_numeric_dtype(column.dtype):
        return np.asarray(column.to_numpy(dtype=np.float32)[:, None])
    categories, codes = np.unique(column.astype(str).to_numpy(dtype=object), return_inverse=True)
    if len(categories) > MOST_CATEGORIES:
        raise BadInputError(
            f"{path}: column {column.name!r} is not numeric and has {len(categories)} different values; "
            f"allowed: at most {MOST_CATEGORIES}."
        )
    return np.eye(len(categories), dtype=np.float32)[codes]


def classes_of(target: Any) -> tuple[NDArray[np.int64], int]:
    """Return the classes of a column `[rows]`, numbered in the order of its values, and how many there are."""
    from pandas.api.types import is_float_dtype

    if is_float_dtype(target.dtype) and (target % 1 != 0).any():
        raise bad_value("data.task", "classification", f"regression, as column {target.name!r} has fractions")
    values = target.to_numpy() if target.dtype.kind in "biuf" else target.astype(str).to_numpy(dtype=object)
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise bad_value("data.target", target.name, "a column with at least two different values")
    return codes.astype(np.int64), len(classes)


def quantity_of(target: Any) -> NDArray[np.float32]:
    """Return a column of numbers, in its unit."""
    from pandas.api.types import is_numeric_dtype

    if not is_numeric_dtype(target.dtype):
        raise bad_value("data.task", "regression", f"classification, as column {target.name!r} is not numeric")
    return np.asarray(target.to_numpy(dtype=np.float32))
