"""The data sets of `usam bench`, as their makers lay them out: which images, which truth."""

import functools
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from usam_core.config import preset_classes
from usam_core.errors import InputError

PAPERS_CLASSWISE = {
    "synthetic": (
        "79.73 0.05 29.88 14.96 7.34 34.21 54.05 47.47 9.40 5.12 21.12 6.09 15.21 8.64 44.26 "
        "60.03 16.56 14.15 11.12 26.68 22.26"
    ),
    "web": (
        "78.91 33.89 15.48 12.13 8.26 22.46 36.46 41.23 9.85 4.41 6.89 2.21 18.92 19.22 44.30 "
        "38.98 11.39 14.71 14.96 17.22 18.85"
    ),
}
"""GranSAM's IoU of background and of VOC's 20 classes, in the palette's order, by what it learned
from. The class-wise tables for COCO contradict the papers' own means and are left out."""


def published_rows(benchmark: str) -> list[dict[str, Any]]:
    """Return the rows of others' tables that give a number for a benchmark, the papers' first.

    Keys: method, training (what it learned the names from), group (`papers`: U-SAM, GranSAM and
    what they compare with; `best`), source, note (what makes it less comparable), miou (background
    included) and map50 (of masks), percent, None where it is not given.
    """
    texts = ("method", "training", "group", "source")
    return [
        {key: row[key] for key in texts}
        | {"note": row.get("note", "")}
        | {key: row[benchmark].get(key) for key in ("miou", "map50")}
        for row in _read()
        if benchmark in row
    ]


def papers_classwise(benchmark: str) -> dict[str, list[float]]:
    """Return the papers' class-wise IoU, background first, by what they learned from."""
    tables = PAPERS_CLASSWISE if benchmark == "voc21" else {}
    return {key: [float(value) for value in values.split()] for key, values in tables.items()}


@functools.cache
def _read() -> list[dict[str, Any]]:
    text = resources.files("usam_core.bench").joinpath("published.yaml").read_text("utf-8")
    return yaml.safe_load(text)


_VOC_LAYOUT = (
    "VOCdevkit/VOC2012 with ImageSets/Segmentation/val.txt, JPEGImages and SegmentationClass"
)
_COCO_LAYOUT = "a folder with val2017 and annotations/instances_val2017.json"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is measured, whatever the machine and the settings."""

    name: str  # as on the command line
    title: str  # for tables and figures
    preset: str  # the class names
    measure: str  # the number that rows are sorted by, `miou` or `map50`
    void: str  # which pixels count neither for nor against
    flattening: str  # how the truth becomes one label a pixel


@dataclass(frozen=True, slots=True)
class Split:
    """A data set's images and truth on this disk."""

    images: Path  # folder of the images
    names: list[str]  # file names below it, sorted
    total: int  # images of the whole split, whatever `limit` left of them
    source: Path  # the file that says which images belong to the split
    evaluation: dict[str, Any]
    """The `evaluation` section of a project that measures against the truth."""
    notes: list[str]  # what a reader of the numbers should know of this copy


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
    """Find a benchmark's images and truth, at most `limit` of them, evenly spread over the split.

    Raises an `InputError` that names what is missing if `data` is not laid out officially.
    """
    return (_coco if benchmark.name == "coco-object" else _voc)(data, limit)


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
    _expect(data, [source, images, classes], _VOC_LAYOUT)
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
    _expect(data, [images, source], _COCO_LAYOUT)
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
