"""What the augmentation of texts needs besides the texts: synonyms of their tokens, and paraphrases made beforehand.

A paraphrase is text, so that no step of training can make one. Each training text's is made once, by whatever function
the user names, and kept beside the prepared data; a step chooses between a text and its paraphrase.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swathe.errors import BadInputError, bad_value
from swathe.training import data, text
from swathe.training.data import Dataset
from swathe.training.recipe import Recipe, Text
from swathe.training.sources import locked

if TYPE_CHECKING:
    from torch import Tensor

# The synonyms of a token that are taken, the first ones.
MOST_SYNONYMS = 8
_FUNCTION = "module:function, importable from the working folder"
_MAPPING = "a JSON file with a mapping of words to lists of words"


def ensure(recipe: Recipe, cache: Path) -> None:
    """Make ready what a recipe's augmentation needs of texts; needs no PyTorch, if the user's function needs none.

    Raises `BadInputError` for a file or a function that is not good.
    """
    _prepared(recipe, cache)


def worded(dataset: Dataset, recipe: Recipe, cache: Path) -> Dataset:
    """Return a dataset with the synonyms and the paraphrases that a recipe asks for, and with them in its digest.

    Raises `BadInputError` as `ensure`.
    """
    synonyms, paraphrases = _prepared(recipe, cache)
    return dataset if synonyms is None and paraphrases is None else _worded(dataset, synonyms, paraphrases)


@lru_cache(maxsize=4)
def _worded(dataset: Dataset, synonyms: Path | None, paraphrases: Path | None) -> Dataset:
    import torch

    digest = hashlib.sha256(dataset.digest.encode())

    def table(name: str, file: Path | None) -> Tensor | None:
        if file is None:
            return None
        array = np.load(file)
        digest.update(name.encode() + array.tobytes())
        return torch.from_numpy(array)

    tables = table("synonyms", synonyms), table("paraphrases", paraphrases)
    return replace(dataset, digest=digest.hexdigest(), synonyms=tables[0], paraphrases=tables[1])


def _prepared(recipe: Recipe, cache: Path) -> tuple[Path | None, Path | None]:
    """Return the files with the synonyms and with the paraphrases, None for what is not asked for."""
    if not isinstance(recipe.data, Text):
        return None, None
    of, names = recipe.augmentation, recipe.augmentation.names
    synonyms = of.synonyms if "synonym_replacement" in names else None
    translator = of.translator if "back_translation" in names else None
    if synonyms is None and translator is None:
        return None, None
    folder = data.prepare(recipe.data, cache)
    tokens = json.loads((folder / "meta.json").read_text())["tokens"]
    return (
        None if synonyms is None else _synonyms(synonyms, tokens, folder),
        None if translator is None else _paraphrases(translator, recipe.data, tokens, folder, cache),
    )


# Synonyms.


def _synonyms(path: str, tokens: Sequence[str], folder: Path) -> Path:
    try:
        content = Path(path).expanduser().read_bytes()
        mapping = json.loads(content)
    except (OSError, ValueError) as error:
        raise bad_value("augmentation.synonyms", path, _MAPPING) from error
    file = folder / f"synonyms-{hashlib.sha256(content).hexdigest()[:24]}.npy"
    return _kept(file, lambda: synonym_table(mapping, tokens, path))


def synonym_table(mapping: object, tokens: Sequence[str], path: str) -> NDArray[np.int64]:
    """Return the synonyms of each token `[tokens, 1 + MOST_SYNONYMS]`, after how many they are.

    Words are compared in small letters, as tokens are; what is no token is left out. Raises `BadInputError` where that
    leaves nothing.
    """
    if not isinstance(mapping, Mapping):
        raise bad_value("augmentation.synonyms", path, _MAPPING)
    number = {token: index for index, token in enumerate(tokens) if index > text.UNKNOWN}
    table = np.zeros((len(tokens), 1 + MOST_SYNONYMS), dtype=np.int64)
    for word, synonyms in mapping.items():
        if not isinstance(synonyms, list) or not all(isinstance(one, str) for one in synonyms):
            raise BadInputError(f"augmentation.synonyms: {path}: {word!r} has no list of words; allowed: {_MAPPING}.")
        known = [number[one.lower()] for one in synonyms if one.lower() in number and one.lower() != word.lower()]
        if word.lower() in number and known:
            row, kept = table[number[word.lower()]], known[:MOST_SYNONYMS]
            row[0], row[1 : 1 + len(kept)] = len(kept), kept
    if not table[:, 0].any():
        allowed = "words with synonyms among the tokens of the text"
        raise BadInputError(f"augmentation.synonyms: {path}: no word of it can be replaced; allowed: {allowed}.")
    return table


# Paraphrases.


def _paraphrases(translator: str, of: Text, tokens: Sequence[str], folder: Path, cache: Path) -> Path:
    facts = json.dumps([translator, _source_digest(translator)])
    file = folder / f"paraphrases-{hashlib.sha256(facts.encode()).hexdigest()[:24]}.npy"
    return _kept(file, lambda: _paraphrased(translator, of, tokens, cache))


def _paraphrased(translator: str, of: Text, tokens: Sequence[str], cache: Path) -> NDArray[np.int64]:
    function = _function(translator)
    reworded = [_reworded(function, translator, index, one) for index, one in enumerate(data.training_texts(of, cache))]
    return text.encode(list(map(text.splitter(of), reworded)), tokens, of.length)


def _reworded(function: Callable[[str], Any], translator: str, index: int, original: str) -> str:
    try:
        found = function(original)
    # It is the user's, and may raise whatever it likes.
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInputError(
            f"augmentation.translator: {translator!r} fails on training text {index} ({what})."
        ) from error
    if not isinstance(found, str) or not found.strip():
        allowed = "a function that gives a text for each text"
        raise BadInputError(f"augmentation.translator: {translator!r} gives {found!r}; allowed: {allowed}.")
    return found


def _source_digest(translator: str) -> str:
    """Return what tells one state of a function's module from another."""
    module = translator.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise bad_value("augmentation.translator", translator, _FUNCTION)
    origin = Path(spec.origin or "")
    return hashlib.sha256(origin.read_bytes() if origin.is_file() else b"").hexdigest()


def _function(translator: str) -> Callable[[str], Any]:
    module, _, name = translator.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    # Whatever the user's module does when it is imported.
    except (Exception, SystemExit) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInputError(f"augmentation.translator: {translator!r} cannot be imported ({what}).") from error
    if not callable(found):
        raise bad_value("augmentation.translator", translator, _FUNCTION)
    return found  # type: ignore[no-any-return]


def _kept(file: Path, make: Callable[[], NDArray[np.int64]]) -> Path:
    """Return a file with what `make` returns, which is called where there is none; others wait meanwhile."""
    if not file.is_file():
        with locked(file.with_suffix(".lock")):
            if not file.is_file():
                aside = file.with_suffix(".part.npy")
                np.save(aside, make())
                aside.rename(file)
    return file
