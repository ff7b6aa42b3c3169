"""The images of a project by content: those to be labelled, and those that teach."""

import pandas as pd

from usam_core.listing import list_images
from usam_core.progress import SILENT, Progress
from usam_core.project import Project
from usam_core.stages.collect import read_manifest
from usam_core.stages.folders import step_folder


def labelled_images(project: Project, progress: Progress = SILENT) -> pd.DataFrame:
    """Return the listing of the images to be labelled (columns as `list_images`).

    Digests of unchanged files are remembered, so that a second listing reads no file.
    """
    cache = step_folder(project, "embed") / "images.parquet"
    return list_images(project.config.images, project.images_path, cache, progress)


def wanted_files(project: Project, progress: Progress = SILENT) -> dict[str, str]:
    """Map the content digest of every image that needs embedding to one path that holds it.

    Training pictures come first: when a run is cut short, a head can be fitted already.
    """
    manifest = read_manifest(project)
    wanted = dict(zip(manifest["sha256"], manifest["path"], strict=True))
    listing = labelled_images(project, progress)
    usable = listing[listing["status"] == "ok"]
    for sha256, path in zip(usable["sha256"], usable["path"], strict=True):
        wanted.setdefault(sha256, str(project.images_path / path))
    return wanted
