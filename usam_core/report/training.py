"""What taught the head: pictures kept and dropped of each class, and why."""

from typing import Any

import pandas as pd

from usam_core.outputs.picture_sheet import thumbnail
from usam_core.report.pictures import Album, Picture

_SIDE = 88
_MAX_PER_CLASS = 6
_MAX = 300


def training_rows(
    names: list[str], kept: pd.DataFrame, dropped: pd.DataFrame, album: Album
) -> list[dict[str, Any]]:
    """Return what stands about the pictures of each class.

    Args:
        names: the classes, then the negatives.
        kept: the manifest of `collect`, its paths absolute.
        dropped: class, origin, code and reason of what was not kept.
        album: takes the thumbnails.
    """
    most = max(1, min(_MAX_PER_CLASS, _MAX // max(1, 2 * len(names))))
    rows = []
    for name in names:
        own, others = kept[kept["class"] == name], dropped[dropped["class"] == name]
        codes = others["code"].value_counts()
        rows.append(
            {
                "name": name,
                "kept": len(own),
                "dropped": len(others),
                "codes": [f"{count} {code}" for code, count in codes.items()],
                "pictures": _kept(name, own, most, album),
                "refused": _dropped(name, others, most, album),
            }
        )
    return rows


def _kept(name: str, table: pd.DataFrame, most: int, album: Album) -> list[Picture]:
    # Spread over the list: neighbours come from one place and look alike.
    chosen = table.iloc[:: max(1, len(table) // most)].head(most)
    found = [
        _add(path, f"training picture of {name}, from {source}", album)
        for path, source in zip(chosen["path"], chosen["source"], strict=True)
    ]
    return [picture for picture in found if picture is not None]


def _dropped(name: str, table: pd.DataFrame, most: int, album: Album) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    # One of each reason first, so that every reason is seen.
    order = table.groupby("code").cumcount().sort_values(kind="stable").index
    for row in table.loc[order].itertuples():
        if len(found) == most:
            break
        picture = _add(row.origin, f"dropped picture of {name}: {row.reason}", album)
        if picture is not None:
            found.append({"picture": picture, "code": row.code, "reason": row.reason})
    return found


def _add(path: str, alt: str, album: Album) -> Picture | None:
    small = thumbnail(path, _SIDE)
    return None if small is None else album.add(small, _SIDE, alt)
