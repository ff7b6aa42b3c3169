"""A real web site on 127.0.0.1 with everything that a crawler meets, and that counts its visitors.

Pictures are drawn from their number, so that every address with the same number is one picture.
"""

import html
import io
import json
import struct
import threading
import time
import zlib
from collections import Counter
from email.utils import formatdate
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from icrawler.builtin import BaiduParser
from PIL import Image

from usam_core.config.training import WebConfig
from usam_core.rng import generator

STEPS = {"bing": 20, "google": 100, "baidu": 30}


def picture(number: int, kind: str = "JPEG") -> bytes:
    """Return a small picture that differs from those of all other numbers."""
    pixels = generator(0, "site", number).integers(0, 255, (6, 6, 3), dtype="uint8")
    content = io.BytesIO()
    Image.fromarray(pixels).resize((72, 72), Image.Resampling.NEAREST).save(content, kind)
    return content.getvalue()


def animation() -> bytes:
    """Return a GIF of two frames."""
    frames = [Image.open(io.BytesIO(picture(n))).convert("P") for n in (1, 2)]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:])
    return content.getvalue()


@cache
def bomb(side: int = 30_000) -> bytes:
    """Return a PNG of a few hundred kilobytes that unfolds to side x side black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj()
    row = bytes((side + 7) // 8 + 1)
    rows = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


class Site(ThreadingHTTPServer):
    """The site; use it as a context manager.

    Attributes:
        results: what the engines find: engine, query, addresses.
        pages: the pages: path and content.
        robots: the robots.txt, or the status that it is answered with; None for 404.
        down: engines that answer 503.
        delay: seconds that every answer takes.
        visits: time, path with query, headers of every request.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.results: dict[str, dict[str, list[str]]] = {}
        self.pages: dict[str, str] = {}
        self.robots: str | None = None
        self.down: set[str] = set()
        self.delay = 0.0
        self.visits: list[tuple[float, str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> "Site":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up are what is tested."""

    @property
    def counts(self) -> Counter[str]:
        """How often each path with query was asked for."""
        with self.lock:
            return Counter(path for _, path, _ in self.visits)

    def address(self, path: str) -> str:
        """Return a path as an address, addresses as they are."""
        return path if "://" in path else self.url + path


class _Handler(BaseHTTPRequestHandler):
    server: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with self.server.lock:
            visit = (time.monotonic(), self.path, {k.lower(): v for k, v in self.headers.items()})
            self.server.visits.append(visit)
        time.sleep(self.server.delay)
        parts = urlsplit(self.path)
        first, *rest = parts.path.strip("/").split("/")
        if parts.path in self.server.pages:
            self.send(self.server.pages[parts.path].encode(), "text/html; charset=utf-8")
        elif engine := {"images": "bing", "search": "google"}.get(first):
            engine = "baidu" if rest == ["acjson"] else engine
            self.engine(engine, {key: values[0] for key, values in parse_qs(parts.query).items()})
        elif answer := getattr(self, f"answer_{first.partition('.')[0].replace('-', '_')}", None):
            answer(*rest)
        else:
            self.send(b"no such page", "text/plain", 404)

    def send(self, body: bytes, kind: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("length", str(len(body))))
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def times(self) -> int:
        """Return how often this path has been asked for, this time included."""
        return self.server.counts[self.path]

    def answer_robots(self) -> None:
        if self.server.robots is None:
            self.send(b"", "text/plain", 404)
        elif self.server.robots.isdigit():
            self.send(b"", "text/plain", int(self.server.robots))
        else:
            self.send(self.server.robots.encode(), "text/plain")

    def answer_img(self, *names: str) -> None:
        number, _, ending = names[-1].partition(".")
        kind = {"png": "PNG", "webp": "WEBP"}.get(ending, "JPEG")
        self.send(picture(int(number), kind), f"image/{kind.lower()}", Set_Cookie="a=b; Path=/")

    def answer_moved(self, number: str) -> None:
        self.send(b"", "text/plain", 302, Location=f"/img/moved/{number}.jpg")

    def answer_loop(self, name: str) -> None:
        self.send(b"", "text/plain", 302, Location=f"/loop/{'ab'[name == 'a']}")

    def answer_inside(self, host: str, number: str) -> None:
        place = f"http://{host}:{self.server.server_port}/img/{number}.jpg"
        self.send(b"", "text/plain", 302, Location=place)

    def answer_elsewhere(self) -> None:
        self.send(b"", "text/plain", 302, Location="file:///etc/passwd")

    def answer_status(self, status: str) -> None:
        self.send(b"no", "text/plain", int(status))

    def answer_busy(self, number: str) -> None:
        if self.times() == 1:
            self.send(b"", "text/plain", 429, Retry_After="1")
        else:
            self.answer_img(number)

    def answer_busy_until(self, number: str) -> None:
        if self.times() == 1:
            self.send(b"", "text/plain", 503, Retry_After=formatdate(time.time() + 2, usegmt=True))
        else:
            self.answer_img(number)

    def answer_heals(self, after: str, number: str) -> None:
        if self.times() <= int(after):
            self.send(b"", "text/plain", 500)
        else:
            self.answer_img(number)

    def answer_hangs_up(self, after: str, number: str) -> None:
        if self.times() <= int(after):
            body = picture(int(number))
            self.send(body[: len(body) // 2], "image/jpeg", length=str(len(body)))
            self.close_connection = True
        else:
            self.answer_img(number)

    def answer_drip(self, number: str) -> None:
        self.send(b"", "image/jpeg", length="200000")
        self._drip(picture(int(number)))

    def answer_drip_headers(self, number: str) -> None:
        self._drip(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nX: " + number.encode() * 200)

    def answer_drip_unending(self, number: str) -> None:
        """Drip a body that ends where the connection does."""
        body = picture(int(number))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + body)
        self._drip(bytes(200))

    def _drip(self, body: bytes) -> None:
        for byte in body:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def answer_page_as_image(self) -> None:
        self.send(b"<html><body>not here</body></html>", "image/jpeg")

    def answer_image_as_page(self, number: str) -> None:
        self.send(picture(int(number)), "text/html")

    def answer_unnamed(self, number: str) -> None:
        self.send(picture(int(number)), "application/octet-stream")

    def answer_half(self, number: str) -> None:
        body = picture(int(number))
        self.send(body[: len(body) // 2], "image/jpeg")

    def answer_bomb(self) -> None:
        self.send(bomb(), "image/png")

    def answer_animated(self) -> None:
        self.send(animation(), "image/gif")

    def answer_polyglot(self, number: str) -> None:
        tail = b"<script>alert('usam')</script>PK\x05\x06" + bytes(18)
        self.send(picture(int(number)) + tail, "image/jpeg")

    def answer_large(self, _: str) -> None:
        """Send without a length and without an end."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n")
        for _ in range(2000):
            self.wfile.write(bytes(10_000))

    def answer_large_said(self) -> None:
        self.send(b"", "image/jpeg", length="900000000")
        for _ in range(2000):
            self.wfile.write(bytes(10_000))

    def answer_padded(self, number: str) -> None:
        """Send a picture of exactly 100 000 bytes."""
        self.send(picture(int(number)).ljust(100_000, b"\0"), "image/jpeg")

    def engine(self, engine: str, asked: dict[str, str]) -> None:
        if engine in self.server.down:
            self.send(b"", "text/plain", 503)
            return
        query = asked.get("word") or asked["q"]
        begin = int(asked.get("first") or asked.get("start") or asked.get("pn") or 0)
        found = self.server.results.get(engine, {}).get(query, [])[begin : begin + STEPS[engine]]
        body, kind = _FORMS[engine]([self.server.address(path) for path in found])
        self.send(body.encode(), kind)

    def log_message(self, *_: object) -> None:
        pass


def _bing(found: list[str]) -> tuple[str, str]:
    items = []
    for url in found:
        data = {"murl": url, "purl": f"{url}.html", "t": "a \ue000dog\ue001 &amp; more"}
        mark = html.escape(json.dumps(data))
        items.append(f'<li><div class="imgpt"><a class="iusc" href="#" m="{mark}"></a></div></li>')
    return f"<html><body><ul>{''.join(items)}</ul></body></html>", "text/html"


def _google(found: list[str]) -> tuple[str, str]:
    rows = []
    for url in found:
        escaped = url.replace("=", "\\u003d").replace("&", "\\u0026")
        thumb = '["https://encrypted-tbn0.gstatic.com/images?q\\u003dtbn:x",180,240]'
        page = f'"2003":[null,"id","{escaped}.html","a \\"good\\" dog"]'
        rows.append(f'[1,[0,"id",{thumb},["{escaped}",600,800],null,0,{{{page}}}]]')
    data = ",".join(rows)
    script = f"AF_initDataCallback({{key: 'ds:1', hash: '2', data:[{data}], sideChannel: {{}}}});"
    return f"<html><body><script nonce='x'>{script}</script></body></html>", "text/html"


def _baidu(found: list[str]) -> tuple[str, str]:
    items = [
        {"objURL": _enciphered(url), "fromURL": _enciphered(f"{url}x"), "fromPageTitle": "a dog"}
        for url in found
    ]
    return json.dumps({"data": [*items, {}]}), "application/json"


def _enciphered(url: str) -> str:
    """Return an address as Baidu writes it: the reverse of icrawler's deciphering."""
    parser = BaiduParser(1, None, None)
    plain = {parser._decode_url(c): c for c in "wkv1ju2it3hs4g5rq6fp7eo8dn9cm0bla"}
    marks = {":": "_z2C$q", ".": "_z&e3B", "/": "AzdH3F"}
    return "".join(marks.get(c) or plain.get(c, c) for c in url)


_FORMS = {"bing": _bing, "google": _google, "baidu": _baidu}


def settings(site: Site, **changes: object) -> WebConfig:
    """Return settings for the site: all engines point at it, everything is fast."""
    values = {
        "contact": "owner@example.org",
        "engine_urls": dict.fromkeys(STEPS, site.url),
        "per_class": 10,
        "requests_per_second": 100,
        "timeout": 5,
        "retries": 2,
        "allow_hosts": ["127.0.0.1"],
    }
    return WebConfig(**(values | changes))
