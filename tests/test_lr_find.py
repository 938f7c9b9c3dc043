"""`swathe lr-find`: from the command line to the terminal, the page and the record; and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from swathe import cli, lr_find, lr_plot
from swathe.config import compose_sweep
from swathe.errors import BadInputError, SwatheError
from swathe.home import Home
from swathe.lr_find import Options
from swathe.records import Records
from swathe.space import Space
from swathe.standalone import Settings
from swathe.training.lr_finder import Finding, Method, RangeTest, find

SMALL = ["data=digits", "data.limit=160", "batch_size=32", "model.hidden=[8]", "optim=adamw"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_from_the_command_line_to_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["lr-find", *SMALL, "--rates", "9", "--steps", "40"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "Tried 9 rates side by side, as lanes of 40 steps each" in said
    plot = Path(".swathe/data/lr-find/mlp-digits-adamw.html")
    assert f"Plot:              {plot}\n" in said
    assert "plotly.js v" in plot.read_text()
    assert str(tmp_path) not in said

    # What it says to search is what a sweep takes.
    (override,) = [line.split("'")[1] for line in said.splitlines() if line.startswith("Search around it:")]
    assert Space.parse(compose_sweep("quickstart", (override,))).parameters["optim.lr"].distribution.log

    run_id = said.partition("Run in MLflow:")[2].split()[0]
    records = Records(Home(tmp_path / ".swathe").tracking_uri)
    run = records.run(run_id)
    assert run.tags["swathe.kind"] == "lr-find"
    assert run.params["model.hidden"] == "[8]"
    found = json.loads(run.tags["swathe.lr_find"])
    assert (found["method"], f"{found['low']:g},{found['high']:g}" in override) == ("lanes", True)
    history = records.history(run_id)
    assert [history["lr", step] for step in range(9)] == np.geomspace(1e-7, 10, 9).tolist()
    assert history["loss", 0] > min(history["loss", step] for step in range(9))

    # Rates at which nothing moves.
    assert cli.run(["lr-find", *SMALL, "--from-lr", "1e-12", "--to-lr", "1e-10", "--rates", "2", "--steps", "10"]) == 1
    said = capsys.readouterr().out
    assert "No rate learns" in said
    assert "Search around it" not in said
    assert max(map(len, said.splitlines())) <= 80


def test_json_a_plot_of_ones_own_and_a_ramp(capsys: pytest.CaptureFixture[str]) -> None:
    resnet = ["model=resnet_cifar", "model.depth=8", "model.width=4", "data=digits", "data.limit=64", "batch_size=16"]
    words = ["optim=adamw", "--steps", "40", "--from-lr", "1e-5", "--plot", "mine.html", "--json"]
    assert cli.run(["lr-find", *resnet, *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["method"], found["plot"], len(found["rates"])) == ("ramp", "mine.html", 40)
    assert "a minute to trace" in found["note"]
    assert found["range"][0] < found["lr"] < found["range"][1]
    assert found["override"] == "optim.lr=tag(log,interval({:g},{:g}))".format(*found["range"])
    assert found["rates"][0]["lr"] == 1e-5
    assert Path("mine.html").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rates", "1"], ["--rates: 1", "from 2"]),
        (["--steps", "9"], ["--steps: 9", "at least 10"]),
        (["--from-lr", "1", "--to-lr", "1"], ["--from-lr: 1.0", "below --to-lr"]),
        (["--from-lr", "0"], ["--from-lr: 0.0", "above 0"]),
        (["--to-lr", "inf"], ["--to-lr: inf", "finite"]),
        (["--plot", "none/here.html"], ["--plot: 'none/here.html'", ".html"]),
        (["--plot", "here.png"], ["--plot: 'here.png'", ".html"]),
        (["optim.learning_rate=1"], ["optim.learning_rate", "no such key"]),
        (["optim.lr=interval(0.1,1)"], ["optim.lr", "swathe launch"]),
        (["sweep.trials=3"], ["sweep.trials", "swathe launch"]),
        (["trainable=tests.test_standalone:function"], ["trainable: 'tests.test_standalone:function'", "null"]),
        (["--from", "none.yaml"], ["--from: 'none.yaml'", "YAML"]),
    ],
)
def test_bad_input_is_one_sentence(
    words: Sequence[str], said: Sequence[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["lr-find", *words]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    for word in said:
        assert word in err
    assert not Path(".swathe/mlflow.db").exists()


def test_data_that_no_network_has_a_loss_on(tmp_path: Path) -> None:
    Path("table.csv").write_text("x,y\n" + "".join(f"{row},{row}e30\n" for row in range(1, 60)))
    config = {"data": {"name": "csv", "path": "table.csv", "target": "y", "task": "regression"}}
    with pytest.raises(SwatheError, match="untrained network is not finite"):
        lr_find.run(config, Settings(), Home(tmp_path / ".swathe"), Options(rates=2, steps=10))


def test_options_are_refused_before_anything_is_read() -> None:
    with pytest.raises(BadInputError, match="--rates: 1001"):
        lr_find.check(Options(rates=1001), None)


# The picture.

CURVES = {
    "valley": (9, [2.3, 2.3, 2.2, 1.2, 0.2, 0.1, 0.9, 3.0, math.inf]),
    "flat": (2, [2.3, 2.3]),
    "above": (3, [2.3, 1e30, math.inf]),
    "many": (300, [2.3 - 2 * math.exp(-(((x - 200) / 40) ** 2)) for x in range(300)]),
    "negative": (3, [-1.0, -2.0, -1.5]),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("method", Method)
def test_any_curve_fits_into_80_columns(name: str, method: Method) -> None:
    count, losses = CURVES[name]
    test = RangeTest(method, np.geomspace(1e-7, 10, count), np.array(losses), losses[0])
    lines = lr_plot.chart(test, find(test)).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("1e-7" in line and "1e" in line for line in lines)


def test_the_picture_of_a_valley() -> None:
    count, losses = CURVES["valley"]
    test = RangeTest(Method.LANES, np.geomspace(1e-7, 10, count), np.array(losses), 2.3)
    *plane, axis, ticks, bar = lr_plot.chart(test, find(test)).splitlines()
    columns = {index: line[11:].rfind("o") for index, line in enumerate(plane)}
    assert columns[len(plane) - 1] == 5 * 8, "the best rate is at the bottom, the sixth of nine"
    assert plane[0].count("x") == 2
    assert axis.count("-") == 65
    assert ticks.split() == [f"1e{power}" for power in range(-7, 2)]
    assert bar[11:].index("<") == 3 * 8 - 4
    assert bar[11:].index(">") == 6 * 8 + 4
    assert bar.count("|") == 1


def test_without_a_rate_that_learns_there_is_a_page_and_no_range() -> None:
    test = RangeTest(Method.LANES, np.array([0.1, 1.0]), np.array([2.3, math.inf]), 2.3)
    finding = find(test)
    assert finding == Finding((False, True))
    assert "range to search" not in lr_plot.page(test, finding, "<model>")
    assert "<title>&lt;model&gt;</title>" in lr_plot.page(test, finding, "<model>")
    assert lr_plot.table(test, finding).row_count == 1
