"""What planes a listed file holds: as one text beside its row, and as rows of their own."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from usam_core.image_ref import ImageRef
from usam_core.imagestores.base import Plane
from usam_core.imagestores.content import plane_digest
from usam_core.imagestores.open import check_plane, needs_store, open_image, opened
from usam_core.imagestores.projection import DEPTH

_BETWEEN = ";"


def planes_of(address: str, max_megapixels: float, content: bytes | None = None) -> str:
    """Return the planes of a file as `expand` reads them; "" for a single picture.

    Args:
        address: the file, the URL or the Zarr folder.
        max_megapixels: limit on a picture's or a plane's size.
        content: what a URL holds.

    Raises:
        BadImage: the file cannot be used.
    """
    if not needs_store(address, max_megapixels, content):
        return ""
    with open_image(address, max_megapixels, content=content) as store:
        planes = store.planes()
        if len(planes) == 1:
            check_plane(store, ImageRef(address, planes[0]), max_megapixels)
            return ""
        return _BETWEEN.join(str(ImageRef("", plane))[1:] for plane in planes)


def check_named(address: str, max_megapixels: float, projection: str) -> None:
    """Check a plane that somebody has named; its file is opened, no value is read.

    Raises:
        BadImage: the file cannot be used, or there is no such plane.
    """
    ref = ImageRef.parse(address)
    with opened(ref.file, max_megapixels, projection) as store:
        check_plane(store, ref, max_megapixels)


def expand(batch: pa.RecordBatch, projection: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a listing with one row for each plane, in the order of the file.

    Args:
        batch: rows with the columns `path`, `sha256` and `planes`.
        projection: anything but "none" takes the planes of all z as one.
    """
    done = 0
    for number, text in enumerate(batch["planes"].to_pylist()):
        # A file that is to be left out is one row, whatever it holds.
        if not text or batch["status"][number].as_py() != "ok":
            continue
        yield batch.slice(done, number - done)
        yield _rows(batch.slice(number, 1), _planes(text, projection))
        done = number + 1
    yield batch.slice(done)


def _rows(row: pa.RecordBatch, planes: Sequence[Plane]) -> pa.RecordBatch:
    path, sha256 = row["path"][0].as_py(), row["sha256"][0].as_py()
    many = row.take(pa.array([0] * len(planes)))
    columns = {
        "path": [str(ImageRef(path, plane)) for plane in planes],
        "sha256": [plane_digest(sha256, plane) for plane in planes],
    }
    for name, values in columns.items():
        place = many.schema.get_field_index(name)
        many = many.set_column(place, many.schema.field(place), pa.array(values, pa.string()))
    return many


def _planes(text: str, projection: str) -> list[Plane]:
    planes = [ImageRef.parse(f"_#{part}").plane for part in text.split(_BETWEEN)]
    if projection == "none":
        return planes
    return list(dict.fromkeys(_flat(plane) for plane in planes))


def _flat(plane: Plane) -> Plane:
    return tuple(pair for pair in plane if pair[0] != DEPTH)
