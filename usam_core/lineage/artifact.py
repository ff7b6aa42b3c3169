"""What a file of a project is: which step made it, and of which image."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from usam_core.errors import InputError, StoreError
from usam_core.files.paths import inside
from usam_core.images.ref import ImageRef
from usam_core.lineage.document import EARLIER, LINEAGE

RECORD = "record.json"
IMAGES = "the folder of the images"
PARTS, MASKS, OVERLAYS = "parts/", "masks/", "overlays/"
SCENES, TRUTHS = "scenes/", "truth/"
"""Folders of `compose`."""


@dataclass(frozen=True)
class Artifact:
    """One output, or all outputs of a step.

    Attributes:
        file: absolute path.
        folder: the step's folder.
        name: the file's path in it, "." for the whole step.
        document: the `lineage.json` that speaks of it.
        entry: for a label PNG or an overlay, what `annotate` recorded of its image; else None.
    """

    file: Path
    folder: Path
    name: str
    document: Path
    entry: dict[str, Any] | None = None

    @property
    def scene(self) -> bool:
        """Return whether it is a composed scene, or the truth of one."""
        return self.folder.name == "compose" and self.name.startswith((SCENES, TRUTHS))

    @property
    def kind(self) -> str:
        """Return what the file is, in words."""
        if self.name == ".":
            return "all outputs of the step"
        if self.scene:
            return "composed scene" if self.name.startswith(SCENES) else "truth of a composed scene"
        if self.name.startswith(MASKS):
            return "label PNG"
        return "overlay" if self.name.startswith(OVERLAYS) else "output"


def find_artifact(path: str | Path) -> Artifact:
    """Return what a path is.

    Raises:
        InputError: there is no such file, or it is no output of a step.
    """
    file = Path(os.path.abspath(path))
    if not file.exists():
        raise InputError(f"{path}: no such file; expected an output of a project")
    folder = next((f for f in (file, *file.parents) if (f / LINEAGE).is_file()), None)
    if folder is None:
        raise InputError(
            f"{path}: neither its folder nor one above it holds {LINEAGE}; expected an output of a "
            "step, such as out/annotate/coco.json. Outputs of earlier versions get theirs when "
            "the step runs again"
        )
    name = file.relative_to(folder).as_posix()
    if file.parent == folder / EARLIER:
        return Artifact(file, folder, ".", file)
    if name in (LINEAGE, RECORD) or file.is_dir():
        name = "."
    return Artifact(file, folder, name, folder / LINEAGE, _entry(folder, name))


def read_parts(folder: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield what `annotate` recorded of each image in some of its parts.

    Raises:
        StoreError: a part names a file that is none of the step's, or of the images.
    """
    for name in names:
        part = inside(folder, name)
        try:
            entries = json.loads(part.read_text(encoding="utf-8"))
            for entry in entries:
                inside(folder, entry["png"], part)
                inside(IMAGES, ImageRef.parse(entry["file_name"]).file, part, linked=True)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{part}: cannot be read as labels ({error!r}); run `usam annotate` again"
            ) from error
        yield from entries


def _entry(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the image's record; None too where the parts do not speak of the file."""
    if name.startswith(OVERLAYS):
        png = PurePosixPath(MASKS + name.removeprefix(OVERLAYS)).with_suffix(".png").as_posix()
    elif name.startswith(MASKS):
        png = name
    else:
        return None
    for part in sorted(folder.glob(f"{PARTS}*.json")):
        try:
            entries = list(read_parts(folder, [f"{PARTS}{part.name}"]))
        except (OSError, ValueError, StoreError):
            continue  # told when the parts are checked
        for entry in entries:
            if entry["png"] == png:
                return {**entry, "part": f"{PARTS}{part.name}"}
    return None
