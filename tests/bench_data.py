"""Miniature data sets in the official layouts of PASCAL VOC and COCO, drawn here."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from usam_core.config import preset_classes
from usam_core.masks.label_png import save_label_png

VOID = 255
SIZE_HW = (96, 128)
RAW_VOC = [entry["name"] for entry in preset_classes("voc-20", "raw")]
RAW_COCO = [entry["name"] for entry in preset_classes("coco-80", "raw")]
QUICK = {
    "sam": {"model": "nano", "points_per_side": 4},
    "head": {"steps": 40, "hidden": [32, 16, 8], "dropout": 0.1, "familiar": 0.0},
    # Low, so that something is painted that can be right or wrong.
    "inference": {"threshold": 0.02},
    "training": {"min_per_class": 1},
    "outputs": {"shard_size": 32},
}
"""Settings with which a benchmark takes seconds."""


def color(number: int) -> tuple[int, int, int]:
    """Return a colour for a class; another for each."""
    return (37 * number % 256, 91 * number % 256, 151 * number % 256)


def disc(row: float, column: float, radius: float, size_hw=SIZE_HW) -> np.ndarray:
    """Return a disc, bool (h, w)."""
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def write_pictures(folder: Path, names: list[str]) -> Path:
    """Draw one training picture a class, a disc in the class's colour; return the folder."""
    for number, name in enumerate(names, start=1):
        picture = np.full((72, 72, 3), 235, np.uint8)
        picture[disc(36, 36, 26, (72, 72))] = color(number)
        (folder / name).mkdir(parents=True)
        Image.fromarray(picture).save(folder / name / "one.png")
    return folder


def write_settings(file: Path, **more) -> Path:
    """Write the quick settings as a file for `--project`."""
    file.write_text(yaml.safe_dump({**QUICK, **more}))
    return file


def objects_of(number: int) -> list[tuple[int, np.ndarray]]:
    """Return (VOC value, mask) of the objects of the image with this number."""
    return [
        (number % 20 + 1, disc(34, 36, 22)),
        ((number + 6) % 20 + 1, disc(58, 94, 26)),
    ]


def write_voc(root: Path, images: int = 5) -> Path:
    """Draw VOCdevkit/VOC2012: two discs an image with void outlines; return the root.

    One image more lies there and belongs to no split, as in the real one.
    """
    base = root / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (base / part).mkdir(parents=True)
    names = [f"2007_{number:06d}" for number in range(images + 1)]
    for number, name in enumerate(names):
        picture = np.full((*SIZE_HW, 3), 235, np.uint8)
        labels, numbers = np.zeros(SIZE_HW, np.uint8), np.zeros(SIZE_HW, np.uint8)
        for which, (value, mask) in enumerate(objects_of(number), start=1):
            picture[mask] = color(value)
            labels[mask], numbers[mask] = value, which
            outline = mask & ~(np.roll(mask, 2, 0) & np.roll(mask, -2, 0) & np.roll(mask, 2, 1))
            labels[outline] = numbers[outline] = VOID
        Image.fromarray(picture).save(base / "JPEGImages" / f"{name}.jpg", quality=95)
        save_label_png(base / "SegmentationClass" / f"{name}.png", labels)
        save_label_png(base / "SegmentationObject" / f"{name}.png", numbers)
    split = base / "ImageSets" / "Segmentation" / "val.txt"
    split.write_text("\n".join(names[:images]) + "\n")
    return root


def coco_instances() -> list[dict]:
    """Return the annotations of the miniature COCO: overlaps, a crowd, an image with nothing.

    Image 1: a dining table (67) with a cup (47) inside it, listed before the table. Image 2: a
    crowd of persons (1) with one person in it, and a cat (17). Image 3: nothing.
    """
    masks = [
        (1, 47, 0, disc(48, 64, 10)),
        (1, 67, 0, disc(48, 64, 30)),
        (2, 1, 1, disc(48, 40, 30)),
        (2, 1, 0, disc(48, 40, 12)),
        (2, 17, 0, disc(30, 100, 18)),
    ]
    annotations = []
    for number, (image, category, crowd, mask) in enumerate(masks, start=1):
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        annotations.append(
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "iscrowd": crowd,
                "area": float(coco_mask.area(rle)),
                "bbox": [float(value) for value in coco_mask.toBbox(rle)],
                "segmentation": {"size": list(SIZE_HW), "counts": rle["counts"].decode()},
            }
        )
    return annotations


def coco_categories() -> list[dict]:
    """Return COCO's 80 categories with their official, gappy ids."""
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    ids = [number for number in range(1, 91) if number not in gaps]
    return [{"id": i, "name": name} for i, name in zip(ids, RAW_COCO, strict=True)]


def write_coco(root: Path) -> Path:
    """Draw val2017 and annotations/instances_val2017.json; return the root."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    names = [f"{number:012d}.jpg" for number in (1, 2, 3)]
    numbers = {c["id"]: RAW_COCO.index(c["name"]) + 1 for c in coco_categories()}
    for image, name in enumerate(names, start=1):
        picture = np.full((*SIZE_HW, 3), 235, np.uint8)
        for annotation in sorted(coco_instances(), key=lambda a: -a["area"]):
            if annotation["image_id"] == image:
                mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
                picture[mask] = color(numbers[annotation["category_id"]])
        Image.fromarray(picture).save(root / "val2017" / name, quality=95)
    document = {
        "images": [
            {"id": i, "file_name": name, "height": SIZE_HW[0], "width": SIZE_HW[1]}
            for i, name in enumerate(names, start=1)
        ],
        "annotations": coco_instances(),
        "categories": coco_categories(),
    }
    file = root / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(document))
    return root
