"""How a project reads its images: the settings, and the windows that hold for all of them.

With `images.window: store` the windows are computed once, from a sample of the images, and kept in
the embed step's folder. They are part of the embeddings' identity: images that come later go
through the same windows. Another choice of channels or projection has windows of its own; a
refresh of `embed` computes them anew.
"""

import logging
import os
from pathlib import Path
from typing import Any

from usam_core.config.project import Project
from usam_core.files.digest import value_digest
from usam_core.files.fsspec_io import is_url, join
from usam_core.files.locks import only_one
from usam_core.files.sealed import read_sealed, write_sealed
from usam_core.images.ref import ImageRef
from usam_core.images.rgb import Window
from usam_core.images.stores.anew import READING, is_read_anew
from usam_core.images.stores.sample import sample_windows
from usam_core.rng import generator
from usam_core.steps.folders import step_folder
from usam_core.steps.images_to_label import labelled_files

_log = logging.getLogger(__name__)

STORE = "store"
_REVISION = 1
_TIFF_ENDINGS = (".tif", ".tiff")
"""Of images that were listed before others were."""


def reading(project: Project) -> dict[str, Any]:
    """Return the arguments of `read_image` that are the project's."""
    images = project.config.images
    return {
        "max_megapixels": images.max_megapixels,
        "window": _window(project),
        "channels": images.channels,
        "projection": images.projection,
        **({"stretch": True} if images.stretch else {}),
    }


def reading_spec(project: Project) -> dict[str, Any]:
    """Return what of the reading decides the embeddings; part of their identity."""
    images = project.config.images
    found = _window(project)
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


def windows_file(project: Project) -> Path:
    """Return where the windows of all images are kept."""
    said = [_REVISION, project.config.images.channels, project.config.images.projection]
    return step_folder(project, "embed") / f"windows-{value_digest(said)[:16]}.json"


def forget_windows(project: Project) -> None:
    """Let the windows be computed anew."""
    windows_file(project).unlink(missing_ok=True)


def _window(project: Project) -> Window:
    window = project.config.images.window
    if window != STORE:
        return window
    file = windows_file(project)
    if _is_stale(file, project):
        _log.warning("%s: some of its images are read anew; it is computed anew too", file)
        forget_windows(project)
    found = _read(file)
    if found is None:
        with only_one(file.with_suffix(".lock"), str(file)):
            found = _read(file)
            if found is None:
                _compute(project, file)
                found = _read(file) or {}
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


def _is_stale(file: Path, project: Project) -> bool:
    """Return whether windows were computed from images that are read otherwise now."""
    try:
        kept = read_sealed(file)
        sample = [] if kept.get("reading") == READING else kept["sample"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    files = {ImageRef.parse(join(str(project.root), plane)).file for plane in sample}
    # Of those behind a URL nothing is read for this: `usam embed --refresh` computes them anew.
    return any(is_read_anew(file) for file in files if file.lower().endswith(_TIFF_ENDINGS))


def _compute(project: Project, file: Path) -> None:
    images = project.config.images
    files = labelled_files(project)
    sampled = sample_windows(
        [files[sha256] for sha256 in sorted(files)],
        generator(project.config.seed, "window"),
        max_megapixels=images.max_megapixels,
        channels=images.channels,
        projection=images.projection,
        tiled=images.tile is not None,
    )
    write_sealed(
        file,
        {
            "windows": sampled.windows,
            "reading": READING,
            "images": len(files),
            "looked_at": sampled.looked_at,
            "seed": project.config.seed,
            "sample": [
                plane if is_url(plane) else os.path.relpath(plane, project.root)
                for plane in sampled.planes
            ],
        },
    )
    for kind, (low, high) in sampled.windows.items():
        _log.info("%s: %s from %g to %g, of %d planes", file, kind, low, high, len(sampled.planes))
