"""Charts as inline SVG: drawn with the page's own colours, so that they follow light and dark.

Each is one picture to a screen reader, with a sentence; the numbers stand in tables beside it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from usam_core.files.text import escape_control

_WIDTH, _HEIGHT = 240, 110
_LEFT, _BOTTOM, _TOP, _RIGHT = 34, 18, 8, 18
_SIDE = 240


def histogram(
    counts: Sequence[int],
    ticks: Sequence[tuple[float, str]],
    alt: str,
    mark: float | None = None,
) -> Markup:
    """Draw bars of one width.

    Args:
        counts: how many in each bin.
        ticks: places below the axis, 0 to 1, and what stands there.
        alt: what the chart shows, in words.
        mark: place of a vertical line, 0 to 1, such as a threshold.
    """
    most = max(1, *counts)
    plot_w, plot_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM - _TOP
    step = plot_w / len(counts)
    parts = [
        f'<rect class="bar" x="{_LEFT + n * step + 0.5:.1f}" '
        f'y="{_TOP + plot_h * (1 - count / most):.1f}" '
        f'width="{step - 1:.1f}" height="{plot_h * count / most:.1f}"/>'
        for n, count in enumerate(counts)
        if count
    ]
    parts.append(_line(_LEFT, _TOP + plot_h, _LEFT + plot_w, _TOP + plot_h, "axis"))
    parts += [_text(_LEFT + at * plot_w, _HEIGHT - 4, word, "middle") for at, word in ticks]
    parts.append(_text(_LEFT - 4, _TOP + 8, f"{most:,}", "end"))
    if mark is not None:
        x = _LEFT + mark * plot_w
        parts.append(_line(x, _TOP, x, _TOP + plot_h, "mark"))
    return _svg(_WIDTH, _HEIGHT, alt, parts)


def reliability_diagram(table: pd.DataFrame, alt: str) -> Markup:
    """Draw the share that was right against what was stated; the line is what should be.

    Args:
        table: as `usam_core.inference.reliability.reliability` gives it.
        alt: what the chart shows, in words.
    """
    plot = _SIDE - _LEFT - _BOTTOM
    most = max(1, int(table["masks"].max()))

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x * plot, _TOP + (1 - y) * plot

    parts = []
    for row in table.dropna().itertuples():
        x, y = at(row.low, row.accuracy)
        width = (row.high - row.low) * plot - 1
        height = row.accuracy * plot
        opacity = 0.35 + 0.65 * row.masks / most
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" opacity="{opacity:.2f}"/>'
        )
    parts += [_line(*at(0, 0), *at(1, 1), "mark"), _line(*at(0, 0), *at(1, 0), "axis")]
    parts.append(_line(*at(0, 0), *at(0, 1), "axis"))
    for tick in (0.0, 0.5, 1.0):
        parts.append(_text(at(tick, 0)[0], at(0, 0)[1] + 14, f"{tick:g}", "middle"))
        parts.append(_text(_LEFT - 4, at(0, tick)[1] + 4, f"{tick:g}", "end"))
    return _svg(_SIDE, _SIDE, alt, parts)


def score_bins(scores: np.ndarray, bins: int = 20) -> list[int]:
    """Return how many scores, 0 to 1, lie in each of the bins of equal width."""
    return np.histogram(scores, bins, (0.0, 1.0))[0].tolist()


AREA_TICKS = ((0.0, "0.01%"), (0.25, "0.1%"), (0.5, "1%"), (0.75, "10%"), (1.0, "100%"))


def area_bins(shares: np.ndarray, bins: int = 20) -> list[int]:
    """Return how many shares of an image lie in bins of equal ratio from 1e-4 to 1."""
    place = np.log10(np.clip(shares, 1e-4, 1.0))
    return np.histogram(place, bins, (-4.0, 0.0))[0].tolist()


def _svg(width: float, height: float, alt: str, parts: Sequence[str]) -> Markup:
    said = escape(escape_control(alt))
    return Markup(
        f'<svg class="chart" role="img" aria-label="{said}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">'
        f"<title>{said}</title>{''.join(parts)}</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
