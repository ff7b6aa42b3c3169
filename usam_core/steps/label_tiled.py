"""Labels one large image tile by tile, and joins what lies on the seams."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

from pycocotools import mask as coco_mask

from usam_core.config.model import InferenceConfig
from usam_core.config.project import Project
from usam_core.config.training import label_dtype
from usam_core.files.digest import file_digest
from usam_core.images.ref import Tile
from usam_core.inference.scoring import Labelled, labelled_image
from usam_core.labels.image import Instance, LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.labels.parts import write_part
from usam_core.masks.label_png import edited_png
from usam_core.masks.rle import crop, measures
from usam_core.masks.seams import Record, joined, shifted, suppressed
from usam_core.outputs.label_canvas import LabelCanvas
from usam_core.masks.rle import crop
from usam_core.masks.seams import Record, joined, measures, shifted, suppressed
from usam_core.outputs.label_files import LabelCanvas
from usam_core.progress import Progress
from usam_core.steps.folders import step_folder
from usam_core.steps.images_to_label import TiledImage
from usam_core.steps.label_shard import Labeller, part_holds
from usam_core.types import MaskSet


@dataclass(frozen=True, slots=True)
class LargePart:
    """A large image that is to be labelled.

    Attributes:
        file: where its labels go; named by everything they depend on.
        image: the image and its tiles.
        shards: the shard of each tile.
        png: its label PNG, below the step's folder.
        written: digest of that PNG as an earlier run wrote it.
        blocks: ids of feature blocks that were added to the store, by the head's names for them.
    """

    file: Path
    image: TiledImage
    shards: list[str]
    png: str
    written: str | None
    blocks: dict[str, str]


def label_large(
    project: Project, store_path: Path, head_file: Path, part: LargePart, progress: Progress
) -> int:
    """Label a large image unless that is done, and return how many were labelled.

    One tile is in memory at a time; what is kept of it are run lengths and records.
    """
    folder = step_folder(project, "annotate")
    if part_holds(folder, part.file):
        return 0
    labeller = Labeller(project, store_path, head_file, part.blocks)
    image = part.image
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

        canvas = LabelCanvas(file, image.size_hw, label_dtype(len(labeller.label_map.names)))
        labelled = label_tiles(
            image, mask_sets(), labeller.label, labeller.label_map, project.config.inference, canvas
        )
        png = folder / part.png
        kept = edited_png(png, image.size_hw, part.written)
        made = part.file.with_name(f".{part.file.stem}.png") if kept else png
        canvas.save(made)
        labelled = replace(labelled, png=part.png, png_sha256=file_digest(made))
    if kept:
        made.unlink()
    write_part(part.file, [labelled])
    return 1


def label_tiles(
    image: TiledImage,
    mask_sets: Iterable[MaskSet],
    label: Callable[[MaskSet], Labelled],
    label_map: LabelMap,
    settings: InferenceConfig,
    canvas: LabelCanvas,
) -> LabelledImage:
    """Label the tiles of an image, and join what lies on their seams.

    Args:
        image: the image and its tiles.
        mask_sets: of each tile, in their order.
        label: labels one of them.
        label_map: the head's classes.
        settings: how masks are suppressed.
        canvas: of the image's size; it is painted.
    """
    boxes = [tile.box for tile in image.tiles]
    found: list[list[Record]] = []
    missed: list[Record] = []
    for tile, mask_set in zip(image.tiles, mask_sets, strict=True):
        done = label(mask_set)
        canvas.put(tile, done.labels)
        before = len(found) * len(mask_set)
        here = labelled_image(done, mask_set, label_map, path=image.path, sha256=image.sha256)
        found.append(_placed(here.instances, tile, image.size_hw, before))
        nearly = _placed(here.missed, tile, image.size_hw, before)
        missed += [record for record in nearly if _is_answered_for(tile, record)]
    objects, gone = suppressed(joined(found, boxes, image.size_hw), boxes, settings.nms_iou)
    for record, winner in gone:
        _rename(canvas, record, winner)
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
    """Return a tile's masks in the image's coordinates; prompts count on from tile to tile."""
    placed = []
    for record in (instance.to_coco() for instance in instances):
        rle = shifted(record["segmentation"], tile.box, size_hw)
        record = {**record, **measures(rle), "prompt": record["prompt"] + prompts}
        if "point" in record:
            x, y = record["point"]
            record["point"] = [x + tile.box.columns[0], y + tile.box.rows[0]]
        placed.append(record)
    return placed


def _is_answered_for(tile: Tile, record: Record) -> bool:
    """Return whether a mask's middle lies in the tile's core: what two tiles miss is told once."""
    x, y, w, h = record["bbox"]
    (top, bottom), (left, right) = tile.core
    return top <= y + h / 2 < bottom and left <= x + w / 2 < right


def _rename(canvas: LabelCanvas, record: Record, winner: Record) -> None:
    """Let pixels speak of the object that is listed, where another name gave way to it."""
    both = coco_mask.merge([record["segmentation"], winner["segmentation"]], True)
    part = crop({"size": both["size"], "counts": both["counts"].decode("ascii")})
    canvas.rename(part, record["category_id"], winner["category_id"])
