"""Where a project's images lie: below a folder or a URL, all of them or those that a file names."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from usam_core.config.images import ImagesConfig
from usam_core.files.fsspec_io import is_url, join

LIST_ENDINGS = (".txt", ".csv", ".parquet", ".json")
"""Files that name images: lists, and the instances of a COCO data set."""

_VOC_SETS = "ImageSets"
_VOC_IMAGES = "JPEGImages"


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where images are looked for.

    Attributes:
        root: folder or URL that the images' names count from.
        names: file or URL that names them; None takes all that lie below `root`.
        is_voc: whether `names` holds names without an ending, as PASCAL VOC's sets do.
    """

    root: str
    names: str | None = None
    is_voc: bool = False


def image_place(config: ImagesConfig, base: Path) -> ImagePlace:
    """Return where the images of a project lie.

    Args:
        config: the project's `images`.
        base: folder of the project file, which relative paths count from.
    """
    path = _absolute(config.path, base)
    if config.files is not None:
        return ImagePlace(path, _absolute(config.files, base))
    if not path.lower().endswith(LIST_ENDINGS) or os.path.isdir(path):
        return ImagePlace(path)
    folder = path.rpartition("/")[0] if is_url(path) else os.path.dirname(path)
    is_voc = path.lower().endswith(".txt") and PurePosixPath(folder).parent.name == _VOC_SETS
    if config.root is not None:
        return ImagePlace(_absolute(config.root, base), path, is_voc)
    if is_voc:
        return ImagePlace(join(folder.rsplit("/", 2)[0], _VOC_IMAGES), path, True)
    beside = join(folder, "images")
    if path.lower().endswith(".json") and os.path.isdir(beside):
        return ImagePlace(beside, path)
    return ImagePlace(folder, path)


def _absolute(given: str, base: Path) -> str:
    return given if is_url(given) else str(base / given)
