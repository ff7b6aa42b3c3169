"""Training pictures from one's own images: what is cut, what is logged, who may ask."""

import io
import json
import shutil
import socket

import numpy as np
import pytest
import yaml
from fastapi.testclient import TestClient
from PIL import Image

from tests.review.test_review import NAMES, box
from tests.review.test_review_server import TOKEN, Circles, Grey
from usam_core.config.project import load_project
from usam_core.config.training import class_colors
from usam_core.errors import ConfigError, InputError, StoreError
from usam_core.masks.rle import encode
from usam_core.review.crop_server import make_app
from usam_core.review.crops import LOG, Crops, around, read_crops
from usam_core.review.drawing import to_runs
from usam_core.review.web import listen
from usam_core.steps import run_step
from usam_core.steps.collect import read_manifest
from usam_core.steps.crop import crop_app, load_for_crops


@pytest.fixture
def crops(tmp_path):
    return Crops(tmp_path, {name: name for name in NAMES}, {"image": "a/one.png"}, 64, 4.0)


def textured(box):
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (*box.size_hw, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(54, 54), (5, 5), (3, 40), (60, 4)])
def test_small_and_thin_objects_pass_the_limits_of_size(crops, height, width):
    mask = encode(box(2, 1, height, width))
    crop, note = crops.cut("image", "a", mask, textured)
    picture = Image.open(crops.file(crop))
    assert not note
    assert min(picture.size) >= 64
    assert max(picture.size) <= 4 * min(picture.size)
    left, top, right, bottom = crop.part
    assert 0 <= left <= 1
    assert 0 <= top <= 2
    assert right >= 1 + width
    assert bottom >= 2 + height


def test_what_is_cut_stays_in_the_image():
    for where in [(0, 0, 5, 5), (90, 90, 10, 10), (0, 0, 100, 100), (10, 0, 3, 100)]:
        cut = around(where, (100, 100))
        assert 0 <= cut.rows[0] < cut.rows[1] <= 100
        assert 0 <= cut.columns[0] < cut.columns[1] <= 100
        assert cut.columns[0] <= where[0]
        assert cut.columns[1] >= where[0] + where[2]


def test_a_picture_is_logged_found_again_and_taken_back(crops, tmp_path):
    mask = encode(box(10, 10, 20, 20))
    first, _ = crops.cut("image", "a", mask, textured)
    second, note = crops.cut("image", "b", mask, lambda b: np.full((*b.size_hw, 3), 9, np.uint8))
    assert "min_contrast" in note
    assert [one.id for one in read_crops(tmp_path / LOG)] == [first.id, second.id]
    assert first.file_name == "a/one.png"
    assert first.mask == mask
    assert crops.take_back().id == second.id
    assert not (tmp_path / second.picture).exists()
    assert (tmp_path / first.picture).exists()
    assert crops.take_back(first.id).id == first.id
    with pytest.raises(InputError, match="no picture that could be taken back"):
        crops.take_back()


def test_a_log_that_names_a_file_elsewhere_removes_nothing(crops, tmp_path):
    (tmp_path.parent / "precious.png").write_bytes(b"x")
    _crop, _ = crops.cut("image", "a", encode(box(1, 1, 9, 9)), textured)
    line = json.loads((tmp_path / LOG).read_text()) | {"picture": "../precious.png"}
    (tmp_path / LOG).write_text(json.dumps(line) + "\n")
    with pytest.raises(StoreError, match="stays below it"):
        crops.take_back()
    assert (tmp_path.parent / "precious.png").exists()


@pytest.fixture
def ask(crops):
    colors, names = class_colors(NAMES, {}), {"image": "a/one.png"}
    app = make_app(crops, TOKEN, "<b>x</b>", colors, names, Grey(), Circles(), "usam run p.yaml", 3)
    return TestClient(app, base_url="http://127.0.0.1:5000")


def test_an_object_is_clicked_named_and_kept(ask, crops):
    asked = {"image": "image", "part": [0, 0, 64, 64], "clicks": [[20, 20, True]]}
    runs = ask.post(f"/{TOKEN}/api/prompt", json=asked).json()["runs"]
    said = {"image": "image", "part": [0, 0, 64, 64], "pieces": [runs], "label": "b"}
    answer = ask.post(f"/{TOKEN}/api/crops", json=said).json()
    assert answer["counts"] == {"a": 0, "b": 1, "c": 0}
    (made,) = answer["crops"]
    picture = ask.get(f"/{TOKEN}/api/crops/{made['id']}").content
    assert min(Image.open(io.BytesIO(picture)).size) == 128
    rims = ask.get(f"/{TOKEN}/api/images/image/others?box=0,0,64,64").content
    assert np.asarray(Image.open(io.BytesIO(rims)))[..., 3].any()
    assert ask.post(f"/{TOKEN}/api/back", json={"crop": None}).json()["crops"] == []


def test_the_guard_is_that_of_the_review(ask, tmp_path):
    said = {"image": "image", "part": [0, 0, 64, 64], "label": "b"}
    said["pieces"] = [to_runs(box(0, 0, 8, 8))]
    assert ask.post("/wrong/api/crops", json=said).status_code == 403
    foreign = {"origin": "http://evil.example"}
    assert ask.post(f"/{TOKEN}/api/crops", json=said, headers=foreign).status_code == 403
    ask.base_url = "http://evil.example:5000"
    assert ask.get(f"/{TOKEN}/api/state").status_code == 400
    assert not (tmp_path / LOG).exists()


def test_answers_do_not_wait_for_the_acknowledgement_of_their_head():
    """asyncio sets TCP_NODELAY where a socket says that it is TCP; else answers take 40 ms more."""
    with listen(0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    "change", [{"label": "zebra"}, {"image": "x"}, {"pieces": [[64 * 64]]}, {"part": [0, 0, 0, 9]}]
)
def test_what_cannot_be_cut_is_refused(ask, tmp_path, change):
    said = {"image": "image", "part": [0, 0, 64, 64], "label": "b"}
    said |= {"pieces": [to_runs(box(0, 0, 8, 8))]} | change
    assert ask.post(f"/{TOKEN}/api/crops", json=said).status_code == 422
    assert list(tmp_path.iterdir()) == []


def with_training(file, **training):
    values = yaml.safe_load(file.read_text())
    values["training"] = {"min_per_class": 1, **training}
    file.write_text(yaml.safe_dump(values))
    return file


def test_the_project_uses_the_pictures(tiny_project):
    """From no folder at all to what `collect` counts."""
    file = with_training(tiny_project, source="folder", path="mine")
    with pytest.raises(ConfigError, match="mine"):
        load_project(file)
    project = load_for_crops(file)
    app, count = crop_app(project, TOKEN)
    assert count == 4
    ask = TestClient(app, base_url="http://127.0.0.1:5000")
    state = ask.get(f"/{TOKEN}/api/state").json()
    image = state["images"][0]["image"]
    h, w = ask.get(f"/{TOKEN}/api/images/{image}/size").json()["size"]
    part = [0, 0, w, h]
    for number, name in enumerate(state["classes"]):
        asked = {"image": image, "part": part, "clicks": [[w / 2 + 9 * number, h / 2, True]]}
        runs = ask.post(f"/{TOKEN}/api/prompt", json=asked).json()["runs"]
        said = {"image": image, "part": part, "pieces": [runs], "label": name}
        assert ask.post(f"/{TOKEN}/api/crops", json=said).status_code == 200
    # These cuts are nearly the whole image; a copy of it that nobody cut out is dropped.
    mine = file.parent / "mine"
    shutil.copy(file.parent / "images" / state["images"][0]["file_name"], mine / "disc" / "x.png")
    project = load_project(file)
    result = run_step("collect", project)
    assert result.summary["pictures"] == 3
    assert result.summary["rejected"] == {"leak": 1}
    table = read_manifest(project)
    assert all(json.loads(one)["cut_from"] == "s0.png" for one in table["provenance"])
    # The log alone says so: without it, or with another picture in a cut's place, they leak too.
    log = (mine / LOG).read_text()
    (mine / LOG).unlink()
    with pytest.raises(InputError, match=r"disc .0; dropped: 2 leak., ring .0; dropped: 1 leak"):
        run_step("collect", project)
    (mine / LOG).write_text(log)
    assert run_step("collect", project).summary["pictures"] == 3
    (cut,) = (mine / "ring").iterdir()
    shutil.move(mine / "disc" / "x.png", cut)
    with pytest.raises(InputError, match=r"pictures for ring .0; dropped: 1 leak"):
        run_step("collect", project)


def test_a_project_that_draws_its_pictures_is_told_what_to_set(tiny_project):
    with pytest.raises(InputError, match=r"got render;.*source: folder"):
        load_for_crops(tiny_project)
