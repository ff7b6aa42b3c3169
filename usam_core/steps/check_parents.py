"""Whether what a step is about to build on is what somebody chose, and not a newer one."""

import re
from collections.abc import Mapping
from pathlib import Path

from usam_core.errors import InputError
from usam_core.files.digest import file_digest
from usam_core.lineage.document import LINEAGE

_MIN_DIGITS = 8


def check_manifest(step: str, parents: Mapping[str, Path], manifest: str) -> None:
    """Refuse to build on anything but the chosen outputs of an earlier step.

    Args:
        step: the step that is about to run.
        parents: folders of the steps that it reads, by their names.
        manifest: the `lineage.json` that a step before wrote: its path, or the beginning of its
            SHA-256 as run pages and `usam lineage` show it. Empty accepts whatever is there.

    Raises:
        InputError: it is neither, or the project has other outputs by now.
    """
    if not manifest:
        return
    chosen = _digest(manifest)
    now = {}
    for parent, folder in parents.items():
        file = folder / LINEAGE
        if file.exists():
            now[parent] = file_digest(file)
    if not any(digest.startswith(chosen) for digest in now.values()):
        there = ", ".join(f"{parent} {digest[:12]}" for parent, digest in now.items()) or "nothing"
        raise InputError(
            f"manifest: got {manifest!r} ({chosen[:12]}), but {step} would build on {there}; run "
            "the step before again, or choose one of these, or leave it empty"
        )


def _digest(manifest: str) -> str:
    digits = manifest.lower()
    if re.fullmatch(rf"[0-9a-f]{{{_MIN_DIGITS},64}}", digits):
        return digits
    file = Path(manifest)
    file = file / LINEAGE if file.is_dir() else file
    if not file.is_file():
        raise InputError(
            f"manifest: got {manifest!r}, which is no file; expected the path of a {LINEAGE}, or "
            f"at least {_MIN_DIGITS} digits of its SHA-256"
        )
    return file_digest(file)
