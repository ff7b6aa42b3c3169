"""A chain as a picture: what each step was made of, from the beginnings above to the output below.

SVG, which a browser shows anywhere, in a page of Markdown too; it holds its own colors.
"""

from base64 import b64encode
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from usam_core.files.text import escape_control
from usam_core.lineage.chain import Chain, Link, facts, short

_DRAWN = ("images", "truth", "pictures", "checkpoint")
"""Facts that are boxes of their own: where a chain begins."""
_WIDTH, _HEIGHT = 230, 58
_GAP, _BELOW, _EDGE = 90, 30, 12
_BULGE = 20
"""How far out an edge goes for each row that it passes."""
_LONGEST = 34
"""Letters of a line; the table has all of them."""
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1d2330}.t{font-weight:600}.s{fill:#59627a}"
    ".b{fill:#fff;stroke:#59627a}.o{fill:#eaf1fb;stroke:#1557b0}"
    ".e{fill:none;stroke:#59627a;stroke-width:1.3}"
)


class _Box(NamedTuple):
    lines: tuple[str, ...]
    is_origin: bool


def svg(chain: Chain) -> tuple[str, int, int]:
    """Draw a chain: beginnings on the left, steps below each other on the right.

    Returns:
        The picture, its width and its height, pixels.
    """
    boxes, edges = _graph(chain)
    column = _column(boxes, edges)
    right = _EDGE + (_WIDTH + _GAP if any(box.is_origin for box in boxes.values()) else 0)
    places = {name: (right, _EDGE + n * (_HEIGHT + _BELOW)) for n, name in enumerate(column)}
    needed = {
        name: min(column.index(below) for above, below in edges if above == name)
        for name, box in boxes.items()
        if box.is_origin
    }
    last = -1
    for name in sorted(needed, key=needed.__getitem__):
        last = max(last + 1, needed[name])
        places[name] = (_EDGE, _EDGE + last * (_HEIGHT + _BELOW))
    rows = max(len(column), last + 1)
    height = rows * (_HEIGHT + _BELOW) - _BELOW + 2 * _EDGE
    farthest = max(
        (column.index(b) - column.index(a) for a, b in edges if not boxes[a].is_origin), default=1
    )
    width = right + _WIDTH + _EDGE + (_BULGE * farthest if farthest > 1 else 0)
    parts = [f'<rect width="{width}" height="{height}" fill="#fff"/>']
    parts += [_edge(places[above], places[below], boxes[above]) for above, below in edges]
    parts += [_drawn(boxes[name], *places[name]) for name in boxes]
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img"><style>{_STYLE}</style>{"".join(parts)}</svg>'
    )
    return drawn, width, height


def data_uri(chain: Chain) -> tuple[str, int, int]:
    """The picture as an address that holds it itself; its width and height, pixels."""
    drawn, width, height = svg(chain)
    return f"data:image/svg+xml;base64,{b64encode(drawn.encode()).decode()}", width, height


def in_words(chain: Chain) -> str:
    """What the picture shows, for whoever does not see it."""
    told = [link.step for link in chain.links.values()]
    return f"{told[0]} and the steps it was made from: {', '.join(told[1:]) or 'none'}"


def _graph(chain: Chain) -> tuple[dict[str, _Box], list[tuple[str, str]]]:
    names = {key: f"step {number}" for number, key in enumerate(chain.links)}
    boxes: dict[str, _Box] = {}
    edges: list[tuple[str, str]] = []
    for key, link in chain.links.items():
        when = "no document"
        if link.document:
            when = link.document["finished"][:16].replace("T", " ")
            when += "" if link.current else ", has run again"
        boxes[names[key]] = _Box((link.step, when, short(link.sha256)), False)
        for lines in _origins(link):
            # A checkpoint that several steps read is one box.
            origin = "\n".join(lines)
            boxes[origin] = _Box(lines, True)
            edges.append((origin, names[key]))
        edges += [(names[parent], names[key]) for parent in link.parents]
    return boxes, edges


def _origins(link: Link) -> Iterator[tuple[str, ...]]:
    for fact in facts(link.document) if link.document else []:
        # Later steps read the pictures from `collect`.
        if fact.name in _DRAWN and (fact.name != "pictures" or link.step == "collect"):
            yield fact.name, fact.text, short(fact.sha256)


def _column(boxes: dict[str, _Box], edges: list[tuple[str, str]]) -> list[str]:
    """The steps from above to below: each below all that it was made from."""
    depth = dict.fromkeys(boxes, 0)
    for _ in boxes:
        for above, below in edges:
            depth[below] = max(depth[below], depth[above] + 1)
    return sorted((name for name, box in boxes.items() if not box.is_origin), key=depth.__getitem__)


def _edge(start: tuple[int, int], end: tuple[int, int], above: _Box) -> str:
    (x1, y1), (x2, y2) = start, end
    rows = (y2 - y1) // (_HEIGHT + _BELOW)
    if above.is_origin:  # from side to side, in the gap between the columns
        x1, y1, y2 = x1 + _WIDTH, y1 + _HEIGHT // 2, y2 + _HEIGHT // 2
        bends, tip = (x1 + _GAP // 2, y1, x2 - _GAP // 2, y2), (-7, -4, -7, 4)
    elif rows == 1:
        x1, x2, y1 = x1 + _WIDTH // 2, x2 + _WIDTH // 2, y1 + _HEIGHT
        bends, tip = (x1, y1, x2, y2), (-4, -7, 4, -7)
    else:  # around the steps between
        x1, x2, y1, y2 = x1 + _WIDTH, x2 + _WIDTH, y1 + _HEIGHT // 2, y2 + _HEIGHT // 2
        out = x1 + round(_BULGE * rows * 4 / 3)
        bends, tip = (out, y1, out, y2), (7, -4, 7, 4)
    a, b, c, d = bends
    return (
        f'<path class="e" d="M{x1} {y1}C{a} {b} {c} {d} {x2} {y2}"/>'
        f'<path d="M{x2 + tip[0]} {y2 + tip[1]}L{x2} {y2}L{x2 + tip[2]} {y2 + tip[3]}z" '
        'fill="#59627a"/>'
    )


def _drawn(box: _Box, x: int, y: int) -> str:
    lines = [
        f'<text class="{kind}" x="{x + _WIDTH // 2}" y="{y + 18 + 16 * n}" '
        f'text-anchor="middle">{_text(line)}</text>'
        for n, (line, kind) in enumerate(zip(box.lines, ("t", "", "s"), strict=True))
    ]
    radius, kind = (16, "o") if box.is_origin else (5, "b")
    return (
        f'<rect class="{kind}" x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'rx="{radius}"/>{"".join(lines)}'
    )


def _text(line: str) -> str:
    plain = escape_control(line)
    return escape(plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…")
