"""Where everything of a store lies, and how folders come into it and go.

    <root>/<model>-<fingerprint, 16 digits>/    a Zarr v3 group; its attributes hold the spec
        shards/<shard id>/                      a group, written once, never changed
            index.parquet                       one row an image, in the order of writing
            tokens, packed_masks, ...           arrays, one row an embedded image
            features/<block>                    arrays, one vector a mask; added ones are named by
                                                the digest of their spec
        .index-cache                            all indexes in one; may be deleted at any time
        .checked.json                           shards that were found whole; the same

Every array folder holds a seal (see `usam_core.store.arrays`); the shard group's attributes hold
the index's digest. `zarr.open_group(path)["shards/<shard id>/tokens"]` reads without this package.
"""

import json
import logging
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from usam_core.errors import StoreError
from usam_core.files.atomic import TEMPORARY_PREFIX, sweep, write_json
from usam_core.files.digest import value_digest
from usam_core.files.paths import inside, remove
from usam_core.types import TOKENS_BLOCK

FORMAT = 1
"""Raised when the layout changes so that older code cannot read it."""
PRECISION = "precision"
"""Key of the spec that says how features are kept; without it as float16."""
SHARDS = "shards"
FEATURES = "features"
INDEX_FILE = "index.parquet"
CACHE_FILE = ".index-cache"
CHECKED_FILE = ".checked.json"
GROUP_FILE = "zarr.json"
COLUMNS = ("tokens", "packed_masks", "predicted_iou", "stability", "points_xy")
"""The columns that every embedded image has; feature blocks stand beside them."""
OF_PROMPTS = ("tokens", "points_xy")
"""The columns that have no axis of masks; all others, feature blocks too, are (n, d, m, ...)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OWN = "usam"
_OWN_DIGEST = "usam_sha256"
_log = logging.getLogger(__name__)


class Damaged(Exception):
    """A file of a shard is missing or not as it was written; the message says which and how."""


def fingerprint(spec: dict[str, Any]) -> str:
    """Digest of an encoder's spec, 64 digits."""
    return value_digest(spec)


def folder_name(spec: dict[str, Any]) -> str:
    """The store's folder: readable model, then 16 digits of the fingerprint."""
    model = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(spec.get("model", ""))).strip("-.") or "encoder"
    return f"{model}-{fingerprint(spec)[:16]}"


def column_of(block: str) -> str:
    """The column that holds a feature block.

    >>> column_of("tokens"), column_of("encoder")
    ('tokens', 'features/encoder')
    """
    return block if block == TOKENS_BLOCK else f"{FEATURES}/{block}"


def check_block_name(name: str) -> str:
    """Return `name` if it can be a feature block's folder.

    Raises:
        ValueError: it cannot.
    """
    if not _NAME.fullmatch(name) or name == TOKENS_BLOCK:
        raise ValueError(
            f"feature block {name!r}: expected letters, digits, '_', '.', '-', starting with a "
            f"letter or digit, and not {TOKENS_BLOCK!r}"
        )
    return name


def shard_names(shards: Path) -> list[str]:
    """Ids of the shards in a folder, sorted; those being written are left out."""
    with os.scandir(shards) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())


def write_group(folder: Path, attributes: dict[str, Any], *, sync: bool = True) -> None:
    """Write the metadata of a Zarr v3 group, whole or not at all, our attributes with a digest.

    `sync` is off within a folder that is synced as a whole.
    """
    own = {"format": FORMAT, **attributes}
    stored = {_OWN: own, _OWN_DIGEST: value_digest(own)}
    group = {"zarr_format": 3, "node_type": "group", "attributes": stored}
    write_json(folder / GROUP_FILE, group, sync=sync)


def read_group(folder: Path) -> dict[str, Any]:
    """Our attributes of a group.

    Raises:
        StoreError: the metadata are missing, damaged or not ours.
    """
    file = folder / GROUP_FILE
    try:
        group = json.loads(file.read_bytes())
        stored = group["attributes"]
        attributes = stored[_OWN]
        if (group["zarr_format"], group["node_type"]) != (3, "group"):
            raise ValueError("not a Zarr v3 group")
        if value_digest(attributes) != stored[_OWN_DIGEST]:
            raise ValueError("the attributes are not the ones that were written")
        if attributes["format"] != FORMAT:
            raise ValueError(f"format {attributes['format']!r}, expected {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: not the metadata of a usam store: {error!r}") from error
    return attributes


def make_store(root: Path, spec: dict[str, Any]) -> Path:
    """Make the folder of a store below `root` unless it is there; sweep up after killed writers."""
    path = Path(root) / folder_name(spec)
    (path / SHARDS).mkdir(parents=True, exist_ok=True)
    own = {"fingerprint": fingerprint(spec), "spec": spec}
    for folder, attributes in ((path / SHARDS, {}), (path, own)):
        try:
            read_group(folder)
        except StoreError as error:
            # The folder's name is the digest of the spec, so that nothing is lost by writing it.
            if (folder / GROUP_FILE).exists():
                _log.warning("writing the store's metadata again: %s", error)
            if (folder / GROUP_FILE).is_dir():
                remove_folder(folder / GROUP_FILE)
            write_group(folder, attributes)
    sweep_store(path)
    return path


def stored_spec(path: Path) -> dict[str, Any]:
    """What the embeddings of the store in a folder depend on.

    Raises:
        FileNotFoundError: there is no store.
        StoreError: it is damaged or of another kind.
    """
    # Without its metadata it was killed while it was made, and holds nothing yet.
    if not ((path / SHARDS).is_dir() and (path / GROUP_FILE).exists()):
        raise FileNotFoundError(
            f"{path}: no embedding store; expected {GROUP_FILE!r} and a folder {SHARDS!r}"
        )
    spec = read_group(path)["spec"]
    if folder_name(spec) != path.name:
        raise StoreError(
            f"{path}: the store says it is {folder_name(spec)!r}; expected the folder to "
            "have that name. Rename it back"
        )
    return spec


@contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """Turn every OSError of a block that writes a folder into a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written: {error.strerror or error}; free disk space or check the "
            "permissions, then run again"
        ) from error


def remove_folder(path: Path) -> None:
    """Remove a folder so that no reader ever sees half of it: rename first, then delete."""
    going = path.parent / f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}"
    try:
        path.rename(going)
    except FileNotFoundError:
        return  # another process was quicker
    with suppress(OSError):
        remove(going.parent, going)


def sweep_store(folder: Path) -> int:
    """Remove what killed writers left in a store, never what a living one writes; say how many."""
    blocks = (folder / SHARDS).glob(f"[!.]*/{FEATURES}")
    places = [inside(folder, place.relative_to(folder).as_posix()) for place in blocks]
    return sum(sweep(place, deep=False) for place in (folder, folder / SHARDS, *places))
