"""The names of `usam_core`: sorted, typed, and each there when it is asked for."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import usam_core as usam

SOURCE = Path(usam.__file__)


def test_names_are_sorted_and_each_is_there():
    assert usam.__all__ == sorted(usam.__all__)
    for name in usam.__all__:
        assert getattr(usam, name) is not None
    assert set(usam.__all__) <= set(dir(usam))


def test_type_checkers_see_the_names_where_they_come_from():
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == usam._HOMES
    assert {*seen, "__version__"} == set(usam.__all__)
    assert (SOURCE.parent / "py.typed").is_file()


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        usam.predict  # noqa: B018


def test_the_version_is_that_of_the_distribution():
    code = "import usam_core; print(usam_core.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == version("usam")


def test_public_functions_and_methods_are_documented_and_typed():
    for owner in (usam.Head, usam.Project):
        for name, method in vars(owner).items():
            if name.startswith("_") or not callable(method):
                continue
            assert method.__doc__, name
            assert "return" in method.__annotations__, name
    for function in (usam.fit, usam.open):
        assert function.__doc__
        assert "return" in function.__annotations__
