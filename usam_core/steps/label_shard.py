"""Labels the images of one shard: what a worker does of the step annotate."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usam_core.config.project import Project
from usam_core.errors import StoreError
from usam_core.files.atomic import TEMPORARY_PREFIX
from usam_core.files.digest import file_digest
from usam_core.head.checkpoint import load_head
from usam_core.head.model import Head
from usam_core.inference.scoring import Labelled, label_image, labelled_image
from usam_core.labels.image import LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.labels.parts import Parts, write_part
from usam_core.masks.label_png import edited_png, save_label_png
from usam_core.progress import Progress
from usam_core.review.decisions import Decision
from usam_core.review.rulings import Rulings
from usam_core.steps.calibrated import calibration_file, read_calibration
from usam_core.steps.folders import step_folder
from usam_core.store.store import EmbeddingStore
from usam_core.types import TOKENS_BLOCK, MaskSet


@dataclass(frozen=True, slots=True)
class Part:
    """The images of one shard that are labelled together.

    Attributes:
        file: where the labels of all of them go; named by everything they depend on.
        shard: the shard's id.
        rows: path as it is listed, and content digest, of each image.
        pngs: the label PNG of each, below the step's folder.
        written: digests of label PNGs as earlier runs wrote them, by their paths.
        blocks: ids of feature blocks that were added to the store, by the head's names for them.
        decisions: what a person has decided of their masks, by the image's digest.
    """

    file: Path
    shard: str
    rows: list[tuple[str, str]]
    pngs: list[str]
    written: dict[str, str]
    blocks: dict[str, str]
    decisions: dict[str, list[Decision]] = field(default_factory=dict)


def label_part(
    project: Project, store_path: Path, head_file: Path, part: Part, progress: Progress
) -> int:
    """Label a part's images unless that is done, and return how many were labelled."""
    folder = step_folder(project, "annotate")
    if part_holds(folder, part.file):
        return 0
    labeller = Labeller(project, store_path, head_file, part.blocks)
    # An image may be there twice under two names.
    wanted: dict[str, list[tuple[str, str]]] = {}
    for (path, sha256), png in zip(part.rows, part.pngs, strict=True):
        wanted.setdefault(sha256, []).append((path, png))
    images = []
    with progress.bar("Labelling", len(part.rows)) as bar:
        for sha256, mask_set in labeller.mask_sets(part.shard, wanted):
            decisions = part.decisions.get(sha256)
            done = labeller.label(mask_set, decisions)
            for path, png in wanted[sha256]:
                kept = edited_png(folder / png, mask_set.size_hw, part.written.get(png))
                # An edit stays; beside it, for its digest alone, lies for a moment what we made.
                name = f"{TEMPORARY_PREFIX}{part.file.stem}.png"
                made = part.file.with_name(name) if kept else folder / png
                save_label_png(made, done.labels, signed=True)
                said = {"path": path, "sha256": sha256, "png": png, "png_sha256": file_digest(made)}
                images.append(labelled_image(done, mask_set, labeller.label_map, **said))
                if kept:
                    made.unlink()
                bar.advance()
    write_part(part.file, images)
    return len(images)


class Labeller:
    """Labels one image, or one tile, after the other with a head.

    Args:
        project: the project.
        store_path: folder of the embedding store.
        head_file: the head.
        blocks: as `Part.blocks`.

    Attributes:
        label_map: the head's classes.
    """

    def __init__(
        self, project: Project, store_path: Path, head_file: Path, blocks: dict[str, str]
    ) -> None:
        self._project = project
        self._head, card = _head(head_file, file_digest(head_file))
        self._calibration = read_calibration(calibration_file(project))
        self._store = EmbeddingStore.open(store_path)
        self._store.use_blocks(blocks)
        self._features: list[str] = card["settings"]["features"]
        self.label_map = LabelMap.of_names(card["classes"])

    def mask_sets(self, shard: str, shas: Iterable[str]) -> Iterator[tuple[str, MaskSet]]:
        """Yield what the store has of some images of a shard, as far as the head reads it."""
        blocks = [name for name in self._features if name != TOKENS_BLOCK]
        tokens = TOKENS_BLOCK in self._features
        single = self._project.config.inference.mask_choice == "single"
        return self._store.read_shard(shard, shas, blocks, tokens=tokens, single=single)

    def label(self, mask_set: MaskSet, decisions: list[Decision] | None = None) -> Labelled:
        """Label one image, for which a person may have decided something."""
        project, rulings = self._project, None
        if decisions:
            rulings = Rulings(decisions, self.label_map.names, project.config.label_of)
        return label_image(
            self._head,
            mask_set,
            self._features,
            project.config.inference,
            self.label_map.names,
            self._calibration,
            rulings,
        )


def part_holds(folder: Path, part: Path) -> bool:
    """Return whether a part's file is there, and every label PNG as it was written or edited."""
    name = part.relative_to(folder).as_posix()
    try:
        return all(_png_holds(image) for image in Parts(folder, {name: None}).images([]))
    except (OSError, StoreError):
        return False


def _png_holds(image: LabelledImage) -> bool:
    return file_digest(image.png_file) == image.png_sha256 or image.is_edited()


@functools.lru_cache(maxsize=1)
def _head(file: Path, _digest: str) -> tuple[Head, dict[str, Any]]:
    return load_head(file)
