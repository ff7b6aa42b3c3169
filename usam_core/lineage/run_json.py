"""`run.json`: what one set of labels was made of, in one file that can be sent along with them.

The chain with parents, code and times is `lineage.json`'s (`usam_core.lineage`); this file holds
no time, so that the same run writes the same bytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usam_core.config.project import Project
from usam_core.files.atomic import write_json
from usam_core.files.fsspec_io import is_url
from usam_core.lineage.document import portable
from usam_core.lineage.environment import versions
from usam_core.redact import all_without_secrets

_OF_THE_CARD = ("role", "classes", "weights_sha256", "training_digest", "training_provenance")


def write_run(
    path: Path,
    project: Project,
    head: Mapping[str, Any],
    images: Mapping[str, str],
    reading: Mapping[str, Any],
) -> None:
    """Write configuration, versions, and the digests of checkpoint, head and images.

    Args:
        path: where to.
        project: the project that was labelled.
        head: card of the head.
        images: content digest of every labelled image by its path.
        reading: how the images were read, `read_image`'s arguments.
    """
    write_json(
        path,
        {
            "config": all_without_secrets(project.config.model_dump(mode="json")),
            "seed": project.config.seed,
            "versions": versions(),
            "encoder": head["encoder"],
            "head": {key: head[key] for key in _OF_THE_CARD},
            "pictures": {"root": _root(project), "reading": dict(reading)},
            "images": dict(images),
        },
    )


def _root(project: Project) -> str:
    root = project.images.root
    return root if is_url(root) else portable(Path(root), project.root)
