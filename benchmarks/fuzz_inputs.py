"""Small files of every kind that is read: for `fuzz.py` and its tests."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import tifffile
import zarr
import zarr.codecs as codecs
from PIL import Image

H, W = 40, 56


def _values(dtype: str = "uint8", *shape: int) -> np.ndarray:
    """Return smooth values with some noise, so that every compression has something to do."""
    shape = shape or (H, W, 3)
    ramp = np.arange(np.prod(shape)).reshape(shape)
    noise = np.random.default_rng(0).integers(0, 9, shape)
    most = 1 if dtype.startswith("float") else np.iinfo(dtype).max
    return ((ramp % 251 + noise) / 260 * most).astype(dtype)


def write_images(folder: Path) -> list[Path]:
    """Write one file of each kind of single picture."""
    folder.mkdir(parents=True, exist_ok=True)
    rgb, grey, deep = _values(), _values("uint8", H, W), _values("uint16", H, W)
    color, palette = Image.fromarray(rgb), Image.fromarray(rgb).convert("P")
    made: dict[str, Callable[[Path], Any]] = {
        "baseline.jpg": lambda p: color.save(p, quality=90),
        "progressive.jpg": lambda p: color.save(p, progressive=True, subsampling=2),
        "grey.jpg": lambda p: Image.fromarray(grey).save(p),
        "ink.jpg": lambda p: color.convert("CMYK").save(p),
        "turned.jpg": lambda p: color.save(p, exif=_turned()),
        "rgb.png": lambda p: color.save(p),
        "alpha.png": lambda p: color.convert("RGBA").save(p),
        "grey16.png": lambda p: Image.fromarray(deep).save(p),
        "rgb16.png": lambda p: p.write_bytes(_png(_values("uint16"), 16)),
        "palette.png": lambda p: palette.save(p, transparency=3),
        "bilevel.png": lambda p: Image.fromarray(grey).convert("1").save(p),
        "interlaced.png": lambda p: p.write_bytes(_png(rgb, 8, interlaced=True)),
        "interlaced16.png": lambda p: p.write_bytes(_png(_values("uint16"), 16, interlaced=True)),
        "palette.gif": lambda p: palette.save(p),
        "rgb.bmp": lambda p: color.save(p),
        "palette.bmp": lambda p: palette.save(p),
        "lossy.webp": lambda p: color.save(p, quality=80),
        "lossless.webp": lambda p: color.convert("RGBA").save(p, lossless=True),
        "rgb.avif": lambda p: color.save(p),
        "rgb.jp2": lambda p: color.save(p),
        "grey16.jp2": lambda p: Image.fromarray(deep).save(p),
        "rgb16.jp2": lambda p: p.write_bytes(_jp2(_values("uint16"))),
        "tiled.jp2": lambda p: color.save(p, tile_size=(32, 32), irreversible=True),
        "rgb.ppm": lambda p: color.save(p),
        "plain.ppm": lambda p: p.write_bytes(b"P3 9 9 99 " + b"7 8 9 " * 81),
        "rgb16.ppm": lambda p: p.write_bytes(
            b"P6 56 40 65535\n" + _values("uint16").byteswap().tobytes()
        ),
        "grey16.pgm": lambda p: p.write_bytes(b"P5 56 40 4095\n" + deep.byteswap().tobytes()),
        "raw.tif": lambda p: tifffile.imwrite(p, rgb, metadata=None),
        "lzw.tif": lambda p: tifffile.imwrite(p, rgb, compression="lzw", predictor=True),
        "packbits.tif": lambda p: tifffile.imwrite(p, grey, compression="packbits", rowsperstrip=7),
        "jpeg.tif": lambda p: tifffile.imwrite(p, rgb, compression="jpeg", tile=(16, 32)),
        "palette.tif": lambda p: palette.save(p, compression="tiff_lzw"),
        "fax.tif": lambda p: Image.fromarray(grey).convert("1").save(p, compression="group4"),
        "planar.tif": lambda p: tifffile.imwrite(
            p, rgb.transpose(2, 0, 1), planarconfig="separate", compression="zlib"
        ),
        "deep.tif": lambda p: tifffile.imwrite(p, deep, compression="zlib", tile=(16, 16)),
        "float.tif": lambda p: tifffile.imwrite(
            p, _values("float32", H, W), compression="zlib", predictor=True
        ),
    }
    return _write(folder, made)


def write_containers(folder: Path) -> list[Path]:
    """Write one of each kind of TIFF with planes, and of Zarr."""
    folder.mkdir(parents=True, exist_ok=True)
    stack = _values("uint16", 3, H, W)
    rgb, five = _values("uint16"), _values("uint16", 2, 3, 2, H, W)
    tile = {"tile": (16, 32)}

    def tiff(name: str, values: np.ndarray, **said: Any) -> dict[str, Callable[[Path], Any]]:
        return {name: lambda path: tifffile.imwrite(path, values, **said)}

    made = {
        **tiff("pages.tif", stack, metadata=None, photometric="minisblack"),
        **tiff("shaped.tif", stack, photometric="minisblack"),
        **tiff("shaped_lzw.tif", stack, photometric="minisblack", compression="lzw"),
        **tiff("imagej.tif", stack, imagej=True),
        **tiff("imagej_zlib.tif", stack, imagej=True, compression="zlib"),
        **tiff(
            "big.tif", stack, bigtiff=True, photometric="minisblack", compression="zstd", **tile
        ),
        **tiff("hyper.ome.tif", five, metadata={"axes": "TZCYX"}),
        **tiff("lzw.ome.tif", five, metadata={"axes": "TZCYX"}, compression="lzw", **tile),
        **tiff("rgb16.tif", rgb, photometric="rgb", compression="deflate", predictor=True),
        **tiff("planar16.tif", rgb.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        **tiff("end.tif", stack, byteorder=">", photometric="minisblack", compression="lzma"),
        **tiff(
            "jpeg.tif", stack.astype("u1"), photometric="minisblack", compression="jpeg", **tile
        ),
        **{
            name: made
            for kind in ("jpeg2000", "jpegxl", "jpegxr", "lerc", "png", "webp")
            for name, made in _rare(kind, tile).items()
        },
    }
    written = _write(folder, made)
    for version in (2, 3):
        for name, options in _compressors(version).items():
            path = folder / f"v{version}_{name}.zarr"
            axes = ["i", "y", "x"]
            said = {"attributes": {"_ARRAY_DIMENSIONS": axes}}
            array = zarr.create_array(
                path,
                shape=stack.shape,
                dtype="u2",
                chunks=(1, 20, 28),
                zarr_format=version,
                **(said if version == 2 else {"dimension_names": axes}),
                **options,
            )
            array[:] = stack
            written.append(path)
    for version, zarr_format in (("0.4", 2), ("0.5", 3)):
        for name, options in _compressors(zarr_format).items():
            if name not in ("blosc_lz4", "zstd", "sharded", "gzip"):
                continue
            path = folder / f"ome_{version}_{name}.zarr"
            _ome(path, version, five, options)
            written.append(path)
    plate = folder / "plate.zarr"
    zarr.open_group(plate, mode="w", zarr_format=2).attrs["plate"] = {
        "wells": [{"path": "A/1"}],
        "rows": [{"name": "A"}],
        "columns": [{"name": "1"}],
    }
    zarr.open_group(plate / "A", mode="w", zarr_format=2)
    zarr.open_group(plate / "A/1", mode="w", zarr_format=2).attrs["well"] = {
        "images": [{"path": "0"}]
    }
    _ome(plate / "A/1/0", "0.4", five, {})
    return [*written, plate]


def _rare(kind: str, tile: dict[str, Any]) -> dict[str, Callable[[Path], Any]]:
    deep = kind in ("lerc", "png", "jpeg2000")  # the others are of 8 bit here
    values = _values("uint16" if deep else "uint8")
    return {
        f"{kind}.tif": lambda path: tifffile.imwrite(
            path, values, photometric="rgb", compression=kind, **tile
        )
    }


def _compressors(version: int) -> dict[str, dict[str, Any]]:
    if version == 2:
        shuffled = numcodecs.Blosc("blosclz", shuffle=2)
        return {
            "raw": {"compressors": None},
            "blosc_lz4": {"compressors": numcodecs.Blosc("lz4")},
            "blosc_zstd": {"compressors": numcodecs.Blosc("zstd", blocksize=512)},
            "blosclz": {"compressors": shuffled},
            "zstd": {"compressors": numcodecs.Zstd()},
            "gzip": {"compressors": numcodecs.GZip()},
            "zlib": {"compressors": numcodecs.Zlib()},
            "lz4": {"compressors": numcodecs.LZ4()},
            "bz2": {"compressors": numcodecs.BZ2()},
            "delta": {"compressors": numcodecs.Zstd(), "filters": [numcodecs.Delta("<u2")]},
            "shuffle": {"compressors": numcodecs.Zlib(), "filters": [numcodecs.Shuffle(2)]},
        }
    return {
        "raw": {"compressors": None},
        "blosc_lz4": {"compressors": codecs.BloscCodec(cname="lz4")},
        "blosc_zlib": {"compressors": codecs.BloscCodec(cname="zlib", shuffle="bitshuffle")},
        "zstd": {"compressors": codecs.ZstdCodec()},
        "gzip": {"compressors": [codecs.GzipCodec(), codecs.Crc32cCodec()]},
        "sharded": {"shards": (1, 40, 56), "compressors": codecs.BloscCodec(cname="lz4")},
        "sharded_zstd": {"shards": (3, 40, 56), "compressors": codecs.ZstdCodec()},
    }


def _ome(path: Path, version: str, values: np.ndarray, options: dict[str, Any]) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    if "shards" in options:
        options = {**options, "shards": (1, 1, 1, 40, 56)}
    group.create_array(
        "0", shape=values.shape, dtype=values.dtype, chunks=(1, 1, 1, 20, 28), **options
    )[:] = values
    said = {
        "version": version,
        "multiscales": [
            {
                "version": version,
                "axes": [
                    {"name": axis, "type": {"t": "time", "c": "channel"}.get(axis, "space")}
                    for axis in "tzcyx"
                ],
                "datasets": [{"path": "0"}],
            }
        ],
        "omero": {"channels": [{"label": "a"}, {"label": "b"}]},
    }
    group.attrs.update(said if version == "0.4" else {"ome": said})


def _write(folder: Path, made: dict[str, Callable[[Path], Any]]) -> list[Path]:
    written = []
    for name, make in made.items():
        make(folder / name)
        written.append(folder / name)
    return written


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _jp2(values: np.ndarray) -> bytes:
    import imagecodecs

    return imagecodecs.jpeg2k_encode(values, level=0)


def _png(values: np.ndarray, bits: int, interlaced: bool = False) -> bytes:
    """Return a PNG of colours; Pillow writes none of 16 bit, and none interlaced."""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
        ]
        passes.append((1, 0, 2, 1))
    rows = b"".join(
        b"\0" + row.astype(f">u{bits // 8}").tobytes()
        for top, left, down, across in passes
        for row in values[top::down, left::across]
    )
    head = struct.pack(">2I5B", W, H, bits, 2, 0, 0, int(interlaced))
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
