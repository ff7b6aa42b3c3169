"""Where everything of a store lies, and what its parts are called.

    <root>/<model>-<fingerprint, 16 digits>/    a Zarr v3 group; its attributes hold the spec
        shards/<shard id>/                      a group, written once, never changed
            index.parquet                       one row an image, in the order of writing
            tokens, packed_masks, ...           arrays, one row an embedded image
            features/<block>                    arrays, one vector a mask; those that were added
                                                later are named by the digest of their spec
        .index-cache                            all indexes in one; may be deleted at any time
        .checked.json                           shards that were found whole; the same

Every array folder holds a seal (see `usam_core.store.arrays`); the shard group's attributes hold
the index's digest. `zarr.open_group(path)["shards/<shard id>/tokens"]` reads without this package.
"""

import json
import re
from pathlib import Path
from typing import Any

from usam_core.errors import StoreError
from usam_core.files.atomic import write_json
from usam_core.files.digest import value_digest
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


def fingerprint(spec: dict[str, Any]) -> str:
    """Return the digest that tells one encoder's embeddings from another's, 64 digits."""
    return value_digest(spec)


def folder_name(spec: dict[str, Any]) -> str:
    """Return the store's folder name: readable model, then 16 digits of the fingerprint."""
    model = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(spec.get("model", ""))).strip("-.") or "encoder"
    return f"{model}-{fingerprint(spec)[:16]}"


def column_of(block: str) -> str:
    """Return the column that holds a feature block.

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


def write_group(folder: Path, *, sync: bool = True, **attributes: Any) -> None:
    """Write the metadata of a Zarr v3 group, whole or not at all, our attributes with a digest.

    `sync` is off within a folder that is synced as a whole.
    """
    own = {"format": FORMAT, **attributes}
    stored = {_OWN: own, _OWN_DIGEST: value_digest(own)}
    group = {"zarr_format": 3, "node_type": "group", "attributes": stored}
    write_json(folder / GROUP_FILE, group, sync=sync)


def read_group(folder: Path) -> dict[str, Any]:
    """Return our attributes of a group.

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
