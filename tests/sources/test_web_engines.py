"""What is read from result pages, from garbage, and from the user's list of addresses."""

import json
import time

import pytest

from tests.web_site import _FORMS
from usam_core.config.schema import ClassSpec
from usam_core.errors import InputError
from usam_core.sources.web.engines import ENGINES, at, candidates
from usam_core.sources.web.session import CapReached, on_threads
from usam_core.sources.web.source import read_url_list

FOUND = [
    "https://a.example/one.jpg",
    "https://b.example/two?w=1&h=2",
    "http://c.example/3.WebP",
]


def parse(engine, content):
    return list(ENGINES[engine].results(content.encode()))


@pytest.mark.parametrize("engine", ENGINES)
def test_all_results_are_found_with_their_pages_and_titles(engine):
    results = parse(engine, _FORMS[engine](FOUND)[0])
    assert [url for url, _, _ in results] == FOUND
    for url, page_url, title in results:
        assert page_url.startswith(url)
        assert "dog" in title


def test_titles_lose_the_marks_of_the_engine_and_addresses_come_once():
    page = _FORMS["bing"]([FOUND[0], "ftp://a.example/x.jpg", FOUND[0], FOUND[1]])[0]
    results = candidates("bing", "a dog", page.encode())
    assert [result.url for result in results] == FOUND[:2]
    assert [result.title for result in results] == ["a dog & more"] * 2
    assert {(result.engine, result.query) for result in results} == {("bing", "a dog")}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "content",
    [
        "",
        "<html><body>Are you a robot?</body></html>",
        "[]",
        "null",
        '{"data": null}',
        '{"data": [1, null, {"objURL": 7}]}',
        "[" * 100_000,
        '<a class="iusc" m="{"></a><a class="iusc" m="[]"></a><a class="iusc" m="{}"></a>',
        '<script>["ftp:\\/\\/x",1,2] "\\u12" http://a.example/\\x.jpg</script>',
        "\x00\ufffd<<<>>>",
    ],
)
def test_other_pages_give_nothing_and_do_no_harm(engine, content):
    assert parse(engine, content) in ([], [("http://a.example/\\x.jpg", None, None)])


def test_google_in_another_form_is_read_as_icrawler_does():
    page = "<script>var a = ['http://a.example/1.jpg'][0];</script>"
    assert parse("google", page) == [("http://a.example/1.jpg", None, None)]


def test_baidu_with_plain_addresses():
    data = {"data": [{"objURL": FOUND[0]}, {"hoverURL": FOUND[1]}, {"thumbURL": FOUND[2]}]}
    assert [url for url, _, _ in parse("baidu", json.dumps(data))] == FOUND[:2]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_addresses_of_pages(engine):
    first = ENGINES[engine].address("fire & water #1", 0)
    third = ENGINES[engine].address("dog", 2)
    assert "fire+%26+water+%231" in first
    assert str(2 * ENGINES[engine].step) in third


def test_another_host_keeps_the_rest_of_the_address():
    assert at("https://x.example/a?b=c", None) == "https://x.example/a?b=c"
    assert at("https://x.example/a?b=c", "http://y.example:81") == "http://y.example:81/a?b=c"


def test_the_first_error_of_a_thread_is_raised_when_all_have_ended():
    ended, polled = [], []

    def fail():
        raise ValueError("one")

    with pytest.raises(ValueError, match="one"):
        on_threads([fail, lambda: ended.append(time.sleep(0.1))], lambda: polled.append(1))
    assert ended
    assert polled
    on_threads([])


def test_a_reached_cap_hides_no_other_error():
    def fail():
        time.sleep(0.05)
        raise ValueError("disk is full")

    def reach():
        raise CapReached("100 requests")

    with pytest.raises(ValueError, match="disk"):
        on_threads([reach, fail])
    with pytest.raises(CapReached):
        on_threads([reach])


def test_a_list_gives_the_rows_of_the_class(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text(
        "\ufeffurl,class,licence,page_url\nhttp://a.example/1.jpg,Dog,CC0,http://a.example\n"
        "http://a.example/2.jpg,cat,,\nhttps://a.example/3.jpg,hound,,\n"
    )
    rows = read_url_list(file, ClassSpec(name="dog", synonyms=["Hound"]))
    assert [row.url[-5:] for row in rows] == ["1.jpg", "3.jpg"]
    assert (rows[0].licence, rows[0].page_url) == ("CC0", "http://a.example")
    assert (rows[1].licence, rows[1].page_url) == (None, None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "cannot be read as CSV"),
        (b"class,link\na,b\n", r"line 1: .*'link'.*\['url'\] are missing"),
        (b"class,url\n", "no rows"),
        (
            b"class,url\ndog,http://a.example/1.jpg\ndog,www.a.example\n",
            "line 3: .*'www.a.example'",
        ),
        (b"class,url\ndog\n", "line 2: url is ''"),
        (b"\xff\xfe\x00class", "cannot be read"),
    ],
)
def test_a_list_that_is_not_usable(tmp_path, content, said):
    file = tmp_path / "list.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=said) as raised:
        read_url_list(file, ClassSpec(name="dog"))
    assert str(file) in str(raised.value)
