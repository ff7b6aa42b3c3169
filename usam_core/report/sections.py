"""Parts of the page around the labels: settings and lineage, training, measured quality."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from usam_core.config.schema import ProjectConfig
from usam_core.inference.reliability import expected_calibration_error
from usam_core.lineage.chain import Chain, Link, facts, made_by, short
from usam_core.outputs.sheets import thumbnail
from usam_core.report.difference import as_text, changed_settings
from usam_core.report.page import Album, Picture, reliability_diagram

_NEVER_DEFAULT = ("classes", "name", "images.path")
_MAX_CONFUSED = 25
_MAX_PAIRS = 10
_MAX_QUARANTINED = 200
_SIDE = 88
_MAX_PER_CLASS = 6
_MAX_PICTURES = 300


def own_settings(config: Mapping[str, Any]) -> list[dict[str, str]]:
    """The settings of a project, JSON-like, that are not the default: key, value, default."""
    required = {"classes": config["classes"], "images": {"path": config["images"]["path"]}}
    default = ProjectConfig.model_validate(required).model_dump(mode="json")
    return [
        {"key": key, "value": as_text(value), "other": as_text(usual)}
        for key, usual, value in changed_settings(default, config)
        # A run of an older usam does not know newer sections.
        if key not in _NEVER_DEFAULT and key.split(".")[0] in config
    ]


def chain_steps(chain: Chain) -> list[dict[str, Any]]:
    """Every step that the labels were made by, the last one first."""
    return [_step(link) for link in chain.links.values()]


def _step(link: Link) -> dict[str, Any]:
    if link.document is None:
        return {"step": link.step, "path": link.path, "facts": [], "by": None, "current": False}
    return {
        "step": link.step,
        "path": link.path,
        "sha256": short(link.sha256),
        "current": link.current,
        "finished": link.document["finished"],
        "by": f"{made_by(link.document)}; seed {link.document['seed']}",
        "facts": [
            {"name": fact.name, "text": fact.text, "sha256": short(fact.sha256)}
            for fact in facts(link.document)
        ],
    }


def training_rows(
    names: list[str], kept: pd.DataFrame, dropped: pd.DataFrame, album: Album
) -> list[dict[str, Any]]:
    """The pictures of each class: counts, reasons, thumbnails.

    Args:
        names: the classes, then the negatives.
        kept: the manifest of `collect`, its paths absolute.
        dropped: class, origin, code and reason of the other pictures.
        album: takes the thumbnails.
    """
    most = max(1, min(_MAX_PER_CLASS, _MAX_PICTURES // max(1, 2 * len(names))))
    rows = []
    for name in names:
        own, others = kept[kept["class"] == name], dropped[dropped["class"] == name]
        # Spread over the list: neighbors come from one place and look alike.
        shown = own.iloc[:: max(1, len(own) // most)].head(most)
        pictures = [
            _thumbnail(path, f"training picture of {name}, from {source}", album)
            for path, source in zip(shown["path"], shown["source"], strict=True)
        ]
        codes = others["code"].value_counts()
        rows.append(
            {
                "name": name,
                "kept": len(own),
                "dropped": len(others),
                "codes": [f"{count} {code}" for code, count in codes.items()],
                "pictures": [picture for picture in pictures if picture is not None],
                "refused": _dropped(name, others, most, album),
            }
        )
    return rows


def _dropped(name: str, table: pd.DataFrame, most: int, album: Album) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    # One of each reason first, so that every reason is seen.
    order = table.groupby("code").cumcount().sort_values(kind="stable").index
    for row in table.loc[order].itertuples():
        if len(shown) == most:
            break
        picture = _thumbnail(row.origin, f"dropped picture of {name}: {row.reason}", album)
        if picture is not None:
            shown.append({"picture": picture, "code": row.code, "reason": row.reason})
    return shown


def _thumbnail(path: str, alt: str, album: Album) -> Picture | None:
    small = thumbnail(path, _SIDE)
    return None if small is None else album.add(small, _SIDE, alt)


def calibration_part(table: pd.DataFrame, what: str) -> dict[str, Any]:
    """A reliability diagram of masks, described by `what`, with its error and table."""
    error = expected_calibration_error(table)
    masks = int(table["masks"].sum())
    words = "no masks" if error is None else f"expected calibration error {error:.3f}"
    return {
        "what": what,
        "ece": error,
        "masks": masks,
        "rows": table.dropna().to_dict("records"),
        "chart": reliability_diagram(table, f"reliability of {masks} {what}: {words}"),
    }


def metrics_part(
    metrics: Mapping[str, Any], per_class: pd.DataFrame, summary: Mapping[str, Any]
) -> dict[str, Any]:
    """The scores of a run that has truth, from `metrics.json`, `per_class.csv`, the summary."""
    names = metrics["confusion"]["names"]
    pixels = np.array(metrics["confusion"]["pixels"], np.int64)
    return {
        **{key: summary[key] for key in ("images", "miou", "map50", "without_truth")},
        "accuracy": metrics["semantic"]["pixel_accuracy"],
        "notes": summary["truth_notes"],
        "rows": per_class.astype(object).where(per_class.notna(), None).to_dict("records"),
        "confusion": _confusion(names, pixels),
        "pairs": _pairs(names, pixels),
    }


def _confusion(names: Sequence[str], pixels: np.ndarray) -> dict[str, Any]:
    """The classes with most pixels, and the share of each one's truth by label."""
    weight = pixels.sum(0) + pixels.sum(1)
    chosen = np.sort(np.argsort(-weight, kind="stable")[:_MAX_CONFUSED])
    share = pixels / np.maximum(1, pixels.sum(1, keepdims=True))
    return {
        "names": [names[n] for n in chosen],
        "rows": [
            {"name": names[n], "pixels": int(pixels[n].sum()), "shares": share[n, chosen].tolist()}
            for n in chosen
        ],
        "left_out": len(names) - len(chosen),
    }


def _pairs(names: Sequence[str], pixels: np.ndarray) -> list[dict[str, Any]]:
    """The pairs of truth and label that most pixels are confused of."""
    wrong = pixels.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_PAIRS]
    places = (np.unravel_index(number, wrong.shape) for number in order)
    return [
        {
            "truth": names[row],
            "label": names[column],
            "share": float(wrong[row, column] / pixels[row].sum()),
        }
        for row, column in places
        if wrong[row, column]
    ]


def quarantine_part(bad: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The images that could not be used: path, code and reason of each."""
    return {
        "count": len(bad),
        "codes": Counter(one["code"] for one in bad).most_common(),
        "rows": list(bad[:_MAX_QUARANTINED]),
        "more": max(0, len(bad) - _MAX_QUARANTINED),
    }
