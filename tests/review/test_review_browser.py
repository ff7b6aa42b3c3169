"""A review as a person does it: a real browser, a killed server, and the labels afterwards."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.chromium import axe_source, emulate, open_chromium, requests, violations
from usam_core.config.project import load_project
from usam_core.masks.label_png import read_label_png
from usam_core.review.decisions import read_all
from usam_core.steps import run_step
from usam_core.steps.record import decisions_file

ROOT = Path(__file__).parents[2]
SECONDS = 120


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def own(finished_project, tmp_path):
    """Return the project file of a finished project that a test may change."""
    folder = tmp_path / "own"
    shutil.copytree(finished_project.parent, folder)
    return folder / finished_project.name


class Review:
    """A running `usam review`."""

    def __init__(self, project, *options):
        command = [sys.executable, "-m", "flows", "review", str(project), "--json", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        text = "".join(iter(self.process.stdout.readline, "}\n"))
        assert text, self.process.stderr.read()
        self.page = json.loads(text + "}")["page"]

    def kill(self, with_signal=signal.SIGKILL):
        self.process.send_signal(with_signal)
        self.process.wait(SECONDS)


@pytest.fixture
def serve(own):
    """Return a function that starts a review of the project; they are killed at the end."""
    started = []

    def start(*options):
        started.append(Review(own, *options))
        return started[-1]

    yield start
    for review in started:
        if review.process.poll() is None:
            review.kill()


@pytest.fixture
def wait(browser):
    from selenium.webdriver.support.ui import WebDriverWait

    def until(found, why):
        return WebDriverWait(browser, SECONDS, 0.05).until(lambda _: found(), why)

    return until


@pytest.fixture
def page(browser, wait):
    """Return what tests do with the page."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    class Page:
        def open(self, address):
            browser.get(address)
            self.ready()

        def ready(self):
            drawn = "return document.getElementById('view').dataset.ready && !busy"
            wait(lambda: self.text("progress"), "no progress on the page")
            wait(lambda: browser.execute_script(drawn), "the pictures are not drawn")

        def find(self, name):
            return browser.find_element(By.ID, name)

        def text(self, name):
            return self.find(name).text

        def press(self, keys):
            ActionChains(browser).send_keys(keys).perform()

        def idle(self):
            wait(lambda: browser.execute_script("return !busy"), "the page is still at work")

        def state(self, what):
            return browser.execute_script(f"return {what}")

        def verdict(self, start):
            wait(lambda: self.text("verdict").startswith(start), f"not {start}")
            self.ready()

        def drag(self, start, end, steps=4):
            """Press, move and release on the stage, at shares of its width and height."""
            stage = self.find("mask")
            size = stage.size
            offset = [
                ((x - 0.5) * size["width"], (y - 0.5) * size["height"]) for x, y in (start, end)
            ]
            (x, y), (x1, y1) = offset
            chain = ActionChains(browser, duration=20).move_to_element_with_offset(stage, x, y)
            chain.click_and_hold()
            for step in range(1, steps + 1):
                share = step / steps
                chain.move_to_element_with_offset(stage, x + (x1 - x) * share, y + (y1 - y) * share)
            chain.release().perform()
            self.idle()

        def decided(self, count):
            wait(lambda: f"; {count} decided" in self.text("progress"), f"not {count} decided")

    return Page()


@pytest.mark.slow
def test_keys_decide_and_nothing_is_lost(browser, page, wait, serve, own):
    from selenium.webdriver.common.keys import Keys

    project = load_project(own)
    review = serve("--order", "entropy")
    page.open(review.page)
    name = page.text("question")
    page.press("a")
    page.decided(1)
    page.press("r")
    page.decided(2)
    page.press("c")
    wait(page.find("change-dialog").is_displayed, "no dialog")
    page.press("3")
    page.decided(3)
    page.press("c")
    wait(page.find("change-dialog").is_displayed, "no dialog")
    page.press("ri" + Keys.ENTER)
    page.decided(4)
    page.press("u")
    page.decided(3)
    log = read_all(decisions_file(project.out))
    assert [one.label for one in log] == [log[0].head_class, None, "rod"]
    assert log[0].head_class in name

    page.open(review.page)
    page.decided(3)
    page.press(Keys.ARROW_LEFT)
    wait(
        lambda: page.text("verdict") in ("accepted", "changed to rod"), "the decision is not shown"
    )

    review.kill()
    page.press(Keys.ARROW_RIGHT)
    wait(page.find("trouble").is_displayed, "nobody says that the server is gone")
    assert read_all(decisions_file(project.out)) == log
    again = serve("--order", "entropy")
    page.open(again.page)
    page.decided(3)
    assert page.text("progress").startswith("mask 4 of")

    assert run_step("annotate", project).summary["reviewed"]["not_applied"] == 0
    coco = json.loads((project.out / "annotate" / "coco.json").read_text())
    by_mask = {one["segmentation"]["counts"]: one for one in coco["annotations"]}
    assert by_mask[log[0].mask["counts"]]["reviewed"] == "accepted"
    assert log[1].mask["counts"] not in by_mask
    assert by_mask[log[2].mask["counts"]]["category_id"] == 3
    png = project.out / "annotate" / "masks" / Path(log[2].file_name).with_suffix(".png")
    assert (read_label_png(png) == 3).any()


@pytest.mark.slow
def test_the_page_works_with_the_mouse_and_asks_nobody_else(browser, page, wait, serve):
    review = serve()
    requests(browser)
    page.open(review.page)
    page.find("accept").click()
    page.decided(1)
    page.find("change").click()
    wait(page.find("change-dialog").is_displayed, "no dialog")
    page.find("change-list").find_elements("tag name", "button")[0].click()
    page.decided(2)
    page.find("undo").click()
    page.decided(1)
    page.find("help-open").click()
    assert "without deciding" in page.text("help")
    page.press("a")
    assert "; 1 decided" in page.text("progress"), "keys do not decide behind the list of keys"
    page.find("help-close").click()
    assert {urlsplit(url).netloc for url in requests(browser)} == {urlsplit(review.page).netloc}
    severe = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert [line for line in severe if review.page in line["message"]] == []
    assert all(image.get_attribute("alt") for image in [page.find("image")])
    emulate(browser, 1280, 900, "dark")
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    emulate(browser, 390, 800, "light", phone=True)
    light = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert dark != light
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= 390, "a phone would scroll sideways"
    tall = browser.execute_script(
        "return document.getElementById('accept').getBoundingClientRect().height"
    )
    assert tall >= 44, "a finger needs 44 pixels"


@pytest.mark.slow
def test_nothing_of_wcag_aa_is_broken(browser, page, serve):
    source, review = axe_source(), serve("--limit", "20")
    for width, phone in ((1280, False), (390, True)):
        for scheme in ("light", "dark"):
            emulate(browser, width, 900, scheme, phone)
            page.open(review.page)
            assert violations(browser, source) == []
            for button in ("help-open", "change"):
                browser.execute_script(
                    "document.querySelectorAll('dialog').forEach(d => d.close());"
                    "document.getElementById(arguments[0]).click()",
                    button,
                )
                assert violations(browser, source) == [], button
    emulate(browser, 1280, 1000)


@pytest.mark.slow
def test_one_review_at_a_time_and_ctrl_c_prints_what_was_learned(serve, own, page):
    review = serve()
    page.open(review.page)
    page.press("a")
    page.decided(1)
    command = [sys.executable, "-m", "flows", "review", str(own)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = {"capture_output": True, "text": True, "env": environment, "timeout": SECONDS}
    second = subprocess.run(command, **quiet)
    assert second.returncode == 2
    assert "another `usam review` of this project runs" in second.stderr
    review.kill(signal.SIGINT)
    assert review.process.returncode == 0, review.process.stderr.read()
    shown = subprocess.run([*command, "--summary", "--json"], **quiet)
    assert sum(one["decided"] for one in json.loads(shown.stdout)) == 1


def area(page):
    return page.state("editor.mask.reduce((sum, cell) => sum + cell, 0)")


@pytest.mark.slow
def test_outlines_are_drawn_split_joined_and_added(browser, page, wait, serve, own):
    """Points, box, brush, eraser, cut, join, a new object, undo: and the labels hold all of it."""
    from selenium.webdriver.common.keys import Keys

    project = load_project(own)
    emulate(browser, 1280, 900)
    review = serve("--order", "random")
    page.open(review.page)
    before = page.state("shown.area")
    page.press("o")
    wait(page.find("editing").is_displayed, "no tools")
    page.idle()
    start = area(page)
    page.press("d")
    page.drag((0.05, 0.05), (0.4, 0.05))
    brushed = area(page)
    assert brushed >= start  # the mask may have been there
    page.press("e")
    page.drag((0.05, 0.05), (0.2, 0.05))
    erased = area(page)
    assert erased < brushed
    browser.execute_script("editor.undo()")
    assert area(page) == brushed
    page.drag((0.05, 0.05), (0.2, 0.05))
    assert area(page) == erased
    drawn, parts = page.state("editor.mask.join('')"), [page.state("editor.part")]
    for factor in ("1 / 1.5", "1.5"):
        browser.execute_script(f"editor.zoom({factor}, [0, 0])")
        page.idle()
        parts.append(page.state("editor.part"))
    assert parts[0] == parts[2] != parts[1]
    assert page.state("editor.mask.join('')") == drawn, "what is drawn stays when the view moves"
    page.press("p" + Keys.ARROW_RIGHT * 4 + Keys.SPACE)
    wait(lambda: page.state("editor.clicks.length") == 1, "no click by the keyboard")
    page.idle()
    assert not page.find("trouble").is_displayed()
    page.press(Keys.ENTER)
    page.decided(1)
    page.verdict("drawn")
    (drawn,) = read_all(decisions_file(project.out))
    assert drawn.drawn is not None
    assert drawn.verdict == "drawn"

    # A cut through the middle leaves two objects.
    page.press("o")
    wait(page.find("editing").is_displayed, "no tools")
    page.idle()
    page.press("d")
    page.drag((0.1, 0.5), (0.9, 0.5))
    page.press("k")
    page.drag((0.5, 0.0), (0.5, 1.0))
    assert page.find("apart").is_selected()
    whole = page.state("list.length")
    parts = page.state("editor.pieces(true).length")
    assert parts >= 2
    page.press(Keys.ENTER)
    wait(lambda: page.state("list.length") == whole + parts - 1, "no new masks")
    page.ready()
    page.press("u")
    wait(lambda: page.state("list.length") == whole, "the act is not taken back whole")
    page.ready()

    # A new object, by a box around the picture's middle.
    page.press("n")
    wait(page.find("editing").is_displayed, "no tools")
    page.idle()
    assert page.find("save").get_attribute("disabled")
    assert area(page) == 0
    page.press("b")
    page.drag((0.2, 0.2), (0.8, 0.8))
    assert area(page) > 0
    assert float(page.find("stack").get_attribute("data-seconds")) > 0
    browser.execute_script("document.getElementById('edit-class').value = 'rod'")
    page.press(Keys.ENTER)
    page.verdict("added: rod")
    assert page.text("question") == "You added this rod."
    page.press("c")
    wait(page.find("change-dialog").is_displayed, "no dialog")
    page.press("ri" + Keys.ENTER)
    log = decisions_file(project.out)
    wait(lambda: read_all(log)[-1].label == "ring", "the class is not changed")
    page.ready()

    # Join: a click on a mask beside one of the same image.
    two = "list.some((two) => two.image === one.image && two.id !== one.id)"
    browser.execute_script(f"work(() => show(list.findIndex((one) => {two})))")
    page.idle()
    page.press("z")
    page.idle()
    x, y = browser.execute_async_script(
        "const done = arguments[0];"
        "const two = list.find((one) => one.image === shown.image && one.id !== shown.id);"
        "ask(`api/items/${two.id}/outline?box=${editor.part.join(',')}`).then((answer) => {"
        "const at = fromRuns(answer.runs, editor.rows * editor.columns).indexOf(1);"
        "done([(at % editor.columns + 0.5) / editor.columns,"
        " (Math.floor(at / editor.columns) + 0.5) / editor.rows]); });"
    )
    page.press("j")
    assert page.find("join").get_attribute("aria-pressed") == "true"
    page.drag((x, y), (x, y), steps=0)
    wait(lambda: read_all(log)[-1].time == read_all(log)[-2].time, "nothing was joined")
    page.ready()
    assert len({one.outline["counts"] for one in read_all(log)[-2:]}) == 1
    page.press("u")
    page.ready()

    run_step("annotate", project)
    coco = json.loads((project.out / "annotate" / "coco.json").read_text())
    said = sorted(one["reviewed"] for one in coco["annotations"] if "reviewed" in one)
    assert said == ["added", "drawn"]
    by_mask = {one["segmentation"]["counts"] for one in coco["annotations"]}
    assert drawn.drawn["counts"] in by_mask
    assert drawn.mask["counts"] not in by_mask
    assert before != next(
        one["area"] for one in coco["annotations"] if one.get("reviewed") == "drawn"
    )


@pytest.mark.slow
def test_the_grid_and_the_filters_work_by_keys(browser, page, wait, serve, own):
    from selenium.webdriver.common.keys import Keys

    emulate(browser, 1280, 900)
    review = serve("--order", "random")
    page.open(review.page)
    page.press("g")
    wait(page.find("grid").is_displayed, "no grid")
    tiles = page.find("tiles").find_elements("tag name", "button")
    assert len(tiles) == page.state("list.length")
    page.press(" " + Keys.ARROW_RIGHT + " ")
    assert page.state("chosen.size") == 2
    page.press("a")
    page.decided(2)
    assert [one.verdict for one in read_all(decisions_file(load_project(own).out))] == [
        "accepted"
    ] * 2
    page.press("f")
    browser.execute_script(
        "document.getElementById('by-verdict').value = 'accepted';"
        "document.getElementById('filters').dispatchEvent(new Event('change'))"
    )
    wait(lambda: page.state("list.length") == 2, "the filter does nothing")
    browser.execute_script(
        "document.getElementById('by-verdict').value = 'rejected';"
        "document.getElementById('filters').dispatchEvent(new Event('change'))"
    )
    wait(page.find("nothing").is_displayed, "nobody says that nothing fits")
    page.find("nothing-reset").click()
    wait(
        lambda: len(page.find("tiles").find_elements("tag name", "button")) == len(tiles), "not all"
    )
    browser.execute_script("document.querySelector('#tiles button').focus()")
    page.press(Keys.ENTER)
    wait(page.find("view").is_displayed, "the mask is not opened")
    page.ready()
    emulate(browser, 390, 800, phone=True)
    page.find("edit").click()
    page.idle()
    for shown in ("editing", "view"):
        assert page.find(shown).is_displayed()
    assert page.state("document.documentElement.scrollWidth") <= 390, (
        "a phone would scroll sideways"
    )
    page.find("filters-open").click()
    browser.execute_script(
        "document.getElementById('filters').requestSubmit(); $('filters').reset()"
    )
    wait(lambda: not page.find("editing").is_displayed(), "another mask's outline would be drawn")
    page.ready()
    page.find("edit").click()
    page.idle()
    page.find("leave").click()
    page.find("grid-open").click()
    wait(page.find("grid").is_displayed, "no grid")
    assert page.state("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
def test_ctrl_c_says_what_comes_next(own):
    command = [sys.executable, "-m", "flows", "review", str(own)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, **quiet)
    for line in iter(process.stdout.readline, ""):
        if line.startswith("http"):
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=SECONDS)[0]
    assert rest.rstrip().splitlines()[-1] == f"next: usam run {own}"
