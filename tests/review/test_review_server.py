"""The server of a review: who may ask, what it answers, what it refuses."""

import io
import socket

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.review.test_review import NAMES, box
from usam_core.config.training import class_colors
from usam_core.errors import InputError, UserError
from usam_core.images.read import UnusableImage
from usam_core.labels import Instance
from usam_core.masks.rle import encode
from usam_core.review.drawing import from_runs, to_runs
from usam_core.review.sampling import Item
from usam_core.review.server import make_app
from usam_core.review.session import Listed, Session
from usam_core.review.web import listen

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


class Grey:
    """One image of 64 x 64 pixels."""

    def size_hw(self, image):
        if image != "image":
            raise InputError(f"image {image!r}: not one of those that are shown")
        return 64, 64

    def part(self, image, box):
        return np.full((*box.size_hw, 3), 200, np.uint8)


class Circles:
    """Answers each click with a disc."""

    def prepare(self, key, read):
        read()

    def answer(self, key, read, prompts):
        rgb = read()
        rows, columns = np.ogrid[: rgb.shape[0], : rgb.shape[1]]
        x, y, _ = prompts.clicks[-1]
        return (columns - x) ** 2 + (rows - y) ** 2 < 16


def client(review, images=None, host="127.0.0.1", prompter=None):
    title, colors = "<script>project</script>", class_colors(NAMES, {})
    app = make_app(review, TOKEN, title, colors, images or Grey(), prompter=prompter or Circles())
    return TestClient(app, base_url=f"http://{host}:5000")


@pytest.fixture
def ask(review):
    return client(review)


def ids(review):
    return list(review.items)


@pytest.mark.parametrize(
    "path",
    [
        *("", "api/state", "api/undo", "api/decisions", "api/drawn", "api/prompt", "api/merged"),
        *("static/review.js", "api/items/x/thumbnail", "api/images/image/part?box=0,0,9,9"),
    ],
)
def test_nobody_gets_anything_without_the_token(ask, path):
    for prefix in ("/wrong/", f"/{TOKEN}x/", "/%C3%A9/"):
        assert ask.get(prefix + path).status_code in (403, 405)
    assert ask.get(f"/{path}").status_code in (403, 404, 405)
    assert ask.post(f"/wrong/{path}", json={}).status_code in (403, 405)


def test_a_decision_without_the_token_is_not_written(ask, review, tmp_path):
    said = {"items": [ids(review)[0]], "label": "a"}
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
    for name in ("review.js", "common.js", "canvas.js", "page.css"):
        assert ask.get(f"/{TOKEN}/static/{name}").status_code == 200
    assert ask.get(f"/{TOKEN}/static/server.py").status_code == 404
    assert ask.get(f"/{TOKEN}/static/..%2Freview.html").status_code == 404


def test_a_mask_is_described_shown_and_decided_on(ask, review):
    name = ids(review)[1]
    shown = ask.get(f"/{TOKEN}/api/items/{name}").json()
    assert (shown["name"], shown["runner_up"], shown["verdict"]) == ("a", "b", None)
    box = ",".join(map(str, shown["part"]))
    part = ask.get(f"/{TOKEN}/api/images/image/part", params={"box": box}).content
    assert max(Image.open(io.BytesIO(part)).size) == 1024
    outline = ask.get(f"/{TOKEN}/api/items/{name}/outline", params={"box": box}).json()
    mask = from_runs(outline["runs"], outline["grid"])
    # Shown are 40 columns and 48 rows; the mask has 8 x 8 of them.
    assert mask.shape == (48, 40)
    assert mask[8:16, :8].all()
    assert mask.sum() == 64
    small = ask.get(f"/{TOKEN}/api/items/{name}/thumbnail").content
    assert max(Image.open(io.BytesIO(small)).size) == 256
    others = ask.get(f"/{TOKEN}/api/images/image/others", params={"box": box, "but": name}).content
    assert np.asarray(Image.open(io.BytesIO(others)))[..., 3].any()
    answer = ask.post(f"/{TOKEN}/api/decisions", json={"items": [name], "label": None}).json()
    assert [(one["id"], one["verdict"]) for one in answer["changed"]] == [(name, "rejected")]
    assert answer["precision"][0]["decided"] == 1
    again = ask.post(f"/{TOKEN}/api/undo").json()
    assert again["undone"] == [name]
    assert [one["verdict"] for one in again["changed"]] == [None]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"items": ["no-such"], "label": "a"}, "not one of the 3 that are shown"),
        ({"items": 0, "label": "zebra"}, "class 'zebra': expected one of"),
        ({"items": 0}, "Field required"),
        ({"items": 0, "label": 3}, "string"),
        ({"items": 0, "label": "a", "sampled": True}, "Extra inputs"),
        ({"items": [["x"]], "label": "a"}, "string"),
        ([], "valid dictionary"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_not_written(ask, review, tmp_path, said, why):
    if isinstance(said, dict) and said["items"] == 0:
        said = {**said, "items": [ids(review)[0]]}
    answer = ask.post(f"/{TOKEN}/api/decisions", json=said)
    assert answer.status_code == 422
    assert why in answer.text
    assert not (tmp_path / "log.jsonl").exists()


def test_nothing_to_undo_is_told(ask):
    answer = ask.post(f"/{TOKEN}/api/undo")
    assert answer.status_code == 422
    assert "holds no decision" in answer.json()["detail"]


def test_an_image_that_changed_since_is_told_and_not_shown(review):
    class Gone(Grey):
        def part(self, image, box):
            raise UnusableImage("changed", "one.png: the file changed since it was listed; run")

    answer = client(review, Gone()).get(f"/{TOKEN}/api/images/image/part?box=0,0,9,9")
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


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:5000"])
def test_another_page_decides_nothing_even_with_the_token(ask, review, tmp_path, origin):
    said = {"items": [ids(review)[0]], "label": "a"}
    answer = ask.post(f"/{TOKEN}/api/decisions", json=said, headers={"origin": origin})
    assert answer.status_code == 403
    assert not (tmp_path / "log.jsonl").exists()
    own = {"origin": "http://127.0.0.1:5000"}
    assert ask.post(f"/{TOKEN}/api/decisions", json=said, headers=own).status_code == 200


def runs(*boxes, side=64):
    return to_runs(np.logical_or.reduce([box(*one, side=side) for one in boxes]))


def test_an_outline_pieces_and_an_object_are_drawn(ask, review):
    first, second, _ = ids(review)
    part, said = [0, 0, 64, 64], {"image": "image", "part": [0, 0, 64, 64], "label": "b"}
    drawn = {**said, "item": first, "pieces": [runs((0, 0, 8, 20)), runs((40, 40, 5, 5))]}
    answer = ask.post(f"/{TOKEN}/api/drawn", json=drawn).json()
    assert [one["verdict"] for one in answer["changed"]] == ["drawn", "added"]
    assert [one["area"] for one in answer["changed"]] == [160, 25]
    there = ask.get(f"/{TOKEN}/api/images/image/at?x=42&y=42").json()["items"]
    assert [one["id"] for one in there] == [answer["changed"][1]["id"]]
    new = ask.post(f"/{TOKEN}/api/drawn", json={**said, "pieces": [runs((50, 0, 9, 9))]}).json()
    assert new["changed"][0]["added"]
    assert new["changed"][0]["label"] == "b"
    undone = ask.post(f"/{TOKEN}/api/undo").json()
    assert undone["gone"] == [new["changed"][0]["id"]]
    undone = ask.post(f"/{TOKEN}/api/undo").json()
    assert undone["gone"] == [answer["changed"][1]["id"]]
    assert len(ids(review)) == 3
    merged = ask.post(f"/{TOKEN}/api/merged", json={"items": [first, second]}).json()
    assert [one["area"] for one in merged["changed"]] == [128, 128]
    again = {**said, "item": first, "part": part, "pieces": [runs((0, 0, 9, 9))]}
    answer = ask.post(f"/{TOKEN}/api/drawn", json=again).json()
    assert {one["id"] for one in answer["changed"]} == {first, second}, "they are one object"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pieces": [[1, 2]]}, "expected 64 x 64 cells"),
        ({"pieces": [[64 * 64]]}, "the outline is empty"),
        ({"pieces": [[5000, -904]]}, "expected 64 x 64 cells"),
        ({"part": [0, 0, 65, 64]}, "within 64 x 64 pixels"),
        ({"image": "other", "item": None}, "not one of those that are shown"),
        ({"label": "zebra"}, "class 'zebra'"),
    ],
)
def test_a_drawing_that_cannot_be_is_refused(ask, review, tmp_path, change, why):
    said = {"image": "image", "item": ids(review)[0], "part": [0, 0, 64, 64], "label": "a"}
    said |= {"pieces": [runs((0, 0, 8, 8))]} | change
    answer = ask.post(f"/{TOKEN}/api/drawn", json=said)
    assert answer.status_code == 422
    assert why in answer.text
    assert not (tmp_path / "log.jsonl").exists()


def test_an_outline_on_another_image_than_the_masks_is_refused(review, tmp_path):
    mask = review.item(ids(review)[0])
    with pytest.raises(InputError, match="expected one of image 'other'"):
        review.draw("other", mask.id, [mask.outline], "a")
    assert not (tmp_path / "log.jsonl").exists()


def test_a_click_is_answered_on_the_part_that_is_shown(ask):
    asked = {"image": "image", "part": [16, 16, 48, 32], "clicks": [[10, 5, 1]]}
    answer = ask.post(f"/{TOKEN}/api/prompt", json=asked).json()
    mask = from_runs(answer["runs"], (16, 32))
    assert mask[5, 10]
    assert mask.sum() == 45
    assert ask.post(f"/{TOKEN}/api/prompt", json={**asked, "image": "x"}).status_code == 422
