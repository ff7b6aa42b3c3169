"""The checks of the output itself: the file, and for one image's labels the image and its masks.

Composed scenes have a module of their own.
"""

from collections.abc import Callable
from functools import partial

from usam_core.lineage.chain import Chain, short
from usam_core.lineage.check_scene import scene_checks
from usam_core.lineage.compare import (
    Broken,
    Entry,
    check_shards,
    compare,
    document_of,
    image_at,
    read_manifest,
    shown,
)
from usam_core.lineage.document import LINEAGE, portable
from usam_core.paths import inside
from usam_core.store.layout import SHARDS


def output_checks(chain: Chain) -> dict[str, Callable[[], str | None]]:
    """Return the checks of the output itself, by what they look at."""
    if chain.subject.scene:
        return scene_checks(chain)
    checks: dict[str, Callable[[], str | None]] = {"file": partial(_check_file, chain)}
    if chain.subject.entry is not None:
        checks["image"] = partial(_check_image, chain, chain.subject.entry)
        checks["masks"] = partial(_check_masks, chain, chain.subject.entry)
    return checks


def _check_file(chain: Chain) -> str | None:
    subject, document = chain.subject, document_of(chain.last)
    outputs = document["outputs"]
    if subject.name == ".":
        if not chain.last.current:
            return None
        compare([(inside(subject.folder, name), sha) for name, sha in outputs.items()], chain)
        return f"{len(outputs)} files"
    entry = subject.entry
    if entry is not None:
        compare([(subject.folder / entry["part"], outputs.get(entry["part"]))], chain)
        compare([(subject.folder / entry["png"], entry["png_sha256"])], chain)
    if subject.name in outputs:
        compare([(subject.file, outputs[subject.name])], chain)
        return short(outputs[subject.name])
    if entry is not None and subject.name == entry["png"]:
        return short(entry["png_sha256"])
    if chain.last.step == "collect" and chain.last.current:
        return _check_picture(chain)
    raise Broken(
        f"{portable(subject.file, chain.root)}: {chain.last.step} did not make it, or its "
        f"record of it is gone; expected a file that {subject.folder.name}/{LINEAGE} speaks of"
    )


def _check_picture(chain: Chain) -> str:
    """Check one training picture against the manifest."""
    table = read_manifest(chain, document_of(chain.last)["pictures"])
    rows = table[table["path"] == str(chain.subject.file)]
    if rows.empty:
        raise Broken(
            f"{portable(chain.subject.file, chain.root)}: the manifest does not name it; the "
            "filters dropped it, or it was put there by hand"
        )
    compare([(chain.subject.file, rows["sha256"].iloc[0])], chain)
    return f"{short(rows['sha256'].iloc[0])}, a picture of {rows['class'].iloc[0]}"


def _check_image(chain: Chain, entry: Entry) -> str:
    file = image_at(chain, document_of(chain.last)["inputs"]["images"], entry["file_name"])
    compare([(file, entry["sha256"])], chain)
    return f"{shown(file, chain)}, SHA-256 {entry['sha256']}"


def _check_masks(chain: Chain, entry: Entry) -> str:
    named = document_of(chain.last)["inputs"]["store"]
    shard = check_shards(chain, named, {entry["sha256"]}, deep=True)[0]
    return f"{named['path']}/{SHARDS}/{shard}"
