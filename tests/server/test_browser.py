"""What a person sees: the pages of a real server in a real browser, without a window.

The pages are those below /v2, to which Prefect's server sends who opens its address.
"""

import base64
import json
import os
from pathlib import Path
from urllib.parse import urlsplit

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
    drawing = see("//img[contains(@src, 'data:image/svg+xml')]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", drawing)
    assert is_drawn(browser, drawing)
    assert see("//td[contains(., 'SAM nano, bundled with usam')]")
    keep(browser, "lineage.png")


def test_the_form_of_a_step_offers_its_choices(browser, see, local):
    browser.get(f"{local.page}/v2/deployments/deployment/{local.deployment('fit')['id']}/run")
    see("//label[contains(., 'Level')]")
    see("//*[contains(text(), 'Label with the classes, with their parents')]")
    see("//label[contains(., 'Project file')]")
    keep(browser, "form.png")


def test_the_pages_ask_nothing_of_other_machines(browser, see, local):
    browser.get(local.page)
    see("//*[contains(text(), 'Deployments')]")
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = {
        one["params"]["requestId"]: one["params"]["request"]["url"]
        for one in messages
        if one["method"] == "Network.requestWillBeSent"
    }
    for one in messages:
        if one["method"] == "Network.loadingFailed" and one["params"].get("blockedReason") == "csp":
            del asked[one["params"]["requestId"]]
    seen = [url for url in asked.values() if urlsplit(url).scheme.startswith("http")]
    assert seen
    assert not [url for url in seen if not url.startswith(local.page)]


def test_without_the_secret_the_page_asks_for_it_and_shows_nothing(browser, see, local):
    browser.get(local.page)
    browser.execute_script("localStorage.clear()")
    browser.get(f"{local.page}/v2/deployments")
    field = see("//input[@placeholder='admin:pass']")
    assert "annotate-dataset" not in browser.page_source
    # What a person without the file does: paste the secret.
    field.send_keys((local.home / "auth").read_text())
    see("//button[@type='submit'][normalize-space(.)='Login']").click()
    see("//*[contains(text(), 'annotate-dataset')]")


def test_a_run_is_started_by_its_form_watched_and_tried_again(browser, see, local, whole_run):
    deployment = local.deployment("fit")["id"]
    browser.get(f"{local.page}/v2/deployments/deployment/{deployment}/run")
    see("//label[contains(., 'Refresh')]/following::button[@role='switch'][1]").click()
    see("//button[@type='submit'][normalize-space(.)='Submit']").click()
    see("//a[contains(@href, '/runs/flow-run/')]").click()
    see("//*[contains(text(), 'fit project')]")
    # Its page says by itself that it has ended, without being loaded again.
    see("//*[text()='Completed']")
    run = urlsplit(browser.current_url).path.rpartition("/")[2]
    done = local.wait(run)
    assert done["state"]["type"] == "COMPLETED"
    settings = done["parameters"]["settings"]
    assert (settings["project_file"], settings["refresh"]) == (str(local.project), True)

    see("//main//button[@aria-haspopup='menu']").click()
    see("//*[@role='menuitem'][contains(., 'Retry')]").click()
    see("//*[@role='dialog' or @role='alertdialog']//button[contains(., 'Retry')]").click()
    see("//*[contains(text(), 'AwaitingRetry') or contains(text(), 'Running')]")
    done = local.wait(run)
    assert (done["state"]["type"], done["run_count"]) == ("COMPLETED", 2)
