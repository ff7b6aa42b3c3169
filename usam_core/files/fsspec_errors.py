"""What an exception of a file system's library means: not there, not allowed, or try again.

Each library raises its own; none of them need be installed here.
"""

import errno
from pathlib import Path

from usam_core.errors import InputError, StoreAccessError, TransientError, UsamError

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
        if isinstance(cause, Exception) and (
            _package(cause) == "aiohttp" or isinstance(cause, OSError)
        ):
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
