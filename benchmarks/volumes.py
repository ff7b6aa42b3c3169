"""Objects of a z-stack joined over its planes: how many are the truth's, before and after.

    python benchmarks/volumes.py --data ../shared/data

Each plane of `lab/extra_3d` is taken for an image that was labelled by itself: the truth's slices,
their numbers forgotten; then with a share of them dropped, or made a pixel fatter or thinner by
chance. An object is matched if it has an IoU of at least 0.5 with one of the truth's.
"""

import argparse
import platform
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from scipy import ndimage

from usam_core.masks.rle import decode, mask_record
from usam_core.masks.volumes import joined_planes

CASES = {
    "the truth's slices": (0.0, False),
    "10 % dropped": (0.1, False),
    "a pixel more or less": (0.0, True),
    "both, 20 % dropped": (0.2, True),
}


def sliced(volume: np.ndarray, dropped: float, moved: bool, seed: int) -> list[list[dict]]:
    """Return the masks of each plane, COCO annotations."""
    chance, planes = np.random.default_rng(seed), []
    for plane in volume:
        here = []
        for number in np.unique(plane[plane > 0]):
            mask = plane == number
            if chance.random() < dropped:
                continue
            change = chance.integers(3) if moved else 0
            if change == 1 and mask.sum() > 12:
                mask = ndimage.binary_erosion(mask)
            elif change == 2:
                mask = ndimage.binary_dilation(mask)
            if mask.any():
                here.append({**mask_record(mask, 1), "score": 1.0})
        planes.append(here)
    return planes


def matched(volume: np.ndarray, planes: list[list[dict]], numbers: list[list[int]]) -> int:
    """Return how many objects of the truth have a match."""
    found = np.zeros(volume.shape, np.int64)
    for z, (masks, some) in enumerate(zip(planes, numbers, strict=True)):
        for mask, number in zip(masks, some, strict=True):
            found[z][decode(mask["segmentation"])] = number + 1
    count = 0
    for number in np.unique(volume[volume > 0]):
        truth = volume == number
        inside = np.bincount(found[truth])
        inside[0] = 0
        best = int(inside.argmax())
        count += int(inside[best] >= 0.5 * (truth | (found == best)).sum() and inside[best] > 0)
    return count


def main() -> None:
    """Print one row a case: objects and matched share before and after, mean over the seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    volume = tifffile.imread(args.data / "lab" / "extra_3d" / "stardist_mask3d.tif")
    truth, rows = len(np.unique(volume[volume > 0])), {}
    for name, case in CASES.items():
        measured = []
        for seed in args.seeds:
            planes = sliced(volume, *case, seed)
            starts = np.cumsum([0, *map(len, planes)])
            apart = [
                list(range(start, start + len(p))) for start, p in zip(starts, planes, strict=False)
            ]
            joined = joined_planes(planes)
            after = len({number for plane in joined for number in plane})
            measured.append(
                (
                    *(starts[-1], matched(volume, planes, apart) / truth),
                    *(after, matched(volume, planes, joined) / truth),
                )
            )
        rows[name] = np.mean(measured, axis=0)
    columns = ["objects before", "matched before", "objects after", "matched after"]
    print(f"{date.today()}, {platform.machine()}, {truth} objects, seeds {args.seeds}\n")
    print(pd.DataFrame(rows, index=columns).T.round(2).to_string())


if __name__ == "__main__":
    main()
