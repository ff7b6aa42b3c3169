"""The report as a person meets it: a file opened in a real browser, by mouse, keys and phone."""

import os
import shutil
from pathlib import Path

import pytest

from tests.chromium import (
    axe_source,
    emulate,
    open_chromium,
    requests,
    screenshot,
    violations,
)
from tests.labelled_run import write_project, write_run
from tests.report.test_report import ODD, SECTIONS, change, run_all
from usam_core.config.project import load_project
from usam_core.steps import run_step, step_folder

pytestmark = pytest.mark.slow

KEEP = os.environ.get("USAM_SCREENSHOTS")
"""A folder in which to keep what is seen, for a look."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(finished_project, tmp_path_factory):
    """Return the report of a second run, so that every part of it has something to show."""
    folder = tmp_path_factory.mktemp("browser") / "copy"
    shutil.copytree(finished_project.parent, folder)
    (folder / "images" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    project = change(folder / "project.yaml", inference={"threshold": 0.35})
    run_all(project)
    return step_folder(project, "report") / "report.html"


@pytest.fixture
def opened(browser, page):
    emulate(browser, 1280, 1000)
    requests(browser)
    browser.get_log("browser")
    browser.get(page.as_uri())
    return browser


def all_of(driver, selector):
    return driver.find_elements("css selector", selector)


def test_nothing_is_complained_of_and_nothing_asked_for(opened, page):
    opened.execute_script(
        "document.querySelectorAll('details').forEach(d => d.open = true);"
        "document.querySelectorAll('img').forEach(i => i.loading = 'eager')"
    )
    pictures = all_of(opened, "img")
    decoded = "return Promise.all([...document.images].map(i => i.decode())).then(() => true)"
    assert opened.execute_script(decoded)
    assert len(pictures) > 30
    assert [line["message"] for line in opened.get_log("browser")] == []
    assert requests(opened) == [page.as_uri()]
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_that_check_sees_a_request_and_a_complaint(opened, page, tmp_path):
    """A picture from elsewhere is refused by the page's own policy, which the console tells."""
    text = page.read_text(encoding="utf-8")
    text = text.replace("</main>", '<img src="http://127.0.0.1:9/x.png" alt=""></main>')
    (tmp_path / "bad.html").write_text(text, encoding="utf-8")
    opened.get((tmp_path / "bad.html").as_uri())
    assert any("Content Security Policy" in line["message"] for line in opened.get_log("browser"))
    policy = text.index('<meta http-equiv="Content-Security-Policy"')
    bare = text[:policy] + text[text.index("\n", policy) :]
    (tmp_path / "worse.html").write_text(bare, encoding="utf-8")
    requests(opened)
    opened.get((tmp_path / "worse.html").as_uri())
    opened.execute_script("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    assert "http://127.0.0.1:9/x.png" in requests(opened)


def test_every_picture_and_chart_says_what_it_shows(opened):
    for picture in all_of(opened, "img"):
        assert len(picture.get_attribute("alt")) > 5
    for chart in all_of(opened, "svg"):
        assert len(chart.accessible_name) > 10
        assert chart.aria_role in ("img", "image")
    levels = [int(h.tag_name[1]) for h in all_of(opened, "h1, h2, h3, h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1


def test_everything_can_be_reached_and_opened_by_keys_alone(opened):
    from selenium.webdriver.common.keys import Keys

    focused = "return document.activeElement"
    opened.switch_to.active_element.send_keys(Keys.TAB)
    skip = opened.execute_script(focused)
    assert skip.get_attribute("href").endswith("#main")
    assert skip.location["x"] >= 0, "the link to the content is seen when it has the focus"
    wanted = [e for e in all_of(opened, "a, summary, [tabindex='0']") if e.is_displayed()]
    reached = [skip]
    for _ in wanted[1:]:
        opened.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(opened.execute_script(focused))
    assert [e.id for e in reached] == [e.id for e in wanted]
    outline = "return getComputedStyle(arguments[0]).outlineStyle"
    assert opened.execute_script(outline, reached[-1]) == "solid"
    summary = next(e for e in wanted if e.tag_name == "summary" and "Lineage" in e.text)
    details = opened.execute_script("return arguments[0].parentElement", summary)
    assert details.get_attribute("open") is None
    summary.send_keys(Keys.ENTER)
    assert details.get_attribute("open") is not None
    link = next(e for e in wanted if e.text == "Left out")
    link.send_keys(Keys.ENTER)
    assert opened.current_url.endswith("#quarantine")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "phone"), [(1280, False), (390, True)])
def test_nothing_of_wcag_aa_is_broken(opened, width, phone, scheme):
    source = axe_source()
    emulate(opened, width, 900, scheme, phone)
    opened.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert violations(opened, source) == []


def test_that_check_sees_gray_on_white_and_a_picture_without_words(opened):
    source = axe_source()
    opened.execute_script("document.querySelector('h2').style.color = '#999'")
    opened.execute_script("document.querySelector('img').removeAttribute('alt')")
    found = " ".join(violations(opened, source))
    assert "color-contrast" in found
    assert "image-alt" in found


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_phone_shows_one_column_and_never_scrolls_sideways(opened, page, width):
    emulate(opened, width, 800, "dark", phone=True)
    opened.get(page.as_uri())
    opened.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    widths = "return [document.documentElement.scrollWidth, window.innerWidth]"
    assert opened.execute_script(widths) == [width, width]
    for heading in all_of(opened, "h2"):
        assert heading.rect["x"] + heading.rect["width"] <= width
    if KEEP:
        screenshot(opened, Path(KEEP) / f"phone-{width}.png")


def test_long_words_break_and_no_text_stands_in_a_frame(opened):
    for kind in ("p", "li", "dd", "figcaption"):
        styles = "return [...document.querySelectorAll(arguments[0])].map(getComputedStyle)"
        styles += ".map(s => s.overflowWrap + ' ' + s.borderTopWidth)"
        assert set(opened.execute_script(styles, kind)) == {"anywhere 0px"}


def test_light_and_dark_can_both_be_read(opened, page):
    found = {}
    for scheme in ("light", "dark"):
        emulate(opened, 1280, 1000, scheme)
        opened.get(page.as_uri())
        body = all_of(opened, "body")[0]
        text, paper, link, bar = (
            luminance(color)
            for color in (
                body.value_of_css_property("color"),
                body.value_of_css_property("background-color"),
                all_of(opened, "nav a")[0].value_of_css_property("color"),
                all_of(opened, ".bar")[0].value_of_css_property("fill"),
            )
        )
        found[scheme] = paper
        assert contrast(text, paper) > 7
        assert contrast(link, paper) > 4.5, "WCAG 2.2, 1.4.3"
        assert contrast(bar, paper) > 3, "WCAG 2.2, 1.4.11"
        for soft in all_of(opened, ".soft")[:3]:
            assert contrast(luminance(soft.value_of_css_property("color")), paper) > 4.5
    assert found["light"] > 0.9
    assert found["dark"] < 0.05


def test_odd_names_run_nothing(browser, tmp_path):
    import numpy as np
    from selenium.common.exceptions import NoAlertPresentException
    from selenium.webdriver.common.alert import Alert

    labels = {f"{n}{name}.png": np.full((20, 30), n + 1, np.uint8) for n, name in enumerate(ODD)}
    write_run(tmp_path, labels, ODD)
    project = load_project(write_project(tmp_path, ODD))
    run_step("report", project)
    browser.get_log("browser")
    browser.get((step_folder(project, "report") / "report.html").as_uri())
    with pytest.raises(NoAlertPresentException):
        Alert(browser).accept()
    assert browser.get_log("browser") == []
    shown = browser.find_element("css selector", "#classes ~ .scroll").text
    for name in ODD[:5]:
        assert name in shown
    images = browser.execute_script("return [...document.images].map(i => i.src.slice(0, 16))")
    assert set(images) == {"data:image/webp;", "data:image/svg+x"}


def test_the_parts_are_those_of_the_navigation(opened):
    assert [e.get_attribute("href").split("#")[1] for e in all_of(opened, "nav a")] == SECTIONS
    for name in SECTIONS:
        assert len(all_of(opened, f"#{name}")) == 1


def luminance(color):
    """Return the relative luminance of a CSS colour, as WCAG 2.2 defines it."""
    values = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Return the contrast of two luminances, as WCAG 2.2 defines it."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
