"""OME-Zarr labels: object numbers in levels, with each object's class, score and color.

An image that is OME-Zarr itself can take them into its `labels` group, in its own version (0.4 or
0.5); every other image gets a `.zarr` of its own, version 0.4. They are written with zarr alone:
the metadata is a page of JSON, and the packages that write it for one hold whole images.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from usam_core.errors import StoreError
from usam_core.files.atomic import sweep, write_json
from usam_core.files.paths import inside
from usam_core.labels.image import LabelledImage
from usam_core.outputs.base import Labels, Writer, read_objects
from usam_core.outputs.rasters import pixel_size

NAME = "usam"
"""Of the labels in an image's `labels` group; those of another level have it behind."""

_SMALLEST = 512
"""Levels are added until the longer side is no longer than this."""
_CHUNK = 1024
_VERSIONS = {2: "0.4", 3: "0.5"}
_AXES = "tczyx"
"""Of versions 0.1 and 0.2, which name none."""
_TYPES = {"c": "channel", "t": "time"}


@dataclass(frozen=True)
class _Grid:
    """Where pixels lie: axes, step and start along each, and the multiscale's own transforms."""

    axes: list[dict[str, Any]]
    scale: list[float]
    translation: list[float]
    own: list[dict[str, Any]]


class OmeZarrWriter(Writer):
    """One group of label levels an image."""

    name = "ome_zarr"

    def target(self, image: LabelledImage) -> Path:
        if self.to.in_place:
            group = _image_group(image)
            try:
                if group is not None and _can_hold(group, image.size_hw):
                    with suppress(StoreError):  # a link out of the images' folder: no place of ours
                        return inside(image.root, f"{image.ref.file}/labels/{self._label}")
            except ValueError:
                self.note(
                    "ome_zarr: images whose axes or transformations cannot be read have their "
                    f"labels in {self.name}/"
                )
            else:
                self.note(
                    "ome_zarr: images that are no local OME-Zarr with a single plane have their "
                    f"labels in {self.name}/"
                )
        return self.to.folder / f"{image.name}.zarr"

    def write(self, image: LabelledImage, path: Path) -> None:
        """Write levels by taking every second row and column; no number is ever mixed."""
        source = self._source(image)
        version = 2 if source is None else source.metadata.zarr_format
        grid = self._grid(image, source)
        axes = grid.axes
        level = image.objects.reshape([1] * (len(axes) - 2) + list(image.size_hw))
        group = zarr.open_group(path, mode="w", zarr_format=version)
        datasets: list[dict[str, Any]] = []
        while True:
            name = str(len(datasets))
            factor = [1.0] * (len(axes) - 2) + [2.0 ** len(datasets)] * 2
            steps = [one * times for one, times in zip(grid.scale, factor, strict=True)]
            transforms: list[dict[str, Any]] = [{"type": "scale", "scale": steps}]
            if any(grid.translation):
                transforms.append({"type": "translation", "translation": grid.translation})
            datasets.append({"path": name, "coordinateTransformations": transforms})
            array = group.create_array(
                name,
                shape=level.shape,
                dtype=level.dtype,
                chunks=tuple(min(side, _CHUNK) for side in level.shape),
                chunk_key_encoding={"name": "v2" if version == 2 else "default", "separator": "/"},
                dimension_names=None if version == 2 else [axis["name"] for axis in axes],
            )
            array[...] = level
            if max(level.shape) <= _SMALLEST:
                break
            level = level[..., ::2, ::2]
        multiscale: dict[str, Any] = {"name": self._label, "axes": axes, "datasets": datasets}
        if grid.own:
            multiscale["coordinateTransformations"] = grid.own
        label = self._image_label(image, source is not None)
        metadata: dict[str, Any] = {"multiscales": [multiscale], "image-label": label}
        if version == 2:
            multiscale["version"] = label["version"] = _VERSIONS[2]
            group.attrs.update(metadata)
        else:
            group.attrs["ome"] = {"version": _VERSIONS[3], **metadata}

    def read(self, image: LabelledImage, path: Path) -> Labels:
        numbers = np.asarray(zarr.open_group(path, mode="r")["0"])
        return read_objects(image, numbers.reshape(numbers.shape[-2:]))

    def placed(self, image: LabelledImage) -> None:
        """Name the labels in the image's `labels` group, beside those that are there."""
        source = self._source(image)
        if source is None:
            return
        folder = Path(image.file) / "labels"
        group = zarr.open_group(folder, mode="a", zarr_format=source.metadata.zarr_format)
        listed = _listed(group)
        if self._label not in listed:
            _list(folder, group, [*listed, self._label])

    def removed(self, path: Path) -> None:
        """Name labels no more that were in an image's `labels` group."""
        folder = path.parent
        if folder.name != "labels" or folder.is_relative_to(self.to.folder):
            return
        try:
            group = zarr.open_group(folder, mode="r+")
        except FileNotFoundError:
            return
        if path.name in (listed := _listed(group)):
            _list(folder, group, [name for name in listed if name != path.name])

    @property
    def _label(self) -> str:
        return NAME if self.to.level == "classes" else f"{NAME}_{self.to.level}"

    def _source(self, image: LabelledImage) -> zarr.Group | None:
        """The image itself, where it takes its labels in."""
        if self.to.in_place and self.target(image).parent.name == "labels":
            return _image_group(image)
        return None

    def _grid(self, image: LabelledImage, source: zarr.Group | None) -> _Grid:
        """Where the labels' pixels lie: as the image's, where it says so."""
        if source is not None:
            return _without_channel(_read_grid(source))
        size = self.to.pixel_size or pixel_size(image.file)
        unit = {"unit": "micrometer"} if size else {}
        axes = [{"name": name, "type": "space", **unit} for name in ("y", "x")]
        return _Grid(axes, [size or 1.0] * 2, [0.0] * 2, [])

    def _image_label(self, image: LabelledImage, inside: bool) -> dict[str, Any]:
        label_map = self.to.label_map
        label: dict[str, Any] = {}
        if image.instances:
            colors = label_map.colors[image.object_ids()[1:]].tolist()
            objects = list(enumerate(zip(image.instances, colors, strict=True), start=1))
            label["colors"] = [
                {"label-value": number, "rgba": [*color, 255]} for number, (_, color) in objects
            ]
            label["properties"] = [
                {
                    "label-value": number,
                    "class": label_map.names[instance.class_index],
                    "score": instance.score,
                }
                for number, (instance, _) in objects
            ]
        if inside:
            label["source"] = {"image": "../../"}
        return label


def _image_group(image: LabelledImage) -> zarr.Group | None:
    """The OME-Zarr that an image is, if it is one on this disk."""
    path = Path(image.file)
    if image.ref.plane or "://" in image.file or not path.is_dir():
        return None
    try:
        group = zarr.open_group(path, mode="r")
        _multiscale(group)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return group


def _ome(group: zarr.Group) -> dict[str, Any]:
    attributes: dict[str, Any] = group.attrs.asdict()
    return attributes.get("ome", attributes)


def _multiscale(group: zarr.Group) -> dict[str, Any]:
    return _ome(group)["multiscales"][0]


def _shape(group: zarr.Group) -> tuple[int, ...]:
    """Shape of an image's full level."""
    array: Any = group[_multiscale(group)["datasets"][0]["path"]]
    return array.shape


def _read_grid(group: zarr.Group) -> _Grid:
    """Where an image's pixels lie; what cannot be read is a ValueError."""
    try:
        multiscale = _multiscale(group)
        count = len(_shape(group))
        named = multiscale.get("axes") or _AXES[-count:]
        axes = [{"name": one} if isinstance(one, str) else dict(one) for one in named]
        # The name of an axis tells its type where nothing else does.
        axes = [{**a, "type": a.get("type") or _TYPES.get(a["name"], "space")} for a in axes]
        if len(axes) != count:
            raise ValueError(f"{len(axes)} axes for {count} dimensions")
        own = list(multiscale.get("coordinateTransformations") or [])
        transforms = multiscale["datasets"][0].get("coordinateTransformations") or []
        scale, translation = _fold(transforms, count)
        _fold(own, count)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"axes or transformations cannot be read: {error!r}") from error
    return _Grid(axes, scale, translation, own)


def _fold(transforms: list[dict[str, Any]], count: int) -> tuple[list[float], list[float]]:
    """Compose transformations: one scale, and the translation after it."""
    scale, translation = np.ones(count), np.zeros(count)
    for one in transforms:
        kind = one["type"]
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or len(one[kind]) != count:
            raise ValueError(f"no scale or translation of {count} numbers: {one}")
        values = np.array([float(value) for value in one[kind]])
        if kind == "scale":
            scale, translation = scale * values, translation * values
        else:
            translation = translation + values
    return scale.tolist(), translation.tolist()


def _without_channel(grid: _Grid) -> _Grid:
    """Leave the channel out of axes and of every vector."""
    kept = [i for i, axis in enumerate(grid.axes) if axis["type"] != "channel"]

    def pick(values: Sequence[Any]) -> list[Any]:
        return [values[i] for i in kept]

    own = [
        {key: pick(value) if key == one["type"] else value for key, value in one.items()}
        for one in grid.own
    ]
    return _Grid(pick(grid.axes), pick(grid.scale), pick(grid.translation), own)


def _listed(labels: zarr.Group) -> list[str]:
    """The names that an image's group of labels lists."""
    return list(_ome(labels).get("labels", []))


def _list(folder: Path, labels: zarr.Group, names: list[str]) -> None:
    """Have an image's group of labels list these."""
    attributes: dict[str, Any] = labels.attrs.asdict()
    sweep(folder, deep=False)  # it lies among the images, where no step looks for what was left
    if labels.metadata.zarr_format == 2:
        write_json(folder / ".zattrs", {**attributes, "labels": names})
    else:
        own = {"version": _VERSIONS[3], **attributes.get("ome", {}), "labels": names}
        labels.attrs.update({**attributes, "ome": own})


def _can_hold(group: zarr.Group, size_hw: tuple[int, int]) -> bool:
    """Whether an image has but one plane, of the labelled size, and can be written to."""
    axes = _read_grid(group).axes  # first: what cannot be read is a ValueError here
    sides = zip(axes, _shape(group), strict=True)
    kept = [side for axis, side in sides if axis["type"] != "channel"]
    return tuple(kept[-2:]) == size_hw and all(side == 1 for side in kept[:-2])
