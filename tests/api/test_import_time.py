"""Imports are cheap: heavy libraries come when they are needed, and the package's names lazily."""

import subprocess
import sys

import pytest

HEAVY = ("diffusers", "pandas", "prefect", "pyarrow", "torch", "transformers", "zarr")
SLOW = (*HEAVY, "httpx", "numpy", "scipy", "yaml")
"""Not even these for a page of help; a command's own reads its options with pydantic."""

HELP = """
import sys
from flows.cli import main
sys.argv = ["usam", *{arguments}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def imported(code: str, names: tuple[str, ...]) -> list[str]:
    """Return which of the modules a new process has after it ran the code."""
    after = f"import sys\nprint('MODULES', *[n for n in {names!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{after}"], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1].split()[1:]


def test_importing_the_package_imports_nothing_heavy():
    assert imported("import usam_core as usam\nusam.__version__\ndir(usam)", SLOW) == []


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["export", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    slow = SLOW if len(arguments) > 1 else (*SLOW, "pydantic")
    assert imported(HELP.format(arguments=arguments), slow) == []
