"""The direction of imports: flows -> tasks -> core, and the core without Prefect."""

import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = "from importlinter.cli import lint_imports_command as m; m()"

IMPORT_CORE = """
import sys, pkgutil, importlib
sys.modules["prefect"] = None
{extra}
import usam_core
for module in pkgutil.walk_packages(usam_core.__path__, "usam_core."):
    importlib.import_module(module.name)
"""


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=200
    )


def test_the_import_contracts_hold():
    found = subprocess.run(
        [sys.executable, "-c", LINT], capture_output=True, text=True, cwd=ROOT, timeout=200
    )
    assert found.returncode == 0, found.stdout


def test_the_contracts_can_fail(tmp_path):
    for package in ("usam_core", "tasks", "flows"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    upwards = tmp_path / "usam_core" / "masks" / "paint.py"
    upwards.write_text(upwards.read_text("utf-8") + "import usam_core.steps.annotate\n", "utf-8")
    found = subprocess.run(
        [sys.executable, "-c", LINT], capture_output=True, text=True, cwd=tmp_path, timeout=200
    )
    assert found.returncode != 0
    assert "usam_core.masks is not allowed to import usam_core.steps" in found.stdout


@pytest.mark.slow
def test_every_module_of_the_core_imports_without_prefect():
    found = python(IMPORT_CORE.format(extra=""))
    assert found.returncode == 0, found.stderr


def test_the_test_above_can_fail():
    found = python(IMPORT_CORE.format(extra="import prefect"))
    assert found.returncode != 0
    assert "prefect" in found.stderr


@pytest.mark.parametrize("package", ["flows", "tasks"])
def test_no_module_is_named_like_a_package_that_prefect_could_load_instead(package):
    ours = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__", "__main__"}
    elsewhere = {m.name for m in pkgutil.iter_modules() if m.ispkg}
    assert not ours & (elsewhere - {"flows", "tasks"})


def test_help_does_not_wait_for_torch_or_prefect():
    code = (
        "import sys; sys.argv = ['usam', '--help']\n"
        "from flows.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'prefect' not in sys.modules"
    )
    found = python(code)
    assert found.returncode == 0, found.stderr
