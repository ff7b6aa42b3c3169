"""Lists a tree of many images twice, each time in a process of its own: memory and time.

    python benchmarks/listing.py --files 1000000 [--flat] [--out FOLDER]

The files are hard links to a few small pictures: what is measured is the listing, not the disk.
The first listing reads and hashes every file, the second only asks for sizes and times. Prints
JSON; `after_import_mib` is what Python and its libraries take before anything is listed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

_PER_FOLDER = 1000
_LINKS = 30_000  # of one file; file systems allow some 60,000


def main() -> None:
    options = _options()
    if options.child:
        _list(Path(options.out))
        return
    with tempfile.TemporaryDirectory(dir=options.out, prefix="usam-listing-") as place:
        root = Path(place)
        _make(root / "images", options.files, options.flat)
        found = {"files": options.files, "flat": options.flat, "python": sys.version.split()[0]}
        for name in ("cold", "warm"):
            command = [sys.executable, __file__, "--child", "--out", place]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name] = json.loads(said)
        found["cache_mib"] = round((root / "cache.parquet").stat().st_size / 2**20, 1)
    print(json.dumps(found, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--flat", action="store_true", help="all in one folder")
    parser.add_argument("--out", help="where the temporary tree goes")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _make(root: Path, files: int, flat: bool) -> None:
    root.mkdir()
    for number in range(files):
        if number % _LINKS == 0:
            seed = root.parent / f"seed-{number}.png"
            Image.new("RGB", (4, 4), (number // _LINKS % 256, 0, 0)).save(seed)
        folder = root if flat else root / f"plate_{number // _PER_FOLDER:05d}"
        if number % _PER_FOLDER == 0:
            folder.mkdir(exist_ok=True)
        os.link(seed, folder / f"well_{number:08d}.png")


def _list(place: Path) -> None:
    from usam_core.config.images import ImagesConfig
    from usam_core.images.listing.scan import list_images

    before = _peak_mib()
    began, processor = time.perf_counter(), time.process_time()
    root = place / "images"
    listing = list_images(ImagesConfig(path=root), root, place / "cache.parquet")
    seconds = time.perf_counter() - began
    print(
        json.dumps(
            {
                "listed": len(listing),
                "ok": int((listing["status"] == "ok").sum()),
                "seconds": round(seconds, 1),
                "processor_seconds": round(time.process_time() - processor, 1),
                "files_a_second": round(len(listing) / seconds),
                "after_import_mib": before,
                "peak_mib": _peak_mib(),
            }
        )
    )


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
