"""CSV files that a spreadsheet may open: text stays text, whatever it begins with.

A cell such as `=HYPERLINK(...)` would be computed there; it gets an apostrophe in front, which
`read_csv` takes away again. Numbers stay numbers, negative ones too.
"""

import csv
import re
from pathlib import Path
from typing import Any

import pandas as pd

from usam_core.files.atomic import whole_file

_OBEYED = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""How a formula begins, apostrophes of ours before it."""


def as_text(value: Any) -> Any:
    """Return a cell that no spreadsheet computes; what is no text, or is a number, stays as it is.

    >>> as_text("=1+1"), as_text("-3.5"), as_text(-3.5)
    ("'=1+1", '-3.5', -3.5)
    """
    if not isinstance(value, str) or not _OBEYED.match(value) or _is_number(value):
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


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII) is not None
