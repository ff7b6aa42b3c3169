"""Masks as COCO's run lengths, and from them without painting a whole image for each."""

from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from scipy import ndimage

_LOW = 5
"""Bits of a number that one character holds."""
_MAX = 7
"""Characters of the longest number that pycocotools counts to."""
_MORE, _SIGN = 0x20, 0x10
_PAIRS = 1 << 20
"""Of sides of polygons, compared at a time."""


class Crop(NamedTuple):
    """The part of a mask that is not empty: its first row and column, and bool (rows, columns)."""

    top: int
    left: int
    mask: np.ndarray


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask, bool (h, w), as COCO's compressed RLE with a text `counts`."""
    return as_text(coco_mask.encode(np.asfortranarray(mask).view(np.uint8)))


def as_text(rle: dict[str, Any]) -> dict[str, Any]:
    """Return pycocotools' RLE, whose `counts` are bytes, as JSON can hold it."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode(rle: dict[str, Any]) -> np.ndarray:
    """Return bool (h, w) of what `encode` returned."""
    return coco_mask.decode(rle).astype(bool)


def run_lengths(counts: str) -> np.ndarray:
    """Return the lengths of the runs, int64, of COCO's compressed text; background comes first.

    Each number is written in characters of 5 bits, lowest first, and from the fourth on as its
    difference from the number two before it. Checked: pycocotools reads beyond a damaged end.

    Raises:
        ValueError: it is no such text, or a run is negative.

    >>> run_lengths("044").tolist()
    [0, 4, 4]
    """
    codes = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError("the RLE's counts are no text of COCO's")
    last = (codes & _MORE) == 0
    if not last[-1]:
        raise ValueError("the RLE's counts end within a run, or hold a negative one")
    first = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    sizes = np.diff(np.append(first, len(codes)))
    if sizes.max() > _MAX:
        raise ValueError("the RLE's counts are no text of COCO's")
    place = np.arange(len(codes)) - np.repeat(first, sizes)
    numbers = np.add.reduceat((codes & 0x1F) << (_LOW * place), first)
    negative = (codes[last] & _SIGN) != 0
    numbers[negative] -= np.int64(1) << (_LOW * sizes[negative])
    # From the fourth number on, what is written is the change since the one two before.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    if numbers.min() < 0:
        raise ValueError("the RLE's counts end within a run, or hold a negative one")
    return numbers


def pixels(rle: dict[str, Any]) -> np.ndarray:
    """Return the places of a mask's pixels, int64, counted down the columns of the image."""
    runs = run_lengths(rle["counts"])
    starts, lengths = (np.cumsum(runs) - runs)[1::2], runs[1::2]
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def crop(rle: dict[str, Any]) -> Crop:
    """Return the part of a mask that is not empty."""
    places = pixels(rle)
    if not len(places):
        return Crop(0, 0, np.zeros((0, 0), bool))
    columns, rows = np.divmod(places, rle["size"][0])
    top, left = int(rows.min()), int(columns[0])
    mask = np.zeros((int(rows.max()) - top + 1, int(columns[-1]) - left + 1), bool)
    mask[rows - top, columns - left] = True
    return Crop(top, left, mask)


def inside(rle: dict[str, Any], rows: slice, columns: slice) -> np.ndarray:
    """Return the part of a mask within some rows and columns, bool."""
    part = crop(rle)
    found = np.zeros((rows.stop - rows.start, columns.stop - columns.start), bool)
    h, w = part.mask.shape
    top, left = max(part.top, rows.start), max(part.left, columns.start)
    bottom, right = min(part.top + h, rows.stop), min(part.left + w, columns.stop)
    if top < bottom and left < right:
        there = slice(top - rows.start, bottom - rows.start)
        across = slice(left - columns.start, right - columns.start)
        here = part.mask[top - part.top : bottom - part.top, left - part.left : right - part.left]
        found[there, across] = here
    return found


def mask_record(mask: np.ndarray, category_id: int) -> dict[str, Any]:
    """Return the COCO annotation of a mask, bool (h, w), without its ids and without a score."""
    return {"category_id": category_id, **measures(encode(mask)), "iscrowd": 0}


def measures(rle: dict[str, Any]) -> dict[str, Any]:
    """Return a mask with its area and its box, as in an annotation."""
    return {
        "segmentation": rle,
        "area": int(coco_mask.area(rle)),
        "bbox": [float(value) for value in coco_mask.toBbox(rle)],
    }


Ring = np.ndarray
"""float or int (corners, 2), x before y; the last corner is joined to the first."""


def part_polygons(crop: Crop, tolerance: float = 0.0) -> list[Ring]:
    """Return a polygon, int64, for each part of a mask; pixels that touch at a corner are apart.

    `tolerance` is how far, in pixels, the outline may leave the mask's for fewer corners; 0 keeps
    the mask to the pixel, as does a part whose outline would then cross itself or a hole's.
    """
    mask = crop.mask
    if not mask.any():
        return []
    parts, count = ndimage.label(mask)
    padded = np.pad(parts, 1)
    outer: list[Ring] = [np.empty((0, 2), np.int64)] * count
    holes: list[list[Ring]] = [[] for _ in range(count)]
    for ring in _rings(mask):
        x, y = ring[0]  # the leftmost corner of the top row
        inside = padded[y + 1, x + 1]
        if inside:
            outer[inside - 1] = ring
        else:
            holes[padded[y, x + 1] - 1].append(ring[::-1])
    shift = np.array([crop.left, crop.top])
    polygons = []
    for ring, inner in zip(outer, holes, strict=True):
        rings = [ring, *inner]
        if tolerance:
            fewer = [simpler(one, tolerance) for one in rings]
            rings = rings if _cross(fewer) else fewer
        polygons.append(join(rings) + shift)
    return polygons


def simpler(ring: Ring, tolerance: float) -> Ring:
    """Return a ring with the fewest corners that Douglas and Peucker's way finds.

    What stays are corners of the ring, its first one among them; no corner that goes is farther
    than `tolerance` from the side that passes it. A ring that would lose half of its area (a line
    of pixels) stays as it is.
    """
    count = len(ring)
    closed = np.concatenate([ring, ring[:1]]).astype(np.float64)
    far = int(np.abs(closed[:-1] - closed[0]).sum(axis=1).argmax())
    kept = np.zeros(count + 1, bool)
    kept[[0, far, count]] = True
    open_parts = [(0, far), (far, count)]
    while open_parts:
        start, stop = open_parts.pop()
        if stop - start < 2:
            continue
        distance = _from_side(closed[start + 1 : stop], closed[start], closed[stop])
        at = int(distance.argmax())
        if distance[at] > tolerance:
            at += start + 1
            kept[at] = True
            open_parts += [(start, at), (at, stop)]
    fewer = ring[kept[:-1]]
    before, after = _area(ring), _area(fewer)
    return fewer if abs(after - before) < abs(before) / 2 else ring


def _from_side(points: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Return the distance of points, float (n, 2), from the side between two others."""
    side, away = stop - start, points - start
    length = float(side @ side)
    along = np.clip(away @ side / length, 0, 1) if length else np.zeros(len(points))
    return np.hypot(*(away - along[:, None] * side).T)


def _area(ring: Ring) -> float:
    """Return twice a ring's area, with the sign of its direction."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())


def _cross(rings: list[Ring]) -> bool:
    """Whether sides of some rings, int64, meet beyond the corner where one ends and one begins."""
    begin = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    after = np.concatenate([np.roll(ring, -2, axis=0) for ring in rings])
    along, onward = end - begin, after - end
    if ((_turn(begin, end, after) == 0) & ((along * onward).sum(axis=1) < 0)).any():
        return True  # it goes back on its own way
    places = np.split(np.arange(len(begin)), np.cumsum([len(ring) for ring in rings])[:-1])
    following = np.concatenate([np.roll(some, -1) for some in places])
    low, high = np.minimum(begin, end), np.maximum(begin, end)
    step = max(1, _PAIRS // len(begin))
    for start in range(0, len(begin), step):
        some = slice(start, start + step)
        near = np.ones((len(begin[some]), len(begin)), bool)
        for axis in (0, 1):
            near &= low[some, None, axis] <= high[None, :, axis]
            near &= high[some, None, axis] >= low[None, :, axis]
        one, other = np.nonzero(near)
        one += start
        apart = (one < other) & (following[one] != other) & (following[other] != one)
        one, other = one[apart], other[apart]
        a, b, c, d = begin[one], end[one], begin[other], end[other]
        meet = _turn(a, b, c) * _turn(a, b, d) <= 0
        if (meet & (_turn(c, d, a) * _turn(c, d, b) <= 0)).any():
            return True
    return False


def _turn(start: np.ndarray, stop: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return on which side of a line points (n, 2) lie: -1, 0 (on it) or 1."""
    (x, y), (x1, y1) = (stop - start).T, (points - start).T
    return np.sign(x * y1 - y * x1)


def join(rings: list[Ring]) -> Ring:
    """Return one polygon of several rings, tied together by paths along rows and columns."""
    joined = rings[0]
    for ring in rings[1:]:
        apart = np.abs(joined - ring[0]).sum(axis=1)
        at = int(apart.argmin())
        corner = np.array([[joined[at][0], ring[0][1]]])
        # There, around, and the same way back.
        joined = np.concatenate([joined[: at + 1], corner, ring, ring[:1], corner, joined[at:]])
    return joined


def fill(polygon: Ring, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centers lie inside a polygon, by the even-odd rule, bool (h, w).

    `polygon` is float (corners, 2), x before y; `size_hw` the image's rows and columns.
    """
    h, w = size_hw
    begin = np.asarray(polygon, np.float64)
    end = np.roll(begin, -1, axis=0)
    # Always from the upper end, so that an edge walked twice crosses a row at the same place.
    turned = (begin[:, 1] > end[:, 1])[:, None]
    top, bottom = np.where(turned, end, begin), np.where(turned, begin, end)
    first = np.clip(np.ceil(top[:, 1] - 0.5), 0, h).astype(np.int64)
    count = np.clip(np.ceil(bottom[:, 1] - 0.5), 0, h).astype(np.int64) - first
    edge = np.repeat(np.arange(len(begin)), count)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    rise = (bottom - top)[edge]
    x = top[edge, 0] + (rows + 0.5 - top[edge, 1]) * rise[:, 0] / rise[:, 1]
    columns = np.clip(np.ceil(x - 0.5), 0, w).astype(np.int64)
    crossings = np.zeros((h, w + 1), np.int64)
    np.add.at(crossings, (rows, columns), 1)
    return (np.cumsum(crossings[:, :w], axis=1) & 1).astype(bool)


def _rings(mask: np.ndarray) -> list[Ring]:
    """Return the closed lines between a mask and what is not mask, int64 (corners, 2) each.

    Every ring begins at the leftmost corner of its top row and goes right from there.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    above_left, above_right = padded[:-1, :-1], padded[:-1, 1:]
    left, right = padded[1:, :-1], padded[1:, 1:]
    total = above_left + above_right + left + right
    touching = (total == 2) & (above_left == right)  # two pixels meet at this corner alone
    y, x = np.nonzero((total % 2 == 1) | touching)
    twice = touching[y, x]
    # Of a corner where two pixels meet there are two: the first ends a line that comes from the
    # left, the second begins one to the right. Which of them the line from above ends at depends on
    # which two pixels meet.
    y, x = np.repeat(y, 1 + twice), np.repeat(x, 1 + twice)
    number = np.arange(len(x))
    copy = np.zeros(len(x), np.int64)
    copy[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    falling = above_left[y, x] == 1
    along_rows = number.reshape(-1, 2)
    rank = np.where(falling, copy, 1 - copy)
    along_columns = np.lexsort((rank, y, x)).reshape(-1, 2)
    across, down = np.empty_like(number), np.empty_like(number)
    for partner, pairs in ((across, along_rows), (down, along_columns)):
        partner[pairs[:, 0]], partner[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    corners = np.stack([x, y], axis=1)
    return [corners[ring] for ring in _loops(across.tolist(), down.tolist())]


def _loops(across: list[int], down: list[int]) -> list[list[int]]:
    """Follow rows and columns in turn until every corner is in a loop."""
    seen = bytearray(len(across))
    loops = []
    for start in range(len(across)):
        if seen[start]:
            continue
        loop, at = [], start
        while True:
            following = across[at]
            loop += [at, following]
            seen[at] = seen[following] = 1
            at = down[following]
            if at == start:
                break
        loops.append(loop)
    return loops
