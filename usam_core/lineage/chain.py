"""The chain of `lineage.json` documents from an output back to pictures, images and weights."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from usam_core.errors import InputError, StoreError
from usam_core.files.digest import file_digest
from usam_core.labels.image import LabelledImage
from usam_core.labels.parts import PARTS, Parts
from usam_core.lineage.document import EARLIER, LINEAGE, RECORD, find_document, read_document

Key = tuple[str, str | None]
"""Of a link: where its document is expected, and the digest by which the next step names it."""

_MASKS, _OVERLAYS = "masks/", "overlays/"
_SCENES, _TRUTHS = "scenes/", "truth/"
_WIDTH = 12
"""Digits of a digest that people are shown."""
_MAX_NAMED = 3
"""So many damages of one kind are named; the others are counted."""


@dataclass(frozen=True)
class Artifact:
    """One output, or all outputs of a step.

    Attributes:
        file: absolute path.
        name: the file's path in it, "." for the whole step.
        document: the `lineage.json` that covers it.
        image: that a label PNG or an overlay shows; else None.
        part: of the labels, that holds that image.
    """

    file: Path
    folder: Path
    name: str
    document: Path
    image: LabelledImage | None = None
    part: str = ""

    @property
    def scene(self) -> bool:
        """Whether it is a composed scene, or the truth of one."""
        return self.folder.name == "compose" and self.name.startswith((_SCENES, _TRUTHS))

    @property
    def kind(self) -> str:
        """What the file is, in words."""
        if self.name == ".":
            return "all outputs of the step"
        if self.scene:
            truth = "" if self.name.startswith(_SCENES) else "truth of a "
            return f"{truth}composed scene"
        if self.name.startswith(_MASKS):
            return "label PNG"
        return "overlay" if self.name.startswith(_OVERLAYS) else "output"


@dataclass(frozen=True)
class Link:
    """One step of a chain, as its document describes it.

    Attributes:
        step: name of the step.
        path: where the document is expected, from the project's folder.
        sha256: digest that the next step names, None if there was no document then.
        document: its content; None if it is not to be found.
        current: it describes the outputs that are there now; else the step has run again since.
    """

    step: str
    path: str
    sha256: str | None
    document: dict[str, Any] | None
    current: bool

    @property
    def parents(self) -> list[Key]:
        """The parents as keys of `Chain.links`."""
        named = self.document["parents"] if self.document else []
        return [(parent["path"], parent["sha256"]) for parent in named]


@dataclass(frozen=True)
class Chain:
    """What an output was made from.

    Attributes:
        subject: the output.
        links: every step, each once, by path and digest; the first is the output's own.
    """

    subject: Artifact
    root: Path
    links: dict[Key, Link] = field(default_factory=dict)

    def at(self, name: str) -> Path:
        """Where a path of a document leads: anywhere that a project may have things."""
        return Path(os.path.normpath(self.root / name))

    @property
    def last(self) -> Link:
        """The step that made the output."""
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


@dataclass(slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        link: key of `Chain.links`; None for the output itself.
        name: a fact of the link, or one of "file", "image", "cut-outs", "masks", "lineage",
            "outputs", "scenes", "labels".
        compared: what was compared; None where there is nothing to compare with.
        wrong: what came, what was expected, and the fix.
        files: how many were compared.
    """

    link: Key | None
    name: str
    compared: str | None = ""
    wrong: list[str] = field(default_factory=list)
    files: int = 0

    @property
    def verdict(self) -> Literal["ok", "broken", "unknown"]:
        """Whether it is as it was."""
        return "broken" if self.wrong else "unknown" if self.compared is None else "ok"

    @property
    def text(self) -> str:
        """What is wrong, else what was compared."""
        rest = len(self.wrong) - _MAX_NAMED
        others = f" (and {rest} more)" if rest > 0 else ""
        compared = self.compared or (f"{self.files} files" if self.files else "")
        return "; ".join(self.wrong[:_MAX_NAMED]) + others or compared


def read_chain(path: str | Path) -> Chain:
    """Follow the documents from an output; nothing but documents is read.

    Raises:
        InputError: there is no such file, or it is no output of a step.
        StoreError: the output's own document cannot be read.
    """
    ways = []
    # A linked folder of results leads to its project by the one or by the other path.
    for way in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
        subject = _find_artifact(Path(way))
        document = read_document(subject.document)
        root = Path(os.path.normpath(subject.folder / document["root"]))
        ways.append((subject, document, root))
        if (root / document["project_file"]).exists():
            break
    else:
        subject, document, root = ways[0]
    chain, own = Chain(subject, root), subject.folder / LINEAGE
    name = own.relative_to(root).as_posix() if own.is_relative_to(root) else own.as_posix()
    current = subject.document.parent.name != EARLIER
    _follow(chain, Link(document["step"], name, file_digest(subject.document), document, current))
    return chain


def _find_artifact(file: Path) -> Artifact:
    if not file.exists():
        raise InputError(f"{file}: no such file; expected an output of a project")
    folder = next((f for f in (file, *file.parents) if (f / LINEAGE).is_file()), None)
    if folder is None:
        raise InputError(
            f"{file}: neither its folder nor one above it holds {LINEAGE}; expected an output of a "
            "step, such as out/annotate/coco.json. Outputs of earlier versions get theirs when "
            "the step runs again"
        )
    name = file.relative_to(folder).as_posix()
    if file.parent == folder / EARLIER:
        return Artifact(file, folder, ".", file)
    if name in (LINEAGE, RECORD) or file.is_dir():
        name = "."
    return Artifact(file, folder, name, folder / LINEAGE, *_labelled(folder, name))


def _labelled(folder: Path, name: str) -> tuple[LabelledImage | None, str]:
    """The image of a label PNG or an overlay, and its part; None too where no part names it."""
    if name.startswith(_OVERLAYS):
        png = PurePosixPath(_MASKS + name.removeprefix(_OVERLAYS)).with_suffix(".png").as_posix()
    elif name.startswith(_MASKS):
        png = name
    else:
        return None, ""
    for file in sorted((folder / PARTS).glob("*")):
        part = f"{PARTS}{file.name}"
        with suppress(OSError, StoreError):  # reported when the parts are checked
            for image in Parts(folder, {part: None}).images(["tiles"]):
                if image.png == png:
                    return image, part
    return None, ""


def _follow(chain: Chain, link: Link) -> None:
    key = (link.path, link.sha256)
    if key in chain.links:
        return
    chain.links[key] = link
    for parent in link.document["parents"] if link.document else []:
        file, sha256 = chain.at(parent["path"]), parent["sha256"]
        place = find_document(file, sha256) if sha256 and file.name == LINEAGE else None
        document = None
        with suppress(StoreError):
            document = read_document(place) if place else None
        _follow(chain, Link(parent["step"], parent["path"], sha256, document, place == file))


def entries(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a step read, and the pictures that `collect` made, in an order that reads well."""
    own = {"pictures": document["pictures"]} if "pictures" in document else {}
    every = {**document["inputs"], **document["weights"], **own}
    return {name: every[name] for name in [*_DESCRIBE, *every] if every.get(name)}


def facts(document: dict[str, Any]) -> list[Fact]:
    """What a step read, for people."""
    return [
        Fact(name, _DESCRIBE.get(name, _path)(entry), entry.get("sha256"))
        for name, entry in entries(document).items()
    ]


def short(sha256: str | None) -> str:
    """The first digits of a digest."""
    return sha256[:_WIDTH] if sha256 else "none"


def made_by(document: dict[str, Any]) -> str:
    """Which code, and which run, made a step's outputs."""
    code = document["code"]
    words = [f"usam {code['versions']['usam']}"]
    if code["checkout"]:
        changed = ", changed" if code["checkout"]["changed"] else ""
        words.append(f"commit {code['checkout']['commit'][:_WIDTH]}{changed}")
    words.append(f"code {short(code['sha256'])}")
    if document["flow_run"]:
        words.append(f"flow run {document['flow_run'].get('name')!r}")
    return ", ".join(words)


def _pictures(entry: dict[str, Any]) -> str:
    classes = ", ".join(f"{name} {count}" for name, count in entry["per_class"].items())
    sources = entry["provenance"].get("sources", {})
    given = ", ".join(f"{count} from {name}" for name, count in sources.items())
    return f"{entry['count']} for training ({classes}); {given or 'no source recorded'}"


def _checkpoint(entry: dict[str, Any]) -> str:
    where = entry["path"]
    if where is None:
        where = "bundled with usam" if entry["model"] == "nano" else "the official checkpoint"
        where = entry["sha256"] if "@" in entry["sha256"] else where  # a model of the hub
    return f"SAM {entry['model']}, {where}"


def _path(entry: dict[str, Any]) -> str:
    return str(entry.get("path", ""))


_DESCRIBE: dict[str, Callable[[dict[str, Any]], str]] = {
    "images": lambda entry: f"{entry['count']} in {entry['path']}",
    "labels": _path,
    "truth": _path,
    "head": _path,
    "calibration": _path,
    "decisions": lambda entry: f"{entry['count']} of a person, in {entry['path']}",
    "source": lambda entry: f"{entry['name']}, its settings and what it draws on",
    "pictures": _pictures,
    "store": _path,
    "blocks": lambda entry: ", ".join(f"{k} ({v})" for k, v in entry["ids"].items()),
    "text": lambda entry: f"{entry['family']} {entry['weights']}, and the sentences of each name",
    "checkpoint": _checkpoint,
}
