"""How a project reads its images: the settings, and the windows that hold for all of them.

With `images.window: store` the windows are computed once, from a sample of the images, and kept in
the embed step's folder. They are part of the embeddings' identity: images that come later go
through the same windows. Another choice of channels or projection has windows of its own; a
refresh of `embed` computes them anew. `settle_windows` alone reads images; opening
the store only reads what is kept.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from usam_core.config.project import Project
from usam_core.errors import MissingStepError
from usam_core.files.atomic import only_one
from usam_core.files.digest import read_sealed, value_digest, write_sealed
from usam_core.files.fsspec_io import is_url, join
from usam_core.files.paths import way_to
from usam_core.images.ref import ImageRef
from usam_core.images.rgb import Window
from usam_core.images.stores.anew import READING, TIFF_READING, is_read_anew, is_zarr_read_anew
from usam_core.images.stores.show import sample_windows
from usam_core.rng import generator
from usam_core.steps.base import step_folder
from usam_core.steps.images_to_label import labelled_files

_log = logging.getLogger(__name__)

_REVISION = 1
_TIFF_ENDINGS = (".tif", ".tiff")
"""Of images that were listed before others were."""


def how_to_read(project: Project) -> dict[str, Any]:
    """Arguments of `read_image` that are the project's.

    Raises:
        MissingStepError: the windows of all images are not known yet.
    """
    window = _window(project)
    how = {"max_megapixels": project.config.images.max_megapixels, "window": window}
    return {**reading_of(_spec(project, window)), **how}


def reading_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `read_image`, of what identifies embeddings (`reading_spec`)."""
    window = spec.get("window", "percentile")
    if isinstance(window, Mapping):
        window = {kind: tuple(limits) for kind, limits in window.items()}
    return {
        "max_megapixels": 100.0,
        "window": window if isinstance(window, str | dict) else tuple(window),
        "channels": spec.get("channels"),
        "projection": spec.get("projection", "none"),
        **({"stretch": True} if spec.get("stretch") else {}),
    }


def reading_spec(project: Project) -> dict[str, Any]:
    """What of the reading decides the embeddings, part of their identity.

    Raises:
        MissingStepError: the windows of all images are not known yet.
    """
    return _spec(project, _window(project))


def _spec(project: Project, window: Window) -> dict[str, Any]:
    images = project.config.images
    if isinstance(window, Mapping):
        # Without deep images nothing differs from when each had its own percentiles.
        windows = {key: list(window[key]) for key in sorted(window)}
        spec: dict[str, Any] = {"window": windows or "percentile"}
    else:
        spec = {"window": window if isinstance(window, str) else list(window)}
        spec["colour"] = "windowed"  # once 16-bit colour kept its high byte
    if images.channels is not None:
        spec["channels"] = images.channels
    if images.projection != "none":
        spec["projection"] = images.projection
    if images.stretch:
        spec["stretch"] = True
    return spec


def windows_file(project: Project) -> Path:
    """Where the windows of all images are kept."""
    images = project.config.images
    digest = value_digest([_REVISION, images.channels, images.projection])
    return step_folder(project, "embed") / f"windows-{digest[:16]}.json"


def settle_windows(project: Project) -> None:
    """Compute the windows of all images, unless they are kept or the settings ask for none."""
    if project.config.images.window != "store":
        return
    file = windows_file(project)
    if _is_stale(file, project.root):
        _log.warning("%s: some of its images are read anew; it is computed anew too", file)
        file.unlink(missing_ok=True)
    if _read(file) is None:
        with only_one(file.with_suffix(".lock"), str(file)):
            if _read(file) is None:
                _compute(project, file)


def _window(project: Project) -> Window:
    chosen = project.config.images.window
    if chosen != "store":
        return chosen
    file = windows_file(project)
    windows = _read(file)
    if windows is None:
        raise MissingStepError(
            f"{file}: no embeddings of this SAM yet, nor the windows that the images are seen "
            f"through; run `usam embed {project.file}` first"
        )
    return windows


def _read(file: Path) -> dict[str, tuple[float, float]] | None:
    try:
        windows = read_sealed(file)["windows"]
        return {key: (float(low), float(high)) for key, (low, high) in windows.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s: not readable (%s); the windows are computed anew", file, error)
        return None


def _is_stale(file: Path, root: Path) -> bool:
    """Whether windows were computed from images that are decoded otherwise now."""
    try:
        kept = read_sealed(file)
        reading = int(kept.get("reading", 1))
        sample = [] if reading == READING else kept["sample"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    # Of those behind a URL nothing is read for this: `usam embed --refresh` computes them anew.
    return any(
        is_zarr_read_anew(image)
        if os.path.isdir(image)
        else reading < TIFF_READING
        and image.lower().endswith(_TIFF_ENDINGS)
        and is_read_anew(image)
        for image in (ImageRef.parse(join(str(root), plane)).file for plane in sample)
    )


def _compute(project: Project, file: Path) -> None:
    images, root, files = project.config.images, project.root, labelled_files(project)
    sampled = sample_windows(
        [files[sha256] for sha256 in sorted(files)],
        generator(project.config.seed, "window"),
        max_megapixels=images.max_megapixels,
        channels=cast(Mapping[str, int | str] | None, images.channels),
        projection=images.projection,
    )
    record = {
        "windows": sampled.windows,
        "reading": READING,
        "images": len(files),
        "looked_at": sampled.looked_at,
        "seed": project.config.seed,
        "sample": [p if is_url(p) else way_to(p, root) for p in sampled.planes],
    }
    write_sealed(file, record)
    for kind, (low, high) in sampled.windows.items():
        _log.info("%s: %s from %g to %g, of %d planes", file, kind, low, high, len(sampled.planes))
