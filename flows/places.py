"""Where a run may write, and how it speaks, before anything of the project is read."""

import io
import os
import sys
import tempfile
from pathlib import Path

from usam_core.cli import terminal
from usam_core.errors import UserError
from usam_core.sam.load import cache_folder

WORDS = 300
"""So many letters of another program's message are shown."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def settle() -> None:
    """Make this process's environment one that libraries can start in; before any of them is used.

    A folder of this user's in the system's temporary one takes the place of a home folder that is
    not known, and of usam's cache folder that cannot be made. This machine itself is never asked
    through a proxy.
    """
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        if stream is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's letters do not have is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    try:
        Path.home()
    except RuntimeError:  # a user without a name, as containers have them
        os.environ["HOME"] = str(temporary())
    if not cache_folder().is_dir() and not writable(cache_folder()):
        os.environ["USAM_CACHE"] = str(temporary())
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    names += [name for name in _LOOPBACK if name not in names]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


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
    from pydantic import ValidationError

    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= WORDS else f"{text[:WORDS]} ..."


def say(text: str) -> None:
    """Print a line on stderr, where it disturbs no `--json`."""
    terminal.errors.print(f"usam: {text}", markup=False, highlight=False, soft_wrap=True)
