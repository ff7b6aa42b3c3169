"""Where a run may write, and how it speaks, before anything of the project is read."""

import os
import tempfile
from pathlib import Path

from pydantic import ValidationError

from usam_core.cli import terminal
from usam_core.errors import UserError
from usam_core.sam.download import cache_folder

WORDS = 300
"""So many letters of another program's message are shown."""


def own_folder() -> Path:
    """Return where our own Prefect homes are: in usam's cache, or in a temporary folder."""
    folder = cache_folder() / "prefect"
    return folder if writable(folder) else temporary() / "prefect"


def temporary() -> Path:
    """Return this user's own folder in the system's temporary one.

    Raises:
        UserError: there is no place at all that can be written.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"usam-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
            # Another user may have made it to read along: never that one.
            folder = Path(tempfile.mkdtemp(prefix="usam-"))
    except OSError as error:
        raise UserError(
            f"no folder can be written, neither {cache_folder()} nor a temporary one "
            f"({words(error)}); free space, or name a folder in USAM_CACHE and in TMPDIR"
        ) from error
    return folder


def writable(folder: Path) -> bool:
    """Say whether a file can be written in a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"usam")
    except OSError:
        return False
    return True


def words(error: BaseException) -> str:
    """Return what an error says, in one line."""
    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= WORDS else f"{text[:WORDS]} ..."


def say(text: str) -> None:
    """Print a line on stderr, where it disturbs no `--json`."""
    terminal.errors.print(f"usam: {text}", markup=False, highlight=False, soft_wrap=True)
