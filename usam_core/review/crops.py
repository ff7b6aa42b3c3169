"""Training pictures cut out of a person's own images, and the log that says from where.

Each lies in the folder of its class as `crop-ID.png`; `crops.jsonl` beside the folders has a line
for each, written after the picture. A small object is made large enough to pass the filters of
training pictures, a thin one gets surroundings enough to be no strip.
"""

import json
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from usam_core.errors import InputError
from usam_core.files.atomic import whole_file
from usam_core.files.digest import file_digest
from usam_core.files.paths import inside, remove
from usam_core.images.ref import Box
from usam_core.masks.rle import measures
from usam_core.review.decisions import append

LOG = "crops.jsonl"
_SIDE = 128
"""Least shorter side of a picture, pixels; smaller ones are made larger."""
_AROUND = 0.25
"""Surroundings on each side, as a share of the object's own side."""
_MAX_ASPECT = 3.0
_LEAST = 8
"""Least side of what is cut, pixels of the image."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A picture that was cut out.

    Attributes:
        id: of this picture.
        time: ISO 8601.
        sha256: digest of the image.
        file_name: the image's name then.
        label: the class name.
        picture: its file, relative to the log's folder.
        picture_sha256: digest of that file: it says what was cut, wherever the file lies now.
        part: left, top, right, bottom of what was cut, pixels of the image.
        mask: the object, COCO's compressed RLE at the image's size.
    """

    id: str
    time: str
    sha256: str
    file_name: str
    label: str
    picture: str
    picture_sha256: str
    part: tuple[int, int, int, int]
    mask: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Undo:
    undo: str


_LINE: TypeAdapter[Crop | _Undo] = TypeAdapter(Crop | _Undo)


def read_crops(file: Path) -> list[Crop]:
    """The pictures of a log that were not taken back, oldest first; lines that say none are left.

    Raises:
        InputError: the log cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); expected what `usam crop` writes; move it away"
        ) from error
    crops: dict[str, Crop] = {}
    for line in lines:
        try:
            one = _LINE.validate_python(json.loads(line))
        except ValueError:
            continue
        if isinstance(one, _Undo):
            crops.pop(one.undo, None)
        else:
            crops[one.id] = one
    return list(crops.values())


def around(box_xywh: Sequence[float], size_hw: tuple[int, int]) -> Box:
    """What is cut out for an object: its box with surroundings, no strip, within the image.

    >>> around((100, 100, 54, 54), (1000, 1000)).size_hw
    (81, 81)
    >>> around((0, 50, 90, 10), (1000, 1000))
    Box(rows=(32, 77), columns=(0, 135))
    """
    x, y, w, h = box_xywh
    wide, high = ((1 + 2 * _AROUND) * side for side in (w, h))
    wide, high = max(wide, high / _MAX_ASPECT, _LEAST), max(high, wide / _MAX_ASPECT, _LEAST)
    stretches = []
    for start, length, side, whole in ((y, h, high, size_hw[0]), (x, w, wide, size_hw[1])):
        many = min(whole, round(side))
        first = int(min(max(0, start + length / 2 - many / 2), whole - many))
        stretches.append((first, first + many))
    return Box(*stretches)


class Crops:
    """Cuts training pictures, one at a time.

    Args:
        folder: of the training pictures.
        folders: for each class name the folder of its pictures in there.
        names: of the images, by their digests.
        min_side: shorter side that the filters ask for.
        min_contrast: least deviation of the grey values that they ask for, of 255.
    """

    def __init__(
        self,
        folder: Path,
        folders: Mapping[str, str],
        names: Mapping[str, str],
        min_side: int = 0,
        min_contrast: float = 0.0,
    ) -> None:
        self.folder = folder
        self._folders, self._names = folders, names
        self._side = max(_SIDE, min_side)
        self._contrast = min_contrast
        self._lock = threading.Lock()
        self.classes = list(folders)

    @property
    def log(self) -> Path:
        """The log of what was cut."""
        return self.folder / LOG

    def crops(self) -> list[Crop]:
        """The pictures that are there, oldest first."""
        return [one for one in read_crops(self.log) if self.file(one).is_file()]

    def file(self, crop: Crop) -> Path:
        """Where a picture lies."""
        return inside(self.folder, crop.picture, self.log)

    def cut(
        self, image: str, label: str, mask: dict[str, Any], read: Callable[[Box], np.ndarray]
    ) -> tuple[Crop, str]:
        """Cut an object out, and return the picture and what speaks against it, or nothing.

        Args:
            image: digest of the image.
            label: its class name.
            mask: the object, COCO's compressed RLE at the image's size.
            read: gives a part of the image, uint8 (h, w, 3).

        Raises:
            InputError: no such class or image is known.
        """
        if label not in self._folders or image not in self._names:
            raise InputError(
                f"class {label!r} of image {image!r}: expected one of {self.classes}, and an image "
                "that is shown"
            )
        h, w = mask["size"]
        box = around(measures(mask)["bbox"], (h, w))
        rgb = read(box)
        with self._lock:
            name = uuid.uuid4().hex[:16]
            picture = f"{self._folders[label]}/crop-{name}.png"
            file = inside(self.folder, picture, self.log)
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as temporary:
                sized(rgb, self._side).save(temporary, format="PNG")
            crop = Crop(
                name,
                datetime.now(UTC).isoformat(timespec="microseconds"),
                image,
                self._names[image],
                label,
                picture,
                file_digest(file),
                (box.columns[0], box.rows[0], box.columns[1], box.rows[1]),
                dict(mask),
            )
            append(self.log, asdict(crop))
        deviation = float(np.asarray(Image.fromarray(rgb).convert("L")).std())
        if deviation >= self._contrast:
            return crop, ""
        return crop, (
            f"It is kept, but its grey values deviate by {deviation:.1f} only: "
            f"training.filters.min_contrast, {self._contrast:g}, will leave it out"
        )

    def take_back(self, crop_id: str | None = None) -> Crop:
        """Remove a picture, the last one unless another is named.

        Raises:
            InputError: there is no such picture.
        """
        with self._lock:
            there = self.crops()
            found = [one for one in there if one.id == crop_id] if crop_id else there[-1:]
            if not found:
                raise InputError(f"{self.log}: holds no picture that could be taken back")
            append(self.log, {"undo": found[0].id})
            remove(self.folder, self.file(found[0]))
            return found[0]


def sized(rgb: np.ndarray, side: int) -> Image.Image:
    """A part of an image as a picture whose shorter side has at least `side` pixels."""
    image = Image.fromarray(rgb)
    scale = max(1.0, side / min(image.size))
    if scale == 1:
        return image
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
