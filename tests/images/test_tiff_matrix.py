"""Some hundred kinds of TIFF: each is what tifffile reads, or quarantined with the reason."""

import itertools

import numpy as np
import pytest
import tifffile

from usam_core.images.errors import library_verdicts
from usam_core.images.read import UnusableImage, read_image
from usam_core.images.stores.factory import open_image

HEIGHT, WIDTH = 24, 33
TYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
FLOATS = ("float16", "float32", "float64")
ALPHA = {"associated": "assocalpha", "straight": "unassalpha", "unsaid": "unspecified"}
COMPRESSIONS = (None, "lzw", "zlib", "packbits", "zstd", "lzma")
CODED = ("jpeg", "jpeg2000", "jpegxl", "lerc", "png", "webp", "jpegxr")
PIXELS = [
    *(("minisblack", n, ()) for n in (1, 2, 3, 6)),
    *(("minisblack", 2, (kind,)) for kind in ALPHA),
    ("miniswhite", 1, ()),
    ("miniswhite", 2, ("straight",)),
    ("rgb", 3, ()),
    *(("rgb", 4, (kind,)) for kind in ALPHA),
    ("rgb", 5, ("unsaid", "unsaid")),
    ("rgb", 5, ("straight", "unsaid")),
    ("separated", 4, ()),
]
"""Photometric interpretation, samples, and what the extra ones are."""
LAYOUTS = list(itertools.product(("contig", "separate"), ("<", ">"), (None, (16, 16))))


def kinds():
    """Yield type, bits, pixels, compression, planar configuration, byte order and tile."""
    turn = itertools.cycle(LAYOUTS)
    for dtype, pixels in itertools.product((*TYPES, *FLOATS, "complex64"), PIXELS):
        # Every layout without compression, the compressions each with another.
        for layout in LAYOUTS if dtype in ("uint8", "uint16", "int8") else [next(turn)]:
            yield dtype, None, pixels, None, *layout
        for compression in COMPRESSIONS[1:]:
            yield dtype, None, pixels, compression, *next(turn)
    for dtype, pixels, compression in itertools.product(
        ("uint8", "int8", "uint16", "float32"), PIXELS, CODED
    ):
        yield dtype, None, pixels, compression, *next(turn)
    for bits, compression in itertools.product((2, 4, 6, 10, 12, 14), (None, "lzw", "zlib")):
        for pixels in (PIXELS[0], PIXELS[7], PIXELS[9]):
            yield "uint8" if bits < 8 else "uint16", bits, pixels, compression, "contig", "<", None


def values_of(dtype, bits, samples, rng):
    shape = (HEIGHT, WIDTH, samples)
    if dtype == "bool":
        return rng.random(shape) > 0.4
    if np.dtype(dtype).kind in "fc":
        return rng.random(shape).astype(dtype)
    most = np.iinfo(dtype)
    if bits:
        return rng.integers(0, 2**bits, shape).astype(dtype)
    return rng.integers(most.min, most.max, shape, dtype, endpoint=True)


def write(path, kind, values):
    """Write a file, or return False where tifffile does not write such ones."""
    _, bits, (photometric, _, extra), compression, planar, order, tile = kind
    stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
    if values.shape[-1] == 1:
        stored = values[..., 0]
    options = {"planarconfig": planar} if values.shape[-1] > 1 else {}
    if extra:
        options["extrasamples"] = [ALPHA[name] for name in extra]
    if tile or compression in ("lzw", "zlib"):
        options |= {"tile": tile} if tile else {"rowsperstrip": 7}
    if bits:
        options["bitspersample"] = bits
    try:
        tifffile.imwrite(
            path,
            np.ascontiguousarray(stored),
            photometric=photometric,
            compression=compression,
            byteorder=order,
            metadata=None,
            **options,
        )
    except Exception:  # codecs raise anything on what they do not take
        return False
    return True


def as_tifffile_reads(path):
    """Return (c, h, w), or None where tifffile cannot read it either."""
    try:
        with tifffile.TiffFile(path) as file:
            page, values = file.pages[0], file.pages[0].asarray()
    except Exception:  # as above
        return None
    if values.ndim == 2:
        return values[None]
    return values if page.planarconfig == 2 else np.moveaxis(values, -1, 0)


def as_seen(values, kind):
    """Return what a person sees with the full window, float (h, w, 3), from 0 to 255."""
    dtype, bits, (photometric, _, extra) = kind[:3]
    if values.dtype.kind == "f" or values.dtype == bool:
        low, high = 0.0, 1.0
    else:
        most = np.iinfo(dtype)
        low, high = (0.0, 2.0**bits - 1) if bits else (float(most.min), float(most.max))
    part = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    alpha = next(
        (n for n, name in enumerate(extra, len(part) - len(extra)) if name != "unsaid"), None
    )
    shown = [n for n in range(len(part)) if n != alpha]
    if photometric == "separated":
        high_byte = values >> (8 * values.dtype.itemsize - 8)
        return np.moveaxis((255 - high_byte[:3]) * ((255.0 - high_byte[3]) / 255), 0, -1)
    if photometric == "miniswhite" and values.dtype.kind in "ub":
        part[shown] = 1 - part[shown]
    if alpha is not None and "associated" in extra and values.dtype.kind in "uf":
        part[shown] = np.minimum(1, part[shown] / np.where(part[alpha] > 0, part[alpha], 1))
    colors = part[shown][:3]
    if len(colors) == 1:
        colors = np.repeat(colors, 3, axis=0)
    while len(colors) < 3:
        colors = np.concatenate([colors, np.zeros_like(colors[:1])])
    if alpha is not None:
        colors = colors * part[alpha] + 1 - part[alpha]
    return np.moveaxis(colors, 0, -1) * 255


def is_refused(kind):
    """Return whether a kind makes no sense as a picture, though tifffile gives its values."""
    dtype, _, (photometric, _, extra) = kind[:3]
    if photometric == "separated":
        return dtype not in ("uint8", "uint16")
    no_opacity = dtype in ("bool", "uint64") or np.dtype(dtype).kind == "i"
    return dtype == "complex64" or ("associated" in extra and no_opacity)


@pytest.mark.slow
def test_every_kind_is_what_tifffile_reads_or_is_told(tmp_path):
    read = told = 0
    wrong = []
    rng = np.random.default_rng(7)
    for number, kind in enumerate(kinds()):
        path = tmp_path / f"{number}.tif"
        values = values_of(kind[0], kind[1], kind[2][1], rng)
        if not write(path, kind, values):
            continue
        expected = as_tifffile_reads(path)
        try:
            with library_verdicts(path), open_image(str(path)) as store:
                found = store.read(()) if kind[2][0] != "separated" else None
                mixed = "associated" in kind[2][2] or kind[2][0] == "miniswhite"
            seen = read_image(path, window="full").rgb
        except UnusableImage as error:
            told += 1
            is_right = expected is None or is_refused(kind)
            if error.quarantined.code != "unsupported" or not is_right:
                wrong.append((kind, error.quarantined))
            continue
        finally:
            path.unlink()
        read += 1
        if expected is None:
            wrong.append((kind, "read, but not by tifffile"))
            continue
        if found is not None and not mixed and not np.array_equal(found, expected):
            wrong.append((kind, "other values"))
        off = np.abs(seen - as_seen(expected, kind)).max()
        # Colours, opacity and what becomes of both are rounded one after the other.
        if off > (1.51 if kind[2][2] or kind[2][0] == "separated" else 0.51):
            wrong.append((kind, f"looks other by {off}"))
    assert wrong == []
    assert read >= 400
    assert told
