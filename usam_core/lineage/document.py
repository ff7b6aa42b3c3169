"""`lineage.json`: what a step's outputs were made of; written whole, and kept when replaced.

    out/fit/lineage.json                 of the outputs that are there now
    out/fit/lineage/<SHA-256>.json       of earlier ones: what was made from them names it still

A document names its parents by path and SHA-256, as a commit does, so that a chain of them can
be verified. Paths count from the project's folder with forward slashes, so that a project can be
moved; only what lies outside that folder is named absolutely.
"""

import json
import os
from pathlib import Path
from typing import Any

from usam_core.errors import StoreError
from usam_core.files.atomic import whole_file, write_json
from usam_core.files.digest import file_digest
from usam_core.redact import all_without_secrets

FORMAT = 1
"""Raised when a document changes so that older code cannot read it."""

LINEAGE = "lineage.json"
EARLIER = "lineage"


def portable(path: Path, root: Path) -> str:
    """Return a path as documents name it.

    >>> portable(Path("/lab/p/out/fit"), Path("/lab/p")), portable(Path("/data"), Path("/lab/p"))
    ('out/fit', '/data')
    """
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def write_document(folder: Path, document: dict[str, Any], root: Path) -> str:
    """Write a step's `lineage.json` and return its SHA-256; the one that was there is kept.

    Args:
        folder: the step's folder.
        document: what `usam_core.steps.lineage` says of the step.
        root: the project's folder.
    """
    file = folder / LINEAGE
    if file.exists():
        _keep(file)
    said = all_without_secrets(document)
    write_json(file, {"format": FORMAT, "root": _way(folder, root), **said})
    return file_digest(file)


def read_document(file: Path) -> dict[str, Any]:
    """Return a document.

    Raises:
        StoreError: it cannot be read or is of another format.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        found = document["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{file}: cannot be read as lineage ({error!r}); run the step again with --refresh"
        ) from error
    if found != FORMAT:
        raise StoreError(f"{file}: lineage of format {found!r}; expected {FORMAT}")
    return document


def find_document(file: Path, sha256: str) -> Path | None:
    """Return where the document with a digest lies: at `file`, or kept beside it; else None."""
    for place in (file, file.parent / EARLIER / f"{sha256}.json"):
        try:
            if file_digest(place) == sha256:
                return place
        except OSError:
            continue
    return None


def _keep(file: Path) -> None:
    kept = file.parent / EARLIER / f"{file_digest(file)}.json"
    if not kept.exists():
        with whole_file(kept) as temporary:
            temporary.write_bytes(file.read_bytes())


def _way(folder: Path, root: Path) -> str:
    return Path(os.path.relpath(root, folder)).as_posix()
