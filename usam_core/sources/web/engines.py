"""The search engines: icrawler's feeders know their addresses, the result pages are read here.

icrawler's own parsers return picture addresses only, and Bing's only those that end in .jpg.
"""

import html
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_plus, urlsplit

from bs4 import BeautifulSoup
from icrawler import Feeder
from icrawler.builtin import BaiduParser, GoogleParser
from icrawler.builtin.baidu import BaiduFeeder
from icrawler.builtin.bing import BingFeeder
from icrawler.builtin.google import GoogleFeeder

from usam_core.sources.web.journal import Candidate

MAX_RESULTS = 1000
"""No engine gives more for one query; icrawler's crawlers stop there too."""

_quiet = logging.getLogger("usam_core.icrawler")
_quiet.propagate = False

Result = tuple[str, str | None, str | None]
"""Address of a picture, address of the page that shows it, title."""

_MARKS = re.compile("[\ue000\ue001]|</?strong>")
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_GOOGLE_PICTURE = re.compile(rf"\[{_QUOTED},\d+,\d+\]")
_GOOGLE_PAGE = re.compile(rf'"2003":\[null,{_QUOTED},{_QUOTED},{_QUOTED}')
_GOOGLE_OWN = (".gstatic.com", ".google.com")


def bing_results(body: bytes) -> Iterator[Result]:
    """Yield Bing's results: each link carries its data as JSON."""
    soup = BeautifulSoup(body.decode("utf-8", "ignore"), "lxml")
    for link in soup.select("a.iusc[m], .imgpt a[m]"):
        data = _json(str(link["m"]))
        if isinstance(data, dict) and isinstance(data.get("murl"), str):
            yield data["murl"], _text(data.get("purl")), _text(data.get("t"))


def google_results(body: bytes) -> Iterator[Result]:
    """Yield Google's results from the data of a script; in another form, what icrawler finds."""
    text = body.decode("utf-8", "ignore")
    pictures = [
        (match.end(), address)
        for match in _GOOGLE_PICTURE.finditer(text)
        if _is_address(address := _unquoted(match[1]))
        and not (urlsplit(address).hostname or "").endswith(_GOOGLE_OWN)
    ]
    ends = [end for end, _ in pictures[1:]] + [len(text)]
    for (start, address), end in zip(pictures, ends, strict=False):
        page = _GOOGLE_PAGE.search(text, start, end)
        yield (address, _unquoted(page[2]), _unquoted(page[3])) if page else (address, None, None)
    if not pictures:
        try:
            tasks = GoogleParser(1, None, None).parse(SimpleNamespace(content=body)) or []
        except UnicodeError:
            return
        for task in tasks:
            yield task["file_url"], None, None


def baidu_results(body: bytes) -> Iterator[Result]:
    """Yield Baidu's results: JSON with enciphered addresses."""
    decode = BaiduParser(1, None, None)._decode_url

    def plain(address: Any) -> str | None:
        if not isinstance(address, str) or _is_address(address):
            return _text(address)
        return decode(address)

    data = _json(body.decode("utf-8", "ignore").replace("\\'", "'"))
    items = data.get("data") if isinstance(data, dict) else None
    for item in items if isinstance(items, list) else []:
        if not isinstance(item, dict):
            continue
        address = plain(item.get("objURL")) or _text(item.get("hoverURL"))
        if address:
            yield address, plain(item.get("fromURL")), _text(item.get("fromPageTitle"))


@dataclass(frozen=True, slots=True)
class Engine:
    """A search engine: icrawler's feeder, which knows its addresses, and what reads its pages.

    A page has `step` results, as icrawler counts; `quotes`: the feeder leaves quoting to us.
    """

    feeder: type[Feeder]
    results: Callable[[bytes], Iterator[Result]]
    step: int
    quotes: bool

    def address(self, query: str, page: int) -> str:
        """Address of one page of results."""
        keyword = quote_plus(query) if self.quotes else query
        feeder = self.feeder(1, None, None)
        feeder.logger = _quiet
        feeder.feed(keyword=keyword, offset=page * self.step, max_num=self.step)
        return feeder.out_queue.get_nowait()


ENGINES = {
    "bing": Engine(BingFeeder, bing_results, 20, quotes=True),
    "google": Engine(GoogleFeeder, google_results, 100, quotes=False),
    "baidu": Engine(BaiduFeeder, baidu_results, 30, quotes=True),
}


def candidates(engine: str, query: str, body: bytes) -> tuple[Candidate, ...]:
    """Candidates of a result page in its order, each address once."""
    first: dict[str, Candidate] = {}
    for url, page_url, title in ENGINES[engine].results(body):
        if _is_address(url):
            title = _MARKS.sub("", html.unescape(title or "")).strip() or None
            first.setdefault(url, Candidate(engine, query, url, page_url, title))
    return tuple(first.values())


def at(url: str, instead: str | None) -> str:
    """Replace scheme and host of an engine's address, where others are given.

    >>> at("https://www.example.org/images?q=dog", "http://mirror:8080")
    'http://mirror:8080/images?q=dog'
    """
    if instead is None:
        return url
    other = urlsplit(instead)
    return urlsplit(url)._replace(scheme=other.scheme, netloc=other.netloc).geturl()


def _is_address(text: str) -> bool:
    return re.fullmatch(r"https?://[^\s\"'<>\\\[\]]+", text) is not None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _json(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _unquoted(text: str) -> str:
    value = _json(f'"{text}"')
    return value if isinstance(value, str) else text
