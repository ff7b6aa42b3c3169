"""The laboratory's images by kind, linked and never copied, with their truth in usam's form."""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.lab_pictures import BACTERIUM, NUCLEUS
from usam_core.images.read import read_image
from usam_core.masks.label_png import save_label_png
from usam_core.truth.voc import VocTruth

PHASE, BRIGHTFIELD, FLUORESCENCE = "phase contrast", "brightfield", "fluorescence"
ON_TISSUE, ON_GLASS = "stained tissue", "stained on glass"
CLASSES = [
    {"name": NUCLEUS, "synonyms": ["nuclei", "cell nucleus"]},
    {"name": BACTERIUM, "synonyms": ["bacteria"]},
]

NAMES = [NUCLEUS, BACTERIUM]


def kind_of(name: str, rgb: np.ndarray) -> str:
    """Tell the kind of microscopy from the file's name and the image's colours, never from truth.

    Args:
        name: of the file; the bacteria say where they come from.
        rgb: uint8 (h, w, 3).
    """
    if name.startswith("omnipose"):
        return PHASE
    light = rgb.astype(np.float32)
    if np.ptp(light, axis=-1).mean() > 4:
        corner = np.percentile(light.min(axis=-1), 90)
        return ON_GLASS if corner > 190 else ON_TISSUE
    return BRIGHTFIELD if light.mean() > 127 else FLUORESCENCE


def link(target: Path, source: Path) -> None:
    """Link a file of the data into the run's folder; nothing is copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_symlink():
        target.symlink_to(source.resolve())


def lay_out(data: Path, work: Path, limit: int | None = None) -> dict[str, int]:
    """Link images by kind, write their class maps, link their numbered objects; count the kinds."""
    counts: dict[str, int] = {}
    for image in sorted((data / "lab" / "images").iterdir()):
        kind = kind_of(image.name, read_image(str(image), window="percentile").rgb)
        if limit is not None and counts.get(kind, 0) >= limit:
            continue
        counts[kind] = counts.get(kind, 0) + 1
        mask = data / "lab" / "masks" / f"{image.stem}.png"
        link(work / "images" / kind / image.name, image)
        link(work / "objects" / kind / mask.name, mask)
        save_classes(work / "classes" / kind / mask.name, mask, 2 if kind == PHASE else 1)
    return counts


def save_classes(target: Path, objects: Path, label: int) -> None:
    """Write a palette PNG that gives every numbered object the one label."""
    with Image.open(objects) as picture:
        labels = (np.asarray(picture) > 0).astype(np.uint8) * label
    target.parent.mkdir(parents=True, exist_ok=True)
    save_label_png(target, labels)


def own_truth(folder: Path) -> VocTruth:
    """Return the truth that lies in `folder/classes` and `folder/objects`."""
    words = {name: name for name in NAMES}
    return VocTruth(folder / "classes", NAMES, words, NAMES, folder / "objects")
