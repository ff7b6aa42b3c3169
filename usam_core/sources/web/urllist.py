"""The user's own list of picture addresses: a CSV file with the columns class and url."""

from pathlib import Path

from usam_core.config.schema import ClassSpec
from usam_core.errors import InputError
from usam_core.files.spreadsheet import read_separated
from usam_core.files.text import normalize_name
from usam_core.sources.web.journal import Candidate


def read_url_list(path: Path, spec: ClassSpec) -> list[Candidate]:
    """Return the rows of one class, by its name or a synonym, in any case.

    Args:
        path: the file.
        spec: the class.

    Raises:
        InputError: the file is missing, unreadable, lacks a column or all rows, or a row of it
            holds no http address.
    """
    try:
        table = read_separated(path.read_bytes(), ("class", "url"))
    except FileNotFoundError as error:
        raise InputError(
            f"training.web.urls: {path}: no such file; expected a CSV file with the columns class "
            "and url. Correct the path, or take 'urls' out of training.web.engines"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"training.web.urls: {path} cannot be read as CSV: {error}; save it as CSV in UTF-8"
        ) from error
    columns = list(table.columns)
    missing = [name for name in ("class", "url") if name not in columns]
    if missing:
        raise InputError(
            f"training.web.urls: {path}, line 1: the columns are {columns}; {missing} are "
            "missing. Name the columns class and url (and, where known, licence and page_url)"
        )
    if table.empty:
        raise InputError(f"training.web.urls: {path} has no rows below its header; add some")
    names = {normalize_name(word) for word in (spec.name, *spec.synonyms)}
    found = []
    for line, row in zip(table.index, table.to_dict("records"), strict=True):
        url = row["url"]
        if not url.lower().startswith(("http://", "https://")):
            raise InputError(
                f"training.web.urls: {path}, line {line}: url is {url!r}; expected an address that "
                "begins with http:// or https://"
            )
        if normalize_name(row["class"]) in names:
            page, licence = row.get("page_url") or None, row.get("licence") or None
            found.append(Candidate("urls", path.name, url, page, None, licence))
    return found
