"""The runs that a report keeps, oldest first: what the next one is compared with."""

import json
import re
from pathlib import Path

from usam_core.atomic import write_json
from usam_core.paths import remove
from usam_core.report.runs import KEPT

RUNS = "runs"
HISTORY = "history.json"
_NAME = re.compile(r"[0-9a-f]{1,16}")


def run_folder(folder: Path, digest: str) -> Path:
    """Return where a run is kept.

    Args:
        folder: the report step's folder.
        digest: of what `annotate` made.
    """
    return folder / RUNS / digest[:16]


def previous_run(folder: Path, digest: str) -> Path | None:
    """Return the last kept run with other labels than those with `digest`, or None."""
    now = run_folder(folder, digest).name
    kept = [folder / RUNS / name for name in _names(folder) if name != now]
    return next((path for path in reversed(kept) if (path / KEPT).exists()), None)


def remember_run(folder: Path, digest: str, most: int) -> None:
    """Make a kept run the last one, and remove all but the last `most` before it."""
    now = run_folder(folder, digest).name
    earlier = [name for name in _names(folder) if name != now]
    names = [*earlier[-most:], now]
    write_json(folder / HISTORY, names)
    for path in (folder / RUNS).iterdir():
        if path.name not in names:
            remove(folder, path)


def _names(folder: Path) -> list[str]:
    try:
        found = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # the runs are there for comparison: without the list, it begins anew
    names = found if isinstance(found, list) else []
    return [name for name in names if isinstance(name, str) and _NAME.fullmatch(name)]
