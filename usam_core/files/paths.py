"""Names that files of ours hold: they lead where they belong, or nowhere.

Whoever can change a ledger, a record or a manifest must not thereby choose what is deleted,
overwritten or shown.
"""

import os
import re
import shutil
from pathlib import Path, PurePosixPath

from usam_core.errors import StoreError

_FOREIGN = re.compile(r"\\|^[A-Za-z]:")
"""What would lead elsewhere on a system whose paths are written otherwise."""


def inside(root: str | Path, name: str, named_by: str | Path = "", *, linked: bool = False) -> Path:
    """Return `root / name`, if that lies below `root`, or is it.

    Args:
        root: the folder; it may itself be a link to another one.
        name: as it stands in a file, relative to `root`.
        named_by: that file, for the message.
        linked: for a person's files, which we only read: links may lead anywhere, and the name may
            hold any letter.

    Raises:
        StoreError: the name is absolute, has `..` in it, or leads out of `root` by a link.
    """
    if _leads_out(name, linked) or not (linked or _resolves_below(Path(root), name)):
        by = f"{named_by}: it names" if str(named_by) else "got"
        raise StoreError(
            f"{by} {name!r}; expected a path that counts from {root} and stays below it. Nothing "
            "was done there: the file that says so was changed or is of another project; remove "
            "it and run the step again"
        )
    return Path(root, name)


def removable(root: Path, path: Path) -> Path:
    """Return a file, a link or a folder that lies below a folder, wherever a link leads.

    Raises:
        StoreError: it does not lie below `root`, or lies there by a link.
    """
    name = Path(way_to(path, root))
    return inside(root, name.parent.as_posix()) / inside(root, name.as_posix(), linked=True).name


def remove(root: Path, path: Path) -> None:
    """Remove a file, a link or a folder below a folder, never the target of a link."""
    place = removable(root, path)
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def check_links(folder: Path) -> None:
    """Refuse folders' links that lead out of a step's folder: the step would write through them.

    Raises:
        StoreError: there is one, at any depth, or the folder is one itself.
    """
    below = (Path(top, name) for top, names, _ in os.walk(folder) for name in names)
    for place in (folder, *below):
        if place.is_symlink() and not _resolves_below(folder.parent, str(place)):
            raise StoreError(
                f"{place}: a link that leads out of {folder.parent}; nothing is written through "
                "it. Remove it; to have results on another disk, set outputs.path"
            )


def way_to(path: str | Path, start: str | Path) -> str:
    """The relative path with slashes; the absolute one from another drive of Windows.

    >>> way_to("/lab/images/a.png", "/lab/p")
    '../images/a.png'
    """
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:
        return Path(path).as_posix()


def _leads_out(name: object, linked: bool) -> bool:
    if not isinstance(name, str) or not name or "\0" in name:
        return True
    path = PurePosixPath(name)
    return (
        path.is_absolute()
        or ".." in path.parts
        or ((not linked or os.name == "nt") and bool(_FOREIGN.search(name)))
    )


def _resolves_below(root: Path, name: str) -> bool:
    top, place = (os.path.normcase(os.path.realpath(one)) for one in (root, root / name))
    try:
        return os.path.commonpath([top, place]) == top
    except ValueError:  # another drive of Windows
        return False
