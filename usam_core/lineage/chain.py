"""The chain of `lineage.json` documents from an output back to pictures, images and weights."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from usam_core.errors import StoreError
from usam_core.files.digest import file_digest
from usam_core.lineage.artifact import Artifact, find_artifact
from usam_core.lineage.document import EARLIER, LINEAGE, find_document, read_document

Key = tuple[str, str | None]
"""Of a link: its step, and the digest by which the next one names its document."""

_WIDTH = 12
"""Digits of a digest that people are shown."""


@dataclass(frozen=True)
class Link:
    """One step of a chain, as its document describes it.

    Attributes:
        step: name of the step.
        path: where the document is expected, from the project's folder.
        sha256: digest that the next step names, None if there was no document then.
        document: what it says; None if it is not to be found.
        current: it describes the outputs that are there now; else the step has run again since.
    """

    step: str
    path: str
    sha256: str | None
    document: dict[str, Any] | None
    current: bool

    @property
    def parents(self) -> list[tuple[str, str | None]]:
        """Return the parents as keys of `Chain.links`."""
        named = self.document["parents"] if self.document else []
        return [(parent["path"], parent["sha256"]) for parent in named]


@dataclass(frozen=True)
class Chain:
    """What an output was made from.

    Attributes:
        subject: the output.
        root: the project's folder.
        links: every step, each once, by path and digest; the first is the output's own.
    """

    subject: Artifact
    root: Path
    links: dict[tuple[str, str | None], Link] = field(default_factory=dict)

    def at(self, name: str) -> Path:
        """Return where a path of a document leads: anywhere that a project may have things."""
        return Path(os.path.normpath(self.root / name))

    @property
    def last(self) -> Link:
        """Return the step that made the output."""
        return next(iter(self.links.values()))


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a step read, for people.

    Attributes:
        name: a key of the document, such as images, pictures, checkpoint, store, blocks or head.
        text: what it is.
        sha256: its digest.
    """

    name: str
    text: str
    sha256: str | None


def read_chain(path: str | Path) -> Chain:
    """Follow the documents from an output; nothing but documents is read.

    Raises:
        InputError: the path is no output of a step.
        StoreError: the output's own document cannot be read.
    """
    subject, document, root = _start(path)
    chain = Chain(subject, root)
    own = subject.folder / LINEAGE
    name = own.relative_to(root).as_posix() if own.is_relative_to(root) else own.as_posix()
    current = subject.document.parent.name != EARLIER
    _follow(chain, Link(document["step"], name, file_digest(subject.document), document, current))
    return chain


def entries(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a step read, and the pictures that `collect` made, in an order that reads well."""
    own = {"pictures": document["pictures"]} if "pictures" in document else {}
    every = {**document["inputs"], **document["weights"], **own}
    return {name: every[name] for name in [*_DESCRIBE, *every] if every.get(name)}


def facts(document: dict[str, Any]) -> list[Fact]:
    """Return what a step read, for people."""
    return [
        Fact(name, _DESCRIBE.get(name, _place)(entry), entry.get("sha256"))
        for name, entry in entries(document).items()
    ]


def short(sha256: str | None) -> str:
    """Return the first digits of a digest."""
    return sha256[:_WIDTH] if sha256 else "none"


def made_by(document: dict[str, Any]) -> str:
    """Return which code, and which run, made a step's outputs."""
    code = document["code"]
    words = [f"usam {code['versions']['usam']}"]
    if code["checkout"]:
        changed = ", changed" if code["checkout"]["changed"] else ""
        words.append(f"commit {code['checkout']['commit'][:_WIDTH]}{changed}")
    words.append(f"code {short(code['sha256'])}")
    if document["flow_run"]:
        words.append(f"flow run {document['flow_run'].get('name')!r}")
    return ", ".join(words)


def _start(path: str | Path) -> tuple[Artifact, dict[str, Any], Path]:
    """Return the output, its document and the project's folder."""
    found = []
    # A linked folder of results leads to its project by the one or by the other path.
    for way in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
        subject = find_artifact(way)
        document = read_document(subject.document)
        root = Path(os.path.normpath(subject.folder / document["root"]))
        if (root / document["project_file"]).exists():
            return subject, document, root
        found.append((subject, document, root))
    return found[0]


def _follow(chain: Chain, link: Link) -> None:
    key = (link.path, link.sha256)
    if key in chain.links:
        return
    chain.links[key] = link
    for parent in link.document["parents"] if link.document else []:
        _follow(chain, _link(chain, parent))


def _link(chain: Chain, parent: dict[str, Any]) -> Link:
    file, sha256 = chain.at(parent["path"]), parent["sha256"]
    found = find_document(file, sha256) if sha256 and file.name == LINEAGE else None
    try:
        document = read_document(found) if found else None
    except StoreError:
        document = None
    return Link(parent["step"], parent["path"], sha256, document, found == file)


def _pictures(entry: dict[str, Any]) -> str:
    classes = ", ".join(f"{name} {count}" for name, count in entry["per_class"].items())
    sources = entry["provenance"].get("sources", {})
    given = ", ".join(f"{count} from {name}" for name, count in sources.items())
    return f"{entry['count']} for training ({classes}); {given or 'no source recorded'}"


def _checkpoint(entry: dict[str, Any]) -> str:
    where = entry["path"]
    if where is None:
        where = "bundled with usam" if entry["model"] == "nano" else "the official checkpoint"
    return f"SAM {entry['model']}, {where}"


def _place(entry: dict[str, Any]) -> str:
    return entry.get("path", "")


_DESCRIBE = {
    "images": lambda entry: f"{entry['count']} in {entry['path']}",
    "labels": _place,
    "truth": _place,
    "head": _place,
    "calibration": _place,
    "decisions": lambda entry: f"{entry['count']} of a person, in {entry['path']}",
    "source": lambda entry: f"{entry['name']}, its settings and what it draws on",
    "pictures": _pictures,
    "store": _place,
    "blocks": lambda entry: ", ".join(f"{k} ({v})" for k, v in entry["ids"].items()),
    "text": lambda entry: f"{entry['family']} {entry['weights']}, and the sentences of each name",
    "checkpoint": _checkpoint,
}


_MAX_NAMED = 3
"""So many damages of one kind are named; the others are counted."""


@dataclass(slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        link: key of `Chain.links`; None for the output itself.
        name: a fact of the link, or one of "file", "image", "cut-outs", "masks", "lineage",
            "outputs", "scenes", "labels".
        said: what was compared; None where there is nothing to compare with.
        wrong: what came, what was expected, and the fix.
        files: how many were compared.
    """

    link: Key | None
    name: str
    said: str | None = ""
    wrong: list[str] = field(default_factory=list)
    files: int = 0

    @property
    def verdict(self) -> Literal["ok", "broken", "unknown"]:
        """Return whether it is as it was."""
        return "broken" if self.wrong else "unknown" if self.said is None else "ok"

    @property
    def text(self) -> str:
        """Return what is wrong, else what was compared."""
        rest = len(self.wrong) - _MAX_NAMED
        others = f" (and {rest} more)" if rest > 0 else ""
        said = self.said or (f"{self.files} files" if self.files else "")
        return "; ".join(self.wrong[:_MAX_NAMED]) + others or said
