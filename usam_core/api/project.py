"""A project from Python: what its steps have made, and its head on any image."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np

from usam_core.api.embed import embed_now, with_picture
from usam_core.api.head import Head
from usam_core.config.project import Project as Settings
from usam_core.config.project import open_project
from usam_core.config.schema import ProjectConfig
from usam_core.config.training import label_dtype
from usam_core.errors import InputError, MissingStepError, StoreError
from usam_core.files.fsspec_io import is_url
from usam_core.head.checkpoint import load_head
from usam_core.images.given import GivenImage, ImageLike, take
from usam_core.images.read import read_image
from usam_core.images.ref import Box, ImageRef, Tile, tile_digest, tiles_of
from usam_core.inference.scoring import Labelled
from usam_core.labels.image import LabelledImage, count_labels
from usam_core.outputs.label_files import LabelCanvas
from usam_core.outputs.lists import SCHEMA, instance_rows, record_batches
from usam_core.review.rulings import Rulings
from usam_core.steps import annotate, embed
from usam_core.steps.blocks import block_encoder, head_blocks
from usam_core.steps.images_to_label import TiledImage
from usam_core.steps.label_images import head_path, label_tiles, read_calibration
from usam_core.steps.read_settings import how_to_read
from usam_core.steps.record import decided
from usam_core.store.store import EmbeddingStore
from usam_core.types import MaskSet

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


def open(path: str | os.PathLike[str], level: str | None = None) -> "Project":
    """Open a project by its file.

    Args:
        path: the YAML file.
        level: in place of the file's: `classes`, `parents`, or the name of one parent.

    Raises:
        ConfigError: all mistakes of the file, one a line.
    """
    return Project(open_project(os.fspath(path), level))


class Project:
    """A project: its head labels any image, and what `usam annotate` wrote can be read.

    Head, calibration and settings are read once: open it again after a new fit.

    Args:
        settings: the checked project file.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __repr__(self) -> str:
        return f"Project({str(self._settings.file)!r})"

    @property
    def config(self) -> ProjectConfig:
        """What the project file says, with all defaults."""
        return self._settings.config

    @cached_property
    def head(self) -> Head:
        """The head that labels, with the project's settings of inference and its calibration.

        Raises:
            MissingStepError: `usam fit` or `usam calibrate` has not run.
        """
        settings = self._settings
        module, card = load_head(head_path(settings))
        colors = {spec.name: spec.color for spec in self.config.classes}
        return Head(
            module,
            {**card, "colours": colors},
            inference=self.config.inference,
            calibration=read_calibration(settings),
            embed=self._embed,
        )

    def predict(self, image: ImageLike) -> LabelledImage:
        """Label an image as `usam annotate` does, with the same reading, tiles and head.

        Masks come from the store where it has the image, else SAM runs now. What a person has
        decided of an image's masks in `usam review` counts; what was painted by hand does not.

        Args:
            image: a path, or the name of an image of the project; a Pillow image; an array.

        Raises:
            InputError: the image cannot be used.
            MissingStepError: `usam fit` or `usam calibrate` has not run.
        """
        head = self.head  # says that `usam fit` has to run, whatever else has not
        given = self._take(image)
        known: dict[str, Any] = {"path": given.path, "sha256": given.sha256}
        place = self._settings.image_address("")
        if given.path.startswith(place):
            known |= {"path": given.path.removeprefix(place), "root": self._settings.images.root}
        if given.large is not None:
            return self._predict_tiled(given, given.large, known)
        labelled = head.label(self._masks(given), lambda: given.read(None))
        labelled = self._ruled(labelled, given.sha256)
        return with_picture(labelled, given.read, **known)

    def embeddings(self, image: ImageLike) -> MaskSet:
        """SAM's masks of an image with the project's features: the store's, else made now.

        Raises:
            InputError: the image cannot be used, or is embedded in tiles.
        """
        given = self._take(image)
        if given.large is not None:
            rows, columns = given.large
            tile = self._tiles(given.large)[0].box
            raise InputError(
                f"{given.path or 'the array'}: {columns} x {rows} pixels are embedded in tiles; "
                f"expected one of them, such as {given.path or 'image'}#{tile}"
            )
        return self._masks(given)

    def labels(self) -> Iterator[LabelledImage]:
        """Yield what `usam annotate` wrote, by path, a few images in memory at a time.

        `labels` reads the label PNG, with what a person has painted in it.

        Raises:
            MissingStepError: it has not run.
            StoreError: what it wrote is damaged.
        """
        for image in annotate.labels(self._settings).sorted_images():
            tiles = self._tiles(image.size_hw) if image.tiles else None
            yield with_picture(image, self._reader(image.path), tiles)

    def table(self) -> "pd.DataFrame":
        """The instances that `usam annotate` found, one row each.

        Columns are those of the output format `parquet` (docs/outputs.md), `image`, `class`,
        `score`, `area` and the box among them.

        Raises:
            MissingStepError: it has not run.
        """
        import pyarrow as pa

        images = annotate.labels(self._settings).sorted_images(["instances"])
        rows = (row for image in images for row in instance_rows(image))
        table = pa.Table.from_batches(record_batches(rows), SCHEMA)
        return table.drop_columns(["run"]).to_pandas()

    @cached_property
    def _store(self) -> EmbeddingStore | None:
        try:
            store = embed.open_store(self._settings)
        except MissingStepError:  # a head without its store, on another machine
            return None
        store.use_blocks(head_blocks(self._settings))
        return store

    @cached_property
    def _how(self) -> dict[str, Any]:
        return how_to_read(self._settings)

    @cached_property
    def _decisions(self) -> dict[str, Any]:
        return decided(self._settings.out)

    def _reader(self, path: str) -> Callable[[Box | None], np.ndarray]:
        """What reads an image of the project, when it is asked."""
        ref = ImageRef.parse(self._settings.image_address(path))
        return lambda box: read_image(ImageRef(ref.file, ref.plane, box), **self._how).rgb

    def _take(self, image: ImageLike) -> GivenImage:
        if isinstance(image, str | os.PathLike):
            ref = ImageRef.parse(os.fspath(image))
            if not is_url(ref.file) and not os.path.exists(ref.file):
                image = self._settings.image_address(str(ref))
            elif not is_url(ref.file):
                image = os.path.abspath(str(ref))
        return take(image, self._how, self.config.images.tile)

    def _tiles(self, size_hw: tuple[int, int]) -> list[Tile]:
        images = self.config.images
        return tiles_of(size_hw, images.tile or 0, images.overlap)

    def _masks(self, given: GivenImage, tile: Tile | None = None) -> MaskSet:
        """The masks of an image or of one of its tiles."""
        key = given.sha256
        if key and tile is not None:
            key = tile_digest(key, tile.box)
        stored = self._stored(key) if key else None
        if stored is not None:
            return stored
        return self._embed(given.read(None if tile is None else tile.box))

    def _stored(self, key: str) -> MaskSet | None:
        if self._store is None or self._store.plan([key]):
            return None
        try:
            return self._store.read(key)
        except StoreError as error:  # quarantined, damaged, or not described yet
            _log.warning("%s; the image is embedded now", error)
            return None

    def _embed(self, rgb: np.ndarray) -> MaskSet:
        settings = self._settings
        masks = embed_now(rgb, self.config.sam, settings.checkpoint, self.config.outputs.precision)
        for name in head_blocks(settings):
            (vectors,) = block_encoder(settings, name).describe([rgb], [masks])
            masks.features[name] = vectors
        return masks

    def _predict_tiled(
        self, given: GivenImage, size_hw: tuple[int, int], known: dict[str, Any]
    ) -> LabelledImage:
        head = self.head
        tiles = self._tiles(size_hw)
        keys = [tile_digest(given.sha256, tile.box) for tile in tiles] if given.sha256 else []
        image = TiledImage(known["path"], given.sha256, size_hw, tiles, keys)
        masks = (self._masks(given, tile) for tile in tiles)
        with TemporaryFile() as file:
            canvas = LabelCanvas(file, size_hw, label_dtype(len(head.names)))

            def label(masks: MaskSet, tile: Tile) -> Labelled:
                return head.score(masks, lambda: given.read(tile.box))

            labelled = label_tiles(
                image, masks, label, head.label_map, self.config.inference, canvas
            )
            painted = canvas.labels()
        labelled = self._ruled(replace(labelled, painted=painted), given.sha256)
        return with_picture(labelled, given.read, tiles, **known)

    def _ruled(self, labelled: LabelledImage, sha256: str) -> LabelledImage:
        """A labelled image, with its label map, as it is by what a person has decided."""
        decisions = self._decisions.get(sha256)
        if not decisions or labelled.painted is None:
            return labelled
        iou = self.config.inference.nms_iou
        ruled = Rulings(decisions, self.config.label_of, iou).apply(labelled, labelled.painted)
        return replace(ruled, pixels=count_labels(labelled.painted))
