"""Files that claim more than they hold, and a script that reads them within little memory."""

import struct
import zlib
from pathlib import Path

import tifffile

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MAX_MIB = 400
"""Over what the process took before; 1 GB is what is promised."""
READ_ALL = f"""
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, {str(BENCHMARKS)!r})
import fuzz
from usam_core.images.stores import factory, zarr_store, tiff
def status(word):
    said = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in said if line.startswith(word)) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + 2**31, -1))
for folder in sorted(Path(sys.argv[1]).iterdir()):
    fuzz._forget_peak()
    before = fuzz._peak_mib()
    try:
        found = fuzz._read_all(folder, None)
    except BaseException as error:
        found = dict(end="error", error=repr(error))
    print(json.dumps(dict(found, name=folder.name, mib=fuzz._peak_mib() - before)), flush=True)
"""


def tags(path: Path, number: int = 0, **changed: int) -> None:
    """Change the values of tags of one page."""
    with tifffile.TiffFile(path, mode="r+") as file:
        for name, value in changed.items():
            file.pages[number].tags[name].overwrite(value)


def png(width: int, height: int, bits: int = 8) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    head = struct.pack(">2I5B", width, height, bits, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
