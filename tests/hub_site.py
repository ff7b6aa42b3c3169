"""A model hub on 127.0.0.1: the answers that downloading one repository needs."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.usam_process import python

COMMIT = "c0ffee" + 34 * "0"


@contextmanager
def hub(name: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder as the repository `name`; yield the hub's address and the paths asked for."""
    with hub_of({name: folder}) as served:
        yield served


@contextmanager
def hub_of(folders: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve folders as repositories, by their names; see `hub`."""
    contents = {
        name: {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        for name, folder in folders.items()
    }
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = self.path.split("?")[0]
            asked.append(path)
            headers = {"X-Repo-Commit": COMMIT}
            whose = path.removeprefix("/api/models") if path.startswith("/api/") else path
            name = "/".join(whose.split("/")[1:3])
            files = contents.get(name, {})
            resolve = f"/{name}/resolve/{COMMIT}/"
            if files and path.startswith(f"/api/models/{name}/tree/"):
                tree = [
                    {"type": "file", "path": file, "size": p.stat().st_size, "oid": file}
                    for file, p in sorted(files.items())
                ]
                body = json.dumps(tree).encode()
            elif files and path.startswith(f"/api/models/{name}"):
                listing = [{"rfilename": file} for file in sorted(files)]
                body = json.dumps({"id": name, "sha": COMMIT, "siblings": listing}).encode()
            elif path.startswith(resolve) and path.removeprefix(resolve) in files:
                body = files[path.removeprefix(resolve)].read_bytes()
                headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
            else:
                headers["X-Error-Code"] = "RepoNotFound"
                self._send(404, b"{}", headers, with_body)
                return
            self._send(200, body, headers, with_body)

        def _send(self, code: int, body: bytes, headers: dict, with_body: bool) -> None:
            self.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def answers(cache: Path, address: str, script: str, *arguments: str) -> list[Any]:
    """Run a script against a hub; return the JSON lines that it prints.

    In a process of its own: the hub's address is read when its library is imported.
    """
    environment = {
        "HF_ENDPOINT": address,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    done = python(script, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line[0] in "[{"]
