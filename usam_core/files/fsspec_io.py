"""Opens images by their address: a local path, or a URL that fsspec reads.

Local paths never meet fsspec. What a URL holds is read into memory, never copied to the disk.
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
from usam_core.files.stamps import SETTLED_NS

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
"""S3's codes for keys that do not hold, whatever the object."""
_NEVER_HEALS = (errno.EINVAL, errno.ENAMETOOLONG)


def meaning(address: str | Path, error: Exception) -> Exception | None:
    """Return the exception that `error` stands for, or None if it is no failure of a store.

    Args:
        address: of what was asked for.
        error: what fsspec or a library below it raised.

    Returns:
        A `FileNotFoundError`, a `PermissionError`, a `TransientError`, a `StoreAccessError`
        where it says nothing about the file, else an `InputError`.
    """
    if isinstance(error, UsamError):
        return error
    # fsspec calls every failed look at a web page "not found"; the cause knows better.
    if isinstance(error, FileNotFoundError):
        cause = error.__cause__
        said = cause is not None and (_package(cause) == "aiohttp" or isinstance(cause, OSError))
        return meaning(address, cause) if said else FileNotFoundError(f"{address}: no such file")
    if _speaks_of_keys(error):
        return StoreAccessError(
            f"{address}: {error}; expected keys where the store's own library looks for them (for "
            "s3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws, for gs "
            "GOOGLE_APPLICATION_CREDENTIALS), or for a public store FSSPEC_S3='{\"anon\": true}'"
        )
    if isinstance(error, PermissionError):
        return PermissionError(errno.EACCES, f"not allowed ({error})")
    status = _status(error)
    if status in _GONE:
        return FileNotFoundError(f"{address}: no such file")
    if status in _REFUSED:
        return PermissionError(errno.EACCES, f"the server refuses it (HTTP {status})")
    if status is not None and 400 <= status < 500 and status not in _BUSY:
        return StoreAccessError(f"{address}: the server answers HTTP {status}; correct the address")
    if isinstance(error, OSError) and error.errno in _NEVER_HEALS:
        return InputError(f"{address}: {error}; correct the address or the store's settings")
    if isinstance(error, OSError) or _package(error) in _NETWORK:
        said = str(error) or type(error).__name__
        return TransientError(f"{address}: the store cannot be reached ({said}); try again later")
    return None


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _speaks_of_keys(error: Exception) -> bool:
    """Return whether credentials are missing, or no longer hold."""
    if "Credentials" in type(error).__name__:
        return True
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code in _KEYS_AT_FAULT


def _status(error: Exception) -> int | None:
    """Return the HTTP status that an exception carries, if it does."""
    found = getattr(error, "status", None) or getattr(error, "code", None)
    if isinstance(found, str) and found.isdigit():
        found = int(found)
    return found if isinstance(found, int) and _package(error) in _NETWORK else None


_T = TypeVar("_T")

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
EXTRA_OF = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http"}
"""The extra that opens what a protocol names."""

_WAITS = (0.5, 1.0, 2.0)
"""Seconds before a failed request is made again."""

_TAGS = ("ETag", "etag", "md5Hash", "crc32c", "generation", "Content-MD5", "Digest", "VersionId")
"""What file systems call a mark of the content."""
_TIMES = ("LastModified", "Last-Modified", "mtime", "modified", "updated", "created")


class FileInfo(NamedTuple):
    """What a file system tells of a file without its bytes.

    Attributes:
        bytes: the size; None where it is not told.
        mtime_ns: when it was changed last; 0 where that is not told.
        stamp: differs when the content does; "" where nothing told can be relied on.
    """

    bytes: int | None
    mtime_ns: int
    stamp: str


def is_url(address: str | Path) -> TypeGuard[str]:
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
        OSError: it is not there (`FileNotFoundError`) or must not be read (`PermissionError`).
        StoreAccessError: its protocol, package or keys are missing.
        TransientError: the network failed, several times.
    """
    if not is_url(address):
        return Path(address).read_bytes()
    system, path = file_system(address)
    return try_again(address, lambda: system.cat_file(path))


def info(address: str | Path) -> FileInfo:
    """Return what is known of a file without reading it; raises what `open_bytes` raises."""
    if not is_url(address):
        found = os.stat(address)
        stamp = f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"
        return FileInfo(found.st_size, found.st_mtime_ns, stamp)
    system, path = file_system(address)
    return info_of(try_again(address, lambda: system.info(path)))


def info_of(told: dict[str, Any]) -> FileInfo:
    """Read what a file system's `info` or listing says of one file."""
    size = told.get("size")
    when = next((told[key] for key in _TIMES if told.get(key)), None)
    mtime_ns = _nanoseconds(when)
    tags = {key: str(told[key]) for key in _TAGS if told.get(key)}
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
    # Only who has a URL pays for the import.
    import fsspec

    protocol = url.partition("://")[0]
    if protocol in EXTRA_OF and (missing := complaint(EXTRA_OF[protocol], url)):
        raise StoreAccessError(missing)
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise StoreAccessError(
            f"{url}: {protocol}:// needs a package that is not installed ({error}); install it"
        ) from error
    except ValueError as error:
        raise StoreAccessError(
            f"{url}: {error}; expected a local path or a URL that fsspec opens, such as s3://, "
            "gs:// or https://"
        ) from error


def try_again(address: str | Path, call: Callable[[], _T]) -> _T:
    """Return what a call to a file system gives, after some tries where the network fails.

    Raises:
        OSError: the file is not there, or must not be read.
        StoreAccessError: keys are missing or no longer hold.
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


def _nanoseconds(when: Any) -> int:
    if isinstance(when, str):
        try:
            when = parsedate_to_datetime(when)
        except ValueError:
            try:
                when = datetime.fromisoformat(when)
            except ValueError:
                return 0
    if isinstance(when, datetime):
        when = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    return int(when * 1e9) if isinstance(when, int | float) else 0
