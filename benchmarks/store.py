"""The embedding store: bytes an image, and seconds to write and to read, beside other ways.

    python benchmarks/store.py --out /tmp/store [--images 64] [--data ../shared/data/voc]

The nano SAM looks at drawn scenes, or at the photographs below `--data`, with 100 prompts; every
image of a shard is another one, so that sizes are honest. The first table takes the arrays as the
store has written them (its chunks, float16 or the int8 of `outputs.precision`) and writes them once
more with other codecs, to be read by zarr's own pipeline and by zarrs. The second compares the
store as a whole with one compressed `.npz` an image and with plain zarr arrays of whole shards: a
write, a read of everything, and a read of what labelling needs: no tokens, and of the four masks of
a prompt the first, which the other ways cannot read alone. Processor time, the best of seven; the
store also seals every file with its SHA-256 and syncs it to the disk, which the others do not.
Blosc has no checksum of its own; the store's zstd has.
"""

import argparse
import itertools
import json
import platform
import shutil
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import zarr
from labelling import seconds
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.codecs.numcodecs import Shuffle
from zarr.storage import LocalStore

from usam_core.config.schema import SamConfig
from usam_core.images.read import read_image
from usam_core.rng import generator
from usam_core.sam.load import encoder_spec, open_embedder
from usam_core.sources.scenes import FIELD_LOOK, SHAPES, scene
from usam_core.store.layout import COLUMNS, PRECISION, SHARDS
from usam_core.store.shard import ShardRecord
from usam_core.store.store import EmbeddingStore, column_of
from usam_core.types import ImageFile, MaskSet

SIZE_HW = (480, 640)
BLOCK = "encoder"
PIPELINES = {
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


def choices(itemsize: int) -> dict[str, list]:
    """Return the codecs to compare, for numbers of so many bytes; level 3 is the store's."""
    found = {"none": []}
    found |= {f"zstd {n}": [ZstdCodec(level=n, checksum=True)] for n in (1, 3, 9)}
    if itemsize > 1:
        found["shuffle, zstd 3"] = [Shuffle(elementsize=itemsize), *found["zstd 3"]]
    for kind, level in (("lz4", 5), ("zstd", 3)):
        found[f"blosc {kind} {level}"] = [BloscCodec(cname=kind, clevel=level, shuffle="shuffle")]
    return found


def pictures(images: int, data: Path | None) -> list[np.ndarray]:
    """Return drawn scenes, or the first photographs below a folder."""
    if data is None:
        return [
            scene(generator(5, "store", number), list(SHAPES), SIZE_HW, FIELD_LOOK).image
            for number in range(images)
        ]
    files = sorted(data.rglob("*.jpg"))[:images]
    if len(files) < images:
        raise SystemExit(f"--data {data}: {len(files)} files end in .jpg, expected {images}")
    return [read_image(str(file)).rgb for file in files]


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def with_codec(source: zarr.Array, codecs: list, folder: Path) -> dict[str, float]:
    """Write an array of the store with other codecs and read it; return times and size."""
    values, images = source[...], source.shape[0]
    fresh = (folder / str(number) for number in itertools.count())
    target = folder

    def write() -> None:
        nonlocal target
        target = next(fresh)
        array = zarr.create_array(
            LocalStore(target),
            shape=source.shape,
            dtype=source.dtype,
            chunks=source.chunks,
            shards=source.shards,
            compressors=codecs,
            fill_value=0,
            config={"write_empty_chunks": True},
        )
        array[...] = values

    def read(pipeline: str) -> np.ndarray:
        with zarr.config.set({"codec_pipeline.path": PIPELINES[pipeline]}):
            return zarr.open_array(LocalStore(target, read_only=True), mode="r")[...]

    row = {"write ms": 1000 * seconds(write) / images}
    row["KB"] = size_of(target) / images / 1000
    for pipeline in PIPELINES:
        if not np.array_equal(read(pipeline), values):
            raise SystemExit(f"{folder}: {pipeline} reads other values than were written")
        row[f"read ms, {pipeline}"] = 1000 * seconds(partial(read, pipeline)) / images
    shutil.rmtree(folder)
    return row


def by_codec(ours: dict[str, "Ours"], folder: Path) -> list[dict]:
    """Return a row for every column, precision and codec."""
    rows = []
    for precision, way in ours.items():
        for column in ("tokens", "packed_masks", column_of(BLOCK)):
            array_folder = way.store.path / SHARDS / way.shard / column
            source = zarr.open_array(LocalStore(array_folder, read_only=True), mode="r")
            if precision == "int8" and source.dtype != np.int8:
                continue  # masks are bits in either
            raw = source.nbytes / source.shape[0] / 1000
            for name, codecs in choices(source.dtype.itemsize).items():
                row = with_codec(source, codecs, folder / "codec")
                label = {"column": column, "dtype": str(source.dtype), "codec": name}
                rows.append({**label, "raw KB": raw, **row, "raw / KB": raw / row["KB"]})
    return rows


def columns_of(masks: MaskSet, *, tokens: bool = True) -> dict[str, np.ndarray]:
    """Return a mask set as plain arrays."""
    names = [name for name in COLUMNS if tokens or name != "tokens"]
    return {**{name: getattr(masks, name) for name in names}, BLOCK: masks.features[BLOCK]}


class Ours:
    """The embedding store, one shard a write."""

    def __init__(self, folder: Path, precision: str) -> None:
        spec = encoder_spec(SamConfig(), None)
        self._spec = spec if precision == "float16" else {**spec, PRECISION: precision}
        self._fresh = (folder / str(number) for number in itertools.count())

    def write(self, sets: list[MaskSet]) -> None:
        """Write a store of its own."""
        files = [ImageFile(str(number), f"{number:064x}") for number in range(len(sets))]
        self.folder = next(self._fresh)
        self.store = EmbeddingStore.create_or_open(self.folder, self._spec)
        records = [ShardRecord(*pair) for pair in zip(files, sets, strict=True)]
        self.shard = self.store.write_shard(records)
        self._shas = [file.sha256 for file in files]

    def read(self, *, tokens: bool) -> list[dict[str, np.ndarray]]:
        """Read every image, the way the step annotate does."""
        store = EmbeddingStore.open(self.store.path)
        found = store.read_shard(self.shard, self._shas, [BLOCK], tokens=tokens, single=not tokens)
        return [columns_of(masks, tokens=tokens) for _, masks in found]


class Npz:
    """One NumPy archive an image."""

    def __init__(self, folder: Path, save: Callable) -> None:
        self._save = save
        self.folder = folder
        folder.mkdir()

    def write(self, sets: list[MaskSet]) -> None:
        """Write an archive for each image."""
        self._files = [self.folder / f"{number}.npz" for number in range(len(sets))]
        for file, masks in zip(self._files, sets, strict=True):
            self._save(file, **columns_of(masks))

    def read(self, *, tokens: bool) -> list[dict[str, np.ndarray]]:
        """Read every image; members that are not wanted stay packed."""
        found = []
        for file in self._files:
            with np.load(file) as archive:
                wanted = [name for name in archive.files if tokens or name != "tokens"]
                found.append({name: archive[name] for name in wanted})
        return found


class PlainZarr:
    """One zarr array a column for all images, everything as zarr chooses it."""

    def __init__(self, folder: Path) -> None:
        self._fresh = (folder / str(number) for number in itertools.count())

    def write(self, sets: list[MaskSet]) -> None:
        """Write a group of its own."""
        self.folder = next(self._fresh)
        group = zarr.create_group(LocalStore(self.folder))
        for name in columns_of(sets[0]):
            group.create_array(name, data=np.stack([columns_of(one)[name] for one in sets]))

    def read(self, *, tokens: bool) -> list[dict[str, np.ndarray]]:
        """Read every column whole."""
        group = zarr.open_group(LocalStore(self.folder, read_only=True), mode="r")
        columns = {n: group[n][...] for n in group.array_keys() if tokens or n != "tokens"}
        count = len(columns["predicted_iou"])
        return [{name: all_[i] for name, all_ in columns.items()} for i in range(count)]


def whole(ways: dict[str, object], sets: list[MaskSet]) -> list[dict]:
    """Return a row for every way to keep mask sets; the store's own first."""
    rows = []
    for name, way in ways.items():
        row = {"way": name, "write ms": 1000 * seconds(partial(way.write, sets)) / len(sets)}
        row["KB"] = size_of(way.folder) / len(sets) / 1000
        for what, tokens in (("read ms", True), ("for labelling ms", False)):
            row[what] = 1000 * seconds(partial(way.read, tokens=tokens)) / len(sets)
        if "int8" not in name:
            check(way.read(tokens=True), sets, name)
        rows.append(row)
    for row in rows:
        row.update({f"{key} / ours": row[key] / rows[0][key] for key in list(row)[1:5]})
    return rows


def check(found: list[dict[str, np.ndarray]], sets: list[MaskSet], name: str) -> None:
    """Stop if a way does not give back what it was given."""
    for got, masks in zip(found, sets, strict=True):
        for column, values in columns_of(masks).items():
            if not np.array_equal(got[column], values, equal_nan=column != "packed_masks"):
                raise SystemExit(f"{name}: {column} comes back different")


def main() -> None:
    """Parse the command line, print both tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--data", type=Path, help="a folder of .jpg instead of drawn scenes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    sets = open_embedder(SamConfig()).embed(pictures(args.images, args.data))
    ours = {name: Ours(args.out / name, name) for name in ("float16", "int8")}
    ways = {
        "ours, float16": ours["float16"],
        "ours, int8": ours["int8"],
        "npz, compressed": Npz(args.out / "npz", np.savez_compressed),
        "npz, not compressed": Npz(args.out / "raw", np.savez),
        "plain zarr": PlainZarr(args.out / "zarr"),
    }
    stores = whole(ways, sets)
    arrays = by_codec(ours, args.out)
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, zarr {zarr.__version__}, "
        f"{len(sets)} images of {args.data or SIZE_HW}; processor ms and KB an image\n"
    )
    for rows in (arrays, stores):
        print(pd.DataFrame(rows).round(2).to_string(index=False), end="\n\n")
    (args.out / "store.json").write_text(json.dumps({"codecs": arrays, "ways": stores}, indent=1))


if __name__ == "__main__":
    main()
