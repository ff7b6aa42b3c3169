"""`lineage.json`: what a step's outputs were made of; written whole, and kept when replaced.

    out/fit/lineage.json                 of the outputs that are there now
    out/fit/lineage/<SHA-256>.json       of earlier ones: what was made from them names it still

A document names its parents by path and SHA-256, as a commit does, so that a chain of them can
be verified. Paths count from the project's folder with forward slashes, so that a project can be
moved; only what lies outside that folder is named absolutely.
"""

import functools
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from usam_core.config.project import Project
from usam_core.errors import StoreError, all_without_secrets
from usam_core.files.atomic import whole_file, write_json
from usam_core.files.digest import file_digest
from usam_core.files.fsspec_io import is_url
from usam_core.files.paths import way_to

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

FORMAT = 1
"""Raised when a document changes so that older code cannot read it."""

LINEAGE = "lineage.json"
EARLIER = "lineage"
RECORD = "record.json"

_SECONDS_FOR_GIT = 10
_OF_THE_CARD = ("role", "classes", "weights_sha256", "training_digest", "training_provenance")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"
    return installed


@functools.cache
def checkout() -> dict[str, Any] | None:
    """The `commit` that this code was run from and whether files were `changed` since.

    None where the code is installed and not a checkout, or git is not there. Asked once a
    process: a later commit is not the code that was loaded.
    """
    root = Path(__file__).parents[2]
    # An installed package may lie in a virtual environment within somebody else's checkout.
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    if not commit or changed is None:
        return None
    return {"commit": commit, "changed": bool(changed)}


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            text=True,
            timeout=_SECONDS_FOR_GIT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def portable(path: Path, root: Path) -> str:
    """A path as documents name it.

    >>> portable(Path("/lab/p/out/fit"), Path("/lab/p")), portable(Path("/data"), Path("/lab/p"))
    ('out/fit', '/data')
    """
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def write_document(folder: Path, document: dict[str, Any], root: Path) -> str:
    """Write a step's `lineage.json` and return its SHA-256; the one that was there is kept.

    Args:
        document: what the step was made of (`usam_core.steps.running`).
    """
    file = folder / LINEAGE
    if file.exists():
        kept = folder / EARLIER / f"{file_digest(file)}.json"
        if not kept.exists():
            with whole_file(kept) as temporary:
                temporary.write_bytes(file.read_bytes())
    way = way_to(root, folder)
    write_json(file, {"format": FORMAT, "root": way, **all_without_secrets(document)})
    return file_digest(file)


def read_document(file: Path) -> dict[str, Any]:
    """Read a document.

    Raises:
        StoreError: it cannot be read or is of another format.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        format_ = document["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{file}: cannot be read as lineage ({error!r}); run the step again with --refresh"
        ) from error
    if format_ != FORMAT:
        raise StoreError(f"{file}: lineage of format {format_!r}; expected {FORMAT}")
    return document


def find_document(file: Path, sha256: str) -> Path | None:
    """Where the document with a digest lies: at `file`, or kept beside it; else None."""
    for place in (file, file.parent / EARLIER / f"{sha256}.json"):
        try:
            if file_digest(place) == sha256:
                return place
        except OSError:
            continue
    return None


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
    root = project.images.root
    write_json(
        path,
        {
            "config": all_without_secrets(project.config.model_dump(mode="json")),
            "seed": project.config.seed,
            "versions": versions(),
            "encoder": head["encoder"],
            "head": {key: head[key] for key in _OF_THE_CARD},
            "pictures": {
                "root": root if is_url(root) else portable(Path(root), project.root),
                "reading": dict(reading),
            },
            "images": dict(images),
        },
    )
