"""`swathe report` on a real sweep of digits and on one of a function: the page, its file in MLflow, what is refused."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from swathe.config import compose_sweep
from swathe.home import Home
from swathe.records import Records
from swathe.reporting.retrain import retrain
from tests.browser import failures, open_browser, wait_for_text
from tests.integration.swathes import run, succeed, write_function_sweep

SWEEP = """
defaults: [/model: mlp, /data: digits, /optim: momentum, /sampler: random, /pruner: median, _self_]
epochs: 3
sweep:
  name: report
  trials: 30
  space:
    optim: choice(sgd, momentum)
    optim.lr: tag(log, interval(1e-5, 1e-2))
    model.norm: choice(none, layer)
"""


def said(page: str) -> str:
    """Return the text of a page, without its scripts."""
    body = page[page.index("<body>") :]
    bare = re.sub(r"<[^>]+>", " ", re.sub(r"<script.*?</script>", " ", body, flags=re.DOTALL))
    return " ".join(html.unescape(bare).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("report")
    (made / "report.yaml").write_text(SWEEP)
    succeed(made, "launch", "report.yaml", "--quiet")
    return made


@pytest.mark.slow
def test_the_report_of_a_sweep(folder: Path) -> None:
    printed = succeed(folder, "report", "report", "--pruned", "3").strip()
    path = Path(printed)
    assert path == folder / ".swathe" / "sweeps" / "report" / "report-report.html"
    page = path.read_text()
    text = said(page)
    assert "30 trials:" in text
    assert re.search(r"Trained again with 5 other seeds it comes to [\d.]+ on average, 95 % confidence interval", text)
    assert "swathe reproduce report" in text
    assert "matters most" in text
    assert re.search(r"Of 3 drawn at random and trained to the end, \d would have won", text)
    assert re.search(r"At an equal budget of \d+ trials each \(dotted\): momentum [\d.]+, sgd", text)
    records = Records(Home(folder / ".swathe").tracking_uri)
    assert records.sweep_text("report", "report", "report.html") == page
    with open_browser() as browser:
        browser.get(path.as_uri())
        wait_for_text(browser, "What pruning saved", "stopped early")
        assert failures(browser, "") == []


@pytest.mark.slow
def test_what_the_user_names_and_leaves_out(folder: Path) -> None:
    succeed(folder, "report", "report", "--no-seeds", "--pruned", "0", "--scientific", "model.norm", "--out", "a.html")
    text = said((folder / "a.html").read_text())
    assert "1 scientific parameter to compare, 2 nuisance" in text
    assert "(--no-seeds)" in text
    assert "(--pruned 0)" in text
    for words, sentence in (
        (["--scientific", "norm"], "allowed: optim, optim.lr, model.norm."),
        (["--out", "no/such/a.html"], "allowed: a file in an existing folder."),
    ):
        refused = run(folder, "report", "report", *words)
        assert refused.returncode == 2
        assert sentence in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_function_is_not_trained_again(tmp_path: Path) -> None:
    succeed(tmp_path, "launch", write_function_sweep(tmp_path, "diverges", trials=12), "--quiet")
    succeed(tmp_path, "report", "f", "--out", "f.html")
    text = said((tmp_path / "f.html").read_text())
    assert "functions are not trained again for a report" in text
    assert re.search(r"\d+ of 12 trials diverged", text)


@pytest.mark.slow
def test_lanes_that_are_trained_again_end_by_themselves_or_at_a_step(tmp_path: Path) -> None:
    values = dict(compose_sweep("quickstart", ("epochs=2", "data.limit=200")).values)
    groups = ("model", "data", "optim", "schedule", "regularization", "batch_size", "epochs")
    config = {key: values[key] for key in groups}
    configs = {seed: {**config, "seed": seed} for seed in (3, 4)} | {5: {**config, "seed": 5, "batch_size": -1}}
    found = retrain(configs, Home(tmp_path), {"device": "cpu", "threads": "1"}, metric="val_loss")
    assert [len(found[number].reports) for number in (3, 4, 5)] == [2, 2, 0]
    assert "batch_size" in found[5].failure
    assert found[3].value("val_loss") != found[4].value("val_loss"), "seeds differ"
    assert found[3].value("val_loss", 1) == found[3].reports[0].metrics["val_loss"]
    until = retrain({3: configs[3]}, Home(tmp_path), {}, metric="val_loss", until=1)
    assert [report.step for report in until[3].reports] == [1]
