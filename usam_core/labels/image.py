"""One labelled image: what was found in it, where its files lie, its label map."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from usam_core.errors import InputError, StoreError
from usam_core.files.fsspec_io import join
from usam_core.images.ref import ImageRef
from usam_core.labels.label_map import LabelMap
from usam_core.labels.overlay import overlay, with_legend
from usam_core.masks.label_png import edited_png, read_label_png
from usam_core.masks.rle import Crop, crop, decode, mask_record, part_polygons, pixels
from usam_core.types import Instances

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, slots=True)
class Instance:
    """One mask of an image.

    Attributes:
        class_index: from 0.
        rle: COCO's compressed RLE with a text `counts`, at the image's size.
        area: pixels.
        bbox: left, top, width, height.
        score: the order of the masks, 0 to 1.
        probability: of the class, 0 to 1; calibrated where there is a calibration.
        runner_up: index of the next most probable class; None where there is but one.
        entropy: of the class distribution, nats.
        predicted_iou: SAM's estimate, usually 0 to 1.
        prompt: the point of the grid; None of a mask that a person made.
        point: column and row of that point, pixels.
        reviewed: `accepted`, `changed` (its class), `drawn` (its outline) or `added` by a person;
            None where nobody has decided.
        head_said: the head's class index, where a person has changed it.
        threshold: of a missed mask: the score that it should have reached.
    """

    class_index: int
    rle: dict[str, Any]
    area: int
    bbox: tuple[float, float, float, float]
    score: float
    probability: float | None = None
    runner_up: int | None = None
    entropy: float | None = None
    predicted_iou: float | None = None
    prompt: int | None = None
    point: tuple[float, float] | None = None
    reviewed: str | None = None
    head_said: int | None = None
    threshold: float | None = None

    @classmethod
    def from_coco(cls, record: Mapping[str, Any]) -> "Instance":
        """The instance of a COCO annotation as `to_coco` gives it."""
        values: dict[str, Any] = {name: record.get(name) for name in _AS_IN_COCO}
        ids = (record["category_id"], record.get("runner_up"), record.get("head_category"))
        index, runner_up, head_said = (None if n is None else LabelMap.index_of(n) for n in ids)
        rle, bbox, point = record["segmentation"], tuple(record["bbox"]), record.get("point")
        values |= {"class_index": index, "runner_up": runner_up, "head_said": head_said}
        return cls(**values, rle=rle, bbox=bbox, point=point and tuple(point))

    def to_coco(self) -> dict[str, Any]:
        """A COCO annotation without ids; further attributes stand beside COCO's fields."""
        runner_up, head_said = (
            None if index is None else LabelMap.id_of(index)
            for index in (self.runner_up, self.head_said)
        )
        record = {
            "category_id": LabelMap.id_of(self.class_index),
            "segmentation": self.rle,
            "area": self.area,
            "bbox": list(self.bbox),
            "iscrowd": 0,
            "score": self.score,
            "probability": self.probability,
            "runner_up": runner_up,
            "entropy": self.entropy,
            "predicted_iou": self.predicted_iou,
            "prompt": self.prompt,
        }
        more = {
            "reviewed": self.reviewed,
            "head_category": head_said,
            "point": self.point and list(self.point),
            "threshold": self.threshold,
        }
        return record | {name: value for name, value in more.items() if value is not None}

    def mask(self) -> np.ndarray:
        """The mask, bool (h, w)."""
        return decode(self.rle)


_AS_IN_COCO = (
    *("area", "score", "probability", "entropy", "predicted_iou"),
    *("prompt", "reviewed", "threshold"),
)


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image with the masks that were found in it; masks are decoded once, whoever asks first.

    Attributes:
        path: the image as it is listed, relative to `root`.
        sha256: digest of its content.
        size_hw: rows and columns.
        label_map: the classes.
        instances: best first; number k is object k + 1 of the files that number objects.
        missed: the dropped masks nearest to being kept.
        rejected: masks that a person rejected; None where nobody has decided anything.
        pixels: number of pixels of each id of the label map.
        png: its label PNG, below `folder`.
        png_sha256: digest of that PNG as it was written.
        tiles: content keys of the tiles of a large image; None of one that was read whole.
        root: folder or URL of the images.
        folder: the folder of the step annotate.
        painted: the label map of an image that lies in no folder, uint8 or uint16 (h, w).
        picture: given a label map, the image's pixels, uint8 (h, w, 3), and that label map, both
            reduced where the image is large; None where they are not known.
    """

    path: str
    sha256: str
    size_hw: tuple[int, int]
    label_map: LabelMap
    instances: tuple[Instance, ...] = ()
    missed: tuple[Instance, ...] = ()
    rejected: tuple[Instance, ...] | None = None
    pixels: Mapping[int, int] = field(default_factory=dict)
    png: str = ""
    png_sha256: str = ""
    tiles: tuple[str, ...] | None = None
    root: str = ""
    folder: Path | None = None
    painted: np.ndarray | None = field(default=None, repr=False)
    picture: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = field(
        default=None, repr=False
    )

    @property
    def name(self) -> str:
        """Name of the files made of the image: relative, without ending."""
        return self.png.split("/", 1)[1].removesuffix(".png")

    @property
    def class_names(self) -> list[str]:
        """The class name of each instance."""
        return [self.label_map.names[instance.class_index] for instance in self.instances]

    @property
    def ref(self) -> ImageRef:
        """Its address."""
        return ImageRef.parse(self.path)

    @property
    def file(self) -> str:
        """Its file, an absolute path or a URL."""
        return join(self.root, self.ref.file)

    @property
    def png_file(self) -> Path:
        """Its label PNG."""
        return Path(self.folder or "", self.png)

    @cached_property
    def labels(self) -> np.ndarray:
        """The label map, uint8 or uint16 (h, w): 0 background, ids of classes, 65535 void.

        Raises:
            StoreError: its PNG is missing, damaged or of another size.
        """
        if self.painted is not None:
            return self.painted
        labels = read_label_png(self.png_file)
        if labels.shape != self.size_hw:
            raise StoreError(
                f"{self.png_file}: got {labels.shape} rows and columns; expected {self.size_hw[0]} "
                f"and {self.size_hw[1]} as in its image; run `usam annotate` again"
            )
        return labels

    def is_edited(self) -> bool:
        """Whether a person has changed the label PNG."""
        return edited_png(self.png_file, self.size_hw, self.png_sha256)

    @cached_property
    def crops(self) -> list[Crop]:
        """The part of each mask that is not empty."""
        return [crop(instance.rle) for instance in self.instances]

    @cached_property
    def _polygons(self) -> dict[float, list[list[np.ndarray]]]:
        return {}

    def polygons(self, tolerance: float = 0.0) -> list[list[np.ndarray]]:
        """The polygons of each mask, one for each of its parts; see `part_polygons`."""
        if tolerance not in self._polygons:
            self._polygons[tolerance] = [part_polygons(crop, tolerance) for crop in self.crops]
        return self._polygons[tolerance]

    @cached_property
    def objects(self) -> np.ndarray:
        """The number of the object at each pixel, uint16 (h, w); uint32 beyond 65,535.

        Where masks overlap, the pixel is the one's with the best score.
        """
        h, w = self.size_hw
        count = len(self.instances)
        flat = np.zeros(h * w, np.uint16 if count < 1 << 16 else np.uint32)
        for number, instance in reversed(list(enumerate(self.instances, start=1))):
            flat[pixels(instance.rle)] = number
        return flat.reshape(w, h).T

    def object_ids(self) -> np.ndarray:
        """The label map's id of each object, int64 (p + 1,), 0 for none."""
        return np.array([0, *(LabelMap.id_of(i.class_index) for i in self.instances)], np.int64)

    def to_coco(self) -> dict[str, Any]:
        """The COCO record of the `image` and its `annotations`, both without ids."""
        h, w = self.size_hw
        return {
            "image": {"file_name": self.path, "height": h, "width": w, "sha256": self.sha256},
            "annotations": [instance.to_coco() for instance in self.instances],
        }

    def to_supervision(self) -> "supervision.Detections":
        """The instances as `supervision.Detections`: boxes, masks, scores, class indexes from 0.

        Raises:
            InputError: the package is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise InputError(
                f"to_supervision needs the package supervision ({error}); "
                "run `pip install supervision`"
            ) from error
        if not self.instances:
            return Detections.empty()
        x, y, w, h = np.array([instance.bbox for instance in self.instances], np.float32).T
        return Detections(
            xyxy=np.stack([x, y, x + w, y + h], axis=1),
            mask=np.stack([instance.mask() for instance in self.instances]),
            confidence=np.array([instance.score for instance in self.instances], np.float32),
            class_id=np.array([instance.class_index for instance in self.instances]),
            data={"class_name": np.array(self.class_names)},
        )

    def plot(self, ax: Any = None) -> Image.Image:
        """The image with its labels in color and a legend below, which notebooks show.

        Args:
            ax: matplotlib's axes, to draw the same on.

        Raises:
            InputError: the pixels are not known: the image was labelled from its masks alone.
        """
        if self.picture is None:
            raise InputError(
                f"{self.path or 'the image'}: its pixels are not known; expected labels that come "
                "from an image or from a project, not from a mask set alone"
            )
        rgb, labels = self.picture(self.labels)
        names, colors = self.label_map.names, self.label_map.colors
        drawn = with_legend(overlay(rgb, labels, colors), labels, names, colors)
        if ax is not None:
            ax.imshow(drawn)
            ax.set_axis_off()
        return drawn


def list_instances(
    instances: Instances, points: np.ndarray | None = None, thresholds: np.ndarray | None = None
) -> tuple[Instance, ...]:
    """Masks as instances, in their order.

    Args:
        instances: the masks.
        points: float (p, 2), column and row of each one's point, pixels.
        thresholds: float (p,), of masks that were missed.
    """
    listed = []
    for row, mask in enumerate(instances.masks):
        shape, index = mask_record(mask, 0), int(instances.classes[row])
        runner_up = int(instances.runner_up[row])
        listed.append(
            Instance(
                class_index=index,
                rle=shape["segmentation"],
                area=shape["area"],
                bbox=tuple(shape["bbox"]),
                score=round(float(instances.scores[row]), 6),
                probability=round(float(instances.probability[row]), 6),
                runner_up=None if runner_up < 0 else runner_up,
                entropy=round(float(instances.entropy[row]), 6),
                predicted_iou=round(float(instances.predicted_iou[row]), 6),
                prompt=int(instances.prompts[row]),
                point=None if points is None else tuple(round(x, 2) for x in points[row].tolist()),
                threshold=None if thresholds is None else round(float(thresholds[row]), 6),
            )
        )
    return tuple(listed)


def count_labels(labels: np.ndarray) -> dict[int, int]:
    """Number of pixels of each label of a label map."""
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
