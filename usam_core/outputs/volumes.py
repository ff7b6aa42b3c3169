"""Stacks and films: objects joined over z and time, as label TIFF and OME-Zarr of each stack."""

import csv
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
import zarr

from usam_core.files.atomic import whole_file, whole_folder
from usam_core.files.paths import remove
from usam_core.files.spreadsheet import as_text
from usam_core.images.ref import ImageRef
from usam_core.labels.image import LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.masks.rle import pixels
from usam_core.masks.seams import Record
from usam_core.masks.volumes import joined_planes, joined_times
from usam_core.outputs.base import Writer
from usam_core.outputs.rasters import pixel_size

_DEPTH, _TIME = ("z", "i"), "t"
"""Axes that objects are joined over; a TIFF that names none has `i`, which is taken for z."""
_CHUNK = 1024
_SMALLEST = 512
_LARGE = 1 << 32
_COLUMNS = ["stack", "object", "class", "score", "voxels", "planes"]
_COLUMNS += ["first_t", "last_t", "first_z", "last_z"]


@dataclass(slots=True)
class _Object:
    """What is known of one object of a stack."""

    category: int
    score: float = 0.0
    voxels: int = 0
    places: list[tuple[int, int]] = field(default_factory=list)


class _Stack(NamedTuple):
    """The object's number at each pixel of a stack.

    Attributes:
        planes: gives integers (h, w), all z of one time after the other.
        shape: times, depth, h, w.
        dtype: of the planes.
        size: a pixel's width in micrometers; None where it is not known.
    """

    planes: Callable[[], Iterator[np.ndarray]]
    shape: tuple[int, int, int, int]
    dtype: type
    size: float | None


class VolumesWriter(Writer):
    """`NAME.ome.tif` and `NAME.zarr` of each stack, and `objects.csv`; other images have none.

    Planes that were not labelled are empty. Where two objects claim a pixel, the better mask of
    that plane has it.
    """

    name = "volumes"

    def rows(self, image: LabelledImage) -> Iterator[dict[str, Any]]:
        places = dict(image.ref.plane)
        depth = next((axis for axis in _DEPTH if axis in places), "z")
        if depth not in places and _TIME not in places:
            return
        z, t = places.pop(depth, 0), places.pop(_TIME, 0)
        stack = ImageRef(image.ref.file, tuple(places.items()))
        yield {
            "stack": str(stack),
            "names": [stack.output_name(""), stack.output_name("", keep=True)],
            "file": image.file,
            "size": list(image.size_hw),
            "place": [t, z],
            "masks": [one.to_coco() for one in image.instances],
        }

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        """Join and write one stack after the other; rows come in any order."""
        files: list[Path] = []
        table = self.to.folder / "objects.csv"
        with (
            tempfile.TemporaryDirectory() as sorted_,
            whole_file(table) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as text,
        ):
            stacks: dict[str, Path] = {}
            taken: set[str] = set()
            for row in rows:
                place = stacks.setdefault(row["stack"], Path(sorted_, f"{len(stacks)}.jsonl"))
                with open(place, "a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
            out = csv.DictWriter(text, _COLUMNS, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
            out.writeheader()
            for stack, place in sorted(stacks.items()):
                with open(place, encoding="utf-8") as lines:
                    planes = [json.loads(line) for line in lines]
                # Two that differ in the ending alone keep it.
                short, long_ = (one.removesuffix(".ome") for one in planes[0]["names"])
                name = long_ if short in taken else short
                taken.add(name)
                for line in self._write(stack, name, planes, files):
                    out.writerow({name: as_text(value) for name, value in line.items()})
        if not stacks:
            self.note("volumes: no image is a plane of a stack, so there is nothing to join")
        return [*files, table]

    def removed(self, path: Path) -> None:
        """Remove the rest of a stack's Zarr, of which the index lists `.zattrs`."""
        if path.name == ".zattrs":
            remove(self.to.folder, path.parent)

    def _write(
        self, stack: str, name: str, rows: list[dict[str, Any]], files: list[Path]
    ) -> Iterator[dict[str, Any]]:
        if len({tuple(row["size"]) for row in rows}) > 1:
            self.note(f"volumes: {stack} is left out: its planes differ in size")
            return
        planes = {tuple(row["place"]): row["masks"] for row in rows}
        times, depth = (max(place[axis] for place in planes) + 1 for axis in (0, 1))
        h, w = rows[0]["size"]
        numbers, objects = join_stack(planes, times, depth)
        dtype = np.uint16 if len(objects) < 1 << 16 else np.uint32

        def painted() -> Iterator[np.ndarray]:
            for t in range(times):
                for z in range(depth):
                    flat = np.zeros(h * w, dtype)
                    masks = zip(planes.get((t, z), ()), numbers.get((t, z), ()), strict=True)
                    for mask, number in reversed(list(masks)):
                        flat[pixels(mask["segmentation"])] = number
                    yield np.ascontiguousarray(flat.reshape(w, h).T)

        size = self.to.pixel_size or pixel_size(rows[0]["file"])
        whole = _Stack(painted, (times, depth, h, w), dtype, size)
        tiff, group = (self.to.folder / f"{name}{ending}" for ending in (".ome.tif", ".zarr"))
        tiff.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(tiff) as temporary:
            _write_tiff(temporary, whole)
        with whole_folder(group) as temporary:
            _write_zarr(temporary, whole, self._properties(objects))
            remove(self.to.folder, group)  # a folder is not renamed over another one
        files += [tiff, group / ".zattrs"]
        for number, one in enumerate(objects, start=1):
            t, z = zip(*one.places, strict=True)
            yield {
                **{"stack": stack, "object": number, "class": self._class(one)},
                **{"score": one.score, "voxels": one.voxels, "planes": len(one.places)},
                **{"first_t": min(t), "last_t": max(t), "first_z": min(z), "last_z": max(z)},
            }

    def _class(self, one: _Object) -> str:
        return self.to.label_map.names[LabelMap.index_of(one.category)]

    def _properties(self, objects: list[_Object]) -> dict[str, Any]:
        colors = self.to.label_map.colors
        return {
            "version": "0.4",
            "colors": [
                {"label-value": number, "rgba": [*map(int, colors[one.category]), 255]}
                for number, one in enumerate(objects, start=1)
            ],
            "properties": [
                {"label-value": number, "class": self._class(one), "score": one.score}
                for number, one in enumerate(objects, start=1)
            ],
        }


def join_stack(
    planes: dict[tuple[int, ...], list[Record]], times: int, depth: int
) -> tuple[dict[tuple[int, int], list[int]], list[_Object]]:
    """Number the objects of a stack from 1.

    Args:
        planes: COCO annotations of each plane, by time and z.
        times, depth: how many there are.

    Returns:
        The number of each mask of each plane; the objects in the order of their numbers.
    """
    numbers: dict[tuple[int, int], list[int]] = {}
    objects: list[_Object] = []
    before: list[list[Record]] = []
    numbers_before: list[list[int]] = []
    for t in range(times):
        now = [planes.get((t, z), []) for z in range(depth)]
        local = joined_planes(now)
        known = joined_times(before, numbers_before, now, local) if before else {}
        for z, (masks, some) in enumerate(zip(now, local, strict=True)):
            for mask, number in zip(masks, some, strict=True):
                if number not in known:
                    objects.append(_Object(mask["category_id"]))
                    known[number] = len(objects)
                one = objects[known[number] - 1]
                one.score = max(one.score, mask["score"])
                one.voxels += mask["area"]
                one.places.append((t, z))
            numbers[t, z] = [known[number] for number in some]
        before, numbers_before = now, [numbers[t, z] for z in range(depth)]
    return numbers, objects


def _write_tiff(path: Path, stack: _Stack) -> None:
    """Write a stack plane by plane as OME-TIFF."""
    metadata: dict[str, Any] = {"axes": "TZYX"}
    if size := stack.size:
        unit = "\u00b5m"
        metadata |= {"PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
        metadata |= {"PhysicalSizeY": size, "PhysicalSizeYUnit": unit}
    shape, dtype = stack.shape, stack.dtype
    large = int(np.prod(shape)) * np.dtype(dtype).itemsize >= _LARGE
    with tifffile.TiffWriter(path, ome=True, bigtiff=large) as tiff:
        tiff.write(stack.planes(), shape=shape, dtype=dtype, compression="zlib", metadata=metadata)


def _write_zarr(path: Path, stack: _Stack, label: dict[str, Any]) -> None:
    """Write a stack plane by plane as OME-Zarr 0.4, in levels of every second row and column.

    `path` is an empty folder, `label` what is said of the objects.
    """
    group = zarr.open_group(path, mode="w-", zarr_format=2)
    arrays: list[zarr.Array[Any]] = []
    times, depth, h, w = stack.shape
    while True:
        arrays.append(
            group.create_array(
                str(len(arrays)),
                shape=(times, depth, h, w),
                dtype=stack.dtype,
                chunks=(1, 1, min(h, _CHUNK), min(w, _CHUNK)),
                chunk_key_encoding={"name": "v2", "separator": "/"},
            )
        )
        if max(h, w) <= _SMALLEST:
            break
        h, w = -(-h // 2), -(-w // 2)
    for number, plane in enumerate(stack.planes()):
        t, z = divmod(number, depth)
        for level, array in enumerate(arrays):
            array[t, z] = plane[:: 2**level, :: 2**level]
    unit = {"unit": "micrometer"} if stack.size else {}
    axes: list[dict[str, Any]] = [{"name": "t", "type": "time"}, {"name": "z", "type": "space"}]
    axes += [{"name": name, "type": "space", **unit} for name in ("y", "x")]
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0, 1.0, *[(stack.size or 1.0) * 2.0**level] * 2]}
            ],
        }
        for level in range(len(arrays))
    ]
    multiscale: dict[str, Any] = {
        "version": "0.4",
        "name": "usam",
        "axes": axes,
        "datasets": datasets,
    }
    group.attrs.update({"multiscales": [multiscale], "image-label": label})
