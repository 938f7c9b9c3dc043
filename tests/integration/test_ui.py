"""The MLflow UI in a real browser: what people see of a sweep when they compare its trials."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as shown
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser import PAGE_SECONDS, failures, open_browser, text_of, wait_for_text
from tests.integration import swathes

DIGITS = """
defaults: [/model: mlp, /data: digits, /optim: adamw, /sampler: random, /pruner: asha, _self_]
model: {hidden: [16]}
epochs: 4
pruner: {reduction_factor: 2}
cluster: {workers: 1}
sweep:
  name: digits
  trials: 8
  space:
    optim: choice(sgd, adamw)
    optim.lr: tag(log, interval(1e-3, 1.0))
    batch_size: choice(64, 128)
"""
# What MLflow's own page asks for and its server has only with its user accounts turned on.
NOT_THERE_WITHOUT_ACCOUNTS = "/ajax-api/2.0/mlflow/users/current"
# No failed load: Chromium notes it when MLflow's table of runs changes its size twice between two frames.
LAYOUT_NOTICE = "ResizeObserver loop completed with undelivered notifications."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a small sweep has run."""
    made = tmp_path_factory.mktemp("ui")
    (made / "digits.yaml").write_text(DIGITS)
    swathes.succeed(made, "launch", "digits.yaml", "--quiet")
    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_ui(folder: Path, port: int) -> tuple[subprocess.Popen[str], str]:
    """Start `swathe ui` and wait until it serves; return it with the address that it printed."""
    said = folder / "output.txt"
    said.write_text("")
    process = swathes.start(folder, "ui", "digits", "--port", str(port), "--no-browser")
    deadline = time.monotonic() + PAGE_SECONDS
    while "Stop it with ^C." not in said.read_text():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.05)
    address = next(line for line in said.read_text().splitlines() if line.startswith("MLflow UI: "))
    return process, address.removeprefix("MLflow UI: ")


def stop_ui(process: subprocess.Popen[str], port: int, number: signal.Signals) -> None:
    process.send_signal(number)
    assert process.wait(timeout=60) == 0
    assert left_over(port) == []


def left_over(port: int) -> list[str]:
    """Return the command lines of all processes that were started for the port."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:
            continue  # It has ended.
        if str(port).encode() in words:
            found.append(b" ".join(words).decode())
    return found


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Yield the address that `swathe ui` prints, while it serves; ^C ends it."""
    port = free_port()
    process, printed = start_ui(folder, port)
    try:
        yield printed
    finally:
        stop_ui(process, port, signal.SIGINT)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with open_browser(1600, 1200) as opened:
        yield opened


@pytest.fixture(scope="module")
def trials(folder: Path) -> list[dict[str, Any]]:
    """Return all trials as `swathe compare` sees them, the best first."""
    rows: list[dict[str, Any]] = swathes.read(folder, "compare", "digits", "--top", "8")
    assert len(rows) == 8
    return rows


def open_page(browser: Chrome, address: str, page: str) -> None:
    # The page's address differs only behind the #, which alone would not load it anew.
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(address.partition("#")[0] + page)


def check_console(browser: Chrome, address: str) -> None:
    found = failures(browser, address.partition("#")[0])
    known = (NOT_THERE_WITHOUT_ACCOUNTS, LAYOUT_NOTICE)
    assert [message for message in found if not any(text in message for text in known)] == []


def parent_run(folder: Path, trial_run: str) -> str:
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder / '.swathe' / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    parent: str = client.get_run(trial_run).data.tags["mlflow.parentRunId"]
    return parent


def experiment_of(address: str) -> str:
    return address.partition("#/experiments/")[2].partition("/")[0]


def test_the_address_shows_the_trials_by_their_readable_names_the_best_first(
    browser: Chrome, address: str, trials: list[dict[str, Any]]
) -> None:
    open_page(browser, address, "#" + address.partition("#")[2])
    text = wait_for_text(browser, "8 matching runs", *(f"{row['trial']:04d} " for row in trials))
    for row in trials:
        optim, lr, batch_size = row["params"]["optim"], row["params"]["optim.lr"], row["params"]["batch_size"]
        assert f"{row['trial']:04d} {optim} lr={lr:.2g} batch_size={batch_size}" in text
    # The view that the recorder has made: the metrics stand beside the names (MLflow draws only columns in sight).
    assert {"val_loss", "val_accuracy"} <= set(text.split())
    by_loss = sorted(trials, key=lambda row: row["metrics"]["val_loss"])
    places = [text.index(f"{row['trial']:04d} ") for row in by_loss]
    assert places == sorted(places)
    check_console(browser, address)


def test_the_compare_page_shows_parameters_metrics_and_a_chart_of_the_chosen_trials(
    browser: Chrome, address: str, trials: list[dict[str, Any]]
) -> None:
    chosen = trials[:3]
    runs = quote(json.dumps([row["run_id"] for row in chosen]))
    experiments = quote(json.dumps([experiment_of(address)]))
    open_page(browser, address, f"#/compare-runs?runs={runs}&experiments={experiments}")
    # Of a long table of metrics MLflow draws the values of all, but only the names that are in view: the first ones.
    text = wait_for_text(browser, "Comparing 3 Runs from 1 Experiment", "Show diff only", "dead_units", "grad_norm")
    for row in chosen:
        assert f"{row['trial']:04d} {row['params']['optim']}" in text
        for value in row["params"].values():
            assert str(value) in text
        # MLflow rounds what it shows here to three digits.
        assert f"{round(row['metrics']['val_loss'], 3):g}" in text
    assert browser.find_elements(By.CSS_SELECTOR, ".js-plotly-plot .main-svg")
    assert "data.split_seed" in text
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Parameters - Show diff only']").click()
    WebDriverWait(browser, PAGE_SECONDS).until(lambda page: "data.split_seed" not in text_of(page))
    assert "optim.lr" in text_of(browser)
    check_console(browser, address)


def test_the_parent_runs_page_has_the_note(
    browser: Chrome, address: str, folder: Path, trials: list[dict[str, Any]]
) -> None:
    parent = parent_run(folder, trials[0]["run_id"])
    open_page(browser, address, f"#/experiments/{experiment_of(address)}/runs/{parent}")
    wait_for_text(browser, "Sweep digits", f"Best: trial {trials[0]['trial']}, val_loss", "best_val_loss")
    # MLflow folds a note that is longer than some lines.
    for button in browser.find_elements(By.XPATH, "//button[contains(., 'Show more')]"):
        button.click()
    wait_for_text(browser, "swathe reproduce digits", str(trials[0]["params"]["optim.lr"]))
    check_console(browser, address)


def test_the_artifacts_page_draws_the_plots(
    browser: Chrome, address: str, folder: Path, trials: list[dict[str, Any]]
) -> None:
    parent = parent_run(folder, trials[0]["run_id"])
    page = f"#/experiments/{experiment_of(address)}/runs/{parent}/artifacts"
    open_page(browser, address, f"{page}/plots/plots.html")
    wait_for_text(browser, "plots.html", "config.yaml", "trials.csv", "versions.txt")
    wait = WebDriverWait(browser, PAGE_SECONDS)
    wait.until(shown.frame_to_be_available_and_switch_to_it((By.CSS_SELECTOR, "iframe")))
    try:
        wait.until(lambda frame: len(frame.find_elements(By.CSS_SELECTOR, ".js-plotly-plot .main-svg")) >= 5)
        text = text_of(browser)
    finally:
        browser.switch_to.default_content()
    assert all(title in text for title in ("History", "Importance", "Parallel coordinates", "Slices"))
    check_console(browser, address)
    open_page(browser, address, f"{page}/trials.json")
    wait_for_text(browser, "optim.lr", "val_loss", "complete")
    check_console(browser, address)


def test_a_termination_ends_the_ui_as_an_interrupt_does(folder: Path) -> None:
    port = free_port()
    process, _ = start_ui(folder, port)
    assert left_over(port)
    stop_ui(process, port, signal.SIGTERM)


def test_a_taken_port_and_an_empty_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = swathes.run(folder, "ui", "--port", str(taken.getsockname()[1]), "--no-browser")
    assert (done.returncode, "--port" in done.stderr) == (2, True)
    done = swathes.run(tmp_path, "ui", "--port", str(free_port()), "--no-browser")
    assert (done.returncode, "Nothing is recorded yet" in done.stderr) == (2, True)


def test_a_missing_browser_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssertionError, match="run `make system-packages`"), open_browser():
        pass
