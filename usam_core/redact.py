"""Passwords and keys that stand in URLs: no message, log or document repeats them."""

import re
from typing import Any

_STARS = "***"
_PASSWORD = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)"
    # What stands before the @ of a host; a password may hold a slash where there is no port.
    r"(?:[^\s/?#@'\"]*|[^\s/:@'\"]*:(?!\d+(?:[/?#]|$))[^\s@'\"]*)@(?:[^\s/?#'\"]*@)*",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"(?P<name>[?&;#](?:[^\s=&;#'\"]*(?:token|signature|secret|passw|credential|auth|"
    r"api-?_?key|access-?_?key|session)[^\s=&;#'\"]*|sig|key|pwd|jwt)=)[^\s&;#'\"]+",
    re.IGNORECASE,
)
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?'\"]*\?)[^\s'\"]+", re.IGNORECASE)


def without_secrets(text: str, *, queries: bool = False) -> str:
    """Return text with the passwords and keys in its URLs as stars.

    Args:
        text: any.
        queries: hide everything behind a `?`: where none is allowed, whatever it is called may be
            a key.

    >>> without_secrets("http://me:secret@host/a.png?w=3&X-Amz-Signature=1f")
    'http://***@host/a.png?w=3&X-Amz-Signature=***'
    """
    text = _KEY.sub(rf"\g<name>{_STARS}", _PASSWORD.sub(rf"\g<scheme>{_STARS}@", text))
    return _QUERY.sub(rf"\g<1>{_STARS}", text) if queries else text


def all_without_secrets(value: Any) -> Any:
    """Return a JSON-like value, each text in it without secrets."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {name: all_without_secrets(inner) for name, inner in value.items()}
    return [all_without_secrets(v) for v in value] if isinstance(value, list | tuple) else value
