"""The images to be labelled, by content."""

import pandas as pd

from usam_core.listing import list_images
from usam_core.progress import SILENT, Progress
from usam_core.project import Project
from usam_core.stages.folders import step_folder


def labelled_images(project: Project, progress: Progress = SILENT) -> pd.DataFrame:
    """Return the listing of the images to be labelled (columns as `list_images`).

    Digests of unchanged files are remembered, so that a second listing reads no file.
    """
    cache = step_folder(project, "embed") / "images.parquet"
    return list_images(project.config.images, project.images_path, cache, progress)


def labelled_files(project: Project, progress: Progress = SILENT) -> dict[str, str]:
    """Map the digest of every image to be labelled that looks usable to one path that holds it."""
    listing = labelled_images(project, progress)
    usable = listing[listing["status"] == "ok"].drop_duplicates("sha256")
    paths = (str(project.images_path / path) for path in usable["path"])
    return dict(zip(usable["sha256"], paths, strict=True))
