"""How far stated probabilities are from what happened: table, error, diagram."""

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

BINS = 10
_SIDE, _MARGIN = 360, 48


def reliability(sure: np.ndarray, right: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Return one row a bin of equal width: low, high, masks, confidence, accuracy.

    Confidence is the mean of what was stated and accuracy the share that was right; both missing
    in an empty bin.

    Args:
        sure: (p,), stated probabilities, 0 to 1.
        right: bool (p,).
        bins: how many.
    """
    place = np.minimum((sure * bins).astype(int), bins - 1)
    masks = np.bincount(place, minlength=bins)
    filled = np.where(masks > 0, masks, np.nan)
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "masks": masks,
            "confidence": np.bincount(place, sure, bins) / filled,
            "accuracy": np.bincount(place, right.astype(float), bins) / filled,
        }
    )


def expected_calibration_error(table: pd.DataFrame) -> float | None:
    """Return the mean gap between confidence and accuracy, weighted by masks; None of no masks.

    Naeini et al. 2015; Guo et al. 2017, equation 3.
    """
    masks = table["masks"].sum()
    if not masks:
        return None
    gaps = (table["confidence"] - table["accuracy"]).abs().fillna(0)
    return float((gaps * table["masks"]).sum() / masks)


def diagram(table: pd.DataFrame, title: str) -> Image.Image:
    """Draw accuracy against confidence; the diagonal is what should be.

    The width of a bar's foot line is the bin's share of all masks.
    """
    size = _SIDE + 2 * _MARGIN
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)

    def at(x: float, y: float) -> tuple[float, float]:
        return _MARGIN + x * _SIDE, _MARGIN + (1 - y) * _SIDE

    most = table["masks"].max()
    for row in table.dropna().itertuples():
        draw.rectangle([at(row.low, row.accuracy), at(row.high, 0)], "#9ecae1", "#3182bd")
        width = (row.high - row.low) * row.masks / most
        x, y = at(row.low, 0)
        draw.rectangle([x, y + 2, x + width * _SIDE, y + 6], "#08519c")
    draw.line([at(0, 0), at(1, 1)], "#cb181d", 2)
    draw.rectangle([at(0, 1), at(1, 0)], outline="black")
    # An anchor says which point of a text stands at its place: left, middle, right; top, middle.
    for tick in (0.0, 0.5, 1.0):
        x, y = at(tick, 0)
        draw.text((x, y + 10), f"{tick:g}", "black", anchor="mt")
        x, y = at(0, tick)
        draw.text((x - 6, y), f"{tick:g}", "black", anchor="rm")
    draw.text((_MARGIN, 6), title, "black", anchor="lt")
    draw.text((size / 2, size - 14), "stated probability", "black", anchor="mt")
    draw.text((4, _MARGIN - 22), "share that was right", "black", anchor="lt")
    return picture
