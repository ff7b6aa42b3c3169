"""The tree of errors, which exit code each becomes, and the packages that may be missing.

    UsamError                  1  something failed that the user did not cause
    ├── UserError              2  the user can fix it: a value, a file, a missing step
    │   ├── ConfigError           project.yaml says something that cannot be meant
    │   ├── InputError            a file or folder that the user named is not usable
    │   ├── MissingExtraError     a setting needs packages that are not installed
    │   └── MissingStepError      an earlier step has to run first
    ├── StoreError             1  what we wrote before is damaged or of another kind
    ├── GateError              1  the run ended, but its results are not to be trusted
    ├── WorkerError            1  worker processes died over one piece of work, again and again
    └── TransientError         1  the world failed (network, hub); trying again may help

Every message names the file, the value that came, what was expected, and the fix. None repeats a
password or a key that stands in a URL: `without_secrets`.
"""

import json
import re
import shlex
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote, urlsplit

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


class UsamError(Exception):
    """Base of every error that usam raises on purpose; its message holds no secrets of URLs."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_secrets(a) if isinstance(a, str) else a for a in args))


class UserError(UsamError):
    """Something the user can put right."""

    exit_code = 2


class ConfigError(UserError):
    """`project.yaml` holds an unknown key, a wrong type, or a value that cannot be meant."""


class InputError(UserError):
    """A file or a folder that the user named is missing, empty or unreadable."""


class StoreAccessError(InputError):
    """A store of images cannot be asked at all, for want of keys, a package or a right address.

    It says nothing about any image: none may be left out for it.
    """


class MissingExtraError(UserError):
    """A setting or a command needs an extra of usam that is not installed."""


class MissingStepError(UserError):
    """A step was asked for before the step that it reads from."""


class StoreError(UsamError):
    """A store, a head or a record on disk is damaged or was written by something else."""


class GateError(UsamError):
    """A run did not pass the quality gate; its results are kept."""


class WorkerError(UsamError):
    """Worker processes died again and again over one piece of work."""


class TransientError(UsamError):
    """The world failed in a way that may heal: Prefect retries only these."""


EXTRAS = {
    "synthetic": ("diffusers", "transformers", "accelerate", "huggingface_hub"),
    "features": ("transformers", "huggingface_hub"),
    "edgetam": ("transformers", "huggingface_hub", "timm"),
    "web": ("icrawler", "requests", "urllib3", "bs4", "lxml", "protego"),
    "dask": ("dask", "distributed", "cryptography"),
    "s3": ("s3fs",),
    "gs": ("gcsfs",),
    "http": ("aiohttp",),
    "review": ("fastapi", "uvicorn"),
    "distill": ("onnx", "onnxscript", "onnxruntime"),
}
"""What each extra of pyproject.toml lets us import; `usam[all]` is all of them."""


def lacking(extra: str) -> list[str]:
    """Return the modules of an extra that cannot be imported here; imports none of them."""
    modules = []
    for module in EXTRAS[extra]:
        try:
            here = find_spec(module) is not None
        except (ImportError, ValueError):  # something in the way of importing it
            here = False
        modules += [] if here else [module]
    return modules


def complaint(extra: str, wanted_by: str) -> str:
    """Return the sentence for a missing extra, or "" when all of it is here.

    `wanted_by` is the setting, address or command, such as `training.source: web`.
    """
    modules = lacking(extra)
    if not modules:
        return ""
    verb = "is" if len(modules) == 1 else "are"
    return (
        f"{wanted_by} needs {', '.join(modules)}, which {verb} not installed here; "
        f"run: {install(extra)}"
    )


@cache
def install(extra: str) -> str:
    """Return the command that installs an extra here: from the checkout, where usam came from one.

    An index may not have usam, or something else of that name.
    """
    try:
        origin = json.loads(distribution("usam").read_text("direct_url.json") or "{}")
        url = urlsplit(origin.get("url", ""))
        is_checkout = url.scheme == "file" and origin["dir_info"].get("editable", False)
    except (PackageNotFoundError, ValueError, KeyError, AttributeError):
        is_checkout = False
    if not is_checkout:
        return f"pip install 'usam[{extra}]'"
    return f"pip install -e {shlex.quote(f'{unquote(url.path)}[{extra}]')}"


def need(extra: str, wanted_by: str) -> None:
    """Raise a `MissingExtraError` if an extra is missing, before a module imports its packages."""
    if text := complaint(extra, wanted_by):
        raise MissingExtraError(text)
