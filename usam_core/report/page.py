"""One HTML file with its charts and pictures: no script, no request, no other file.

Charts are inline SVG, drawn with the page's own colors, so that they follow light and dark. Each is
one picture to a screen reader, with a sentence; the numbers stand in tables beside it.
"""

import base64
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image, ImageOps
from scipy import ndimage

from usam_core.files.text import escape_control

TEMPLATES = Path(__file__).parent / "templates"
AREA_TICKS = ((0.0, "0.01%"), (0.25, "0.1%"), (0.5, "1%"), (0.75, "10%"), (1.0, "100%"))

_WIDTH, _HEIGHT = 240, 110
_LEFT, _BOTTOM, _TOP, _RIGHT = 34, 18, 8, 18
_SIDE = 240
_QUALITY = 70
_MARGIN = 0.35
_MIN_SIDE = 48
_OPACITY = 0.35


def render(template: str, **content: Any) -> str:
    """Render a template of `TEMPLATES` with its variables.

    Names of files and classes are the user's: all text is escaped, and what would turn or hide
    text (control characters, marks of direction) is spelled out.
    """
    return _pages().get_template(template).render(**content)


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent; a small one never reads as nothing.

    >>> percent(0.1234), percent(0.00001), percent(0), percent(None)
    ('12.3%', '<0.1%', '0.0%', '–')
    """
    if share is None:
        return "–"
    smallest = 10.0 ** -(digits + 2)
    if 0 < abs(share) < smallest:
        return f"{'-' if share < 0 else ''}<{smallest * 100:.{digits}f}%"
    return f"{share * 100:.{digits}f}%"


def number(value: float | None, digits: int = 3) -> str:
    """A number for people.

    >>> number(12345), number(0.12345), number(None)
    ('12,345', '0.123', '–')
    """
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, Integral) else f"{value:.{digits}f}"


def moment(iso: str) -> str:
    """A time for people, of what `datetime.isoformat` wrote.

    >>> moment("2026-11-28T13:42:31+00:00")
    '2026-11-28 13:42 UTC'
    """
    date, _, clock = iso.partition("T")
    return (
        f"{date} {clock[:5]}{' UTC' if clock.endswith('+00:00') else clock[8:]}" if clock else iso
    )


@functools.cache
def _pages() -> Environment:
    pages = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spelled,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"percent": percent, "number": number, "moment": moment}
    return pages


def _spelled(value: Any) -> Any:
    is_plain = isinstance(value, str) and not isinstance(value, Markup)
    return escape_control(value) if is_plain else value


def histogram(
    counts: Sequence[int],
    ticks: Sequence[tuple[float, str]],
    alt: str,
    mark: float | None = None,
) -> Markup:
    """Draw bars of one width.

    Args:
        counts: of each bin.
        ticks: places below the axis, 0 to 1, and their texts.
        alt: the chart in words.
        mark: place of a vertical line, 0 to 1, such as a threshold.
    """
    largest = max(1, *counts)
    plot_w, plot_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM - _TOP
    step = plot_w / len(counts)
    parts = [
        f'<rect class="bar" x="{_LEFT + n * step + 0.5:.1f}" '
        f'y="{_TOP + plot_h * (1 - count / largest):.1f}" '
        f'width="{step - 1:.1f}" height="{plot_h * count / largest:.1f}"/>'
        for n, count in enumerate(counts)
        if count
    ]
    parts.append(_line(_LEFT, _TOP + plot_h, _LEFT + plot_w, _TOP + plot_h, "axis"))
    parts += [_text(_LEFT + at * plot_w, _HEIGHT - 4, word, "middle") for at, word in ticks]
    parts.append(_text(_LEFT - 4, _TOP + 8, f"{largest:,}", "end"))
    if mark is not None:
        x = _LEFT + mark * plot_w
        parts.append(_line(x, _TOP, x, _TOP + plot_h, "mark"))
    return _svg(_WIDTH, _HEIGHT, alt, parts)


def reliability_diagram(table: pd.DataFrame, alt: str) -> Markup:
    """Draw the share that was right against the stated one; the line is the ideal.

    `table` is as `usam_core.inference.reliability.reliability` gives it.
    """
    plot = _SIDE - _LEFT - _BOTTOM
    largest = max(1, int(table["masks"].max()))

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x * plot, _TOP + (1 - y) * plot

    parts = []
    for row in table.dropna().itertuples():
        x, y = at(row.low, row.accuracy)
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" '
            f'width="{(row.high - row.low) * plot - 1:.1f}" height="{row.accuracy * plot:.1f}" '
            f'opacity="{0.35 + 0.65 * row.masks / largest:.2f}"/>'
        )
    parts += [_line(*at(0, 0), *at(1, 1), "mark"), _line(*at(0, 0), *at(1, 0), "axis")]
    parts.append(_line(*at(0, 0), *at(0, 1), "axis"))
    for tick in (0.0, 0.5, 1.0):
        parts.append(_text(at(tick, 0)[0], at(0, 0)[1] + 14, f"{tick:g}", "middle"))
        parts.append(_text(_LEFT - 4, at(0, tick)[1] + 4, f"{tick:g}", "end"))
    return _svg(_SIDE, _SIDE, alt, parts)


def score_bins(scores: np.ndarray, bins: int = 20) -> list[int]:
    """Histogram of scores, 0 to 1, in bins of equal width."""
    return np.histogram(scores, bins, (0.0, 1.0))[0].tolist()


def area_bins(shares: np.ndarray, bins: int = 20) -> list[int]:
    """Histogram of shares of an image in bins of equal ratio from 1e-4 to 1."""
    return np.histogram(np.log10(np.clip(shares, 1e-4, 1.0)), bins, (-4.0, 0.0))[0].tolist()


def _svg(width: float, height: float, alt: str, parts: Sequence[str]) -> Markup:
    words = escape(escape_control(alt))
    return Markup(
        f'<svg class="chart" role="img" aria-label="{words}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">'
        f"<title>{words}</title>{''.join(parts)}</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in the page: a data URI, columns, rows, and its content in words."""

    uri: str
    width: int
    height: int
    alt: str


class Album:
    """Makes pictures until they weigh `max_bytes`, and counts those `left_out`."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self.left_out = 0

    def add(self, rgb: np.ndarray | Image.Image, side: int, alt: str) -> Picture | None:
        """A picture with at most `side` rows and columns, or None if there is no room."""
        image = rgb if isinstance(rgb, Image.Image) else Image.fromarray(rgb)
        if max(image.size) > side:
            image = ImageOps.contain(image, (side, side))
        buffer = io.BytesIO()
        image.save(buffer, format="WEBP", quality=_QUALITY, method=4)
        uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        if len(uri) > self._left:
            self.left_out += 1
            return None
        self._left -= len(uri)
        return Picture(uri, image.width, image.height, alt)


def crop_of_mask(
    rgb: np.ndarray, mask: np.ndarray, box_xywh: Sequence[float], color: np.ndarray
) -> np.ndarray:
    """The surroundings of a mask with the mask drawn over them, uint8 (h, w, 3)."""
    x, y, w, h = box_xywh
    side = max(w, h, _MIN_SIDE / (1 + 2 * _MARGIN)) * (1 + 2 * _MARGIN)
    window = tuple(
        slice(max(0, int(middle - side / 2)), min(size, int(np.ceil(middle + side / 2))))
        for middle, size in zip((y + h / 2, x + w / 2), mask.shape, strict=True)
    )
    shown, part = rgb[window].astype(np.float32), mask[window]
    # As thick as will be seen when the crop is reduced.
    thick = max(1, max(part.shape) // 120)
    border = part & ~ndimage.binary_erosion(part, iterations=thick)
    shown[part] = shown[part] * (1 - _OPACITY) + color.astype(np.float32) * _OPACITY
    shown[border] = color
    around = ndimage.binary_dilation(part, iterations=thick) & ~part
    shown[around] = 255  # a dark color on a dark image would not be seen
    return shown.astype(np.uint8)


def enlarged(labels: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """A label map at another size, each pixel the nearest one's."""
    if labels.shape == tuple(size_hw):
        return labels
    rows, columns = (
        np.arange(side) * old // side for side, old in zip(size_hw, labels.shape, strict=True)
    )
    return labels[rows][:, columns]
