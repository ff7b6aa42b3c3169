"""The server of a review: who may ask, what it answers, what it refuses."""

import io
import socket

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.review.test_review import NAMES, box
from usam_core.config.training import class_colors
from usam_core.errors import UserError
from usam_core.images.read import UnusableImage
from usam_core.labels import Instance
from usam_core.masks.rle import encode
from usam_core.review.server import listen, make_app
from usam_core.review.session import Item, Listed, Session

TOKEN = "kept-secret"


def item(number):
    mask = {"rle": encode(box(8 * number, 0, 8, 8)), "area": 64, "bbox": (0, 8 * number, 8, 8)}
    numbers = {"score": 0.5, "probability": 0.5, "entropy": 0.6, "runner_up": 1, "prompt": number}
    return Item("image", "<b>one</b>.png", "a", Instance(0, **mask, **numbers))


@pytest.fixture
def review(tmp_path):
    masks = [item(number) for number in range(3)]
    draws = np.sort(np.array([one.draw for one in masks], np.int64))
    listed = Listed(NAMES, {"a": draws}, [], [(one, True) for one in masks], {})
    return Session(listed, tmp_path / "log.jsonl", lambda _: None)


def client(review, picture=lambda _: np.full((64, 64, 3), 200, np.uint8), host="127.0.0.1"):
    app = make_app(review, TOKEN, "<script>project</script>", class_colors(NAMES, {}), picture)
    return TestClient(app, base_url=f"http://{host}:5000")


@pytest.fixture
def ask(review):
    return client(review)


def ids(review):
    return list(review.items)


@pytest.mark.parametrize(
    "path", ["", "api/state", "api/undo", "api/decisions", "static/review.js", "api/items/x/image"]
)
def test_nobody_gets_anything_without_the_token(ask, path):
    for prefix in ("/wrong/", f"/{TOKEN}x/", "/%C3%A9/"):
        assert ask.get(prefix + path).status_code in (403, 405)
    assert ask.get(f"/{path}").status_code in (403, 404, 405)
    assert ask.post(f"/wrong/{path}", json={}).status_code in (403, 405)


def test_a_decision_without_the_token_is_not_written(ask, review, tmp_path):
    said = {"item": ids(review)[0], "label": "a"}
    assert ask.post("/wrong/api/decisions", json=said).status_code == 403
    assert not (tmp_path / "log.jsonl").exists()
    assert ask.post(f"/{TOKEN}/api/decisions", json=said).status_code == 200
    assert (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7"])
def test_a_foreign_name_that_points_here_is_refused_even_with_the_token(review, host):
    assert client(review, host=host).get(f"/{TOKEN}/api/state").status_code == 400


def test_the_page_names_the_project_as_text_and_loads_nothing_from_elsewhere(ask):
    answer = ask.get(f"/{TOKEN}/")
    assert "&lt;script&gt;project" in answer.text
    assert "http" not in answer.text
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    for name in ("review.js", "review.css"):
        assert ask.get(f"/{TOKEN}/static/{name}").status_code == 200
    assert ask.get(f"/{TOKEN}/static/server.py").status_code == 404
    assert ask.get(f"/{TOKEN}/static/..%2Fpage.html").status_code == 404


def test_a_mask_is_described_shown_and_decided_on(ask, review):
    name = ids(review)[1]
    shown = ask.get(f"/{TOKEN}/api/items/{name}").json()
    assert (shown["name"], shown["runner_up"], shown["verdict"]) == ("a", "b", None)
    image = Image.open(io.BytesIO(ask.get(f"/{TOKEN}/api/items/{name}/image").content))
    mask = Image.open(io.BytesIO(ask.get(f"/{TOKEN}/api/items/{name}/mask").content))
    assert image.size == mask.size
    alpha = np.asarray(mask)[..., 3]
    # Shown are 40 columns and 48 rows, at 1024 pixels; the mask has 8 x 8 of them.
    assert (alpha == 90).mean() == pytest.approx(64 / (40 * 48), rel=0.1)
    whole = ask.get(f"/{TOKEN}/api/items/{name}/mask", params={"whole": True}).content
    assert Image.open(io.BytesIO(whole)).size == (1024, 1024)
    answer = ask.post(f"/{TOKEN}/api/decisions", json={"item": name, "label": None}).json()
    assert [one["verdict"] for one in answer["items"]] == [None, "rejected", None]
    assert answer["precision"][0]["decided"] == 1
    again = ask.post(f"/{TOKEN}/api/undo").json()
    assert again["undone"] == name
    assert [one["verdict"] for one in again["items"]] == [None] * 3


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"item": "no-such", "label": "a"}, "not one of the 3 that are shown"),
        ({"item": 0, "label": "zebra"}, "class 'zebra': expected one of"),
        ({"item": 0}, "Field required"),
        ({"item": 0, "label": 3}, "string"),
        ({"item": 0, "label": "a", "sampled": True}, "Extra inputs"),
        ({"item": ["x"], "label": "a"}, "string"),
        ([], "valid dictionary"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_not_written(ask, review, tmp_path, said, why):
    if isinstance(said, dict) and said["item"] == 0:
        said = {**said, "item": ids(review)[0]}
    answer = ask.post(f"/{TOKEN}/api/decisions", json=said)
    assert answer.status_code == 422
    assert why in answer.text
    assert not (tmp_path / "log.jsonl").exists()


def test_nothing_to_undo_is_told(ask):
    answer = ask.post(f"/{TOKEN}/api/undo")
    assert answer.status_code == 422
    assert "holds no decision" in answer.json()["detail"]


def test_an_image_that_changed_since_is_told_and_not_shown(review):
    def gone(_):
        raise UnusableImage("changed", "one.png: the file changed since it was listed; run again")

    answer = client(review, gone).get(f"/{TOKEN}/api/items/{ids(review)[0]}/image")
    assert answer.status_code == 410
    assert "changed since" in answer.json()["detail"]


def test_it_listens_on_this_machine_alone_and_says_when_a_port_is_taken():
    with listen(0) as first:
        host, port = first.getsockname()
        assert host == "127.0.0.1"
        first.listen()
        with socket.socket() as probe:
            probe.connect((host, port))
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be had"):
            listen(port)
