"""The folder of a store: made once, and known by the digest of what its embeddings depend on."""

import logging
from pathlib import Path
from typing import Any

from usam_core.errors import StoreError
from usam_core.store.commit import remove_folder, sweep_store
from usam_core.store.layout import (
    GROUP_FILE,
    SHARDS,
    fingerprint,
    folder_name,
    read_group,
    write_group,
)

_log = logging.getLogger(__name__)


def make_store(root: Path, spec: dict[str, Any]) -> Path:
    """Make the folder of a store below `root` unless it is there, and return it.

    What killed writers left behind is removed.
    """
    path = Path(root) / folder_name(spec)
    (path / SHARDS).mkdir(parents=True, exist_ok=True)
    groups: list[tuple[Path, dict[str, Any]]] = [
        (path / SHARDS, {}),
        (path, {"fingerprint": fingerprint(spec), "spec": spec}),
    ]
    for folder, attributes in groups:
        try:
            read_group(folder)
        except StoreError as error:
            # The folder's name is the digest of the spec, so that nothing is lost by writing it.
            if (folder / GROUP_FILE).exists():
                _log.warning("writing the store's metadata again: %s", error)
            if (folder / GROUP_FILE).is_dir():
                remove_folder(folder / GROUP_FILE)
            write_group(folder, **attributes)
    sweep_store(path)
    return path


def stored_spec(path: Path) -> dict[str, Any]:
    """Return what the embeddings of the store in a folder depend on.

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
