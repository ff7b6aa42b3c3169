"""How good it is: stated probabilities, metrics where there is truth, and what was left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from usam_core.inference.reliability import expected_calibration_error
from usam_core.report.charts import reliability_diagram

_MAX_CONFUSED = 25
_MAX_PAIRS = 10
_MAX_QUARANTINED = 200


def calibration_part(table: pd.DataFrame, what: str) -> dict[str, Any]:
    """Return a reliability diagram with its error and table.

    Args:
        table: as `usam_core.inference.reliability.reliability` gives it.
        what: which masks it speaks of.
    """
    error = expected_calibration_error(table)
    masks = int(table["masks"].sum())
    said = "no masks" if error is None else f"expected calibration error {error:.3f}"
    alt = f"reliability of {masks} {what}: {said}"
    rows = table.dropna().to_dict("records")
    return {
        "what": what,
        "ece": error,
        "masks": masks,
        "rows": rows,
        "chart": reliability_diagram(table, alt),
    }


def metrics_part(
    metrics: Mapping[str, Any], per_class: pd.DataFrame, summary: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the measured numbers of a run that has truth.

    Args:
        metrics: what `metrics.json` says.
        per_class: `per_class.csv`.
        summary: of the evaluate step.
    """
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


def quarantine_part(bad: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the images that could not be used.

    Args:
        bad: path, code and reason of each.
    """
    return {
        "count": len(bad),
        "codes": Counter(one["code"] for one in bad).most_common(),
        "rows": list(bad[:_MAX_QUARANTINED]),
        "more": max(0, len(bad) - _MAX_QUARANTINED),
    }


def _confusion(names: Sequence[str], pixels: np.ndarray) -> dict[str, Any]:
    """Return the classes with most pixels, and what share of each one's truth went where."""
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
