"""Training pictures as a person makes them: a real browser on the page of `usam crop`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.chromium import axe_source, emulate, open_chromium, requests, violations
from tests.review.test_crop import with_training
from usam_core.review.crops import LOG, read_crops

ROOT = Path(__file__).parents[2]
SECONDS = 120


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def address(tiny_project):
    """Yield where a running `usam crop` serves the page of a project without pictures."""
    file = with_training(tiny_project, source="folder", path="training")
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", "crop", str(file), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        text = "".join(iter(process.stdout.readline, "}\n"))
        assert text, process.stderr.read()
        yield json.loads(text + "}")["page"]
    finally:
        process.kill()
        process.wait(SECONDS)


class Page:
    """What tests do with the page."""

    def __init__(self, browser):
        self.browser = browser

    def open(self, address):
        self.browser.get(address)
        ready = "document.getElementById('view').dataset.ready && !busy"
        self.until(lambda: self.text("progress") and self.state(ready), "nothing is shown")

    def until(self, found, why):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, SECONDS, 0.05).until(lambda _: found(), why)

    def state(self, what):
        return self.browser.execute_script(f"return {what}")

    def find(self, name):
        return self.browser.find_element("id", name)

    def text(self, name):
        return self.find(name).text

    def press(self, keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(keys).perform()

    def click(self, x, y):
        """Click the image, at shares of its width and height, and wait for SAM's outline."""
        from selenium.webdriver.common.action_chains import ActionChains

        stage = self.find("mask")
        offset = ((x - 0.5) * stage.size["width"], (y - 0.5) * stage.size["height"])
        ActionChains(self.browser).move_to_element_with_offset(stage, *offset).click().perform()
        self.until(lambda: self.state("!busy && !editor.empty()"), "SAM gave no outline")

    def told(self, what):
        self.until(lambda: self.text("verdict") == what, f"not {what}")
        self.until(lambda: self.state("!busy"), "the page is still at work")
        assert not self.find("trouble").is_displayed(), self.text("trouble")

    def tiles(self):
        return self.find("tiles").find_elements("tag name", "button")


@pytest.mark.slow
def test_an_object_is_clicked_named_kept_and_taken_back(browser, address, tiny_project):
    from selenium.webdriver.common.keys import Keys

    emulate(browser, 1280, 900)
    requests(browser)
    page, training = Page(browser), tiny_project.parent / "training"
    page.open(address)
    assert page.text("progress") == "0 pictures: disc 0, ring 0, rod 0"
    assert not page.find("save").is_enabled()
    assert page.find("none").is_displayed()

    # With the mouse.
    page.click(0.5, 0.5)
    browser.find_element("css selector", "#classes input[value=ring]").click()
    page.find("save").click()
    page.told("kept: ring")
    (first,) = (training / "ring").iterdir()
    assert min(Image.open(first).size) >= 128
    assert page.text("progress") == "1 pictures: disc 0, ring 1, rod 0"
    assert not page.find("save").is_enabled(), "the next object begins empty"
    (tile,) = page.tiles()
    drawn = "document.querySelector('#tiles img').naturalWidth"
    page.until(lambda: page.state(drawn) == Image.open(first).width, "the tile shows no picture")

    # By keys, on the next image; what was chosen holds.
    page.press(".")
    page.until(lambda: page.state("place === 1 && !busy"), "not the next image")
    page.press("3" + Keys.ARROW_RIGHT + Keys.SPACE)
    page.until(lambda: page.state("!busy && !editor.empty()"), "no click by the keyboard")
    page.press(Keys.ENTER)
    page.told("kept: rod")
    (second,) = (training / "rod").iterdir()
    assert [one.file_name for one in read_crops(training / LOG)] == ["s0.png", "s1.png"]

    # A page that is opened again knows what is there.
    page.open(address)
    assert len(page.tiles()) == 2
    page.press("u")
    page.told("taken back: rod")
    assert not second.exists()
    (tile,) = page.tiles()
    tile.click()
    page.told("taken back: ring")
    assert not first.exists()
    assert page.tiles() == []
    assert page.text("progress") == "0 pictures: disc 0, ring 0, rod 0"
    assert not page.find("undo").is_enabled()

    assert {urlsplit(url).netloc for url in requests(browser)} == {urlsplit(address).netloc}
    severe = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert [line for line in severe if address in line["message"]] == []


@pytest.mark.slow
def test_a_class_chosen_by_mouse_leaves_the_keys_alive(browser, address):
    from selenium.webdriver.common.keys import Keys

    emulate(browser, 1280, 900)
    page = Page(browser)
    page.open(address)
    browser.find_element("css selector", "#classes input[value=rod]").click()
    page.click(0.4, 0.4)
    browser.find_element("css selector", "#classes input[value=ring]").click()
    page.press(Keys.ENTER)
    page.told("kept: ring")
    page.press(Keys.ARROW_LEFT)
    assert page.state("chosenClass()") == "ring", "arrows move the cross once something is kept"
    browser.execute_script("busy = true")
    page.press(Keys.SPACE)
    browser.execute_script("busy = false")
    assert page.state("editor.clicks.length") == 0, "a click that nobody answers is left behind"


@pytest.mark.slow
def test_what_is_drawn_stays_when_the_view_moves(browser, address):
    emulate(browser, 1280, 900)
    page = Page(browser)
    page.open(address)
    area = "editor.mask.reduce((sum, cell) => sum + cell, 0)"
    browser.execute_script(
        "const [x, y] = [editor.columns / 2, editor.rows / 2];"
        "editor.keep(); editor.stroke([x - 3, y], [x + 3, y], 4, 1); editor.changed();"
    )
    drawn, before = page.state(area), page.state("[editor.part, editor.mask.join('')]")
    assert drawn > 0
    page.press("+")
    page.until(
        lambda: page.state(
            "!busy && editor.part.join() !== '" + ",".join(map(str, before[0])) + "'"
        ),
        "no zoom",
    )
    assert page.state(area) == drawn
    page.press("z")
    page.until(
        lambda: page.state(f"!busy && editor.part.join() === '{','.join(map(str, before[0]))}'"),
        "not the whole",
    )
    assert page.state("[editor.part, editor.mask.join('')]") == before

    # A view that would leave some of it out is refused, and nothing changes.
    browser.execute_script("editor.stroke([1, 1], [4, 1], 2, 1)")
    before = page.state("[editor.part, editor.mask.join('')]")
    page.press("+")
    page.until(lambda: page.find("trouble").is_displayed(), "nobody says that it would be lost")
    assert "would be lost" in page.text("trouble")
    assert page.state("[editor.part, editor.mask.join('')]") == before


@pytest.mark.slow
def test_nothing_of_wcag_aa_is_broken(browser, address):
    source, page = axe_source(), Page(browser)
    for width, phone in ((1280, False), (390, True)):
        for scheme in ("light", "dark"):
            emulate(browser, width, 900, scheme, phone)
            page.open(address)
            page.click(0.5, 0.5)
            page.find("save").click()
            page.told("kept: disc")
            assert violations(browser, source) == []
            page.find("help-open").click()
            assert violations(browser, source) == [], "the list of keys"
            page.find("help-close").click()
            wide = page.state("document.documentElement.scrollWidth")
            assert wide <= width, "the page would scroll sideways"
    emulate(browser, 1280, 1000)
