"""Reads damaged images and containers as `embed` does, from listing to RGB; counts failures.

    python benchmarks/fuzz.py --out FOLDER [--images 10000] [--containers 2000] [--seed 1]

Each case is a small file of some kind (`fuzz_inputs.py`), damaged at random from the seed and the
case's number. Cases are read in a child process. A child that dies, or takes longer than 20 seconds
over a case, counts as a failure, is ended, and the next child goes on behind that case; the case's
files are kept in FOLDER/failed. What was done is remembered in FOLDER/cases.jsonl: run again, it
goes on from there. Prints the table as Markdown; exit 1 if anything failed. Linux.
"""

import argparse
import contextlib
import hashlib
import json
import platform
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_SECONDS = 20.0
_MIB = 2**20
_MAX_PLANES = 6
_ENDINGS = [
    ".jpg",
    ".png",
    ".gif",
    ".bmp",
    ".webp",
    ".avif",
    ".jp2",
    ".ppm",
    ".pgm",
    ".tif",
    ".zarr",
]


def main() -> int:
    options = _options()
    folder = Path(options.out).resolve()
    if options.child:
        _serve(folder, options.seed)
        return 0
    log = folder / "cases.jsonl"
    done = _read(log)
    wanted = [("image", n) for n in range(options.images)]
    wanted += [("container", n) for n in range(options.containers)]
    left = [case for case in wanted if (options.seed, *case) not in done]
    folder.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        for found in run(folder, left, options.seed):
            file.write(json.dumps({"seed": options.seed, **found}) + "\n")
            file.flush()
    done = _read(log)
    rows = [done[options.seed, *case] for case in wanted]
    print(table(rows, options.seed))
    return int(any(row["end"] in ("died", "hung", "error") for row in rows))


def run(folder: Path, cases: list[tuple[str, int]], seed: int) -> Iterator[dict[str, Any]]:
    """Yield what became of each case; children are started as they are needed."""
    left = list(cases)
    while left:
        command = [sys.executable, __file__, "--child", "--out", str(folder), "--seed", str(seed)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as child:
            if not child.stdout.readline():  # it has imported everything and read one of each kind
                raise RuntimeError(f"{folder}: a child cannot read the undamaged files")
            while left:
                kind, number = left.pop(0)
                began = time.monotonic()
                # A child that has died between two cases is found when it is read from.
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(f"{kind} {number}\n".encode())
                    child.stdin.flush()
                is_ready = select.select([child.stdout], [], [], _SECONDS)[0]
                line = child.stdout.readline() if is_ready else b""
                if line:
                    yield json.loads(line)
                    continue
                child.kill()
                end = "died" if is_ready else "hung"
                seconds = round(time.monotonic() - began, 2)
                lost = {"kind": kind, "number": number, "end": end, "seconds": seconds}
                _keep(folder, kind, number, seed)
                yield {**lost, "source": _source(folder, kind, number, seed).name, "mib": 0}
                break


def table(rows: list[dict[str, Any]], seed: int) -> str:
    """Return the rows by kind of file, as Markdown."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = row["source"]
        kind = Path(name).suffix[1:] if row["kind"] == "image" else _family(name)
        by_kind.setdefault(f"{row['kind']} {kind}", []).append(row)
    lines = [
        "| damaged | cases | read all the same | quarantined | died | hung | other errors | "
        "decoder apart died | slowest, s | peak over baseline, MiB |",
        "| --- | " + "--- | " * 8 + "--- |",
    ]
    for kind, some in [*sorted(by_kind.items()), ("**all**", rows)]:
        ends = Counter(row["end"] for row in some)
        lines.append(
            f"| {kind} | {len(some)} | {ends['read']} | {ends['quarantined']} | {ends['died']} | "
            f"{ends['hung']} | {ends['error']} | {sum(row.get('apart', 0) for row in some)} | "
            f"{max(row['seconds'] for row in some):.1f} | {max(row['mib'] for row in some):.0f} |"
        )
    return "\n".join([*lines, "", f"seed {seed}, Python {platform.python_version()}"])


def _family(name: str) -> str:
    if not name.endswith(".zarr"):
        return "OME-TIFF" if name.endswith(".ome.tif") else "TIFF"
    return "OME-Zarr" if name.startswith(("ome", "plate")) else f"Zarr {name[:2]}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of the cases; run again, it goes on")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--containers", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _read(log: Path) -> dict[tuple[int, str, int], dict[str, Any]]:
    if not log.exists():
        return {}
    rows = []
    for line in log.read_text(encoding="utf-8").splitlines():
        # The last line may be cut off.
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return {(row["seed"], row["kind"], row["number"]): row for row in rows}


def _rng(kind: str, number: int, seed: int) -> np.random.Generator:
    key = hashlib.sha256(f"{seed} {kind} {number}".encode()).digest()
    return np.random.default_rng(np.frombuffer(key, np.uint32))


def _source(folder: Path, kind: str, number: int, seed: int) -> Path:
    files = sorted((folder / "whole" / kind).iterdir())
    return files[_rng(kind, number, seed).integers(len(files))]


def _damage(folder: Path, kind: str, number: int, seed: int, place: Path) -> tuple[Path, str]:
    from fuzz_damage import damage

    source = _source(folder, kind, number, seed)
    rng = _rng(kind, number, seed + 1_000_000)
    place.mkdir(parents=True)
    return source, damage(source, place / source.name, rng)


def _keep(folder: Path, kind: str, number: int, seed: int) -> None:
    place = folder / "failed" / f"{kind}-{seed}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    _damage(folder, kind, number, seed, place)


def _serve(folder: Path, seed: int) -> None:
    """Read each case that is named on the standard input; write what became of it."""
    import logging
    import os
    import warnings

    from fuzz_inputs import write_containers, write_images

    logging.disable()
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for kind, write in (("image", write_images), ("container", write_containers)):
        if not (folder / "whole" / kind).exists():
            with tempfile.TemporaryDirectory(dir=folder) as place:
                write(Path(place) / kind)
                (folder / "whole").mkdir(exist_ok=True)
                os.rename(Path(place) / kind, folder / "whole" / kind)
        _read_all(folder / "whole" / kind, None)
    baseline = _peak_mib()
    print(json.dumps({"baseline_mib": baseline}), file=answers, flush=True)
    for line in sys.stdin:
        kind, number = line.split()
        with tempfile.TemporaryDirectory(dir=folder, prefix="case-") as place:
            target = Path(place) / "case"
            source, how = _damage(folder, kind, int(number), seed, target)
            _forget_peak()
            began = time.monotonic()
            tile = (None, None, 64)[int(number) % 3]
            found = _read_all(target, tile)
        found |= {"kind": kind, "number": int(number), "source": source.name, "how": how}
        found |= {"seconds": round(time.monotonic() - began, 2)}
        found["mib"] = round(max(0, _peak_mib() - baseline), 1)
        if found["end"] == "error":
            _keep(folder, kind, int(number), seed)
        print(json.dumps(found), file=answers, flush=True)


def _read_all(folder: Path, tile: int | None) -> dict[str, Any]:
    """List a folder and read what it holds, as the steps do."""
    from usam_core.config.images import ImagesConfig
    from usam_core.images.listing.row import large_size
    from usam_core.images.listing.scan import list_images
    from usam_core.images.read import UnusableImage, read_image
    from usam_core.images.ref import ImageRef, tile_digest, tiles_of
    from usam_core.images.stores.tiff import TiffStore

    config = ImagesConfig(path=str(folder), extensions=_ENDINGS, tile=tile)
    found: dict[str, Any] = {"end": "read", "apart": 0}

    def read(ref: str | ImageRef, sha256: str) -> None:
        try:
            rgb = read_image(ref, sha256=sha256).rgb
            assert (rgb.dtype, rgb.ndim, rgb.shape[2]) == (np.uint8, 3, 3), rgb.shape
        except UnusableImage as error:
            found.update(end="quarantined", code=error.quarantined.code)
            found["apart"] += "its decoder crashed" in str(error)

    try:
        rows = list(list_images(config, folder).itertuples())
        for row in rows[:: max(1, len(rows) // _MAX_PLANES)] if tile else rows[:50]:
            address = f"{folder}/{row.path}"
            if row.status != "ok":
                found.update(end="quarantined", code=row.code)
            elif row.planes:
                boxes = [one.box for one in tiles_of(large_size(row.planes), tile, 16)]
                for box in boxes[:: max(1, len(boxes) // 3)]:
                    ref = ImageRef.parse(address)
                    read(ImageRef(ref.file, ref.plane, box), tile_digest(row.sha256, box))
            else:
                read(address, row.sha256)
        # What Pillow refuses may come to the reader of TIFFs by another way.
        for path in folder.glob("*.tif") if found["end"] == "quarantined" else ():
            with contextlib.suppress(Exception), TiffStore(str(path)) as store:
                for plane in store.planes()[:_MAX_PLANES]:
                    if np.prod(store.size(plane), dtype=float) <= 1e8:
                        store.read(plane)
    except Exception as error:
        found.update(end="error", error=f"{type(error).__name__}: {error}"[:300])
    return found


def _processes() -> list[str]:
    from usam_core.images.stores import apart

    return ["self", *([str(apart._child.pid)] if apart._child else [])]


def _forget_peak() -> None:
    for process in _processes():
        with contextlib.suppress(OSError):
            Path(f"/proc/{process}/clear_refs").write_text("5")


def _peak_mib() -> float:
    """Return the most memory since it was last forgotten, of this process and of the one apart."""
    most = 0.0
    for process in _processes():
        with contextlib.suppress(OSError):
            said = Path(f"/proc/{process}/status").read_text()
            (line,) = (line for line in said.splitlines() if line.startswith("VmHWM"))
            most += int(line.split()[1]) / 1024
    return most


if __name__ == "__main__":
    sys.exit(main())
