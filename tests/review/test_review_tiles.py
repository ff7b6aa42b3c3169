"""Large images, labelled in tiles: what a person decides, draws and cuts is that of any image."""

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.images.test_large_images import TILES, label, project, sam, write
from usam_core.images.ref import Box
from usam_core.labels import LabelMap
from usam_core.masks.label_png import read_label_png
from usam_core.masks.rle import encode
from usam_core.steps import review as review_step
from usam_core.steps.crop import load_for_crops, open_crops
from usam_core.steps.pictures import ProjectImages
from usam_core.steps.read_settings import settle_windows
from usam_core.steps.review import open_review

__all__ = ["project", "sam"]  # fixtures


@pytest.fixture(autouse=True)
def no_head(monkeypatch):
    """The head is replaced, so that no card says what it has learned from."""
    monkeypatch.setattr(review_step, "learned_from_decisions", lambda _: False)


def disk(row, column, radius, size_hw=(300, 260)):
    rows, columns = np.ogrid[: size_hw[0], : size_hw[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def test_decisions_on_a_tiled_image_reach_its_labels(project, sam, tmp_path):
    truth = write(tmp_path / "images")
    (entry,) = label(project(**TILES))[0].values()
    tiled = project(**TILES)
    review = open_review(tiled, "random")
    at = {
        name: next(i for i in review.items.values() if i.instance.mask()[place])
        for name, place in {"corner": (110, 105), "ring": (100, 30), "seam": (40, 110)}.items()
    }
    outline, added = disk(40, 110, 10), disk(270, 60, 12)
    review.decide(at["corner"].id, None)
    review.decide(at["ring"].id, "rod")
    review.draw(entry.sha256, at["seam"].id, [encode(outline)], "disc")
    review.draw(entry.sha256, None, [encode(added)], "ring")

    (ruled,) = label(tiled)[0].values()
    assert len(ruled.tiles) == 12
    labels = read_label_png(ruled.png_file)
    disc, ring, rod = (LabelMap.id_of(n) for n in range(3))
    assert not labels[disk(110, 105, 20)].any()
    assert (labels[disk(100, 30, 10)] == rod).all()
    assert (labels[outline] == disc).all()
    assert not labels[(truth == disc) & disk(40, 110, 32) & ~disk(40, 110, 14)].any()
    assert (labels[added] == ring).all()
    verdicts = sorted(one.reviewed for one in ruled.instances if one.reviewed)
    assert verdicts == ["added", "changed", "drawn"]
    assert len(ruled.instances) == len(entry.instances)
    assert ruled.pixels == dict(zip(*np.unique(labels, return_counts=True), strict=True))


def test_crops_are_cut_from_the_whole_and_not_from_a_tile(project, sam, tmp_path):
    write(tmp_path / "images")
    file = project(**TILES).file
    values = yaml.safe_load(file.read_text())
    values["training"] = {"source": "folder", "path": "mine", "min_per_class": 1}
    file.write_text(yaml.safe_dump(values))
    tiled = load_for_crops(file)
    crops, names, more = open_crops(tiled)
    assert (list(names.values()), more) == (["slide.tif"], 0)
    (image,) = names
    settle_windows(tiled)
    images = ProjectImages(tiled, names)
    assert images.size_hw(image) == (300, 260)
    # Around the corner of four tiles.
    crop, note = crops.cut(
        image, "rod", encode(disk(110, 105, 22)), lambda b: images.part(image, b)
    )
    left, top, right, bottom = crop.part
    assert note == ""
    assert min(right - left, bottom - top) >= 44
    picture = np.asarray(Image.open(crops.file(crop)))
    scale = picture.shape[0] / (bottom - top)
    middle = picture[int((110 - top) * scale), int((105 - left) * scale)]
    assert tuple(middle) == (40, 40, 200)
    whole = images.part(image, Box((0, 300), (0, 260)))
    assert whole.shape == (300, 260, 3)


@pytest.mark.parametrize("place", [(5, 5), (295, 255)])
def test_an_object_at_the_rim_of_a_tiled_image(project, sam, tmp_path, place):
    write(tmp_path / "images", objects=[(150, 130, 20, 20, "disc")])
    (entry,) = label(project(**TILES))[0].values()
    tiled = project(**TILES)
    added = disk(*place, 8)
    open_review(tiled, "random").draw(entry.sha256, None, [encode(added)], "rod")
    (ruled,) = label(tiled)[0].values()
    assert (read_label_png(ruled.png_file)[added] == LabelMap.id_of(2)).all()
