"""Reader of texts: files become sequences of tokens, characters or words."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swathe.errors import BadInputError, bad_value
from swathe.training.recipe import Text, is_language_model

# What fills a text up that is shorter than others, in front, and what stands for a token that is not in the vocabulary.
PADDING, UNKNOWN = 0, 1
_SPECIAL = ("<padding>", "<unknown>")
_TABLES = {".csv": ",", ".tsv": "\t"}
# A word, or a sign that is neither part of one nor a space.
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Documents:
    """Texts, each as its tokens, and their labels int64 `[texts]` below `classes`; none of a language model."""

    texts: Sequence[Sequence[str]]
    labels: NDArray[np.int64] | None = None
    classes: int = 0


def stdlib_folder() -> Path:
    """Return where the running Python's standard library is."""
    return Path(sysconfig.get_path("stdlib"))


def files(place: Path, data: Text) -> list[Path]:
    """Return the files that a text is in, in order: all below a folder but hidden ones, or the library's modules."""
    if data.name == "stdlib_text":
        # What is beside the library's own modules (of the distribution, of this machine) is not Python's.
        return sorted(path for path in place.glob("*.py") if path.stem in sys.stdlib_module_names)
    if place.is_file():
        return [place]
    below = (path for path in place.rglob("*") if path.is_file())
    return sorted(path for path in below if not any(part.startswith(".") for part in path.relative_to(place).parts))


def read(place: Path, data: Text) -> Documents:
    """Read texts to classify, or the windows of a language model, of `length` characters and one more each.

    Windows follow one another and share no character, so that however they are split, what is validated on was not
    trained on. Raises `BadInputError`, with the file, for what is no text, is empty, or is too short.
    """
    if is_language_model(data):
        return _windows(place, data)
    if place.is_file() and place.suffix not in _TABLES:
        raise bad_value("data.path", data.path, "a folder with one folder for each class, or a .csv or .tsv file")
    return _table(place, data) if place.is_file() else _folders(place, data)


def vocabulary(texts: Iterable[Sequence[str]], most: int) -> list[str]:
    """Return padding, unknown, and the commonest tokens, `most` in all; of those equally common, in their order."""
    counts = Counter(token for text in texts for token in text)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    return [*_SPECIAL, *ranked[: most - len(_SPECIAL)]]


def encode(texts: Sequence[Sequence[str]], tokens: Sequence[str], length: int) -> NDArray[np.int64]:
    """Return the first `length` tokens of each text by their numbers `[texts, length]`, padded in front where short."""
    # A text may well have a token that is spelled as a special one, which stays special.
    number = {token: index for index, token in enumerate(tokens) if index >= len(_SPECIAL)}
    encoded = np.full((len(texts), length), PADDING, dtype=np.int64)
    for row, text in zip(encoded, texts, strict=True):
        kept = text[:length]
        row[length - len(kept) :] = [number.get(token, UNKNOWN) for token in kept]
    return encoded


def _windows(place: Path, data: Text) -> Documents:
    text = "".join(_content(path) for path in files(place, data))
    size = data.length + 1
    if len(text) < 2 * size:
        allowed = f"at most {len(text) // 2 - 1}, for two windows of the {len(text)} characters of {place}"
        raise bad_value("data.length", data.length, allowed)
    return Documents([text[start : start + size] for start in range(0, len(text) - size + 1, size)])


def _folders(place: Path, data: Text) -> Documents:
    every = files(place, data)
    names = sorted({path.relative_to(place).parts[0] for path in every if path.parent != place})
    if len(names) < 2:
        allowed = f"a folder with a folder of files for each class, of which {place} has {len(names)}"
        raise bad_value("data.path", data.path, allowed)
    split = splitter(data)
    kept = [path for path in every if path.parent != place]
    texts = [_filled(split(_content(path)), str(path)) for path in kept]
    labels = [names.index(path.relative_to(place).parts[0]) for path in kept]
    return Documents(texts, np.array(labels, dtype=np.int64), len(names))


def _table(path: Path, data: Text) -> Documents:
    frame = _frame(path)
    for key in ("text", "target"):
        if (column := getattr(data, key)) not in frame.columns:
            raise bad_value(f"data.{key}", column, f"a column of {path}: {', '.join(map(str, frame.columns))}")
    split = splitter(data)
    rows = enumerate(frame[data.text], start=1)
    texts = [_filled(split(text), f"{path}: column {data.text!r} in row {row}") for row, text in rows]
    names, labels = np.unique(frame[data.target].to_numpy(dtype=object), return_inverse=True)
    if len(names) < 2:
        raise bad_value("data.target", data.target, "a column with at least two different values")
    return Documents(texts, labels.astype(np.int64), len(names))


def _frame(path: Path) -> Any:
    import pandas as pd

    try:
        # Everything is text: a label 1 is not a number, and a text "NA" is not missing.
        return pd.read_csv(path, sep=_TABLES[path.suffix], dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadInputError(f"data.path: {str(path)!r} cannot be read as CSV ({reason}).") from error


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} cannot be read as a text in UTF-8 ({error}).") from error


def splitter(data: Text) -> Callable[[str], Sequence[str]]:
    """Return what makes tokens of a text: its characters, or its words and signs in small letters."""
    return (lambda text: text) if data.tokens == "characters" else (lambda text: _WORD.findall(text.lower()))


def _filled(tokens: Sequence[str], where: str) -> Sequence[str]:
    if not tokens:
        raise BadInputError(f"{where} has no text; remove it.")
    return tokens
