"""The data sets of `usam bench`, as their makers lay them out: which images, which truth."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usam_core.config.presets import preset_classes
from usam_core.errors import InputError

VOC_LAYOUT = (
    "VOCdevkit/VOC2012 with ImageSets/Segmentation/val.txt, JPEGImages and SegmentationClass"
)
COCO_LAYOUT = "a folder with val2017 and annotations/instances_val2017.json"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is measured, whatever the machine and the settings.

    Attributes:
        name: as on the command line.
        title: for tables and figures.
        preset: the class names.
        measure: the number that rows are sorted by, `miou` or `map50`.
        void: which pixels count neither for nor against.
        flattening: how the truth becomes one label a pixel.
    """

    name: str
    title: str
    preset: str
    measure: str
    void: str
    flattening: str


@dataclass(frozen=True, slots=True)
class Split:
    """A data set's images and truth on this disk.

    Attributes:
        images: folder of the images.
        names: file names below it, sorted.
        total: images of the whole split, whatever `limit` left of them.
        source: the file that says which images belong to the split.
        evaluation: the `evaluation` section of a project that measures against the truth.
        notes: what a reader of the numbers should know of this copy.
    """

    images: Path
    names: list[str]
    total: int
    source: Path
    evaluation: dict[str, Any]
    notes: list[str]


_VOC_VOID = "value 255 of the PNGs, the outlines and what is too hard: left out of every count"

BENCHMARKS = {
    "voc21": Benchmark(
        name="voc21",
        title="PASCAL VOC 2012 val, 20 classes and background",
        preset="voc-20",
        measure="miou",
        void=_VOC_VOID,
        flattening="none: SegmentationClass is one label a pixel already",
    ),
    "voc-superclasses": Benchmark(
        name="voc-superclasses",
        title="PASCAL VOC 2012 val, the papers' five superclasses and background",
        preset="voc-superclasses",
        measure="map50",
        void=_VOC_VOID,
        flattening="the 20 values of SegmentationClass become 5 (U-SAM, changed granularity)",
    ),
    "coco-object": Benchmark(
        name="coco-object",
        title="COCO val2017, 80 classes and background (COCO-Object)",
        preset="coco-80",
        measure="miou",
        void="pixels of crowd regions that no single object covers: left out of every count",
        flattening="instances of the JSON painted from large to small, so that the smaller is on "
        "top; of equal areas the later in the file; all else is background. Published COCO-Object "
        "numbers mostly come from COCO-Stuff's pixel maps with the stuff made background "
        "(GroupViT's convert_coco_object.py), where nothing is void",
    ),
}


def open_split(benchmark: Benchmark, data: Path, limit: int | None = None) -> Split:
    """Find a benchmark's images and truth.

    Args:
        benchmark: one of `BENCHMARKS`.
        data: the data set's folder.
        limit: how many images at most, spread evenly over the sorted split.

    Raises:
        InputError: the folder is not laid out officially; the message names what is missing.
    """
    if benchmark.name == "coco-object":
        return _coco(data, limit)
    return _voc(data, limit)


def spread(names: list[str], limit: int | None) -> list[str]:
    """Return at most `limit` of the names, evenly spread, always the same ones.

    >>> spread(["a", "b", "c", "d", "e"], 2)
    ['a', 'c']
    """
    names = sorted(names)
    if limit is None or limit >= len(names):
        return names
    return [names[number * len(names) // limit] for number in range(limit)]


def _voc(data: Path, limit: int | None) -> Split:
    within = [data, data / "VOC2012", data / "VOCdevkit" / "VOC2012"]
    root = next((folder for folder in within if (folder / "ImageSets").is_dir()), data)
    images, classes, objects = (
        root / name for name in ("JPEGImages", "SegmentationClass", "SegmentationObject")
    )
    source = root / "ImageSets" / "Segmentation" / "val.txt"
    _expect(data, [source, images, classes], VOC_LAYOUT)
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read ({error}); expected a name a line") from error
    stems = [line.strip() for line in lines if line.strip()]
    if not stems:
        raise InputError(f"{source}: names no image; expected one image name a line")
    chosen = spread(stems, limit)
    names = [f"{stem}.jpg" for stem in chosen]
    truth = [f"{stem}.png" for stem in chosen]
    _all_there(images, names, source)
    _all_there(classes, truth, source)
    evaluation = {
        "format": "voc",
        "path": str(classes),
        "classes": [entry["name"] for entry in preset_classes("voc-20", "raw")],
    }
    notes = []
    if objects.is_dir():
        _all_there(objects, truth, source)
        evaluation["objects"] = str(objects)
    else:
        notes.append(f"no mAP50: {objects} is missing")
    return Split(images, names, len(stems), source, evaluation, notes)


def _coco(data: Path, limit: int | None) -> Split:
    images, source = data / "val2017", data / "annotations" / "instances_val2017.json"
    _expect(data, [images, source], COCO_LAYOUT)
    try:
        document = json.loads(source.read_bytes())
        listed = [image["file_name"] for image in document["images"]]
        held = {category["name"] for category in document["categories"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{source}: not COCO's instances JSON ({error!r}); expected images, annotations and "
            "categories"
        ) from error
    unknown = held - {entry["name"] for entry in preset_classes("coco-80", "raw")}
    if unknown:
        raise InputError(
            f"{source}: categories {sorted(unknown)} are none of COCO's 80; expected the official "
            "instances_val2017.json"
        )
    names = spread(listed, limit)
    _all_there(images, names, source)
    evaluation = {"format": "coco", "path": str(source)}
    return Split(images, names, len(listed), source, evaluation, [])


def _expect(data: Path, parts: list[Path], layout: str) -> None:
    missing = [str(part.relative_to(data)) for part in parts if not part.exists()]
    if missing:
        raise InputError(
            f"{data}: there is no {' and no '.join(missing)}; expected the official layout, "
            f"{layout}. Correct --data"
        )


def _all_there(folder: Path, names: list[str], source: Path) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(names)} files of {source.name} are missing, such as "
            f"{missing[0]}; unpack the data set again"
        )
