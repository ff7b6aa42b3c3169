"""What a file of a project is: which step made it, and of which image."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from usam_core.errors import InputError, StoreError
from usam_core.labels.image import LabelledImage
from usam_core.labels.parts import PARTS, Parts
from usam_core.lineage.document import EARLIER, LINEAGE

RECORD = "record.json"
MASKS, OVERLAYS = "masks/", "overlays/"
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
        image: that a label PNG or an overlay is of; else None.
        part: of the labels, that speaks of it.
    """

    file: Path
    folder: Path
    name: str
    document: Path
    image: LabelledImage | None = None
    part: str = ""

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
    return Artifact(file, folder, name, folder / LINEAGE, *_entry(folder, name))


def _entry(folder: Path, name: str) -> tuple[LabelledImage | None, str]:
    """Return the image and its part; None too where the parts do not speak of the file."""
    if name.startswith(OVERLAYS):
        png = PurePosixPath(MASKS + name.removeprefix(OVERLAYS)).with_suffix(".png").as_posix()
    elif name.startswith(MASKS):
        png = name
    else:
        return None, ""
    for file in sorted((folder / PARTS).glob("*")):
        part = f"{PARTS}{file.name}"
        with suppress(OSError, StoreError):  # told when the parts are checked
            for image in Parts(folder, {part: None}).images(["tiles"]):
                if image.png == png:
                    return image, part
    return None, ""
