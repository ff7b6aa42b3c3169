"""The `images` section of `project.yaml`: which images are labelled, and how they are read."""

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal
from urllib.parse import unquote

from pathspec import GitIgnoreSpec
from pydantic import BeforeValidator, Field, StrictInt, StrictStr, field_validator, model_validator

from usam_core.config.base import Bool, Float, Section
from usam_core.files.fsspec_io import is_url, join

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def _address(value: object) -> object:
    """Return a path or URL as text, `file://` as the path that it is."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, str) or not (found := _URL.match(value)):
        return value
    if "::" in value:
        raise ValueError("expected one URL; chains of them (::) are not read")
    host = value[found.end() :].partition("/")[0]
    # What stands here is repeated in lineage documents and logs.
    if "@" in host or "?" in value:
        raise ValueError(
            "expected a URL without keys or a query in it; give keys where the store's own library "
            "looks for them"
        )
    scheme, rest = found.group().lower(), value[found.end() :]
    return unquote(rest.removeprefix("localhost")) if scheme == "file://" else scheme + rest


READ = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".webp", ".gif", ".avif"),
    *(".tif", ".tiff", ".btf", ".tf2", ".tf8", ".lsm", ".stk", ".svs", ".ndpi", ".scn", ".qptiff"),
    *(".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    ".zarr",
)
_HEIF = (".heic", ".heif", ".hif")
NOT_READ = (
    *(*_HEIF, ".jxl", ".jxr", ".wdp", ".exr", ".hdr", ".tga", ".dib", ".pcx", ".sgi", ".psd"),
    *(".psb", ".xcf", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef"),
    *(".srw", ".czi", ".nd2", ".lif", ".vsi", ".oib", ".oif", ".ims", ".dv", ".zvi", ".mrxs"),
    *(".bif", ".mrc", ".dcm", ".fits", ".fts", ".nii", ".nrrd", ".svg", ".avifs", ".ecw", ".sid"),
    *(".dds", ".ico", ".qoi"),
)
"""Endings of images that are left out if they are not asked for, which a note says."""

Address = Annotated[str, BeforeValidator(_address), Field(min_length=1)]

Color = Literal["red", "green", "blue", "grey"]
Channel = Annotated[StrictInt, Field(ge=0)] | Annotated[StrictStr, Field(min_length=1)]


class ImagesConfig(Section):
    """The images to be labelled."""

    path: Address
    """Folder with the images, or a URL that fsspec opens (s3://, gs://, https://), or a file that
    names them: COCO JSON, VOC's ImageSets/*/LIST.txt, a list as .csv, .parquet or .txt. Relative
    paths count from the project file."""
    root: Address | None = None
    """Folder or URL that the names count from, where `path` is a file that names images; empty
    takes the folder of that file, `images` beside a COCO JSON, JPEGImages of a VOC root."""
    files: Address | None = None
    """List that names the images to be labelled, counting from `path`: .txt with one path a line,
    .csv or .parquet with a column `path` or `file_name`; empty takes all that lie there."""
    include: Annotated[list[str], Field(min_length=1)] | None = None
    """Patterns as in a .gitignore, such as "plates/**/*.tif"; an image counts if its path from the
    folder fits one. Empty takes all."""
    exclude: list[str] = []
    """Patterns as in a .gitignore, such as "*_thumb.*" or "old/"; what fits one does not count."""
    recursive: Bool = True
    """Look into sub-folders too."""
    extensions: Annotated[list[str], Field(min_length=1)] = Field(
        default_factory=lambda: [*READ, *(_HEIF if find_spec("pillow_heif") else ())]
    )
    """Which files count as images, by their ending, in any case; `.zarr` are folders. Empty: every
    ending of what is read, HEIF where the package pillow-heif is installed."""
    max_megapixels: Annotated[Float, Field(gt=0, le=4000)] = 100.0
    """A larger image is quarantined before it is decoded; with `tile` this holds for what must be
    decoded at once: a tile, or all of a picture that cannot be read in parts (JPEG, PNG)."""
    tile: Annotated[StrictInt, Field(ge=64, le=16_384)] | None = None
    """Rows and columns of the tiles in which larger images are embedded and labelled; what lies on
    a seam is one object again in the labels. Empty: every image is embedded whole."""
    tile_overlap: Annotated[StrictInt | None, Field(ge=8)] = None
    """Pixels that neighbouring tiles share: what is seen of an object there, by both, says that it
    is one. At most half of `tile`; empty takes a quarter of it, but never more than 128."""
    channels: dict[Color, Channel] | None = None
    """Which channel, by number from 0 or by name, is shown as `red`, `green`, `blue`, or alone as
    `grey`, where a plane's channels are measurements; pictures keep their colours. Empty: one
    channel is grey, of several the first three are red, green and blue. The index says what was."""
    projection: Literal["none", "max", "min", "mean"] = "none"
    """How the z of a stack become one image; with `none` each is an image of its own. A TIFF whose
    only axis has no name is a stack of z."""
    window: Literal["store", "percentile", "full"] | tuple[Float, Float] = "store"
    """How 16-bit, 32-bit and float images become 8 bit: the 0.5 to 99.5 percentiles of a sample of
    all images, once for each channel and kept in the embed step's folder; the image's own; the data
    type's full range; or a fixed [low, high]. The index says what was. 8 bit: `stretch`."""
    stretch: Bool = False
    """Stretch 8-bit images too, for fields that are dim on the screen: what lies between an image's
    own 0.5 and 99.5 percentiles, of all its colours together, becomes 0 to 255. Training pictures
    are embedded the same way, but filtered as they are. Else 8 bit is never touched."""

    @field_validator("include", "exclude")
    @classmethod
    def _patterns_can_be_read(cls, value: list[str] | None) -> list[str] | None:
        for pattern in value or []:
            try:
                GitIgnoreSpec.from_lines([pattern])
            except ValueError as error:
                raise ValueError(
                    f"expected patterns as in a .gitignore, {pattern!r} is none: {error}"
                ) from error
        return value

    @field_validator("window")
    @classmethod
    def _window_is_open(cls, value: object) -> object:
        if isinstance(value, tuple) and not value[0] < value[1]:
            raise ValueError("expected [low, high] with low below high")
        return value

    @model_validator(mode="after")
    def _tiles_overlap_less_than_half(self) -> "ImagesConfig":
        if self.tile is not None and 2 * self.overlap > self.tile:
            raise ValueError(
                f"tile_overlap: expected at most half of tile, {self.tile // 2}; got {self.overlap}"
            )
        return self

    @property
    def overlap(self) -> int:
        """Return how many pixels neighbouring tiles share."""
        if self.tile_overlap is not None:
            return self.tile_overlap
        return 128 if self.tile is None else min(128, self.tile // 4)

    @field_validator("channels")
    @classmethod
    def _grey_stands_alone(cls, value: dict[str, int | str] | None) -> object:
        if value is not None and (not value or ("grey" in value and len(value) > 1)):
            raise ValueError("expected some of red, green and blue, or grey alone")
        return value


LIST_ENDINGS = (".txt", ".csv", ".parquet", ".json")
"""Files that name images: lists, and the instances of a COCO data set."""

_VOC_SETS = "ImageSets"
_VOC_IMAGES = "JPEGImages"


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where images are looked for: a folder or URL that their names count from, and the file or URL
    that names them; None takes all that lie below `root`. VOC's sets name them without an
    ending.
    """

    root: str
    names: str | None = None
    is_voc: bool = False


def image_place(config: ImagesConfig, base: Path) -> ImagePlace:
    """Return where images lie; relative paths count from `base`, the project file's folder."""
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
