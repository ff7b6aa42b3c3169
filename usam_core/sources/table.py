"""CSV files that say which class a picture or an address belongs to."""

from pathlib import Path

import pandas as pd

from usam_core.config import ClassSpec, plain
from usam_core.errors import InputError
from usam_core.spreadsheet import as_written


def class_table(file: Path, column: str, spec: ClassSpec) -> pd.DataFrame:
    """Return a class's rows of a CSV file that has the columns `class` and `column`.

    A row counts when its class is the name or a synonym, in any case; repeated rows count once.
    All values are text, stripped; missing ones are empty.

    Raises:
        InputError: the file cannot be read, lacks a column, or has no row of the class.
    """
    try:
        table = pd.read_csv(
            file, dtype=str, keep_default_na=False, skipinitialspace=True, index_col=False
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read as CSV ({error}); expected the columns class and {column}"
        ) from error
    missing = [name for name in ("class", column) if name not in table]
    if missing:
        raise InputError(
            f"{file}: no column {missing[0]!r}; expected a first line with class and {column}, "
            f"got {list(table.columns)}"
        )
    table = table.apply(lambda values: values.str.strip().map(as_written))
    wanted = {plain(word) for word in (spec.name, *spec.synonyms)}
    rows = table[table["class"].map(plain).isin(wanted) & (table[column] != "")]
    if rows.empty:
        raise InputError(
            f"{file}: no row of the class {spec.name!r} (nor a synonym); expected rows "
            f"{spec.name},<{column}>, found the classes {sorted(set(table['class']))[:20]}"
        )
    return rows.drop_duplicates(column).reset_index(drop=True)
