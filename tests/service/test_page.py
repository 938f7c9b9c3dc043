"""The page, in a real Chromium against a real server: from signing in to a reproduction."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import optuna
import pytest
import yaml
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from swathe.config import compose_sweep, sweep_names
from swathe.folders import sweep_folders
from swathe.home import Home
from swathe.service.spaces import importances
from swathe.service.tokens import create_token
from tests.browser import PAGE_SECONDS, failures, open_browser, resize, wait_for_text
from tests.integration import swathes
from tests.service.client import TestClient

TRIALS = 8
STATIC = Path(__file__).parents[2] / "src" / "swathe" / "service" / "static"
# What text stands on, by what it is.
TEXTS = {
    "text": ("ground", "surface", "raised", "accent-soft"),
    "muted": ("ground", "surface", "raised"),
    "accent": ("ground", "surface", "accent-soft"),
    "on-accent": ("accent",),
    "good": ("good-soft", "surface"),
    "bad": ("bad-soft", "surface"),
    "warn": ("warn-soft", "surface"),
    # Of what has been said, upside down.
    "surface": ("text",),
}
# What else must be told from its ground (WCAG 2.2, 1.4.11): borders of fields, focus rings, bars.
SHAPES = {
    "edge": ("surface", "ground"),
    "accent": ("surface", "ground", "raised"),
    "trial-running": ("surface",),
    "trial-complete": ("surface",),
    "trial-failed": ("surface",),
}


def palettes() -> dict[str, dict[str, str]]:
    """Return the colours of the style sheet by theme and name."""
    text = (STATIC / "style.css").read_text()
    light, dark = (
        re.search(rf"{re.escape(head)} {{(.*?)}}", text, re.DOTALL) for head in (":root", '[data-theme="dark"]')
    )
    assert light is not None
    assert dark is not None
    return {
        theme: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", found[1]))
        for theme, found in (("light", light), ("dark", dark))
    }


def luminance(color: str) -> float:
    """Return the relative luminance (WCAG 2.2)."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_and_shapes_can_be_told_from_their_grounds(theme: str) -> None:
    palette = palettes()[theme]
    for pairs, least in ((TEXTS, 4.5), (SHAPES, 3.0)):
        for name, grounds in pairs.items():
            for ground in grounds:
                found = contrast(palette[name], palette[ground])
                assert found >= least, f"{name} on {ground}: {found:.2f}"


def test_the_page_is_there_without_a_token_and_loads_nothing_from_elsewhere(client: TestClient) -> None:
    index = client.get("/")
    assert index.status_code == 200
    assert index.headers["content-type"].startswith("text/html")
    policy = index.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert not re.search(r"<script(?! type=\"module\" src=)|<style|\sstyle=|\son\w+=|https?://", index.text)
    for path in re.findall(r'(?:href|src)="(/[^"]+)"', index.text):
        assert client.get(path).status_code == 200, path
    again = client.get("/static/style.css", headers={"If-None-Match": client.get("/static/style.css").headers["etag"]})
    assert (again.status_code, again.headers["cache-control"]) == (304, "no-cache")
    for path in ("/static/js", "/static/../app.py", "/static/%2e%2e/app.py", "/static/nothing.js"):
        assert client.get(path).status_code in (401, 404), path


def test_data_is_never_parsed_as_html() -> None:
    for module in (STATIC / "js").glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", module.read_text()), (
            module
        )


def test_the_catalog_has_every_ready_sweep_and_each_groups_keys(get: Callable[..., Any]) -> None:
    found = get("/catalog")
    assert [sweep["name"] for sweep in found["sweeps"]] == sweep_names()
    quickstart = next(sweep for sweep in found["sweeps"] if sweep["name"] == "quickstart")
    assert quickstart["title"].startswith("The quickest real sweep")
    assert quickstart["config"]["sweep"]["space"]["optim.lr"] == "tag(log, interval(1e-4, 1.0))"
    momentum = next(one for one in found["groups"]["optim"] if one["option"] == "momentum")
    assert momentum["keys"]["momentum"] == 0.9
    assert "Polyak" in momentum["title"]
    assert found["keys"]["batch_size"] == 64


def test_importance_says_which_parameter_matters(get: Callable[..., Any]) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    assert importances(study) == {}
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + 0 * trial.suggest_float("y", 0, 1), n_trials=30)
    found = importances(study)
    assert list(found) == ["x", "y"]
    assert found["x"] > 0.9
    assert sum(found.values()) == pytest.approx(1.0)
    # Of its eight trials fewer than four are complete.
    assert get("/sweeps/f/importance") == {"sweep": "f", "metric": "val_loss", "importance": {}}
    get("/sweeps/none/importance", 404)


def test_a_trial_says_where_and_when_it_ran(get: Callable[..., Any]) -> None:
    for trial in get("/sweeps/f/trials")["trials"]:
        assert trial["worker"] == "inline"
        assert trial["lane"] is None
        assert trial["began"] < trial["ended"] < time.time()
    assert get("/sweeps/f")["space"] == {"params.x": "interval(0.0, 1.0)"}
    assert get("/sweeps/f/trials/0")["experiment_id"] is not None


# In Chromium.


@dataclass(frozen=True)
class Served:
    """A server's address, its working folder, and a token of each role."""

    address: str
    folder: Path
    tokens: dict[str, str]

    def get(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self.tokens['viewer']}"}
        answer = httpx.get(f"{self.address}/api/v1{path}", headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    tokens = {role: create_token(Home(folder / ".swathe"), role, role) for role in ("viewer", "runner", "admin")}
    output = folder / "output.txt"
    output.write_text("")
    server = swathes.start(folder, "serve", "--port", "0")
    try:
        yield Served(address_in(output, server), folder, tokens)
    finally:
        server.terminate()
        server.wait(timeout=60)
        swathes.run(folder, "serve", "--stop")


def address_in(output: Path, server: subprocess.Popen[str]) -> str:
    deadline = time.monotonic() + PAGE_SECONDS
    while (found := re.search(r"http://[\d.]+:\d+", output.read_text())) is None:
        assert server.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)
    return found[0]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("page")
    sweep = swathes.write_function_sweep(folder, "quick", trials=TRIALS)
    swathes.succeed(folder, "launch", sweep, "cluster=inline", "-q")
    with serving(folder) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with open_browser(1280, 1000) as opened:
        yield opened


# A sweep's first trials share the cores with the compilation of its lanes, and with other tests.
BUSY_SECONDS = 240.0


def wait(browser: Chrome, condition: Callable[[Chrome], Any], seconds: float = PAGE_SECONDS) -> Any:
    # What is looked at may be drawn anew meanwhile.
    stale = [StaleElementReferenceException]
    return WebDriverWait(browser, seconds, poll_frequency=0.1, ignored_exceptions=stale).until(condition)


def one(browser: Chrome, selector: str) -> WebElement:
    found: WebElement = wait(browser, lambda page: page.find_element(By.CSS_SELECTOR, selector))
    return found


def button(browser: Chrome, text: str) -> WebElement:
    path = f"//main//button[normalize-space()='{text}' and not(contains(@class, 'hidden'))]"
    found: WebElement = wait(browser, lambda page: page.find_element(By.XPATH, path))
    return found


def sign_in(browser: Chrome, served: Served, role: str) -> None:
    browser.get("about:blank")
    browser.delete_all_cookies()
    browser.get(f"{served.address}/")
    browser.delete_all_cookies()
    browser.get(f"{served.address}/#/sweeps")
    one(browser, "input[type=password]").send_keys(served.tokens[role], Keys.ENTER)
    wait_for_text(browser, f"{role}, {role}")
    # What was refused while nobody was signed in.
    browser.get_log("browser")


def open_page(browser: Chrome, served: Served, page: str) -> None:
    browser.get("about:blank")
    browser.get(f"{served.address}/#/{page}")


def type_into(browser: Chrome, key: str, text: str) -> None:
    element = one(browser, f"[data-key='{key}']")
    element.clear()
    element.send_keys(text)


def state_of(browser: Chrome) -> str:
    found = browser.find_elements(By.CSS_SELECTOR, "main .card .head .pill")
    return found[0].text if found else ""


@pytest.mark.slow
def test_a_wrong_token_is_refused_and_a_viewer_is_offered_no_buttons(browser: Chrome, served: Served) -> None:
    browser.get(f"{served.address}/#/new")
    one(browser, "input[type=password]").send_keys("swt_wrong", Keys.ENTER)
    wait_for_text(browser, "The token is not one of this server's")
    sign_in(browser, served, "viewer")
    assert "New sweep" not in wait_for_text(browser, "8 of 8")
    open_page(browser, served, "sweeps/f")
    assert "Reproduce" not in wait_for_text(browser, "swathe reproduce f --trial")
    browser.find_element(By.XPATH, "//button[.='Sign out']").click()
    wait_for_text(browser, "Sign in to Swathe")


@pytest.mark.slow
def test_the_form_makes_each_ready_sweep_again(
    browser: Chrome, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(browser, served, "runner")
    monkeypatch.chdir(served.folder)
    open_page(browser, served, "new")
    source = Select(one(browser, "main select"))
    for name in sweep_names():
        source.select_by_value(name)
        text = one(browser, "pre").text
        sweep, ready = (
            yaml.safe_load(text)["sweep"],
            yaml.safe_load((sweep_folders()[0] / f"{name}.yaml").read_text())["sweep"],
        )
        assert sweep["space"] == ready["space"]
        assert sweep.get("when") == ready.get("when")
        if name in ("quickstart", "fine_tuning", "warmup", "accuracy_and_size"):
            (tmp_path / f"{name}.yaml").write_text(text)
            composed, known = compose_sweep(str(tmp_path / f"{name}.yaml"), []), compose_sweep(name, [])
            assert (composed.name, composed.values, composed.when) == (known.name, known.values, known.when), text


@pytest.mark.slow
def test_from_the_form_to_a_reproduction(browser: Chrome, served: Served) -> None:
    sign_in(browser, served, "runner")
    open_page(browser, served, "new?from=quickstart")
    for key, text in (("sweep.name", "first"), ("sweep.trials", "0"), ("epochs", "2"), ("cluster.workers", "1")):
        type_into(browser, key, text)
    wait_for_text(browser, "sweep.trials: 0 is not allowed; allowed: 1 or more.")
    trials = one(browser, "[data-key='sweep.trials']")
    assert trials.get_attribute("aria-invalid") == "true"
    said = browser.find_element(By.ID, trials.get_attribute("aria-describedby"))
    assert said.text == "sweep.trials: 0 is not allowed; allowed: 1 or more."
    type_into(browser, "sweep.trials", "6")
    wait_for_text(browser, "This sweep can be launched: 6 trials over 6 parameters.")
    button(browser, "Launch").click()

    wait(browser, lambda page: page.current_url.endswith("#/sweeps/first"))
    wait(browser, lambda page: state_of(page) == "finished", 2 * PAGE_SECONDS)
    wait_for_text(browser, "6 of 6", "swathe reproduce first --trial", "1 worker")
    rows = wait(browser, lambda page: len(found := page.find_elements(By.CSS_SELECTOR, "tbody input")) == 6 and found)
    # By keyboard.
    for row in rows[:2]:
        row.send_keys(Keys.SPACE)
    chosen = [int(text) for text in re.findall(r"\d+", browser.current_url.partition("trials=")[2])]
    assert len(chosen) == 2
    runs = [served.get(f"/sweeps/first/trials/{number}")["run_id"] for number in chosen]
    link = wait(browser, lambda page: page.find_element(By.LINK_TEXT, "Compare in MLflow"))
    wait(browser, lambda page: json.dumps(runs).replace(" ", "") in unquote(link.get_attribute("href")))

    button(browser, "Reproduce 2 chosen").click()
    said = ", ".join(f"trial {number} identical, bit for bit" for number in chosen)
    wait_for_text(browser, said, seconds=2 * PAGE_SECONDS)
    one(browser, "main [role=status] a").click()
    wait_for_text(browser, "reproduce of first", "done", said)
    assert not [line for line in failures(browser, served.address) if not expected(line)]


def expected(line: str) -> bool:
    """Whether a load is meant to be refused: without a session, a sweep that is wrong, and a report not made yet."""
    return any(path in line for path in ("/api/v1/session ", "/api/v1/validate ", "/report "))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_is_stopped_and_goes_on(browser: Chrome, served: Served) -> None:
    sign_in(browser, served, "runner")
    open_page(browser, served, "new?from=quickstart")
    for key, text in (("sweep.name", "long"), ("sweep.trials", "2000"), ("cluster.workers", "1")):
        type_into(browser, key, text)
    wait_for_text(browser, "This sweep can be launched: 2000 trials")
    button(browser, "Launch").click()
    wait(browser, lambda page: state_of(page) == "running")
    wait(browser, lambda page: int(one(page, ".facts dd").text.split()[0]) >= 2, BUSY_SECONDS)
    button(browser, "Stop").click()
    wait(browser, lambda page: state_of(page) == "stopped")
    done = served.get("/sweeps/long")["counts"]
    button(browser, "Resume").click()
    wait(browser, lambda page: state_of(page) == "running")
    over = sum(done.get(state, 0) for state in ("complete", "pruned", "failed"))
    wait(browser, lambda page: int(one(page, ".facts dd").text.split()[0]) > over, BUSY_SECONDS)
    button(browser, "Stop").click()
    wait(browser, lambda page: state_of(page) == "stopped")


@pytest.mark.slow
def test_a_phone_shows_every_page_without_scrolling_sideways(browser: Chrome, served: Served) -> None:
    sign_in(browser, served, "admin")
    resize(browser, 400, 800)
    try:
        for page, text in (
            ("sweeps", "Sweeps"),
            ("new", "What is searched"),
            ("jobs", "Jobs"),
            ("sweeps/f", "Lanes over time"),
        ):
            open_page(browser, served, page)
            wait_for_text(browser, text)
            wide = browser.execute_script(
                "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide == 0, page
    finally:
        resize(browser, 1280, 1000)


@pytest.mark.slow
def test_the_switch_and_the_filter_are_kept_in_the_page(browser: Chrome, served: Served) -> None:
    sign_in(browser, served, "viewer")
    before = one(browser, "html").get_attribute("data-theme")
    button_path = "//header//button[contains(., 'Dark') or contains(., 'Light')]"
    browser.find_element(By.XPATH, button_path).click()
    browser.refresh()
    wait_for_text(browser, "viewer, viewer")
    assert one(browser, "html").get_attribute("data-theme") != before
    browser.find_element(By.XPATH, button_path).click()
    open_page(browser, served, "sweeps/f?sort=number&filter=value>1e9")
    wait_for_text(browser, "0 of 8")
    field = one(browser, "input[aria-label='Filter trials']")
    field.send_keys(Keys.BACKSPACE * len("value>1e9"))
    wait(browser, lambda page: len(page.find_elements(By.CSS_SELECTOR, "tbody input")) == TRIALS)
    assert one(browser, "th[aria-sort]").text.startswith("Trial")
    Select(one(browser, "main select[aria-label='State']")).select_by_value("failed")
    wait(browser, lambda page: "state=failed" in page.current_url)


@pytest.mark.slow
def test_a_curve_says_which_trial_it_is_and_brushes_keep_trials(browser: Chrome, served: Served) -> None:
    sign_in(browser, served, "viewer")
    open_page(browser, served, "sweeps/f")
    wait(browser, lambda page: len(page.find_elements(By.CSS_SELECTOR, "tbody input")) == TRIALS)
    chart, tip = one(browser, ".chart.curves .u-over"), one(browser, ".chart.curves + .tip")
    described = one(browser, ".chart.curves")
    wait(browser, lambda page: f"of {TRIALS} trials" in described.get_attribute("aria-label"))
    height = chart.size["height"]
    # Down the middle of the chart, until there is a curve.
    for down in range(-height // 2 + 5, height // 2 - 5, 15):
        ActionChains(browser, duration=0).move_to_element_with_offset(chart, 0, down).perform()
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        if tip.is_displayed():
            break
    said = re.fullmatch(r"Trial (\d+), complete: val_loss [\d.]+ at step \d+", tip.text)
    assert said is not None, tip.text
    ActionChains(browser, duration=0).click().perform()
    wait(browser, lambda page: page.current_url.endswith(f"trials={said[1]}"))
    wait(browser, lambda page: page.find_elements(By.LINK_TEXT, "Open in MLflow"))

    coordinates = one(browser, ".chart.parallel")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", coordinates)
    # The first axis: from its middle down to its end, where the small values are.
    left, half = -coordinates.size["width"] // 2 + 36, coordinates.size["height"] // 2 - 16
    drag = ActionChains(browser, duration=10).move_to_element_with_offset(coordinates, left, 0)
    drag.click_and_hold().move_by_offset(0, half).release().perform()
    xs = [trial["params"]["params.x"] for trial in served.get("/sweeps/f/trials")["trials"]]
    rows = wait(
        browser, lambda page: 0 < len(found := page.find_elements(By.CSS_SELECTOR, "tbody input")) < TRIALS and found
    )
    small = sum(x < min(xs) + 0.6 * (max(xs) - min(xs)) for x in xs)
    assert len(rows) == small
    button(browser, "Clear brushes").click()
    wait(browser, lambda page: len(page.find_elements(By.CSS_SELECTOR, "tbody input")) == TRIALS)
