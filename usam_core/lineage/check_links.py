"""The checks of a link: each returns what it compared, or raises `Broken`.

None means that there is nothing to compare with, which is no damage.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from usam_core.digest import files_digest, value_digest
from usam_core.headfile import card_path
from usam_core.lineage.chain import Chain, Link, entries, short
from usam_core.lineage.compare import (
    Broken,
    Entry,
    check_blocks,
    check_shards,
    compare,
    document_of,
    image_at,
    read_manifest,
)
from usam_core.lineage.document import LINEAGE
from usam_core.lineage.subject import PARTS, RECORD, read_parts
from usam_core.paths import inside
from usam_core.progress import Progress
from usam_core.review.decisions import read_all, standing
from usam_core.sam.download import cache_folder
from usam_core.sam.registry import NANO_WEIGHTS, OFFICIAL
from usam_core.stages.collect import pictures_digest
from usam_core.stages.decided import decisions_digest


def check_document(chain: Chain, link: Link) -> str | None:
    """Check that the document is the one that was named, and that its step finished."""
    if link.document is None:
        named = f"with SHA-256 {short(link.sha256)}" if link.sha256 else "and there was none then"
        raise Broken(
            f"{link.path}: the document that the next step was made from is gone or changed "
            f"(expected one {named}); run `usam {link.step}` and the steps after it again"
        )
    if not link.current:
        return f"kept; {link.step} has run again since"
    record = json.loads(chain.at(link.path).with_name(RECORD).read_text(encoding="utf-8"))
    if record["outputs"].get(LINEAGE) != link.sha256:
        raise Broken(
            f"{link.path}: expected SHA-256 {short(record['outputs'].get(LINEAGE))} as in "
            f"{RECORD}, got {short(link.sha256)}: it was changed by hand, or the step did not "
            f"finish; run `usam {link.step}` again"
        )
    return "as recorded"


def check_labels_of_all(chain: Chain, link: Link, progress: Progress) -> str | None:
    """Check every output of `annotate`, with all label PNGs and the images they were made of."""
    if _is_history(chain, link):
        return None
    document, folder = document_of(link), chain.at(link.path).parent
    outputs = [(inside(folder, name), sha256) for name, sha256 in document["outputs"].items()]
    compare(outputs, chain, progress)
    images = document["inputs"]["images"]
    labelled = list(read_parts(folder, _parts(document)))
    pairs = [(folder / one["png"], one["png_sha256"]) for one in labelled]
    pairs += [(image_at(chain, images, one["file_name"]), one["sha256"]) for one in labelled]
    compare(pairs, chain, progress)
    return f"{len(outputs)} files, {len(labelled)} label PNGs and their images"


def _check_head(chain: Chain, link: Link, entry: Entry, _: Progress) -> str:
    head = chain.at(entry["path"])
    cards = [(card_path(head), entry["card_sha256"])] if "card_sha256" in entry else []
    step = "fit" if cards else "calibrate"
    name = "head" if cards else "calibration"
    advice = (
        f"the {name} was replaced after the labels were made; run `usam annotate` again, and "
        f"before it `usam {step}` if the {name} is damaged"
    )
    compare([(head, entry["sha256"]), *cards], chain, advice=advice)
    made = _parent(chain, link, step)
    if made is not None and made["outputs"].get(head.name) != entry["sha256"]:
        raise Broken(
            f"{entry['path']}: {link.step} used SHA-256 {short(entry['sha256'])}, but the {step} "
            f"that it names made another; run `usam {step}` and `usam {link.step}` again"
        )
    return short(entry["sha256"])


def _check_pictures(chain: Chain, link: Link, entry: Entry, progress: Progress) -> str | None:
    table = read_manifest(chain, entry)
    if pictures_digest(table) != entry["sha256"]:
        raise Broken(
            f"{entry['manifest']}: {link.step} used {entry['count']} training pictures with digest "
            f"{short(entry['sha256'])}, the manifest now names {len(table)} others with "
            f"{short(pictures_digest(table))}: they were collected again since; run the steps "
            f"after collect again"
        )
    if link.step == "collect":
        files = zip(map(Path, table["path"]), table["sha256"], strict=True)
        compare(list(files), chain, progress)
    return f"{len(table)} pictures"


def _check_store(chain: Chain, link: Link, entry: Entry, _: Progress) -> str | None:
    pictures = entries(document_of(link)).get("pictures")
    if link.step == "fit" and pictures is None:
        wanted = set()  # a head of names alone: it read nothing of the store
    elif link.step in ("compose", "fit"):
        table = read_manifest(chain, pictures)
        if pictures_digest(table) != pictures["sha256"]:
            return None  # told by the check of the pictures
        wanted = set(table["sha256"])
    elif link.step == "annotate":
        if chain.subject.entry is not None:
            wanted = _embedded([chain.subject.entry])
        elif _is_history(chain, link):
            return None
        else:
            parts = read_parts(chain.at(link.path).parent, _parts(document_of(link)))
            wanted = _embedded(parts)
    else:
        wanted = None
    shards = check_shards(chain, entry, wanted)
    return f"{len(shards)} shards"


def _check_blocks(chain: Chain, link: Link, entry: Entry, _: Progress) -> str:
    subject = chain.subject.entry if link.step == "annotate" else None
    wanted = _embedded([subject]) if subject is not None else set()
    store = document_of(link)["inputs"]["store"]
    check_blocks(chain, store, set(entry["ids"].values()), wanted)
    return ", ".join(entry["ids"].values())


def _check_checkpoint(chain: Chain, link: Link, entry: Entry, _: Progress) -> str | None:
    store = document_of(link)["inputs"]["store"]
    if store["spec"]["checkpoint_sha256"] != entry["sha256"]:
        raise Broken(
            f"{link.path}: names another checkpoint than its store; it was changed by hand"
        )
    model = entry["model"]
    if entry["path"] is not None:
        file = chain.at(entry["path"])
    elif model in OFFICIAL:
        file = cache_folder() / OFFICIAL[model].file_name
        if not file.exists():
            return None  # the masks are there, and need it no more
    else:
        file = NANO_WEIGHTS
    advice = "the checkpoint was replaced; give the old one back, or run everything again"
    compare([(file, entry["sha256"])], chain, advice=advice)
    return short(entry["sha256"])


def _check_labels(chain: Chain, link: Link, entry: Entry, _: Progress) -> str | None:
    labels = _parent(chain, link, "annotate")
    if labels is None:
        return None
    if value_digest(labels["outputs"]) != entry["sha256"]:
        raise Broken(
            f"{entry['path']}: {link.step} read labels with digest {short(entry['sha256'])}, but "
            f"the annotate that it names made others; run `usam {link.step}` again"
        )
    return short(entry["sha256"])


def _check_truth(chain: Chain, _link: Link, entry: Entry, _: Progress) -> str:
    found = files_digest(chain.at(entry["path"]), "*.png")
    if found != entry["sha256"]:
        raise Broken(
            f"{entry['path']}: expected truth with digest {short(entry['sha256'])}, as when "
            f"evaluate ran, got {short(found)}; run `usam evaluate` again"
        )
    return short(found)


def _check_decisions(chain: Chain, link: Link, entry: Entry, _: Progress) -> str:
    said = standing(read_all(chain.at(entry["path"])))
    if decisions_digest(said) != entry["sha256"]:
        raise Broken(
            f"{entry['path']}: {link.step} used {entry['count']} decisions with digest "
            f"{short(entry['sha256'])}, the log now holds {len(said)} others; run "
            f"`usam {link.step}` again"
        )
    return f"{len(said)} decisions"


CHECKS: dict[str, Callable[[Chain, Link, Entry, Progress], str | None]] = {
    "head": _check_head,
    "calibration": _check_head,
    "decisions": _check_decisions,
    "pictures": _check_pictures,
    "store": _check_store,
    "blocks": _check_blocks,
    "checkpoint": _check_checkpoint,
    "labels": _check_labels,
    "truth": _check_truth,
}
"""Of a link's facts, by name."""


def _parent(chain: Chain, link: Link, step: str) -> dict[str, Any] | None:
    """Return the document of one of a link's parents; a missing one is told by its own check."""
    return next(
        (chain.links[key].document for key in link.parents if chain.links[key].step == step), None
    )


def _is_history(chain: Chain, link: Link) -> bool:
    """Return whether a person asked for a kept document, whose outputs were replaced since."""
    return link is chain.last and not link.current


def _embedded(entries: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return what of labelled images the store holds: their digests, or those of their tiles."""
    return {key for one in entries for key in one.get("tiles", [one["sha256"]])}


def _parts(document: dict[str, Any]) -> list[str]:
    return sorted(name for name in document["outputs"] if name.startswith(PARTS))
