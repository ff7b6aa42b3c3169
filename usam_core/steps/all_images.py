"""Every image of a project that needs embedding: those to be labelled, and those that teach."""

from usam_core.config.project import Project
from usam_core.progress import SILENT, Progress
from usam_core.steps.collect import read_manifest
from usam_core.steps.images_to_label import embedded_files


def wanted_files(project: Project, progress: Progress = SILENT) -> dict[str, str]:
    """Map the content digest of every image, or tile of one, that needs embedding to its address.

    Training pictures come first: when a run is cut short, a head can be fitted already.
    """
    manifest = read_manifest(project)
    wanted = dict(zip(manifest["sha256"], manifest["path"], strict=True))
    for sha256, path in embedded_files(project, progress).items():
        wanted.setdefault(sha256, path)
    return wanted
