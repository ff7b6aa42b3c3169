"""The runs that a report keeps, oldest first: what the next one is compared with."""

import json
import re
from pathlib import Path

from usam_core.files.atomic import write_json
from usam_core.files.digest import read_sealed
from usam_core.files.paths import remove
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


def kept_runs(folder: Path) -> list[Path]:
    """Return the folders of all runs that are kept."""
    return sorted(path for path in (folder / RUNS).glob("*") if path.is_dir())


def names_all(folder: Path) -> bool:
    """Return whether the history names exactly the runs that are kept."""
    return sorted(_names(folder)) == [path.name for path in kept_runs(folder)]


def rewrite_history(folder: Path) -> None:
    """Name the runs that are kept, by when they finished."""
    finished = {path.name: read_sealed(path / KEPT)["finished"] for path in kept_runs(folder)}
    if (folder / HISTORY).is_dir():
        remove(folder, folder / HISTORY)  # a file cannot be renamed over a folder
    write_json(folder / HISTORY, sorted(finished, key=finished.__getitem__))


def _names(folder: Path) -> list[str]:
    try:
        found = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # the runs are there for comparison: without the list, it begins anew
    names = found if isinstance(found, list) else []
    return [name for name in names if isinstance(name, str) and _NAME.fullmatch(name)]
