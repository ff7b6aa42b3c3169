"""OME-Zarr images (0.4 and 0.5), and plain arrays: with names of axes, or ([n,] h, w[, color])."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import zarr

from usam_core.errors import InputError
from usam_core.files.fsspec_io import file_system, is_url, join, try_again
from usam_core.images.listing.content import folder_stamp
from usam_core.images.stores.base import (
    ALL,
    CHANNELS,
    SAMPLES,
    ImageStore,
    Plane,
    PlaneInfo,
    layout,
    named,
)
from usam_core.images.stores.codecs import guard
from usam_core.images.stores.limits import (
    FREE,
    MAX,
    check_count,
    check_metadata,
    check_values,
)

_OLD_AXES = "tczyx"
"""Of OME-Zarr 0.1 and 0.2, which have no others."""
_COLORS = {3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}
_EXPECTED = "expected an OME-Zarr image, or an array"
_LABELS = "labels"
_SERIES_LAYOUT = "bioformats2raw.layout"
_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
_DEEPEST = 8
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
            self._array, axes = node, _plain_axes(path, node)
        else:
            image = _multiscales(node)
            if image is None:
                raise InputError(f"{path}: a Zarr group without `multiscales`; {_EXPECTED}")
            self._array = _full_size(path, node, image)
            axes = _axes(image, self._array.ndim)
            names = _channel_names(node)
        guard(path, self._array)
        if self._array.shards is not None and is_url(path):
            _check_parts(join(path, f"{self._array.path}/zarr.json".lstrip("/")))
        if len(axes) != self._array.ndim:
            raise InputError(
                f"{path}: axes {list(axes)}; expected {self._array.ndim}, one for each of the "
                f"array's lengths {self._array.shape}"
            )
        self._layout = layout(axes, self._array.shape)
        self._check_claims()
        is_color = self._layout.channels == 1 and self._layout.samples in _COLORS
        self._info = PlaneInfo(
            size_hw=self._layout.size_hw,
            channels=_COLORS[self._layout.samples]
            if is_color
            else named(names, self._layout.channels * self._layout.samples),
            dtype=np.dtype(self._array.dtype).name,
            is_color=is_color,
        )

    def _check_claims(self) -> None:
        path = self._path

        def size() -> int | None:
            return None if is_url(path) else folder_stamp(path).bytes

        array, layout = self._array, self._layout
        height, width = layout.size_hw
        plane = height * width * layout.channels * layout.samples * array.dtype.itemsize
        check_count(path, "planes", math.prod(layout.lengths), size)
        check_count(path, "channels", layout.channels * layout.samples, size)
        check_values(path, plane, size)
        check_count(path, "chunks in a plane", _parts(array.shape, array.chunks, layout.axes), size)
        check_count(
            path,
            "chunks in a shard",
            math.prod(array.shards or (1,)) // math.prod(array.chunks),
            size,
        )

    def planes(self) -> list[Plane]:
        """Return every plane, the last axis running fastest."""
        lengths = self._layout.lengths
        return [
            tuple(zip(self._layout.names, map(int, index), strict=True))
            for index in np.ndindex(*lengths)
        ]

    def info(self, plane: Plane) -> PlaneInfo:
        """Return what the metadata say of a plane."""
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
        """Return (c, h, w); of the array, only the chunks that the window touches are read."""
        self.info(plane)

        def take() -> np.ndarray:
            return self._layout.take(self._array, dict(plane), rows, columns, channels)

        values = try_again(self._path, take) if is_url(self._path) else take()
        return np.ascontiguousarray(values, values.dtype.newbyteorder("="))

    def close(self) -> None:
        """Do nothing: no file stays open."""


def images_in(path: str) -> list[str]:
    """Return where the images of a Zarr folder lie below it: "" for itself, else such as "A/1/0".

    Of a plate every field of every well, of a converted file every series, of a plain group every
    image and array in it; label images are none.

    Raises:
        Exception: whatever the library raises on damaged metadata.
    """
    node = open_node(path)
    if isinstance(node, zarr.Array):
        return [""]
    found = list(islice(_images_of(node, _DEEPEST), MAX + 1))
    check_count(path, "images", len(found), None)
    return found


def open_node(path: str) -> zarr.Group | zarr.Array:
    """Open a group or an array, its description no larger than can be.

    Raises:
        UnusableImage: it is larger.
        Exception: whatever the library raises on damaged metadata.
    """
    if not is_url(path):
        _check_metadata(path)
    return zarr.open(path, mode="r")


def _check_metadata(folder: str) -> None:
    for name in _METADATA:
        file = os.path.join(folder, name)
        if os.path.isfile(file):
            check_metadata(file, os.path.getsize(file))


def _parts(shape: Sequence[int], chunks: Sequence[int], axes: Sequence[str]) -> int:
    """Return how many chunks the rows, columns and channels of one plane touch."""
    return math.prod(
        -(-length // chunk)
        for length, chunk, axis in zip(shape, chunks, axes, strict=True)
        if axis in ("y", "x", CHANNELS, SAMPLES)
    )


def array_names(group: zarr.Group) -> list[str]:
    """Return where the arrays of an image lie in its group, one for each of its sizes.

    Raises:
        InputError: the group is no image.
    """
    image = _multiscales(group)
    if image is None:
        raise InputError(f"{group.store_path}: a Zarr group without `multiscales`; {_EXPECTED}")
    return [level["path"] for level in image["datasets"]]


def _images_of(group: zarr.Group, deepest: int) -> Iterator[str]:
    said = _said(group)
    if not deepest:
        raise InputError(f"{group.store_path}: more than {_DEEPEST} groups inside each other")
    if _multiscales(group) is not None:
        yield ""
    elif "plate" in said:
        wells = dict.fromkeys(well["path"] for well in said["plate"]["wells"])
        _check_listed(group, "wells", len(wells))
        for path in wells:
            yield from _below(path, group[path], deepest)
    elif "well" in said:
        fields = dict.fromkeys(field["path"] for field in said["well"]["images"])
        _check_listed(group, "fields", len(fields))
        yield from fields
    else:
        for name in sorted(group.keys(), key=_by_number):
            if name == _LABELS or (_SERIES_LAYOUT in said and name == "OME"):
                continue
            yield from _below(name, group[name], deepest)


def _check_listed(group: zarr.Group, what: str, count: int) -> None:
    """Refuse a list of wells or fields, each of which is opened, that no plate has."""
    if count > FREE:
        raise InputError(f"{group.store_path}: {count} {what}; expected at most {FREE}")


def _below(name: str, node: zarr.Group | zarr.Array, deepest: int) -> Iterator[str]:
    if isinstance(node, zarr.Array):
        yield name
        return
    for path in _images_of(node, deepest - 1):
        yield f"{name}/{path}" if path else name


def _by_number(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (2**63, name)


def _said(group: zarr.Group) -> dict[str, Any]:
    """Return the attributes that OME-Zarr speaks in: 0.5 under `ome`, 0.4 at the top."""
    attributes = dict(group.attrs)
    return {**attributes, **attributes.get("ome", {})}


def _multiscales(group: zarr.Group) -> dict[str, Any] | None:
    found = _said(group).get("multiscales")
    return found[0] if found else None


def _full_size(path: str, group: zarr.Group, image: dict[str, Any]) -> zarr.Array:
    name = image["datasets"][0]["path"]
    if not is_url(path):
        _check_metadata(os.path.join(path, name))
    found = group.get(name)
    if not isinstance(found, zarr.Array):
        raise InputError(f"{path}: multiscales speak of the array {name!r}; expected it there")
    return found


def _axes(image: dict[str, Any], count: int) -> Sequence[str]:
    axes = image.get("axes") or _OLD_AXES[-count:]
    found = []
    for axis in axes:
        name, kind = (axis, "") if isinstance(axis, str) else (axis["name"], axis.get("type"))
        found.append(CHANNELS if kind == "channel" else _plain_name(name))
    return found


def is_named(array: zarr.Array) -> bool:
    """Return whether an array itself says which of its axes are rows and columns."""
    return {"y", "x"} <= {str(name).lower() for name in _said_axes(array)}


def _said_axes(array: zarr.Array) -> Sequence[str | None]:
    names = getattr(array.metadata, "dimension_names", None)
    return names or array.attrs.get("_ARRAY_DIMENSIONS") or ()


def _plain_axes(path: str, array: zarr.Array) -> Sequence[str]:
    if is_named(array):
        return [_plain_name(str(name)) for name in _said_axes(array)]
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


def _check_parts(file: str) -> None:
    """Refuse shards behind a server that gives whole files alone: zarr would take it for a part."""
    system, path = file_system(file)
    if len(try_again(file, lambda: system.cat_file(path, start=0, end=1))) > 1:
        raise InputError(
            f"{file}: the server sends all of a file where a part is asked for; expected one that "
            "serves parts (HTTP ranges), which a Zarr array in shards needs. Serve it otherwise or "
            "copy it to this disk"
        )


def _plain_name(name: str) -> str:
    name = name.lower()
    return name if re.fullmatch(r"[a-z][a-z0-9]*", name) else "i"


def _channel_names(group: zarr.Group) -> Sequence[str]:
    channels = _said(group).get("omero", {}).get("channels", [])
    return [str(channel.get("label") or "") for channel in channels]
