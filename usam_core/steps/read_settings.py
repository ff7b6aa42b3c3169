"""How a project reads its images: the settings, and the windows that hold for all of them.

With `images.window: store` the windows are computed once, from a sample of the images, and kept in
the embed step's folder. They are part of the embeddings' identity: images that come later go
through the same windows. Another choice of channels or projection has windows of its own; a
refresh of `embed` computes them anew. `settle_windows` alone looks at images: whoever only opens
the store reads what is kept.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usam_core.config.images import ImagesConfig
from usam_core.errors import MissingStepError
from usam_core.files.atomic import only_one
from usam_core.files.digest import read_sealed, value_digest, write_sealed
from usam_core.files.fsspec_io import is_url, join
from usam_core.images.ref import ImageRef
from usam_core.images.rgb import Window
from usam_core.images.stores.anew import READING, TIFF_READING, is_read_anew, is_zarr_read_anew
from usam_core.images.stores.show import sample_windows
from usam_core.rng import generator

_log = logging.getLogger(__name__)

STORE = "store"
_REVISION = 1
_TIFF_ENDINGS = (".tif", ".tiff")
"""Of images that were listed before others were."""


def reading(images: ImagesConfig, folder: Path) -> dict[str, Any]:
    """Arguments of `read_image` that are the project's.

    Args:
        images: the project's section.
        folder: of the embed step, where windows are kept.

    Raises:
        MissingStepError: the windows of all images are not known yet.
    """
    return {
        "max_megapixels": images.max_megapixels,
        "window": _window(images, folder),
        "channels": images.channels,
        "projection": images.projection,
        **({"stretch": True} if images.stretch else {}),
    }


def reading_spec(images: ImagesConfig, folder: Path) -> dict[str, Any]:
    """What of the reading decides the embeddings, part of their identity; see `reading`."""
    found = _window(images, folder)
    spec: dict[str, Any] = {"window": found if isinstance(found, str) else list(found)}
    if images.window == STORE:
        # Without deep images nothing differs from when each had its own percentiles.
        spec = {"window": {key: list(found[key]) for key in sorted(found)} or "percentile"}
    else:
        spec["colour"] = "windowed"  # once 16-bit colour kept its high byte
    if images.channels is not None:
        spec["channels"] = images.channels
    if images.projection != "none":
        spec["projection"] = images.projection
    if images.stretch:
        spec["stretch"] = True
    return spec


def windows_file(images: ImagesConfig, folder: Path) -> Path:
    """Where the windows of all images are kept; see `reading`."""
    said = [_REVISION, images.channels, images.projection]
    return folder / f"windows-{value_digest(said)[:16]}.json"


def settle_windows(
    images: ImagesConfig, folder: Path, root: Path, seed: int, files: Mapping[str, str]
) -> None:
    """Compute the windows of all images, unless they are kept or the settings ask for none.

    Args:
        images: the project's section.
        folder: of the embed step.
        root: of the project, from which the sampled images are named.
        seed: of the project, for the sample.
        files: the images by their digests.
    """
    if images.window != STORE:
        return
    file = windows_file(images, folder)
    if _is_stale(file, root):
        _log.warning("%s: some of its images are read anew; it is computed anew too", file)
        file.unlink(missing_ok=True)
    if _read(file) is None:
        with only_one(file.with_suffix(".lock"), str(file)):
            if _read(file) is None:
                _compute(images, file, root, seed, files)


def _window(images: ImagesConfig, folder: Path) -> Window:
    if images.window != STORE:
        return images.window
    file = windows_file(images, folder)
    found = _read(file)
    if found is None:
        raise MissingStepError(
            f"{file}: no embeddings of this SAM yet, nor the windows that the images are seen "
            "through; run `usam embed` first"
        )
    return found


def _read(file: Path) -> dict[str, tuple[float, float]] | None:
    try:
        said = read_sealed(file)["windows"]
        return {key: (float(low), float(high)) for key, (low, high) in said.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s: not readable (%s); the windows are computed anew", file, error)
        return None


def _is_stale(file: Path, root: Path) -> bool:
    """Return whether windows were computed from images that are read otherwise now."""
    try:
        kept = read_sealed(file)
        reading = int(kept.get("reading", 1))
        sample = [] if reading == READING else kept["sample"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    files = {ImageRef.parse(join(str(root), plane)).file for plane in sample}
    # Of those behind a URL nothing is read for this: `usam embed --refresh` computes them anew.
    return any(
        is_zarr_read_anew(file)
        if os.path.isdir(file)
        else reading < TIFF_READING and file.lower().endswith(_TIFF_ENDINGS) and is_read_anew(file)
        for file in files
    )


def _compute(
    images: ImagesConfig, file: Path, root: Path, seed: int, files: Mapping[str, str]
) -> None:
    sampled = sample_windows(
        [files[sha256] for sha256 in sorted(files)],
        generator(seed, "window"),
        max_megapixels=images.max_megapixels,
        channels=images.channels,
        projection=images.projection,
    )
    write_sealed(
        file,
        {
            "windows": sampled.windows,
            "reading": READING,
            "images": len(files),
            "looked_at": sampled.looked_at,
            "seed": seed,
            "sample": [p if is_url(p) else os.path.relpath(p, root) for p in sampled.planes],
        },
    )
    for kind, (low, high) in sampled.windows.items():
        _log.info("%s: %s from %g to %g, of %d planes", file, kind, low, high, len(sampled.planes))
