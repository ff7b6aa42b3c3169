"""Labels one large image tile by tile, and joins what lies on the seams."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from pycocotools import mask as coco_mask

from usam_core.config.palette import label_dtype
from usam_core.config.project import Project
from usam_core.files.digest import file_digest
from usam_core.images.tiles import Tile
from usam_core.inference.labelled import labelled_image
from usam_core.labels.image import Instance, LabelledImage
from usam_core.labels.parts import write_part
from usam_core.masks.label_png import edited_png
from usam_core.masks.rle import crop
from usam_core.masks.seams import Record, joined, measures, shifted, suppressed
from usam_core.outputs.label_canvas import LabelCanvas
from usam_core.progress import Progress
from usam_core.steps.folders import step_folder
from usam_core.steps.images_to_label import TiledImage
from usam_core.steps.label_shard import Labeller, part_holds

_SLICE = 0.9
"""What lies in an object of its class by more than this share is a slice of it."""


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
    image, settings = part.image, project.config.inference
    boxes = [tile.box for tile in image.tiles]
    found: list[list[Record]] = []
    missed: list[Record] = []
    part.file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=part.file.parent) as file:
        canvas = LabelCanvas(file, image.size_hw, label_dtype(len(labeller.label_map.names)))
        with progress.bar("Labelling", len(image.tiles)) as bar:
            for tile, shard, key in zip(image.tiles, part.shards, image.keys, strict=True):
                ((_, mask_set),) = labeller.mask_sets(shard, [key])
                done = labeller.label(mask_set)
                canvas.put(tile, done.labels)
                before = len(found) * len(mask_set)
                here = labelled_image(done, mask_set, labeller.label_map, path=key, sha256=key)
                found.append(_placed(here.instances, tile, image.size_hw, before))
                nearly = _placed(here.missed, tile, image.size_hw, before)
                missed += [record for record in nearly if _is_answered_for(tile, record)]
                bar.advance()
        # Between tiles also where it is off within one: a slice that a border left is no object.
        containment = min(settings.nms_containment, _SLICE)
        objects, gone = suppressed(
            joined(found, boxes, image.size_hw), boxes, settings.nms_iou, containment
        )
        for record, winner in gone:
            _rename(canvas, record, winner)
        png = folder / part.png
        kept = edited_png(png, image.size_hw, part.written)
        made = part.file.with_name(f".{part.file.stem}.png") if kept else png
        canvas.save(made)
        labelled = LabelledImage(
            path=image.path,
            sha256=image.sha256,
            size_hw=image.size_hw,
            label_map=labeller.label_map,
            instances=tuple(map(Instance.from_coco, objects)),
            missed=tuple(map(Instance.from_coco, missed)),
            pixels=canvas.counts(),
            png=part.png,
            png_sha256=file_digest(made),
            tiles=tuple(image.keys),
        )
    if kept:
        made.unlink()
    write_part(part.file, [labelled])
    return 1


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
