"""Sweeps from Python: of a function that is defined where it is called, as in a notebook, and of a recipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import swathe
from swathe.errors import BadInputError
from tests.integration import swathes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWATHE_HOME", raising=False)
    return tmp_path


INLINE = ("cluster=inline", "pruner=none")


def test_a_function_of_a_notebook(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factor = 2.0

    def train(params: Any) -> None:
        assert set(params) == {"x", "n"}
        for step in (1, 2):
            swathe.report(factor * params.x / step, step)

    sweep = swathe.Sweep(
        train, *INLINE, params={"x": 0.5, "n": 3}, space={"x": "interval(0.0, 1.0)"}, trials=4, metric="loss"
    )
    result = sweep.run()
    assert (result.name, result.failed, result.interrupted) == ("train", False, False)
    assert "Sweep train: 4 trials; starting workers" in capsys.readouterr().out
    frame = result.trials
    assert frame["state"].tolist() == ["complete"] * 4
    assert frame["value"].tolist() == (frame["params.x"] * factor / 2).tolist()
    best = result.best
    assert best is not None
    assert best["value"] == frame["value"].min()
    assert len(result.curves) == 8
    # Once more: there is nothing left to do.
    assert sweep.run(quiet=True).trials["trial"].tolist() == [0, 1, 2, 3]
    assert capsys.readouterr().out == ""
    # Another space is another sweep.
    with pytest.raises(BadInputError, match=r"sweep.name: 'train' is not allowed"):
        swathe.Sweep(train, *INLINE, params={"x": 0.5, "n": 3}, space={"x": "interval(0.0, 2.0)"}).run()


def test_points_to_try_have_the_parameters_own_names(folder: Path) -> None:
    def train(params: Any) -> None:
        swathe.report(params.x, 1)

    options: dict[str, Any] = {"params": {"x": 0.5}, "space": {"x": "interval(0.0, 1.0)"}, "trials": 2}
    points = [{"x": 0.125}]
    result = swathe.Sweep(train, *INLINE, enqueue=points, **options).run(quiet=True)
    assert result.trials["params.x"].tolist()[0] == 0.125
    with pytest.raises(BadInputError, match=r"sweep.enqueue\[0\]: params.x: 2 is not allowed"):
        swathe.Sweep(train, *INLINE, enqueue=[{"x": 2}], name="other", **options).run()


def test_why_trials_failed(folder: Path) -> None:
    def train(params: Any) -> None:
        raise ValueError(f"<{params.x > 0}>")

    options: dict[str, Any] = {"params": {"x": 0.5}, "space": {"x": "interval(0.1, 1.0)"}, "trials": 3}
    result = swathe.Sweep(train, *INLINE, "sweep.max_failures=9", name="fails", **options).run(quiet=True)
    assert result.failures == [("ValueError: <True>", 3)]
    assert "<div>3 failed: ValueError: &lt;True&gt;</div>" in result._repr_html_()


def test_a_sweep_s_file(folder: Path) -> None:
    swathes.write_function_sweep(folder, "quick", trials=3)
    result = swathe.Sweep("f.yaml", *INLINE).run(quiet=True)
    assert result.trials["state"].tolist() == ["complete"] * 3
    done = swathes.run(folder, "resume", "f", "sweep.trials=4")
    assert "all 4 trials are done" in done.stdout


def test_what_is_refused(folder: Path) -> None:
    with pytest.raises(BadInputError, match=r"SWEEP: 'nosuch' is not allowed"):
        swathe.Sweep("nosuch").run()
    with pytest.raises(
        BadInputError, match=r"trials: 3 is not allowed; allowed: overrides, such as 'sweep.trials=...'"
    ):
        swathe.Sweep("quickstart", trials=3)
    with pytest.raises(BadInputError, match=r"sweep.name: 'a/b' is not allowed"):
        swathe.Sweep(print, name="a/b").run()
    with pytest.raises(BadInputError, match=r"params.y: there is no such key"):
        swathe.Sweep(print, *INLINE, params={"x": 1}, space={"y": "choice(1, 2)"}).run()
    with (
        (folder / "file").open("w") as handle,
        pytest.raises(BadInputError, match=r"The function cannot be sent to workers"),
    ):
        swathe.Sweep(lambda params: handle.write("x")).run()
    with pytest.raises(AttributeError, match="nothing"):
        swathe.nothing  # noqa: B018


@pytest.mark.slow
def test_a_script_s_function_in_workers(folder: Path) -> None:
    (folder / "script.py").write_text(
        "import swathe\n"
        "class Net:\n"
        "    def loss(self, x):\n"
        "        return (x - 0.3) ** 2\n"
        "def train(params):\n"
        "    swathe.report(val_loss=Net().loss(params.x))\n"
        "if __name__ == '__main__':\n"
        "    space = {'x': 'interval(0.0, 1.0)'}\n"
        "    result = swathe.Sweep(train, params={'x': 0.5}, space=space, name='mine', trials=6).run(quiet=True)\n"
        "    print(result.best['value'] == result.trials['value'].min(), len(result.trials))\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env=swathes.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "True 6", done.stderr
    assert "Identical" in swathes.succeed(folder, "reproduce", "mine")
