"""Downloads from a real HTTP server on 127.0.0.1: whole, broken off, resumed, wrong."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from usam_core.config.schema import SamConfig
from usam_core.errors import InputError, StoreError, TransientError
from usam_core.sam.load import (
    OFFICIAL,
    Checkpoint,
    cache_folder,
    download,
    load_sam,
    open_embedder,
)

CONTENT = bytes(range(256)) * 4096


class Server(ThreadingHTTPServer):
    """Serves CONTENT in the way that the test sets."""

    mode = "ranges"
    requests: list


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.requests.append(wanted)
        mode = self.server.mode
        if mode in ("404", "500"):
            self.send_error(int(mode))
            return
        start = int(wanted[6:-1]) if wanted and mode != "no ranges" else 0
        body = CONTENT[start:] if mode != "wrong" else b"x" * len(CONTENT)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if mode == "breaks" else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server(("127.0.0.1", 0), Handler)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def checkpoint(server):
    url = f"http://127.0.0.1:{server.server_port}/models/sam.pth"
    return Checkpoint("vit_b", url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_a_checkpoint_is_fetched_once(server, tmp_path):
    path = download(checkpoint(server), tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert download(checkpoint(server), tmp_path / "new") == path
    assert server.requests == [None]
    assert [p.name for p in path.parent.iterdir()] == ["sam.pth"]


@pytest.mark.parametrize("then", ["ranges", "no ranges"])
def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path, then):
    server.mode = "breaks"
    with pytest.raises(TransientError, match="run again to go on"):
        download(checkpoint(server), tmp_path)
    half = (tmp_path / "sam.pth.part").stat().st_size
    assert 0 < half < len(CONTENT)
    server.mode = then
    assert download(checkpoint(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, f"bytes={half}-"]


def test_wrong_content_is_dropped_and_both_digests_named(server, tmp_path):
    server.mode = "wrong"
    wanted = checkpoint(server)
    with pytest.raises(InputError, match=wanted.sha256):
        download(wanted, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mode", "error"), [("404", InputError), ("500", TransientError)])
def test_answers_that_are_no_file(server, tmp_path, mode, error):
    server.mode = mode
    with pytest.raises(error, match=f"answered {mode}"):
        download(checkpoint(server), tmp_path)


def test_no_server_is_worth_another_try(tmp_path, server):
    gone = checkpoint(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(TransientError, match="the transfer broke"):
        download(gone, tmp_path)


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("USAM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_the_registry_holds_the_official_names():
    assert {c.file_name for c in OFFICIAL.values()} == {
        "sam_vit_b_01ec64.pth",
        "sam_vit_l_0b3195.pth",
        "sam_vit_h_4b8939.pth",
    }
    assert all(len(c.sha256) == 64 for c in OFFICIAL.values())


def test_a_file_of_another_size_under_the_name_is_fetched_anew(server, tmp_path):
    (tmp_path / "sam.pth").write_bytes(b"a download that was cut")
    assert download(checkpoint(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("load", [load_sam, open_embedder])
def test_an_official_checkpoint_with_other_bytes_is_not_loaded(tmp_path, monkeypatch, load):
    monkeypatch.setenv("USAM_CACHE", str(tmp_path))
    official = OFFICIAL["vit_b"]
    with open(tmp_path / official.file_name, "wb") as file:
        file.truncate(official.bytes)  # the right size, nothing but zeros
    with pytest.raises(StoreError, match=rf"expected SHA-256 {official.sha256}, got"):
        load(SamConfig(model="vit_b"))
