"""Parts of a project's images, for pages that show them: large ones are never read whole."""

import functools
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from usam_core.config.project import Project
from usam_core.errors import InputError
from usam_core.images.read import read_image
from usam_core.images.ref import Box, ImageRef, shared
from usam_core.review.drawing import grid_hw
from usam_core.sam.prompt import Prompter
from usam_core.steps.images_to_label import TiledImage, tiled_images
from usam_core.steps.read_settings import how_to_read

_WHOLE = 3
"""Whole images in memory."""
_PARTS = 24
"""Parts in memory, each at most as large as its grid."""
_AT_ONCE = 4096 * 4096
"""A part of a tiled image with more pixels is put together from its tiles, made small."""


class ProjectImages:
    """The images of a project by their digests.

    Args:
        paths: what is listed, by digest.
    """

    def __init__(self, project: Project, paths: Mapping[str, str]) -> None:
        self._project = project
        self._paths = paths
        self._tiled: dict[str, TiledImage] = {one.sha256: one for one in tiled_images(project)}
        self._how = how_to_read(project)
        self._read: Callable[[str], np.ndarray] = functools.lru_cache(_WHOLE)(self._whole)
        self.part: Callable[[str, Box], np.ndarray] = functools.lru_cache(_PARTS)(self._part)

    def size_hw(self, image: str) -> tuple[int, int]:
        """Rows and columns of an image.

        Raises:
            InputError: there is no such image.
            UnusableImage: the file is gone or not the one that was listed.
        """
        if image in self._tiled:
            return self._tiled[image].size_hw
        return self._sizes(image)

    @functools.cache  # noqa: B019 -- as long as the command
    def _sizes(self, image: str) -> tuple[int, int]:
        rows, columns = self._read(image).shape[:2]
        return rows, columns

    def _ref(self, image: str) -> ImageRef:
        path = self._paths.get(image)
        if path is None:
            raise InputError(f"image {image!r}: not one of those that are shown")
        return ImageRef.parse(self._project.image_address(path))

    def _whole(self, image: str) -> np.ndarray:
        return read_image(self._ref(image), sha256=image, **self._how).rgb

    def _part(self, image: str, box: Box) -> np.ndarray:
        """A part, uint8 (h, w, 3), at its own size, or at that of its grid where it is larger."""
        if image not in self._tiled:
            return _small(self._read(image)[box.slices], box)
        rows, columns = box.size_hw
        if rows * columns <= _AT_ONCE:
            return _small(self._box(image, box), box)
        high, wide = grid_hw(box)
        canvas = np.zeros((high, wide, 3), np.uint8)
        for tile in self._tiled[image].tiles:
            seen = shared(tile.core, box)
            if seen is None:
                continue
            (top, bottom), (left, right) = seen
            y0, y1 = ((y - box.rows[0]) * high // rows for y in (top, bottom))
            x0, x1 = ((x - box.columns[0]) * wide // columns for x in (left, right))
            if y0 < y1 and x0 < x1:
                small = Image.fromarray(self._box(image, seen)).resize((x1 - x0, y1 - y0))
                canvas[y0:y1, x0:x1] = np.asarray(small)
        return canvas

    def _box(self, image: str, box: Box) -> np.ndarray:
        ref = self._ref(image)
        return read_image(ImageRef(ref.file, ref.plane, box), **self._how).rgb


def _small(rgb: np.ndarray, box: Box) -> np.ndarray:
    rows, columns = grid_hw(box)
    if rgb.shape[:2] == (rows, columns):
        return np.ascontiguousarray(rgb)
    small = Image.fromarray(rgb).resize((columns, rows), Image.Resampling.BOX)
    return np.asarray(small)


def open_prompter(project: Project) -> Prompter:
    """What answers clicks: the project's SAM."""
    from usam_core.sam.load import NANO, choose_device, load_backend

    config = project.config.sam
    sam = load_backend(config, project.checkpoint)
    return Prompter(sam, choose_device(config.device), points_alone=config.model == NANO)
