"""What the filters need to know of a picture: its size, contrast, perceptual hash and features.

n pictures, f = 472 features of the bundled backbone's two deep maps, averaged over the image
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pandas as pd
import torch
from PIL import Image

from usam_core.config.images import ImagesConfig
from usam_core.files.atomic import whole_file
from usam_core.images.read import UnusableImage, read_image
from usam_core.progress import Progress

LOOKS_REVISION = 1
"""Raised when the same picture gives other numbers; remembered ones are then made anew."""

COLUMNS = ["sha256", "width", "height", "contrast", "phash", "features", "code", "reason"]
_MEAN, _STD = 127.0, 128.0  # what the bundled backbone was trained with
_BATCH = 16
_SAVE_EVERY = 2000
"""Pictures between two savings: a look that is killed goes on from there."""
_THREADS = 2


@dataclass(frozen=True, slots=True)
class _Picture:
    sha256: str
    rgb: np.ndarray | None
    code: str = ""
    reason: str = ""


def picture_looks(
    files: Mapping[str, str],
    images: ImagesConfig,
    cache: Path,
    progress: Progress,
    *,
    features: bool,
) -> pd.DataFrame:
    """Return how pictures look, decoding each content once in the life of the cache.

    Args:
        files: a path for each content digest.
        images: limit on pixels, and how deep images become 8 bit.
        cache: parquet file that remembers.
        progress: told of each picture.
        features: compute the features too; without, that column is empty.

    Returns:
        One row a digest in the order of `files`, columns `COLUMNS`: `contrast` is the standard
        deviation of the grey values (0 to 127.5), `phash` 64 bits as uint64, `features` float32
        (f,) of length 1; a picture that cannot be decoded has a `code` and a `reason` instead.
    """
    known = _read(cache, features)
    missing = {sha256: path for sha256, path in files.items() if sha256 not in known.index}
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(_look_at(missing, images, progress, features), start=1):
        rows.append(row)
        if number % _SAVE_EVERY == 0 or number == len(missing):
            known, rows = pd.concat([known, _frame(rows)]), []
            with whole_file(cache) as temporary:
                table = known.reset_index(drop=True)
                table.assign(revision=LOOKS_REVISION).to_parquet(
                    temporary, index=False, write_page_checksum=True
                )
    return known.loc[list(files)].reset_index(drop=True)


def _read(cache: Path, features: bool) -> pd.DataFrame:
    try:
        table = pd.read_parquet(cache, page_checksum_verification=True)
        table = table[table["revision"] == LOOKS_REVISION][COLUMNS]
    except Exception:  # not there, damaged or of another form: all of it can be made again
        return _frame([])
    if features:
        table = table[table["features"].notna() | (table["code"] != "")]
    return table.set_index("sha256", drop=False)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=COLUMNS)
    types = {"width": "int64", "height": "int64", "contrast": "float64", "phash": "uint64"}
    return table.astype(types).set_index("sha256", drop=False)


def _look_at(
    files: Mapping[str, str], images: ImagesConfig, progress: Progress, features: bool
) -> Iterator[dict[str, Any]]:
    def decode(item: tuple[str, str]) -> _Picture:
        sha256, path = item
        try:
            found = read_image(
                path,
                max_megapixels=images.max_megapixels,
                # A look of its own needs no window that holds for all.
                window="percentile" if images.window == "store" else images.window,
                channels=images.channels,
                projection=images.projection,
                sha256=sha256,
            )
        except UnusableImage as error:
            bad = error.quarantined
            return _Picture(sha256, None, bad.code, bad.reason)
        return _Picture(sha256, found.rgb)

    encoder = _Encoder() if features and files else None
    items = list(files.items())
    with (
        progress.bar("Looking at pictures", len(items)) as bar,
        ThreadPoolExecutor(_THREADS, thread_name_prefix="usam-looks") as pool,
    ):
        for start in range(0, len(items), _BATCH):
            pictures = list(pool.map(decode, items[start : start + _BATCH]))
            good = [picture.rgb for picture in pictures if picture.rgb is not None]
            vectors = iter(encoder(good) if encoder and good else [None] * len(good))
            for picture in pictures:
                yield _row(picture, None if picture.rgb is None else next(vectors))
            bar.advance(len(pictures))


def _row(picture: _Picture, features: np.ndarray | None) -> dict[str, Any]:
    row = {"sha256": picture.sha256, "code": picture.code, "reason": picture.reason}
    if picture.rgb is None:
        return row | {"width": 0, "height": 0, "contrast": 0.0, "phash": 0, "features": None}
    image = Image.fromarray(picture.rgb)
    bits = imagehash.phash(image).hash.ravel()
    return row | {
        "width": image.width,
        "height": image.height,
        "contrast": float(np.asarray(image.convert("L")).std()),
        "phash": int.from_bytes(np.packbits(bits).tobytes(), "big"),
        "features": features,
    }


class _Encoder:
    """The bundled backbone, averaged over the image: meaning enough to tell odd ones out."""

    def __init__(self) -> None:
        from usam_core.sam.nano import NANO_SIZE, NanoImageEncoder

        self._side = NANO_SIZE
        self._encoder = NanoImageEncoder().eval()

    @torch.inference_mode()
    def __call__(self, pictures: list[np.ndarray]) -> np.ndarray:
        side = (self._side, self._side)
        resized = [np.asarray(Image.fromarray(rgb).resize(side)) for rgb in pictures]
        frames = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float()
        levels = self._encoder.levels((frames - _MEAN) / _STD)
        deep = torch.cat([level.mean(dim=(2, 3)) for level in levels[2:]], dim=1)
        return torch.nn.functional.normalize(deep, dim=1).numpy()
