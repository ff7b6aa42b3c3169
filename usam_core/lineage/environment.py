"""What code made a result: versions of packages, and the commit of a checkout."""

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "usam",
    "torch",
    "torchvision",
    "segment-anything",
    "zarr",
    "numpy",
    "pandas",
    "pycocotools",
    "pillow",
    "prefect",
    "diffusers",
    "transformers",
    "icrawler",
)

_SECONDS_FOR_GIT = 10


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@functools.cache
def checkout() -> dict[str, Any] | None:
    """Return the `commit` that this code was run from and whether files were `changed` since.

    None where the code is installed and not a checkout, or git is not there. Asked once a
    process: a later commit is not the code that was loaded.
    """
    root = Path(__file__).parents[2]
    # An installed package may lie in a virtual environment within somebody else's checkout.
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    if not commit or changed is None:
        return None
    return {"commit": commit, "changed": bool(changed)}


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            text=True,
            timeout=_SECONDS_FOR_GIT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
