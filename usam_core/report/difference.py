"""What differs between two sets of labels: images, classes, settings."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from usam_core.labels.label_map import LabelMap
from usam_core.report.matching import ByImage, instances_by_image, unmatched
from usam_core.report.runs import LabelledRun, reduced


@dataclass(frozen=True)
class Difference:
    """What changed from one run to another.

    Attributes:
        before: name, finished, images, instances and coverage of the first run.
        after: the same of the second.
        settings: what the project file said: key, before, after.
        classes: one row a class, most changed first: class, share_before, share_after,
            instances_before, instances_after, gained, lost.
        images: one row a changed image, most changed first: file_name, changed (share of its
            pixels), measured (`pixels`, `copy`, `least`), gained, lost.
        same: images with the same labels.
        added: names of images of the second run alone.
        removed: names of images of the first run alone.
        replaced: names of images whose content is another now.
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
        """Return everything as a JSON-like mapping."""
        names = ("key", "before", "after")
        return {
            "before": self.before,
            "after": self.after,
            "settings": [dict(zip(names, row, strict=True)) for row in self.settings],
            "classes": self.classes.to_dict("records"),
            "images": self.images.to_dict("records"),
            "same": self.same,
            "added": self.added,
            "removed": self.removed,
            "replaced": self.replaced,
        }


def compare_runs(before: LabelledRun, after: LabelledRun) -> Difference:
    """Return what changed.

    Images are the same by file name and content, classes by name. How many pixels changed is
    counted on the label PNGs where both runs have theirs, on reduced copies where the report kept
    those, and else bounded from below by the classes' numbers of pixels.
    """
    names = list(dict.fromkeys([*after.classes, *before.classes]))
    both = after.tables.images.merge(
        before.tables.images.assign(number=np.arange(len(before.tables.images))),
        on="file_name",
        suffixes=("", "_before"),
    )
    both["now"] = _rows(after, both["file_name"])
    replaced = both[both["sha256"] != both["sha256_before"]]
    both = both[both["sha256"] == both["sha256_before"]]
    pairs = _Pairs(before, after, names)
    rows = [row for row in map(pairs.compare, both.itertuples()) if row is not None]
    images = pd.DataFrame(rows, columns=["file_name", "changed", "measured", "gained", "lost"])
    images = images.sort_values(
        ["changed", "gained", "lost", "file_name"],
        ascending=[False, False, False, True],
        ignore_index=True,
    )
    known = [set(run.tables.images["file_name"]) for run in (before, after)]
    return Difference(
        before=_summary(before),
        after=_summary(after),
        settings=changed_settings(before.about["config"], after.about["config"]),
        classes=_classes(before, after, names, pairs),
        images=images,
        same=len(both) - len(images),
        added=sorted(known[1] - known[0]),
        removed=sorted(known[0] - known[1]),
        replaced=sorted(replaced["file_name"]),
    )


def changed_settings(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Return the settings that differ: dotted key, value before, value after.

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


class _Pairs:
    """Compares the images that both runs have, one at a time."""

    def __init__(self, before: LabelledRun, after: LabelledRun, names: list[str]) -> None:
        self._runs = before, after
        self._places = [_places(run.classes, names) for run in self._runs]
        self._cover = [ByImage(run.tables, "cover", ["label", "pixels"]) for run in self._runs]
        self._found = [instances_by_image(run.tables) for run in self._runs]
        self.gained, self.lost = np.zeros((2, len(names) + 1), np.int64)

    def compare(self, pair: Any) -> tuple[str, float, str, int, int] | None:
        """Return a row of `Difference.images`, or None where nothing changed."""
        was, now = self._boxes(0, pair.number), self._boxes(1, pair.now)
        gained, lost = unmatched(now, was), unmatched(was, now)
        np.add.at(self.gained, gained, 1)
        np.add.at(self.lost, lost, 1)
        # The same file may mean other classes.
        alike = pair.png_sha256 == pair.png_sha256_before
        if alike and self._runs[0].classes == self._runs[1].classes:
            changed, measured = 0.0, "pixels"
        else:
            changed, measured = self._pixels(pair)
        if not changed and not len(gained) and not len(lost):
            return None
        return pair.file_name, changed, measured, len(gained), len(lost)

    def _boxes(self, side: int, number: int) -> np.ndarray:
        found = self._found[side](number).copy()
        found[:, 0] = self._places[side][found[:, 0].astype(np.int64)]
        return found

    def _pixels(self, pair: Any) -> tuple[float, str]:
        maps = []
        for run, number in zip(self._runs, (pair.number, pair.now), strict=True):
            maps.append(run.labels(run.tables.images.iloc[number]))
            if maps[-1] is None:
                return self._least(pair), "least"
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

    def _least(self, pair: Any) -> float:
        counts = []
        for side, number in enumerate((pair.number, pair.now)):
            labels, pixels = self._cover[side](number).astype(np.int64).T
            counts.append(np.bincount(self._places[side][labels], pixels, len(self.gained)))
        return float(np.abs(counts[1] - counts[0]).sum() / 2 / max(1, counts[1].sum()))


def _rows(run: LabelledRun, file_names: pd.Series) -> np.ndarray:
    place = pd.Series(np.arange(len(run.tables.images)), index=run.tables.images["file_name"])
    return place.loc[file_names].to_numpy()


def _places(classes: list[str], names: list[str]) -> np.ndarray:
    """Return each label's place among the names of both runs; background stays 0."""
    ids = LabelMap.of_names(names).ids()
    return np.array([0, *(ids[name] for name in classes)])


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


def _classes(
    before: LabelledRun, after: LabelledRun, names: list[str], pairs: _Pairs
) -> pd.DataFrame:
    columns: dict[str, Any] = {"class": names}
    for word, run in (("before", before), ("after", after)):
        places, tables = _places(run.classes, names), run.tables
        pixels, count = np.zeros((2, len(names) + 1), np.int64)
        np.add.at(pixels, places[tables.cover["label"]], tables.cover["pixels"])
        np.add.at(count, places[tables.instances["label"]], 1)
        columns[f"share_{word}"] = pixels[1:] / max(1, tables.pixels)
        columns[f"instances_{word}"] = count[1:]
    table = pd.DataFrame({**columns, "gained": pairs.gained[1:], "lost": pairs.lost[1:]})
    order = (table["share_after"] - table["share_before"]).abs()
    return table.iloc[np.argsort(-order.to_numpy(), kind="stable")].reset_index(drop=True)
