"""A web server on 127.0.0.1 that shows a folder as an index of links, and can be made to fail."""

import functools
import http.server
import threading
from pathlib import Path


class ImageServer:
    """Serves a folder as Python's own server does.

    Args:
        folder: the folder.

    Attributes:
        url: its address, with a slash at the end.
        reads: paths whose bytes were asked for.
        fails: HTTP status by path, given in place of the file; "*" for every path.
        only: how many times a failure is given; None for ever.
        without_times: leave out Last-Modified, so that nothing tells of a change.
    """

    def __init__(self, folder: Path) -> None:
        self.reads: list[str] = []
        self.fails: dict[str, int] = {}
        self.only: int | None = None
        self.without_times = False
        handler = functools.partial(_Handler, self, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> "ImageServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the door: who asks from here on is refused."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, site: ImageServer, *args: object, **named: object) -> None:
        self._site = site
        super().__init__(*args, **named)

    def do_GET(self) -> None:
        self._answer(super().do_GET)
        if not self.path.endswith("/"):
            self._site.reads.append(self.path.lstrip("/"))

    def do_HEAD(self) -> None:
        self._answer(super().do_HEAD)

    def _answer(self, usual: object) -> None:
        fails, site = self._site.fails, self._site
        status = fails.get("*") or fails.get(self.path.lstrip("/"))
        if status is None or site.only == 0:
            usual()
            return
        if site.only is not None:
            site.only -= 1
        self.send_error(status)

    def send_header(self, keyword: str, value: str) -> None:
        if not (self._site.without_times and keyword == "Last-Modified"):
            super().send_header(keyword, value)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
