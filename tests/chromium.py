"""A real browser without a window, for tests of pages; it has no network."""

import contextlib
import json
import shutil
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
FLAGS += " --disable-background-networking --disable-component-update --no-proxy-server"
FLAGS += " --disable-dev-shm-usage --window-size=1280,1000"


@contextlib.contextmanager
def open_chromium(profile):
    """Yield a driver; its console and what it asks of the network are written down.

    Args:
        profile: an empty folder.
    """
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs chromium and chromedriver (Debian: apt install chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (extra `test`)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def requests(driver):
    """Return the addresses that pages asked for since the last call, without data: ones."""
    messages = (json.loads(line["message"])["message"] for line in driver.get_log("performance"))
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    urls = [one["request"]["url"] for one in sent]
    return [url for url in urls if urlsplit(url).scheme != "data"]


def emulate(driver, width, height, scheme="light", phone=False):
    """Show pages as a screen of that size would, in light or dark."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def screenshot(driver, file):
    """Write what is seen as PNG."""
    file.write_bytes(driver.get_screenshot_as_png())
