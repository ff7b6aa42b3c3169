"""Files that name the images to be labelled: text, CSV, parquet, COCO JSON, PASCAL VOC sets."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath, PureWindowsPath

import pandas as pd

from usam_core.config.images import ImagePlace
from usam_core.errors import InputError
from usam_core.files.fsspec_io import file_system, is_url, join, open_bytes, try_again
from usam_core.files.parquet import read_frame
from usam_core.files.spreadsheet import read_separated
from usam_core.images.listing.walk import below, with_slashes

_COLUMNS = ("path", "file_name")
"""The column with the images, the first that exists; others are left alone."""
_NUMBER = re.compile(r"\s+-?\d+$")
"""Behind the names in VOC's sets: whether an image holds the class, which object is meant."""

_Rows = Iterator[tuple[int | str, str]]
"""The place in the file, for a person to look, and the text there."""


def read_names(place: ImagePlace, extensions: Sequence[str]) -> list[str]:
    """Return the paths that a place's list names, each once, sorted; they count from its root.

    Args:
        place: where the images lie; it has a list.
        extensions: which endings the images of a PASCAL VOC set may have.

    Raises:
        InputError: the list cannot be read, names no image, or leads out of the images' folder.
        TransientError: the network failed.
    """
    file = place.names or ""
    try:
        content = open_bytes(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error}); expected a list of images") from error
    ending = PurePosixPath(file).suffix.lower()
    if ending not in _READERS:
        raise InputError(
            f"{file}: got the ending {ending!r}; expected one of {', '.join(_READERS)}"
        )
    rows = list(_READERS[ending](content, file))
    if place.is_voc:
        rows = list(_with_endings(rows, place, extensions))
    names = {_checked(name, place, f"{file}:{where}") for where, name in rows}
    if not names:
        raise InputError(f"{file}: names no image; expected paths that count from {place.root}")
    return sorted(names)


def _from_text(content: bytes, file: str) -> _Rows:
    """Yield one path a line; empty lines and those that begin with `#` are left out."""
    try:
        # Not by `splitlines`, which takes other characters for the end of a line too.
        lines = re.split(r"\r\n|\n|\r", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: no text ({error}); expected one image path a line") from error
    for number, line in enumerate(lines, start=1):
        if (text := line.strip()) and not text.startswith("#"):
            yield number, text


def _from_csv(content: bytes, file: str) -> _Rows:
    try:
        table = read_separated(content, _COLUMNS)
    except ValueError as error:
        raise InputError(f"{file}: no CSV ({error}); expected a header with `path`") from error
    yield from zip(table.index.tolist(), _column(table, file), strict=True)


def _from_parquet(content: bytes, file: str) -> _Rows:
    try:
        table = read_frame(content)
    except Exception as error:  # parquet raises anything on damaged bytes
        raise InputError(f"{file}: no parquet ({error}); expected a column `path`") from error
    yield from enumerate(_column(table, file), start=1)


def _column(table: pd.DataFrame, file: str) -> list[str]:
    for name in _COLUMNS:
        if name in table.columns:
            return [text if isinstance(text, str) else "" for text in table[name]]
    raise InputError(
        f"{file}: got the columns {list(table.columns)}; expected {' or '.join(_COLUMNS)} (in a "
        "CSV between commas, semicolons or tabs)"
    )


def _from_coco(content: bytes, file: str) -> _Rows:
    try:
        images = json.loads(content)["images"]
        names = [(f"images[{at}]", entry["file_name"]) for at, entry in enumerate(images)]
        if not all(isinstance(name, str) for _, name in names):
            raise TypeError("a file_name is no text")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file}: {error!r}; expected a COCO JSON whose `images` have a `file_name` each"
        ) from error
    yield from names


_READERS = {".txt": _from_text, ".csv": _from_csv, ".parquet": _from_parquet, ".json": _from_coco}


def _with_endings(
    rows: list[tuple[int | str, str]], place: ImagePlace, extensions: Sequence[str]
) -> _Rows:
    """Yield the names of a VOC set with the endings that their files have."""
    endings = tuple(ending.lower() for ending in extensions)
    try:
        if is_url(place.root):
            system, path = file_system(place.root)
            entries = try_again(place.root, lambda: system.ls(path, detail=False))
        else:
            entries = os.listdir(place.root)
    except OSError as error:
        raise InputError(
            f"{place.root}: {error}; expected the folder of the images that {place.names} names"
        ) from error
    present = sorted(PurePosixPath(entry).name for entry in entries)
    by_stem = {name.rpartition(".")[0]: name for name in present if name.lower().endswith(endings)}
    # Where every line ends in a number, numbers are parts of the names only if all of them are.
    texts = [text for _, text in rows]
    flagged = all(map(_NUMBER.search, texts)) and not all(text in by_stem for text in texts)
    for where, text in rows:
        stem = _NUMBER.sub("", text) if flagged else text
        while stem not in by_stem and _NUMBER.search(stem):
            stem = _NUMBER.sub("", stem)
        if stem not in by_stem:
            raise InputError(
                f"{place.names}:{where}: got {text!r}; expected an image of this name in "
                f"{place.root}, ending in {', '.join(endings)}"
            )
        yield where, by_stem[stem]


def _checked(text: str, place: ImagePlace, where: str) -> str:
    """Return a path in its plain form, if it stays below the images' folder."""
    name = with_slashes(text.strip(), place.root)
    path = PurePosixPath(name)
    if is_url(name) or path.is_absolute():
        path = PurePosixPath(below(name, place.root) or "")
    elif path.parts[:1] == PurePosixPath(place.root).parts[-1:]:
        # It may count from above the images' folder, whose name it begins with.
        inside = path.relative_to(path.parts[0])
        above = join(place.root, str(path))
        if not os.path.lexists(above) and os.path.lexists(join(place.root, str(inside))):
            path = inside
    # Outputs take the images' names: they must stay in the outputs' folder.
    if not path.name or ".." in path.parts or PureWindowsPath(name).drive or "\0" in name:
        raise InputError(
            f"{where}: got {text!r}; expected a path that counts from the images' folder "
            f"({place.root}) and stays below it"
        )
    return path.as_posix()
