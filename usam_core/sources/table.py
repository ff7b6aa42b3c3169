"""CSV files that say which class a picture or an address belongs to."""

from pathlib import Path

import pandas as pd

from usam_core.config.classes import ClassSpec
from usam_core.errors import InputError
from usam_core.files.csv_dialect import read_separated
from usam_core.files.spreadsheet import as_written
from usam_core.files.text import normalize_name


def class_table(file: Path, column: str, spec: ClassSpec) -> pd.DataFrame:
    """Return a class's rows of a CSV file that has the columns `class` and `column`.

    A row counts when its class is the name or a synonym, in any case; repeated rows count once.
    The rows are as `read_separated` gives them.

    Raises:
        InputError: the file cannot be read, lacks a column, or has no row of the class.
    """
    try:
        table = read_separated(file.read_bytes(), ("class", column))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read as CSV ({error}); expected UTF-8 with the columns class and "
            f"{column} between commas, semicolons or tabs"
        ) from error
    missing = [name for name in ("class", column) if name not in table]
    if missing:
        raise InputError(
            f"{file}: no column {missing[0]!r}; expected a first line with class and {column}, "
            f"got {list(table.columns)}"
        )
    table = table.map(as_written)
    wanted = {normalize_name(word) for word in (spec.name, *spec.synonyms)}
    rows = table[table["class"].map(normalize_name).isin(wanted) & (table[column] != "")]
    if rows.empty:
        raise InputError(
            f"{file}: no row of the class {spec.name!r} (nor a synonym); expected rows "
            f"{spec.name},<{column}>, found the classes {sorted(set(table['class']))[:20]}"
        )
    return rows.drop_duplicates(column)
