"""The search engines: icrawler's feeders give the addresses, these parsers read the results.

icrawler's parsers return picture addresses only, and Bing's only those that end in .jpg.
"""

import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlsplit

from bs4 import BeautifulSoup
from icrawler import Feeder
from icrawler.builtin import BaiduParser, BingParser, GoogleParser
from icrawler.builtin.baidu import BaiduFeeder
from icrawler.builtin.bing import BingFeeder
from icrawler.builtin.google import GoogleFeeder

from usam_core.sources.web.journal import Candidate, Page
from usam_core.sources.web.limits import FetchFailed
from usam_core.sources.web.pools import PageReader
from usam_core.sources.web.session import Answer

MAX_RESULTS = 1000
"""No engine gives more for one query; icrawler's crawlers stop there too."""

_MARKS = re.compile("[\ue000\ue001]|</?strong>")
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_GOOGLE_PICTURE = re.compile(rf"\[{_QUOTED},\d+,\d+\]")
_GOOGLE_PAGE = re.compile(rf'"2003":\[null,{_QUOTED},{_QUOTED},{_QUOTED}')
_GOOGLE_OWN = (".gstatic.com", ".google.com")


class ResultReader(PageReader):
    """Reads one result page of an engine.

    Subclasses join it with icrawler's parser of that engine and yield tasks of icrawler's form
    with the keys file_url, page_url and title.
    """

    def read(
        self,
        url: str,
        *,
        engine: str,
        query: str,
        fetch: Callable[[str], Answer],
        enter: Callable[[Page], None],
    ) -> None:
        """Fetch a result page, and enter it with its results."""
        try:
            answer = fetch(url)
        except FetchFailed as failure:
            if not failure.settled:
                raise
            enter(Page(code=failure.code, reason=failure.reason))
            return
        candidates: dict[str, Candidate] = {}
        for task in self.parse(_Response(answer.body)):
            found = task["file_url"]
            if _is_address(found):
                title = _MARKS.sub("", html.unescape(task.get("title") or "")).strip()
                candidates.setdefault(
                    found, Candidate(engine, query, found, task.get("page_url"), title or None)
                )
        enter(Page(tuple(candidates.values())))


@dataclass(frozen=True, slots=True)
class _Response:
    """As much of a `requests` response as icrawler's parsers look at."""

    content: bytes


class BingReader(ResultReader, BingParser):
    """Bing: each result's link carries its data as JSON."""

    def parse(self, response: _Response) -> Iterator[dict[str, Any]]:
        """Yield the results."""
        soup = BeautifulSoup(response.content.decode("utf-8", "ignore"), "lxml")
        for link in soup.select("a.iusc[m], .imgpt a[m]"):
            data = _json(link["m"])
            if isinstance(data, dict) and isinstance(data.get("murl"), str):
                yield {
                    "file_url": data["murl"],
                    "page_url": _text(data.get("purl")),
                    "title": _text(data.get("t")),
                }


class GoogleReader(ResultReader, GoogleParser):
    """Google: pictures and their pages stand in the data of a script."""

    def parse(self, response: _Response) -> Iterator[dict[str, Any]]:
        """Yield the results; where the data have another form, what icrawler makes of them."""
        text = response.content.decode("utf-8", "ignore")
        found = [
            (match.end(), address)
            for match in _GOOGLE_PICTURE.finditer(text)
            if _is_address(address := _unquoted(match[1]))
            and not (urlsplit(address).hostname or "").endswith(_GOOGLE_OWN)
        ]
        ends = [end for end, _ in found[1:]] + [len(text)]
        for (start, address), end in zip(found, ends, strict=False):
            page = _GOOGLE_PAGE.search(text, start, end)
            yield {
                "file_url": address,
                "page_url": _unquoted(page[2]) if page else None,
                "title": _unquoted(page[3]) if page else None,
            }
        if not found:
            try:
                yield from super().parse(response) or []
            except UnicodeError:
                return


class BaiduReader(ResultReader, BaiduParser):
    """Baidu: JSON, its addresses enciphered."""

    def parse(self, response: _Response) -> Iterator[dict[str, Any]]:
        """Yield the results."""
        data = _json(response.content.decode("utf-8", "ignore").replace("\\'", "'"))
        items = data.get("data") if isinstance(data, dict) else None
        for item in items if isinstance(items, list) else []:
            if not isinstance(item, dict):
                continue
            address = self._plain(item.get("objURL")) or _text(item.get("hoverURL"))
            if address:
                yield {
                    "file_url": address,
                    "page_url": self._plain(item.get("fromURL")),
                    "title": _text(item.get("fromPageTitle")),
                }

    def _plain(self, address: Any) -> str | None:
        if not isinstance(address, str) or _is_address(address):
            return _text(address)
        return self._decode_url(address)


@dataclass(frozen=True, slots=True)
class Engine:
    """A search engine.

    Attributes:
        feeder: icrawler's feeder, which knows the engine's addresses.
        reader: what reads its result pages.
        step: results on one page, as icrawler counts.
        quotes: whether the feeder leaves it to its caller to quote the query.
    """

    feeder: type[Feeder]
    reader: type[ResultReader]
    step: int
    quotes: bool

    def feed(self, query: str, page: int) -> dict[str, Any]:
        """Return the feeder's arguments for one page of results."""
        keyword = quote_plus(query) if self.quotes else query
        return {"keyword": keyword, "offset": page * self.step, "max_num": self.step}


ENGINES = {
    "bing": Engine(BingFeeder, BingReader, 20, quotes=True),
    "google": Engine(GoogleFeeder, GoogleReader, 100, quotes=False),
    "baidu": Engine(BaiduFeeder, BaiduReader, 30, quotes=True),
}


def at(url: str, instead: str | None) -> str:
    """Return an engine's address with another scheme and host, where one is given.

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
