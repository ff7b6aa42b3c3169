"""Opens files by their address: a local path, or a URL that fsspec reads.

Local paths never meet fsspec. A URL's bytes are read into memory, never copied to the disk.
Settings and keys of a file system come from where its own library looks for them: the environment,
its files, and fsspec's configuration (`FSSPEC_S3='{"anon": true}'`); none stand in a project file.
"""

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, TypeVar

from usam_core.errors import InputError, StoreAccessError, TransientError, UsamError, complaint
from usam_core.files.digest import SETTLED_NS

_T = TypeVar("_T")

EXTRA_OF = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http"}
"""The extra that opens each protocol."""
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_NETWORK = ("aiohttp", "botocore", "aiobotocore", "gcsfs", "google", "requests", "urllib3", "s3fs")
"""Packages whose exceptions speak of the network or of the store behind it."""
_GONE = (404, 410)
_REFUSED = (401, 403, 407)
_BUSY = (408, 425, 429)
_KEYS_AT_FAULT = (
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
)
"""S3's codes for keys that are invalid for any object."""
_NEVER_HEALS = (errno.EINVAL, errno.ENAMETOOLONG)
_WAITS = (0.5, 1.0, 2.0)
"""Seconds before a failed request is made again."""
_TAGS = ("ETag", "etag", "md5Hash", "crc32c", "generation", "Content-MD5", "Digest", "VersionId")
"""File systems' names for a mark of the content."""
_TIMES = ("LastModified", "Last-Modified", "mtime", "modified", "updated", "created")


class FileInfo(NamedTuple):
    """A file's metadata.

    Attributes:
        bytes: the size; None if unknown.
        mtime_ns: time of the last change; 0 if unknown.
        stamp: differs when the content does; "" where nothing can be relied on.
    """

    bytes: int | None
    mtime_ns: int
    stamp: str


def is_url(address: object) -> TypeGuard[str]:
    """Return whether an address is a URL rather than a local path.

    >>> is_url("s3://bucket/plates"), is_url("plates/a.png")
    (True, False)
    """
    return isinstance(address, str) and _URL.match(address) is not None


def join(root: str, name: str) -> str:
    """Return the address of `name`, which counts from `root`."""
    return f"{root.rstrip('/')}/{name}" if is_url(root) else os.path.join(root, name)


def open_bytes(address: str | Path) -> bytes:
    """Return all bytes of a file.

    Raises:
        OSError: it is missing (`FileNotFoundError`) or must not be read (`PermissionError`).
        StoreAccessError: its protocol, package or keys are missing.
        TransientError: the network failed, several times.
    """
    if not is_url(address):
        return Path(address).read_bytes()
    system, path = file_system(address)
    return try_again(address, lambda: bytes(system.cat_file(path)))


def info(address: str | Path) -> FileInfo:
    """Return a file's metadata without reading it; raises what `open_bytes` raises."""
    if not is_url(address):
        status = os.stat(address)
        stamp = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"
        return FileInfo(status.st_size, status.st_mtime_ns, stamp)
    system, path = file_system(address)
    return info_of(try_again(address, lambda: system.info(path)))


def info_of(entry: dict[str, Any]) -> FileInfo:
    """Read an entry of a file system's `info` or listing."""
    size = entry.get("size")
    when = next((entry[key] for key in _TIMES if entry.get(key)), None)
    mtime_ns = _nanoseconds(when)
    tags = {key: str(entry[key]) for key in _TAGS if entry.get(key)}
    # A file changed this moment may change again without its time moving.
    if not tags and not 0 < mtime_ns < time.time_ns() - SETTLED_NS:
        return FileInfo(size, mtime_ns, "")
    marks = json.dumps([size, str(when), tags], sort_keys=True)
    return FileInfo(size, mtime_ns, hashlib.sha256(marks.encode()).hexdigest()[:32])


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path that the URL has there.

    Raises:
        StoreAccessError: there is none of this name, or its package is not installed.
    """
    import fsspec  # takes its time; few have a URL

    protocol = url.partition("://")[0]
    if protocol in EXTRA_OF and (missing := complaint(EXTRA_OF[protocol], url)):
        raise StoreAccessError(missing)
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise StoreAccessError(
            f"{url}: {protocol}:// needs a package that is not installed ({error}); install it"
        ) from error
    except ValueError as error:
        raise StoreAccessError(
            f"{url}: {error}; expected a local path or a URL that fsspec opens, such as s3://, "
            "gs:// or https://"
        ) from error
    return system, path


def try_again(address: str | Path, call: Callable[[], _T]) -> _T:
    """Call a file system, again after a while where the network fails.

    Raises:
        OSError: the file is missing, or must not be read.
        StoreAccessError: keys are missing or no longer valid.
        TransientError: the network failed each time.
    """
    for wait in (*_WAITS, None):
        try:
            return call()
        except Exception as error:
            failure = meaning(address, error)
            if failure is None:
                raise
            if wait is None or not isinstance(failure, TransientError):
                raise failure from error
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def meaning(address: str | Path, error: BaseException) -> Exception | None:
    """Translate what fsspec or a library below it raised; None if it is no failure of a store.

    Returns:
        A `FileNotFoundError`, a `PermissionError`, a `TransientError`, a `StoreAccessError` where
        it says nothing about the file, else an `InputError`.
    """
    if isinstance(error, UsamError):
        return error
    # fsspec calls every failed look at a web page "not found"; the cause knows better.
    if isinstance(error, FileNotFoundError):
        cause = error.__cause__
        if cause is not None and (_package(cause) == "aiohttp" or isinstance(cause, OSError)):
            return meaning(address, cause)
        return FileNotFoundError(f"{address}: no such file")
    if _speaks_of_keys(error):
        return StoreAccessError(
            f"{address}: {error}; expected keys where the store's own library looks for them (for "
            "s3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws, for gs "
            "GOOGLE_APPLICATION_CREDENTIALS), or for a public store FSSPEC_S3='{\"anon\": true}'"
        )
    if isinstance(error, PermissionError):
        return PermissionError(errno.EACCES, f"not allowed ({error})")
    status = _http_status(error)
    if status in _GONE:
        return FileNotFoundError(f"{address}: no such file")
    if status in _REFUSED:
        return PermissionError(errno.EACCES, f"the server refuses it (HTTP {status})")
    if status is not None and 400 <= status < 500 and status not in _BUSY:
        return StoreAccessError(f"{address}: the server answers HTTP {status}; correct the address")
    if isinstance(error, OSError) and error.errno in _NEVER_HEALS:
        return InputError(f"{address}: {error}; correct the address or the store's settings")
    if isinstance(error, OSError) or _package(error) in _NETWORK:
        message = str(error) or type(error).__name__
        return TransientError(
            f"{address}: the store cannot be reached ({message}); try again later"
        )
    return None


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _speaks_of_keys(error: BaseException) -> bool:
    if "Credentials" in type(error).__name__:
        return True
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code in _KEYS_AT_FAULT


def _http_status(error: BaseException) -> int | None:
    status = getattr(error, "status", None) or getattr(error, "code", None)
    if isinstance(status, str) and status.isdigit():
        status = int(status)
    return status if isinstance(status, int) and _package(error) in _NETWORK else None


def _nanoseconds(when: Any) -> int:
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        if isinstance(when, str):
            try:
                when = parse(when)
            except ValueError:
                continue
    if isinstance(when, datetime):
        when = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    return int(when * 1e9) if isinstance(when, int | float) else 0
