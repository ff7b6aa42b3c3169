"""Published numbers to stand beside ours; none of them was run by us."""

import functools
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

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


@dataclass(frozen=True, slots=True)
class Published:
    """One row of somebody's table, percent.

    Attributes:
        method: its name.
        training: what it learned the names from.
        group: `papers` (U-SAM, GranSAM and what they compare with) or `best`.
        source: where the number stands.
        note: what makes it less comparable.
        miou: mean IoU, background included; None if not given.
        map50: mask mAP50; None if not given.
    """

    method: str
    training: str
    group: str
    source: str
    note: str
    miou: float | None
    map50: float | None


def published_rows(benchmark: str) -> list[Published]:
    """Return the rows that give a number for a benchmark, the papers' first."""
    return [
        Published(
            method=row["method"],
            training=row["training"],
            group=row["group"],
            source=row["source"],
            note=row.get("note", ""),
            miou=row[benchmark].get("miou"),
            map50=row[benchmark].get("map50"),
        )
        for row in _read()
        if benchmark in row
    ]


def papers_classwise(benchmark: str) -> dict[str, list[float]]:
    """Return the papers' class-wise IoU, background first, by what they learned from."""
    if benchmark != "voc21":
        return {}
    return {
        training: [float(value) for value in values.split()]
        for training, values in PAPERS_CLASSWISE.items()
    }


@functools.cache
def _read() -> list[dict[str, Any]]:
    text = resources.files("usam_core.bench").joinpath("published.yaml").read_text("utf-8")
    return yaml.safe_load(text)
