"""OME-Zarr images (0.4 and 0.5), and plain arrays: with names of axes, or ([n,] h, w[, color])."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import zarr

from usam_core.errors import InputError
from usam_core.files.fsspec_io import file_system, is_url, join, try_again
from usam_core.images.errors import FREE_COUNT, MAX_COUNT, check_count, check_metadata, check_values
from usam_core.images.listing.content import folder_stamp
from usam_core.images.stores.base import (
    ALL,
    CHANNELS,
    COLORS,
    SAMPLES,
    ImageStore,
    Plane,
    PlaneInfo,
    layout,
    named,
)
from usam_core.images.stores.codecs import guard

Array: TypeAlias = zarr.Array[Any]
Node: TypeAlias = zarr.Group | Array

_OLD_AXES = "tczyx"
"""Of OME-Zarr 0.1 and 0.2, which have no others."""
_COLORS = {3: COLORS, 4: (*COLORS, "alpha")}
_EXPECTED = "expected an OME-Zarr image, or an array"
_LABELS = "labels"
_SERIES_LAYOUT = "bioformats2raw.layout"
_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
_MAX_DEPTH = 8
"""Groups in groups that are looked into: a plate's fields are in the third."""


class ZarrStore(ImageStore):
    """The planes of one OME-Zarr image, at its full size, or of one plain array.

    Args:
        path: folder or URL of the group or of the array.

    Raises:
        InputError: it holds no image, or one that is not read here; the message says which.
        Exception: whatever the library raises on damaged metadata.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        node = open_node(path)
        names: Sequence[str] = ()
        if isinstance(node, zarr.Array):
            array, axes = node, _plain_axes(path, node)
        else:
            image = _multiscales(node)
            if image is None:
                raise InputError(f"{path}: a Zarr group without `multiscales`; {_EXPECTED}")
            array = _full_size(path, node, image)
            axes = _axes(image, array.ndim)
            channels = _attributes(node).get("omero", {}).get("channels", [])
            names = [str(channel.get("label") or "") for channel in channels]
        guard(path, array)
        if array.shards is not None and is_url(path):
            _check_parts(join(path, f"{array.path}/zarr.json".lstrip("/")))
        if len(axes) != array.ndim:
            raise InputError(
                f"{path}: axes {list(axes)}; expected {array.ndim}, one for each of the "
                f"array's lengths {array.shape}"
            )
        self._array, self._layout = array, layout(axes, array.shape)
        self._check_claims()
        lay = self._layout
        is_color = lay.channels == 1 and lay.samples in _COLORS
        channels = _COLORS[lay.samples] if is_color else named(names, lay.channels * lay.samples)
        dtype = np.dtype(array.dtype).name
        self._info = PlaneInfo(lay.size_hw, channels, dtype, is_color=is_color)

    def _check_claims(self) -> None:
        path, array, lay = self._path, self._array, self._layout

        def size() -> int | None:
            return None if is_url(path) else folder_stamp(path).bytes

        plane = math.prod((*lay.size_hw, lay.channels, lay.samples, array.dtype.itemsize))
        # The chunks that rows, columns and channels of one plane touch.
        parts = math.prod(
            -(-length // chunk)
            for length, chunk, axis in zip(array.shape, array.chunks, lay.axes, strict=True)
            if axis in ("y", "x", CHANNELS, SAMPLES)
        )
        in_shard = math.prod(array.shards or (1,)) // math.prod(array.chunks)
        check_count(path, "planes", math.prod(lay.lengths), size)
        check_count(path, "channels", lay.channels * lay.samples, size)
        check_values(path, plane, size)
        check_count(path, "chunks in a plane", parts, size)
        check_count(path, "chunks in a shard", in_shard, size)

    def planes(self) -> list[Plane]:
        return [
            tuple(zip(self._layout.names, map(int, index), strict=True))
            for index in np.ndindex(*self._layout.lengths)
        ]

    def info(self, plane: Plane) -> PlaneInfo:
        if tuple(axis for axis, _ in plane) != self._layout.names or not all(
            0 <= index < length
            for (_, index), length in zip(plane, self._layout.lengths, strict=True)
        ):
            raise KeyError(plane)
        return self._info

    def read(
        self,
        plane: Plane,
        rows: slice = ALL,
        columns: slice = ALL,
        channels: Sequence[int] | None = None,
    ) -> np.ndarray:
        self.info(plane)

        def take() -> np.ndarray:
            return self._layout.take(self._array, dict(plane), rows, columns, channels)

        values = try_again(self._path, take) if is_url(self._path) else take()
        return np.ascontiguousarray(values, values.dtype.newbyteorder("="))


def images_in(path: str) -> list[str]:
    """Return where the images of a Zarr folder lie below it: "" for itself, else such as "A/1/0".

    Of a plate every field of every well, of a converted file every series, of a plain group every
    image and array in it; label images are none.
    """
    images = list(islice(_below(open_node(path), _MAX_DEPTH), MAX_COUNT + 1))
    check_count(path, "images", len(images), None)
    return images


def open_node(path: str) -> Node:
    """Open a group or an array, its description no larger than plausible."""
    _check_metadata(path)
    return zarr.open(path, mode="r")


def _check_metadata(folder: str) -> None:
    for name in () if is_url(folder) else _METADATA:
        file = os.path.join(folder, name)
        if os.path.isfile(file):
            check_metadata(file, os.path.getsize(file))


def array_names(group: zarr.Group) -> list[str]:
    """Return the arrays of an image by their paths in its group, one for each of its sizes."""
    image = _multiscales(group)
    if image is None:
        raise InputError(f"{group.store_path}: a Zarr group without `multiscales`; {_EXPECTED}")
    return [level["path"] for level in image["datasets"]]


def _below(node: Any, depth: int) -> Iterator[str]:
    """Yield where the images of an array or a group lie below it."""
    if isinstance(node, zarr.Array):
        yield ""
        return
    if not depth:
        raise InputError(f"{node.store_path}: more than {_MAX_DEPTH} groups inside each other")
    attributes = _attributes(node)
    if _multiscales(node) is not None:
        yield ""
        return
    if "well" in attributes and "plate" not in attributes:
        yield from _listed(node, "fields", attributes["well"]["images"])
        return
    if "plate" in attributes:
        names = _listed(node, "wells", attributes["plate"]["wells"])
    else:
        hidden = {_LABELS, "OME"} if _SERIES_LAYOUT in attributes else {_LABELS}
        by_number = sorted(node.keys(), key=lambda n: (int(n), "") if n.isdecimal() else (2**63, n))
        names = [name for name in by_number if name not in hidden]
    for name in names:
        for path in _below(node[name], depth - 1):
            yield f"{name}/{path}" if path else name


def _listed(group: zarr.Group, what: str, entries: Sequence[dict[str, Any]]) -> list[str]:
    """Return the paths of wells or fields, each of which is opened: no more than plausible."""
    paths = list(dict.fromkeys(entry["path"] for entry in entries))
    if len(paths) > FREE_COUNT:
        raise InputError(f"{group.store_path}: {len(paths)} {what}; expected at most {FREE_COUNT}")
    return paths


def _attributes(group: zarr.Group) -> dict[str, Any]:
    """Return OME-Zarr's attributes: 0.5 has them under `ome`, 0.4 at the top."""
    attributes: dict[str, Any] = dict(group.attrs)
    return {**attributes, **attributes.get("ome", {})}


def _multiscales(group: zarr.Group) -> dict[str, Any] | None:
    images = _attributes(group).get("multiscales")
    return images[0] if images else None


def _full_size(path: str, group: zarr.Group, image: dict[str, Any]) -> Array:
    name = image["datasets"][0]["path"]
    _check_metadata(join(path, name))
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise InputError(f"{path}: multiscales speak of the array {name!r}; expected it there")
    return array


def _axes(image: dict[str, Any], count: int) -> Sequence[str]:
    axes = []
    for axis in image.get("axes") or _OLD_AXES[-count:]:
        name, kind = (axis, "") if isinstance(axis, str) else (axis["name"], axis.get("type"))
        axes.append(CHANNELS if kind == "channel" else _plain_name(name))
    return axes


def is_named(array: Array) -> bool:
    """Return whether an array itself says which of its axes are rows and columns."""
    return {"y", "x"} <= {str(name).lower() for name in _dimension_names(array)}


def _dimension_names(array: Array) -> Sequence[str | None]:
    names: Any = getattr(array.metadata, "dimension_names", None)
    if not names:
        names = array.attrs.get("_ARRAY_DIMENSIONS")
    return names or ()


def _plain_axes(path: str, array: Array) -> Sequence[str]:
    if is_named(array):
        return [_plain_name(str(name)) for name in _dimension_names(array)]
    count = array.ndim
    if count == 2:
        return "yx"
    if count in (3, 4) and array.shape[-1] in _COLORS:
        return "iyxs"[-count:]
    raise InputError(
        f"{path}: an array of lengths {array.shape} that does not name its axes; expected (h, w), "
        "(h, w, 3 or 4), (n, h, w, 3 or 4), or names with y and x: give it dimension_names such as "
        "['z', 'y', 'x'] (Zarr v3), the attribute _ARRAY_DIMENSIONS (xarray), or OME metadata"
    )


def _plain_name(name: str) -> str:
    name = name.lower()
    return name if re.fullmatch(r"[a-z][a-z0-9]*", name) else "i"


def _check_parts(file: str) -> None:
    """Refuse shards behind a server of whole files alone: zarr would take one for a part."""
    system, path = file_system(file)
    if len(try_again(file, lambda: system.cat_file(path, start=0, end=1))) > 1:
        raise InputError(
            f"{file}: the server sends all of a file where a part is asked for; expected one that "
            "serves parts (HTTP ranges), which a Zarr array in shards needs. Serve it otherwise or "
            "copy it to this disk"
        )
