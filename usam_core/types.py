"""The values that cross the steps, and the letters that name their axes.

    n  images                       d  prompts: the points of one image's grid
    m  masks of one prompt (4)      f  length of a feature block
    h w  pixel rows and columns of an image as a person sees it (after EXIF rotation)
    u v  rows and columns of SAM's low-resolution mask frame      b  v / 8, packed bytes
    c  classes of the head (background is not one of them)
    p  candidate or kept masks of one image

The 4 masks of a prompt stand in SAM's own order: 0 is the single-mask output, 1 to 3 are the
multi-mask outputs (usually whole, part, sub-part). Where the first alone was read, m is 1.
Coordinates are named by their order: `points_xy` is column before row, `size_hw` rows before
columns, `box_xywh` as in COCO.

The low-resolution frame is SAM's padded square: the image's longer side fills it, the rest lies
at the bottom or at the right. `valid_hw` of `usam_core.masks.bits` gives the part that is image.
"""

from dataclasses import dataclass, field

import numpy as np

MASKS_PER_PROMPT = 4
TOKEN_WIDTH = 256
TOKENS_BLOCK = "tokens"


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file of the user's store, by content.

    Attributes:
        path: where it lies now.
        sha256: digest of its bytes; the key of everything stored about it.
    """

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class MaskSet:
    """What SAM's automatic mode says of one image (U-SAM, section 3.3).

    Attributes:
        tokens: float16 (d, 1024), the 4 mask tokens of each prompt, flattened in token order; None
            where they were not read.
        packed_masks: uint8 (d, m, u, b), low-resolution masks, 8 columns a byte, first column
            in the highest bit (`numpy.packbits`).
        predicted_iou: float32 (d, m), SAM's own estimate of each mask's IoU; usually 0 to 1.
        stability: float32 (d, m), IoU between the masks at logits +1 and -1; 0 to 1.
        points_xy: float32 (d, 2), the prompts, as fractions of the image's width and height.
        size_hw: rows and columns of the image, pixels.
        features: further blocks by name, each float16 (d, m, f), one vector a mask.

    Raises:
        ValueError: the columns do not have one length, or a dtype is not the stated one.
    """

    tokens: np.ndarray | None
    packed_masks: np.ndarray
    predicted_iou: np.ndarray
    stability: np.ndarray
    points_xy: np.ndarray
    size_hw: tuple[int, int]
    features: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        d = len(self)
        m = self.predicted_iou.shape[-1]
        if m not in (1, MASKS_PER_PROMPT):
            raise ValueError(f"predicted_iou: expected 1 or {MASKS_PER_PROMPT} masks, got {m}")
        expected = {
            "tokens": (np.float16, (d, MASKS_PER_PROMPT * TOKEN_WIDTH)),
            "packed_masks": (np.uint8, (d, m, *self.packed_masks.shape[-2:])),
            "predicted_iou": (np.float32, (d, m)),
            "stability": (np.float32, (d, m)),
            "points_xy": (np.float32, (d, 2)),
        }
        for name, (dtype, shape) in expected.items():
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), dtype, shape)
        for name, block in self.features.items():
            _check(name, block, np.float16, (d, m, block.shape[-1]))

    def __len__(self) -> int:
        """Return d, the number of prompts."""
        return len(self.predicted_iou)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An image that could not be used, and why; it never stops a run.

    Attributes:
        code: short machine word, one of `usam_core.images.read.REASONS`.
        reason: one sentence with the value that came and what was expected.
    """

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Instances:
    """The kept masks of one labelled image, best first.

    Attributes:
        masks: bool (p, h, w), at the image's own size.
        classes: int64 (p,), index into the head's class names, from 0.
        scores: float32 (p,), confidence of the class, 0 to 1.
        entropy: float32 (p,), entropy of the class distribution, nats.
        predicted_iou: float32 (p,).
        prompts: int64 (p,), which point of the grid each mask came from.
        probability: float32 (p,), of the class, 0 to 1: calibrated where there is a calibration.
        runner_up: int64 (p,), the next most probable class; -1 where there is but one class.
    """

    masks: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    entropy: np.ndarray
    predicted_iou: np.ndarray
    prompts: np.ndarray
    probability: np.ndarray
    runner_up: np.ndarray

    def __post_init__(self) -> None:
        p = len(self.masks)
        if self.masks.ndim != 3 or self.masks.dtype != bool:
            raise ValueError(
                f"masks: expected bool (p, h, w), got {self.masks.dtype} {self.masks.shape}"
            )
        columns = ("classes", "scores", "entropy", "predicted_iou", "prompts")
        for name in (*columns, "probability", "runner_up"):
            if getattr(self, name).shape != (p,):
                raise ValueError(f"{name}: expected shape ({p},), got {getattr(self, name).shape}")

    def __len__(self) -> int:
        """Return p, the number of kept masks."""
        return len(self.masks)


def _check(name: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"{name}: expected {np.dtype(dtype).name} {shape}, got {array.dtype} {array.shape}"
        )
