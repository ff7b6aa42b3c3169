"""Addresses one plane of an image file: `well_A1.ome.tif#t=3,z=0`."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from usam_core.errors import InputError

_PART = re.compile(r"([a-z][a-z0-9]*)=(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One plane of one file; of a file with a single picture, that picture.

    Attributes:
        file: path or URL of the file (or of the Zarr group), as it was listed.
        plane: axis names and indices from 0, in the order of writing: `(("t", 3), ("z", 0))`;
            empty for a file with a single picture. `s` is a series or a Zarr array's number.
    """

    file: str
    plane: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        """Return the address as it is listed, stored and shown."""
        if not self.plane:
            return self.file
        return f"{self.file}#{','.join(f'{axis}={index}' for axis, index in self.plane)}"

    def output_name(self, ending: str, *, keep: bool = False) -> str:
        """Return the path of an output of this image, safe as a file's name everywhere.

        The planes of a file lie in a folder of its name.

        Args:
            ending: of the output, such as ".png".
            keep: keep the file's own ending too, where without it two names would be the same.

        >>> ImageRef.parse("plates/well_A1.ome.tif#t=3,z=0").output_name(".png")
        'plates/well_A1.ome_t3_z0.png'
        >>> ImageRef.parse("street/a.jpg").output_name(".png", keep=True)
        'street/a.jpg.png'
        """
        file = self.file if keep else str(PurePosixPath(self.file).with_suffix(""))
        if not self.plane:
            return f"{file}{ending}"
        return f"{file}_{'_'.join(f'{axis}{index}' for axis, index in self.plane)}{ending}"

    @classmethod
    def parse(cls, text: str) -> "ImageRef":
        """Read what `str` wrote; a `#` that no plane follows belongs to the file's name.

        Raises:
            InputError: the plane names an axis twice.

        >>> ImageRef.parse("a/well#1.tif#t=3,z=0")
        ImageRef(file='a/well#1.tif', plane=(('t', 3), ('z', 0)))
        """
        file, mark, plane = text.rpartition("#")
        parts = [_PART.fullmatch(part) for part in plane.split(",")] if mark else [None]
        if not file or not all(parts):
            return cls(text)
        pairs = tuple((part[1], int(part[2])) for part in parts)
        if len(dict(pairs)) < len(pairs):
            raise InputError(f"{text}: got an axis twice; expected each once, such as #t=3,z=0")
        return cls(file, pairs)
