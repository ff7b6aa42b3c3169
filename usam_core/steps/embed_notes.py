"""What a person should know about the embeddings of a run: those kept, and what SAM saw."""

import pandas as pd

from usam_core.config.project import Project
from usam_core.errors import StoreError, UserError
from usam_core.images.listing.scan import OTHERS
from usam_core.images.rgb import OWN_WINDOW
from usam_core.images.stores.show import WITHOUT
from usam_core.lineage.document import LINEAGE, read_document
from usam_core.sam.embedder import EMBED_REVISION
from usam_core.steps.base import step_folder
from usam_core.steps.images_to_label import labelled_images, tiled_images

_NUMBERS = r"\[[^\]]*\]"


def shown_modes(rows: pd.DataFrame) -> dict[str, int]:
    """Count the images by how their values became 8-bit RGB; windows stand in the index."""
    modes = rows.loc[rows["status"] == "ok", "mode"].str.replace(_NUMBERS, "", regex=True)
    return {str(mode): int(count) for mode, count in modes.value_counts().sort_index().items()}


def embed_notes(project: Project, kept: int, code: str, shown: dict[str, int]) -> list[str]:
    """Notes on a run of embed.

    Args:
        kept: how many embeddings were there already.
        code: digest of the code that embeds.
        shown: `shown_modes` of the images.
    """
    notes = []
    # `EMBED_REVISION`, part of the store's fingerprint, says whether a change of the code changes
    # results (docs/decisions/0005): ten million images are not embedded again for a refactoring.
    try:
        before = read_document(step_folder(project, "embed") / LINEAGE)["code"]["sha256"]
    except (UserError, StoreError, KeyError):
        before = code
    if kept and before != code:
        notes.append(
            "the code that embeds has changed since the last run, its number of the results "
            f"({EMBED_REVISION}) has not: {kept} stored embeddings are kept; to make them anew: "
            f"usam embed {project.file} --refresh"
        )
    notes += [
        f"{count} images are shown as {mode}: images.channels says which channels are seen"
        for mode, count in shown.items()
        if WITHOUT in mode
    ]
    own = sum(count for mode, count in shown.items() if OWN_WINDOW in mode)
    if own:
        notes.append(
            f"{own} images hold values of a kind that was not among the images when the windows of "
            "the store were computed: each goes through its own percentiles. To compute them anew "
            f"and embed all images again: usam embed {project.file} --refresh"
        )
    tiled = {image.sha256: len(image.tiles) for image in tiled_images(project)}
    if tiled:
        count = sum(tiled.values())
        notes.append(f"{len(tiled)} images are cut into {count} tiles, each counted as one")
    return notes + notes_on_endings(project)


def notes_on_endings(project: Project) -> list[str]:
    """Which images were left out for their endings; nothing where a person chose the endings."""
    others = labelled_images(project).attrs.get(OTHERS, {})
    if not others or "extensions" in project.config.images.model_fields_set:
        return []
    counts = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
    heif = " (.heic and .heif are read where pillow-heif is installed)" if ".heic" in others else ""
    return [
        f"{sum(others.values())} images were left out for their endings: {counts}{heif}; convert "
        "them, or name the endings in images.extensions"
    ]
