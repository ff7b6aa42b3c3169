"""JSON files that say of themselves whether they are as they were written."""

import json
from pathlib import Path
from typing import Any

from usam_core.files.atomic import json_text, write_json
from usam_core.files.digest import value_digest

_SEAL = "seal"


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a mapping as JSON, whole or not at all, with its own digest as the last key."""
    write_json(path, sealed(value))


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping with its digest as the last key."""
    as_read = json.loads(json_text(value))
    return {**as_read, _SEAL: value_digest(as_read)}


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what `write_sealed` wrote; a file without a seal, of an earlier usam, is believed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not as it was written.
    """
    text = path.read_text(encoding="utf-8")
    value = json.loads(text)
    if isinstance(value, dict) and _SEAL in value and text != json_text(value):
        raise ValueError("not as it was written")  # the same value in other letters
    return unsealed(value)


def unsealed(value: Any) -> dict[str, Any]:
    """Return what `sealed` was given.

    Raises:
        ValueError: it is another.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping, got {type(value).__name__}")
    seal = value.pop(_SEAL, None)
    if seal is not None and seal != value_digest(value):
        raise ValueError("not as it was written")
    return value
