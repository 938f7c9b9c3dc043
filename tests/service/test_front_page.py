"""The page of a sweep with two objectives in Chromium: its front as a picture and a table, by mouse and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser import failures, open_browser, resize, wait_for_text
from tests.integration import swathes
from tests.service.test_page import Served, expected, one, open_page, serving, sign_in, wait

FUNCTION = """
import swathe

def train(params):
    swathe.report(loss=params.x, cost=(1 - params.x) ** 2 + params.waste, size=100 * params.x)
"""
SWEEP = """
defaults: [/sampler: random, /cluster: inline, _self_]
trainable: two:train
params: {x: 0.5, waste: 0.0}
sweep:
  name: two
  metric: [loss, cost]
  direction: [minimize, minimize]
  constraints: {size: "<= 90"}
  trials: 24
  space: {params.x: "interval(0.0, 1.0)", params.waste: "choice(0.0, 0.5)"}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("two")
    (folder / "two.py").write_text(FUNCTION)
    (folder / "two.yaml").write_text(SWEEP)
    swathes.succeed(folder, "launch", "two.yaml", "-q")
    with serving(folder) as found:
        yield found


@pytest.mark.slow
def test_the_front_can_be_seen_reached_and_chosen(served: Served) -> None:
    sweep = served.get("/sweeps/two")
    front = {trial["trial"]: trial["values"] for trial in sweep["front"]}
    assert (sweep["metrics"], sweep["directions"]) == (["loss", "cost"], ["minimize", "minimize"])
    assert 2 < len(front) < sweep["feasible"] < 24
    trials = served.get("/sweeps/two/trials?limit=100")["trials"]
    assert {one["number"]: one["values"] for one in trials if one["number"] in front} == front
    best = served.get(f"/sweeps/two/best?trial={max(front)}")
    assert list(best["values"].values()) == front[max(front)]
    with open_browser(1280, 1000) as browser:
        sign_in(browser, served, "viewer")
        open_page(browser, served, "sweeps/two")
        wait_for_text(browser, "Trade-offs", f"{len(front)} trials are on the front", "breaks a constraint")
        wait(browser, lambda page: len(page.find_elements(By.CSS_SELECTOR, "svg [tabindex]")) == len(front))
        points = browser.find_elements(By.CSS_SELECTOR, "svg [tabindex]")
        assert {int(point.get_attribute("data-trial") or -1) for point in points} == set(front)
        points[0].send_keys(Keys.ENTER)
        number = next(iter(front))
        wait(browser, lambda page: page.current_url.endswith(f"trials={number}"))
        wait(
            browser,
            lambda page: page.find_element(By.CSS_SELECTOR, "#tradeoffs tr.chosen").text.startswith(str(number)),
        )
        # Drawn anew, the point still has the focus.
        assert browser.execute_script("return document.activeElement.dataset.trial") == str(number)
        resize(browser, 400, 800)
        wait(browser, lambda page: page.execute_script("return document.documentElement.scrollWidth") <= 400)
        assert one(browser, "svg.tradeoffs").size["width"] < 400
        assert not [line for line in failures(browser, served.address) if not expected(line)]
