"""Finds the images of a store that fsspec opens."""

from collections.abc import Iterator
from typing import Any

from usam_core.config_images import ImagesConfig
from usam_core.errors import InputError
from usam_core.imagestores.globs import Globs
from usam_core.imagestores.opener import FileInfo, file_system, info_of, try_again


def find_remote(config: ImagesConfig, root: str, globs: Globs) -> list[tuple[str, FileInfo | None]]:
    """Return what counts below a URL, sorted: its path from there, and what is told of it.

    Nothing is told (None) where a listing has names alone, as a web server's index has.

    Raises:
        InputError: there is nothing at the URL, or it must not be listed.
        TransientError: the network failed.
    """
    endings = tuple(ending.lower() for ending in config.extensions)
    found = []
    try:
        for name, told in _entries(root, config.recursive):
            hidden = any(part.startswith(".") and part != ".." for part in name.split("/"))
            if not hidden and name.lower().endswith(endings) and globs.wants(name):
                known = info_of(told)
                found.append((name, known if known.stamp else None))
    except FileNotFoundError as error:
        raise InputError(
            f"{root}: there is nothing at this address; correct images.path"
        ) from error
    except PermissionError as error:
        raise InputError(
            f"{root}: {error.strerror}; expected a store that may be listed: give its keys where "
            "its own library looks for them"
        ) from error
    return sorted(found)


def _entries(root: str, recursive: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every file below a URL: its path from there, and what the listing tells of it."""
    system, top = file_system(root)
    # Listings are kept by some file systems, even of what has changed since.
    system.invalidate_cache()
    prefix = f"{top.rstrip('/')}/"
    if recursive and _finds_at_once(system):
        found = try_again(root, lambda: system.find(top, detail=True))
        if not found:
            try_again(root, lambda: system.info(top))
        for path in list(found):
            yield path.removeprefix(prefix), found.pop(path)
        return
    # fsspec's own `find` passes by folders that it fails to list: images would be lost in silence.
    left = [prefix if root.endswith("/") or _is_web(system) else top]
    seen = {prefix}
    while left:
        folder = left.pop()
        for entry in try_again(root, lambda at=folder: system.ls(at, detail=True)):
            path = entry["name"]
            if entry["type"] == "directory":
                below = f"{path.rstrip('/')}/"
                if recursive and below.startswith(prefix) and below not in seen:
                    seen.add(below)
                    left.append(below if _is_web(system) else path)
            elif path.startswith(prefix):
                yield path.removeprefix(prefix), entry


def _finds_at_once(system: Any) -> bool:
    """Return whether a store lists everything below a prefix itself, as s3 and gs do."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    if isinstance(system, AsyncFileSystem):
        return type(system)._find is not AsyncFileSystem._find
    return type(system).find is not AbstractFileSystem.find


def _is_web(system: Any) -> bool:
    """Return whether folders are told from files by the slash at their end."""
    return "http" in system.protocol
