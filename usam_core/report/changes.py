"""What changed between two runs, as it stands in the page: tables, and images side by side."""

from typing import Any

from usam_core.report.about import as_text
from usam_core.report.difference import Difference
from usam_core.report.found import labelled_picture
from usam_core.report.pictures import Album
from usam_core.report.runs import LabelledRun

MAX_IMAGES = 8
_MAX_ROWS = 50
_SIDE = 360


def changes_part(
    difference: Difference,
    before: LabelledRun,
    after: LabelledRun,
    album: Album,
    most: int = MAX_IMAGES,
) -> dict[str, Any]:
    """Return what the page says of a difference.

    Args:
        difference: between `before` and `after`.
        before: the first run.
        after: the second run.
        album: takes the pictures.
        most: images that changed most, to be shown side by side.
    """
    changed = difference.images
    rows = changed.head(_MAX_ROWS).to_dict("records")
    return {
        "before": difference.before,
        "after": difference.after,
        "settings": [
            {"key": key, "before": as_text(old), "after": as_text(new)}
            for key, old, new in difference.settings
        ],
        "classes": difference.classes.to_dict("records"),
        "rows": rows,
        "more": len(changed) - len(rows),
        "changed": len(changed),
        "same": difference.same,
        "added": difference.added[:_MAX_ROWS],
        "added_count": len(difference.added),
        "removed": difference.removed[:_MAX_ROWS],
        "removed_count": len(difference.removed),
        "replaced": difference.replaced[:_MAX_ROWS],
        "replaced_count": len(difference.replaced),
        "pairs": [pair for row in rows[:most] if (pair := _pair(row, before, after, album))],
    }


def _pair(
    row: dict[str, Any], before: LabelledRun, after: LabelledRun, album: Album
) -> dict[str, Any] | None:
    """Return an image as both runs labelled it; None where it or a label map is not there."""
    rgb = after.picture(row["file_name"])
    if rgb is None:
        rgb = before.picture(row["file_name"])
    if rgb is None:
        return None
    drawn = []
    for run in (before, after):
        images = run.tables.images
        image = next(images[images["file_name"] == row["file_name"]].itertuples())
        drawn.append(labelled_picture(run, image, album, _SIDE, rgb))
    if None in drawn:
        return None
    return {**row, "before": drawn[0], "after": drawn[1]}
