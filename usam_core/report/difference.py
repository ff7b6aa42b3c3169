"""What differs between two sets of labels: images, classes, settings; and its part of the page."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from usam_core.labels.label_map import LabelMap
from usam_core.report.found import labelled_picture
from usam_core.report.page import Album
from usam_core.report.runs import BOX, LabelledRun, RunTables, reduced

MIN_IOU = 0.5
"""Two instances of one class are the same thing when their boxes overlap so much."""
MAX_IMAGES = 8
_MAX_ROWS = 50
_SIDE = 360


@dataclass(frozen=True)
class Difference:
    """What changed from one run to another.

    Attributes:
        before: name, finished, images, instances and coverage of the first run.
        after: the same of the second.
        settings: settings that differ: key, before, after.
        classes: one row a class, most changed first: class, share_before, share_after,
            instances_before, instances_after, gained, lost.
        images: one row a changed image, most changed first: file_name, changed (share of its
            pixels), measured (`pixels`, `copy`, `least`), gained, lost.
        same: number of images with the same labels.
        added: names of images of the second run alone.
        removed: names of images of the first run alone.
        replaced: names of images with other content.
    """

    before: dict[str, Any]
    after: dict[str, Any]
    settings: list[tuple[str, Any, Any]]
    classes: pd.DataFrame
    images: pd.DataFrame
    same: int
    added: list[str]
    removed: list[str]
    replaced: list[str]

    def to_json(self) -> dict[str, Any]:
        """Everything as a JSON-like mapping."""
        names = ("key", "before", "after")
        return {
            **vars(self),
            "settings": [dict(zip(names, row, strict=True)) for row in self.settings],
            "classes": self.classes.to_dict("records"),
            "images": self.images.to_dict("records"),
        }


def compare_runs(before: LabelledRun, after: LabelledRun) -> Difference:
    """Compare two runs.

    Images are the same by file name and content, classes by name. Changed pixels are counted on
    the label PNGs where both runs have theirs, on reduced copies where the report kept those, and
    else bounded from below by the classes' numbers of pixels.
    """
    names = list(dict.fromkeys([*after.classes, *before.classes]))
    tables = [run.tables.images for run in (before, after)]
    numbered = [table.assign(number=np.arange(len(table))) for table in tables]
    both = numbered[1].merge(numbered[0], on="file_name", suffixes=("", "_before"))
    is_same = both["sha256"] == both["sha256_before"]
    pairs = _Pairs(before, after, names)
    rows = [row for row in map(pairs.compare, both[is_same].itertuples()) if row is not None]
    images = pd.DataFrame(rows, columns=["file_name", "changed", "measured", "gained", "lost"])
    images = images.sort_values(
        ["changed", "gained", "lost", "file_name"],
        ascending=[False, False, False, True],
        ignore_index=True,
    )
    known = [set(table["file_name"]) for table in tables]
    return Difference(
        before=_summary(before),
        after=_summary(after),
        settings=changed_settings(before.about["config"], after.about["config"]),
        classes=pairs.classes(),
        images=images,
        same=int(is_same.sum()) - len(images),
        added=sorted(known[1] - known[0]),
        removed=sorted(known[0] - known[1]),
        replaced=sorted(both.loc[~is_same, "file_name"]),
    )


def changed_settings(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """The settings that differ: dotted key, value before, value after.

    >>> changed_settings({"head": {"steps": 5}, "seed": 0}, {"head": {"steps": 6}, "seed": 0})
    [('head.steps', 5, 6)]
    """
    return sorted(_changed(before, after, ""))


def _changed(before: Any, after: Any, at: str) -> Iterator[tuple[str, Any, Any]]:
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        if before != after:
            yield at, before, after
        return
    for key in before.keys() | after.keys():
        yield from _changed(before.get(key), after.get(key), f"{at}.{key}" if at else str(key))


def _summary(run: LabelledRun) -> dict[str, Any]:
    cover = run.tables.cover
    labelled = int(cover.loc[cover["label"] > 0, "pixels"].sum())
    return {
        "name": run.about["name"],
        "finished": run.about["finished"],
        "images": len(run.tables.images),
        "instances": len(run.tables.instances),
        "coverage": labelled / max(1, run.tables.pixels),
    }


class _Pairs:
    """Compares the images that both runs have, one at a time."""

    def __init__(self, before: LabelledRun, after: LabelledRun, names: list[str]) -> None:
        self._names = names
        self._runs = before, after
        ids = LabelMap.of_names(names).ids()
        # Each label's place among the names of both runs; background stays 0.
        self._places = [np.array([0, *(ids[n] for n in run.classes)]) for run in self._runs]
        self._cover = [_ByImage(run.tables, "cover", ["label", "pixels"]) for run in self._runs]
        self._boxes = [_ByImage(run.tables, "instances", ["label", *BOX]) for run in self._runs]
        self._gained, self._lost = np.zeros((2, len(names) + 1), np.int64)

    def compare(self, pair: Any) -> tuple[str, float, str, int, int] | None:
        """A row of `Difference.images`, or None where nothing changed."""
        numbers = pair.number_before, pair.number
        boxes = []
        for places, by_image, number in zip(self._places, self._boxes, numbers, strict=True):
            boxes.append(by_image(number).copy())
            boxes[-1][:, 0] = places[boxes[-1][:, 0].astype(np.int64)]
        gained, lost = unmatched(boxes[1], boxes[0]), unmatched(boxes[0], boxes[1])
        np.add.at(self._gained, gained, 1)
        np.add.at(self._lost, lost, 1)
        # The same file may mean other classes.
        alike = pair.png_sha256 == pair.png_sha256_before
        if alike and self._runs[0].classes == self._runs[1].classes:
            changed, measured = 0.0, "pixels"
        else:
            changed, measured = self._pixels(numbers)
        if not changed and not len(gained) and not len(lost):
            return None
        return pair.file_name, changed, measured, len(gained), len(lost)

    def _pixels(self, numbers: tuple[int, int]) -> tuple[float, str]:
        maps = []
        for run, number in zip(self._runs, numbers, strict=True):
            labels = run.labels(run.tables.images.iloc[number])
            if labels is None:
                return self._min_changed(numbers), "least"
            maps.append(labels)
        copied = any(run.copies is not None for run in self._runs)
        if copied:
            maps = [
                labels if run.copies is not None else reduced(labels)
                for run, labels in zip(self._runs, maps, strict=True)
            ]
        if maps[0].shape != maps[1].shape:
            return 1.0, "pixels"
        # What a person painted may be no label of ours.
        one, other = (
            places[np.where(labels < len(places), labels, 0)]
            for places, labels in zip(self._places, maps, strict=True)
        )
        return float((one != other).mean()), "copy" if copied else "pixels"

    def _min_changed(self, numbers: tuple[int, int]) -> float:
        counts = []
        for places, by_image, number in zip(self._places, self._cover, numbers, strict=True):
            labels, pixels = by_image(number).astype(np.int64).T
            counts.append(np.bincount(places[labels], pixels, len(self._gained)))
        return float(np.abs(counts[1] - counts[0]).sum() / 2 / max(1, counts[1].sum()))

    def classes(self) -> pd.DataFrame:
        """`Difference.classes`, once all images are compared."""
        columns: dict[str, Any] = {"class": self._names}
        for word, run, places in zip(("before", "after"), self._runs, self._places, strict=True):
            pixels, count = np.zeros((2, len(self._names) + 1), np.int64)
            np.add.at(pixels, places[run.tables.cover["label"]], run.tables.cover["pixels"])
            np.add.at(count, places[run.tables.instances["label"]], 1)
            columns[f"share_{word}"] = pixels[1:] / max(1, run.tables.pixels)
            columns[f"instances_{word}"] = count[1:]
        table = pd.DataFrame({**columns, "gained": self._gained[1:], "lost": self._lost[1:]})
        order = (table["share_after"] - table["share_before"]).abs()
        return table.iloc[np.argsort(-order.to_numpy(), kind="stable")].reset_index(drop=True)


class _ByImage:
    """Rows of some columns of `instances` or `cover`, sorted by image, found without a search."""

    def __init__(self, tables: RunTables, name: str, columns: list[str]) -> None:
        frame = getattr(tables, name)
        self._starts = np.searchsorted(frame["image"], np.arange(len(tables.images) + 1))
        self._values = frame[columns].to_numpy(np.float64)

    def __call__(self, number: int) -> np.ndarray:
        return self._values[self._starts[number] : self._starts[number + 1]]


def unmatched(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Labels of the instances without a counterpart, int64 (k,); a pair is used once.

    By class and box: runs that were kept have no masks.

    Args:
        boxes: float64 (p, 5), label and box (x, y, w, h) of each.
        others: float64 (q, 5), those of the other run.
    """
    labels = boxes[:, 0].astype(np.int64)
    overlap = _box_iou(boxes[:, 1:], others[:, 1:])
    overlap[labels[:, None] != others[None, :, 0]] = 0
    left = np.ones(len(labels), bool)
    for _ in range(min(overlap.shape)):
        row, column = np.unravel_index(overlap.argmax(), overlap.shape)
        if overlap[row, column] < MIN_IOU:
            break
        left[row] = False
        overlap[row], overlap[:, column] = 0, 0
    return labels[left]


def _box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    a, b = boxes[:, None], others[None]
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    return shared / np.maximum(a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared, 1e-9)


def as_text(value: Any) -> str:
    """A setting's value as it would stand in the project file, on one line.

    >>> as_text("calibrated"), as_text(None), as_text([1, 2]), as_text({"a": 1, "b": None})
    ('calibrated', 'null', '[1, 2]', 'a: 1')
    """
    if isinstance(value, dict) and value:
        told = {key: one for key, one in value.items() if one is not None}
        return ", ".join(f"{key}: {as_text(one)}" for key, one in told.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def changes_part(
    difference: Difference,
    before: LabelledRun,
    after: LabelledRun,
    album: Album,
    most: int = MAX_IMAGES,
) -> dict[str, Any]:
    """The page's part on a difference: tables, and the `most` changed images side by side."""
    part = difference.to_json()
    changed = part.pop("images")
    rows = changed[:_MAX_ROWS]
    for row in part["settings"]:
        row |= {word: as_text(row[word]) for word in ("before", "after")}
    for name in ("added", "removed", "replaced"):
        part |= {name: part[name][:_MAX_ROWS], f"{name}_count": len(part[name])}
    pairs = (_pair(row, before, after, album) for row in rows[:most])
    return {
        **part,
        "rows": rows,
        "more": len(changed) - len(rows),
        "changed": len(changed),
        "pairs": [pair for pair in pairs if pair],
    }


def _pair(
    row: dict[str, Any], before: LabelledRun, after: LabelledRun, album: Album
) -> dict[str, Any] | None:
    """An image as both runs labelled it; None where it or a label map is not there."""
    rgb = after.picture(row["file_name"])
    if rgb is None:
        rgb = before.picture(row["file_name"])
    if rgb is None:
        return None
    drawn = {}
    for word, run in (("before", before), ("after", after)):
        images = run.tables.images
        image = next(images[images["file_name"] == row["file_name"]].itertuples())
        drawn[word] = labelled_picture(run, image, album, _SIDE, rgb)
    return None if None in drawn.values() else {**row, **drawn}
