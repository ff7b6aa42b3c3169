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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from usam_core.masks.bits import valid_hw

if TYPE_CHECKING:
    from segment_anything import SamPredictor
    from segment_anything.modeling import Sam

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


class Prompter:
    """Answers prompts; one at a time, from any thread.

    Args:
        sam: the model, in evaluation mode.
        device: where it runs.
        points_alone: the model has learned single positive points and nothing else (nano).
    """

    def __init__(self, sam: "Sam", device: str = "cpu", points_alone: bool = False) -> None:
        from segment_anything import SamPredictor  # a second: it brings all of torchvision

        self._predictor: SamPredictor = SamPredictor(sam.to(device).eval())
        self._points_alone = points_alone
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, tuple[Any, ...]] = OrderedDict()

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
            self._embed(key, read)
            if not self._points_alone:
                return self._native(prompts)
            if prompts.box_xyxy is not None:
                return self._in_box(prompts.box_xyxy)
            return self._by_clicks(prompts)

    def _embed(self, key: Any, read: Callable[[], np.ndarray]) -> None:
        one = self._predictor
        if key not in self._kept:
            with torch.inference_mode():
                one.set_image(np.ascontiguousarray(read()))
            self._kept[key] = (one.features, one.original_size, one.input_size)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        one.features, one.original_size, one.input_size = self._kept[key]
        one.is_image_set = True

    def _native(self, prompts: Prompts) -> np.ndarray:
        points = np.array([click[:2] for click in prompts.clicks], np.float32).reshape(-1, 2)
        kinds = np.array([click.positive for click in prompts.clicks], np.int32)
        several = len(points) == 1 and prompts.box_xyxy is None and prompts.start is None
        masks, quality, _ = self._predictor.predict(
            point_coords=points if len(points) else None,
            point_labels=kinds if len(points) else None,
            box=None if prompts.box_xyxy is None else np.array(prompts.box_xyxy, np.float32),
            mask_input=(
                None if prompts.start is None else _SURE * (2 * self._small(prompts.start)[None] - 1)
            ),
            multimask_output=several,
        )
        return masks[_of_size(masks, quality, prompts.size)]

    def _small(self, mask: np.ndarray) -> np.ndarray:
        """A mask at the size of the decoder's own, share of each cell, float32 (u, u)."""
        frame = 4 * self._predictor.model.prompt_encoder.image_embedding_size[0]
        h, w = valid_hw((mask.shape[0], mask.shape[1]), frame)
        full = torch.from_numpy(mask)[None, None].float()
        small = np.zeros((frame, frame), np.float32)
        small[:h, :w] = torch.nn.functional.interpolate(full, (h, w), mode="area")[0, 0].numpy()
        return small

    def _at(self, points_xy: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """The three masks at each of some points, logits (k, 3, u, u), and predicted IoUs (k, 3).

        They are small; only what is chosen is made large.
        """
        one, model = self._predictor, self._predictor.model
        moved = one.transform.apply_coords(points_xy.astype(np.float64), one.original_size)
        coords = torch.as_tensor(moved, dtype=torch.float32, device=one.device)[:, None]
        labels = torch.ones(len(points_xy), 1, dtype=torch.int, device=one.device)
        sparse, dense = model.prompt_encoder(points=(coords, labels), boxes=None, masks=None)
        logits, quality = model.mask_decoder(
            image_embeddings=one.features,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        h, w = valid_hw(one.original_size, logits.shape[-1])
        logits[..., h:, :] = -torch.inf
        logits[..., :, w:] = -torch.inf
        return logits, quality.cpu().numpy()

    def _large(self, logits: torch.Tensor) -> np.ndarray:
        """A mask, logits (u, u), at the size of the part, bool (h, w)."""
        one = self._predictor
        finite = logits[None, None].clamp(min=-_SURE)
        full = one.model.postprocess_masks(finite, one.input_size, one.original_size)[0, 0]
        return (full > one.model.mask_threshold).cpu().numpy()

    def _in_box(self, box: tuple[float, float, float, float]) -> np.ndarray:
        left, top, right, bottom = box
        h, w = self._predictor.original_size
        share = (np.arange(_BOX_SIDE) + 0.5) / _BOX_SIDE
        x, y = np.meshgrid(left + share * (right - left), top + share * (bottom - top))
        logits, quality = self._at(np.stack([x.ravel(), y.ravel()], axis=1))
        logits = logits.flatten(0, 1)
        scale = logits.shape[-1] / max(h, w)
        small = (left * scale, top * scale, right * scale, bottom * scale)
        masks = (logits > self._predictor.model.mask_threshold).cpu().numpy()
        fit = np.array([_box_overlap(mask, small) for mask in masks])
        inside = np.zeros((h, w), bool)
        inside[max(0, int(top)) : int(bottom) + 1, max(0, int(left)) : int(right) + 1] = True
        best = int(np.argmax(fit * np.clip(quality.ravel(), _LEAST_QUALITY, 1)))
        return self._large(logits[best]) & inside

    def _by_clicks(self, prompts: Prompts) -> np.ndarray:
        clicks = prompts.clicks
        h, w = self._predictor.original_size
        mask = np.zeros((h, w), bool) if prompts.start is None else prompts.start.copy()
        if not clicks:
            return mask
        # Together: a batch of clicks takes little longer than one.
        logits, quality = self._at(np.array([click[:2] for click in clicks], np.float32))
        small = (logits > self._predictor.model.mask_threshold).cpu().numpy()
        scale = logits.shape[-1] / max(h, w)
        seen: list[Click] = []
        for number, click in enumerate(clicks):
            seen.append(click)
            if _holds(mask, click) == click.positive:
                continue
            sizes = small[number]
            against = [other for other in seen if other.positive != click.positive]
            right = np.array(
                [
                    _holds(one, click, scale)
                    and not any(_holds(one, other, scale) for other in against)
                    for one in sizes
                ]
            )
            if not click.positive:
                now = self._small(mask) >= 0.5
                right &= [(now & one).sum() < _WHOLE * now.sum() for one in sizes]
            if right.any():
                rows = np.flatnonzero(right)
                size = prompts.size if len(clicks) == 1 and prompts.start is None else 0
                best = rows[_of_size(sizes[rows], quality[number][rows], size)]
                chosen = self._large(logits[number, best])
            else:
                chosen = _dab((h, w), click)
            mask = mask | chosen if click.positive else mask & ~chosen
        return mask


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
