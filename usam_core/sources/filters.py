"""Which collected pictures teach: one named reason for every one that does not.

Axes: n pictures of a class, m images to be labelled, f features.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pandas as pd
import torch
from PIL import Image

from usam_core.config.images import ImagesConfig
from usam_core.config.training import FilterConfig
from usam_core.files.atomic import whole_file
from usam_core.files.parquet import read_frame
from usam_core.images.read import UnusableImage, read_image
from usam_core.progress import Progress
from usam_core.sources.base import CUT_FROM, Rejected, TrainingPicture
from usam_core.types import Quarantined

LOOKS_REVISION = 1
"""Raised when the same picture gives other numbers; remembered ones are then made anew."""

COLUMNS = ["sha256", "width", "height", "contrast", "phash", "features", "code", "reason"]
_MEAN, _STD = 127.0, 128.0  # what the bundled backbone was trained with
_BATCH = 16
_SAVE_EVERY = 2000
"""Pictures between two savings: a look that is killed goes on from there."""
_THREADS = 2


def picture_looks(
    files: Mapping[str, str],
    images: ImagesConfig,
    cache: Path,
    progress: Progress,
    *,
    features: bool,
) -> pd.DataFrame:
    """How pictures look; each content is decoded once in the life of the cache.

    Args:
        files: a path for each content digest.
        images: limit on pixels, and how deep images become 8 bit.
        cache: parquet file that remembers.
        features: compute the features too; without, that column is empty.

    Returns:
        One row a digest in the order of `files`, columns `COLUMNS`: `contrast` is the standard
        deviation of the gray values (0 to 127.5), `phash` 64 bits as uint64, `features` float32
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
        table = read_frame(cache, verified=True)
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
    def decode(item: tuple[str, str]) -> np.ndarray | Quarantined:
        sha256, path = item
        try:
            return read_image(
                path,
                max_megapixels=images.max_megapixels,
                # A look of its own needs no window that holds for all.
                window="percentile" if images.window == "store" else images.window,
                channels=channels,
                projection=images.projection,
                sha256=sha256,
            ).rgb
        except UnusableImage as error:
            return error.quarantined

    given = images.channels
    channels = None if given is None else {str(name): plane for name, plane in given.items()}
    encoder = _Encoder() if features and files else None
    items = list(files.items())
    with (
        progress.bar("Looking at pictures", len(items)) as bar,
        ThreadPoolExecutor(_THREADS, thread_name_prefix="usam-looks") as pool,
    ):
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            pictures = list(pool.map(decode, batch))
            good = [picture for picture in pictures if isinstance(picture, np.ndarray)]
            vectors = iter(encoder(good) if encoder and good else [None] * len(good))
            for (sha256, _), picture in zip(batch, pictures, strict=True):
                if isinstance(picture, Quarantined):
                    row = {"width": 0, "height": 0, "contrast": 0.0, "phash": 0, "features": None}
                    yield row | {"sha256": sha256, "code": picture.code, "reason": picture.reason}
                else:
                    yield {"sha256": sha256, **_row(picture, next(vectors))}
            bar.advance(len(pictures))


def _row(rgb: np.ndarray, features: np.ndarray | None) -> dict[str, Any]:
    image = Image.fromarray(rgb)
    bits = imagehash.phash(image).hash.ravel()
    return {
        "code": "",
        "reason": "",
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


_NEIGHBORS = 5
_FEWEST_FOR_OUTLIERS = 2 * _NEIGHBORS
_MAD_TO_DEVIATION = 1.4826  # of a normal distribution
_MIN_DEVIATION = 0.01  # cosine: a class of near-equal pictures must not lose its margins
_CHUNK = 1 << 20

Verdict = tuple[str, str]
"""Why a picture does not teach: code and sentence."""


def filter_pictures(
    pictures: Sequence[TrainingPicture],
    looks: pd.DataFrame,
    config: FilterConfig,
    labelled: np.ndarray,
) -> tuple[list[TrainingPicture], list[Rejected]]:
    """Judge the pictures of one class.

    Filters run in the order of cost and certainty: unreadable, size, aspect, contrast, leaked,
    duplicate, outlier; a picture is counted under the first that it fails.

    Args:
        pictures: n pictures of one class.
        looks: their rows of `picture_looks`, in the same order.
        labelled: uint64 (m,), perceptual hashes of the images to be labelled.

    Returns:
        The pictures kept, in their order, and a line for each of the others.
    """
    verdicts = [_alone(row, config) for row in looks.itertuples(index=False)]
    hashes = looks["phash"].to_numpy(np.uint64)

    def left() -> np.ndarray:
        return np.array([i for i, verdict in enumerate(verdicts) if verdict is None], dtype=int)

    if config.leak_bits is not None and len(labelled):
        for i in left():
            # The filter keeps a source from bringing images in unasked. What a person cut out
            # with `usam crop` is meant to teach; a cut of nearly a whole image would look like it.
            if CUT_FROM in pictures[i].provenance:
                continue
            distance = nearest_bits(hashes[i], labelled)
            if distance <= config.leak_bits:
                verdicts[i] = (
                    "leak",
                    f"differs in {distance} of 64 hash bits from an image to be labelled; more "
                    f"than filters.leak_bits, {config.leak_bits}, is needed",
                )
    if config.duplicate_bits is not None:
        _mark_duplicates(verdicts, pictures, hashes, left(), config.duplicate_bits)
    if config.outlier_deviations is not None:
        _mark_outliers(verdicts, looks["features"], left(), config.outlier_deviations)
    kept = [pictures[i] for i in left()]
    rejected = [
        Rejected(picture.class_name, picture.path, *verdict)
        for picture, verdict in zip(pictures, verdicts, strict=True)
        if verdict is not None
    ]
    return kept, rejected


def nearest_bits(value: np.uint64, hashes: np.ndarray) -> int:
    """Minimum number of differing bits between a hash and any of uint64 (m,)."""
    return min(
        int(np.bitwise_count(hashes[start : start + _CHUNK] ^ value).min())
        for start in range(0, len(hashes), _CHUNK)
    )


def similarity_to_neighbors(features: np.ndarray) -> np.ndarray:
    """Each picture's mean cosine similarity to the five most similar others, (n,).

    Features are (n, f), rows of length 1, n above 5.
    """
    cosine = features @ features.T
    np.fill_diagonal(cosine, -np.inf)
    return np.partition(cosine, -_NEIGHBORS, axis=1)[:, -_NEIGHBORS:].mean(axis=1)


def _alone(row: Any, config: FilterConfig) -> Verdict | None:
    """What speaks against a picture by itself."""
    if row.code:
        return row.code, row.reason
    shorter, longer = sorted((row.width, row.height))
    size = f"{row.width} x {row.height} pixels"
    if config.min_side is not None and shorter < config.min_side:
        return "too_small", f"{size}; filters.min_side is {config.min_side}"
    if config.max_aspect is not None and longer > config.max_aspect * shorter:
        return "extreme_aspect", f"{size}; filters.max_aspect is {config.max_aspect:g}"
    if config.min_contrast is not None and row.contrast < config.min_contrast:
        return (
            "near_uniform",
            f"grey values deviate by {row.contrast:.1f}; filters.min_contrast is "
            f"{config.min_contrast:g}",
        )
    return None


def _mark_duplicates(
    verdicts: list[Verdict | None],
    pictures: Sequence[TrainingPicture],
    hashes: np.ndarray,
    left: np.ndarray,
    bits: int,
) -> None:
    kept = np.zeros(len(hashes), bool)
    for i in left:
        differing = np.bitwise_count(hashes[kept] ^ hashes[i])
        if len(differing) and differing.min() <= bits:
            first = np.flatnonzero(kept)[differing.argmin()]
            verdicts[i] = (
                "near_duplicate",
                f"differs in {differing.min()} of 64 hash bits from {pictures[first].path}; more "
                f"than filters.duplicate_bits, {bits}, is needed",
            )
        else:
            kept[i] = True


def _mark_outliers(
    verdicts: list[Verdict | None], features: pd.Series, left: np.ndarray, max_deviations: float
) -> None:
    if len(left) < _FEWEST_FOR_OUTLIERS:
        return
    similar = similarity_to_neighbors(np.stack([features[i] for i in left]))
    median = np.median(similar)
    deviation = max(_MAD_TO_DEVIATION * float(np.median(np.abs(similar - median))), _MIN_DEVIATION)
    for i, below in zip(left, (median - similar) / deviation, strict=True):
        if below > max_deviations:
            verdicts[i] = (
                "outlier",
                f"{below:.1f} deviations less like its companions than the class's median; "
                f"filters.outlier_deviations is {max_deviations:g}",
            )
