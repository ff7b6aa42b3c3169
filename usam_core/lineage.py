"""What a result was made of: configuration, versions, digests, seed; the content of `run.json`."""

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from usam_core.project import Project

PACKAGES = (
    "usam",
    "torch",
    "torchvision",
    "segment-anything",
    "zarr",
    "numpy",
    "pandas",
    "pycocotools",
    "pillow",
    "prefect",
    "diffusers",
    "transformers",
    "icrawler",
)

_OF_THE_CARD = ("role", "classes", "weights_sha256", "training_digest", "training_provenance")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def run_lineage(
    project: Project,
    *,
    key: str,
    revisions: dict[str, str],
    head: dict[str, Any],
    images: dict[str, str],
) -> dict[str, Any]:
    """Return the lineage of one annotate run, as a JSON-like value.

    Args:
        project: the project that ran.
        key: digest of everything the step depended on.
        revisions: code revision of each step.
        head: card of the head (its classes, digests, encoder and seed).
        images: content digest of every labelled image by its path.
    """
    return {
        "key": key,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "project": project.config.model_dump(mode="json"),
        "project_file": project.file.name,
        "seed": project.config.seed,
        "versions": versions(),
        "revisions": revisions,
        "encoder": head["encoder"],
        "head": {k: head[k] for k in _OF_THE_CARD},
        "images": images,
    }
