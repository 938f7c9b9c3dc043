"""A real Chromium without a window, for tests and for the pictures in docs/."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

# How long a page may take (seconds): MLflow's UI is some megabytes of JavaScript, on a machine that may be busy.
PAGE_SECONDS = 90.0

_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)


@contextmanager
def open_browser(width: int = 1280, height: int = 1000) -> Iterator[Chrome]:
    """Open a browser with a fresh profile and a page of so many pixels; fails with a sentence without Chromium."""
    options = ChromeOptions()
    options.binary_location = _program("chromium", "chromium-browser")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(prefix="swathe-chromium-", ignore_cleanup_errors=True) as profile:
        for argument in (*_ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(argument)
        # Named, so that selenium looks for none on the network.
        browser = Chrome(options, Service(_program("chromedriver")))
        try:
            resize(browser, width, height)
            yield browser
        finally:
            browser.quit()


def resize(browser: Chrome, width: int, height: int) -> None:
    """Give the page itself so many pixels, whatever the window's frame takes."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def text_of(browser: Chrome) -> str:
    """Return the text that is visible on the page."""
    return browser.find_element(By.TAG_NAME, "body").text


def wait_for_text(browser: Chrome, *words: str, seconds: float = PAGE_SECONDS) -> str:
    """Wait until all `words` are visible on the page; return its text. Fails with what it shows instead."""
    wait = WebDriverWait(browser, seconds, poll_frequency=0.1)
    try:
        wait.until(lambda page: all(word in text_of(page) for word in words))
    except Exception as error:
        shown = text_of(browser)
        missing = [word for word in words if word not in shown]
        raise AssertionError(f"{browser.current_url} does not show {missing}; it shows:\n{shown[:3000]}") from error
    return text_of(browser)


def failures(browser: Chrome, address: str) -> list[str]:
    """Return what the browser's console says of loads from `address` that failed, and of uncaught errors."""
    entries = browser.get_log("browser")
    return [entry["message"] for entry in entries if entry["level"] == "SEVERE" and address in entry["message"]]


def _program(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    assert found is not None, f"{names[0]} is not installed, which this test needs: run `make system-packages`."
    return found
