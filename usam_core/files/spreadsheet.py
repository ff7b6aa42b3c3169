"""CSV files that a spreadsheet may open, or has saved: text stays text, whatever it begins with.

A cell such as `=HYPERLINK(...)` would be computed there; it gets an apostrophe in front, which
`read_csv` takes away again. Numbers stay numbers, negative ones too.
"""

import csv
import io
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from usam_core.files.atomic import whole_file
from usam_core.files.text import normalize_name

_OBEYED = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""How a formula begins, apostrophes of ours before it."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SEPARATORS = (",", ";", "\t")


def as_text(value: Any) -> Any:
    """Return a cell that no spreadsheet computes; what is no text, or is a number, stays as it is.

    >>> as_text("=1+1"), as_text("-3.5"), as_text(-3.5)
    ("'=1+1", '-3.5', -3.5)
    """
    if not isinstance(value, str) or not _OBEYED.match(value) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def as_written(text: str) -> str:
    """Return the text that `as_text` was given."""
    return text[1:] if text.startswith("'") and _OBEYED.match(text) else text


def write_csv(path: Path, table: pd.DataFrame) -> Path:
    """Write a table, whole or not at all, without its index."""
    with whole_file(path) as temporary:
        table.map(as_text).to_csv(temporary, index=False, quoting=csv.QUOTE_NONNUMERIC)
    return path


def read_csv(path: Path, text: str = "class") -> pd.DataFrame:
    """Return a table that `write_csv` wrote, of numbers but for one column of text."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers = table.drop(columns=text).apply(pd.to_numeric, errors="coerce")
    return numbers.assign(**{text: table[text].map(as_written)})[list(table.columns)]


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
