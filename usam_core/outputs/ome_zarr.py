"""OME-Zarr labels: object numbers in levels, with each object's class, score and colour.

An image that is OME-Zarr itself can take them into its `labels` group, in its own version (0.4 or
0.5); every other image gets a `.zarr` of its own, version 0.4. They are written with zarr alone:
the metadata is a page of JSON, and the packages that write it for one hold whole images.
"""

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
from usam_core.outputs.pixel_size import pixel_size

NAME = "usam"
"""Of the labels in an image's `labels` group; those of another level have it behind."""

_SMALLEST = 512
"""Levels are added until the longer side is no longer than this."""
_CHUNK = 1024
_ATTRIBUTES = ".zattrs"
"""Of a group of version 2."""
_VERSIONS = {2: "0.4", 3: "0.5"}
_AXES = "tczyx"
"""Of versions 0.1 and 0.2, which name none."""
_TYPES = {"c": "channel", "t": "time"}


@dataclass(frozen=True)
class _Grid:
    """Where pixels lie: axes, step and start along each, and what the multiscale adds to it."""

    axes: list[dict[str, Any]]
    scale: list[float]
    translation: list[float]
    own: list[dict[str, Any]]


class OmeZarrWriter(Writer):
    """One group of label levels an image."""

    name = "ome_zarr"

    def target(self, image: LabelledImage) -> Path:
        """Return the group of an image's labels."""
        if self.to.in_place:
            found = _image_group(image)
            try:
                if found is not None and _can_hold(found, image.size_hw):
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
        inside = self._inside(image)
        source = _image_group(image) if inside else None
        version = source.metadata.zarr_format if source is not None else 2
        grid = self._grid(image, source)
        axes = grid.axes
        level = image.objects.reshape([1] * (len(axes) - 2) + list(image.size_hw))
        group = zarr.open_group(path, mode="w", zarr_format=version)
        datasets = []
        while True:
            name = str(len(datasets))
            factor = [1.0] * (len(axes) - 2) + [2.0 ** len(datasets)] * 2
            steps = [one * times for one, times in zip(grid.scale, factor, strict=True)]
            transforms = [{"type": "scale", "scale": steps}]
            if any(grid.translation):
                transforms.append({"type": "translation", "translation": grid.translation})
            datasets.append({"path": name, "coordinateTransformations": transforms})
            array = group.create_array(
                name,
                shape=level.shape,
                dtype=level.dtype,
                chunks=tuple(min(side, _CHUNK) for side in level.shape),
                chunk_key_encoding={"name": "v2" if version == 2 else "default", "separator": "/"},
                **({"dimension_names": [a["name"] for a in axes]} if version == 3 else {}),
            )
            array[...] = level
            if max(level.shape) <= _SMALLEST:
                break
            level = level[..., ::2, ::2]
        own = {"coordinateTransformations": grid.own} if grid.own else {}
        said = {
            "multiscales": [{"name": self._label, "axes": axes, "datasets": datasets, **own}],
            "image-label": self._image_label(image, inside),
        }
        if version == 2:
            said["multiscales"][0]["version"] = said["image-label"]["version"] = _VERSIONS[2]
            group.attrs.update(said)
        else:
            group.attrs["ome"] = {"version": _VERSIONS[3], **said}

    def read(self, image: LabelledImage, path: Path) -> Labels:
        """Read the full level back as classes."""
        numbers = np.asarray(zarr.open_group(path, mode="r")["0"])
        return read_objects(image, numbers.reshape(numbers.shape[-2:]))

    def placed(self, image: LabelledImage) -> None:
        """Name the labels in the image's `labels` group, beside those that are there."""
        if not self._inside(image):
            return
        folder = Path(image.file) / "labels"
        version = _image_group(image).metadata.zarr_format
        group = zarr.open_group(folder, mode="a", zarr_format=version)
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

    def _inside(self, image: LabelledImage) -> bool:
        return self.target(image).parent.name == "labels" and self.to.in_place

    def _grid(self, image: LabelledImage, source: zarr.Group | None) -> _Grid:
        """Return where the labels' pixels lie: as the image's, where it says so."""
        if source is not None:
            return _without_channel(_read_grid(source))
        size = self.to.pixel_size or pixel_size(image.file)
        unit = {"unit": "micrometer"} if size else {}
        axes = [{"name": name, "type": "space", **unit} for name in ("y", "x")]
        return _Grid(axes, [size or 1.0] * 2, [0.0] * 2, [])

    def _image_label(self, image: LabelledImage, inside: bool) -> dict[str, Any]:
        label_map, found = self.to.label_map, {}
        if image.instances:
            colors = label_map.colors[image.object_ids()].tolist()
            found["colors"] = [
                {"label-value": number, "rgba": [*color, 255]}
                for number, color in enumerate(colors)
                if number
            ]
            found["properties"] = [
                {
                    "label-value": number,
                    "class": label_map.names[instance.class_index],
                    "score": instance.score,
                }
                for number, instance in enumerate(image.instances, start=1)
            ]
        if inside:
            found["source"] = {"image": "../../"}
        return found


def _image_group(image: LabelledImage) -> zarr.Group | None:
    """Return the OME-Zarr that an image is, if it is one on this disk."""
    path = Path(image.file)
    if image.ref.plane or "://" in image.file or not path.is_dir():
        return None
    try:
        group = zarr.open_group(path, mode="r")
        _multiscale(group)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return group


def _multiscale(group: zarr.Group) -> dict[str, Any]:
    attributes = group.attrs.asdict()
    return attributes.get("ome", attributes)["multiscales"][0]


def _read_grid(group: zarr.Group) -> _Grid:
    """Return where an image's pixels lie; what cannot be read is a ValueError."""
    try:
        said = _multiscale(group)
        first = said["datasets"][0]
        count = group[first["path"]].ndim
        axes = [_axis(one) for one in said.get("axes") or _AXES[-count:]]
        if len(axes) != count:
            raise ValueError(f"{len(axes)} axes for {count} dimensions")
        scale, translation = _fold(first.get("coordinateTransformations") or [], count)
        own = list(said.get("coordinateTransformations") or [])
        _fold(own, count)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"axes or transformations cannot be read: {error!r}") from error
    return _Grid(axes, scale, translation, own)


def _axis(said: str | dict[str, Any]) -> dict[str, Any]:
    """Return an axis with a type, which its name tells where nothing else does."""
    axis = {"name": said} if isinstance(said, str) else dict(said)
    kind = axis.get("type") or _TYPES.get(axis["name"], "space")
    return {**axis, "type": kind}


def _fold(transforms: list[dict[str, Any]], count: int) -> tuple[list[float], list[float]]:
    """Return the one scale and the translation after it that transformations come to, in order."""
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

    def pick(values: list[Any]) -> list[Any]:
        return [values[i] for i in kept]

    own = [
        {key: pick(value) if key == one["type"] else value for key, value in one.items()}
        for one in grid.own
    ]
    return _Grid(pick(grid.axes), pick(grid.scale), pick(grid.translation), own)


def _listed(labels: zarr.Group) -> list[str]:
    """Return the names that an image's group of labels lists."""
    attributes = labels.attrs.asdict()
    return list(attributes.get("ome", attributes).get("labels", []))


def _list(folder: Path, labels: zarr.Group, names: list[str]) -> None:
    """Have an image's group of labels list these."""
    attributes = labels.attrs.asdict()
    sweep(folder, deep=False)  # it lies among the images, where no step looks for what was left
    if labels.metadata.zarr_format == 2:
        write_json(folder / _ATTRIBUTES, {**attributes, "labels": names})
    else:
        said = {"version": _VERSIONS[3], **attributes.get("ome", {}), "labels": names}
        labels.attrs.update({**attributes, "ome": said})


def _can_hold(group: zarr.Group, size_hw: tuple[int, int]) -> bool:
    """Return whether an image has but one plane, of the labelled size, and can be written to."""
    axes = _read_grid(group).axes  # first: what cannot be read is a ValueError here
    shape = group[_multiscale(group)["datasets"][0]["path"]].shape
    sides = zip(axes, shape, strict=True)
    kept = [side for axis, side in sides if axis["type"] != "channel"]
    return tuple(kept[-2:]) == size_hw and all(side == 1 for side in kept[:-2])
