"""Synonyms and paraphrases: read and made once, kept beside the data, and refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from swathe.errors import BadInputError
from swathe.training.data import load
from swathe.training.recipe import Recipe, recipe_from_config
from swathe.training.solo import Solo
from swathe.training.wording import ensure, synonym_table, worded

TEXTS = [f"{word} film, {other} actors" for word in ("good", "fine", "bad") for other in ("great", "poor", "no", "the")]
MODULE = """
def shout(text):
    with open({log!r}, "a") as file:
        file.write(text + "\\n")
    return text.upper().replace("FILM", "MOVIE")

def fail(text):
    raise RuntimeError("no model")

def silent(text):
    return " "
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's, which nobody has imported yet."""
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(log=str(tmp_path / "calls.txt")))
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def texts(tmp_path: Path, augmentation: dict[str, Any], **config: Any) -> Recipe:
    path = tmp_path / "films.csv"
    if not path.exists():
        lines = [f'"{text}",{"no" if "bad" in text else "yes"}' for text in TEXTS]
        path.write_text("\n".join(["text,label", *lines]) + "\n")
    data = {"name": "text", "path": str(path), "tokens": "words", "length": 6, "val_fraction": 0.25}
    model = {"name": "lstm", "width": 3}
    return recipe_from_config({"data": data, "model": model, "batch_size": 4, "augmentation": augmentation, **config})


def test_a_paraphrase_of_each_training_text_is_made_once(cache: Path, tmp_path: Path, module: str) -> None:
    recipe = texts(tmp_path, {"back_translation": 0.5, "translator": f"{module}:shout"})
    plain = load(recipe.data, cache)
    ours = worded(plain, recipe, cache)
    ensure(recipe, cache)
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert len(calls) == len(plain.train_x) == 9
    assert ours.paraphrases is not None
    for row, (before, after, text) in enumerate(zip(plain.train_x, ours.paraphrases, calls, strict=True)):
        words = [plain.tokens[token] for token in before if token]
        assert " ".join(words).replace(" ,", ",") == text, row
        # "movie" is no word of the training part.
        assert [plain.tokens[token] for token in after if token] == ["<unknown>" if w == "film" else w for w in words]
    assert ours.digest != plain.digest
    assert worded(plain, recipe, cache) is ours


def test_another_function_makes_others(cache: Path, tmp_path: Path, module: str) -> None:
    recipe = texts(tmp_path, {"back_translation": 0.5, "translator": f"{module}:shout"})
    ensure(recipe, cache)
    with (tmp_path / f"{module}.py").open("a") as file:
        file.write("# changed\n")
    ensure(recipe, cache)
    assert len((tmp_path / "calls.txt").read_text().splitlines()) == 2 * 9


def test_synonyms_are_numbers_of_tokens() -> None:
    tokens = ["<padding>", "<unknown>", "good", "fine", "great", "bad"]
    mapping = {"Good": ["fine", "great", "superb", "good"], "bad": ["awful"], "film": ["great"]}
    table = synonym_table(mapping, tokens, "words.json")
    assert table[2].tolist() == [2, 3, 4, 0, 0, 0, 0, 0, 0]
    assert not table[[0, 1, 3, 4, 5]].any()


def test_what_texts_are_augmented_with_changes_what_is_trained(cache: Path, tmp_path: Path, module: str) -> None:
    (tmp_path / "words.json").write_text(json.dumps({"good": ["fine"], "fine": ["good"], "great": ["poor"]}))
    given = {
        "back_translation": 0.5,
        "translator": f"{module}:shout",
        "synonym_replacement": 0.5,
        "synonyms": str(tmp_path / "words.json"),
        "token_dropout": 0.2,
    }
    plain, ours = (Solo(texts(tmp_path, one, epochs=1), "cpu", cache) for one in ({}, given))
    assert torch.equal(plain.dataset.val_x, ours.dataset.val_x)
    ((_, without, _),), ((_, changed, _),) = (run.reports(lambda: False) for run in (plain, ours))
    assert without["train_loss"] != changed["train_loss"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"translator": "OWN:fail"}, ["augmentation.translator", "training text 0", "no model"]),
        ({"translator": "OWN:silent"}, ["augmentation.translator", "' '", "a text for each text"]),
        ({"translator": "OWN:nothing"}, ["augmentation.translator", "nothing", "module:function"]),
        ({"translator": "not_there:f"}, ["augmentation.translator", "not_there", "module:function"]),
    ],
)
def test_a_function_that_is_not_good_is_refused(
    cache: Path, tmp_path: Path, module: str, given: dict[str, str], words: list[str]
) -> None:
    given = {key: value.replace("OWN", module) for key, value in given.items()}
    with pytest.raises(BadInputError) as refused:
        ensure(texts(tmp_path, {"back_translation": 0.5, **given}), cache)
    assert all(word in str(refused.value) for word in words)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["[1]", "{", '{"good": "fine"}', '{"nothing": ["here"]}'])
def test_a_file_that_has_no_synonyms_is_refused(cache: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "words.json").write_text(content)
    given = {"synonym_replacement": 0.5, "synonyms": str(tmp_path / "words.json")}
    with pytest.raises(BadInputError, match=r"^augmentation.synonyms: .*allowed: [^\n]*$"):
        ensure(texts(tmp_path, given), cache)


@pytest.mark.parametrize(
    ("given", "data", "words"),
    [
        ({"back_translation": 0.5}, {}, ["augmentation.translator", "module:function"]),
        ({"synonym_replacement": 0.5}, {}, ["augmentation.synonyms", "JSON"]),
        ({"token_dropout": 0.5}, {"name": "iris"}, ["augmentation.token_dropout", "no text"]),
        ({"flip": 0.5}, {}, ["augmentation.flip", "no image"]),
        ({"mixup": 0.5}, {}, ["augmentation.mixup", "no quantities"]),
        ({"synonym_replacement": 0.5, "synonyms": "a.json"}, {"tokens": "characters"}, ["0 with data.tokens"]),
        (
            {"back_translation": 0.5, "translator": "a:b"},
            {"task": "language_model", "tokens": "characters"},
            ["augmentation.back_translation", "language_model"],
        ),
        ({"jitter": 0.5}, {}, ["augmentation.jitter", "no series"]),
    ],
)
def test_what_a_text_cannot_have_is_refused(given: dict[str, Any], data: dict[str, Any], words: list[str]) -> None:
    name = "gpt" if data.get("task") else "mlp" if data.get("name") else "lstm"
    options = {"data": {"name": "text", "path": "a.csv", "tokens": "words", **data}, "model": {"name": name}}
    if data.get("name"):
        options["data"] = data
    with pytest.raises(BadInputError) as refused:
        recipe_from_config({**options, "augmentation": given})
    assert all(word in str(refused.value) for word in words)
