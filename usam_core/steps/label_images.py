"""Labels images with the fitted head: those of one shard, or the tiles of a large one.

This is what a worker does of the step annotate. The head and its calibration, as earlier steps
left them, are found here too.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch import nn

from usam_core.config.model import InferenceConfig
from usam_core.config.project import Project
from usam_core.config.training import label_dtype
from usam_core.errors import InputError, MissingStepError, StoreError
from usam_core.files.atomic import TEMPORARY_PREFIX
from usam_core.files.digest import file_digest
from usam_core.head.checkpoint import card_path, load_head
from usam_core.images.errors import UnusableImage
from usam_core.images.read import read_image
from usam_core.images.ref import ImageRef, Tile
from usam_core.inference.calibration import Calibration
from usam_core.inference.scoring import Labelled, label_image, labelled_image
from usam_core.labels.image import Instance, LabelledImage, count_labels
from usam_core.labels.label_map import LabelMap
from usam_core.labels.parts import Parts, write_part
from usam_core.lineage.document import portable
from usam_core.masks.label_png import edited_png, save_label_png
from usam_core.masks.rle import crop, measures
from usam_core.masks.seams import Record, joined, shifted, suppressed
from usam_core.outputs.label_files import LabelCanvas
from usam_core.progress import Progress
from usam_core.review.decisions import Decision
from usam_core.review.rulings import Rulings
from usam_core.steps.base import Input, step_folder
from usam_core.steps.images_to_label import TiledImage
from usam_core.steps.read_settings import how_to_read
from usam_core.steps.record import needed_record, read_record, whole_output
from usam_core.store.store import EmbeddingStore
from usam_core.types import TOKENS_BLOCK, MaskSet

CALIBRATION = "calibration.json"


def head_path(project: Project) -> Path:
    """The head that labels: of `fit`, the one that `inference.head` names.

    Raises:
        MissingStepError: `fit` has not run.
    """
    folder = step_folder(project, "fit")
    record = read_record(folder)
    if record is not None:
        # Without distillation there is the teacher only.
        for name in (f"{project.config.inference.head}.safetensors", Path(record.path).name):
            if name in record.outputs and (folder / name).exists():
                return folder / name
    raise MissingStepError(f"{folder}: no head yet; run `usam fit {project.file}` first")


def head_input(project: Project) -> Input:
    """The file of the head that labels as an input of a step; its card is another one."""
    head = head_path(project)
    path, sha256, card = portable(head, project.root), file_digest(head), card_path(head)

    def lineage() -> dict[str, str]:
        return {"path": path, "sha256": sha256, "card_sha256": file_digest(card)}

    return Input(sha256, lineage, "fit", weights=True)


def calibration_file(project: Project) -> Path | None:
    """The fitted calibration's file, or None where there were too few scenes to fit any.

    Raises:
        MissingStepError: `calibrate` has not run.
    """
    folder = step_folder(project, "calibrate")
    recorded = needed_record(folder, "calibration", project.file).outputs
    return whole_output(folder, CALIBRATION) if CALIBRATION in recorded else None


def calibration_input(project: Project) -> Input:
    """The fitted calibration as an input of a step."""
    file = calibration_file(project)
    if file is None:
        return Input(None, step="calibrate")
    fact = {"path": portable(file, project.root), "sha256": file_digest(file)}
    return Input(fact["sha256"], lambda: fact, "calibrate", weights=True)


def read_calibration(project: Project) -> Calibration | None:
    """The fitted calibration; see `calibration_file`."""
    file = calibration_file(project)
    return Calibration.from_json(json.loads(file.read_text(encoding="utf-8"))) if file else None


class Labeller:
    """Labels one image, or one tile, after the other with a head.

    Args:
        store_path: folder of the embedding store.
        head_file: the head.
        blocks: ids of feature blocks that were added to the store, by the head's names for them.
    """

    def __init__(
        self, project: Project, store_path: Path, head_file: Path, blocks: dict[str, str]
    ) -> None:
        self._project = project
        self._head, card = _head(head_file, file_digest(head_file))
        self._calibration = read_calibration(project)
        self._store = EmbeddingStore.open(store_path)
        self._store.use_blocks(blocks)
        self._features: list[str] = card["settings"]["features"]
        self.label_map = LabelMap.of_names(card["classes"])
        self._how = how_to_read(project)

    def mask_sets(self, shard: str, shas: Iterable[str]) -> Iterator[tuple[str, MaskSet]]:
        """Yield the stored masks of some images of a shard, with the blocks that the head reads."""
        blocks = [name for name in self._features if name != TOKENS_BLOCK]
        tokens = TOKENS_BLOCK in self._features
        single = self._project.config.inference.mask_choice == "single"
        return self._store.read_shard(shard, shas, blocks, tokens=tokens, single=single)

    def label(self, mask_set: MaskSet, ref: ImageRef, sha256: str) -> Labelled:
        """Label one image, or one tile, of this content key.

        Raises:
            InputError: its masks are to follow its edges, and it cannot be read any more, or is
                another by now.
        """
        return label_image(
            self._head,
            mask_set,
            self._features,
            self._project.config.inference,
            self.label_map.names,
            self._calibration,
            functools.partial(self._read, ref, sha256),
        )

    def _read(self, ref: ImageRef, sha256: str) -> np.ndarray:
        try:
            return read_image(ref, sha256=sha256, **self._how).rgb
        except UnusableImage as error:
            raise InputError(
                f"{error}; expected the image as it was embedded, because masks follow its edges: "
                "run again if it has changed, or set inference.edges: grid to label without it"
            ) from error

    def rulings(self, decisions: list[Decision]) -> Rulings:
        """What a person has decided of an image's masks."""
        config = self._project.config
        return Rulings(decisions, config.label_of, config.inference.nms_iou)


@functools.lru_cache(maxsize=1)
def _head(file: Path, _digest: str) -> tuple[nn.Module, dict[str, Any]]:
    return load_head(file)


def part_holds(folder: Path, part: Path) -> bool:
    """Whether a part's file is there, and every label PNG as it was written or edited."""
    images = Parts(folder, {part.relative_to(folder).as_posix(): None}).images([])
    try:
        return all(
            file_digest(image.png_file) == image.png_sha256 or image.is_edited() for image in images
        )
    except (OSError, StoreError):
        return False


@dataclass(frozen=True, slots=True)
class Part:
    """The images of one shard that are labelled together.

    Attributes:
        file: where the labels of all of them go; named by everything they depend on.
        shard: the shard's id.
        rows: path as it is listed, and content digest, of each image.
        pngs: the label PNG of each, below the step's folder.
        written: digests of label PNGs as earlier runs wrote them, by their paths.
        blocks: see `Labeller`.
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
            ref = ImageRef.parse(project.image_address(wanted[sha256][0][0]))
            done = labeller.label(mask_set, ref, sha256)
            found = labelled_image(done, mask_set, labeller.label_map, path="", sha256=sha256)
            if decisions := part.decisions.get(sha256):
                found = labeller.rulings(decisions).apply(found, done.labels)
                found = replace(found, pixels=count_labels(done.labels))
            save = functools.partial(save_label_png, labels=done.labels, signed=True)
            for path, png in wanted[sha256]:
                digest = _save_png(
                    part, folder / png, part.written.get(png), mask_set.size_hw, save
                )
                images.append(replace(found, path=path, png=png, png_sha256=digest))
                bar.advance()
    write_part(part.file, images)
    return len(images)


@dataclass(frozen=True, slots=True)
class LargePart:
    """A large image that is to be labelled.

    Attributes:
        file: where its labels go; named by everything they depend on.
        image: the image and its tiles.
        shards: the shard of each tile.
        png: its label PNG, below the step's folder.
        written: digest of that PNG as an earlier run wrote it.
        blocks: see `Labeller`.
        decisions: what a person has decided of its masks.
    """

    file: Path
    image: TiledImage
    shards: list[str]
    png: str
    written: str | None
    blocks: dict[str, str]
    decisions: list[Decision] = field(default_factory=list)


def label_large(
    project: Project, store_path: Path, head_file: Path, part: LargePart, progress: Progress
) -> int:
    """Label a large image unless that is done, and return how many were labelled.

    One tile is in memory at a time; what is kept of it are run lengths and records.
    """
    folder, image = step_folder(project, "annotate"), part.image
    if part_holds(folder, part.file):
        return 0
    labeller = Labeller(project, store_path, head_file, part.blocks)
    label_map = labeller.label_map
    part.file.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryFile(dir=part.file.parent) as file,
        progress.bar("Labelling", len(image.tiles)) as bar,
    ):

        def mask_sets() -> Iterator[MaskSet]:
            for shard, key in zip(part.shards, image.keys, strict=True):
                ((_, mask_set),) = labeller.mask_sets(shard, [key])
                yield mask_set
                bar.advance()

        canvas = LabelCanvas(file, image.size_hw, label_dtype(len(label_map.names)))
        settings, ref = project.config.inference, ImageRef.parse(project.image_address(image.path))
        key_of = dict(zip(image.tiles, image.keys, strict=True))

        def label(mask_set: MaskSet, tile: Tile) -> Labelled:
            place = ImageRef(ref.file, ref.plane, tile.box)
            return labeller.label(mask_set, place, key_of[tile])

        labelled = label_tiles(image, mask_sets(), label, label_map, settings, canvas)
        if part.decisions:
            labelled = labeller.rulings(part.decisions).apply(labelled, canvas.on_disk)
            labelled = replace(labelled, pixels=canvas.counts())
        png = folder / part.png
        digest = _save_png(part, png, part.written, image.size_hw, canvas.save)
    write_part(part.file, [replace(labelled, png=part.png, png_sha256=digest)])
    return 1


def _save_png(
    part: Part | LargePart,
    png: Path,
    written: str | None,
    size_hw: tuple[int, int],
    save: Callable[[Path], object],
) -> str:
    """Save a label PNG and return its digest.

    A person's edit stays: ours then lies beside the part for a moment, for its digest alone.
    """
    kept = edited_png(png, size_hw, written)
    made = part.file.with_name(f"{TEMPORARY_PREFIX}{part.file.stem}.png") if kept else png
    save(made)
    digest = file_digest(made)
    if kept:
        made.unlink()
    return digest


def label_tiles(
    image: TiledImage,
    mask_sets: Iterable[MaskSet],
    label: Callable[[MaskSet, Tile], Labelled],
    label_map: LabelMap,
    settings: InferenceConfig,
    canvas: LabelCanvas,
) -> LabelledImage:
    """Label the tiles of an image, and join what lies on their seams.

    Args:
        image: the image and its tiles.
        mask_sets: of each tile, in their order.
        label: labels one of them.
        canvas: of the image's size; it is painted.
    """
    boxes = [tile.box for tile in image.tiles]
    by_tile: list[list[Record]] = []
    missed: list[Record] = []
    for tile, mask_set in zip(image.tiles, mask_sets, strict=True):
        done = label(mask_set, tile)
        canvas.put(tile, done.labels)
        before = len(by_tile) * len(mask_set)
        here = labelled_image(done, mask_set, label_map, path=image.path, sha256=image.sha256)
        by_tile.append(_placed(here.instances, tile, image.size_hw, before))
        (top, bottom), (left, right) = tile.core
        for record in _placed(here.missed, tile, image.size_hw, before):
            x, y, w, h = record["bbox"]
            # By the tile whose core holds its middle: what two tiles miss counts once.
            if top <= y + h / 2 < bottom and left <= x + w / 2 < right:
                missed.append(record)
    objects, gone = suppressed(joined(by_tile, boxes, image.size_hw), boxes, settings.nms_iou)
    for record, winner in gone:
        # Pixels that both cover get the name of the object that is listed.
        both = coco_mask.merge([record["segmentation"], winner["segmentation"]], True)
        part = crop({"size": both["size"], "counts": both["counts"].decode("ascii")})
        canvas.rename(part, record["category_id"], winner["category_id"])
    return LabelledImage(
        path=image.path,
        sha256=image.sha256,
        size_hw=image.size_hw,
        label_map=label_map,
        instances=tuple(map(Instance.from_coco, objects)),
        missed=tuple(map(Instance.from_coco, missed)),
        pixels=canvas.counts(),
        tiles=tuple(image.keys),
    )


def _placed(
    instances: Sequence[Instance], tile: Tile, size_hw: tuple[int, int], prompts: int
) -> list[Record]:
    """A tile's masks in the image's coordinates; prompts count on from tile to tile."""
    placed = []
    for record in (instance.to_coco() for instance in instances):
        rle = shifted(record["segmentation"], tile.box, size_hw)
        record = {**record, **measures(rle), "prompt": record["prompt"] + prompts}
        if "point" in record:
            x, y = record["point"]
            record["point"] = [x + tile.box.columns[0], y + tile.box.rows[0]]
        placed.append(record)
    return placed
