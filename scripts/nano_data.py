"""Training pictures of the nano SAM: drawn scenes, and photographs with class-agnostic masks.

Every sample is an image in SAM's padded frame with an instance map; no class ever appears.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from usam_core.rng import generator
from usam_core.sam.nano import NANO_SIZE
from usam_core.sources import scenes

VOID = 255
LOW = NANO_SIZE // 4
_SMALLEST_OBJECT = 60  # pixels of the 320-pixel frame


class Photographs:
    """Photographs with palette masks, as unnamed connected objects."""

    def __init__(self, folder: Path, split: str) -> None:
        names = (folder / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
        self.pairs = [
            (folder / "JPEGImages" / f"{n}.jpg", folder / "SegmentationClass" / f"{n}.png")
            for n in names
        ]

    def load(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an image, uint8 (h, w, 3), and its objects, uint8 (h, w), 255 is void."""
        picture, mask = self.pairs[number]
        image = np.asarray(Image.open(picture).convert("RGB"))
        classes = np.asarray(Image.open(mask))
        objects = np.zeros(classes.shape, np.uint8)
        count = 0
        for value in np.unique(classes[(classes > 0) & (classes < VOID)]):
            parts, found = ndimage.label(classes == value)
            for part in range(1, min(found, 200 - count) + 1):
                objects[parts == part] = count = count + 1
        objects[classes == VOID] = VOID
        return image, objects


def fit_frame(image: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Scale the longer side to the frame; return both padded, and the valid rows and columns."""
    h, w = objects.shape
    scale = NANO_SIZE / max(h, w)
    nh, nw = int(h * scale + 0.5), int(w * scale + 0.5)
    # 127 is the pixel mean, so that padding is 0 after normalisation, as `Sam.preprocess` pads.
    frame = np.full((NANO_SIZE, NANO_SIZE, 3), 127, np.uint8)
    labels = np.full((NANO_SIZE, NANO_SIZE), VOID, np.uint8)
    frame[:nh, :nw] = np.asarray(Image.fromarray(image).resize((nw, nh), Image.BILINEAR))
    labels[:nh, :nw] = np.asarray(Image.fromarray(objects).resize((nw, nh), Image.NEAREST))
    return frame, labels, nh, nw


def _augment(rng: np.random.Generator, image: np.ndarray, objects: np.ndarray):
    h, w = objects.shape
    share = rng.uniform(0.45, 1.0)
    ch, cw = max(32, int(h * share)), max(32, int(w * min(1.0, share * rng.uniform(0.8, 1.25))))
    top, left = int(rng.integers(0, h - ch + 1)), int(rng.integers(0, w - cw + 1))
    image, objects = (
        image[top : top + ch, left : left + cw],
        objects[top : top + ch, left : left + cw],
    )
    if rng.random() < 0.5:
        image, objects = image[:, ::-1], objects[:, ::-1]
    light = image.astype(np.float32) * rng.uniform(0.7, 1.3) + rng.uniform(-20, 20)
    if rng.random() < 0.15:
        light = np.repeat(light.mean(-1, keepdims=True), 3, -1)
    return np.clip(light, 0, 255).astype(np.uint8), np.ascontiguousarray(objects)


def _paste(rng, image, objects, other, other_objects):
    """Paste one object of another photograph somewhere, at another size."""
    values = [v for v in np.unique(other_objects) if 0 < v < VOID]
    if not values:
        return image, objects
    mask = other_objects == rng.choice(values)
    rows, columns = np.where(mask)
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    cut, cut_mask = other[box], mask[box]
    h, w = objects.shape
    scale = rng.uniform(0.2, 0.7) * min(h / cut.shape[0], w / cut.shape[1])
    size = (max(4, int(cut.shape[1] * scale)), max(4, int(cut.shape[0] * scale)))
    cut = np.asarray(Image.fromarray(cut).resize(size, Image.BILINEAR))
    cut_mask = np.asarray(Image.fromarray(cut_mask).resize(size, Image.NEAREST))
    top, left = int(rng.integers(0, h - size[1] + 1)), int(rng.integers(0, w - size[0] + 1))
    region = np.s_[top : top + size[1], left : left + size[0]]
    image, objects = image.copy(), objects.copy()
    image[region][cut_mask] = cut[cut_mask]
    free = next(v for v in range(1, VOID) if not (objects == v).any())
    objects[region][cut_mask] = free
    return image, objects


def _draw_on(rng, image, objects):
    """Draw unnamed outlines onto a photograph."""
    size_hw = objects.shape
    image, objects = image.astype(np.float32), objects.copy()
    for _ in range(int(rng.integers(1, 4))):
        radius = min(size_hw) * rng.uniform(0.06, 0.25)
        center = (rng.uniform(0, size_hw[1]), rng.uniform(0, size_hw[0]))
        outline = scenes.place(scenes.blob(rng), center, radius, rng.uniform(0, 6.3))
        cover = scenes.coverage(outline, size_hw)
        image += (scenes.surface(rng, size_hw) - image) * cover[..., None]
        free = next(v for v in range(1, VOID) if not (objects == v).any())
        objects[cover >= 0.5] = free
    return np.clip(image, 0, 255).astype(np.uint8), objects


def sample(rng: np.random.Generator, photographs: Photographs | None):
    """Return one training sample: (image uint8 (320, 320, 3), objects, background is a region)."""
    kind = rng.random()
    if photographs is None or kind < 0.4:
        side = int(rng.integers(192, 400))
        size_hw = (side, int(side * rng.uniform(0.7, 1.4)))
        look = scenes.Look(blur=1.5, noise=18, light=0.5)
        drawn = scenes.scene(rng, list(scenes.SHAPES), size_hw, look, 9, blobs=0.5)
        image, objects, region = drawn.image, drawn.instances, True
    else:
        image, objects = _augment(rng, *photographs.load(int(rng.integers(len(photographs.pairs)))))
        region = False
        if kind > 0.85:
            image, objects = _draw_on(rng, image, objects)
        for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.5 else 0):
            other = photographs.load(int(rng.integers(len(photographs.pairs))))
            image, objects = _paste(rng, image, objects, *other)
    frame, labels, _, _ = fit_frame(image, objects)
    return frame, labels, region


class Samples(torch.utils.data.IterableDataset):
    """Endless samples with their prompts and target masks.

    Yields (frame uint8 (3, 320, 320), points_xy float32 (k, 2) pixels of the frame,
    targets float32 (k, 80, 80), weight float32 (k, 80, 80): 0 where the truth is void).
    """

    def __init__(self, seed: int, prompts: int, photographs: Photographs | None) -> None:
        self.seed, self.prompts, self.photographs = seed, prompts, photographs

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Draw for ever."""
        info = torch.utils.data.get_worker_info()
        rng = generator(self.seed, "nano", info.id if info else 0)
        while True:
            frame, labels, region = sample(rng, self.photographs)
            values, counts = np.unique(labels, return_counts=True)
            good = [
                v
                for v, n in zip(values, counts, strict=True)
                if v != VOID and n >= _SMALLEST_OBJECT and (v != 0 or region)
            ]
            objects = [v for v in good if v != 0]
            if not objects:
                continue
            chosen = [rng.choice(objects) for _ in range(self.prompts)]
            if region and 0 in good:
                chosen[-1] = 0
            yield self._targets(rng, frame, labels, chosen)

    def _targets(self, rng, frame, labels, chosen):
        points, targets = [], []
        for value in chosen:
            rows, columns = np.where(labels == value)
            pick = int(rng.integers(len(rows)))
            points.append((columns[pick] + 0.5, rows[pick] + 0.5))
            inside = (labels == value).astype(np.float32)
            targets.append(inside.reshape(LOW, 4, LOW, 4).mean((1, 3)) >= 0.5)
        known = (labels != VOID).astype(np.float32).reshape(LOW, 4, LOW, 4).mean((1, 3))
        weight = np.repeat((known > 0)[None], len(chosen), 0)
        return (
            np.ascontiguousarray(frame.transpose(2, 0, 1)),
            np.array(points, np.float32),
            np.array(targets, np.float32),
            weight.astype(np.float32),
        )
