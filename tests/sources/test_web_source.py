"""The whole way from an engine's page to a class's pictures."""

import hashlib
import io
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.sources.web_class import DOG, codes, collect, jpegs, paths, source, write_list
from tests.web_site import bomb, picture
from usam_core.config.schema import ClassSpec
from usam_core.errors import ConfigError, InputError
from usam_core.sources.web.source import JOURNAL

pytestmark = pytest.mark.usefixtures("short_waits")


def test_engines_are_asked_in_turn_until_there_is_enough(site, tmp_path):
    site.results = {
        "bing": {"dog": [*jpegs(*range(25)), "/status/404"]},
        "google": {"dog": jpegs(24, 25, 26, 27, 28)},
        "baidu": {"dog": jpegs(*range(40, 60))},
    }
    collected = collect(site, tmp_path, per_class=35)
    assert paths(site, collected) == jpegs(*range(29), *range(40, 46))
    assert codes(site, collected) == {"/status/404": "http_404"}
    assert collected.notes == [
        "bing gave 25 usable pictures of 26 results for 'dog'; asked google next",
        "google gave 4 usable pictures of 5 results for 'dog'; asked baidu next",
        "baidu gave 6 usable pictures of 20 results for 'dog'",
    ]
    assert max(site.counts.values()) == 1
    assert site.counts["/img/46.jpg"] == 0


def test_nothing_is_fetched_that_is_not_needed(site, tmp_path):
    site.results["bing"] = {"dog": jpegs(*range(100))}
    collected = collect(site, tmp_path, per_class=7, concurrency=16)
    assert paths(site, collected) == jpegs(*range(7))
    assert len(site.visits) == 8


def test_queries_come_in_their_order(site, tmp_path):
    site.results["bing"] = {"brown dog": jpegs(1, 2), "dog & bone": jpegs(2, 3)}
    spec = ClassSpec(name="dog", queries=["brown dog", "dog & bone"])
    collected = collect(site, tmp_path, spec, engines=["bing"])
    assert paths(site, collected) == jpegs(1, 2, 3)
    assert [p.provenance["query"] for p in collected.pictures] == [
        "brown dog",
        "brown dog",
        "dog & bone",
    ]


def test_an_engine_without_results_is_named(site, tmp_path):
    site.results = {"baidu": {"dog": jpegs(*range(3))}}
    site.pages["/search"] = "<html>Before you continue</html>"
    collected = collect(site, tmp_path, engines=["google", "baidu"], per_class=3)
    assert len(collected.pictures) == 3
    assert collected.notes[0] == (
        "google returned 0 results for 'dog' (its page may have changed); asked baidu next"
    )


def test_an_engine_that_fails_is_passed_by(site, tmp_path):
    site.down = {"bing"}
    site.results = {"google": {"dog": jpegs(*range(3))}}
    collected = collect(site, tmp_path, per_class=3)
    assert len(collected.pictures) == 3
    assert "bing failed" in collected.notes[0]
    assert "503" in collected.notes[0]


def test_provenance_and_file(site, tmp_path):
    site.results["bing"] = {"dog": ["/moved/3", "/img/4.png"]}
    first, second = collect(site, tmp_path, per_class=2).pictures
    fetched = first.provenance.pop("fetched")
    assert fetched.endswith("+00:00")
    assert first.provenance == {
        "engine": "bing",
        "query": "dog",
        "image_url": f"{site.url}/moved/3",
        "page_url": f"{site.url}/moved/3.html",
        "title": "a dog & more",
        "licence": None,
        "final_url": f"{site.url}/img/moved/3.jpg",
        "content_type": "image/jpeg",
        "original_sha256": hashlib.sha256(picture(3)).hexdigest(),
        "original_bytes": len(picture(3)),
    }
    for got, kind in ((first, "JPEG"), (second, "PNG")):
        content = Path(got.path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == got.sha256
        assert Path(got.path).stem == got.sha256[:16]
        assert len(content) == got.bytes
        assert Image.open(io.BytesIO(content)).format == kind
    assert Path(first.path).parent == tmp_path / "web" / "dog"


@pytest.mark.slow
def test_the_result_does_not_depend_on_timing(site, tmp_path):
    found = []
    for number in range(60):
        found += [f"/img/{number}.jpg", f"/heals/{number % 3}/{100 + number}", "/status/404"]
        found += [f"/img/{number // 2}.png"]
    site.results["bing"] = {"dog": found}
    results = []
    for name, threads in (("one", 1), ("many", 16), ("again", 5)):
        folder = tmp_path / name
        with site.lock:
            site.visits.clear()
        collected = collect(
            site, folder, per_class=50, concurrency=threads, engines=["bing"], retries=3
        )
        fetched = sorted(site.counts)
        for got in collected.pictures:
            got.provenance.pop("fetched")
        results.append(
            (
                [(Path(p.path).name, p.provenance) for p in collected.pictures],
                collected.rejected,
                collected.notes,
                fetched,
            )
        )
    assert len(results[0][0]) == 50
    assert results[0] == results[1] == results[2]


REJECTS = {
    "/status/404": "http_404",
    "/status/500": "http_500",
    "/loop/a": "redirect_loop",
    "/inside/localhost/1": "private_address",
    "/elsewhere": "bad_url",
    "/drip/1": "timeout",
    "/large/1": "too_many_bytes",
    "/large-said": "too_many_bytes",
    "/page-as-image": "not_an_image",
    "/image-as-page/1": "wrong_type",
    "/half/1": "truncated",
    "/hangs-up/9/1": "broken",
    "/bomb.png": "too_large",
    "/animated.gif": "animated",
    "/padded/8": "duplicate",
}


def test_what_does_not_teach_is_said_with_its_reason(site, tmp_path):
    bomb()  # takes a moment the first time
    listed = write_list(tmp_path, site, "/img/8.jpg", *REJECTS, "/unnamed/9")
    collected = collect(site, tmp_path, timeout=1.5, max_file_mb=0.3, per_class=30, **listed)
    assert codes(site, collected) == REJECTS
    assert paths(site, collected) == ["/img/8.jpg", "/unnamed/9"]
    assert all(len(r.reason) > 20 for r in collected.rejected)
    assert not any(str(tmp_path) in r.reason for r in collected.rejected)
    folder = tmp_path / "web" / "dog"
    kept = {Path(p.path).name for p in collected.pictures}
    assert {path.name for path in folder.iterdir()} == kept | {JOURNAL}


def test_only_pixels_are_kept(site, tmp_path):
    collected = collect(site, tmp_path, **write_list(tmp_path, site, "/polyglot/5"))
    content = Path(collected.pictures[0].path).read_bytes()
    assert b"script" not in content
    assert b"PK\x05\x06" not in content
    assert content.endswith(b"\xff\xd9")


def test_equal_bytes_are_one_picture(site, tmp_path):
    listed = write_list(tmp_path, site, "/img/5.jpg", "/img/x/5.jpg", "/moved/5", "/img/5.jpg")
    collected = collect(site, tmp_path, **listed)
    assert paths(site, collected) == ["/img/5.jpg"]
    assert codes(site, collected) == {"/img/x/5.jpg": "duplicate", "/moved/5": "duplicate"}
    assert f"{site.url}/img/5.jpg" in collected.rejected[0].reason


def test_what_decides_the_pictures(site, tmp_path):
    base = source(site, tmp_path).inputs(DOG)
    for polite in (
        {"timeout": 1},
        {"requests_per_second": 1},
        {"contact": "b@c.d"},
        {"retries": 9},
    ):
        assert source(site, tmp_path, **polite).inputs(DOG) == base
    listed = write_list(tmp_path, site, "/img/1.jpg")
    changes = [
        {"per_class": 3},
        {"engines": ["bing"]},
        {"max_file_mb": 1},
        {"max_megapixels": 1},
        listed,
        {"engines": ["sites"], "sites": {"dog": [site.url]}},
    ]
    seen = [source(site, tmp_path, **change).inputs(DOG) for change in changes]
    (tmp_path / "list.csv").write_text("class,url\ndog,http://a.example\ncat,http://b.example\n")
    seen.append(source(site, tmp_path, **listed).inputs(DOG))
    (tmp_path / "list.csv").write_text("class,url\ndog,http://a.example\n")
    assert source(site, tmp_path, **listed).inputs(DOG) == seen[-1]
    seen.append(source(site, tmp_path).inputs(ClassSpec(name="dog", queries=["hound"])))
    assert all(one != other for n, one in enumerate([base, *seen]) for other in seen[n:])


def test_settings_that_an_engine_lacks(site, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.web\.urls is missing"):
        collect(site, tmp_path, engines=["urls"])
    with pytest.raises(ConfigError, match=r"training\.web\.sites"):
        collect(site, tmp_path, engines=["sites"])
    listed = write_list(tmp_path, site, "/img/1.jpg")
    with pytest.raises(InputError, match="no row for the class 'cat'"):
        collect(site, tmp_path, ClassSpec(name="cat"), **listed)


class CountingProgress:
    """Remembers what it was asked for; its own bar."""

    @contextmanager
    def bar(self, what, total):
        self.said, self.count = (what, total), 0
        yield self

    def advance(self, count=1):
        self.count += count


def test_every_usable_picture_advances_the_bar(site, tmp_path):
    progress = CountingProgress()
    site.results["bing"] = {"dog": [*jpegs(*range(6)), "/status/404", "/img/0.png"]}
    for _ in range(2):
        source(site, tmp_path, per_class=7).collect(DOG, progress)
        assert progress.said == ("Fetching dog", 7)
        assert progress.count == 7


def test_a_class_with_an_odd_name(site, tmp_path):
    site.results["bing"] = {"a?b": jpegs(1)}
    collected = collect(site, tmp_path, ClassSpec(name="a?b"), per_class=1)
    assert Path(collected.pictures[0].path).parent.name == "a%3Fb"
