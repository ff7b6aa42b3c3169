"""Parquet files, read by the calling thread alone.

A thread of Arrow's that outlives a read aborts the process at its exit, when all work is done
(apache/arrow#34314); it takes a busy machine, and one exit in fifty.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def open_parquet(source: Path | bytes, *, verified: bool = False) -> pq.ParquetFile:
    """Open a file, or the bytes of one; `iter_batches` wants `use_threads=False`.

    With `verified` each page is compared with its checksum, where it was written with one.
    """
    file = pa.BufferReader(source) if isinstance(source, bytes) else source
    return pq.ParquetFile(file, page_checksum_verification=verified)


def read_table(
    source: Path | bytes, columns: Sequence[str] | None = None, *, verified: bool = False
) -> pa.Table:
    """Read a file, or the bytes of one, as `open_parquet` opens it.

    Raises:
        OSError, pa.ArrowException: it cannot be read, or is damaged.
    """
    # Of bytes, Arrow asks no thread for parts.
    content = source if isinstance(source, bytes) else source.read_bytes()
    with open_parquet(content, verified=verified) as file:
        return file.read(columns, use_threads=False)


def read_frame(
    source: Path | bytes, columns: Sequence[str] | None = None, *, verified: bool = False
) -> pd.DataFrame:
    """Read a file as `read_table` does, as a pandas table."""
    return read_table(source, columns, verified=verified).to_pandas(use_threads=False)
