"""Texts: how they are read, cut and numbered, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swathe.errors import BadInputError
from swathe.training import text
from swathe.training.data import ensure, load
from swathe.training.recipe import StdlibText, Text
from swathe.training.text import PADDING, UNKNOWN, encode, files, vocabulary


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def spelled(numbers: Any, tokens: tuple[str, ...]) -> str:
    return "".join(tokens[number] for number in numbers.tolist())


def book(tmp_path: Path, content: str, **options: Any) -> Text:
    (tmp_path / "book.txt").write_text(content)
    return Text(path=str(tmp_path / "book.txt"), task="language_model", **options)


def labelled_folder(tmp_path: Path) -> Path:
    for kind, texts in {"cats": ["meow", "purr"], "dogs": ["woof", "bark bark", "growl"]}.items():
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for index, content in enumerate(texts):
            (tmp_path / "pets" / kind / f"{index}.txt").write_text(content)
    return tmp_path / "pets"


def test_the_commonest_tokens_are_in_the_vocabulary() -> None:
    assert vocabulary(["abba", "cab", "<unknown>"], 5)[2:] == ["a", "b", "n"]
    assert vocabulary([["a", "<padding>"]], 100) == ["<padding>", "<unknown>", "<padding>", "a"]


def test_short_texts_are_padded_in_front_and_long_ones_cut() -> None:
    tokens = ["<padding>", "<unknown>", "a", "b"]
    assert encode(["ab", "abcab"], tokens, 4).tolist() == [[PADDING, PADDING, 2, 3], [2, 3, UNKNOWN, 2]]
    assert encode([["<unknown>", "<padding>"]], [*tokens, "<padding>"], 2).tolist() == [[UNKNOWN, 4]]


def test_a_language_model_s_target_is_the_next_character(tmp_path: Path, cache: Path) -> None:
    content = "".join(chr(200 + index) for index in range(103))
    data = load(book(tmp_path, content, length=4, test_fraction=0.2), cache)
    assert (data.classes, data.length) == (len(data.tokens), 4)
    assert data.sequence is not None
    assert data.sequence.every_step
    for x, y in ((data.train_x, data.train_y), (data.val_x, data.val_y), (data.test_x, data.test_y)):
        assert x.shape == y.shape
        assert (x[:, 1:] == y[:, :-1]).all()
    assert len(data.train_x) + len(data.val_x) + len(data.test_x) == 103 // 5
    windows = [spelled(row, data.tokens) for row in data.train_x]
    # No two windows share a character, whose number is its place in this text.
    assert len(set("".join(windows))) == 4 * len(windows)
    assert all(content.index(window) % 5 == 0 for window in windows)


def test_the_vocabulary_is_that_of_the_training_part(tmp_path: Path, cache: Path) -> None:
    content = "".join(chr(200 + index) for index in range(100))
    data = load(book(tmp_path, content, length=4), cache)
    assert len(data.tokens) == 2 + 5 * len(data.train_x)
    assert (data.val_x == UNKNOWN).all()


def test_limit_and_split_seed(tmp_path: Path, cache: Path) -> None:
    content = "".join(chr(200 + index) for index in range(100))
    whole, some = (load(book(tmp_path, content, length=4, limit=limit), cache) for limit in (None, 3))
    rows = [[spelled(row, data.tokens) for row in data.train_x] for data in (whole, some)]
    assert rows[0][:3] == rows[1]
    other = load(book(tmp_path, content, length=4, split_seed=1), cache)
    assert [spelled(row, other.tokens) for row in other.train_x] != rows[0]


def test_files_are_read_in_order_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name in ("b.txt", "a/2.txt", "a/10.txt", ".git/config", "a/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = [str(path.relative_to(tmp_path)) for path in files(tmp_path, Text(task="language_model"))]
    assert found == ["a/10.txt", "a/2.txt", "b.txt"]


def test_a_folder_of_folders_is_classified(tmp_path: Path, cache: Path) -> None:
    data = load(Text(path=str(labelled_folder(tmp_path)), length=6, val_fraction=0.4), cache)
    assert (data.classes, len(data.train_y), len(data.val_y)) == (2, 3, 2)
    for row, label in zip(data.train_x, data.train_y.tolist(), strict=True):
        word = spelled(row, data.tokens).replace("<padding>", "")
        assert word in {0: ["meow", "purr"], 1: ["woof", "bark b", "growl"]}[label]


@pytest.mark.parametrize(("name", "sign"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_table_of_texts_in_words(tmp_path: Path, cache: Path, name: str, sign: str) -> None:
    rows = [("label", "text"), ("1", "Good, good!"), ("0", "NA"), ("1", "so good"), ("0", "bad"), ("1", '"very good"')]
    (tmp_path / name).write_text("\n".join(sign.join(f'"{word.replace(chr(34), "")}"' for word in row) for row in rows))
    data = load(Text(path=str(tmp_path / name), tokens="words", length=4, val_fraction=0.2), cache)
    assert data.classes == 2
    assert len(data.train_x) + len(data.val_x) == 5
    assert set(data.tokens[2:]) <= {"good", ",", "!", "na", "so", "bad", "very"}
    assert (data.train_x >= UNKNOWN).any(dim=1).all()


def test_what_changes_in_a_file_is_prepared_anew(tmp_path: Path, cache: Path) -> None:
    first = load(book(tmp_path, "abcdefghij" * 5, length=4), cache)
    assert load(book(tmp_path, "abcdefghij" * 6, length=4), cache).digest != first.digest


def test_the_standard_library_is_a_text(cache: Path) -> None:
    data = StdlibText(limit=20, val_fraction=0.001)
    modules = {path.name for path in files(text.stdlib_folder(), data)}
    assert {"this.py", "textwrap.py"} <= modules
    # Of the machine, not of Python.
    assert "sitecustomize.py" not in modules
    assert not any(name.startswith("_sysconfigdata") for name in modules)
    loaded = load(data, cache)
    assert loaded.train_x.shape == (20, 64)
    assert {"e", " ", "\n"} <= set(loaded.tokens)


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        (
            "a.txt",
            "abcdefghij",
            {"length": 5, "task": "language_model"},
            "data.length: 5 is not allowed; allowed: at most 4",
        ),
        ("a.txt", "abc", {}, "a folder with one folder for each class, or a .csv or .tsv file"),
        ("a.csv", "text,kind\na,1\n", {}, "data.target: 'label' is not allowed; allowed: a column of"),
        ("a.csv", "words,label\na,1\n", {}, "data.text: 'text' is not allowed; allowed: a column of"),
        ("a.csv", "text,label\na,1\nb,1\n", {}, "a column with at least two different values"),
        ("a.csv", "text,label\na,1\n,2\n", {}, "column 'text' in row 2 has no text"),
        ("a.csv", "", {}, "cannot be read as CSV"),
        ("only/a.txt", "abc", {}, "a folder with a folder of files for each class, of which"),
    ],
)
def test_bad_texts_are_refused_before_anything_is_trained(
    tmp_path: Path, cache: Path, name: str, content: str, options: dict[str, Any], words: str
) -> None:
    file = tmp_path / "given" / name
    file.parent.mkdir(parents=True)
    file.write_text(content)
    place = file if file.parent.name == "given" else file.parent.parent
    with pytest.raises(BadInputError) as refused:
        ensure(Text(path=str(place), **options), cache)
    assert words in str(refused.value)


def test_what_is_no_text_is_refused_by_name(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match=r"a\.bin cannot be read as a text in UTF-8"):
        ensure(Text(path=str(tmp_path / "a.bin"), task="language_model"), cache)
    with pytest.raises(BadInputError, match=r"data\.path: 'none' is not allowed; allowed: a file or a folder"):
        ensure(Text(path="none"), cache)
