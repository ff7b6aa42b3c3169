"""Compares a chain of lineage documents with the disk.

Files, tables and stores are checked by the code of `usam check`; besides, each input of a step must
still be the one that it read.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from usam_core.config import OF_THE_HUB
from usam_core.errors import StoreError
from usam_core.files.digest import files_digest
from usam_core.files.hub import OF_TEXTS, weights_digest
from usam_core.files.parquet import read_frame
from usam_core.head.checkpoint import card_path
from usam_core.lineage.chain import Chain, Finding, Key, Link, entries, short
from usam_core.lineage.document import LINEAGE, RECORD, portable
from usam_core.progress import SILENT, Progress
from usam_core.review.decisions import read_all, standing
from usam_core.sam import NANO_WEIGHTS
from usam_core.sam.load import OFFICIAL, cache_folder
from usam_core.steps.check_folder import Check, Claim, Damage, FolderCheck, check_store
from usam_core.steps.collect import pictures_digest
from usam_core.steps.compose import SCENES
from usam_core.steps.record import decisions_digest, made_digest, read_record
from usam_core.store.layout import SHARDS, folder_name
from usam_core.store.store import EmbeddingStore

Entry = dict[str, Any]


def check_chain(chain: Chain, progress: Progress = SILENT) -> list[Finding]:
    """Check every link of a chain; it takes the time of reading the files it speaks of.

    Of a label PNG, an overlay or a composed scene that is one image; else all outputs of the step.
    """
    check = _ChainCheck(chain, progress)
    for key, link in chain.links.items():
        check.check_link(key, link)
    check.check_stores()
    return list(check.findings.values())


class _ChainCheck:
    def __init__(self, chain: Chain, progress: Progress) -> None:
        self._chain, self._artifact = chain, chain.subject
        self._check = Check(chain.root, progress=progress)
        self.findings: dict[tuple[Key | None, str], Finding] = {}
        self._near: set[str] = set()
        """Images of the store that the output is made of; empty for all outputs of a step."""
        if chain.subject.image is not None:
            self._near = set(Claim("labels", "", "", chain.subject.image).stored)

    def check_link(self, key: Key, link: Link) -> None:
        """Check a step's document, the things that it read, and its files if they are there."""
        document = link.document
        if link is self._chain.last:
            # Of a document of an earlier run the outputs were replaced.
            self.findings[None, "file"] = Finding(None, "file", None)
        with self._noting(key, "lineage") as finding:
            finding.compared = (
                "as recorded" if link.current else f"kept; {link.step} has run again since"
            )
            if document is None:
                finding.wrong.append(
                    f"{link.path}: the document that the next step was made from is gone or "
                    f"changed (expected SHA-256 {short(link.sha256)}); run `usam {link.step}` and "
                    "the steps after it again"
                )
        if document is None:
            return
        if link.current:
            self._check_folder(key, link)
        for name, entry in entries(document).items():
            if name not in _UNCHECKED:
                with self._noting(key, name) as finding:
                    self._check_fact(finding, document, entry)

    @contextmanager
    def _noting(self, key: Key | None, name: str) -> Iterator[Finding]:
        """Attribute the damages that are found meanwhile to one thing."""
        check = self._check
        finding = self.findings.setdefault((key, name), Finding(key, name))
        try:
            yield finding
        except StoreError as error:
            finding.wrong.append(str(error))
        except (OSError, ValueError, KeyError, TypeError) as error:
            # A damaged JSON or Parquet file may raise any of these.
            finding.wrong.append(f"cannot be read: {error!r}")
        finding.wrong += [one.sentence for one in check.damages]
        finding.wrong += [f"{path}: changed by a person since" for path in check.edits]
        check.damages, check.edits = [], []

    def _check_folder(self, key: Key, link: Link) -> None:
        """Check what a step made, or what of it the output stands on."""
        folder = FolderCheck(self._check, self._chain.at(link.path).parent, link.step)
        folder.document = link.document
        with self._noting(key, "lineage") as finding:
            folder.check_record()
            if folder.record is not None and LINEAGE not in folder.outputs:
                finding.wrong.append(f"{link.path}: {RECORD} does not name it")
        own, subject = link is self._chain.last, self._artifact
        known = own and subject.name == "."
        if known:
            self.findings[None, "file"].compared = f"{len(folder.outputs)} files"
        with self._check.progress.bar(f"Checking {link.step}", None) as bar:
            for claim in folder.claims():
                place = self._place(claim) if own else (key, claim.kind)
                if place is not None:
                    with self._noting(*place) as finding:
                        folder.check(claim)
                        finding.files += 1
                    if own and claim.path == subject.file:
                        known, finding.compared = True, self._describe(claim)
                    elif finding.name == "image":
                        path = portable(Path(claim.path), self._chain.root)
                        finding.compared = f"{path}, SHA-256 {claim.sha256}"
                bar.advance()
        with self._noting(None if own else key, "file" if own else "outputs") as finding:
            # A table of files that cannot be read was reported by itself.
            if own and not known:
                finding.wrong.append(
                    f"{portable(subject.file, self._chain.root)}: {link.step} did not make it, or "
                    f"its record of it is gone; expected a file that {RECORD} or a table in "
                    f"{subject.folder.name} names"
                )

    def _place(self, claim: Claim) -> tuple[Key | None, str] | None:
        """What a file of the output's own step is part of; None if of other outputs."""
        subject, image = self._artifact, self._artifact.image
        key = next(iter(self._chain.links))
        if claim.kind == "lineage":
            return key, "lineage"
        if claim.path == subject.file or (subject.name == "." and claim.kind == "outputs"):
            return None, "file"
        if image is not None:
            if getattr(claim.row, "png", None) == image.png:
                return None, "image" if claim.kind == "images" else "file"
            return (None, "file") if claim.path == subject.folder / subject.part else None
        if subject.scene:
            return (None, "file") if claim.path == subject.folder / SCENES else None
        return key, claim.kind

    def _describe(self, claim: Claim) -> str:
        """What the tree says of the output; of a scene, its cut-outs are checked too."""
        row, text = claim.row, short(claim.sha256)
        if claim.kind == "scenes":
            self._near = {row["sha256"], *row["sources"]}
            with self._noting(None, "cut-outs") as finding:
                finding.compared = ", ".join(self._check_cutouts(row))
            return f"{text}, {row['split']}: {', '.join(row['labels'])} on {row['background']}"
        return f"{text}, a picture of {row['class']}" if claim.kind == "pictures" else text

    def _check_cutouts(self, row: Mapping[str, Any]) -> Iterator[str]:
        chain = self._chain
        manifest = _manifest(chain, _read_by(chain.last)["pictures"])
        paths = dict(zip(manifest["sha256"], manifest["path"], strict=True))
        for name, sha256 in zip(row["labels"], row["sources"], strict=True):
            path = chain.at(paths.get(sha256, "a picture that the manifest does not name any more"))
            what = self._check.differs(path, sha256)
            if what:
                advice = f"{name} was cut out of it; run `usam compose` again"
                self._check.tell(path, what, "collect", "repair", advice=advice)
            yield f"{name} {portable(path, chain.root)} {short(sha256)}"

    def _check_fact(self, finding: Finding, document: Entry, entry: Entry) -> None:
        """Check that what a step read is there as it was read."""
        chain, name, step, wrong = self._chain, finding.name, document["step"], []
        kind = _WEIGHTS_FOLDER if _is_weights_folder(name, entry) else name
        if kind in _NOW:
            finding.compared, now = short(entry["sha256"]), _NOW[kind](chain, entry)
            if now != entry["sha256"]:
                what = f"expected the digest {finding.compared}, got {short(now)}"
                wrong = [(chain.at(entry.get("manifest") or entry["path"]), what)]
            elif name == "pictures" and "store" in document["inputs"]:
                self._check.need(_manifest(chain, entry)["sha256"])
        else:
            files = _files(name, chain, entry)
            finding.compared = short(entry["sha256"]) if files else None
            wrong = [(path, self._check.differs(path, sha256)) for path, sha256 in files]
        advice = f"the {name} changed after {step} read it; run `usam {step}` again"
        for path, what in wrong:
            if what:
                self._check.tell(path, what, step, "no", advice=advice)

    def check_stores(self) -> None:
        """Check the stores that steps of the chain read, each once."""
        check, by_store = self._check, dict[Path, list[Damage]]()
        for key, link in self._chain.links.items():
            read = _read_by(link)
            if not read.get("store"):
                continue
            spec, near = read["store"]["spec"], self._near if link is self._chain.last else set()
            folder = self._chain.at(read["store"]["path"]).parent / folder_name(spec)
            if near:
                with self._noting(None, "masks") as finding:
                    shards = check_store(check, folder, spec, near)
                    names = (f"{read['store']['path']}/{SHARDS}/{shard}" for shard in shards)
                    finding.compared = ", ".join(names)
                    # Blocks of features are reported below.
                    check.damages = _of(check.damages, "embed")
            with self._noting(key, "store"):
                if folder not in by_store:
                    by_store[folder] = []
                    check_store(check, folder, spec, deep=False)
                    by_store[folder] = check.damages
                check.damages = _of(by_store[folder], "embed")
            blocks = set(read.get("blocks", {}).get("ids", {}).values())
            if blocks:
                with self._noting(key, "blocks"):
                    damages = _of(by_store[folder], "describe")
                    check.damages = [d for d in damages if Path(d.path).name in blocks]
                    if not damages and EmbeddingStore(folder, spec).lacking(blocks, near):
                        check.tell(folder, f"no features of {min(near)}", "describe", "run")


def _read_by(link: Link) -> Entry:
    return link.document["inputs"] if link.document else {}


def _of(damages: list[Damage], step: str) -> list[Damage]:
    return [one for one in damages if one.step == step]


def _manifest(chain: Chain, entry: Entry) -> pd.DataFrame:
    return read_frame(chain.at(entry["manifest"]))


def _made_now(chain: Chain, entry: Entry) -> str | None:
    record = read_record(chain.at(entry["path"]))
    return made_digest(record) if record else None


_WEIGHTS_FOLDER = "checkpoint, a folder"


def _is_weights_folder(name: str, entry: Entry) -> bool:
    """Whether a fact is a SAM of `transformers` in a folder of the user's."""
    return name == "checkpoint" and entry["model"] in OF_THE_HUB and entry["path"] is not None


_NOW: dict[str, Callable[[Chain, Entry], str | None]] = {
    "pictures": lambda chain, entry: pictures_digest(_manifest(chain, entry)),
    "labels": _made_now,
    "metrics": _made_now,
    "truth": lambda chain, entry: files_digest(chain.at(entry["path"]), "*.png"),
    "decisions": lambda chain, e: decisions_digest(standing(read_all(chain.at(e["path"])))),
    _WEIGHTS_FOLDER: lambda chain, entry: weights_digest(chain.at(entry["path"]), OF_TEXTS),
}
"""The digest that a thing has now, by the fact's name; the others are files."""

_UNCHECKED = ("images", "source", "text", "store", "blocks")
"""Digests of lists, for comparing two documents; stores and their blocks are checked apart."""


def _files(name: str, chain: Chain, entry: Entry) -> list[tuple[Path, str]]:
    """The files that a thing is, with their digests; none where it need not be there."""
    sha256 = entry["sha256"]
    if name == "checkpoint" and entry["model"] in OF_THE_HUB:
        return []  # the hub's, whose commit says which
    if name == "checkpoint" and entry["path"] is None:
        official = OFFICIAL.get(entry["model"])
        file = cache_folder() / official.file_name if official else NANO_WEIGHTS
        # The masks are there, and need the official one no more.
        return [(file, sha256)] if official is None or file.exists() else []
    file = chain.at(entry["path"])
    card = [(card_path(file), entry["card_sha256"])] if name == "head" else []
    return [(file, sha256), *card]
