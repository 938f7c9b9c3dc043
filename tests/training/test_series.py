"""Series: windows, the value that comes next, labels, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly
import pytest
import torch

from swathe.errors import BadInputError
from swathe.training.data import ensure, load
from swathe.training.recipe import Series

ROWS = "t,day,level,y\n" + "".join(f"{t},d{t},{10 * t},{100 + t}\n" for t in range(20))
LABELLED = "name,label,a,b\n" + "".join(
    f"{name},{label},{step},{10 * step}\n"
    for name, label in (("x", "up"), ("y", "down"), ("z", "up"))
    for step in range(4)
)
# The tables inside plotly: a country's people, life expectancy and income every five years.
GAPMINDER = Path(str(plotly.__file__)).parent / "package_data" / "datasets" / "gapminder.csv.gz"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def series(tmp_path: Path, content: str = ROWS, **options: Any) -> Series:
    (tmp_path / "s.csv").write_text(content)
    return Series(path=str(tmp_path / "s.csv"), **{"target": "y", "length": 3, "standardize": False, **options})


def test_a_window_s_target_is_the_next_value(tmp_path: Path, cache: Path) -> None:
    data = load(series(tmp_path, val_fraction=0.25, test_fraction=0.25), cache)
    assert (data.classes, data.length) == (0, 3)
    assert data.sequence is not None
    # The days are no numbers, and so no variable.
    assert (data.sequence.variables, data.sequence.vocabulary) == (3, 0)
    for x, y in ((data.train_x, data.train_y), (data.val_x, data.val_y), (data.test_x, data.test_y)):
        t, level, target = x.view(-1, 3, 3).unbind(1)
        assert torch.equal(t[:, 1:], t[:, :-1] + 1)
        assert torch.equal(level, 10 * t)
        assert torch.equal(target, 100 + t)
        assert torch.equal(y, 100 + t[:, -1] + 1)


def test_the_parts_follow_each_other_and_share_no_step(tmp_path: Path, cache: Path) -> None:
    data = load(series(tmp_path, val_fraction=0.25, test_fraction=0.25), cache)
    parts = ((data.train_x, data.train_y), (data.val_x, data.val_y), (data.test_x, data.test_y))
    steps = [{*x.view(-1, 3, 3)[:, 0].flatten().tolist(), *(y - 100).tolist()} for x, y in parts]
    assert steps == [set(range(10)), set(range(10, 15)), set(range(15, 20))]


def test_each_series_is_forecast_by_itself(tmp_path: Path, cache: Path) -> None:
    content = "id,y\n" + "".join(f"{name},{base + t}\n" for t in range(12) for name, base in (("a", 0), ("b", 1000)))
    data = load(series(tmp_path, content, id="id", val_fraction=0.5), cache)
    assert len(data.train_x) == len(data.val_x) == 6
    assert torch.equal(data.train_y, data.train_x[:, -1] + 1)
    assert {float(value) >= 1000 for value in data.train_y} == {True, False}


def test_limit_keeps_so_many_windows_of_the_training_part(tmp_path: Path, cache: Path) -> None:
    whole, some = (load(series(tmp_path, limit=limit), cache) for limit in (None, 4))
    assert torch.equal(some.train_x, whole.train_x[:4])
    assert torch.equal(some.val_x, whole.val_x)


def test_each_variable_is_standardised_over_all_steps(tmp_path: Path, cache: Path) -> None:
    data = load(series(tmp_path, standardize=True), cache)
    values = data.train_x.view(-1, 3, 3).transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(values.std(1, correction=0), torch.ones(3))
    assert data.train_y.min() >= 100


def test_a_series_has_one_label(tmp_path: Path, cache: Path) -> None:
    data = load(series(tmp_path, LABELLED, target="label", task="classification", id="name", val_fraction=0.34), cache)
    assert (data.classes, len(data.train_y), len(data.val_y)) == (2, 2, 1)
    # The last three steps of each, variable by variable.
    assert data.train_x.tolist() == [[1, 2, 3, 10, 20, 30]] * 2
    assert sorted([*data.train_y.tolist(), *data.val_y.tolist()]) == [0, 1, 1]


def test_the_countries_inside_plotly_are_series(cache: Path) -> None:
    data = load(Series(path=str(GAPMINDER), target="continent", task="classification", id="country", length=12), cache)
    assert (data.classes, len(data.train_y) + len(data.val_y)) == (5, 142)
    assert data.train_x.isfinite().all()


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (ROWS, {"target": "z"}, "data.target: 'z' is not allowed; allowed: a column of"),
        (ROWS, {"id": "z"}, "data.id: 'z' is not allowed; allowed: a column of"),
        (ROWS, {"target": "day"}, "is not numeric"),
        (ROWS, {"length": 4}, "data.length: 4 is not allowed; allowed: at most 3"),
        (ROWS, {"length": 17}, "data.length: 17 is not allowed; allowed: at most 3"),
        (ROWS.replace("50,", ","), {}, "column 'level' has no value in row 6"),
        ("y,x\n", {}, "has no rows"),
        (LABELLED, {"target": "label", "id": "name", "length": 5}, "data.length: 5 is not allowed; allowed: at most 4"),
        (LABELLED.replace("x,up,0", "x,down,0"), {"target": "label", "id": "name"}, "'x' has more than one label"),
        ("name,label\nx,up\ny,down\n", {"target": "label", "id": "name"}, "has no column of numbers"),
    ],
)
def test_bad_series_are_refused_before_anything_is_trained(
    tmp_path: Path, cache: Path, content: str, options: dict[str, Any], words: str
) -> None:
    task = {"task": "classification"} if options.get("target") == "label" else {}
    with pytest.raises(BadInputError) as refused:
        ensure(series(tmp_path, content, **options, **task), cache)
    assert words in str(refused.value)
