"""Download a checkpoint: with progress, resumed after a break, verified before it is used."""

import os
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from usam_core.errors import InputError, TransientError
from usam_core.files.digest import file_digest
from usam_core.progress import SILENT, Progress
from usam_core.sam.registry import Checkpoint

if TYPE_CHECKING:
    import httpx


def cache_folder() -> Path:
    """Return where checkpoints are kept: $USAM_CACHE, or the user's cache folder."""
    chosen = os.environ.get("USAM_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "usam"


def download(checkpoint: Checkpoint, folder: Path, progress: Progress = SILENT) -> Path:
    """Return the checkpoint's file in `folder`, fetching what of it is not there yet.

    Bytes arrive in `<name>.part`; the file gets its name only when size and SHA-256 are right. A
    broken transfer leaves the part, and the next call goes on from there.

    Raises:
        TransientError: the network failed; call again.
        InputError: the server has no such file, or what it sent is not the checkpoint.
    """
    target = folder / checkpoint.file_name
    # The digest is looked at when the file is loaded, where it is needed anyway.
    if target.exists() and target.stat().st_size == checkpoint.bytes:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    if not part.exists() or part.stat().st_size != checkpoint.bytes:
        _fetch(checkpoint, part, progress)
    size = part.stat().st_size
    if size < checkpoint.bytes:
        raise TransientError(
            f"{checkpoint.url}: got {size} of {checkpoint.bytes} bytes; run again to go on"
        )
    digest = file_digest(part)
    if digest != checkpoint.sha256:
        part.unlink()
        raise InputError(
            f"{checkpoint.url}: expected {checkpoint.bytes} bytes with SHA-256 "
            f"{checkpoint.sha256}, got {size} bytes with {digest}; the download was dropped. "
            "Fetch the file by hand and name it under sam.checkpoint"
        )
    os.replace(part, target)
    return target


def _fetch(checkpoint: Checkpoint, part: Path, progress: Progress) -> None:
    # A fifth of a second, for which `usam --help` does not wait: it asks for `cache_folder` alone.
    import httpx

    have = part.stat().st_size if part.exists() else 0
    if have > checkpoint.bytes:
        part.unlink()
        have = 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with httpx.stream(
            "GET",
            checkpoint.url,
            headers=headers,
            timeout=httpx.Timeout(30.0, read=60.0),
            follow_redirects=True,
        ) as response:
            _check(response, checkpoint)
            # A server that ignores the range answers 200 and starts from the beginning.
            resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
            label = f"Downloading {checkpoint.file_name}"
            with (
                open(part, "ab" if resumed else "wb") as file,
                progress.bar(label, checkpoint.bytes) as bar,
            ):
                bar.advance(have if resumed else 0)
                for chunk in response.iter_raw():
                    file.write(chunk)
                    bar.advance(len(chunk))
    except httpx.TransportError as error:
        raise TransientError(
            f"{checkpoint.url}: the transfer broke ({error!r}); run again to go on, or fetch the "
            f"file elsewhere and name it under sam.checkpoint"
        ) from error


def _check(response: "httpx.Response", checkpoint: Checkpoint) -> None:
    if response.is_success:
        return
    message = f"{checkpoint.url}: the server answered {response.status_code}"
    if response.status_code == HTTPStatus.TOO_MANY_REQUESTS or response.is_server_error:
        raise TransientError(f"{message}; try again later")
    raise InputError(f"{message}; fetch the file by hand and name it under sam.checkpoint")
