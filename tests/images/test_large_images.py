"""Images that are embedded in tiles: one label image, an object on a seam is one object.

SAM and the head are replaced by ones that see drawn ellipses exactly, so that masks are known.
"""

import json
import shutil

import numpy as np
import pytest
import tifffile
import torch
import yaml
import zarr
from PIL import Image
from scipy import ndimage

from tests.conftest import write_tiny_project
from usam_core.config.project import load_project
from usam_core.errors import ConfigError
from usam_core.head.checkpoint import card_path
from usam_core.images.read import UnusableImage, read_image
from usam_core.images.stores import show
from usam_core.labels import LabelMap
from usam_core.lineage import document
from usam_core.masks.label_png import edited_png, read_label_png
from usam_core.progress import SILENT
from usam_core.sam.embedder import Prepared
from usam_core.steps import annotate, annotate_notes, embed, run_step, step_folder
from usam_core.steps import label_images as labelling
from usam_core.steps.images_to_label import embedded_files, labelled_images, tiled_images
from usam_core.steps.record import write_record
from usam_core.types import MASKS_PER_PROMPT, MaskSet

CLASSES = ["disc", "ring", "rod"]
COLORS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
PROMPTS, FRAME = 16, 256
SIZE = (300, 260)
TILES = {"tile": 128, "tile_overlap": 48}
OBJECTS = [
    (40, 110, 16, 30, "disc"),  # on a vertical seam
    (100, 30, 25, 14, "ring"),  # on a horizontal one
    (110, 105, 22, 22, "rod"),  # around the corner of four tiles
    (25, 40, 15, 18, "rod"),  # seen by a single tile
    (200, 40, 10, 12, "disc"),  # seen whole by two
    (230, 110, 12, 14, "ring"),  # two that touch in the middle of a seam
    (230, 137, 12, 12, "rod"),
    (275, 200, 9, 40, "disc"),
]


def drawing(objects=OBJECTS, size_hw=SIZE):
    """Return a drawing, uint8 (h, w, 3), and its label map."""
    labels = np.zeros(size_hw, np.uint8)
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    for row, column, height, width, name in objects:
        inside = ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1
        labels[inside] = CLASSES.index(name) + 1
    return np.concatenate([[[90, 90, 90]], COLORS]).astype(np.uint8)[labels], labels


class SeesDrawings:
    """An embedder whose masks are the drawn ellipses, each with its class in its tokens."""

    batch_size = 2
    device = torch.device("cpu")

    def __init__(self):
        self.seen = []

    def prepare(self, image):
        """Keep the image as it is."""
        return Prepared(torch.from_numpy(image.copy()), image.shape[:2])

    def submit(self, images):
        """Return what gives the mask set of each image."""
        self.seen += [image.size_hw for image in images]
        made = [self._one(image.pixels.numpy()) for image in images]
        return lambda: made

    def _one(self, image):
        tokens = np.zeros((PROMPTS, 1024), np.float16)
        masks = np.zeros((PROMPTS, FRAME, FRAME), bool)
        number = 0
        for index, color in enumerate(COLORS):
            found, count = ndimage.label((image == color).all(axis=-1))
            for place in range(1, count + 1):
                part = Image.fromarray(found == place)
                scale = FRAME / max(part.size)
                side = [max(1, int(s * scale + 0.5)) for s in part.size]
                mask = np.asarray(part.resize(side, Image.Resampling.NEAREST))
                masks[number, : mask.shape[0], : mask.shape[1]] = mask
                tokens[number, index] = 9
                number += 1
        packed = np.packbits(masks, axis=-1)[:, None].repeat(MASKS_PER_PROMPT, axis=1)
        good = np.full((PROMPTS, MASKS_PER_PROMPT), 0.95, np.float32)
        points = np.full((PROMPTS, 2), 0.5, np.float32)
        return MaskSet(tokens, packed, good, good, points, image.shape[:2])


class ReadsTokens(torch.nn.Module):
    """A head that says what the tokens say."""

    def forward(self, rows):
        """Return logits, float32 (..., c)."""
        return rows[..., : len(CLASSES)]


@pytest.fixture
def sam(monkeypatch, tmp_path):
    """Put the exact SAM and the exact head in place."""
    seeing, head = SeesDrawings(), tmp_path / "head.safetensors"
    card = dict.fromkeys(document._OF_THE_CARD, "")
    card |= {"classes": CLASSES, "settings": {"features": ["tokens"]}, "encoder": {}}
    head.write_bytes(b"head")
    card_path(head).write_text(json.dumps(card))
    monkeypatch.setattr(embed, "open_embedder", lambda *_: seeing)
    monkeypatch.setattr(annotate, "head_path", lambda _: head)
    for module, name in ((annotate, "load_head"), (labelling, "load_head")):
        monkeypatch.setattr(module, name, lambda _: (ReadsTokens(), card))
    for module in (labelling, annotate_notes):
        monkeypatch.setattr(module, "calibration_file", lambda _: None)
    monkeypatch.setattr(labelling, "head_path", lambda _: head)
    labelling._head.cache_clear()
    yield seeing
    labelling._head.cache_clear()


@pytest.fixture
def project(tmp_path):
    """Return a function that loads the project with other settings of `images`."""
    file = write_tiny_project(tmp_path)
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").mkdir()
    text = yaml.safe_load(file.read_text())
    del text["evaluation"]

    def load(out="out", paint="vote", **images):
        text["images"] = {"path": "images", **images}
        text["outputs"] = {"path": out, "shard_size": 4, "overlays": 1}
        text["inference"] = {"threshold": 0.3, "paint": paint}
        file.write_text(yaml.safe_dump(text))
        return load_project(file)

    return load


def write(folder, name="slide.tif", objects=OBJECTS, size_hw=SIZE):
    """Write a drawing as tiled TIFF; return its label map."""
    rgb, labels = drawing(objects, size_hw)
    tifffile.imwrite(folder / name, rgb, photometric="rgb", tile=(64, 64), compression="zlib")
    return labels


def label(project):
    """Collect, embed and annotate; return the images by path and the annotate result."""
    run_step("collect", project)
    run_step("embed", project)
    result = annotate.run(project, "key", SILENT)
    folder = step_folder(project, "annotate")
    write_record(folder, result)
    return {image.path: image for image in annotate.labels(project).images()}, result


def masks(image):
    return [(LabelMap.id_of(one.class_index), one.mask()) for one in image.instances]


@pytest.mark.parametrize("paint", ["vote", "score"])
def test_labels_of_tiles_are_those_of_the_whole(project, sam, tmp_path, paint):
    truth = write(tmp_path / "images")
    tiled = project(paint=paint, **TILES)
    (entry,) = label(tiled)[0].values()
    assert len(entry.tiles) == 4 * 3
    assert max(max(size) for size in sam.seen) <= 128
    png = entry.png_file
    labels = read_label_png(png)
    assert labels.shape == entry.size_hw == SIZE
    assert (labels != truth).mean() < 0.002
    counts = zip(*np.unique(labels, return_counts=True), strict=True)
    assert entry.pixels == dict(counts)

    (whole,) = label(project(out="whole", paint=paint))[0].values()
    assert len(masks(entry)) == len(masks(whole)) == len(OBJECTS)
    for category, mask in masks(entry):
        expected = truth == category
        assert (mask & ~expected).sum() == 0, "a mask of tiles has pixels of nothing"
        best = max(
            (mask & other).sum() / (mask | other).sum()
            for name, other in masks(whole)
            if name == category
        )
        assert best > 0.9
    assert sum(mask.sum() for _, mask in masks(entry)) == (truth > 0).sum()


def test_points_and_prompts_speak_of_the_image(project, sam, tmp_path):
    write(tmp_path / "images", objects=[(275, 200, 9, 20, "disc")])
    ((entry),) = label(project(**TILES))[0].values()
    (one,) = entry.instances
    tile = one.prompt // PROMPTS
    box = tiled_images(project(**TILES))[0].tiles[tile].box
    assert one.point == (box.columns[0] + 64, box.rows[0] + 64)


def test_small_images_are_what_they_were(project, sam, tmp_path):
    """With tiles for large ones, nothing of a small image is embedded or named anew."""
    write(tmp_path / "images", "small.tif", OBJECTS[:1], (60, 128))
    Image.fromarray(drawing(OBJECTS[:1], (50, 128))[0]).save(tmp_path / "images" / "b.png")
    before, _ = label(project())
    count, wanted = len(sam.seen), embedded_files(project())
    write(tmp_path / "images")
    after, result = label(project(**TILES))
    assert {name: vars(after[name]) for name in before} == {n: vars(i) for n, i in before.items()}
    assert len(sam.seen) == count + 12
    assert wanted.items() <= embedded_files(project(**TILES)).items()
    assert result.summary["images"] == 3
    assert not tiled_images(project())
    record = json.loads((step_folder(project(**TILES), "embed") / "record.json").read_text())
    assert record["summary"]["notes"] == ["1 images are cut into 12 tiles, each counted as one"]


def test_only_missing_tiles_are_embedded_after_a_kill(project, sam, tmp_path, monkeypatch):
    write(tmp_path / "images")
    one = project(**TILES)
    run_step("collect", one)
    groups = embed.plan(one)
    tiles = [group for group in groups if any("rows=" in path for path in group.values())]
    embed.embed_groups(one, tiles[:1])
    done = len(sam.seen)
    assert 0 < done < 12
    with pytest.raises(Exception, match="embed"):
        annotate.run(one, "key", SILENT)
    entries, _ = label(one)
    assert sum(max(size) == 128 and size[0] == 128 for size in sam.seen) == 12
    assert len(entries) == 1
    # Elsewhere and under another name it is the same image, and its tiles the same tiles.
    count = len(sam.seen)
    (tmp_path / "images" / "sub").mkdir()
    (tmp_path / "images" / "slide.tif").rename(tmp_path / "images" / "sub" / "other.tif")
    assert list(label(one)[0]) == ["sub/other.tif"]
    assert len(sam.seen) == count


@pytest.mark.slow
def test_other_tiles_are_other_labels_and_a_finished_image_is_kept(project, sam, tmp_path):
    write(tmp_path / "images")
    one = project(**TILES)
    assert label(one)[1].summary["labelled"] == 1
    assert label(one)[1].summary["labelled"] == 0
    first = annotate.inputs(one)
    other = project(tile=160, tile_overlap=48)
    assert annotate.inputs(other) != first
    (entry,) = label(other)[0].values()
    assert len(masks(entry)) == len(OBJECTS)


def test_an_edit_of_a_person_stays(project, sam, tmp_path):
    write(tmp_path / "images")
    one = project(**TILES)
    (entry,) = label(one)[0].values()
    png = entry.png_file
    assert not edited_png(png, SIZE, None), "our own PNG must carry its signature"
    with Image.open(png) as picture:
        changed = np.asarray(picture).copy()
        palette = picture.getpalette()
    changed[:9, :9] = 2
    edited = Image.fromarray(changed).convert("P")
    edited.putdata(changed.ravel())
    edited.putpalette(palette)
    edited.save(png)
    annotate.forget(one)
    result = label(one)[1]
    assert result.summary["edited"] == 1
    assert (read_label_png(png)[:9, :9] == 2).all()


def test_a_damaged_tile_leaves_the_image_out_and_nothing_else(project, sam, tmp_path):
    write(tmp_path / "images", "a.tif")
    write(tmp_path / "images", "b.tif", OBJECTS[:3])
    with tifffile.TiffFile(tmp_path / "images" / "a.tif") as file:
        offset = file.pages[0].dataoffsets[7]
    with open(tmp_path / "images" / "a.tif", "rb+") as file:
        file.seek(offset)
        file.write(b"damaged")
    one = project(**TILES)
    entries, _ = label(one)
    assert list(entries) == ["b.tif"]
    record = json.loads((step_folder(one, "embed") / "record.json").read_text())
    bad = record["summary"]["quarantined"]
    assert bad
    assert all("a.tif#rows=" in row["path"] for row in bad)


def test_what_is_beyond_max_megapixels_is_read_in_parts_or_told_how(project, sam, tmp_path):
    folder = tmp_path / "images"
    write(folder)
    Image.fromarray(drawing()[0]).save(folder / "p.png")
    group = zarr.open_array(folder / "z.zarr", mode="w", shape=SIZE, chunks=(64, 64), dtype="u1")
    group[:] = drawing()[1] * 40
    turned = np.rot90(drawing()[0])
    tag = (274, "H", 1, 6, True)
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
    tifffile.imwrite(folder / "turned.tif", turned, extratags=[tag], **options)
    tifffile.imwrite(folder / "one.tif", drawing()[0], compression="zlib", rowsperstrip=300)
    small = 128 * 128 / 1e6
    rows = labelled_images(project(max_megapixels=small, **TILES)).set_index("path")
    assert rows["status"].to_dict() == {
        "one.tif": "quarantined",
        "p.png": "quarantined",
        "slide.tif": "ok",
        "turned.tif": "quarantined",
        "z.zarr": "ok",
    }
    assert set(rows.loc[rows["status"] != "ok", "code"]) == {"too_large"}
    assert "images.tile" in rows.loc["p.png", "reason"]
    assert "OME-Zarr" in rows.loc["p.png", "reason"]
    # Without tiles it is what it was; and a listing remembers with which settings it was made.
    rows = labelled_images(project(max_megapixels=small)).set_index("path")
    assert set(rows["code"]) == {"too_large"}
    # Within the limit pictures are decoded whole, once, and cut then.
    one = project(**TILES)
    assert {image.path: image.size_hw for image in tiled_images(one)} == dict.fromkeys(
        ["one.tif", "p.png", "slide.tif", "turned.tif", "z.zarr"], SIZE
    )
    truth = drawing()[0]
    for image in tiled_images(one):
        for tile in image.tiles[:5]:
            path = f"{folder / image.path}#{tile.box}"
            rgb = read_image(path).rgb
            if image.path != "z.zarr":
                np.testing.assert_array_equal(rgb, truth[tile.box.slices])


def windows_of(path):
    show._spread.cache_clear()
    return {
        read_image(f"{path}#rows={top}:{top + 128},columns=0:128", window="percentile").window
        for top in (0, 100, 172)
    }


def test_tiles_share_the_window_of_the_whole(tmp_path, monkeypatch):
    values = np.linspace(0, 60000, 300 * 400).reshape(300, 400).astype(np.uint16)
    path = tmp_path / "deep.tif"
    tifffile.imwrite(path, values, tile=(64, 64), compression="zlib")
    windows = windows_of(path)
    whole = read_image(path, window="percentile").window
    assert windows == {whole}
    monkeypatch.setattr(show, "_BLOCK", 16)
    (spread,) = windows_of(path)
    assert spread != whole
    assert np.allclose(spread, whole, atol=1500)
    with pytest.raises(UnusableImage, match="changed"):
        read_image(f"{path}#rows=0:64,columns=0:64", sha256="0" * 64)


def test_settings_that_do_not_fit_are_told(project):
    with pytest.raises(ConfigError, match="at most half of tile"):
        project(tile=128, tile_overlap=100)


@pytest.mark.parametrize(("tile", "overlap"), [(64, 16), (160, 40), (512, 128), (2048, 128)])
def test_small_tiles_need_no_overlap_of_their_own(project, tile, overlap):
    assert project(tile=tile).config.images.overlap == overlap
