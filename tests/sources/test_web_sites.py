"""Crawling the user's own sites: order, limits, and what robots.txt says."""

from itertools import pairwise

import pytest

from tests.web_site import settings
from usam_core.config.schema import ClassSpec
from usam_core.errors import TransientError
from usam_core.progress import SILENT
from usam_core.sources.web.session import Answer
from usam_core.sources.web.sites import address, read_page
from usam_core.sources.web.source import WebSource

DOG = ClassSpec(name="dog")

pytestmark = pytest.mark.usefixtures("short_waits")


def page(links=(), images=()):
    return "".join(
        [f'<a href="{link}">go</a>' for link in links]
        + [f'<img src="{image}" alt="a dog">' for image in images]
    )


def collect(site, folder, start="/", **changes):
    changes = {"engines": ["sites"], "sites": {"dog": [site.address(start)]}} | changes
    return WebSource(folder, settings(site, **changes), folder).collect(DOG, SILENT)


def paths(site, collected):
    return [p.provenance["image_url"].removeprefix(site.url) for p in collected.pictures]


def pages_read(site):
    return {path for path in site.counts if path in site.pages}


def tree(site, width=4, depth=3):
    """Fill the site with a tree of pages, each with a picture; return them breadth first."""
    order, level = [], ["/"]
    for _ in range(depth):
        below = []
        for path in level:
            links = [f"{path.rstrip('/')}/{n}" for n in range(width)]
            below += links
            order.append(path)
            # Back to the beginning, and to itself: a crawler must not walk in circles.
            site.pages[path] = page(["/", path, *links], [f"/img/{len(order)}.jpg"])
        level = below
    return order


def test_a_site_is_read_breadth_first(site, tmp_path):
    order = tree(site)
    collected = collect(site, tmp_path, per_class=12)
    assert paths(site, collected) == [f"/img/{n}.jpg" for n in range(1, 13)]
    assert collected.pictures[3].provenance["page_url"] == site.url + order[3]
    assert collected.pictures[3].provenance["title"] == "a dog"
    assert max(site.counts.values()) == 1
    # No more pages than one round beyond those that were needed.
    assert len(pages_read(site)) <= 12 + 8


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3, 16])
def test_the_order_does_not_depend_on_timing(site, tmp_path, threads):
    tree(site)
    collected = collect(site, tmp_path, per_class=21, concurrency=threads)
    assert paths(site, collected) == [f"/img/{n}.jpg" for n in range(1, 22)]


@pytest.mark.slow
def test_no_more_pages_than_allowed(site, tmp_path):
    tree(site)
    collected = collect(site, tmp_path, per_class=100, max_pages=6)
    assert len(pages_read(site)) == 6
    assert len(collected.pictures) == 6


def test_robots_are_obeyed(site, tmp_path):
    site.robots = "User-agent: *\nDisallow: /private\nDisallow: /*.png$\nAllow: /private/open\n"
    site.pages = {
        "/": page(["/private", "/private/open", "/good"], ["/img/1.jpg", "/img/2.png"]),
        "/private": page([], ["/img/3.jpg"]),
        "/private/open": page([], ["/img/4.jpg"]),
        "/good": page(["/private"], ["/img/5.jpg"]),
    }
    collected = collect(site, tmp_path)
    assert paths(site, collected) == ["/img/1.jpg", "/img/4.jpg", "/img/5.jpg"]
    assert [(r.origin, r.code) for r in collected.rejected] == [(f"{site.url}/img/2.png", "robots")]
    assert pages_read(site) == {"/", "/private/open", "/good"}
    assert site.counts["/img/2.png"] == 0
    assert site.counts["/robots.txt"] == 1
    assert "robots (1)" in collected.notes[0]


def test_robots_can_speak_of_this_crawler(site, tmp_path):
    site.robots = "User-agent: *\nDisallow:\n\nUser-agent: usam\nDisallow: /\n"
    site.pages = {"/": page([], ["/img/1.jpg"])}
    collected = collect(site, tmp_path)
    assert collected.pictures == []
    assert list(site.counts) == ["/robots.txt"]


def test_a_redirect_does_not_lead_around_robots(site, tmp_path):
    site.robots = "User-agent: *\nDisallow: /img/moved/7.jpg\n"
    site.pages = {"/": page([], ["/moved/7", "/moved/8"])}
    collected = collect(site, tmp_path)
    assert paths(site, collected) == ["/moved/8"]
    assert site.counts["/img/moved/7.jpg"] == 0


def test_the_delay_that_a_site_asks_for_is_kept(site, tmp_path):
    site.robots = "User-agent: *\nCrawl-delay: 0.4\n"
    site.pages = {"/": page(["/a"], ["/img/1.jpg", "/img/2.jpg"]), "/a": page()}
    collect(site, tmp_path, per_class=2)
    times = [when for when, _, _ in site.visits]
    assert len(times) >= 4
    assert all(later - earlier >= 0.35 for earlier, later in pairwise(times))


def test_a_site_whose_robots_cannot_be_read_is_left_alone(site, tmp_path):
    site.pages = {"/": page([], ["/img/1.jpg"])}
    site.robots = "503"
    with pytest.raises(TransientError, match=r"robots\.txt answered 503"):
        collect(site, tmp_path, retries=0)
    assert set(site.counts) == {"/robots.txt"}


def test_other_hosts_are_left_alone(site, tmp_path):
    other = f"http://localhost:{site.server_port}"
    site.pages = {
        "/": page([f"{other}/a", "/b"], [f"{other}/img/1.jpg", "/img/2.jpg"]),
        "/a": page([], ["/img/3.jpg"]),
        "/b": page([], ["/inside/localhost/4"]),
    }
    collected = collect(site, tmp_path, allow_hosts=["127.0.0.1", "localhost"])
    assert paths(site, collected) == ["/img/2.jpg"]
    assert [r.code for r in collected.rejected] == ["other_host", "other_host"]
    assert all(headers["host"].startswith("127.0.0.1") for _, _, headers in site.visits)


def test_pages_in_trouble_do_not_stop_the_crawl(site, tmp_path):
    links = ["/status/404", "/status/500", "/page-as-image", "/large-said", "/loop/a", "/good"]
    site.pages = {"/": page(links, ["/img/1.jpg"]), "/good": page([], ["/img/2.jpg"])}
    collected = collect(site, tmp_path, retries=0)
    assert paths(site, collected) == ["/img/1.jpg", "/img/2.jpg"]
    for code in ("http_404", "http_500", "not_a_page", "redirect_loop"):
        assert code in collected.notes[0]
    before = site.counts
    assert paths(site, collect(site, tmp_path, retries=0)) == ["/img/1.jpg", "/img/2.jpg"]
    # Only what may have healed is asked for again.
    assert site.counts - before == {"/status/500": 1}


def test_a_site_that_is_down_is_worth_another_try(site, tmp_path):
    with pytest.raises(TransientError, match="cannot be reached"):
        collect(site, tmp_path, "http://127.0.0.1:1/", retries=0)


def test_what_is_read_from_a_page():
    content = """
    <base href="/shop/"><link rel="license" href="/cc0">
    <img src="a.jpg"><img data-src="b.webp"><img src="data:image/png;base64,x"><img>
    <a href="c.PNG">a picture</a> <a href="next.html#part">n</a> <a href="#top">t</a>
    <a href="mailto:x@y.z">m</a> <a href="javascript:x()">j</a> <a href="file.zip">z</a>
    <a href="http://[broken">b</a> <a href="http://other.example/">o</a> <a href="?p=2">2</a>
    """
    answer = Answer("http://a.example/x/y", "text/html", content.encode())
    page = read_page(answer, "q", frozenset(["a.example"]))
    base = "http://a.example/shop/"
    assert [c.url for c in page.candidates] == [base + "a.jpg", base + "b.webp", base + "c.PNG"]
    assert page.links == (base + "next.html", base + "?p=2")
    assert page.candidates[2].title == "a picture"
    assert page.candidates[0].licence == "http://a.example/cc0"


def test_sites_without_a_scheme():
    assert address("a.example") == "http://a.example/"
    assert address("https://a.example/x?y=1") == "https://a.example/x?y=1"
