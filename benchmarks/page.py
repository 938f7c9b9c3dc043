"""How smooth the page of a sweep stays: frames a second in headless Chromium while 1,000 trials report.

    python benchmarks/page.py                      # 1,000 trials of 20 reports, 1,000 reports a second; half a minute
    python benchmarks/page.py --trials 3000 --per-second 3000

A real server streams a real journal, to which another process writes as a driver does: it holds the sweep's lock, draws
trials, places them on 100 lanes, records and tells, with a commit each tenth of a second. Frames are counted by
requestAnimationFrame in the page itself. Once the stream has ended, the finished sweep is opened anew, all its events
at once. Chromium draws without a GPU, on the cores that writer, server and browser share.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import machine  # noqa: E402
from selenium.webdriver import Chrome  # noqa: E402 - the script runs from anywhere
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402
from tests.browser import open_browser  # noqa: E402

from swathe.config import compose_sweep  # noqa: E402
from swathe.events import Direction, TrialState  # noqa: E402
from swathe.home import Home, SweepCard  # noqa: E402
from swathe.service.tokens import create_token  # noqa: E402
from swathe.space import Space  # noqa: E402
from swathe.study import Study  # noqa: E402

# Trials, reports of each, and reports a second of all together.
SIZES = (1000, 20, 1000.0)
LANES, COMMIT_SECONDS = 100, 0.1
COUNT_FRAMES = """
window.frames_ = [performance.now()];
const count = (now) => { window.frames_.push(now); requestAnimationFrame(count); };
requestAnimationFrame(count);
"""


def write_sweep(home: Home, trials: int, reports: int, per_second: float) -> None:
    """Write a sweep as a driver does, at so many reports a second."""
    folder = home.sweep("smooth")
    with folder.drive():
        study = Study.open(
            "smooth",
            folder=folder.path,
            storage=None,
            direction=Direction.MINIMIZE,
            sampler={"name": "random"},
            space=Space.parse(compose_sweep("quickstart", [])),
            seed=0,
        )
        written, began = 0, time.perf_counter()
        # Lane by lane in turn: the trial that it trains, and how many reports that has made.
        lanes = deque((begin(study, lane), 0) for lane in range(min(LANES, trials)))
        while lanes:
            while lanes and written < (time.perf_counter() - began) * per_second:
                number, step = lanes.popleft()
                value = value_of(number, step + 1)
                study.record(number, step + 1, value)
                written += 1
                if step + 1 < reports:
                    lanes.append((number, step + 1))
                    continue
                study.tell(number, TrialState.COMPLETE, value, {"metrics": METRICS})
                if number + LANES < trials:
                    lanes.append((begin(study, number % LANES), 0))
            study.commit()
            time.sleep(COMMIT_SECONDS)
        study.close()
    folder.write_ending({"reason": "all trials are done", "failed": False, "interrupted": False})


# As long as what a recipe notes at its end.
METRICS = json.dumps({f"metric_{number}": 0.123456789 * number for number in range(14)})


def begin(study: Study, lane: int) -> int:
    """Draw a trial, place it on a lane and return its number."""
    number = study.ask(1).proposals[0].trial
    place = {"worker": f"worker-{lane % 2}", "lane": lane // 2, "began": time.time()}
    study.note(number, "place", json.dumps(place))
    return number


def value_of(trial: int, step: int) -> float:
    """Return a curve that falls, to another end in each trial, with a ripple."""
    end = 0.05 + (trial * 7919 % 1000) / 500
    return end + (2.3 - end) * math.exp(-step * (0.08 + trial % 13 / 30)) + 0.03 * math.sin(trial + step)


@contextmanager
def serving(home: Home) -> Iterator[str]:
    """Yield the address of a server of the home."""
    environment = os.environ | {"SWATHE_HOME": str(home.path), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, "-m", "swathe.cli", "serve", "--port", "0"]
    server = subprocess.Popen(command, env=environment, cwd=home.path.parent, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        found = next(filter(None, (re.search(r"https?://[\d.]+:\d+", line) for line in server.stdout)))
        yield found[0]
    finally:
        server.terminate()
        server.wait(timeout=60)


def sign_in(browser: Chrome, address: str, token: str) -> None:
    browser.get(address)
    wait = WebDriverWait(browser, 60, poll_frequency=0.05)
    wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "input[type=password]"))
    browser.find_element(By.CSS_SELECTOR, "input[type=password]").send_keys(token)
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    wait.until(lambda page: page.find_elements(By.LINK_TEXT, "smooth"))


def described(moments: list[float]) -> dict[str, float]:
    """Return what frames at these moments (milliseconds) were like."""
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(moments))
    seconds = (moments[-1] - moments[0]) / 1000
    by_second = [0] * int(seconds)
    for moment in moments:
        at = int((moment - moments[0]) / 1000)
        if at < len(by_second):
            by_second[at] += 1
    return {
        "seconds": round(seconds, 1),
        "frames_per_second": round(len(gaps) / seconds, 1),
        "worst_second": min(by_second),
        "frame_ms_median": round(statistics.median(gaps), 1),
        "frame_ms_p99": round(gaps[int(0.99 * len(gaps))], 1),
        "frame_ms_longest": round(gaps[-1], 1),
    }


def shown_reports(browser: Chrome) -> int:
    """Return how many trials the page says are over."""
    text = browser.find_element(By.CSS_SELECTOR, ".facts dd").text
    return int(text.split()[0]) if text[:1].isdigit() else 0


def measure(trials: int, reports: int, per_second: float) -> dict[str, Any]:
    """Open a sweep's page before its first trial, and count frames until all reports are there."""
    with tempfile.TemporaryDirectory(prefix="page-") as name:
        home = Home(Path(name) / ".swathe")
        card = SweepCard(
            name="smooth",
            identity="",
            storage=None,
            tracking_uri=home.tracking_uri,
            experiment="smooth",
            metric="val_loss",
            direction="minimize",
            trials=trials,
            command="swathe launch smooth",
            created=time.time(),
        )
        home.sweep("smooth").write_card(card)
        token = create_token(home, "benchmark", "viewer")
        with serving(home) as address, open_browser() as browser:
            sign_in(browser, address, token)
            browser.get(f"{address}/#/sweeps/smooth")
            WebDriverWait(browser, 60).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".chart.curves canvas"))
            browser.execute_script(COUNT_FRAMES)
            command = [sys.executable, __file__, "--write-sweep", name, str(trials), str(reports), str(per_second)]
            writer = subprocess.Popen(command)
            # The browser is asked as seldom as it can be: that takes time of its frames, too.
            while writer.poll() is None:
                time.sleep(1)
            WebDriverWait(browser, 60, poll_frequency=0.5).until(lambda page: shown_reports(page) == trials)
            live = described(browser.execute_script("return window.frames_"))
            heap = browser.execute_script("return performance.memory.usedJSHeapSize") / 2**20
            browser.get("about:blank")
            began = time.perf_counter()
            browser.get(f"{address}/#/sweeps/smooth")
            browser.execute_script(COUNT_FRAMES)
            label = f"Learning curves of {trials} trials"
            WebDriverWait(browser, 60, poll_frequency=0.05).until(
                lambda page: label in page.find_element(By.CSS_SELECTOR, ".chart.curves").get_attribute("aria-label")
            )
            opened = time.perf_counter() - began
            again = described(browser.execute_script("return window.frames_"))
    return {"live": live, "page_mib": round(heap, 1), "opening_seconds": round(opened, 2), "opening": again}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=SIZES[0])
    parser.add_argument("--reports", type=int, default=SIZES[1], help="of each trial")
    parser.add_argument("--per-second", type=float, default=SIZES[2], help="reports of all trials together")
    parser.add_argument("--write-sweep", nargs=4, metavar="...", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write_sweep:
        folder, trials, reports, per_second = given.write_sweep
        write_sweep(Home(Path(folder) / ".swathe"), int(trials), int(reports), float(per_second))
        return
    found = measure(given.trials, given.reports, given.per_second)
    given_sizes = (given.trials, given.reports, given.per_second)
    asked = {"trials": given.trials, "reports": given.reports, "reports_per_second": given.per_second}
    content = {"machine": machine.describe("selenium", "optuna"), **asked, **found}
    # As for the other benchmarks: only its own sizes are for the record.
    path = machine.write("page", content) if given_sizes == SIZES else "not written"
    live = found["live"]
    print(
        f"{live['frames_per_second']} frames a second, {live['worst_second']} in the worst one, the longest frame "
        f"{live['frame_ms_longest']} ms, while {given.trials} trials reported; opened again in "
        f"{found['opening_seconds']} s: {path}"
    )


if __name__ == "__main__":
    main()
