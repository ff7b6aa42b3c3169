"""SAM asked by a person: points and boxes on an image, a mask for each click.

The store keeps what masks mean, not the image's dense embedding, so that is made once for each
part of an image that is shown, and kept: a click is then a run of the small decoder.

Official models take points of both kinds, boxes and a mask to start from, as they were trained.
The nano SAM has learned single points alone: for it a click adds or takes away the best mask at
that point, and a box takes the mask that fills it best.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from usam_core.masks.bits import valid_hw
from usam_core.sam.backend import Asked, Backend
from usam_core.sam.embedder import unstretched, without_padding

KEPT = 48
"""Embeddings in memory: 0.4 MB each of the nano SAM, 4 MB of the others."""
_SURE = 10.0
"""Logit that stands for a pixel of a mask to start from."""
_BOX_SIDE = 4
"""A box is filled with a grid of so many points a side."""
_WHOLE = 0.9
"""A click that takes away more than this share of the mask took the wrong one of its sizes."""
_LEAST_QUALITY = 0.05
_DAB = 0.03
"""Radius of what a click takes away where SAM has nothing for it, as a share of the longer side."""


class Click(NamedTuple):
    """A point, column and row in pixels of the part; whether it belongs to the object."""

    x: float
    y: float
    positive: bool


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a person shows of an object.

    Attributes:
        clicks: in the order they were made.
        box_xyxy: left, top, right, bottom, pixels; None without a box.
        start: bool (h, w), the mask that is corrected; None for a new object.
        size: of a new object from one click, which of the sizes that SAM offers: 0 for what it
            holds for the best, then from the smallest on.
    """

    clicks: Sequence[Click] = ()
    box_xyxy: tuple[float, float, float, float] | None = None
    start: np.ndarray | None = None
    size: int = 0


class _Embedded(NamedTuple):
    """A part of an image, as `Backend.encode` gives it; its size, and that in the frame."""

    encoded: tuple[Tensor, ...]
    size_hw: tuple[int, int]
    inner_hw: tuple[int, int]


class Prompter:
    """Answers prompts; one at a time, from any thread.

    Args:
        sam: the model.
        device: where it runs.
        points_alone: the model has learned single positive points and nothing else (nano).
    """

    def __init__(self, sam: Backend, device: str = "cpu", points_alone: bool = False) -> None:
        self._sam = sam.to(device).eval()
        self._device = device
        self._points_alone = points_alone
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, _Embedded] = OrderedDict()

    def prepare(self, key: Any, read: Callable[[], np.ndarray]) -> None:
        """Embed a part of an image, unless that is kept.

        Args:
            key: tells parts apart.
            read: gives its pixels, uint8 (h, w, 3).
        """
        with self._lock:
            self._embed(key, read)

    def answer(self, key: Any, read: Callable[[], np.ndarray], prompts: Prompts) -> np.ndarray:
        """Return the mask that prompts show, bool (h, w) of the part; see `prepare`."""
        with self._lock, torch.inference_mode():
            one = self._embed(key, read)
            if not self._points_alone:
                return self._native(one, prompts)
            if prompts.box_xyxy is not None:
                return self._in_box(one, prompts.box_xyxy)
            return self._by_clicks(one, prompts)

    @torch.inference_mode()
    def _embed(self, key: Any, read: Callable[[], np.ndarray]) -> _Embedded:
        if key not in self._kept:
            image = np.ascontiguousarray(read())
            resized = self._sam.resized(image)
            pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
            frame = self._sam.frame(pixels.to(self._device).float())
            encoded = self._sam.encode(frame[None])
            self._kept[key] = _Embedded(encoded, image.shape[:2], resized.shape[:2])
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _native(self, one: _Embedded, prompts: Prompts) -> np.ndarray:
        """What the model itself makes of all prompts together."""
        asked = Asked()
        if prompts.clicks:
            points = np.array([[click[:2] for click in prompts.clicks]], np.float32)
            kinds = torch.tensor([[int(click.positive) for click in prompts.clicks]])
            asked = Asked(self._in_frame(one, points), kinds.int().to(self._device))
        if prompts.box_xyxy is not None:
            corners = np.array(prompts.box_xyxy).reshape(2, 2)
            asked = asked._replace(box_xyxy=self._in_frame(one, corners).reshape(1, 4))
        if prompts.start is not None:
            asked = asked._replace(mask=self._logits_of(prompts.start))
        alone = asked.box_xyxy is None and asked.mask is None
        asked = asked._replace(several=alone and len(prompts.clicks) == 1)
        logits, quality = self._sam.prompted(one.encoded, asked)
        masks = (
            (self._sam.enlarged(logits, one.size_hw)[0] > self._sam.mask_threshold).cpu().numpy()
        )
        return masks[_of_size(masks, quality[0].cpu().numpy(), prompts.size)]

    def _in_frame(self, one: _Embedded, points_xy: np.ndarray) -> Tensor:
        """Points (..., 2), pixels of the part, in pixels of the frame."""
        scale = np.array(one.inner_hw[::-1]) / np.array(one.size_hw[::-1])
        return torch.from_numpy((points_xy * scale).astype(np.float32)).to(self._device)

    def _logits_of(self, mask: np.ndarray) -> Tensor:
        """A mask to start from, bool (h, w), as the prompt encoder takes it, (1, 1, u, u)."""
        small = _small(mask, self._side, self._sam.stretches)
        return torch.from_numpy(_SURE * (2 * small - 1))[None, None].to(self._device)

    @property
    def _side(self) -> int:
        """Of the decoder's masks."""
        return 4 * self._sam.prompt_encoder.image_embedding_size[0]

    def _at(self, one: _Embedded, points_xy: np.ndarray) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """The three masks at each of k points, pixels of the part.

        Only what is chosen is made large.

        Returns:
            Their logits over the frame (k, 3, u, u), the masks in a padded frame bool (k, 3, u, u),
            and predicted IoUs (k, 3).
        """
        points = self._in_frame(one, points_xy)[:, None]
        kinds = torch.ones(len(points), 1, dtype=torch.int32, device=self._device)
        logits, quality = self._sam.prompted(one.encoded, Asked(points, kinds, several=True))
        if self._sam.stretches:
            framed = unstretched(logits[None], [one.size_hw])
        else:
            framed = logits[None].clone()
            without_padding(framed, [one.size_hw])
        masks = framed[0] > self._sam.mask_threshold
        return logits, masks.cpu().numpy(), quality.cpu().numpy()

    def _large(self, one: _Embedded, logits: Tensor) -> np.ndarray:
        """A mask, logits (u, u) over the frame, at the size of the part, bool (h, w)."""
        full = self._sam.enlarged(logits[None, None], one.size_hw)[0, 0]
        return (full > self._sam.mask_threshold).cpu().numpy()

    def _in_box(self, one: _Embedded, box: tuple[float, float, float, float]) -> np.ndarray:
        left, top, right, bottom = box
        h, w = one.size_hw
        share = (np.arange(_BOX_SIDE) + 0.5) / _BOX_SIDE
        x, y = np.meshgrid(left + share * (right - left), top + share * (bottom - top))
        logits, masks, quality = self._at(one, np.stack([x.ravel(), y.ravel()], axis=1))
        scale = self._side / max(h, w)
        small = (left * scale, top * scale, right * scale, bottom * scale)
        fit = np.array([_box_overlap(mask, small) for mask in masks.reshape(-1, *masks.shape[2:])])
        inside = np.zeros((h, w), bool)
        inside[max(0, int(top)) : int(bottom) + 1, max(0, int(left)) : int(right) + 1] = True
        best = int(np.argmax(fit * np.clip(quality.ravel(), _LEAST_QUALITY, 1)))
        return self._large(one, logits.flatten(0, 1)[best]) & inside

    def _by_clicks(self, one: _Embedded, prompts: Prompts) -> np.ndarray:
        clicks = prompts.clicks
        h, w = one.size_hw
        mask = np.zeros((h, w), bool) if prompts.start is None else prompts.start.copy()
        if not clicks:
            return mask
        # Together: a batch of clicks takes little longer than one.
        points = np.array([click[:2] for click in clicks], np.float32)
        logits, small, quality = self._at(one, points)
        scale = self._side / max(h, w)
        seen: list[Click] = []
        for number, click in enumerate(clicks):
            seen.append(click)
            if _holds(mask, click) == click.positive:
                continue
            sizes = small[number]
            against = [other for other in seen if other.positive != click.positive]
            right = np.array(
                [
                    _holds(size, click, scale)
                    and not any(_holds(size, other, scale) for other in against)
                    for size in sizes
                ]
            )
            if not click.positive:
                now = _small(mask, self._side) >= 0.5
                right &= [(now & size).sum() < _WHOLE * now.sum() for size in sizes]
            if right.any():
                rows = np.flatnonzero(right)
                wanted = prompts.size if len(clicks) == 1 and prompts.start is None else 0
                best = rows[_of_size(sizes[rows], quality[number][rows], wanted)]
                chosen = self._large(one, logits[number, best])
            else:
                chosen = _dab((h, w), click)
            mask = mask | chosen if click.positive else mask & ~chosen
        return mask


def _small(mask: np.ndarray, side: int, stretches: bool = False) -> np.ndarray:
    """A mask, bool (h, w), over a frame: the share of each cell, float32 (side, side)."""
    h, w = (side, side) if stretches else valid_hw((mask.shape[0], mask.shape[1]), side)
    full = torch.from_numpy(mask)[None, None].float()
    small = np.zeros((side, side), np.float32)
    small[:h, :w] = functional.interpolate(full, (h, w), mode="area")[0, 0].numpy()
    return small


def _of_size(masks: np.ndarray, quality: np.ndarray, size: int) -> int:
    """Which of some masks, bool (k, h, w), is best, or from the smallest on; sizes start over."""
    if not size:
        return int(quality.argmax())
    order = np.argsort(masks.sum(axis=(1, 2)), kind="stable")
    return int(order[(size - 1) % len(order)])


def _holds(mask: np.ndarray, click: Click, scale: float = 1.0) -> bool:
    h, w = mask.shape
    row, column = int(click.y * scale), int(click.x * scale)
    return bool(mask[min(max(row, 0), h - 1), min(max(column, 0), w - 1)])


def _dab(size_hw: tuple[int, ...], click: Click) -> np.ndarray:
    rows, columns = np.ogrid[: size_hw[0], : size_hw[1]]
    radius = max(1.0, _DAB * max(size_hw))
    return (columns + 0.5 - click.x) ** 2 + (rows + 0.5 - click.y) ** 2 <= radius**2


def _box_overlap(mask: np.ndarray, box: tuple[float, float, float, float]) -> float:
    """IoU of a mask's own box and another."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0.0
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    wide = min(right, box[2]) - max(left, box[0])
    high = min(bottom, box[3]) - max(top, box[1])
    shared = max(0.0, wide) * max(0.0, high)
    both = (right - left) * (bottom - top) + (box[2] - box[0]) * (box[3] - box[1]) - shared
    return float(shared / max(both, 1e-9))
