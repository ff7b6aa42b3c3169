"""What a person should know about embeddings that a run keeps."""

from usam_core.errors import StoreError, UserError
from usam_core.lineage.document import LINEAGE, read_document
from usam_core.project import Project
from usam_core.sam.embedder import EMBED_REVISION
from usam_core.stages.folders import step_folder


def notes_on_kept(project: Project, kept: int, code: str) -> list[str]:
    """Say that embeddings made by other code are kept, if there are any.

    `EMBED_REVISION`, part of the store's fingerprint, says whether a change of the code changes
    results (docs/decisions/0005): ten million images are not embedded again for a refactoring.

    Args:
        project: the project.
        kept: how many embeddings were there already.
        code: digest of the code that embeds.
    """
    try:
        document = read_document(step_folder(project, "embed") / LINEAGE)
        before = document["code"]["sha256"]
    except (UserError, StoreError, KeyError):
        return []
    if not kept or before == code:
        return []
    return [
        "the code that embeds has changed since the last run, its number of the results "
        f"({EMBED_REVISION}) has not: {kept} stored embeddings are kept; to make them anew: "
        f"usam embed {project.file} --refresh"
    ]
