"""The user's own list of picture addresses: a CSV file with the columns class and url."""

import csv
from pathlib import Path

from usam_core.config import ClassSpec, plain
from usam_core.errors import InputError
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
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError as error:
        raise InputError(
            f"training.web.urls: {path}: no such file; expected a CSV file with the columns class "
            "and url. Correct the path, or take 'urls' out of training.web.engines"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"training.web.urls: {path} cannot be read as CSV: {error}; save it as CSV in UTF-8"
        ) from error
    missing = [name for name in ("class", "url") if name not in columns]
    if missing:
        raise InputError(
            f"training.web.urls: {path}, line 1: the columns are {list(columns)}; {missing} are "
            "missing. Name the columns class and url (and, where known, licence and page_url)"
        )
    if not rows:
        raise InputError(f"training.web.urls: {path} has no rows below its header; add some")
    names = {plain(word) for word in (spec.name, *spec.synonyms)}
    found = []
    for line, row in rows:
        url = (row["url"] or "").strip()
        if not url.lower().startswith(("http://", "https://")):
            raise InputError(
                f"training.web.urls: {path}, line {line}: url is {url!r}; expected an address that "
                "begins with http:// or https://"
            )
        if plain(row["class"] or "") in names:
            page, licence = row.get("page_url") or None, row.get("licence") or None
            found.append(Candidate("urls", path.name, url, page, None, licence))
    return found
