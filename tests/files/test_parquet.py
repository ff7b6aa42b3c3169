"""Reading Parquet: the same rows, from a file or bytes, and no thread of Arrow's left over."""

import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pytest

from usam_core.files.parquet import read_frame, read_table

TABLE = pd.DataFrame({"name": ["é", None, "c"], "count": [1, 2, 3], "share": [0.5, None, 1.5]})

THREADS = """
import os, sys
from pathlib import Path
from usam_core.files.parquet import read_frame
before = set(os.listdir("/proc/self/task"))
file = Path(sys.argv[1])
for source in [file, file.read_bytes()] * 3:
    read_frame(source)
print(len(set(os.listdir("/proc/self/task")) - before))
"""


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "table.parquet"
    TABLE.to_parquet(file, index=False, write_page_checksum=True)
    return file


def test_a_file_and_its_bytes_say_what_pandas_says(file):
    for source in (file, file.read_bytes()):
        pd.testing.assert_frame_equal(read_frame(source), pd.read_parquet(file))
        pd.testing.assert_frame_equal(
            read_frame(source, ["count"]), pd.read_parquet(file, columns=["count"])
        )


def test_a_flipped_byte_is_seen_where_pages_are_verified(file):
    content = bytearray(file.read_bytes())
    content[content.index(b"\xc3\xa9")] ^= 1
    with pytest.raises((OSError, pa.ArrowException)):
        read_table(bytes(content), verified=True)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_reading_starts_no_thread(tmp_path):
    file = tmp_path / "large.parquet"
    pd.DataFrame({f"c{n}": range(20_000) for n in range(8)}).to_parquet(file, row_group_size=1000)
    done = subprocess.run(
        [sys.executable, "-c", THREADS, str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"
