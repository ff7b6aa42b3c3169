"""Tables as spreadsheets save them: CSV in UTF-8 between commas, semicolons or tabs."""

import io
import warnings
from collections.abc import Collection

import pandas as pd

from usam_core.files.text import normalize_name

_SEPARATORS = (",", ";", "\t")


def read_separated(content: bytes, wanted: Collection[str]) -> pd.DataFrame:
    """Return a table's rows that are not empty: text, stripped; "" where nothing stands.

    Args:
        content: the file's bytes; a byte order mark may stand before them.
        wanted: columns that are looked for, in small letters: the separator is the one with which
            the first line names most of them.

    Returns:
        Columns are called as in the first line, stripped, in small letters; the index is the line
        in the file where no value runs over several.

    Raises:
        ValueError: it is no text in UTF-8, no table, or has two columns of one name.
    """
    text = content.decode("utf-8-sig")
    reading = {"dtype": str, "keep_default_na": False, "index_col": False}

    def named(separator: str) -> int:
        header = pd.read_csv(io.StringIO(text), sep=separator, nrows=0, **reading)
        return len(set(map(normalize_name, header.columns)) & set(wanted))

    separator = max(_SEPARATORS, key=named)
    reading |= {"skipinitialspace": True, "skip_blank_lines": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            table = pd.read_csv(io.StringIO(text), sep=separator, **reading)
        except pd.errors.ParserWarning as error:
            raise ValueError("a row has more values than there are columns") from error
    table = table.rename(columns=normalize_name)
    if not table.columns.is_unique:
        raise ValueError(f"two columns have one name: {list(table.columns)}")
    table = table.fillna("").apply(lambda values: values.str.strip())
    table.index += 2  # behind the header
    return table[(table != "").any(axis=1)]
