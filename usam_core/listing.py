"""Lists images by content, reading only files that changed since last time."""

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa

from usam_core.config_images import ImagesConfig
from usam_core.digest import file_digest
from usam_core.errors import TransientError
from usam_core.image_ref import ImageRef
from usam_core.images import BadImage, check_bytes, check_image, verdict_on
from usam_core.imagestores.content import (
    Stamp,
    folder_digest,
    is_zarr_url,
    told_of,
)
from usam_core.imagestores.globs import EVERY_FILE, Globs
from usam_core.imagestores.open import MAY_HOLD_PLANES, TOO_LARGE
from usam_core.imagestores.opener import FileInfo, is_url, join, open_bytes
from usam_core.imagestores.packed import Packed
from usam_core.imagestores.planes import check_named, expand, named_key, planes_of, stamp_of
from usam_core.imagestores.remembered import (
    Remembered,
    Row,
    batch_of,
    read_remembered,
    to_frame,
    write_remembered,
)
from usam_core.imagestores.remote import find_remote
from usam_core.imagestores.walk import find_files
from usam_core.progress import SILENT, Progress
from usam_core.stamps import SETTLED_NS
from usam_core.tiles import is_large

COLUMNS = ["path", "sha256", "bytes", "mtime_ns", "status", "code", "reason", "planes"]
"""`path` counts from the listed folder, with forward slashes; `sha256` is missing where the bytes
could not be read; `status` is "ok" or "quarantined", the latter with `code` and `reason`; `planes`
is the size of an image that is cut into tiles (`imagestores.planes.large_size`), "" of others."""

_SAVE_EVERY = 2000
"""Files between two savings of the cache: a listing that is killed goes on from there."""
_BATCH = 32
_THREADS = 8  # reading waits for disks and networks; hashing lets go of the interpreter
_SETTLED_NS = SETTLED_NS

_File = tuple[str, FileInfo | None]
"""A path as it is listed, and what the store told of it when it was found."""
_Looked = tuple[Row, bool]
"""A file's row, and whether it was not known already."""


def list_images(
    config: ImagesConfig,
    root: str | Path,
    cache: Path | None = None,
    progress: Progress = SILENT,
    leave_out: Collection[Path] = (),
    globs: Globs = EVERY_FILE,
) -> pd.DataFrame:
    """List the files below `root` that count as images, in the order of their paths.

    A file of several planes has a row for each, with its address (`ImageRef`) and a content key
    of its own. Every file is hashed and its header checked, its pixels are not decoded. Hidden
    files and folders are left out; linked folders are followed, each once.

    Args:
        config: which endings count, whether to look into sub-folders, the limit on pixels.
        root: the folder, or a URL that fsspec opens.
        cache: parquet file that remembers digests; a file of unchanged size and times, or with
            the same mark of its store, is not read again. None remembers nothing.
        progress: told of each file.
        leave_out: folders below `root` that are not looked into.
        globs: which paths count.

    Returns:
        One row an image, columns `COLUMNS`; no rows if there are no such files.

    Raises:
        InputError: `root` is no folder or store that can be read.
        TransientError: the network failed; what was listed until then is remembered.
    """
    if is_url(root):
        found: Iterator[_File] = find_remote(config, root, globs)
    else:
        files = find_files(config, Path(root), leave_out, globs)
        found = ((name, None) for name in files)
    address = str(root)
    return _list(config, Packed(found, _SAVE_EVERY), lambda n: join(address, n), cache, progress)


def list_names(
    config: ImagesConfig,
    root: str,
    names: Sequence[str],
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """List the images that are named, in that order; as `list_images`, without looking for them.

    Args:
        config: the limit on pixels.
        root: folder or URL that the names count from.
        names: their paths from there.
        cache, progress: as for `list_images`.
    """
    files = Packed(((name, None) for name in names), _SAVE_EVERY)
    listed = _list(config, files, lambda name: join(root, name), cache, progress)
    # A stack and one of its planes may both be named.
    return listed.drop_duplicates("path", ignore_index=True)


def list_files(
    config: ImagesConfig,
    files: Sequence[tuple[str, str | Path]],
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """List files that lie anywhere; as `list_names`.

    Args:
        config: the limit on pixels.
        files: for each the path as it shall be listed, and its address.
        cache, progress: as for `list_images`.
    """
    addresses = dict(files)
    named = Packed(((name, None) for name, _ in files), _SAVE_EVERY)
    return _list(config, named, lambda name: addresses[name], cache, progress)


def _list(
    config: ImagesConfig,
    files: Packed[_File],
    address: Callable[[str], str | Path],
    cache: Path | None,
    progress: Progress,
) -> pd.DataFrame:
    known = read_remembered(cache)
    # In columns from here on: as Python objects a million images take two gigabytes.
    batches: list[pa.RecordBatch] = []
    listed = unsaved = 0
    failures: list[TransientError] = []
    with (
        progress.bar("Listing images", len(files)) as bar,
        ThreadPoolExecutor(_THREADS, thread_name_prefix="usam-listing") as pool,
    ):
        for chunk in files.chunks():
            before = known.rows([name for name, _ in chunk])

            def look(some: Sequence[_File], before: dict[str, Row] = before) -> list[_Looked]:
                return _look_at(some, address, before, config, failures)

            # Handing over costs more than looking at a file that has not changed.
            parts = (chunk[at : at + _BATCH] for at in range(0, len(chunk), _BATCH))
            rows: list[Row] = []
            for looked in pool.map(look, parts):
                rows += [row for row, _ in looked]
                unsaved += sum(is_new for _, is_new in looked)
                bar.advance(len(looked))
            if failures:
                done = {row.path for row in rows}
                rows += [row for row in before.values() if row.path not in done]
                _save(cache, known, batches, rows)
                raise failures[0]
            batches.append(batch_of(rows))
            listed += len(rows)
            # Ever rarer, for each saving writes all rows.
            if unsaved >= max(_SAVE_EVERY, listed // 4):
                _save(cache, known, batches)
                unsaved = 0
    if unsaved or listed != len(known):
        write_remembered(cache, batches)
    every = (part for batch in batches for part in expand(batch, config.projection))
    return to_frame(list(every), COLUMNS)


def _save(
    cache: Path | None,
    known: Remembered,
    batches: Sequence[pa.RecordBatch],
    rows: Sequence[Row] = (),
) -> None:
    """Remember what was listed by now, and what was known before and has not come yet."""
    last = [batch_of(rows)] if rows else []
    write_remembered(cache, [*known.left(), *batches, *last])


def _look_at(
    files: Sequence[_File],
    address: Callable[[str], str | Path],
    before: dict[str, Row],
    config: ImagesConfig,
    failures: list[TransientError],
) -> list[_Looked]:
    """Look at some files, up to the first failure of the network, here or in another thread."""
    looked = []
    for file in files:
        if failures:
            break
        try:
            looked.append(_look(file, address(file[0]), before, config))
        except TransientError as error:
            failures.append(error)
    return looked


def _look(file: _File, address: str | Path, known: dict[str, Row], config: ImagesConfig) -> _Looked:
    name, told = file
    before = known.get(name)
    limit = config.max_megapixels
    row = Row(name, seen_ns=time.time_ns(), max_megapixels=limit, tile=config.tile or 0)
    try:
        if not _is_unicode(name):
            row = row._replace(path=name.encode("utf-8", "replace").decode("utf-8"))
            raise BadImage("bad_name", f"{row.path}: the name is not valid Unicode; rename it")
        if is_url(address):
            return _look_remote(row, address, told, before)
        ref = ImageRef.parse(os.fspath(address))
        found = stamp_of(ref.file)
        if before is not None and _is_unchanged(before, row, found):
            return before, False
        row = row._replace(**found._asdict())
        if ref.plane or ref.box is not None:
            row = row._replace(sha256=named_key(ref))
            planes = check_named(ref, limit, config.projection, config.tile)
            return row._replace(planes=planes), True
        row = row._replace(sha256=_digest(ref.file))
        row = row._replace(planes=_check(ref.file, row))
    except BadImage as error:
        row = _quarantined(row, error)
    return row, True


def _quarantined(row: Row, error: BadImage) -> Row:
    bad = error.quarantined
    reason = bad.reason.encode("utf-8", "replace").decode("utf-8")
    return row._replace(status="quarantined", code=bad.code, reason=reason)


def _look_remote(row: Row, address: str, told: FileInfo | None, before: Row | None) -> _Looked:
    """Read a file of a store once, for its digest and its header, unless its mark is known."""
    if any(part in ("", ".", "..") for part in row.path.split("/")):
        raise BadImage(
            "bad_name", f"{address}: outputs take the images' names; expected one without .. in it"
        )
    limit = row.max_megapixels
    with verdict_on(address):
        told = told or told_of(address)
    if (
        before is not None
        and told.stamp
        and before.stamp == told.stamp
        and (before.max_megapixels, before.tile) == (limit, row.tile)
        and before.sha256 is not None
    ):
        return before, False
    if is_zarr_url(address):
        return _look_at_zarr(row, address, told), True
    with verdict_on(address):
        content = open_bytes(address)
    row = row._replace(
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        mtime_ns=told.mtime_ns,
        stamp=told.stamp,
    )
    try:
        planes = _planes(lambda: check_bytes(content, address, limit), row, address, content)
        row = row._replace(planes=planes)
    except BadImage as error:
        row = _quarantined(row, error)
    return row, True


def _look_at_zarr(row: Row, address: str, told: FileInfo) -> Row:
    from usam_core.imagestores.remote_zarr import zarr_digest

    sha256, size = zarr_digest(address)
    row = row._replace(sha256=sha256, bytes=size, mtime_ns=told.mtime_ns, stamp=told.stamp)
    try:
        return row._replace(planes=planes_of(address, row.max_megapixels, tile=row.tile))
    except BadImage as error:
        return _quarantined(row, error)


def _check(path: str, row: Row) -> str:
    """Return the planes of a file that holds several or large ones; "" for any other picture."""
    if os.path.isdir(path):
        return planes_of(path, row.max_megapixels, tile=row.tile)
    return _planes(lambda: check_image(Path(path), row.max_megapixels), row, path)


def _planes(
    check: Callable[[], tuple[int, int]], row: Row, address: str, content: bytes | None = None
) -> str:
    """Return the planes of a file, which is opened again if its header says that it must be.

    Args:
        check: checks a picture's header, and returns its size.
        row: with the settings.
        address: the file or URL.
        content: what a URL holds.
    """
    try:
        if not is_large(check(), row.tile):
            return ""
    except BadImage as error:
        code = error.quarantined.code
        if code not in MAY_HOLD_PLANES and not (row.tile and code == TOO_LARGE):
            raise
    return planes_of(address, row.max_megapixels, content, row.tile)


def _digest(path: str) -> str | None:
    try:
        if os.path.isdir(path):
            return folder_digest(path)
        return file_digest(path) if os.path.isfile(path) else None
    except OSError as error:
        raise BadImage("unreadable", f"{path}: {error.strerror}; check its permissions") from error


def _is_unchanged(before: Row, row: Row, found: Stamp) -> bool:
    return (
        (before.bytes, before.mtime_ns, before.ctime_ns) == found
        and (before.max_megapixels, before.tile) == (row.max_megapixels, row.tile)
        and before.sha256 is not None
        and max(before.mtime_ns, before.ctime_ns) < before.seen_ns - _SETTLED_NS
    )


def _is_unicode(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
