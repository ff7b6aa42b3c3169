"""Packages that are not in every installation: which extra brings them, and what needs it."""

from importlib.util import find_spec

from usam_core.errors import MissingExtraError

EXTRAS = {
    "synthetic": ("diffusers", "transformers", "accelerate", "huggingface_hub"),
    "features": ("transformers", "huggingface_hub"),
    "web": ("icrawler", "requests", "urllib3", "bs4", "lxml", "protego"),
    "dask": ("dask", "distributed", "cryptography"),
    "s3": ("s3fs",),
    "gs": ("gcsfs",),
    "http": ("aiohttp",),
    "review": ("fastapi", "uvicorn"),
}
"""What each extra of pyproject.toml lets us import; `usam[all]` is all of them."""


def lacking(extra: str) -> list[str]:
    """Return the modules of an extra that cannot be imported here; imports none of them."""
    return [module for module in EXTRAS[extra] if not _is_here(module)]


def complaint(extra: str, wanted_by: str) -> str:
    """Return the sentence for a missing extra, or "" when all of it is here.

    Args:
        extra: one of `EXTRAS`.
        wanted_by: the setting, address or command, such as `training.source: web`.
    """
    modules = lacking(extra)
    if not modules:
        return ""
    verb = "is" if len(modules) == 1 else "are"
    return (
        f"{wanted_by} needs {', '.join(modules)}, which {verb} not installed here; "
        f"run: pip install 'usam[{extra}]'"
    )


def need(extra: str, wanted_by: str) -> None:
    """Check that an extra is installed, before a module that imports its packages is.

    Raises:
        MissingExtraError: it is not; arguments as for `complaint`.
    """
    text = complaint(extra, wanted_by)
    if text:
        raise MissingExtraError(text)


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # something in the way of importing it
        return False
