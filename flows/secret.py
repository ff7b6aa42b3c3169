"""The secret of a server of ours: made at its start, readable by its owner alone.

Clients send it as HTTP basic authentication, as Prefect's own do. A browser gets it from a file
that posts it to the server, so it stands in no address, no history and no list of processes.
"""

import base64
import html
import os
import secrets
from contextlib import suppress
from pathlib import Path

import httpx

from usam_core.errors import UserError
from usam_core.files.atomic import disk_errors

OPEN = "/usam/open"
"""Where the browser's file posts the secret to."""

_FILE = "auth"
_PAGE = "open.html"
_HTML = """\
<!doctype html>
<meta charset="utf-8">
<title>usam</title>
<form method="post" action="{action}">
<input type="hidden" name="secret" value="{secret}">
<button>Open the page of usam</button>
</form>
<script>document.forms[0].submit()</script>
"""


def private_folder(folder: Path) -> None:
    """Make a folder that nobody but its owner can enter, or close the one that is there.

    Raises:
        UserError: it is another user's, or a link that another user has put there, or no folder.
        StoreError: the disk does not let us make it.
    """
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        mine = folder.is_dir() and {folder.lstat().st_uid, folder.stat().st_uid} == {os.getuid()}
        if not mine:
            raise UserError(
                f"{folder}: expected a folder of this user's own, for the local server's password, "
                "database and logs; remove it, or name another cache folder in USAM_CACHE"
            )
        folder.chmod(0o700)


def make(folder: Path, page: str) -> str:
    """Write a new secret, and the file that opens `page` in a browser; return the secret."""
    secret = new_secret()
    _write(folder / _FILE, secret)
    form = _HTML.format(action=html.escape(page + OPEN), secret=html.escape(secret))
    _write(folder / _PAGE, form)
    return secret


def read(folder: Path) -> str | None:
    """Return the secret of the server that runs, or None if there is none."""
    try:
        return (folder / _FILE).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None


def forget(folder: Path) -> None:
    """Remove the secret and the file that opens the page."""
    for name in (_FILE, _PAGE):
        (folder / name).unlink(missing_ok=True)


def opener(folder: Path) -> Path:
    """Return the file that a person opens in a browser."""
    return folder / _PAGE


def encoded(secret: str) -> str:
    """Return the secret as basic authentication sends it, and as Prefect's pages keep it."""
    return base64.b64encode(secret.encode()).decode()


def signed(request: httpx.Request, folder: Path) -> httpx.Request:
    """Put the secret of the server that runs now on a request of httpx."""
    request.headers["Authorization"] = f"Basic {encoded(read(folder) or '')}"
    return request


def new_secret() -> str:
    """Return a name and a password that nobody can guess."""
    return f"usam:{secrets.token_urlsafe(32)}"


def _write(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)
    # A new file: what another program holds open, or a link in its place, gets nothing.
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as out:
        out.write(text)
