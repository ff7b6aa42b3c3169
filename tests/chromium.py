"""A real browser without a window, for tests of pages; it has no network."""

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
AXE = "USAM_AXE"
"""Variable that names axe.min.js, where npm has not installed it for all (`npm install -g`)."""
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
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
        driver.get("about:blank")
        driver.get_log("performance")  # what the browser's own first page asked for
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


def axe_source():
    """Return the text of axe-core, or skip: it is no part of the repository."""
    places = [os.environ.get(AXE, "")]
    if not places[0] and shutil.which("npm"):
        root = subprocess.run(["npm", "root", "-g"], capture_output=True, text=True, timeout=60)
        places.append(f"{root.stdout.strip()}/axe-core/axe.min.js")
    for place in places:
        if place and Path(place).is_file():
            return Path(place).read_text(encoding="utf-8")
    pytest.skip(f"needs axe-core (npm install -g axe-core, or {AXE} names its axe.min.js)")


def violations(driver, source):
    """Return what of WCAG 2.2, levels A and AA, the page at hand breaks, a line for each element.

    Args:
        source: text of axe-core.
    """
    driver.execute_script(source)
    driver.set_script_timeout(120)
    found = driver.execute_async_script(
        "const [rules, done] = arguments;"
        "axe.run(document, {runOnly: {type: 'tag', values: rules}, preload: false})"
        ".then(r => done(r.violations), e => done(String(e)))",
        list(RULES),
    )
    assert isinstance(found, list), found
    return [
        f"{one['id']}: {node['target']}: {node['failureSummary']}"
        for one in found
        for node in one["nodes"]
    ]
