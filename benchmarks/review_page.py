"""Take a picture of `usam review` showing drawn scenes, some of them decided; for docs/review.md.

Example: python benchmarks/review_page.py --out docs/images
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from usam_core.config.project import load_project
from usam_core.demo import prepare_demo
from usam_core.steps import STEPS, run_step

SIZE = (1280, 960)
SECONDS = 120
DECISIONS = 12
"""So many masks are decided first, every fourth rejected whatever it shows."""


def main() -> None:
    """Label some drawn scenes, review a few masks, and save the page as review.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the picture")
    parser.add_argument("--work", type=Path, help="folder of the project; kept if given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = load_project(prepare_demo(given.work or Path(folder), 4, 6).default)
        for step in list(STEPS)[: list(STEPS).index("annotate") + 1]:
            print(run_step(step, project).summary)
        with subprocess.Popen(
            [sys.executable, "-m", "flows", "review", str(project.file), "--json"],
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            try:
                page = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")["page"]
                take(page, given.out / "review.png", Path(folder) / "profile")
            finally:
                server.terminate()


def take(page: str, file: Path, profile: Path) -> None:
    """Open the page, decide on some masks by key, and write what is seen."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server")
    for flag in (*flags, "--window-size={},{}".format(*SIZE), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(page)
        wait = WebDriverWait(driver, SECONDS, 0.05)
        for number in range(DECISIONS):
            said = f"; {number} decided"
            wait.until(lambda d, said=said: said in d.find_element(By.ID, "progress").text)
            ActionChains(driver).send_keys("r" if number % 4 == 1 else "a").perform()
        said = f"; {DECISIONS} decided"
        wait.until(lambda d: said in d.find_element(By.ID, "progress").text)
        drawn = "return ['image', 'mask'].every((id) => document.getElementById(id).complete)"
        wait.until(lambda d: d.execute_script(drawn))
        file.write_bytes(driver.get_screenshot_as_png())
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
