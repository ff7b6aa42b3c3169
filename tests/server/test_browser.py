"""What a person sees: the pages of a real server in a real browser, without a window.

The pages are those below /v2, to which Prefect's server sends who opens its address.
"""

import base64
import os
from pathlib import Path

import pytest

from tests.chromium import open_chromium

pytestmark = pytest.mark.server

SECONDS = 60
KEEP = os.environ.get("USAM_SCREENSHOTS")
"""A folder in which to keep pictures of the pages, for the documentation."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory, local):
    """Return a browser in which the file that `usam up` names was opened."""
    with open_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        driver.get((local.home / "open.html").as_uri())
        yield driver


@pytest.fixture
def see(browser):
    """Return a function that waits for an element of the page, found by an XPath."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def find(xpath):
        def found(driver):
            return [e for e in driver.find_elements(By.XPATH, xpath) if e.is_displayed()]

        # The page draws itself again while it loads: what was found may be gone a moment later.
        wait = WebDriverWait(browser, SECONDS, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(found, f"no {xpath} on the page")[0]

    return find


def keep(browser, name):
    if KEEP:
        (Path(KEEP) / name).write_bytes(base64.b64decode(browser.get_screenshot_as_base64()))


def is_drawn(browser, picture):
    """Say whether the browser could decode a picture, which a broken link is not."""
    return browser.execute_script("return arguments[0].naturalWidth", picture) > 100


def artifact_id(local, run):
    made = {"flow_run_id": {"any_": [run["id"]]}, "key": {"any_": ["annotation-run"]}}
    (found,) = local.ask("/artifacts/filter", artifacts=made)
    return found["id"]


def test_the_run_page_leads_to_summary_and_overlay(browser, see, local, whole_run):
    browser.get(f"{local.page}/v2/runs/flow-run/{whole_run['id']}")
    see("//*[contains(text(), 'annotate-dataset project')]")
    see("//*[contains(text(), 'Completed')]")
    see("//*[@role='tab'][normalize-space(.)='Artifacts']").click()
    see("//*[contains(text(), 'metrics-per-class')]")
    keep(browser, "run.png")
    # The card leads to the history of what has this name, and that to this run's.
    see("//a[contains(., 'annotation-run')]").click()
    see(f"//a[contains(@href, '{artifact_id(local, whole_run)}')]").click()
    see("//td[contains(., '13 images embedded')]")
    picture = see("//img[contains(@src, 'data:image/jpeg')]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'end'})", picture)
    assert is_drawn(browser, picture)
    keep(browser, "artifact.png")


def test_the_lineage_is_drawn(browser, see, local, whole_run):
    made = {"flow_run_id": {"any_": [whole_run["id"]]}, "key": {"any_": ["lineage"]}}
    (artifact,) = local.ask("/artifacts/filter", artifacts=made)
    browser.get(f"{local.page}/v2/artifacts/artifact/{artifact['id']}")
    # Text inside the drawing: were the diagram only shown as code, there would be no svg.
    drawing = see("//*[local-name()='svg'][.//*[contains(text(), 'training')]]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", drawing)
    assert see("//td[contains(., 'SAM nano, bundled with usam')]")
    keep(browser, "lineage.png")


def test_the_form_of_a_step_offers_its_choices(browser, see, local):
    browser.get(f"{local.page}/v2/deployments/deployment/{local.deployment('fit')['id']}/run")
    see("//label[contains(., 'Level')]")
    see("//*[contains(text(), 'Label with the classes, with their parents')]")
    see("//label[contains(., 'Project file')]")
    keep(browser, "form.png")
