"""The laboratory example: drawn pictures, kinds of images, counts, and a run from end to end."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.ndimage import gaussian_filter

from benchmarks import lab, lab_data
from benchmarks.lab_counts import grid_places, matched, run_lengths
from benchmarks.lab_data import NAMES
from benchmarks.lab_pictures import BACTERIUM, KINDS, NUCLEUS, SIDE, draw_pictures
from usam_core.images.ref import Box
from usam_core.masks.bits import pack
from usam_core.masks.rle import encode
from usam_core.rng import generator
from usam_core.types import MaskSet

QUICK = {
    "sam": {"points_per_side": 4},
    "head": {"steps": 5, "hidden": [32, 16, 8], "dropout": 0.2},
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Return a folder like the research data: two fields of bright discs and one of rods."""
    data = tmp_path_factory.mktemp("data")
    for name in ("images", "masks"):
        (data / "lab" / name).mkdir(parents=True)
    rows, columns = np.mgrid[:96, :128]
    for number, name in enumerate(["field_a.png", "field_b.png", "omnipose_c.tif"]):
        objects = np.zeros((96, 128), np.uint16)
        for place, center in enumerate([(20, 30), (60, 40), (50, 100)]):
            objects[np.hypot(rows - center[0], columns - center[1]) < 10 + number] = 299 + place
        bright = np.where(objects > 0, 60000, 3000).astype(float)
        grey = gaussian_filter(bright, 1) + generator(0, name).normal(0, 500, bright.shape)
        deep = np.clip(grey, 0, 65535).astype(np.uint16)
        picture = Image.fromarray(deep if name.endswith("tif") else (deep >> 8).astype(np.uint8))
        picture.save(data / "lab" / "images" / name)
        Image.fromarray(objects).save((data / "lab" / "masks" / name).with_suffix(".png"))
    return data


def test_pictures_are_drawn_of_every_class_and_follow_the_seed(tmp_path):
    counts = draw_pictures(tmp_path / "a", 2, seed=3)
    assert counts == {name: 2 * len(kinds) for name, kinds in KINDS.items()}
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.png"))
    assert len(files) == sum(counts.values())
    draw_pictures(tmp_path / "b", 2, seed=3)
    draw_pictures(tmp_path / "c", 2, seed=4)
    for file in files:
        first, again, other = ((tmp_path / run / file).read_bytes() for run in "abc")
        assert first == again != other


def test_nuclei_are_lighter_or_darker_than_their_field_and_rods_are_dark():
    def middle_and_rim(draw):
        grey = np.stack([draw(generator(0, n)).mean(axis=-1) for n in range(12)])
        center, rim = slice(SIDE // 2 - 4, SIDE // 2 + 4), slice(0, 6)
        return np.median(grey[:, center, center]), np.median(grey[:, rim])

    middle, rim = middle_and_rim(KINDS[NUCLEUS]["fluorescence"])
    assert middle > rim + 30
    middle, rim = middle_and_rim(KINDS[NUCLEUS]["stained"])
    assert middle < rim - 30


def test_the_kind_is_told_from_name_and_color():
    grey = np.full((20, 20, 3), 200, np.uint8)
    pink = np.full((20, 20, 3), (236, 226, 240), np.uint8)
    violet = np.full((20, 20, 3), (190, 150, 230), np.uint8)
    assert lab_data.kind_of("a.png", grey) == lab_data.BRIGHTFIELD
    assert lab_data.kind_of("a.png", grey // 10) == lab_data.FLUORESCENCE
    assert lab_data.kind_of("a.png", pink) == lab_data.ON_GLASS
    assert lab_data.kind_of("a.png", violet) == lab_data.ON_TISSUE
    assert lab_data.kind_of("omnipose_a.tif", grey) == lab_data.PHASE


def test_an_object_is_found_by_a_mask_that_shares_more_than_half():
    masks = np.zeros((4, 10, 10), bool)
    masks[0, :4, :4] = masks[1, 5:9, 5:9] = True  # objects
    masks[2, :4, :3] = True  # IoU 12 / 16 with the first
    masks[3, 5:9, 5:7] = True  # IoU 8 / 16 with the second: not above
    runs = [encode(mask) for mask in masks]
    assert matched(runs[:2], runs[2:]) == [True, False]
    assert matched(runs[:2], []) == [False, False]


def test_masks_that_can_match_nothing_are_left_out():
    frame = np.zeros((2, 4, 32, 32), bool)
    frame[0, 0, :4, :4] = frame[1, 2, :4, :4] = True  # the same mask of two prompts
    frame[0, 1] = True
    held = MaskSet(
        tokens=np.zeros((2, 1024), np.float16),
        packed_masks=pack(frame),
        predicted_iou=np.zeros((2, 4), np.float32),
        stability=np.zeros((2, 4), np.float32),
        points_xy=np.zeros((2, 2), np.float32),
        size_hw=(64, 64),
    )
    (run,) = run_lengths(held, least=40, most=80)
    assert encode(np.pad(np.ones((8, 8), bool), ((0, 56), (0, 56))))["size"] == run["size"]


def test_points_lie_in_every_tile():
    whole = grid_places(2, [Box((0, 40), (0, 80))])
    assert whole.tolist() == [[20, 10], [60, 10], [20, 30], [60, 30]]
    second = grid_places(2, [Box((0, 40), (0, 80)), Box((100, 140), (8, 88))])[4:]
    assert (second - whole == [8, 100]).all()


@pytest.mark.slow
def test_a_row_goes_from_drawn_pictures_to_a_table(drawn, tmp_path):
    assert lab_data.lay_out(drawn, tmp_path) == {lab_data.FLUORESCENCE: 2, lab_data.PHASE: 1}
    draw_pictures(tmp_path / "pictures-0", 3, 0)
    known = {}
    measured = lab.measure(
        lab.write_project(tmp_path, "quick", {**lab.NEGATIVES, **QUICK}, 0), known
    )
    table = measured.table()
    assert table["images"].to_dict() == {lab_data.FLUORESCENCE: 2, lab_data.PHASE: 1}
    assert table["objects"].to_dict() == {lab_data.FLUORESCENCE: 6, lab_data.PHASE: 3}
    # 4 x 4 points, 32 pixels apart and 24: discs of 20 pixels are hit by few and by some.
    assert (table["pointed"] > 0).all()
    is_sound(table)

    sample = lab.first_of_each(tmp_path, 1)
    assert sample == ["fluorescence/field_a.png", "phase contrast/omnipose_c.tif"]
    (part,) = {int(n) for n in measured.table(sample)["objects"]}
    assert part == 3
    row = {**lab.NEGATIVES, **QUICK, "images": {"path": "images", "tile": 64, "tile_overlap": 16}}
    tiled = lab.measure(lab.write_project(tmp_path, "tiles", row, 0, sample), known)
    assert [image.path for image in tiled.images] == sample
    assert all(len(image.tiles) == 6 for image in tiled.images)
    # As many points in every tile: nothing is as far from one as before.
    assert (tiled.table()["pointed"] == 100).all()
    is_sound(tiled.table())
    whole, cut = (known["fluorescence/field_a.png", is_cut] for is_cut in (False, True))
    assert {tuple(mask["size"]) for mask in [*whole, *cut]} == {(96, 128)}
    assert coco_mask.area(cut).max() <= 64 * 64


def is_sound(table):
    assert (table["found"] <= table["masked"]).all()
    assert table[["pointed", "masked", "found", "AP50", "IoU"]].stack().between(0, 100).all()
    assert (table["Dice"] >= table["IoU"]).all()


def test_the_research_data_is_laid_out_without_copying_it(shared_data, tmp_path):
    counts = lab_data.lay_out(shared_data, tmp_path, limit=1)
    kinds = {
        lab_data.PHASE,
        lab_data.BRIGHTFIELD,
        lab_data.FLUORESCENCE,
        lab_data.ON_TISSUE,
        lab_data.ON_GLASS,
    }
    assert counts == dict.fromkeys(kinds, 1)
    images = [path for path in (tmp_path / "images").rglob("*.*")]
    assert len(images) == 5
    assert all(path.is_symlink() for path in images)
    for image in images:
        objects = tmp_path / "objects" / image.parent.name / f"{image.stem}.png"
        numbers = np.asarray(Image.open(objects))
        classes = np.asarray(
            Image.open(tmp_path / "classes" / objects.relative_to(tmp_path / "objects"))
        )
        label = NAMES.index(BACTERIUM if image.parent.name == lab_data.PHASE else NUCLEUS)
        assert set(np.unique(classes)) == {0, label + 1}
        assert np.array_equal(classes > 0, numbers > 0)
